"""How often a judge prefers what people prefer: pairs of results of one edit, each with people's choice.

The pairs of EditReward-Bench (both sets of that name: EditScore's and EditReward's) and of VCReward-Bench, of votes and
of hard negatives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edittools.bench.terminal import ReportListing
from edittools.metrics.agreement import cohen_kappa
from edittools.metrics.intervals import interval, proportion_limits
from edittools.rounding import rounded


@dataclass(frozen=True)
class JudgedPair:
    """`people`: 1 where the first is better, 0 where the second is, 0.5 for a tie. `margin`: by how much the judge
    prefers the first; None where it has no score of one of them. `group`: pairs of the same results; "" of none.
    """

    people: float
    margin: float | None
    group: str = ""
    parts: tuple[tuple[str, str], ...] = ()  # (column, value) that the pair is counted under as well


def tied_accuracy(people: Sequence[float], margins: Sequence[float]) -> tuple[float, float]:
    """Accuracy over pairs with ties, at the threshold at which it is highest; and that threshold, below or at which a
    judge's margin is a tie, -1 for never.

    Deutsch, Foster and Freitag, "Ties Matter" (2023), which EditReward reports.
    """
    said, wanted = np.asarray(margins, float), np.asarray(people, float)
    best, at = -1.0, -1.0
    for threshold in (-1.0, *np.unique(np.abs(said)).tolist()):
        made = np.where(np.abs(said) <= threshold, 0.5, np.where(said > 0, 1.0, np.where(said < 0, 0.0, np.nan)))
        share = float((made == wanted).mean())
        if share > best:
            best, at = share, threshold
    return best, at


def measure(pairs: Sequence[JudgedPair]) -> dict[str, Any]:
    """
    pairs       how many
    unscored    of them the judge has no score of both
    accuracy    of the scored ones that people decided: the judge prefers what they do; a tie of its own is none
    interval    its 95% interval (Wilson)
    strict      the same, where pairs without a score are wrong, too
    judge_ties  the share of these that the judge calls even
    with_ties, threshold   tied_accuracy() of all scored pairs; null where people never were even
    kappa       Cohen's, of first, even, second
    groups, group_accuracy   groups of several decided pairs, and the share of them with every pair right
    """
    scored = [pair for pair in pairs if pair.margin is not None]
    decided = [pair for pair in scored if pair.people != 0.5]
    right = sum(_right(pair) for pair in decided)
    ever = sum(pair.people != 0.5 for pair in pairs)
    found: dict[str, Any] = {"pairs": len(pairs), "unscored": len(pairs) - len(scored), "decided": ever}
    found["accuracy"] = rounded(right / len(decided)) if decided else None
    found["interval"] = interval(proportion_limits(right, len(decided)), len(decided))
    found["strict"] = rounded(right / ever) if ever else None
    found["judge_ties"] = rounded(sum(pair.margin == 0 for pair in decided) / len(decided)) if decided else None
    people, margins = [pair.people for pair in scored], [float(pair.margin or 0) for pair in scored]
    tied = tied_accuracy(people, margins) if len(decided) < len(scored) else (None, None)
    found["with_ties"], found["threshold"] = (None if value is None else rounded(value) for value in tied)
    kappa = cohen_kappa(people, [0.5 if margin == 0 else float(margin > 0) for margin in margins]) if scored else None
    found["kappa"] = None if kappa is None else rounded(kappa)
    groups: dict[str, list[bool]] = defaultdict(list)
    for pair in pairs:
        if pair.group and pair.people != 0.5:
            groups[pair.group].append(_right(pair))
    several = [all(each) for each in groups.values() if len(each) > 1]
    found["groups"] = len(several)
    found["group_accuracy"] = rounded(sum(several) / len(several)) if several else None
    return found


def _right(pair: JudgedPair) -> bool:
    return pair.margin is not None and (pair.margin > 0 if pair.people > 0.5 else pair.margin < 0)


def judges(pairs: Sequence[JudgedPair]) -> dict[str, Any]:
    """measure() of all pairs, and by every column and value of their parts; the plain mean over a column's values."""
    parts: dict[str, dict[str, list[JudgedPair]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        for column, value in pair.parts:
            parts[column][value].append(pair)
    found: dict[str, Any] = {"all": measure(pairs), "by": {}, "mean_over": {}}
    for column, values in sorted(parts.items()):
        found["by"][column] = {value: measure(members) for value, members in sorted(values.items())}
        each = [one["accuracy"] for one in found["by"][column].values() if one["accuracy"] is not None]
        found["mean_over"][column] = rounded(sum(each) / len(each)) if each else None
    return found


def listings(found: Mapping[str, Any]) -> list[ReportListing]:
    columns = ["", "pairs", "unscored", "accuracy", "95%", "strict", "judge even", "with ties", "kappa", "groups right"]
    rows = [_row("all", found["all"])]
    for column, values in found["by"].items():
        rows += [_row(f"{column} {value}", part) for value, part in values.items()]
    notes = [f"mean over {column}: {_said(value)}" for column, value in found["mean_over"].items()]
    notes.append("accuracy: of pairs that people decided and the judge scored; strict: what is unscored is wrong")
    return [ReportListing("does the judge prefer what people prefer", columns, rows, notes)]


def _row(name: str, part: Mapping[str, Any]) -> list[str]:
    limits = part["interval"]
    return [
        name, f"{part['pairs']:,}", f"{part['unscored']:,}", _said(part["accuracy"]),
        "–" if limits is None else f"{limits[0]:.3f} to {limits[1]:.3f}",
        *(_said(part[key]) for key in ("strict", "judge_ties", "with_ties", "kappa", "group_accuracy")),
    ]  # fmt: skip


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
