"""Training: recipes, batches, the objective, the loop."""

from edittools.train.config import Recipe, load_recipe, recipe_names

__all__ = ["Recipe", "load_recipe", "recipe_names"]
