"""Batches as tensors, made a few steps ahead of the loop by other threads."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from edittools.errors import EditError
from edittools.models.pictures import fit, resize
from edittools.models.systems.base import Conditions, System
from edittools.train import objective
from edittools.train.config import Recipe
from edittools.train.features import Features
from edittools.train.plan import Draw, Plan, Sample, crops
from edittools.train.rejects import Rejects, Unusable
from edittools.train.rows import Row

AHEAD = 4  # steps


@dataclass
class Batch:
    """Rows that go through the network together."""

    rows: list[Row]
    target: Tensor  # latents x_0 (B, C, h, w)
    references: list[Tensor]  # (B, C, h_i, w_i)
    conditions: Conditions
    noise: Tensor  # ε, like target
    t: Tensor  # (B,) float32
    samples: list[Sample]
    text_tokens: int  # of the longest text, times B
    padding: int  # of these, how many are padding
    masks: Tensor | None = None  # (B, 1, h, w) in [0, 1]: the share of every latent under the row's mask

    def to(self, device: torch.device) -> Batch:
        """The tensors on another device; from pinned memory, without waiting."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return Batch(
            self.rows,
            move(self.target),
            [move(x) for x in self.references],
            {name: move(x) for name, x in self.conditions.items()},
            move(self.noise),
            move(self.t),
            self.samples,
            self.text_tokens,
            self.padding,
            None if self.masks is None else move(self.masks),
        )

    def pin(self) -> Batch:
        """The tensors in page-locked memory, where a GPU can fetch them by itself."""
        self.target, self.noise, self.t = self.target.pin_memory(), self.noise.pin_memory(), self.t.pin_memory()
        self.references = [x.pin_memory() for x in self.references]
        self.conditions = {name: x.pin_memory() for name, x in self.conditions.items()}
        self.masks = None if self.masks is None else self.masks.pin_memory()
        return self


@dataclass
class Step:
    """What one device does in one step."""

    step: int
    rows: int  # of the step, on all devices together
    batches: list[Batch]
    epoch: int = 0  # the latest that a row of the step is drawn in
    spare: list[Batch] = field(default_factory=list)  # one that counts nothing, where other devices have a batch more


