"""Which rows meet in which batch: a pure function of (rows, recipe, step), the same for every number of devices.

A row is drawn as one of a few samples: its variants, which differ in wording, language, and in the references that
are kept and their order; they take turns. A sample has a shape for each of its images; samples of equal shapes share
a bucket, and a batch is as many samples of one bucket as fit into the budget of tokens (FireRed 3.2). An epoch draws
every row as often as its weight says; what does not fill a batch waits for the next epoch, nothing is left out.

Where the texts' lengths in tokens are known, as they are with stored features, the texts of a batch are equally long
if possible: without padding there is no mask, and faster attention kernels run.

Where the architecture takes rows of other references into one batch, rows of equal target and about as many tokens
share a bucket, and what the largest of them needs decides how many fit.

A reference of about its target's aspect ratio shows the same scene: it has the target's shape and the same part of it,
so that the tokens of one place show the same place in both (`crops`). Where such an architecture also says how an image
is cut or scaled in sampling, a reference of another scene is shown so in training, whatever shape that is; so are
targets and their scenes whose shape there is their bucket's.
"""

from __future__ import annotations

import bisect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import xxhash

from edittools.errors import UsageError
from edittools.nets import mixes_references, most_references, sampled_as, sees_references, source_limits
from edittools.nets import shapes as known
from edittools.nets.images import WHOLE, Box, crop_box
from edittools.nets.shapes import Shape
from edittools.train.alignment import align
from edittools.train.config import Recipe
from edittools.train.mixture import Evener, categories, row_weights
from edittools.train.rejects import Rejects
from edittools.train.rows import CAPTIONS, EDIT_CAPTIONS, Rows, TrainRow, image_sizes

MOVED_CROP = 0.1  # the share of an image more that a sample may lose by going into another bucket than its best
FEWEST = 2  # batches an epoch that make a bucket worth having
_AT_ONCE = 1 << 12  # rows whose images meet all shapes
_LOOKED_AT = 64  # samples of a bucket among which those to move are looked for
_MEASURED = 1 << 16  # samples of an epoch whose cropped pixels are counted


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One way to use a row."""

    row: int
    text: str
    references: tuple[int, ...]  # which sources, in which order
    shapes: tuple[Shape, ...]  # of the target and of every reference
    boxes: tuple[Box, ...] | None = None  # what is shown of each; None: see crops()


@dataclass(frozen=True, slots=True)
class BatchItem:
    """A sample's turn: what its noise is keyed by."""

    sample: int
    epoch: int
    turn: int  # within the epoch, where a row is drawn more than once


@dataclass(frozen=True)
class BucketStats:
    """How well batches are filled, as shares."""

    unused: float  # of the budget of tokens
    cropped: float  # of the images' pixels
    waiting: float  # of an epoch's rows, for the next
    buckets: int


@dataclass(frozen=True)
class _Epoch:
    """Draws as columns (sample, epoch, turn), batch after batch; ends[k] is the end of batch k."""

    draws: np.ndarray  # (3, N)
    ends: np.ndarray
    order: np.ndarray  # of the batches
    waiting: np.ndarray  # (3, M): draws for the next epoch

    def batch(self, k: int) -> list[BatchItem]:
        number = self.order[k]
        start = self.ends[number - 1] if number else 0
        return [BatchItem(*draw) for draw in self.draws[:, start : self.ends[number]].T.tolist()]


class NumberedSamples(Sequence[TrainSample], ABC):
    """A sampler's samples, each made when it is asked for: sample v * len(rows) + k is variant v of row k."""

    def __init__(self, count: int, rows: int) -> None:
        self._count, self._rows = count, rows

    @abstractmethod
    def made(self, index: int, variant: int, row: int) -> TrainSample:
        """A sample by its number, which is not negative."""

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> TrainSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainSample]: ...
    def __getitem__(self, index: int | slice) -> TrainSample | list[TrainSample]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.made(index, *divmod(index, self._rows))


