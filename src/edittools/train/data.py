"""Batches as tensors, made a few steps ahead of the loop by other threads."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from edittools.errors import EditError
from edittools.nets.base import SEQUENCES, Conditioning, EditModel, moved, side_by_side
from edittools.nets.images import fit, resize
from edittools.train import flow_matching
from edittools.train.bucket_sampler import BatchItem, BucketSampler, TrainSample, crops
from edittools.train.config import Recipe
from edittools.train.features import Features
from edittools.train.rejects import Rejects, Unusable
from edittools.train.rows import TrainRow

AHEAD = 4  # steps


@dataclass
class TrainBatch:
    """Rows that go through the network together."""

    rows: list[TrainRow]
    target: Tensor  # latents x_0 (B, C, h, w)
    references: list[Tensor]  # (B, C, h_i, w_i), see EditModel.network
    conditioning: Conditioning
    noise: Tensor  # ε, like target
    t: Tensor  # (B,) float32
    samples: list[TrainSample]
    text_tokens: int  # of the longest text, times B
    padding: int  # of these, how many are padding
    masks: Tensor | None = None  # (B, 1, h, w) in [0, 1]: the share of every latent under the row's mask
    rejected: Tensor | None = None  # of preference pairs, like target
    rewards: Tensor | None = None  # (B,) in [0, 1], where images are learned by their rewards

    def to(self, device: torch.device) -> TrainBatch:
        """The tensors on another device; from pinned memory, without waiting."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return TrainBatch(
            self.rows,
            move(self.target),
            [move(x) for x in self.references],
            moved(self.conditioning, device, non_blocking=True),
            move(self.noise),
            move(self.t),
            self.samples,
            self.text_tokens,
            self.padding,
            None if self.masks is None else move(self.masks),
            None if self.rejected is None else move(self.rejected),
            None if self.rewards is None else move(self.rewards),
        )

    def candidates(self, keep: list[int], target: Tensor, noise: Tensor, t: Tensor, rewards: Tensor) -> TrainBatch:
        """Some of the rows with another image each, of all of which the last four are."""
        index = torch.tensor(keep, device=self.target.device)

        def taken(x: Tensor) -> Tensor:
            return x.index_select(0, index.to(x.device))

        share = len(keep) / len(self.rows)
        return TrainBatch(
            [self.rows[k] for k in keep],
            taken(target),
            [taken(x) for x in self.references],
            {name: taken(x) for name, x in self.conditioning.items()},
            taken(noise),
            taken(t),
            [self.samples[k] for k in keep],
            round(self.text_tokens * share),
            round(self.padding * share),
            rewards=taken(rewards),
        )

    def pin(self) -> TrainBatch:
        """The tensors in page-locked memory, where a GPU can fetch them by itself."""
        self.target, self.noise, self.t = self.target.pin_memory(), self.noise.pin_memory(), self.t.pin_memory()
        self.references = [x.pin_memory() for x in self.references]
        self.conditioning = {name: x.pin_memory() for name, x in self.conditioning.items()}
        self.masks = None if self.masks is None else self.masks.pin_memory()
        self.rejected = None if self.rejected is None else self.rejected.pin_memory()
        self.rewards = None if self.rewards is None else self.rewards.pin_memory()
        return self


@dataclass
class Step:
    """The work of one device in one step."""

    step: int
    rows: int  # of the step, on all devices together
    batches: list[TrainBatch]
    epoch: int = 0  # the latest that a row of the step is drawn in
    spare: list[TrainBatch] = field(
        default_factory=list
    )  # one that counts nothing, where other devices have a batch more


