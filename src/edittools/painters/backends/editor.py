"""Any editing model of `edit sample`, asked by the instruction: of a whole image, or of the crop about a region, of
which only the region is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from edittools.errors import RowError, UsageError
from edittools.nets.editor import Editor, EditRequest
from edittools.painters import PaintRequest

HELP = "an editing model by its instruction: a run of `edit train`, a model's folder, an editing pipeline"
WEIGHTS = "Qwen/Qwen-Image-Edit"
_AREA = 2**20


def load(weights: str, device: str = "cpu", dtype: str = "float32", lora: Sequence[str] = ()) -> EditorPainter:
    from edittools.nets.load import load_editor

    if not weights:
        raise UsageError("--painter editor names no model", hint="--painter editor=MODEL")
    return EditorPainter(load_editor(weights, device, dtype, **({"lora": tuple(lora)} if lora else {})))


class EditorPainter:
    multiple, area = 16, _AREA
    wants = frozenset({"prompt", "instruction"})

    def __init__(self, editor: Editor) -> None:
        self.editor, self.batch_size = editor, editor.batch_size

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        return None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        made = self.editor.edit([_edit(one) for one in requests]) if requests else []
        return [fitted(image, one) if isinstance(image, np.ndarray) else image for image, one in zip(made, requests)]


def _edit(one: PaintRequest) -> EditRequest:
    height, width = one.mask.shape
    return EditRequest([one.image, *one.references], one.instruction, one.seed, height, width, whole=True)


def fitted(image: np.ndarray, request: PaintRequest) -> np.ndarray:
    """At the request's size."""
    height, width = request.mask.shape
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
