"""The editor of a folder that `edit train` left."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edittools.errors import EditError
from edittools.models import diffusers_pipeline, system_editor
from edittools.models.batched import BatchedEditor, Prepared
from edittools.models.editors import DEFAULTS, Editor, EditorOptions, EditRequest
from edittools.models.flow import shift_factor
from edittools.models.pictures import WHOLE, fit, resize, to_picture, to_tensor
from edittools.models.sampling import euler
from edittools.models.shapes import Shape, choose, same_scene, shapes
from edittools.models.speed import loading, speed_up
from edittools.models.systems import load_system
from edittools.models.systems.base import Conditions, System
from edittools.models.weights import read_config

BATCH_SIZE = 32


def recognises(folder: Path) -> bool:
    """Is this a run folder?"""
    return (folder / "config.json").is_file() and read_config(folder).get("format") == "edittools run 1"


def load(spec: str | Path, device: str, dtype: str, options: EditorOptions = DEFAULTS) -> Editor:
    """Open a finished run; EditError if it is not finished.

    A published system is sampled as its published models are, with the recipe's steps and guidance where it has any;
    adapters are put on the model that they were trained for. `steps` and `guidance` replace the recipe's.
    """
    folder = Path(spec)
    recipe, model = finished_recipe(folder)
    options = with_defaults(options, recipe)
    if model.get("lora"):
        from edittools.models.editors import load_editor

        base = base_weights(folder, model)
        return load_editor(base, device, dtype, **{**vars(options), "lora": (str(folder), *options.lora)})
    # What the recipe made anew is in the folder now, and the frozen parts beside it.
    kept = {name: value for name, value in model.items() if name not in _MADE}
    if system_editor.recognises(folder):
        return system_editor.load(str(folder), device, dtype, options, kept)
    if diffusers_pipeline.recognises(folder):
        return diffusers_pipeline.load(str(folder), device, dtype, options)
    options.refuse("a run of this system", "lora", "legacy_positions", "distilled_guidance")
    settings, read = {**kept, "weights": str(folder)}, loading(options, device, dtype)
    system = load_system(recipe["system"], settings, device=device, dtype=dtype, loading=read)
    editor = RunFolderEditor(system, recipe, device, dtype, options)
    system.network.text.to(editor.dtype)  # the transformer is in its precision already
    system.network.eval()
    speed_up(editor, options)
    return editor


_MADE = ("weights", "transformer", "connector", "projectors", "guidance", "stage")  # settings of training alone


def finished_recipe(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe of a finished run, and its settings of the model. Raises EditError."""
    if not (folder / "_end.json").is_file():
        raise EditError(
            f"{folder}: this training run is not finished (no _end.json)",
            hint="run `edit train` again with the same settings: it resumes; or use a model that it kept, RUN/@STEP",
        )
    recipe = read_config(folder).get("recipe")
    if not isinstance(recipe, dict) or not isinstance(model := recipe.get("model"), dict):
        raise EditError(f"{folder}: its config.json holds no recipe")
    return recipe, model


def with_defaults(options: EditorOptions, recipe: dict[str, Any]) -> EditorOptions:
    """What was not asked for is the recipe's; a network from scratch knows no resolution but that of its training."""
    defaults: dict[str, Any] = {}
    if options.steps is None and recipe.get("sample_steps"):
        defaults["steps"] = recipe["sample_steps"]
    if options.guidance is None and recipe.get("sample_guidance"):
        defaults["guidance"] = recipe["sample_guidance"]
    if options.side is None and recipe["model"].get("transformer"):
        defaults["side"] = recipe["sides"][1]
    return dataclasses.replace(options, **defaults)


def base_weights(folder: Path, model: dict[str, Any]) -> str:
    """The model that the adapters of a run are for. Raises EditError where it has gone."""
    weights = str(model["weights"])
    if weights.count("/") != 1 and not Path(weights).is_dir():
        raise EditError(
            f"{folder} holds adapters for {weights}, and there is no such folder",
            hint=f"--model FOLDER --lora {folder} names where it lies now",
        )
    return weights


class RunFolderEditor(BatchedEditor):
    """Euler's method on the trained flow, at the shapes it was trained at.

    Nothing is cut off: a whole picture is scaled to the nearest shape that the model knows, its aspect ratio given up,
    and the whole result back to the first source's size, or to what was asked. So a result lies where its source does.
    """

    def __init__(self, system: System, recipe: dict[str, Any], device: str, dtype: str, options: EditorOptions) -> None:
        super().__init__(system, device, dtype, options.batch_size or BATCH_SIZE)
        self.recipe = recipe
        self.steps = system.steps if options.steps is None else options.steps
        self.guidance = system.guidance if options.guidance is None else options.guidance
        self.negative = system.negative if options.negative is None else options.negative
        sides = recipe["sides"] if options.side is None else [options.side] * 2
        self.shapes = shapes(recipe["ratios"], sides, system.multiple)

    def prepare(self, request: EditRequest) -> Prepared:
        sizes = np.array([wanted_size(request, self.shapes[0]), *(source.shape[:2] for source in request.sources)])
        chosen = choose(sizes, self.shapes)
        # as in training: a reference of the result's scene has its shape
        chosen = np.where(same_scene(sizes, sizes[0]), chosen[0], chosen)
        target, *scaled = [self.shapes[n] for n in chosen]
        sources = [fit(source, h, w, WHOLE) for source, (h, w) in zip(request.sources, scaled)]
        return Prepared(
            request,
            target,
            [to_tensor(source) for source in sources],
            self.system.conditions(sources, request.instruction),
            self.system.conditions(sources, self.negative) if self.guidance != 1 else None,
        )

    def denoise(
        self, rows: list[Prepared], noise: Tensor, references: list[Tensor], conditions: Conditions,
        negative: Conditions | None,
    ) -> Tensor:  # fmt: skip
        self.count(rows, self.steps)
        tokens = rows[0].target[0] * rows[0].target[1] // self.system.patch**2
        return euler(
            self.system,
            self.network,
            noise,
            references,
            conditions,
            steps=self.steps,
            shift=shift_factor(self.recipe["shift"], self.recipe["shift_by_tokens"], tokens),
            guidance=self.guidance,
            negative=negative,
        )

    def finish(self, row: Prepared, picture: Tensor) -> np.ndarray:
        return resize(to_picture(picture), *wanted_size(row.request, row.target))


def wanted_size(request: EditRequest, default: Shape) -> Shape:
    """Height and width that the result shall have."""
    h, w = request.sources[0].shape[:2] if request.sources else default
    return request.height or h, request.width or w
