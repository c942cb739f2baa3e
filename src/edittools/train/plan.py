"""Which rows meet in which batch: a pure function of (rows, recipe, step), the same for every number of devices.

A row is drawn as one of a few samples: its variants, which differ in wording, language, and in the references that
are kept and their order. A sample has a shape for each of its pictures; samples of equal shapes share a bucket, and
a batch is as many samples of one bucket as fit into the budget of tokens [SPEC T3]. An epoch draws every row as often
as its weight says; what does not fill a batch waits for the next epoch, nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xxhash

from edittools.errors import UsageError
from edittools.models import shapes as known
from edittools.models.shapes import Shape
from edittools.train.alignment import align
from edittools.train.config import Recipe
from edittools.train.rows import CAPTIONS, Row, Rows

MERGED_CROP = 0.1  # the share of a picture more that a sample of a rare bucket may lose by going into a common one


@dataclass(frozen=True)
class Sample:
    """One way to use a row."""

    row: int
    text: str
    references: tuple[int, ...]  # which sources, in which order
    shapes: tuple[Shape, ...]  # of the target and of every reference


@dataclass(frozen=True)
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


class Plan:
    """The samples of the rows, and the batches of every step."""

    def __init__(self, recipe: Recipe, rows: Rows, patch: int, multiple: int, one_row: bool = False) -> None:
        self.recipe, self.rows = recipe, rows
        self.shapes = known.shapes(recipe.ratios, recipe.sides, multiple)
        self.samples: list[Sample] = []
        self.variants: list[list[int]] = []  # of every row: its samples
        numbers: list[list[int]] = []  # of every sample: its shapes' numbers
        sizes: list[list[tuple[int, int]]] = []
        seen: dict[tuple[str, tuple[int, ...]], int]
        for k in range(len(rows)):
            row, seen, mine = rows[k], {}, []
            for variant in range(recipe.variants):
                random = np.random.default_rng([recipe.seed, variant, xxhash.xxh64_intdigest(row.id.encode())])
                text, references = choose_text(recipe, row, random)
                if (text, references) not in seen:
                    seen[text, references] = len(self.samples)
                    self.samples.append(Sample(k, text, references, ()))
                    sizes.append([row.target, *(row.sources[r] for r in references)])
                mine.append(seen[text, references])
            self.variants.append(mine)
        flat = known.choose(np.array([size for each in sizes for size in each]), self.shapes).tolist()
        at = 0
        for each in sizes:
            numbers.append(flat[at : at + len(each)])
            at += len(each)
        self.weights = row_weights(recipe, rows)
        tokens = [h * w // patch**2 for h, w in self.shapes]
        cost = {key: sum(tokens[k] for k in key) for key in map(tuple, numbers)}
        if too_long := [key for key, used in cost.items() if used > recipe.batch_tokens]:
            raise UsageError(
                f"a row of {len(too_long[0]) - 1} references has {cost[too_long[0]]} image tokens, "
                f"and `batch_tokens` is {recipe.batch_tokens}"
            )
        self.fits = {key: 1 if one_row else recipe.batch_tokens // used for key, used in cost.items()}
        self.cost = cost
        self._merge(numbers, sizes)
        self.keys = [tuple(each) for each in numbers]
        self.samples = [
            Sample(s.row, s.text, s.references, tuple(self.shapes[k] for k in key))
            for s, key in zip(self.samples, self.keys)
        ]
        codes = {key: code for code, key in enumerate(dict.fromkeys(self.keys))}
        self._code = np.array([codes[key] for key in self.keys])
        self._fit = np.array([self.fits[key] for key in codes])
        self._sizes = sizes

    def _merge(self, numbers: list[list[int]], sizes: list[list[tuple[int, int]]]) -> None:
        """Move samples of buckets that do not fill a batch an epoch into the common bucket that crops them least."""
        count: dict[tuple[int, ...], float] = {}
        for row, mine in enumerate(self.variants):
            for k in mine:
                key = tuple(numbers[k])
                count[key] = count.get(key, 0.0) + self.weights[row] / len(mine)
        common: dict[int, list[tuple[int, ...]]] = {}
        for key, expected in count.items():
            if expected >= 2 * self.fits[key]:
                common.setdefault(len(key), []).append(key)
        for k, number in enumerate(numbers):
            key = tuple(number)
            choices = common.get(len(key), [])
            if not choices or count[key] >= 2 * self.fits[key]:
                continue
            lost = known.cropped(np.array(sizes[k]), self.shapes)  # (pictures, shapes)
            wanted = np.array(choices)
            crops = np.stack([lost[j, wanted[:, j]] for j in range(len(key))])
            more = crops - np.array([lost[j, key[j]] for j in range(len(key))])[:, None]
            best = int(np.where((more <= MERGED_CROP).all(0), crops.sum(0), np.inf).argmin())
            if (more[:, best] <= MERGED_CROP).all():
                numbers[k] = list(choices[best])

    # ------------------------------------------------------------------------------------------------ steps

    def epochs(self) -> Iterator[tuple[list[list[Draw]], int]]:
        """Epoch after epoch: its batches in their order, and how many draws wait for the next epoch."""
        waiting: dict[int, list[Draw]] = {}
        epoch = 0
        while True:
            draws = self._draws(epoch)
            queues: dict[int, list[Draw]] = {code: list(queue) for code, queue in waiting.items()}
            for draw in draws:
                queues.setdefault(int(self._code[draw.sample]), []).append(draw)
            batches: list[list[Draw]] = []
            waiting = {}
            for code in sorted(queues):
                queue, fit = queues[code], int(self._fit[code])
                full = len(queue) // fit * fit
                batches += [queue[k : k + fit] for k in range(0, full, fit)]
                if queue[full:]:
                    waiting[code] = queue[full:]
            order = np.random.default_rng([self.recipe.seed, epoch, 2]).permutation(len(batches))
            yield [batches[k] for k in order], sum(map(len, waiting.values()))
            epoch += 1

    def _draws(self, epoch: int) -> list[Draw]:
        """Every row as often as its weight says, in a random order, each time as one of its variants."""
        random = np.random.default_rng([self.recipe.seed, epoch, 1])
        # systematic sampling: row i is drawn floor(w_i) or ceil(w_i) times, w_i on average
        edges = np.concatenate([[0.0], np.cumsum(self.weights)]) + random.random()
        times = np.floor(edges[1:]) - np.floor(edges[:-1])
        rows = np.repeat(np.arange(len(times)), times.astype(int))
        turns = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times.astype(int))
        chosen = random.integers(0, self.recipe.variants, len(rows))
        order = random.permutation(len(rows))
        return [Draw(self.variants[rows[k]][chosen[k]], epoch, int(turns[k])) for k in order]

    def steps(self, first: int) -> Iterator[list[list[Draw]]]:
        """The batches of step `first` and of every step after it: `recipe.batches` of them each."""
        need, skip = self.recipe.batches, first * self.recipe.batches
        held: list[list[Draw]] = []
        empty = 0
        for batches, _ in self.epochs():
            empty = 0 if batches else empty + 1
            if empty > max(self.fits.values()):
                raise UsageError("no bucket ever fills a batch", hint="fewer `batch_tokens`")
            if skip >= len(batches):
                skip -= len(batches)
                continue
            held += batches[skip:]
            skip = 0
            while len(held) >= need:
                yield held[:need]
                held = held[need:]

    def use(self) -> Use:
        """How well the first epoch's batches are filled."""
        batches, waiting = next(self.epochs())
        drawn = [draw for batch in batches for draw in batch]
        budget = len(batches) * self.recipe.batch_tokens
        used = sum(self.cost[self.keys[draw.sample]] for draw in drawn)
        lost, pixels = 0.0, 0
        for draw in drawn:
            for size, number in zip(self._sizes[draw.sample], self.keys[draw.sample]):
                share = float(known.cropped(np.array([size]), [self.shapes[number]])[0, 0])
                lost, pixels = lost + share * size[0] * size[1], pixels + size[0] * size[1]
        return Use(
            1 - used / budget if budget else 0.0,
            lost / pixels if pixels else 0.0,
            waiting / max(1, waiting + len(drawn)),
            len(self._fit),
        )


