"""FLUX.1 Kontext as its pipeline samples it."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from edittools.nets.architecture_editor import PipelineEditor
from edittools.nets.batched import Prepared, one_source
from edittools.nets.editor import EditorOptions, EditRequest
from edittools.nets.shapes import Shape, floor


class KontextEditor(PipelineEditor):
    """FluxKontextPipeline; the reference has one of the model's preferred resolutions, the result about 1024² pixels of
    the source's aspect ratio."""

    encoders = ("pipe.text_encoder", "pipe.text_encoder_2")

    def __init__(self, edit_model: Any, device: str, dtype: str, options: EditorOptions) -> None:
        super().__init__(edit_model, device, dtype, options)
        self.preferred = options.resolution is None

    def prepare(self, request: EditRequest) -> Prepared:
        from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

        source = one_source(request, "FLUX.1 Kontext")
        height, width = source.shape[:2]
        size = self._of_area((request.width or width) / (request.height or height))
        # The pipeline takes the aspect ratio after cutting the sides to multiples.
        ratio = floor(width, self.multiple) / floor(height, self.multiple)
        shape = self._of_area(ratio)
        if self.preferred:
            _, width, height = min((abs(ratio - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
            shape = floor(height, self.multiple), floor(width, self.multiple)
        resized = self.edit_model.pipe.image_processor.resize(Image.fromarray(source), *shape)
        return Prepared(
            request, size, [self.image(np.asarray(resized), shape)], *self.conditioning([], request.instruction)
        )

    def _of_area(self, ratio: float) -> Shape:
        height, width = round((self.area / ratio) ** 0.5), round((self.area * ratio) ** 0.5)
        return floor(height, self.multiple), floor(width, self.multiple)


EDITOR = KontextEditor
PIPELINES = ("FluxKontextPipeline",)  # that are sampled so
