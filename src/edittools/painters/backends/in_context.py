"""An in-painting pipeline that is shown an image beside the picture that it paints in: what it paints is like it.

Reference and picture lie side by side, and only a region of the right half is painted; the left half is cut off again
(in-context painting: ImgEdit 3.2 with FLUX.1 Fill and Redux, and TextFlux for writing). With FLUX.1 Redux the reference
is part of the prompt too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from edittools.errors import EditError, RowError
from edittools.painters import PaintRequest
from edittools.painters.backends import pipeline
from edittools.weights.diffusers import locate_pipeline, open_pipeline, pipeline_class

HELP = "an in-painting pipeline that is shown an image beside the picture and paints what is like it; --redux, --lora"
WEIGHTS = "black-forest-labs/FLUX.1-Fill-dev"
_PRIOR = "FluxPriorReduxPipeline"
_ENCODERS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def load(
    weights: str, device: str = "cpu", dtype: str = "float32", lora: Sequence[str] = (), redux: str = ""
) -> InContext:
    """A pipeline by folder or by its name on the hub.

    lora    files or names of adapters, PATH[:SCALE]
    redux   folder or name of FLUX.1 Redux, for pipelines of FLUX.1

    Raises EditError for a pipeline that does not paint regions by a prompt, and for what is no Redux.
    """
    made = pipeline.load(weights, device, dtype, lora)
    if made.names.keys() != {"image", "mask_image"}:
        raise EditError(f"{weights}: a {type(made.pipe).__name__} does not paint regions by a prompt alone")
    return InContext(made.pipe, _prior(made.pipe, redux, dtype).to(device) if redux else None)


def _prior(pipe: Any, redux: str, dtype: str) -> Any:
    """What makes a prompt of an image, with the text encoders of the pipeline. Raises EditError."""
    folder = locate_pipeline(redux)
    if (name := pipeline_class(folder)) != _PRIOR:
        raise EditError(f"--redux {redux}: a {name}, not a {_PRIOR}")
    if not type(pipe).__name__.startswith("Flux") or not all(hasattr(pipe, one) for one in _ENCODERS):
        raise EditError(f"--redux: a {type(pipe).__name__} takes no prompt of it")
    return open_pipeline(folder, dtype, **{one: getattr(pipe, one) for one in _ENCODERS})


class InContext(pipeline.Pipeline):
    """The picture has half of the pixels that the pipeline is best at: its reference has the other half."""

    area = pipeline.AREA // 2

    def __init__(self, pipe: Any, prior: Any = None) -> None:
        super().__init__(pipe)
        self.prior = prior
        self.wants |= {"reference"}

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        made: list[np.ndarray | RowError] = [RowError("this painter wants a reference")] * len(requests)
        asked = [k for k, one in enumerate(requests) if one.references]
        for k, result in zip(asked, super().paint([beside(requests[k]) for k in asked])):
            width = requests[k].mask.shape[1]
            made[k] = result[:, width:] if isinstance(result, np.ndarray) else result
        return made

    def prompts(self, requests: Sequence[PaintRequest]) -> dict[str, Any]:
        if self.prior is None:
            return super().prompts(requests)
        # One by one: the pipeline adds up what it makes of several images.
        found = [self.prior(image=Image.fromarray(one.references[0]), prompt=one.prompt) for one in requests]
        return {
            name: torch.cat([getattr(one, name) for one in found]) for name in ("prompt_embeds", "pooled_prompt_embeds")
        }


def beside(request: PaintRequest) -> PaintRequest:
    """The request with its first reference on the left, whole and at its own ratio, on white where it leaves room."""
    height, width = request.mask.shape
    reference = Image.fromarray(request.references[0])
    shown = np.asarray(ImageOps.pad(reference, (width, height), Image.Resampling.LANCZOS, color="white"))
    return replace(
        request,
        image=np.concatenate([shown, request.image], axis=1),
        mask=np.concatenate([np.zeros_like(request.mask), request.mask], axis=1),
    )