class Loader:
    """The steps first..recipe.steps-1 of one device out of `world`; `begins` is for Plan.steps().

    `waited` is the time in seconds that the reader has spent waiting for data. Leave the `with` block to stop
    the threads; an error while loading is raised in the reader.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        system: System,
        features: Callable[[Sample], Features],
        *,
        first: int,
        begins: tuple[int, int] = (0, 0),
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
        pin: bool = False,
        rejects: Rejects | None = None,
    ) -> None:
        self.recipe, self.plan, self.system, self.features = recipe, plan, system, features
        self.first, self.begins, self.rank, self.world, self.pin = first, begins, rank, world, pin
        self.rejects = Rejects() if rejects is None else rejects
        self.waited = 0.0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Step]:
        steps = zip(range(self.first, self.recipe.steps), self.plan.steps(self.first, self.begins))
        ahead: collections.deque[tuple[int, int, int, list[Future[Batch]]]] = collections.deque()
        for step, batches in steps:
            epoch = max(draw.epoch for draws in batches for draw in draws)
            ahead.append((step, sum(map(len, batches)), epoch, self._submit(step, batches)))
            if len(ahead) > AHEAD:
                yield self._take(*ahead.popleft())
        while ahead:
            yield self._take(*ahead.popleft())

    def _submit(self, step: int, batches: list[list[Draw]]) -> list[Future[Batch]]:
        """This device's batches, and a spare one where others have one more."""
        places = [0, *itertools.accumulate(map(len, batches))]
        # every device takes each world-th batch: what is in a batch does not depend on how many there are
        mine = range(self.rank, -(-len(batches) // self.world) * self.world, self.world)
        return [
            self._pool.submit(self.load, step, places[-1], places[k % len(batches)], batches[k % len(batches)])
            for k in mine
        ]

    def _take(self, step: int, rows: int, epoch: int, futures: list[Future[Batch]]) -> Step:
        start = time.perf_counter()
        batches = [future.result() for future in futures]
        self.waited += time.perf_counter() - start
        count = len(range(self.rank, self.recipe.batches, self.world))
        return Step(step, rows, batches[:count], epoch, batches[count:])

    def usable(self, number: int) -> tuple[Sample, Features]:
        """A sample and its features; where its row cannot be used, the next of its bucket that can.

        So a batch has its shape and its size whatever is damaged. Raises TooManyFailed.
        """
        for k in itertools.chain([number], self.plan.alike(number)):
            sample = self.plan.samples[k]
            if self.plan.rows[sample.row].id in self.rejects:
                continue
            try:
                return sample, self.features(sample)
            except Unusable as error:
                self.rejects.add(error.identity, error.reason)
                self.rejects.check()
        raise EditError(f"no row of a bucket can be used: {self.rejects.summary()}")

    def load(self, step: int, rows: int, place: int, draws: list[Draw]) -> Batch:
        """The batch of these draws, which are the rows place, place + 1, ... of a step of `rows` rows."""
        chosen = [self.usable(draw.sample) for draw in draws]
        samples, found = [sample for sample, _ in chosen], [features for _, features in chosen]
        conditions = self.system.collate([each.conditions for each in found])
        if self.pin:
            height, width = samples[0].shapes[0]
            shown = samples[0].shapes if self.system.sees_references else samples[0].shapes[:1]
            conditions = lengthened(conditions, sum(h * w for h, w in shown) // self.system.patch**2)
        # from (seed, step, place): the same whichever device draws it
        conditions = self.system.perturb(conditions, objective.generator(self.recipe.seed, step, 2, place))
        found_rows = [self.plan.rows[sample.row] for sample in samples]
        target = torch.stack([each.target for each in found]).float()
        noise = torch.stack(
            [
                objective.noise(self.recipe.seed, draw.epoch, draw.turn, row.id, tuple(target.shape[1:]))
                for draw, row in zip(draws, found_rows)
            ]
        )
        u = objective.strata(self.recipe.seed, step, rows)[place : place + len(draws)]
        height, width = samples[0].shapes[0]
        tokens = (height // self.system.patch) * (width // self.system.patch)
        mask = conditions.get("mask")
        sequence = conditions.get("states", conditions.get("words"))
        length = 0 if sequence is None else sequence.shape[1] * len(draws)
        batch = Batch(
            found_rows,
            target,
            [torch.stack([each.references[k] for each in found]).float() for k in range(len(found[0].references))],
            conditions,
            noise,
            objective.times(self.recipe, u, step, tokens),
            samples,
            length,
            0 if mask is None else int((~mask).sum()),
            self._masks(samples, *target.shape[-2:]) if self.recipe.mask_weight != 1 else None,
        )
        return batch.pin() if self.pin else batch

    def _masks(self, samples: list[Sample], height: int, width: int) -> Tensor:
        """The masks (B, 1, height, width) of samples, cut as their targets are; ones of a row without."""
        made = []
        for sample in samples:
            mask = self.plan.rows.mask(sample.row)
            if mask is None:
                made.append(torch.ones(1, height, width))
                continue
            row = self.plan.rows[sample.row]
            inside = fit(resize(mask, *row.target), *sample.shapes[0], crops(row, sample)[0])[..., 0] >= 128
            made.append(F.adaptive_avg_pool2d(torch.from_numpy(inside).float()[None], (height, width)))
        return torch.stack(made)


def lengthened(conditions: Conditions, image_tokens: int) -> Conditions:
    """Conditions with a mask, one padded place longer where a sequence's length is 64 modulo 128.

    With such a mask cuDNN's attention gives NaN in the backward pass on Hopper, from torch 2.11 on (pytorch #196678).
    Both sequences are looked at: the text's own, and the text's with all `image_tokens`.
    """
    if "mask" not in conditions or "states" not in conditions:
        return conditions
    states, mask = conditions["states"], conditions["mask"]
    more = 0
    while any((states.shape[1] + more + tokens) % 128 == 64 for tokens in (0, image_tokens)):
        more += 1
    padded = {"states": F.pad(states, (0, 0, 0, more)), "mask": F.pad(mask, (0, more))}
    return {**conditions, **padded} if more else conditions
