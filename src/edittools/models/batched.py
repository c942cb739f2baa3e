"""What editors on a System share: rows of equal shape go through the network together.

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

from edittools.errors import EditError, RowError
from edittools.models.editors import EditRequest, Work
from edittools.models.pictures import to_picture
from edittools.models.shapes import Shape
from edittools.models.speed import reset_cache
from edittools.models.systems.base import Conditions, System

PIXELS_AT_ONCE = 2**20  # that an autoencoder takes in or puts out together
SEQUENCES = ("order", "states", "words")  # names of conditions that are the text stream, one of which a system has


@dataclass
class Prepared:
    """A request as the network takes it."""

    request: EditRequest
    target: Shape
    pictures: list[Tensor]  # (3, h, w) in [-1, 1], for the autoencoder
    conditions: Conditions
    negative: Conditions | None = None  # of guidance's second pass

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return self.target, *((picture.shape[-2], picture.shape[-1]) for picture in self.pictures)


class BatchedEditor(ABC):
    """See Editor. What one model does, a subclass says."""

    same_length = False  # rows share a batch only if their texts are equally long: no masks

    def __init__(self, system: System, device: str, dtype: str, batch_size: int) -> None:
        self.system, self.device, self.dtype = system, torch.device(device), getattr(torch, dtype)
        self.batch_size = 1 if system.one_row else batch_size
        self.work = Work()

    @abstractmethod
    def prepare(self, request: EditRequest) -> Prepared:
        """Choose the shapes, run the frozen encoders of text. Raises RowError."""

    @abstractmethod
    def denoise(
        self, rows: list[Prepared], noise: Tensor, references: list[Tensor], conditions: Conditions,
        negative: Conditions | None,
    ) -> Tensor:  # fmt: skip
        """noise (B, C, h, w) float32 -> latents, likewise."""

    def finish(self, row: Prepared, picture: Tensor) -> np.ndarray:
        """(3, H, W) in [-1, 1] -> the result."""
        return to_picture(picture)

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray | RowError]:
        began = time.perf_counter()
        results: list[Any] = [None] * len(requests)
        prepared: dict[int, Prepared] = {}
        for k, row in enumerate(self.prepared(requests)):
            if isinstance(row, RowError):
                results[k] = row
            else:
                prepared[k] = row
        for few in self.batches(prepared):
            try:
                made = self.sample([prepared[k] for k in few])
            except torch.OutOfMemoryError as error:
                raise EditError(
                    f"{len(few)} rows of {prepared[few[0]].target[0]} x {prepared[few[0]].target[1]} pixels do not "
                    f"fit into the memory of {self.device}",
                    hint="a smaller --batch-size or --side, --dtype bfloat16, --offload",
                ) from error
            for k, picture in zip(few, made):
                results[k] = self.finish(prepared[k], picture)
        self.work.pictures += len(prepared)
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
            lengths[k] = [_length(c) for c in (row.conditions, row.negative) if c is not None]
            groups[(*row.shapes, *(lengths[k] if self.same_length else ()))].append(k)
        for numbers in groups.values():
            numbers.sort(key=lambda k: lengths[k])
            for start in range(0, len(numbers), self.batch_size):
                yield numbers[start : start + self.batch_size]

    @torch.no_grad()
    def sample(self, rows: list[Prepared]) -> Tensor:
        """Rows of the same shapes -> pictures (B, 3, H, W) about [-1, 1], on the CPU."""
        references = [
            self._in_pieces(self.system.latents, torch.stack([row.pictures[k] for row in rows])).to(
                self.device, self.dtype
            )
            for k in range(len(rows[0].pictures))
        ]
        conditions = self._collate([row.conditions for row in rows])
        negatives = [row.negative for row in rows if row.negative is not None]
        negative = self._collate(negatives) if negatives else None
        shape = self.system.latent_shape(*rows[0].target)
        # Each row's noise comes from its own seed, on the CPU: not from the batch, not from the device.
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(row.request.seed)) for row in rows]
        reset_cache(getattr(self.system.network, "transformer", None))  # of the rows before
        latents = self.denoise(rows, torch.stack(noise).to(self.device), references, conditions, negative)
        return self._in_pieces(self.system.pictures, latents).float().cpu()

    def network(self, x: Tensor, *rest: Any) -> Tensor:
        return self.system.network(x.to(self.dtype), *rest)

    def count(self, rows: list[Prepared], steps: int) -> None:
        """Add what `steps` forward passes (two each with guidance) of these rows cost; nothing if some are skipped."""
        if getattr(getattr(self.system.network, "transformer", None), "is_cache_enabled", False):
            return
        for row in rows:
            sizes = [h * w // self.system.patch**2 for h, w in row.shapes]
            for conditions in (row.conditions, row.negative):
                if conditions is not None:
                    text = _length({k: v[0] for k, v in self.system.collate([conditions]).items()})
                    self.work.flops += steps * self.system.flops(sum(sizes), sizes[0], text)

    def _in_pieces(self, function: Any, pictures: Tensor) -> Tensor:
        """An autoencoder's half, on as many pictures at once as its memory needs."""
        pixels = pictures.shape[-1] * pictures.shape[-2]
        if pictures.shape[1] != 3:  # latents
            pixels *= self.system.patch**2 // 4
        few = max(1, PIXELS_AT_ONCE // pixels)
        return torch.cat([function(piece) for piece in pictures.split(few)])

    def _collate(self, rows: list[Conditions]) -> Conditions:
        made = self.system.collate(rows)
        return {
            # positions are not rounded
            k: v.to(self.device, self.dtype if v.is_floating_point() and k not in ("ids", "crops") else None)
            for k, v in made.items()
        }


def _length(conditions: Conditions) -> int:
    return len(next(conditions[name] for name in SEQUENCES if name in conditions))
