"""Networks that look at images: what the embedders and the classifier have in common."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edittools.errors import EditError, UsageError, describe
from edittools.weights.quiet import disable_progress_bars

ImageLike = np.ndarray | Image.Image
DTYPES = ("float32", "bfloat16", "float16")

MAX_ASPECT = 16
"""An image longer than this is cut to its middle before a resize of its short side, which would make a sliver of
20000 x 2 pixels one of 2240000 x 224. What a centre crop keeps of it stays."""


class VisionModel:
    """A network and its preprocessing. `prepare` may run in many threads, `infer` lets one batch in at a time."""

    def __init__(self, network: Any, processor: Any, device: str, dtype: str) -> None:
        if dtype not in DTYPES:
            raise UsageError(f"no dtype `{dtype}`", hint=", ".join(DTYPES))
        try:
            self.network = network.to(device, getattr(torch, dtype)).eval()
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise EditError(f"--device {device}: {describe(error)}") from error
        self.processor, self.device, self.dtype = processor, device, getattr(torch, dtype)
        self._lock = threading.Lock()

    def prepare(self, image: ImageLike) -> Tensor:
        """One image (uint8 HxWx3, or PIL) as the network's input, float32 (3, h, w), by the reference processor."""
        shown = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
        if "shortest_edge" in dict(getattr(self.processor, "size", None) or {}):
            shown = middle(shown)
        # Named, because 1 or 3 rows of pixels look like channels to the guess that is made otherwise.
        made = self.processor(images=shown, input_data_format="channels_last", return_tensors="pt")
        return made["pixel_values"][0].float()

    def infer(self, prepared: list[Tensor]) -> np.ndarray:
        """Output of the network for prepared images, float32 (n, size). Those of one shape go in together."""
        rows: dict[int, np.ndarray] = {}
        groups: dict[torch.Size, list[int]] = defaultdict(list)
        for k, pixels in enumerate(prepared):
            groups[pixels.shape].append(k)
        for members in groups.values():
            made = self._guarded(lambda members=members: self._forward(self._to_device(prepared, members)))
            rows |= dict(zip(members, made))
        return np.stack([rows[k] for k in range(len(prepared))]) if rows else np.zeros((0, 0), np.float32)

    def _to_device(self, prepared: list[Tensor], members: list[int]) -> Tensor:
        return torch.stack([prepared[k] for k in members]).to(self.device, self.dtype)

    def _guarded(self, work: Any) -> np.ndarray:
        try:
            with self._lock, torch.inference_mode():
                return work().float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise EditError("the device has not enough memory for a batch", hint="a smaller --batch-size") from error

    def _forward(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError


def middle(image: Image.Image) -> Image.Image:
    """The image, or the middle of one that is longer than MAX_ASPECT."""
    width, height = image.size
    keep = MAX_ASPECT * min(width, height)
    if max(width, height) <= keep:
        return image
    left, top = max(0, (width - keep) // 2), max(0, (height - keep) // 2)
    return image.crop((left, top, left + min(width, keep), top + min(height, keep)))


def pretrained(kind: Any, folder: Path, dtype: str) -> Any:
    """A transformers model out of a folder; none of its weights may be missing. Raises EditError."""
    if dtype not in DTYPES:
        raise UsageError(f"no dtype `{dtype}`", hint=", ".join(DTYPES))
    disable_progress_bars("transformers")
    try:
        network, report = kind.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,  # left open, transformers asks on a terminal
            output_loading_info=True,
        )
    except Exception as error:  # damaged and foreign files: transformers raises what it meets
        raise EditError(f"{folder}: cannot be loaded: {describe(error)}") from error
    # Without this, transformers would go on with random numbers in their place.
    lacking = [*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])]
    if lacking:
        raise EditError(f"{folder}: {len(lacking)} weights are missing, such as {sorted(lacking)[0]}")
    return network


def image_processor(folder: Path) -> Any:
    """The checkpoint's own preprocessing, by Pillow: the same with and without torchvision. Raises EditError."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    except Exception as error:
        raise EditError(f"{folder}: its preprocessing cannot be loaded: {describe(error)}") from error