class Loader:
    """The steps first..recipe.steps-1 of one device out of `world`; `begins` is for BucketSampler.steps().

    `waited` is the time in seconds that the reader has spent waiting for data. Leave the `with` block to stop
    the threads; an error while loading is raised in the reader.
    """

    def __init__(
        self,
        recipe: Recipe,
        sampler: BucketSampler,
        edit_model: EditModel,
        features: Callable[[TrainSample], Features],
        *,
        first: int,
        begins: tuple[int, int] = (0, 0),
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
        pin: bool = False,
        rejects: Rejects | None = None,
    ) -> None:
        self.recipe, self.sampler, self.edit_model, self.features = recipe, sampler, edit_model, features
        self.first, self.begins, self.rank, self.world, self.pin = first, begins, rank, world, pin
        self.rejects = Rejects() if rejects is None else rejects
        self.waited = 0.0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Step]:
        steps = zip(range(self.first, self.recipe.steps), self.sampler.steps(self.first, self.begins))
        ahead: collections.deque[tuple[int, int, int, list[Future[TrainBatch]]]] = collections.deque()
        for step, batches in steps:
            epoch = max(draw.epoch for draws in batches for draw in draws)
            ahead.append((step, sum(map(len, batches)), epoch, self._submit(step, batches)))
            if len(ahead) > AHEAD:
                yield self._take(*ahead.popleft())
        while ahead:
            yield self._take(*ahead.popleft())

    def _submit(self, step: int, batches: list[list[BatchItem]]) -> list[Future[TrainBatch]]:
        """This device's batches, and a spare one where others have one more."""
        places = [0, *itertools.accumulate(map(len, batches))]
        # every device takes each world-th batch: what is in a batch does not depend on how many there are
        mine = range(self.rank, -(-len(batches) // self.world) * self.world, self.world)
        return [
            self._pool.submit(self.load, step, places[-1], places[k % len(batches)], batches[k % len(batches)])
            for k in mine
        ]

    def _take(self, step: int, rows: int, epoch: int, futures: list[Future[TrainBatch]]) -> Step:
        start = time.perf_counter()
        batches = [future.result() for future in futures]
        self.waited += time.perf_counter() - start
        count = len(range(self.rank, self.recipe.microbatches, self.world))
        return Step(step, rows, batches[:count], epoch, batches[count:])

    def found(self, samples: Iterable[TrainSample]) -> dict[TrainSample, Features | Unusable]:
        """Features of these samples, encoded together where they are not stored."""
        good = [sample for sample in samples if self.sampler.rows[sample.row].id not in self.rejects]
        several = getattr(self.features, "several", None)
        return {} if several is None else several(good)

    def usable(
        self, number: int, found: dict[TrainSample, Features | Unusable]
    ) -> tuple[TrainSample, Features, Tensor | None]:
        """A sample, its features, its mask if masks are wanted; where its row cannot be used, the next of its bucket.

        So a batch has its shape and its size whatever is damaged. Raises TooManyFailed.
        """
        for k in itertools.chain([number], self.sampler.alike(number)):
            sample = self.sampler.samples[k]
            if self.sampler.rows[sample.row].id in self.rejects:
                continue
            try:
                made = found.get(sample) or self.features(sample)
                if isinstance(made, Unusable):
                    raise made
                wanted = self.recipe.mask_weight != 1
                return sample, made, self._mask(sample, *made.target.shape[-2:]) if wanted else None
            except Unusable as error:
                self.rejects.add(error.identity, error.reason)
                self.rejects.check()
        raise EditError(f"no row of a bucket can be used: {self.rejects.summary()}")

    def load(self, step: int, rows: int, place: int, draws: list[BatchItem]) -> TrainBatch:
        """The batch of these draws, which are the rows place, place + 1, ... of a step of `rows` rows."""
        together = self.found(self.sampler.samples[draw.sample] for draw in draws)
        chosen = [self.usable(draw.sample, together) for draw in draws]
        samples, found = [sample for sample, _, _ in chosen], [features for _, features, _ in chosen]
        found_rows = [self.sampler.rows[sample.row] for sample in samples]
        masks = [mask for _, _, mask in chosen if mask is not None]
        rejected = [each.rejected for each in found if each.rejected is not None]
        rewards = [row.reward for row in found_rows if row.reward is not None]
        conditioning = self.edit_model.collate([each.conditioning for each in found])
        if self.pin:
            height, width = samples[0].shapes[0]
            shown = samples[0].shapes if self.edit_model.sees_references else samples[0].shapes[:1]
            conditioning = lengthened(conditioning, sum(h * w for h, w in shown) // self.edit_model.patch**2)
        # from (seed, step, place): the same whichever device draws it
        conditioning = self.edit_model.augment(conditioning, flow_matching.generator(self.recipe.seed, step, 2, place))
        target = torch.stack([each.target for each in found]).float()
        noise = torch.stack(
            [
                flow_matching.noise(self.recipe.seed, draw.epoch, draw.turn, row.id, tuple(target.shape[1:]))
                for draw, row in zip(draws, found_rows)
            ]
        )
        u = flow_matching.stratified_uniform(self.recipe.seed, step, rows)[place : place + len(draws)]
        height, width = samples[0].shapes[0]
        tokens = (height // self.edit_model.patch) * (width // self.edit_model.patch)
        mask = conditioning.get("mask")
        if "order" in conditioning:  # of states and features, which has no mask
            mask = conditioning["order"] >= 0
        sequence = next((conditioning[name] for name in SEQUENCES if name in conditioning), None)
        length = 0 if sequence is None else sequence.shape[0] * sequence.shape[1]  # of a pair there are several
        references, sizes = side_by_side([each.references for each in found])
        batch = TrainBatch(
            found_rows,
            target,
            [x.float() for x in references],
            conditioning | sizes,
            noise,
            flow_matching.times(self.recipe, u, step, tokens),
            samples,
            length,
            0 if mask is None else int((~mask).sum()),
            torch.stack(masks) if masks else None,
            torch.stack(rejected).float() if rejected else None,
            torch.tensor(rewards) if rewards else None,
        )
        return batch.pin() if self.pin else batch

    def _mask(self, sample: TrainSample, height: int, width: int) -> Tensor:
        """The mask (1, height, width) of a sample, cut as its target is; ones of a row without. Raises Unusable."""
        mask = self.sampler.rows.mask(sample.row)
        if mask is None:
            return torch.ones(1, height, width)
        row = self.sampler.rows[sample.row]
        inside = fit(resize(mask, *row.target), *sample.shapes[0], crops(row, sample)[0])[..., 0] >= 128
        return F.adaptive_avg_pool2d(torch.from_numpy(inside).float()[None], (height, width))


def lengthened(conditioning: Conditioning, image_tokens: int) -> Conditioning:
    """Conditioning with a mask, one padded place longer where a sequence's length is 64 modulo 128.

    With such a mask cuDNN's attention gives NaN in the backward pass on Hopper, from torch 2.11 on (pytorch #196678).
    Both sequences are looked at: the text's own, and the text's with all `image_tokens`.
    """
    if "mask" not in conditioning or "states" not in conditioning:
        return conditioning
    states, mask = conditioning["states"], conditioning["mask"]
    more = 0
    while any((states.shape[1] + more + tokens) % 128 == 64 for tokens in (0, image_tokens)):
        more += 1
    padded = {"states": F.pad(states, (0, 0, 0, more)), "mask": F.pad(mask, (0, more))}
    return {**conditioning, **padded} if more else conditioning
