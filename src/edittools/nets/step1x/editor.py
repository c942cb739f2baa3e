"""Step1X-Edit as its released script samples it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from edittools.nets.architecture_editor import ArchitectureEditor
from edittools.nets.batched import Prepared, one_source
from edittools.nets.editor import EditorOptions, EditRequest
from edittools.nets.images import to_image, to_tensor
from edittools.nets.shapes import step1x_shape
from edittools.weights.lookup import read_config


class Step1XEditor(ArchitectureEditor):
    """As Step1X-Edit's inference.py samples: source and result have about `side`² pixels (512, 786 or 1024), sides
    multiples of 16; v1.0 and v1.1 scale the result back to the source's size."""

    encoders = ("qwen.model",)
    edit_model: Any

    @staticmethod
    def settings(folder: Path, options: EditorOptions, trained: dict[str, Any]) -> dict[str, Any]:
        options.refuse("Step1X-Edit", "legacy_positions")
        version = read_config(folder, "edit.json").get("version")
        return {"damped_above": 1.0, **trained} if version == "1.0" else trained  # as each version's script has it

    def prepare(self, request: EditRequest) -> Prepared:
        source = one_source(request, "Step1X-Edit")
        shape = step1x_shape(source.shape[0], source.shape[1], math.isqrt(self.area))
        # Pillow's own choice of filter, as the released script calls it
        resized = np.asarray(Image.fromarray(source).resize(shape[::-1]))
        return Prepared(request, shape, [to_tensor(resized)], *self.conditioning([resized], request.instruction))

    def finish(self, row: Prepared, image: Tensor) -> np.ndarray:
        made = to_image(image)
        height, width = row.request.sources[0].shape[:2] if self.edit_model.number != "1.2" else made.shape[:2]
        height, width = row.request.height or height, row.request.width or width
        return np.asarray(Image.fromarray(made).resize((width, height)))


EDITOR = Step1XEditor
