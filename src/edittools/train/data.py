"""What training reads: rows by number, batches that are a pure function of (seed, step), loaded ahead."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from edittools.models.edit_dit import to_tensor


@dataclass(frozen=True)
class Example:
    """One edit: pictures are uint8 (height, width, 3), sRGB."""

    id: str
    task: str
    template: str
    sources: list[np.ndarray]
    target: np.ndarray
    instruction: str


class Examples(Protocol):
    """Training rows, by number. `load` may be called from a background thread."""

    def __len__(self) -> int: ...

    def load(self, indices: list[int]) -> list[Example]:
        """The rows with these numbers, in this order; a number may repeat."""
        ...

    def instructions(self) -> Sequence[str]:
        """The instruction of every row, without its pictures; training builds its vocabulary from them."""
        ...


@dataclass(frozen=True)
class Batch:
    """Rows of one step as tensors; the rows are grouped by how many references they have."""

    step: int
    ids: list[str]
    groups: list["Group"]


@dataclass(frozen=True)
class Group:
    """The rows of a batch that have n references each, so that they fit one tensor."""

    rows: list[int]  # their places in the batch
    target: Tensor  # (b, 3, H, W) in [-1, 1]
    references: Tensor  # (b, n, 3, H, W) in [-1, 1]
    instructions: list[str]


def batch_indices(seed: int, step: int, batch: int, count: int) -> list[int]:
    """The rows of one step: consecutive places in an endless list of shuffled epochs."""
    places = range(step * batch, (step + 1) * batch)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in {p // count for p in places}}
    return [int(orders[p // count][p % count]) for p in places]


def collate(step: int, examples: list[Example], size: int) -> Batch:
    """Rows -> tensors on the CPU."""
    counts = [len(example.sources) for example in examples]
    groups = []
    for n in sorted(set(counts)):
        rows = [k for k, count in enumerate(counts) if count == n]
        references = [to_tensor(source, size) for k in rows for source in examples[k].sources]
        groups.append(
            Group(
                rows=rows,
                target=torch.stack([to_tensor(examples[k].target, size) for k in rows]),
                references=torch.stack(references).unflatten(0, (len(rows), n))
                if n
                else torch.zeros(len(rows), 0, 3, size, size),
                instructions=[examples[k].instruction for k in rows],
            )
        )
    return Batch(step, [example.id for example in examples], groups)


class Prefetch:
    """Batches of steps first..last-1, loaded a few steps ahead by one thread.

    `waited` is the time in seconds that the reader has spent waiting for data. Leave the `with` block to stop
    the thread; an error while loading is raised in the reader.
    """

    def __init__(self, data: Examples, seed: int, batch: int, size: int, first: int, last: int) -> None:
        self.waited = 0.0
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=4)
        self._stop = threading.Event()
        self._steps = range(first, last)
        self._thread = threading.Thread(target=self._work, args=(data, seed, batch, size), daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _put(self, item: Batch | BaseException) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def _work(self, data: Examples, seed: int, batch: int, size: int) -> None:
        try:
            for step in self._steps:
                if self._stop.is_set():
                    return
                self._put(collate(step, data.load(batch_indices(seed, step, batch, len(data))), size))
        except BaseException as error:  # the reader raises it; a thread's own traceback would end nothing
            self._put(error)

    def __iter__(self) -> Iterator[Batch]:
        for _ in self._steps:
            start = time.perf_counter()
            item = self._queue.get()
            self.waited += time.perf_counter() - start
            if isinstance(item, BaseException):
                raise item
            yield item
