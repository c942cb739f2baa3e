"""Which rows meet in which batch: a pure function of (rows, recipe, step), the same for every number of devices.

A row is drawn as one of a few samples: its variants, which differ in wording, language, and in the references that
are kept and their order; they take turns. A sample has a shape for each of its pictures; samples of equal shapes share
a bucket, and a batch is as many samples of one bucket as fit into the budget of tokens [SPEC T3]. An epoch draws every
row as often as its weight says; what does not fill a batch waits for the next epoch, nothing is left out.

Where the texts' lengths in tokens are known, as they are with stored features, the texts of a batch are equally long
if possible: without padding there is no mask, and faster attention kernels run.

A reference of about its target's aspect ratio shows the same scene: it has the target's shape and the same part of it,
so that the tokens of one place show the same place in both (`crops`).
"""

from __future__ import annotations

import array
import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from edittools.errors import UsageError
from edittools.models import shapes as known
from edittools.models.pictures import Box, crop_box
from edittools.models.shapes import Shape
from edittools.models.systems import sees_references
from edittools.train.alignment import align
from edittools.train.config import Recipe
from edittools.train.mixture import Evener, categories, row_weights
from edittools.train.rows import CAPTIONS, EDIT_CAPTIONS, Row, Rows

MOVED_CROP = 0.1  # the share of a picture more that a sample may lose by going into another bucket than its best
FEWEST = 2  # batches an epoch that make a bucket worth having
SAME_SCENE = 0.06  # aspect ratios whose logarithms differ by less: sides rounded to 16 or 32 pixels differ so much
_AT_ONCE = 1 << 16  # pictures
_LOOKED_AT = 64  # samples of a bucket among which those to move are looked for


@dataclass(frozen=True, slots=True)
class Sample:
    """One way to use a row."""

    row: int
    text: str
    references: tuple[int, ...]  # which sources, in which order
    shapes: tuple[Shape, ...]  # of the target and of every reference


@dataclass(frozen=True, slots=True)
class Draw:
    """A sample's turn: what its noise is keyed by."""

    sample: int
    epoch: int
    turn: int  # within the epoch, where a row is drawn more than once


@dataclass(frozen=True)
class Use:
    """How well batches are filled, as shares."""

    unused: float  # of the budget of tokens
    cropped: float  # of the pictures' pixels
    waiting: float  # of an epoch's rows, for the next
    buckets: int


@dataclass(frozen=True)
class _Epoch:
    """Draws as columns (sample, epoch, turn), batch after batch; ends[k] is the end of batch k."""

    draws: np.ndarray  # (3, N)
    ends: np.ndarray
    order: np.ndarray  # of the batches
    waiting: np.ndarray  # (3, M): draws for the next epoch

    def batch(self, k: int) -> list[Draw]:
        number = self.order[k]
        start = self.ends[number - 1] if number else 0
        return [Draw(*draw) for draw in self.draws[:, start : self.ends[number]].T.tolist()]


