"""What a recipe leaves to the model that it starts from, settled before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edittools.errors import EditError
from edittools.models import run_folder
from edittools.models.diffusers_pipeline import locate_pipeline, sampler_shift
from edittools.models.lora import go_on
from edittools.models.systems import most_references
from edittools.train.config import Recipe
from edittools.train.rows import Rows


def settle(recipe: Recipe) -> Recipe:
    """The recipe with what `model.weights` says: a run of adapters is gone on from, `shift = 0` is its sampler's shift.

    Raises EditError, UsageError.
    """
    folder = Path(str(recipe.model.get("weights", "")))
    if run_folder.recognises(folder):
        of_run, model = run_folder.finished_recipe(folder)
        if model.get("lora"):
            recipe = dataclasses.replace(recipe, model=_continued(recipe, folder, of_run, model))
            folder = Path(recipe.model["weights"])
    if recipe.shift == 0 and not recipe.shift_by_tokens:
        shift, line = sampler_shift(folder if folder.is_dir() else locate_pipeline(str(folder)))
        recipe = dataclasses.replace(recipe, shift=shift, shift_by_tokens=line)
    return recipe


def _continued(recipe: Recipe, folder: Path, of_run: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Settings of the model where its weights are a run of adapters: its base, and adapters that begin as its own."""
    if "lora" not in recipe.model:
        raise EditError(
            f"`model.weights`: {folder} holds adapters, and this recipe trains whole weights",
            hint=f"--set model.weights={model['weights']}, or the recipe `lora`",
        )
    base = run_folder.base_weights(folder, model)
    return {**recipe.model, "weights": base, "lora": go_on(model["lora"], folder)}


def check_references(recipe: Recipe, rows: Rows) -> None:
    """Raises EditError where rows have more source pictures than the system takes."""
    most = most_references(recipe.system, recipe.model)
    if most is None:
        return
    many = [k for k in range(len(rows)) if len(rows[k].sources) > most]
    if many:
        raise EditError(
            f"{len(many)} of {len(rows)} rows have more than {most} source picture, and the model takes no more: row "
            f"{rows[many[0]].id} has {len(rows[many[0]].sources)}",
            hint="leave these rows out, or train a model of several references (FireRed, Qwen-Image-Edit-Plus)",
        )
