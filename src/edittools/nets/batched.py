"""Base of the editors whose rows are sampled in batches: rows of equal shape go through the network together.

A row's result depends on its request alone: its noise comes from its own seed, and what the rows of a batch share in
the network keeps them apart. In float32 a row alone and in a batch agree to 1e-5 before rounding.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edittools.errors import RowError
from edittools.nets.acceleration import fitting, reset_cache
from edittools.nets.base import Conditioning, EditModel, moved, side_by_side, text_length
from edittools.nets.editor import EditRequest, Work
from edittools.nets.images import to_image
from edittools.nets.shapes import Shape

PIXELS_AT_ONCE = 2**20  # that an autoencoder takes in or puts out together


@dataclass
class Prepared:
    """A request as the network takes it."""

    request: EditRequest
    target: Shape
    images: list[Tensor]  # (3, h, w) in [-1, 1], for the autoencoder
    conditioning: Conditioning
    negative: Conditioning | None = None  # of guidance's second pass

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return self.target, *((image.shape[-2], image.shape[-1]) for image in self.images)


class BatchedEditor(ABC):
    """Base class of editors that sample in batches; a subclass implements what its model does differently."""

    at_once = 1
    same_length = False  # rows share a batch only if their texts are equally long: no masks

    def __init__(self, edit_model: EditModel, device: str, dtype: str, batch_size: int) -> None:
        self.edit_model, self.device, self.dtype = edit_model, torch.device(device), getattr(torch, dtype)
        self.batch_size = 1 if edit_model.one_row else batch_size
        self.work = Work()

    @abstractmethod
    def prepare(self, request: EditRequest) -> Prepared:
        """Choose the shapes, run the frozen encoders of text. Raises RowError."""

    @abstractmethod
    def denoise(
        self, rows: list[Prepared], noise: Tensor, references: list[Tensor], conditioning: Conditioning,
        negative: Conditioning | None,
    ) -> Tensor:  # fmt: skip
        """noise (B, C, h, w) float32 -> latents, likewise."""

    def finish(self, row: Prepared, image: Tensor) -> np.ndarray:
        """(3, H, W) in [-1, 1] -> the result."""
        return to_image(image)

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray | RowError]:
        began = time.perf_counter()
        results: list[Any] = [None] * len(requests)
        prepared: dict[int, Prepared] = {}
        with fitting("the encoders' work", self.device):
            for k, row in enumerate(self.prepared(requests)):
                if isinstance(row, RowError):
                    results[k] = row
                else:
                    prepared[k] = row
        for few in self.batches(prepared):
            height, width = prepared[few[0]].target
            with fitting(f"{len(few)} rows of {height} x {width} pixels", self.device):
                made = self.sample([prepared[k] for k in few])
            for k, image in zip(few, made):
                if image.isfinite().all():
                    results[k] = self.finish(prepared[k], image)
                else:  # an image made of them would be black
                    results[k] = RowError("the model's numbers are not finite", str(self.dtype).removeprefix("torch."))
        self.work.images += len(prepared)
        self.work.seconds += time.perf_counter() - began
        return results

    def prepared(self, requests: list[EditRequest]) -> Iterator[Prepared | RowError]:
        for request in requests:
            try:
                with torch.no_grad():
                    yield self.prepare(request)
            except RowError as error:
                yield error

    def batches(self, rows: dict[int, Prepared]) -> Iterator[list[int]]:
        """Rows that go through the network together; texts of about the same length, since the others are padded."""
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        lengths = {}
        for k, row in rows.items():
            lengths[k] = [text_length(c) for c in (row.conditioning, row.negative) if c is not None]
            shared = row.shapes[:1] if self.edit_model.mixed_references else row.shapes
            groups[(*shared, *(lengths[k] if self.same_length else ()))].append(k)
        for numbers in groups.values():
            numbers.sort(key=lambda k: (sum(h * w for h, w in rows[k].shapes), rows[k].shapes, lengths[k]))
            for start in range(0, len(numbers), self.batch_size):
                yield numbers[start : start + self.batch_size]

    @torch.no_grad()
    def sample(self, rows: list[Prepared]) -> Tensor:
        """Rows of the same shapes -> images (B, 3, H, W) about [-1, 1], on the CPU."""
        references, sizes = side_by_side(self._latents([row.images for row in rows]))
        references = [x.to(self.device, self.dtype) for x in references]
        conditioning = self._collate([row.conditioning for row in rows]) | sizes
        negatives = [row.negative for row in rows if row.negative is not None]
        negative = self._collate(negatives) | sizes if negatives else None
        shape = self.edit_model.latent_shape(*rows[0].target)
        # Each row's noise comes from its own seed, on the CPU: not from the batch, not from the device.
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(row.request.seed)) for row in rows]
        reset_cache(getattr(self.edit_model.network, "transformer", None))  # of the rows before
        latents = self.denoise(rows, torch.stack(noise).to(self.device), references, conditioning, negative)
        pixels = rows[0].target[0] * rows[0].target[1]
        return self._in_pieces(self.edit_model.results, latents, pixels).float().cpu()

    def _latents(self, rows: list[list[Tensor]]) -> list[list[Tensor]]:
        """Of images (3, h, w): those of one shape are encoded together."""
        shapes: dict[torch.Size, list[tuple[int, int]]] = defaultdict(list)
        for number, images in enumerate(rows):
            for k, image in enumerate(images):
                shapes[image.shape].append((number, k))
        found: dict[tuple[int, int], Tensor] = {}
        for shape, places in shapes.items():
            together = torch.stack([rows[number][k] for number, k in places])
            made = self._in_pieces(self.edit_model.latents, together, shape[-2] * shape[-1])
            found.update(zip(places, made))
        return [[found[number, k] for k in range(len(images))] for number, images in enumerate(rows)]

    def network(self, x: Tensor, *rest: Any) -> Tensor:
        return self.edit_model.network(x.to(self.dtype), *rest)

    def count(self, rows: list[Prepared], steps: int, kept: int = 0) -> None:
        """Add what `steps` forward passes (two each with guidance) of these rows cost; nothing if some are skipped.

        kept   of the steps, which begin with what earlier ones kept; see EditModel.row_flops()
        """
        if getattr(getattr(self.edit_model.network, "transformer", None), "is_cache_enabled", False):
            return
        for row in rows:
            sizes = [h * w // self.edit_model.patch**2 for h, w in row.shapes]
            for conditioning in (row.conditioning, row.negative):
                if conditioning is not None:
                    alone = {k: v[0] for k, v in self.edit_model.collate([conditioning]).items()}
                    places = conditioning["places"].tolist() if "places" in conditioning else ()
                    for times, less in ((steps - kept, False), (kept, True)) if kept else ((steps, False),):
                        self.work.flops += times * self.edit_model.row_flops(sizes, text_length(alone), places, less)

    def _in_pieces(self, function: Any, batch: Tensor, pixels: int) -> Tensor:
        """An autoencoder's half, on as many images of so many pixels at once as its memory needs."""
        return torch.cat([function(piece) for piece in batch.split(max(1, PIXELS_AT_ONCE // pixels))])

    def _collate(self, rows: list[Conditioning]) -> Conditioning:
        return moved(self.edit_model.collate(rows), self.device, self.dtype)


def one_source(request: EditRequest, model: str) -> np.ndarray:
    """Raises RowError unless there is exactly one."""
    if not request.sources:
        raise RowError("no source picture")
    if len(request.sources) > 1:
        raise RowError(f"{model} takes one source picture", len(request.sources))
    return request.sources[0]
