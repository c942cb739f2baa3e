"""Scores of a benchmark's cases, and what is computed of them the same way for every benchmark."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edittools.bench import statistics
from edittools.errors import EditError

State = Literal["ok", "failed", "missing"]


@dataclass(frozen=True)
class Score:
    """One case of one task. `values` are its metrics, empty unless the state is `ok`.

    `failed` is a case that was judged without a usable score (`reason` says why), `missing` one without a result
    picture. `subset` says whether the case belongs to the benchmark's own subset, such as GEdit's intersection.
    """

    key: str
    task: str
    values: dict[str, float]
    state: State = "ok"
    reason: str | None = None
    subset: bool = False


def official(compute: Callable[[], Any]) -> Any:
    """What the released script computes; {"raises": class} where it ends with an exception."""
    try:
        return compute()
    except Exception as error:
        return {"raises": type(error).__name__}


def numeric(value: Any) -> float:
    """What a table's cell says, NaN where it is no number: True and False are none."""
    try:
        return math.nan if isinstance(value, bool | np.bool_) else float(value)
    except (TypeError, ValueError):
        return math.nan


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NaN is the string "nan", infinities "inf" and "-inf"; keys are json.dump's."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else json.dumps(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.floating, np.integer, np.bool_)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def summarize(scores: list[Score], expected: dict[str, int] | None, metrics: Iterable[str], seed: int) -> dict:
    """Our own numbers: per task, macro (mean of the task means) and micro (mean of all cases), with 95% intervals.

    A failed case has no value and is counted, never scored; `coverage` stands beside every mean. The bootstrap
    resamples the cases of each task by itself, so that a task keeps its weight.
    """
    tasks: dict[str, list[Score]] = {name: [] for name in expected or {}}
    for score in scores:
        tasks.setdefault(score.task, []).append(score)
    names = list(metrics)
    result: dict[str, Any] = {"tasks": {}, "macro": {}, "micro": {}, "coverage": {}}
    drawn: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}
    for task, found in tasks.items():
        judged = [score for score in found if score.state == "ok"]
        result["coverage"][task] = _coverage(found, None if expected is None else expected.get(task, 0))
        if not judged:
            result["tasks"][task] = {"n": 0, **{name: {"mean": None, "interval": None} for name in names}}
            continue
        values[task] = np.array([[score.values[name] for name in names] for score in judged])
        entry: dict[str, Any] = {"n": len(judged)}
        if len(judged) > 1:
            drawn[task] = statistics.bootstrap_means(values[task], [seed, zlib.crc32(task.encode())])
        for k, name in enumerate(names):
            bounds = statistics.interval(drawn[task][:, k]) if task in drawn else None
            entry[name] = {"mean": float(values[task][:, k].mean()), "interval": bounds}
        result["tasks"][task] = entry
    _means(result, values, drawn, names)
    total = _total(result["coverage"])
    if expected is None:
        total["expected"] = None
    result["coverage"] = {"total": total, "tasks": result["coverage"]}
    return result


def _means(result: dict, values: dict[str, np.ndarray], drawn: dict[str, np.ndarray], names: list[str]) -> None:
    for k, name in enumerate(names):
        result["macro"][name] = result["micro"][name] = {"mean": None, "interval": None}
        if not values:
            continue
        means = [rows[:, k].mean() for rows in values.values()]
        cases = np.concatenate([rows[:, k] for rows in values.values()])
        macro, micro = None, None
        if drawn.keys() == values.keys():
            weights = np.array([len(rows) for rows in values.values()], np.float64)
            resampled = np.array([drawn[task][:, k] for task in values])
            macro = statistics.interval(resampled.mean(axis=0))
            micro = statistics.interval((weights[:, None] * resampled).sum(axis=0) / weights.sum())
        result["macro"][name] = {"mean": float(np.mean(means)), "interval": macro, "tasks": len(means)}
        result["micro"][name] = {"mean": float(cases.mean()), "interval": micro, "n": len(cases)}


def _coverage(found: list[Score], expected: int | None) -> dict[str, int | None]:
    missing = sum(score.state == "missing" for score in found)
    failed = sum(score.state == "failed" for score in found)
    absent = max(0, expected - len(found)) if expected is not None else 0
    return {
        "expected": expected,
        "generated": len(found) - missing,
        "judged": len(found) - missing - failed,
        "failed": failed,
        "missing": missing + absent,
    }


def _total(tasks: dict[str, dict[str, int | None]]) -> dict[str, int | None]:
    total: dict[str, int | None] = {}
    for name in ("expected", "generated", "judged", "failed", "missing"):
        known = [counts[name] for counts in tasks.values()]
        total[name] = None if None in known else sum(count for count in known if count is not None)
    return total


def count_tasks(tasks: Iterable[str]) -> dict[str, int]:
    return dict(Counter(tasks))


def released_json(path: Path) -> tuple[Any, dict[str, str] | None]:
    """What a file that a released script reads holds, and {"raises": class} where that script cannot read it.

    A byte order mark is too much for the scripts, not for us. Raises EditError where there is no such file.
    """
    text, broken = _released_text(path)
    if text is None:
        return None, broken
    try:
        return json.loads(text), broken
    except (ValueError, RecursionError) as error:
        return None, broken or {"raises": type(error).__name__}


def released_lines(path: Path) -> tuple[list[Any], dict[str, str] | None]:
    """As released_json, of JSON lines without the blank ones; None stands for a line that is no JSON."""
    text, broken = _released_text(path)
    found = []
    for line in (text or "").split("\n"):
        if line.strip():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                found.append(None)
                broken = broken or {"raises": type(error).__name__}
    return found, broken


def _released_text(path: Path) -> tuple[str | None, dict[str, str] | None]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise EditError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        return None, {"raises": type(error).__name__}
    marked = text.startswith("\ufeff")
    return text.removeprefix("\ufeff"), {"raises": "JSONDecodeError"} if marked else None


def unreadable(*files: tuple[Path, dict[str, str] | None]) -> list[str]:
    """A note for each file that a released script cannot read."""
    return [f"{path}: {broken['raises']}" for path, broken in files if broken]


def read_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines, blank lines left out. Raises EditError."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EditError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise EditError(f"{path}: line {number}: not JSON: {error}") from error
    return found
