"""FireRed-Image-Edit and Qwen-Image-Edit-2509 as their pipeline samples them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edittools.errors import RowError
from edittools.nets.architecture_editor import PipelineEditor
from edittools.nets.batched import Prepared
from edittools.nets.editor import EditorOptions, EditRequest
from edittools.nets.firered import plus_shape
from edittools.nets.shapes import floor


class FireRedEditor(PipelineEditor):
    """QwenImageEditPlusPipeline.

    Every reference has about 1024² pixels, sides multiples of 32; the result likewise, of the last one's aspect ratio.
    """

    encoders = ("pipe.text_encoder",)

    @staticmethod
    def settings(folder: Path, options: EditorOptions, trained: dict[str, Any]) -> dict[str, Any]:
        return {**trained, "legacy_positions": True} if options.legacy_positions else trained

    def __init__(self, edit_model: Any, device: str, dtype: str, options: EditorOptions) -> None:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        super().__init__(edit_model, device, dtype, options)
        self.reference_area = self.area if options.resolution else plus.VAE_IMAGE_SIZE

    def prepare(self, request: EditRequest) -> Prepared:
        if not request.sources:
            raise RowError("no source picture")
        ratios = [source.shape[1] / source.shape[0] for source in request.sources]
        height, width = plus_shape(self.area, ratios[-1])
        size = floor(request.height or height, self.multiple), floor(request.width or width, self.multiple)
        images = []
        for source, ratio in zip(request.sources, ratios):
            images.append(self.image(source, plus_shape(self.reference_area, ratio)))
        return Prepared(request, size, images, *self.conditioning(request.sources, request.instruction))


EDITOR = FireRedEditor
PIPELINES = ("QwenImageEditPlusPipeline",)  # that are sampled so
