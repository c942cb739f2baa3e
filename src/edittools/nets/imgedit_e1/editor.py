"""ImgEdit-E1, by the sampler of FLUX.1-dev."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from edittools.errors import RowError
from edittools.nets.architecture_editor import ArchitectureEditor
from edittools.nets.batched import Prepared
from edittools.nets.editor import EditRequest
from edittools.nets.images import to_tensor
from edittools.nets.shapes import floor, step1x_shape


class E1Editor(ArchitectureEditor):
    """ImgEdit-E1, of whose sampler the paper says nothing: FLUX.1-dev's schedule, steps and guidance; the result has
    about 1024² pixels of the first source's aspect ratio, sides multiples of 16."""

    encoders = ("qwen.model", "siglip.model")
    edit_model: Any

    def prepare(self, request: EditRequest) -> Prepared:
        if not request.sources:
            raise RowError("no source picture")
        side = math.isqrt(self.area)
        shapes = [step1x_shape(source.shape[0], source.shape[1], side) for source in request.sources]
        target = floor(request.height or shapes[0][0], 16), floor(request.width or shapes[0][1], 16)
        seen = zip(request.sources, shapes) if self.edit_model.network.references else ()
        images = [to_tensor(np.asarray(Image.fromarray(s).resize(shape[::-1]))) for s, shape in seen]
        return Prepared(request, target, images, *self.conditioning(request.sources, request.instruction))


EDITOR = E1Editor
