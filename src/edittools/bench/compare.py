"""Several models on one benchmark: over the cases that all of them have, and the differences with their doubt."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from edittools.bench import statistics
from edittools.bench.scores import Score
from edittools.errors import EditError


def compare(models: dict[str, list[Score]], metric: str, seed: int) -> dict[str, Any]:
    """Each model's mean over the cases judged for all models, and its difference to the first model.

    `macro` is the mean over tasks, `micro` over cases. The difference is that of the macro means with its 95% interval
    from a paired bootstrap: the cases of a task are resampled together for all models. `won` is the share of cases in
    which a model is above the first, `lost` below. Raises EditError where no case is common to all.
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
    drawn = [
        statistics.bootstrap_means(rows, [seed, zlib.crc32(task.encode())]) if len(rows) > 1 else None
        for task, rows in by_task.items()
    ]
    resampled = None if any(part is None for part in drawn) else np.mean([p for p in drawn if p is not None], axis=0)
    everything = np.concatenate(list(by_task.values()))
    means = np.array([rows.mean(axis=0) for rows in by_task.values()])
    result: dict[str, Any] = {"cases": len(common), "tasks": sorted(tasks), "metric": metric, "models": {}}
    for k, name in enumerate(models):
        entry: dict[str, Any] = {
            "judged": len(values[name]),
            "macro": float(means[:, k].mean()),
            "micro": float(everything[:, k].mean()),
            "by_task": {task: float(rows[:, k].mean()) for task, rows in by_task.items()},
        }
        if k:
            ahead = everything[:, k] - everything[:, 0]
            entry["difference"] = float(means[:, k].mean() - means[:, 0].mean())
            entry["interval"] = None
            if resampled is not None:
                entry["interval"] = statistics.interval(resampled[:, k] - resampled[:, 0])
            entry["won"], entry["lost"] = float((ahead > 0).mean()), float((ahead < 0).mean())
        result["models"][name] = entry
    return result
