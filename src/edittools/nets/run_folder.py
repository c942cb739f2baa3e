"""The editor of a folder that `edit train` left."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edittools.errors import EditError
from edittools.nets import architecture_editor, load_edit_model, pipeline_editor, with_new_names
from edittools.nets.acceleration import loading, speed_up
from edittools.nets.base import Conditioning, EditModel
from edittools.nets.batched import BatchedEditor, Prepared
from edittools.nets.editor import DEFAULTS, Editor, EditorOptions, EditRequest
from edittools.nets.flow import shift_factor
from edittools.nets.images import WHOLE, fit, resize, to_image, to_tensor
from edittools.nets.sampling import euler
from edittools.nets.shapes import Shape, choose, same_scene, shapes
from edittools.weights import diffusers as diffusers_weights
from edittools.weights.lookup import may_be_on_hub, read_config

BATCH_SIZE = 32


def recognises(folder: Path) -> bool:
    """Is this a run folder?"""
    return (folder / "config.json").is_file() and read_config(folder).get("format") == "edittools run 1"


def load(spec: str | Path, device: str, dtype: str, options: EditorOptions = DEFAULTS) -> Editor:
    """Open a finished run; EditError if it is not finished.

    A published architecture is sampled as its published models are, with the recipe's steps and guidance where it has
    any. Adapters are nets.load's business. `steps` and `guidance` replace the recipe's.
    """
    folder = Path(spec)
    recipe, model = finished_recipe(folder)
    options = with_defaults(options, recipe)
    # What the recipe made anew is in the folder now, and the frozen parts beside it.
    kept = {name: value for name, value in model.items() if name not in _MADE}
    if architecture_editor.recognises(folder):
        return architecture_editor.load(str(folder), device, dtype, options, kept)
    if diffusers_weights.is_pipeline(folder):
        return pipeline_editor.load(str(folder), device, dtype, options)
    options.refuse("a run of this architecture", "legacy_positions", "distilled_guidance")
    settings, read = {**kept, "weights": str(folder)}, loading(options, device, dtype)
    edit_model = load_edit_model(recipe["system"], settings, device=device, dtype=dtype, loading=read)
    editor = RunFolderEditor(edit_model, recipe, device, dtype, options)
    if options.lora:
        from edittools.nets.lora import add_adapters

        add_adapters({"transformer": edit_model.network.transformer}, options.lora, merge=options.quantize is None)
    edit_model.network.text.to(editor.dtype)  # the transformer is in its precision already
    edit_model.network.eval()
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
    return with_new_names(recipe), model


def with_defaults(options: EditorOptions, recipe: dict[str, Any]) -> EditorOptions:
    """What was not asked for is the recipe's; a network from scratch knows no resolution but that of its training."""
    defaults: dict[str, Any] = {}
    if options.steps is None and recipe.get("sample_steps"):
        defaults["steps"] = recipe["sample_steps"]
    if options.guidance_scale is None and recipe.get("sample_guidance"):
        defaults["guidance_scale"] = recipe["sample_guidance"]
    if options.resolution is None and recipe["model"].get("transformer"):
        defaults["resolution"] = recipe["resolution"][1]
    return dataclasses.replace(options, **defaults)


def base_weights(folder: Path, model: dict[str, Any]) -> str:
    """The model that the adapters of a run are for. Raises EditError where it has gone."""
    weights = str(model["weights"])
    if not Path(weights).is_dir() and not may_be_on_hub(weights):
        raise EditError(
            f"{folder} holds adapters for {weights}, and there is no such folder",
            hint=f"--model FOLDER --lora {folder} names where it lies now",
        )
    return weights


class RunFolderEditor(BatchedEditor):
    """Euler's method on the trained flow, at the shapes it was trained at.

    Nothing is cut off: a whole image is scaled to the nearest shape that the model knows, its aspect ratio given up,
    and the whole result back to the first source's size, or to what was asked. So a result lies where its source does.
    """

    def __init__(
        self, edit_model: EditModel, recipe: dict[str, Any], device: str, dtype: str, options: EditorOptions
    ) -> None:
        super().__init__(edit_model, device, dtype, options.batch_size or BATCH_SIZE)
        self.recipe = recipe
        self.steps = edit_model.steps if options.steps is None else options.steps
        self.guidance = edit_model.guidance if options.guidance_scale is None else options.guidance_scale
        self.negative = edit_model.negative if options.negative_prompt is None else options.negative_prompt
        sides = recipe["resolution"] if options.resolution is None else [options.resolution] * 2
        self.shapes = shapes(recipe["ratios"], sides, edit_model.multiple)

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
            self.edit_model.conditioning(sources, request.instruction),
            self.edit_model.conditioning(sources, self.negative) if self.guidance != 1 else None,
        )

    def denoise(
        self, rows: list[Prepared], noise: Tensor, references: list[Tensor], conditioning: Conditioning,
        negative: Conditioning | None,
    ) -> Tensor:  # fmt: skip
        self.count(rows, self.steps)
        tokens = rows[0].target[0] * rows[0].target[1] // self.edit_model.patch**2
        return euler(
            self.edit_model,
            self.network,
            noise,
            references,
            conditioning,
            steps=self.steps,
            shift=shift_factor(self.recipe["shift"], self.recipe["shift_by_tokens"], tokens),
            guidance=self.guidance,
            negative=negative,
        )

    def finish(self, row: Prepared, image: Tensor) -> np.ndarray:
        return resize(to_image(image), *wanted_size(row.request, row.target))


def wanted_size(request: EditRequest, default: Shape) -> Shape:
    """Height and width that the result shall have."""
    h, w = request.sources[0].shape[:2] if request.sources else default
    return request.height or h, request.width or w
