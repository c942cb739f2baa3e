"""Training: recipes, the objective, the loop. `train.train(train.load_recipe("demo"), data, "run/")`."""

from typing import TYPE_CHECKING, Any

from edittools.train.config import Recipe, load_recipe, recipe_names

if TYPE_CHECKING:
    from edittools.train.data import Example, Examples
    from edittools.train.loop import Outcome, StepReport, train

__all__ = ["Example", "Examples", "Outcome", "Recipe", "StepReport", "load_recipe", "recipe_names", "train"]


def __getattr__(name: str) -> Any:
    # torch is imported when training starts, not when a recipe is read
    if name in ("Example", "Examples"):
        from edittools.train import data

        return getattr(data, name)
    if name in ("Outcome", "StepReport", "train"):
        from edittools.train import loop

        return getattr(loop, name)
    raise AttributeError(name)
