"""Scores of a benchmark's cases, and what is computed of them the same way for every benchmark."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edittools.errors import EditError

if TYPE_CHECKING:
    from edittools.metrics import intervals

State = Literal["ok", "failed", "missing"]

MUCH = 0.05
"""From this share of cases without a score on, a warning stands above every mean."""


@dataclass(frozen=True)
class Score:
    """One case of one task. `values` are its metrics, empty unless the state is `ok`.

    `failed` is a case that was judged without a usable score (`reason` says why), `missing` one without a result
    image. `subset` says whether the case belongs to the benchmark's own subset, such as GEdit's intersection;
    `abilities` are what it asks of a model, where the benchmark says so.
    """

    key: str
    task: str
    values: dict[str, float]
    state: State = "ok"
    reason: str | None = None
    subset: bool = False
    abilities: tuple[str, ...] = ()


def by_ability(scores: Iterable[Score]) -> list[Score]:
    """The scores with their abilities in place of their tasks; a case of several is in each."""
    return [dataclasses.replace(score, task=ability) for score in scores for ability in score.abilities]


def official(compute: Callable[[], Any]) -> Any:
    """What the released script computes; {"raises": class} where it ends with an exception."""
    try:
        return compute()
    except Exception as error:
        return {"raises": type(error).__name__}


def crashed(found: Any) -> bool:
    """Is this what `official` gives of an exception? A script's own result may have a key of that name."""
    return isinstance(found, dict) and isinstance(found.get("raises"), str)


def that_end_well(cases: Mapping[str, Any], compute: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The cases that a released script gets through: it comes to its end when it is given that one alone."""
    alone = {key: official(functools.partial(compute, {key: case})) for key, case in cases.items()}
    return {key: case for key, case in cases.items() if not crashed(alone[key])}


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NaN is the string "nan", infinities "inf" and "-inf"; keys are json.dump's."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else json.dumps(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


Scales = Mapping[str, tuple[float, float]]
"""Metric -> lowest and highest value."""


def summarize(scores: list[Score], expected: Mapping[str, int | None] | None, metrics: Scales, seed: int) -> dict:
    """Our own numbers: per task, macro (mean of the task means) and micro (mean of all cases), with 95% intervals.

    `expected` counts the cases that every task should have, None where nobody says how many: such a task is in the
    table and in the coverage also without a case. A failed case has no value and is counted, never scored; `coverage`
    stands beside every mean. Tasks are independent groups, so each keeps its weight in the means over them.
    """
    import numpy as np

    from edittools.metrics import intervals

    tasks: dict[str, list[Score]] = {name: [] for name in expected or {}}
    for score in scores:
        tasks.setdefault(score.task, []).append(score)
    coverage, entries = {}, {}
    samples: dict[str, intervals.BootstrapSample] = {}
    for task, found in tasks.items():
        coverage[task] = _coverage(found, None if expected is None else expected.get(task, 0))
        judged = [score for score in found if score.state == "ok"]
        if judged:
            values = np.array([[score.values[name] for name in metrics] for score in judged])
            samples[task] = intervals.BootstrapSample(values, [seed, zlib.crc32(task.encode())])
        entries[task] = {"n": len(judged), **_means([samples[task]] if judged else [], [1], metrics, seed)}
    total = _total(coverage)
    if expected is None:
        total["expected"] = None
    if not tasks:
        total["missing"] = None
    every = list(samples.values())
    macro, micro = (
        _means(every, weights, metrics, seed) for weights in ([1] * len(every), [sample.n for sample in every])
    )
    return {
        "tasks": entries,
        "macro": {name: {**one, "tasks": len(every)} for name, one in macro.items()},
        "micro": {name: {**one, "n": sum(sample.n for sample in every)} for name, one in micro.items()},
        "coverage": {"total": total, "tasks": coverage},
    }


def _means(
    samples: list[intervals.BootstrapSample], weights: list[int], metrics: Scales, seed: int
) -> dict[str, dict[str, Any]]:
    """Metric -> weighted mean of the samples' means, and its interval."""
    import numpy as np

    from edittools.metrics import intervals

    if not samples:
        return {name: {"mean": None, "interval": None} for name in metrics}
    limits = intervals.bounded_limits(samples, weights, list(metrics.values()), seed)
    means = np.average([sample.means for sample in samples], axis=0, weights=weights)
    cases = sum(sample.n for sample in samples)
    return {
        name: {"mean": float(mean), "interval": intervals.interval(bounds, cases)}
        for name, mean, bounds in zip(metrics, means, limits)
    }


def _coverage(found: list[Score], expected: int | None) -> dict[str, int | None]:
    """`missing` is None where there is no case of a task, and nobody says how many there should be."""
    without = sum(score.state == "missing" for score in found)
    failed = sum(score.state == "failed" for score in found)
    absent = max(0, expected - len(found)) if expected is not None else 0
    return {
        "expected": expected,
        "generated": len(found) - without,
        "judged": len(found) - without - failed,
        "failed": failed,
        "missing": without + absent if found or expected is not None else None,
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
