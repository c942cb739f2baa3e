"""Qwen-Image-2.1 as its pipeline samples it, rows of other references together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from edittools.errors import RowError
from edittools.nets.architecture_editor import PipelineEditor
from edittools.nets.batched import Prepared
from edittools.nets.editor import EditRequest
from edittools.nets.firered import plus_shape
from edittools.nets.qwen21 import MOST_REFERENCES, PIPELINES
from edittools.nets.qwen_states import check_ratios
from edittools.nets.shapes import floor


class Qwen21Editor(PipelineEditor):
    """QwenImage21Pipeline.

    Every reference has about 1024² pixels, its sides scaled to multiples of 32; the result likewise, of the last one's
    aspect ratio, without references 1024². Results have alpha, four channels.
    """

    encoders = ("pipe.text_encoder",)
    from_text = True

    @property
    def multiple(self) -> int:
        return int(self.edit_model.multiple)

    def schedule(self, tokens: int) -> tuple[Sequence[float], float]:
        """The model's own sigmas where it has some, of as many steps as are asked for."""
        sigmas, mu = super().schedule(tokens)
        own: Any = self.edit_model.pipe.config.get("sample_sigmas")
        return (own if own and len(own) == self.steps else sigmas), mu

    def prepare(self, request: EditRequest) -> Prepared:
        if len(request.sources) > MOST_REFERENCES:
            raise RowError(f"the model takes {MOST_REFERENCES} source pictures", len(request.sources))
        check_ratios([source.shape[:2] for source in request.sources])
        ratios = [source.shape[1] / source.shape[0] for source in request.sources]
        height, width = plus_shape(self.area, ratios[-1] if ratios else 1.0)
        size = floor(request.height or height, self.multiple), floor(request.width or width, self.multiple)
        sources, images = [], []
        for source, ratio in zip(request.sources, ratios):
            shape = plus_shape(self.area, ratio)
            # as the pipeline scales: with alpha, which is white's where there is none
            image = Image.fromarray(source).convert("RGBA")
            sources.append(np.asarray(self.edit_model.pipe.image_processor.resize(image, *shape)))
            images.append(self.image(np.asarray(image), shape))
        return Prepared(request, size, images, *self.conditioning(sources, request.instruction))


EDITOR = Qwen21Editor

__all__ = ["EDITOR", "PIPELINES"]
