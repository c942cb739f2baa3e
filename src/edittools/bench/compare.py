"""Several models on one benchmark: over the cases that all of them have, and the differences with their doubt."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np

from edittools.errors import EditError
from edittools.metrics import intervals
from edittools.suites.shared.scores import Score


def compare(models: dict[str, list[Score]], metric: str, scale: tuple[float, float], seed: int) -> dict[str, Any]:
    """Each model's mean over the cases judged for all models, and the difference of every two models.

    `macro` is the mean over tasks, `micro` over cases; `scale` are the metric's lowest and highest value. A model's
    entry has its difference to the first model, and `pairs` every one, of the second to the first it names: of the
    macro means, with the 95% interval of the cases' own differences, so what two models share cancels. `won` is the
    share of cases in which a model is above the other, `lost` below. Raises EditError where no case is common to all.
    """
    values = {
        name: {(score.task, score.key): score.values[metric] for score in scores if score.state == "ok"}
        for name, scores in models.items()
    }
    common = sorted(set.intersection(*(set(found) for found in values.values())))
    if not common:
        raise EditError("no case was judged for all models: there is nothing to compare")
    tasks: dict[str, list[tuple[str, str]]] = {}
    for case in common:
        tasks.setdefault(case[0], []).append(case)
    by_task = {
        task: np.array([[values[name][case] for name in models] for case in cases]) for task, cases in tasks.items()
    }
    everything = np.concatenate(list(by_task.values()))
    means = np.array([rows.mean(axis=0) for rows in by_task.values()])
    span = scale[1] - scale[0]
    names = list(models)

    def against(first: int, second: int) -> dict[str, Any]:
        samples = [
            intervals.BootstrapSample(rows[:, [second]] - rows[:, [first]], [seed, zlib.crc32(task.encode())])
            for task, rows in by_task.items()
        ]
        limits = intervals.bounded_limits(samples, [1] * len(samples), [(-span, span)], seed)[0]
        ahead = everything[:, second] - everything[:, first]
        return {
            "difference": float(np.mean([sample.means[0] for sample in samples])),
            "interval": intervals.interval(limits, len(common)),
            "won": float((ahead > 0).mean()),
            "lost": float((ahead < 0).mean()),
        }

    entries = {
        name: {
            "judged": len(values[name]),
            "macro": float(means[:, k].mean()),
            "micro": float(everything[:, k].mean()),
            "by_task": {task: float(rows[:, k].mean()) for task, rows in by_task.items()},
            **(against(0, k) if k else {}),
        }
        for k, name in enumerate(names)
    }
    pairs = [
        {"first": names[first], "second": names[second], **against(first, second)}
        for first, second in itertools.combinations(range(len(names)), 2)
    ]
    return {"cases": len(common), "tasks": sorted(tasks), "metric": metric, "models": entries, "pairs": pairs}
