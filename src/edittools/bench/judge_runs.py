"""Two judges on the same results, or one judge twice: how far they agree, and which cases moved."""

from __future__ import annotations

from typing import Any

from edittools.bench.evaluation import JudgedBenchmark, compare_models
from edittools.metrics.agreement import krippendorff_alpha, share_within, spearman

SHOWN = 200
"""Cases that moved, the farthest first, that are listed one by one."""


def compare_runs(first: JudgedBenchmark, other: JudgedBenchmark, metric: str, seed: int) -> dict[str, Any]:
    """What `other`'s judge says beside `first`'s, over the cases that both scored.

    `difference` is of the means over tasks (other less first) with its interval; `same` the share of cases with the
    very same score, `within_one` with one that differs by at most 1; `spearman` and `alpha` (Krippendorff's, interval
    level) over cases. `moved` are the cases whose score differs, the farthest first; `only_first` and `only_other` are
    those that one of them scored. Raises EditError where no case is common.
    """
    scores = [
        {row.id: score for row, score in zip(run.rows, run.scores) if score.state == "ok"} for run in (first, other)
    ]
    both = [identity for identity in scores[0] if identity in scores[1]]
    compared = compare_models([first, other], metric, seed)["models"][other.name]
    before, after = ([run[identity].values[metric] for identity in both] for run in scores)
    moved: list[dict[str, Any]] = [
        {"id": identity, "task": scores[0][identity].task, "first": a, "other": b, "change": b - a}
        for identity, a, b in zip(both, before, after)
        if a != b
    ]
    moved.sort(key=lambda one: (-abs(one["change"]), one["id"]))
    return {
        "judges": [first.facts.get("judge"), other.facts.get("judge")],
        "cases": len(both),
        "difference": compared["difference"],
        "interval": compared["interval"],
        "same": 1 - len(moved) / len(both),
        "within_one": share_within(before, after, 1),
        "spearman": spearman(before, after),
        "alpha": krippendorff_alpha([before, after], "interval"),
        "moves": len(moved),
        "moved": moved[:SHOWN],
        "only_first": sorted(scores[0].keys() - scores[1].keys()),
        "only_other": sorted(scores[1].keys() - scores[0].keys()),
    }