class TrainSamples(NumberedSamples):
    """Of rows that are images: their text, references and shapes."""

    def __init__(self, recipe: Recipe, rows: Rows, codes: np.ndarray, shapes: list[tuple[Shape, ...]]) -> None:
        """codes: the bucket of every sample, (N,). shapes: of the images of every bucket's samples."""
        super().__init__(len(codes), len(rows))
        self.recipe, self.rows, self.codes, self.shapes = recipe, rows, codes, shapes
        self._offers: _Offers = {}
        self._sampled_as = sampled_as(recipe.system, recipe.model)

    def made(self, index: int, variant: int, row: int) -> TrainSample:
        text, references = choose_text(self.recipe, self.rows[row], variant, self._offers)
        shapes = self.shapes[self.codes[index]]
        boxes = None
        if self.recipe.rollouts:  # as `edit sample` does
            boxes = (WHOLE,) * len(shapes)
        elif self._sampled_as is not None:
            boxes = tuple(_crops(self.rows[row], references, shapes, self._box))
        return TrainSample(row, text, references, shapes, boxes)

    def _box(self, size: Shape, shape: Shape) -> Box:
        """What an architecture's sampling shows of an image, where it has this shape there."""
        assert self._sampled_as is not None
        wanted, box = self._sampled_as(*size, self.recipe.resolution[1] ** 2)
        return box if wanted == shape else crop_box(*size, *shape)


