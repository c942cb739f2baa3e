"""The editor of a folder that `edit train` left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edittools.errors import EditError
from edittools.models.batched import BatchedEditor, Prepared
from edittools.models.editors import DEFAULTS, EditorOptions, EditRequest
from edittools.models.flow import shift_factor
from edittools.models.pictures import WHOLE, fit, resize, to_picture, to_tensor
from edittools.models.sampling import euler
from edittools.models.shapes import Shape, choose, shapes
from edittools.models.speed import speed_up
from edittools.models.systems import load_system
from edittools.models.systems.base import Conditions, System
from edittools.models.weights import read_config

BATCH_SIZE = 32


def recognises(folder: Path) -> bool:
    """Is this a run folder?"""
    return (folder / "config.json").is_file() and read_config(folder).get("format") == "edittools run 1"


def load(spec: str | Path, device: str, dtype: str, options: EditorOptions = DEFAULTS) -> RunFolderEditor:
    """Open a finished run; EditError if it is not finished. `steps` and `guidance` replace the recipe's."""
    folder = Path(spec)
    if not (folder / "_end.json").is_file():
        raise EditError(
            f"{folder}: this training run is not finished (no _end.json)",
            hint="run `edit train` again with the same settings: it resumes; or use a model that it kept, RUN/@STEP",
        )
    recipe = read_config(folder).get("recipe")
    if not isinstance(recipe, dict) or not isinstance(model := recipe.get("model"), dict):
        raise EditError(f"{folder}: its config.json holds no recipe")
    if model.get("lora"):
        raise EditError(f"{folder} holds adapters, not a model", hint=f"--model {model['weights']} --lora {folder}")
    options.refuse("a run of `edit train`", "lora", "side", "legacy_positions", "quantize", "distilled_guidance")
    # What the recipe made anew is in the folder now, and the frozen parts beside it.
    kept = {name: value for name, value in model.items() if name not in ("transformer", "connector", "projectors")}
    system = load_system(recipe["system"], {**kept, "weights": str(folder)}, device=device, dtype=dtype)
    editor = RunFolderEditor(system, recipe, device, dtype, options)
    system.network.to(editor.dtype).eval()
    speed_up(editor, options)
    return editor


class RunFolderEditor(BatchedEditor):
    """Euler's method on the trained flow, at the shapes it was trained at.

    Nothing is cut off: a whole picture is scaled to the nearest shape that the model knows, its aspect ratio given up,
    and the whole result back to the first source's size, or to what was asked. So a result lies where its source does.
    """

    def __init__(self, system: System, recipe: dict[str, Any], device: str, dtype: str, options: EditorOptions) -> None:
        super().__init__(system, device, dtype, options.batch_size or BATCH_SIZE)
        self.recipe = recipe
        self.steps = options.steps or recipe["sample_steps"]
        self.guidance = recipe["sample_guidance"] if options.guidance is None else options.guidance
        self.negative = options.negative or ""
        self.shapes = shapes(recipe["ratios"], recipe["sides"], system.multiple)

    def prepare(self, request: EditRequest) -> Prepared:
        sizes = [wanted_size(request, self.shapes[0]), *(source.shape[:2] for source in request.sources)]
        target, *scaled = [self.shapes[n] for n in choose(np.array(sizes), self.shapes)]
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
