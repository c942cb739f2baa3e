"""The text-only probe of hard negatives: can they be told from the positives without a look at the images?

A judge that is trained on negatives whose words give them away learns the words. A logistic regression on words, pairs
of words and runs of three characters sees the instruction alone; the area under its ROC curve, on rows that it was not
fitted to, is .5 where nothing gives negatives away, and 1 where their wording does.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from edittools.bench.terminal import ReportListing
from edittools.errors import EditError
from edittools.metrics.agreement import ranks
from edittools.rounding import rounded

FOLDS, FEWEST = 5, 20  # rows of either kind below which nothing is said
_SLOTS = 1 << 18  # features, by a hash
_RESAMPLINGS, _LEVEL = 500, 0.95


class LabelledText(NamedTuple):
    """A text that is a positive or a negative. `group` is its row: samples of one are never on both sides of a fit."""

    text: str
    negative: bool
    group: str
    task: str = ""
    operator: str = ""  # of a negative: how it was made


def features(text: str) -> list[str]:
    """Words, pairs of words, and runs of three characters, each once; of Chinese characters the single ones too."""
    said = " ".join(text.casefold().split())
    words = re.findall(r"[一-鿿]|\w+|[^\w\s]", said)
    pairs = [f"{a} {b}" for a, b in zip(["^", *words], [*words, "$"])]
    runs = [said[k : k + 3] for k in range(len(said) - 2)]
    return list(dict.fromkeys([*words, *pairs, *runs]))


def won(scores: np.ndarray, negative: np.ndarray) -> tuple[float, int]:
    """In how many pairs of a negative and a positive the negative scores higher, ties counting half, and how many pairs
    there are: their ratio is the area under the ROC curve (Mann and Whitney).
    """
    count = int(negative.sum())
    return float(ranks(scores)[negative].sum() - count * (count + 1) / 2), count * (len(negative) - count)


def probe(samples: Sequence[LabelledText], seed: int = 0) -> dict[str, Any]:
    """AUC over all, and per operator and task, with 95% intervals from resampled rows; and what gives negatives away.

    Raises EditError where there are fewer than 20 rows of either kind.
    """
    negative = np.array([sample.negative for sample in samples], bool)
    groups = {group: k for k, group in enumerate(dict.fromkeys(sample.group for sample in samples))}
    of_group = np.array([groups[sample.group] for sample in samples])
    least = min(len(set(of_group[negative])), len(set(of_group[~negative])))
    if least < FEWEST:
        raise EditError(
            f"{least} rows are too few to tell anything: {FEWEST} positives and {FEWEST} negatives at least"
        )
    found = [features(sample.text) for sample in samples]
    slots = [np.array([zlib.crc32(one.encode()) % _SLOTS for one in each], np.int64) for each in found]
    fold = np.array([zlib.crc32(f"{seed} {sample.group}".encode()) % FOLDS for sample in samples])
    scores = np.zeros(len(samples))
    for part in range(FOLDS):
        inside = fold == part
        # The same text on the other side, as where instructions were swapped, would be learned by heart, and wrongly.
        asked = {samples[k].text for k in np.flatnonzero(inside).tolist()}
        learned = [k for k in np.flatnonzero(~inside).tolist() if samples[k].text not in asked]
        weights = fit([slots[k] for k in learned], negative[learned])
        scores[inside] = [_score(weights, slots[k]) for k in np.flatnonzero(inside).tolist()]
    whole = fit(slots, negative)

    def measured(at: np.ndarray) -> dict[str, Any]:
        return _measured(scores[at], negative[at], fold[at], of_group[at], seed)

    return {
        "positives": int((~negative).sum()),
        "negatives": int(negative.sum()),
        **measured(np.arange(len(samples))),
        "operators": {name: measured(at) for name, at in _parts(samples, "operator")},
        "tasks": {name: measured(at) for name, at in _parts(samples, "task")},
        "telling": _telling(whole, found),
    }


def fit(slots: Sequence[np.ndarray], negative: np.ndarray) -> np.ndarray:
    """Weights (2^18 + 1, the last the bias) of a logistic regression with an L2 penalty on features of unit length."""
    import torch

    bag = torch.nn.EmbeddingBag(_SLOTS, 1, mode="sum")
    bias = torch.zeros(1, requires_grad=True)
    torch.nn.init.zeros_(bag.weight)
    counts = [len(each) for each in slots]
    offsets = torch.tensor(np.cumsum([0, *counts[:-1]]))
    joined = torch.tensor(np.concatenate(slots) if slots else np.zeros(0, np.int64))
    scale = torch.tensor(np.repeat([1 / max(1, count) ** 0.5 for count in counts], counts), dtype=torch.float32)
    wanted = torch.tensor(negative, dtype=torch.float32)
    optimizer = torch.optim.LBFGS([bag.weight, bias], max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = bag(joined, offsets, per_sample_weights=scale)[:, 0] + bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        loss = loss + bag.weight.square().sum() / (2 * max(1, len(wanted)))
        loss.backward()
        return loss

    optimizer.step(closure)
    return np.append(bag.weight.detach().numpy()[:, 0], bias.detach().numpy())


def _score(weights: np.ndarray, slots: np.ndarray) -> float:
    return float(weights[slots].sum() / max(1, len(slots)) ** 0.5 + weights[-1])


def _parts(samples: Sequence[LabelledText], name: str) -> Iterator[tuple[str, np.ndarray]]:
    """The samples of each operator, with the positives of its rows, or of each task, where there are enough."""
    values: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.negative and getattr(sample, name):
            values[getattr(sample, name)].add(sample.group)
    for value, rows in sorted(values.items()):
        at = np.array([
            k for k, sample in enumerate(samples)
            if (getattr(sample, name) == value if sample.negative or name == "task" else sample.group in rows)
        ])  # fmt: skip
        kinds = Counter(samples[k].negative for k in at)
        if min(kinds[True], kinds[False]) >= FEWEST:
            yield value, at


def _measured(
    scores: np.ndarray, negative: np.ndarray, fold: np.ndarray, of_group: np.ndarray, seed: int
) -> dict[str, Any]:
    """AUC over the pairs within folds, for each fold has a fit, and so a scale, of its own; interval over rows."""

    def area(at: np.ndarray) -> float | None:
        parts = [won(scores[one], negative[one]) for k in range(FOLDS) if len(one := at[fold[at] == k])]
        pairs = sum(count for _, count in parts)
        return sum(higher for higher, _ in parts) / pairs if pairs else None

    rng = np.random.default_rng(seed)
    _, own = np.unique(of_group, return_inverse=True)
    order = np.argsort(own, kind="stable")
    starts = np.searchsorted(own[order], np.arange(own.max() + 2))
    members = [order[a:b] for a, b in itertools.pairwise(starts)]
    drawn = []
    for _ in range(_RESAMPLINGS):
        value = area(np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))]))
        drawn += [] if value is None else [value]
    tail, whole = (1 - _LEVEL) / 2, area(np.arange(len(scores)))
    return {
        "auc": None if whole is None else rounded(whole),
        "interval": [rounded(float(q)) for q in np.quantile(drawn, [tail, 1 - tail])] if drawn else None,
    }


def _telling(weights: np.ndarray, found: Sequence[list[str]], most: int = 12) -> dict[str, list[str]]:
    """The features of the largest weights on either side, each without the shorter ones that it contains."""
    counts = Counter(one for each in found for one in each)
    frequent = [one for one, count in counts.items() if count >= 3 and one.strip()]
    by_weight = sorted(frequent, key=lambda one: (-weights[zlib.crc32(one.encode()) % _SLOTS], one))

    def chosen(ordered: Sequence[str]) -> list[str]:
        kept: list[str] = []
        for one in ordered:
            if not any(one in other or other in one for other in kept):
                kept.append(one)
            if len(kept) == most:
                break
        return kept

    return {"negative": chosen(by_weight), "positive": chosen(by_weight[::-1])}


def listings(found: Mapping[str, Any]) -> list[ReportListing]:
    made = []
    for language, part in found["languages"].items():
        rows = [_row("all", part)]
        for kind in ("operators", "tasks"):
            rows += [_row(name, one) for name, one in part[kind].items()]
        notes = [
            f"{part['negatives']:,} negatives and {part['positives']:,} positives; .5: words do not tell them apart",
            *(f"telling of a {side}: {', '.join(words)}" for side, words in part["telling"].items()),
            *(f"not measured, {other}: {why}" for other, why in found["too_few"].items()),
        ]
        made.append(ReportListing(f"what the words alone tell, {language}", ["", "AUC", "95%"], rows, notes))
    return made


def _row(name: str, part: Mapping[str, Any]) -> list[str]:
    interval = part["interval"]
    return [
        name,
        "–" if part["auc"] is None else f"{part['auc']:.3f}",
        "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
    ]