class BucketSampler:
    """The samples of the rows, and the batches of every step.

    Of a row it keeps the sizes of its images, its weight, and the buckets of its variants: some 50 bytes. What a
    sample is beside that follows from the row.
    """

    def __init__(
        self, recipe: Recipe, rows: Rows, patch: int, multiple: int, one_row: bool = False,
        rejects: Rejects | None = None,
    ) -> None:  # fmt: skip
        """rejects: takes in the rows that do not fit; without, any of these is an error.

        Raises UsageError where none fits, TooManyFailed where too few do.
        """
        self.recipe, self.rows = recipe, rows
        self.lengths: np.ndarray | None = None  # tokens of every sample's text; set before the first step or not at all
        self.shapes = known.shapes(recipe.ratios, recipe.resolution, multiple)
        self.weights = row_weights(recipe, rows)
        self._sizes, self._starts = image_sizes(rows)
        self._mixed = mixes_references(recipe.system, recipe.model) and not one_row
        self._sampled_as = sampled_as(recipe.system, recipe.model) if self._mixed and not recipe.rollouts else None
        self._every = {shape: k for k, shape in enumerate(self.shapes)}  # those of sampling come behind the buckets'
        keys = self._buckets()
        every, most = list(self._every), max(h * w for h, w in self.shapes)
        # sampling may round a shape up: a few tokens more do not cost a row of so many images
        tokens = [min(h * w, most) // patch**2 for h, w in every]
        seen = None if sees_references(recipe.system, recipe.model) else 1  # images whose tokens the network sees
        self._passes = 2 if recipe.pairs else 1  # of a row: a pair's two images go through the network
        self._tokens = np.array([sum(tokens[k] for k in key[:seen]) * self._passes for key in keys])
        self._leave_out([len(key) - 1 for key in keys], rejects)
        largest: np.ndarray = self._tokens
        self._bucket: np.ndarray = np.arange(len(keys))  # of every list of shapes
        if self._mixed:
            self._bucket, largest = self._shared(keys)
        self._fit = np.ones(len(keys), int) if one_row else np.maximum(1, recipe.batch_tokens // largest)
        # where the variant begins that a row has in epoch 0
        self._offset = np.random.default_rng([recipe.seed, 3]).integers(0, recipe.variants, len(rows), np.uint16)
        self.samples = TrainSamples(recipe, rows, self._code, [tuple(every[k] for k in key) for key in keys])
        if not self._mixed:
            self._rebalance(keys)

    def _shared(self, keys: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """The bucket of every list of shapes where references may differ, and the most tokens of a row in each."""
        buckets: dict[tuple[int, int], int] = {}
        found = np.empty(len(keys), int)
        for code, key in enumerate(keys):
            # each row is padded to the longest: by less than its own length
            doubled = int(self._tokens[code] - 1).bit_length()
            found[code] = buckets.setdefault((key[0], doubled), len(buckets))
        largest = np.zeros(len(buckets), int)
        np.maximum.at(largest, found, self._tokens)
        return found, largest

    def _leave_out(self, references: list[int], rejects: Rejects | None) -> None:
        """Never draw a row with more tokens than a batch may have, or more references than the model takes, in any of
        its variants, or a source of a size that it does not take.

        references: how many there are in every bucket.
        """
        budget, total = self.recipe.batch_tokens, len(self.rows)
        most = most_references(self.recipe.system, self.recipe.model)
        most = max(references, default=0) if most is None else most
        too_many = (self._tokens > budget) | (np.array(references) > most)
        where = np.flatnonzero(too_many[self._code])
        rows = {int(k) % total: int(k) for k in where[::-1]}
        reasons = self._odd_sources()
        for row, k in sorted(rows.items()):
            code = int(self._code[k])
            used = int(self._tokens[code])
            count = references[code]
            reasons[row] = f"a row of {count} references has {used} image tokens, and `batch_tokens` is {budget}"
            if count > most:
                reasons[row] = f"a row of {count} references, and the model takes {most}"
        if not reasons:
            return
        if rejects is None or len(reasons) == total:
            raise UsageError(next(iter(reasons.values())))
        for row, reason in reasons.items():
            rejects.add(self.rows[row].id, reason)
        rejects.check()
        self.weights[list(reasons)] = 0
        if not self.weights.any():
            raise UsageError("the rows that `batch_tokens` has room for are never drawn", hint="`task_weights`")
        self.weights *= total / self.weights.sum()

    def _odd_sources(self) -> dict[int, str]:
        """The rows with a source of a size that the architecture does not take, and why, in the words of sampling."""
        smallest, most = source_limits(self.recipe.system, self.recipe.model)
        if smallest <= 1 and most == float("inf"):
            return {}
        short, long = self._sizes.min(1), self._sizes.max(1)
        odd = (short < smallest) | (long > most * short)
        odd[self._starts[:-1]] = False  # targets
        found: dict[int, str] = {}
        for k in np.flatnonzero(odd).tolist():
            row = int(np.searchsorted(self._starts, k, "right")) - 1
            if short[k] < smallest:
                found.setdefault(row, f"a source picture of less than {smallest} pixels: {short[k]}")
            else:
                found.setdefault(row, f"one side is more than {most} times the other: {long[k] / short[k]:.1f}")
        return found

    # ---------------------------------------------------------------------------------------------- buckets

    def _best(self, first: int, last: int) -> np.ndarray:
        """The numbers of the best shapes of the images first..last-1, whole rows, before any is moved."""
        best = known.choose(self._sizes[first:last], self.shapes)
        tied, targets = self._tied(first, last)
        if self._sampled_as is not None:
            for k in np.flatnonzero(~tied):
                height, width = self._sizes[first + k].tolist()
                shape, _ = self._sampled_as(height, width, self.recipe.resolution[1] ** 2)
                best[k] = self._every.setdefault(shape, len(self._every))
        return np.where(tied, best[targets], best)

    def _tied(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the same images: which follow their target's shape, and where from `first` on that lies.

        A target does, and every reference of its scene.
        """
        begin, end = np.searchsorted(self._starts, (first, last))
        counts = np.diff(self._starts[begin : end + 1])
        targets = np.repeat(self._starts[begin:end] - first, counts)
        sizes = self._sizes[first:last]
        return known.same_scene(sizes, sizes[targets]), targets

    def _buckets(self) -> list[tuple[int, ...]]:
        """Find every sample's bucket, its number in the list of keys: the shapes of its images, by number."""
        recipe, rows = self.recipe, len(self.rows)
        varied = recipe.variants > 1 or recipe.shuffle_references or recipe.drop_references
        keys: dict[tuple[int, ...], int] = {}
        codes = np.empty((recipe.variants, rows), np.uint32)
        offers: _Offers = {}
        for first in range(0, rows, _AT_ONCE):
            last = min(first + _AT_ONCE, rows)
            starts = self._starts[first : last + 1] - self._starts[first]
            best = self._best(self._starts[first], self._starts[last]).tolist()
            for k, (start, end) in enumerate(itertools.pairwise(starts.tolist()), first):
                mine = best[start:end]
                codes[:, k] = keys.setdefault(tuple(mine), len(keys))
                if varied and len(mine) > 2:  # references in another order, or fewer
                    row = self.rows[k]
                    for variant in range(recipe.variants):
                        _, references = choose_text(recipe, row, variant, offers)
                        key = (mine[0], *(mine[1 + r] for r in references))
                        codes[variant, k] = keys.setdefault(key, len(keys))
        self._code = codes.reshape(-1)
        if len(keys) < 1 << 16:
            self._code = self._code.astype(np.uint16)
        return list(keys)

    def _rebalance(self, keys: list[tuple[int, ...]]) -> None:
        """Move samples to other buckets, so that few of an epoch are left when batches are full.

        Bucket after bucket, the smallest first, gives what does not fill its batches to the larger ones: those samples
        that lose least by it. Where rows are drawn by weight the buckets of an epoch differ from those of the next, and
        only rare buckets are emptied.
        """
        even = bool(np.ptp(self.weights) == 0)
        rows, variants = len(self.rows), self.recipe.variants
        # the samples that one epoch draws, for each of the `variants` epochs that differ
        for epoch in range(variants if even else 1):
            if even:
                drawn = (self._offset.astype(np.int64) + epoch) % variants * rows + np.arange(rows)
                count = np.bincount(self._code[drawn], minlength=len(keys)).astype(float)
            else:
                count = np.zeros(len(keys))
                for variant in range(variants):
                    count += np.bincount(self._code[variant * rows :][:rows], self.weights / variants, len(keys))
            rare = count < FEWEST * self._fit
            if not even:
                drawn = np.flatnonzero(rare[self._code] & np.tile(self.weights > 0, variants))
            members, sizes = self._members(drawn, rare)
            order = sorted(np.flatnonzero(count).tolist(), key=lambda code: (count[code], keys[code]))
            larger = {keys[code]: code for code in order}
            for code in order:
                del larger[keys[code]]
                fit, few = int(self._fit[code]), count[code] < FEWEST * self._fit[code]
                if not (few or even):
                    continue
                mine = members.get(code, [])
                give = len(mine) if few else sizes[code] % fit
                for _, sample, to in sorted(self._moves(mine, keys[code], larger))[:give]:
                    if to in members and (rare[to] or len(members[to]) < _LOOKED_AT):
                        members[to].append(sample)
                    sizes[to] += 1
                    count[to] += 1 if even else self.weights[sample % rows] / variants
                    self._code[sample] = to

    def _members(self, drawn: np.ndarray, rare: np.ndarray) -> tuple[dict[int, list[int]], list[int]]:
        """Samples by bucket, all of a rare one and at most _LOOKED_AT of others, and the size of every bucket."""
        codes = self._code[drawn]
        sizes = np.bincount(codes, minlength=len(rare))
        by_code = np.argsort(codes, kind="stable")
        ends = np.cumsum(sizes)
        members = {}
        for code in np.flatnonzero(sizes).tolist():
            start = ends[code] - sizes[code]
            end = ends[code] if rare[code] else min(ends[code], start + _LOOKED_AT)
            members[code] = drawn[by_code[start:end]].tolist()
        return members, sizes.tolist()

    def _moves(
        self, samples: Sequence[int], now: tuple[int, ...], larger: dict[tuple[int, ...], int]
    ) -> list[tuple[float, int, int]]:
        """For every sample the other bucket that crops least, if one is near: (cost, sample, bucket)."""
        areas = np.array([h * w for h, w in self.shapes], float)
        moves = []
        for sample in samples if larger else ():
            row = sample % len(self.rows)
            first, last = self._starts[row], self._starts[row + 1]
            images = [0, *(1 + r for r in self.samples[sample].references)]
            lost = known.cropped(self._sizes[first:last][images], self.shapes)
            best = self._best(first, last)[images][:, None]
            follows = self._tied(first, last)[0][images].tolist()
            each = lost - np.take_along_axis(lost, best, 1)
            # neither much smaller nor larger than the image's best shape
            each[(each > MOVED_CROP) | (np.abs(np.log(areas / areas[best])) > known.NEARBY)] = np.inf
            each[0] *= sum(follows)  # what follows the target loses as much
            chosen = [0] * len(images)  # of the free images, which one each follows
            free = [p for p in range(len(images)) if not (p and follows[p])]
            for position, p in enumerate(free):
                chosen[p] = position
            choices = [[(cost, k) for k, cost in enumerate(each[p].tolist()) if cost < np.inf] for p in free]
            options = [
                (sum(cost for cost, _ in option), larger[key])
                for option in itertools.product(*choices)
                if (key := tuple(option[position][1] for position in chosen)) in larger
            ]
            if options:
                cost, to = min(options)
                moves.append((cost, sample, to))
        return moves

    # ------------------------------------------------------------------------------------------------ steps

    def key(self) -> str:
        """Stands for all that decides which rows meet in which batch."""
        about = (
            self.rows.data_id,
            self.recipe.seed,
            self.recipe.microbatches,
            self.recipe.variants,
            self.recipe.resample,
        )
        state = xxhash.xxh3_128(repr(about).encode())
        for part in (self.weights, self._code, self._fit, self.lengths):
            if part is not None:
                state.update(np.ascontiguousarray(part).tobytes())
        return state.hexdigest()

    def alike(self, sample: int) -> Iterator[int]:
        """The other samples of a sample's bucket that are drawn at all, from the next one on."""
        buckets = self._bucket[self._code]
        same = np.flatnonzero(buckets == buckets[sample])
        for k in np.roll(same, -1 - int(np.searchsorted(same, sample))).tolist():
            if k != sample and self.weights[k % len(self.rows)]:
                yield k

    def epochs(self) -> Iterator[tuple[list[list[BatchItem]], int]]:
        """Epoch after epoch: its batches in their order, and how many draws wait for the next epoch."""
        for epoch in self._epochs():
            yield [epoch.batch(k) for k in range(len(epoch.order))], epoch.waiting.shape[1]

    def _epochs(self, first: int = 0) -> Iterator[_Epoch]:
        draws = np.empty((3, 0), int)
        evener = Evener(categories(self.rows), self.weights) if self.recipe.resample else None
        for epoch in itertools.count(first):
            # those that wait come first in their bucket
            draws = np.concatenate([draws, self._draws(epoch)], 1)
            code = self._bucket[self._code[draws[0]]]
            count = np.bincount(code, minlength=len(self._fit))
            full = count // self._fit * self._fit
            by_code = np.argsort(code, kind="stable")
            rank = np.arange(len(code)) - np.repeat(np.cumsum(count) - count, count)  # within the bucket
            batched = rank < full[code[by_code]]
            ends = np.cumsum(np.repeat(self._fit, full // self._fit))
            order = np.random.default_rng([self.recipe.seed, epoch, 2]).permutation(len(ends))
            waiting = draws[:, by_code[~batched]]
            chosen = by_code[batched]
            alike = [] if self.lengths is None else [self.lengths[draws[0, chosen]]]
            alike += [self._tokens[self._code[draws[0, chosen]]]] if self._mixed else []
            if alike:
                # which wait is decided already: not always the longest
                chosen = chosen[np.lexsort((*alike, code[chosen]))]
            if evener is not None:
                rows = np.split(draws[0, chosen] % len(self.rows), ends[:-1]) if len(ends) else []
                order = order[evener.order([rows[k] for k in order])]
            yield _Epoch(draws[:, chosen], ends, order, waiting)
            draws = waiting

    def _draws(self, epoch: int) -> np.ndarray:
        """Every row as often as its weight says, in a random order: (sample, epoch, turn) as columns."""
        random = np.random.default_rng([self.recipe.seed, epoch, 1])
        # Systematic sampling: row i is drawn floor(w_i) or ceil(w_i) times, w_i on average. Rows of equal weight lie
        # together, so that each epoch draws as many of them as it should, in whatever order the data has them.
        order = random.permutation(len(self.rows))
        order = order[np.argsort(self.weights[order], kind="stable")]
        edges = np.floor(np.concatenate([[0.0], np.cumsum(self.weights[order])]) + random.random())
        times = np.diff(edges).astype(int)
        rows = np.repeat(order, times)
        turns = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
        variant = (self._offset[rows] + epoch + turns) % self.recipe.variants
        draws = np.stack([variant * len(self.rows) + rows, np.full(len(rows), epoch), turns])
        return draws[:, random.permutation(len(rows))]

    def steps(self, first: int, begins: tuple[int, int] = (0, 0)) -> Iterator[list[list[BatchItem]]]:
        """The batches of step `first` and of every step after it: `microbatches` of them each.

        begins   a step before, and the number of the epoch that begins with it
        """
        need, skip = self.recipe.microbatches, (first - begins[0]) * self.recipe.microbatches
        held: list[list[BatchItem]] = []
        empty = 0
        for epoch in self._epochs(begins[1]):
            empty = 0 if len(epoch.order) else empty + 1
            if empty > max(self._fit):
                raise UsageError("no bucket ever fills a batch", hint="fewer `batch_tokens`")
            for k in range(skip, len(epoch.order)):
                held.append(epoch.batch(k))
                if len(held) == need:
                    yield held
                    held = []
            skip = max(0, skip - len(epoch.order))

    def tokens(self) -> int:
        """Image tokens of a row of the largest bucket."""
        return int(self._tokens[self._heaviest()]) // self._passes

    def _heaviest(self) -> int:
        """The bucket whose batch has most image tokens, of those with most in a row."""
        there = np.flatnonzero(np.bincount(self._code, minlength=len(self._bucket)))
        fit = self._fit[self._bucket]
        return int(max(there, key=lambda code: (self._tokens[code] * fit[code], self._tokens[code])))

    def largest(self) -> list[BatchItem]:
        """The draws of a batch that needs as much memory as any: of the largest bucket, with the longest texts."""
        code = self._heaviest()
        mine = np.flatnonzero(self._code == code)
        if self.lengths is not None:
            mine = mine[np.argsort(-self.lengths[mine], kind="stable")]
        return [BatchItem(int(k), 0, 0) for k in np.resize(mine, self._fit[self._bucket[code]])]

    def use(self) -> BucketStats:
        """How well the first epoch's batches are filled; the pixels are those of its first 65536 samples."""
        epoch = next(self._epochs())
        drawn, waiting = epoch.draws[0], epoch.waiting.shape[1]
        budget = len(epoch.order) * self.recipe.batch_tokens
        pixels = lost = 0.0
        for number in drawn[:_MEASURED].tolist():
            sample = self.samples[number]
            row = self._sizes[self._starts[sample.row] :]
            mine = row[[0, *(1 + r for r in sample.references)]]
            areas = mine.astype(float).prod(1)
            pixels += areas.sum()
            lost += (areas * known.cropped_by(mine, np.array(sample.shapes))).sum()
        return BucketStats(
            1 - float(self._tokens[self._code[drawn]].sum()) / budget if budget else 0.0,
            float(lost / max(1, pixels)),
            waiting / max(1, waiting + len(drawn)),
            len(np.unique(self._code)),
        )


def crops(row: TrainRow, sample: TrainSample) -> list[Box]:
    """The part of its target and of each of its references that a sample shows: the same part of the same scene."""
    if sample.boxes is not None:
        return list(sample.boxes)
    return _crops(row, sample.references, sample.shapes, lambda size, shape: crop_box(*size, *shape))


def _crops(
    row: TrainRow, references: Sequence[int], shapes: Sequence[Shape], box: Callable[[Shape, Shape], Box]
) -> list[Box]:
    boxes = [box(row.target, shapes[0])]
    for reference, shape in zip(references, shapes[1:]):
        size = row.sources[reference]
        same = shape == shapes[0] and known.same_scene(np.array(size), np.array(row.target))
        boxes.append(boxes[0] if same else box(size, shape))
    return boxes


_LOW = 0xFFFFFFFF
_Offers = dict[tuple[bool, tuple[tuple[str, str], ...]], tuple[list[float], list[list[tuple[str, str]]]]]


def choose_text(
    recipe: Recipe, row: TrainRow, variant: int, offers: _Offers | None = None
) -> tuple[str, tuple[int, ...]]:
    """A text of the row and its references: what the recipe's shares, and chance, make of them.

    A pure function of (seed, variant, id). `offers` keeps what rows with the same kinds of text have in common.
    """
    offers = {} if offers is None else offers
    about = bool(row.sources), tuple(row.texts)
    if about not in offers:
        offers[about] = _offered(recipe, *about)
    shares, texts = offers[about]
    # every row has the same numbers, so that one setting does not change what another one draws
    chance = xxhash.xxh3_128_intdigest(f"{recipe.seed} {variant} {row.id}".encode())
    which, language, dropped = (chance & _LOW) / 2**32, (chance >> 32 & _LOW) / 2**32, (chance >> 64 & _LOW) / 2**32
    spoken = texts[bisect.bisect_right(shares, which * shares[-1])]
    text = row.texts[spoken[int(language * len(spoken))]]
    references: Sequence[int] = range(len(row.sources))
    if len(row.sources) > 1 and (recipe.shuffle_references or recipe.drop_references):
        text, references = align(
            text, len(row.sources), shuffle=recipe.shuffle_references, drop=recipe.drop_references,
            random=np.random.default_rng(chance),
        )  # fmt: skip
    return ("" if dropped < recipe.caption_dropout else text), tuple(references)


def _offered(
    recipe: Recipe, edits: bool, texts: tuple[tuple[str, str], ...]
) -> tuple[list[float], list[list[tuple[str, str]]]]:
    """The kinds of text to choose from: the running sum of their shares, and the (kind, language) of each."""
    languages = ("en", "zh") if recipe.language == "both" else (recipe.language,)
    wanted = text_shares(recipe, edits)
    known = sorted({kind for kind, language in texts if language in languages})
    shares = {kind: wanted[kind] for kind in known if wanted.get(kind)}
    if not shares and edits:  # as `edit sample` does: the instruction, else the caption
        shares = {kind: 1.0 for kind in ("instruction", "instructive", "original") if kind in known}
        shares = dict(list(shares.items())[:1])
    shares = shares or dict.fromkeys(known, 1.0)
    return (
        list(itertools.accumulate(shares.values())),
        [[(kind, language) for language in languages if (kind, language) in texts] for kind in shares],
    )


def text_shares(recipe: Recipe, edits: bool) -> dict[str, float]:
    """The shares of the kinds of text: of instructions for rows with sources, of captions for rows without.

    Where only `captions` are given, instructions are mixed by them too: see EDIT_CAPTIONS.
    """
    if not edits:
        return recipe.captions or dict.fromkeys(CAPTIONS, 1.0)
    if recipe.instruction_styles or not recipe.captions:
        return recipe.instruction_styles or {"instruction": 1.0}
    styles = {kind: EDIT_CAPTIONS.get(kind, []) for kind in recipe.captions}
    return {name: share / len(styles[kind]) for kind, share in recipe.captions.items() for name in styles[kind]}
