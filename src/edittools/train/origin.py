"""Settings that a recipe takes from the model it starts from, settled before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from edittools.errors import EditError
from edittools.nets import from_scratch, most_references, run_folder, sampler_shift
from edittools.nets.lora import go_on
from edittools.train.config import Recipe
from edittools.train.rows import Rows, image_sizes
from edittools.vlm.processing import OF_RUN
from edittools.weights.diffusers import locate_pipeline


def settle(recipe: Recipe) -> Recipe:
    """The recipe with what `model.weights` says: a run of adapters is gone on from, `shift = 0` is its sampler's shift,
    the architecture "auto" of a run from scratch is that with the run's settings.

    Raises EditError, UsageError.
    """
    if is_run(recipe):
        folder = Path(recipe.model["weights"])
        of_run, model = run_folder.finished_recipe(folder)
        if model.get("lora") and not (folder / OF_RUN / "config.json").is_file():  # there adapters are in the weights
            recipe = dataclasses.replace(recipe, model=_continued(recipe, folder, of_run, model))
    if is_run(recipe):
        of_run, model = run_folder.finished_recipe(Path(recipe.model["weights"]))
        if recipe.system == "auto" and from_scratch(of_run["system"]):
            recipe = dataclasses.replace(recipe, system=of_run["system"], model={**model, **recipe.model})
        if from_scratch(recipe.system) and recipe.shift == 0 and not recipe.shift_by_tokens:
            recipe = dataclasses.replace(recipe, shift=of_run["shift"], shift_by_tokens=of_run["shift_by_tokens"])
    if recipe.shift == 0 and not recipe.shift_by_tokens:
        folder = Path(str(recipe.model.get("weights", "")))
        folder = folder if folder.is_dir() else locate_pipeline(str(folder))
        shift, line = sampler_shift(recipe.system, recipe.model, folder)
        recipe = dataclasses.replace(recipe, shift=shift, shift_by_tokens=line)
    return recipe


def is_run(recipe: Recipe) -> bool:
    """Is what `model.weights` names a run folder?"""
    weights = str(recipe.model.get("weights", ""))
    return bool(weights) and run_folder.recognises(Path(weights))


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
    """Raises EditError where all rows have more source images than the architecture takes; one that has is left out."""
    most = most_references(recipe.system, recipe.model)
    if most is None:
        return
    many = np.flatnonzero(np.diff(image_sizes(rows)[1]) - 1 > most).tolist()
    if many and len(many) == len(rows):
        raise EditError(
            f"{len(many)} of {len(rows)} rows have more than {most} source image, and the model takes no more: row "
            f"{rows[many[0]].id} has {len(rows[many[0]].sources)}",
            hint="leave these rows out, or train a model of several references (FireRed, Qwen-Image-Edit-Plus)",
        )
