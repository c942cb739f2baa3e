"""FLUX.2 as its pipelines sample it, rows of other references together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from edittools.errors import RowError
from edittools.nets.architecture_editor import PipelineEditor
from edittools.nets.batched import Prepared
from edittools.nets.editor import EditorOptions, EditRequest
from edittools.nets.flux2 import MOST_RATIO, PIPELINES, SMALLEST, most_references
from edittools.nets.shapes import Shape, floor


class Flux2Editor(PipelineEditor):
    """Flux2Pipeline, Flux2KleinPipeline, Flux2KleinKVPipeline.

    A reference of more than 1024² pixels is scaled to about as many; of every one the middle is taken, sides multiples
    of 16. The result has the first one's size, without references 1024². Where the result is to be laid over the first
    one, that is scaled to such sides whole: cut, the result would lie up to 8 pixels beside it.
    """

    encoders = ("pipe.text_encoder",)
    from_text = True

    def __init__(self, edit_model: Any, device: str, dtype: str, options: EditorOptions) -> None:
        if edit_model.few_steps and options.guidance_scale not in (None, 1.0):
            options.refuse("this model, which is distilled to few steps,", "guidance_scale")
        super().__init__(edit_model, device, dtype, options)
        self.most = most_references({"weights": str(edit_model.folder)})

    def schedule(self, tokens: int) -> tuple[Sequence[float], float]:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return super().schedule(tokens)[0], compute_empirical_mu(tokens, self.steps)

    def prepare(self, request: EditRequest) -> Prepared:
        if self.most is not None and len(request.sources) > self.most:
            raise RowError(f"the model takes {self.most} source pictures", len(request.sources))
        images = [self._shown(source, request.whole and k == 0) for k, source in enumerate(request.sources)]
        height, width = images[0].shape[-2:] if images else self._of_area()
        size = floor(request.height or height, self.multiple), floor(request.width or width, self.multiple)
        return Prepared(request, size, images, *self.conditioning([], request.instruction))

    def _of_area(self) -> Shape:
        side = floor(round(self.area**0.5), self.multiple)
        return side, side

    def _shown(self, source: np.ndarray, whole: bool) -> Tensor:
        """A reference (3, h, w), or its middle. Raises RowError for one that the pipelines refuse."""
        sides = source.shape[:2]
        if min(sides) < SMALLEST:
            raise RowError(f"a source picture of less than {SMALLEST} pixels", min(sides))
        if max(sides) / min(sides) > MOST_RATIO:
            raise RowError(f"one side is more than {MOST_RATIO} times the other", round(max(sides) / min(sides), 1))
        processor, image = self.edit_model.pipe.image_processor, Image.fromarray(source)
        image = processor._resize_if_exceeds_area(image, self.area)
        height, width = floor(image.height, self.multiple), floor(image.width, self.multiple)
        return processor.preprocess(image, height=height, width=width, resize_mode="default" if whole else "crop")[0]


__all__ = ["EDITOR", "PIPELINES"]

EDITOR = Flux2Editor