class Plan:
    """The samples of the rows, and the batches of every step."""

    def __init__(self, recipe: Recipe, rows: Rows, patch: int, multiple: int, one_row: bool = False) -> None:
        self.recipe, self.rows = recipe, rows
        self.lengths: np.ndarray | None = None  # tokens of every sample's text; set before the first step or not at all
        self.shapes = known.shapes(recipe.ratios, recipe.sides, multiple)
        self.weights = row_weights(recipe, rows)
        # sample v * len(rows) + k is variant v of row k
        said: list[tuple[str, tuple[int, ...]]] = []
        sizes = array.array("q")
        offers: _Offers = {}
        for variant in range(recipe.variants):
            for k in range(len(rows)):
                row = rows[k]
                text, references = choose_text(recipe, row, variant, offers)
                said.append((text, references))
                sizes.extend(row.target)
                for r in references:
                    sizes.extend(row.sources[r])
        self._sizes = np.array(sizes).reshape(-1, 2)
        self._ends = np.cumsum([1 + len(references) for _, references in said])
        self._best = np.concatenate(
            [known.choose(self._sizes[k : k + _AT_ONCE], self.shapes) for k in range(0, len(self._sizes), _AT_ONCE)]
        )
        # A target, and every reference of its scene, follows the target's shape.
        counts = np.diff(self._ends, prepend=0)
        targets = np.repeat(self._ends - counts, counts)
        ratios = np.log(self._sizes[:, 0] / self._sizes[:, 1])
        self._tied = np.abs(ratios - ratios[targets]) < SAME_SCENE
        self._best = np.where(self._tied, self._best[targets], self._best)
        self._numbers = self._best.copy()  # of the shape of every picture
        tokens = [h * w // patch**2 for h, w in self.shapes]
        seen = None if sees_references(recipe.system, recipe.model) else 1  # pictures whose tokens the network sees
        keys: dict[tuple[int, ...], int] = {}
        self._code = self._codes(keys)
        self._fit = np.empty(len(keys), int)
        for key, code in keys.items():
            used = sum(tokens[k] for k in key[:seen])
            if used > recipe.batch_tokens:
                raise UsageError(
                    f"a row of {len(key) - 1} references has {used} image tokens, "
                    f"and `batch_tokens` is {recipe.batch_tokens}"
                )
            self._fit[code] = 1 if one_row else recipe.batch_tokens // used
        self._tokens = np.array([sum(tokens[k] for k in key[:seen]) for key in keys])
        # where the variant begins that a row has in epoch 0
        self._offset = np.random.default_rng([recipe.seed, 3]).integers(0, recipe.variants, len(rows))
        self._even_out(keys)
        each = {code: tuple(self.shapes[k] for k in key) for key, code in keys.items()}
        self.samples = [
            Sample(k % len(rows), *words, each[code]) for k, (words, code) in enumerate(zip(said, self._code.tolist()))
        ]

    def _codes(self, keys: dict[tuple[int, ...], int]) -> np.ndarray:
        """The bucket of every sample, its number in `keys`; new ones are added."""
        flat, start, found = self._numbers.tolist(), 0, []
        for end in self._ends.tolist():
            found.append(keys.setdefault(tuple(flat[start:end]), len(keys)))
            start = end
        return np.array(found)

    # ---------------------------------------------------------------------------------------------- buckets

    def _even_out(self, keys: dict[tuple[int, ...], int]) -> None:
        """Move samples to other buckets, so that few of an epoch are left when batches are full.

        Bucket after bucket, the smallest first, gives what does not fill its batches to the larger ones: those samples
        that lose least by it. Where rows are drawn by weight the buckets of an epoch differ from those of the next, and
        only rare buckets are emptied.
        """
        even = bool(np.ptp(self.weights) == 0)
        shapes = list(keys)
        rows, starts = len(self.rows), self._ends - np.diff(self._ends, prepend=0)
        variants = self.recipe.variants
        expected = np.ones(len(self._code)) if even else np.tile(self.weights, variants) / variants
        # the samples that one epoch draws, for each of the `variants` epochs that differ
        for epoch in range(variants if even else 1):
            if even:
                drawn = (self._offset + epoch) % variants * rows + np.arange(rows)
            else:
                drawn = np.flatnonzero(expected)
            codes = self._code[drawn]
            count = np.bincount(codes, expected[drawn], len(shapes))
            ends = np.cumsum(np.bincount(codes, minlength=len(shapes)))
            sorted_ = np.split(drawn[np.argsort(codes, kind="stable")], ends[:-1])
            members = {code: mine.tolist() for code, mine in enumerate(sorted_) if len(mine)}
            order = sorted(members, key=lambda code: (count[code], shapes[code]))
            larger = {shapes[code]: code for code in order}
            for code in order:
                del larger[shapes[code]]
                fit, mine = int(self._fit[code]), members[code]
                rare = count[code] < FEWEST * fit
                if not (rare or even):
                    continue
                give = len(mine) if rare else len(mine) % fit
                moves = self._moves(mine if rare else mine[:_LOOKED_AT], starts, shapes[code], larger)
                for _, sample, to in sorted(moves)[:give]:
                    members[to].append(sample)
                    count[to] += expected[sample]
                    self._code[sample] = to
                    self._numbers[starts[sample] : self._ends[sample]] = shapes[to]

    def _moves(
        self, samples: Sequence[int], starts: np.ndarray, now: tuple[int, ...], larger: dict[tuple[int, ...], int]
    ) -> list[tuple[float, int, int]]:
        """For every sample the other bucket that crops least, if one is near: (cost, sample, bucket)."""
        pictures = len(now)
        at = starts[np.array(samples, int)][:, None] + np.arange(pictures)
        tied = self._tied[at]
        lost = known.cropped(self._sizes[at].reshape(-1, 2), self.shapes)
        best = self._best[at].reshape(-1, 1)
        areas = np.array([h * w for h, w in self.shapes], float)
        more = lost - np.take_along_axis(lost, best, 1)
        # neither much smaller nor larger than the picture's best shape
        more[(more > MOVED_CROP) | (np.abs(np.log(areas / areas[best])) > known.NEARBY)] = np.inf
        found = []
        for sample, each, follows in zip(samples, more.reshape(len(samples), pictures, -1), tied.tolist()):
            each[0] *= sum(follows)  # what follows the target loses as much
            chosen = [0] * pictures  # of the free pictures, which one each follows
            free = [p for p in range(pictures) if not (p and follows[p])]
            for place, p in enumerate(free):
                chosen[p] = place
            choices = [[(cost, k) for k, cost in enumerate(each[p].tolist()) if cost < np.inf] for p in free]
            options = [
                (sum(cost for cost, _ in option), larger[key])
                for option in itertools.product(*choices)
                if (key := tuple(option[place][1] for place in chosen)) in larger
            ]
            if options:
                cost, to = min(options)
                found.append((cost, sample, to))
        return found

    # ------------------------------------------------------------------------------------------------ steps

    def key(self) -> str:
        """Stands for all that decides which rows meet in which batch."""
        about = (self.rows.data_id, self.recipe.seed, self.recipe.batches, self.recipe.variants, self.recipe.resample)
        state = xxhash.xxh3_128(repr(about).encode())
        for part in (self.weights, self._code, self._fit, self.lengths):
            if part is not None:
                state.update(np.ascontiguousarray(part).tobytes())
        return state.hexdigest()

    def epochs(self) -> Iterator[tuple[list[list[Draw]], int]]:
        """Epoch after epoch: its batches in their order, and how many draws wait for the next epoch."""
        for epoch in self._epochs():
            yield [epoch.batch(k) for k in range(len(epoch.order))], epoch.waiting.shape[1]

    def _epochs(self, first: int = 0) -> Iterator[_Epoch]:
        draws = np.empty((3, 0), int)
        evener = Evener(categories(self.rows), self.weights) if self.recipe.resample else None
        for epoch in itertools.count(first):
            # those that wait come first in their bucket
            draws = np.concatenate([draws, self._draws(epoch)], 1)
            code = self._code[draws[0]]
            count = np.bincount(code, minlength=len(self._fit))
            full = count // self._fit * self._fit
            by_code = np.argsort(code, kind="stable")
            place = np.arange(len(code)) - np.repeat(np.cumsum(count) - count, count)  # within the bucket
            batched = place < full[code[by_code]]
            ends = np.cumsum(np.repeat(self._fit, full // self._fit))
            order = np.random.default_rng([self.recipe.seed, epoch, 2]).permutation(len(ends))
            waiting = draws[:, by_code[~batched]]
            chosen = by_code[batched]
            if self.lengths is not None:
                # which wait is decided already: not always the longest
                chosen = chosen[np.lexsort((self.lengths[draws[0, chosen]], code[chosen]))]
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

    def steps(self, first: int, begins: tuple[int, int] = (0, 0)) -> Iterator[list[list[Draw]]]:
        """The batches of step `first` and of every step after it: `recipe.batches` of them each.

        begins   a step before, and the number of the epoch that begins with it
        """
        need, skip = self.recipe.batches, (first - begins[0]) * self.recipe.batches
        held: list[list[Draw]] = []
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

    def use(self) -> Use:
        """How well the first epoch's batches are filled."""
        epoch = next(self._epochs())
        drawn, waiting = epoch.draws[0], epoch.waiting.shape[1]
        budget = len(epoch.order) * self.recipe.batch_tokens
        times = np.bincount(drawn, minlength=len(self._ends))  # of every sample
        pixels = self._sizes.prod(1) * np.repeat(times, np.diff(self._ends, prepend=0))
        lost = pixels * known.cropped_by(self._sizes, np.array(self.shapes)[self._numbers])
        return Use(
            1 - float(self._tokens[self._code[drawn]].sum()) / budget if budget else 0.0,
            float(lost.sum() / max(1, pixels.sum())),
            waiting / max(1, waiting + len(drawn)),
            len(np.unique(self._code)),
        )


def crops(row: Row, sample: Sample) -> list[Box]:
    """The part of its target and of each of its references that a sample shows: the same part of the same scene."""
    height, width = row.target
    target = crop_box(height, width, *sample.shapes[0])
    boxes = [target]
    for reference, shape in zip(sample.references, sample.shapes[1:]):
        h, w = row.sources[reference]
        same = shape == sample.shapes[0] and abs(np.log(h / w) - np.log(height / width)) < SAME_SCENE
        boxes.append(target if same else crop_box(h, w, *shape))
    return boxes


_LOW = 0xFFFFFFFF
_Offers = dict[tuple[bool, tuple[tuple[str, str], ...]], tuple[list[float], list[list[tuple[str, str]]]]]


def choose_text(recipe: Recipe, row: Row, variant: int, offers: _Offers | None = None) -> tuple[str, tuple[int, ...]]:
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
    return ("" if dropped < recipe.drop_text else text), tuple(references)


def _offered(
    recipe: Recipe, edits: bool, texts: tuple[tuple[str, str], ...]
) -> tuple[list[float], list[list[tuple[str, str]]]]:
    """The kinds of text to choose from: the running sum of their shares, and the (kind, language) of each."""
    languages = ("en", "zh") if recipe.language == "both" else (recipe.language,)
    wanted = text_shares(recipe, edits)
    known = sorted({kind for kind, language in texts if language in languages})
    shares = {kind: wanted[kind] for kind in known if wanted.get(kind)} or dict.fromkeys(known, 1.0)
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
    if recipe.wordings or not recipe.captions:
        return recipe.wordings or {"instruction": 1.0}
    styles = {kind: EDIT_CAPTIONS.get(kind, []) for kind in recipe.captions}
    return {name: share / len(styles[kind]) for kind, share in recipe.captions.items() for name in styles[kind]}