def choose_text(recipe: Recipe, row: Row, random: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    """A text of the row and its references: what the recipe's shares, and chance, make of them."""
    languages = ("en", "zh") if recipe.language == "both" else (recipe.language,)
    shares = text_shares(recipe, bool(row.sources))
    kinds = [kind for kind in shares if shares[kind] > 0 and any((kind, lang) in row.texts for lang in languages)]
    # every row draws the same number of times, so that one setting does not change what another one draws
    which, language, dropped = random.random(3)
    if not kinds:  # none of the wanted kinds: any that there is
        kinds = sorted({kind for kind, lang in row.texts if lang in languages})
    weights = np.cumsum([shares.get(kind) or 1.0 for kind in kinds])
    kind = kinds[int(np.searchsorted(weights, which * weights[-1], side="right"))]
    spoken = [lang for lang in languages if (kind, lang) in row.texts]
    text = row.texts[kind, spoken[int(language * len(spoken))]]
    text, references = align(
        text, len(row.sources), shuffle=recipe.shuffle_references, drop=recipe.drop_references, random=random
    )
    return ("" if dropped < recipe.drop_text else text), tuple(references)


def text_shares(recipe: Recipe, edits: bool) -> dict[str, float]:
    """The shares of the kinds of text: of instructions for rows with sources, of captions for rows without."""
    if edits:
        return recipe.wordings or {"instruction": 1.0}
    return recipe.captions or dict.fromkeys(CAPTIONS, 1.0)


def row_weights(recipe: Recipe, rows: Rows) -> np.ndarray:
    """How often an epoch draws every row, on average; the mean is 1.

    The product of the weight of its task and, with `balance`, n^-power for a cluster of n rows [SPEC T13]; then
    text-to-image rows and edits are scaled to `t2i_share`.
    """
    weights = np.array([recipe.task_weights.get(rows[k].task, 1.0) for k in range(len(rows))])
    if recipe.balance:
        clusters = [rows[k].cluster for k in range(len(rows))]
        sizes: dict[str | None, int] = {}
        for cluster in clusters:
            sizes[cluster] = sizes.get(cluster, 0) + 1
        # a row without a cluster is one of its own
        weights *= [1.0 if c is None else sizes[c] ** -recipe.balance_power for c in clusters]
    if recipe.t2i_share >= 0:
        t2i = np.array([not rows[k].sources for k in range(len(rows))])
        for kind, share in ((t2i, recipe.t2i_share), (~t2i, 1 - recipe.t2i_share)):
            if share and not weights[kind].sum():
                what = "text-to-image rows" if share == recipe.t2i_share else "edits"
                raise UsageError(f"`t2i_share` asks for {what}, and the data has none")
            weights[kind] *= share / weights[kind].sum() if weights[kind].sum() else 0
    if not weights.sum():
        raise UsageError("the weights leave no row to draw", hint="`task_weights`")
    return weights * len(rows) / weights.sum()
