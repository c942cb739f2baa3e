"""Our own rubrics, one per file: the file name is the registry. A benchmark's stand in the benchmark's own file
(`suites/`), and are found by the same names.
"""

from __future__ import annotations

from functools import cache

from edittools.errors import UsageError
from edittools.registry import Registry
from edittools.rubric import Rubric
from edittools.suites import benchmarks

RUBRICS = Registry("edittools.judge.rubrics", "edittools.rubrics")


@cache
def _rubrics() -> dict[str, Rubric]:
    own = [RUBRICS.load(name).RUBRIC for name in RUBRICS.names]
    every = [*own, *(rubric for benchmark in benchmarks().values() for rubric in benchmark.rubrics)]
    return {rubric.name: rubric for rubric in sorted(every, key=lambda rubric: rubric.name)}


def rubric_names() -> tuple[str, ...]:
    """All rubrics, in alphabetical order."""
    return tuple(_rubrics())


def load_rubric(name: str) -> Rubric:
    if name not in _rubrics():
        raise UsageError(f"no rubric `{name}`", hint="there are: " + ", ".join(rubric_names()))
    return _rubrics()[name]
