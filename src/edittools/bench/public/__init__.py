"""Public benchmarks, one per file: what the official scripts compute, and what we do.

A file declares `BENCHMARK`, a Benchmark; its name is the file's. The `official` numbers are those of the released
scripts, their defects included; `strict` numbers count what failed and enforce what the rubrics ask for.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edittools.bench.scores import Score
from edittools.errors import EditError, UsageError

if TYPE_CHECKING:
    from edittools.bench.case_list import Case
    from edittools.bench.judged import JudgedRow


LANGUAGES = {"en": "en", "eng": "en", "cn": "cn", "zh": "cn"}
"""What users and forks call a language -> the word of the benchmarks' data."""


def spoken_language(given: str | None) -> str | None:
    """Raises UsageError."""
    if given is not None and given not in LANGUAGES:
        raise UsageError(f"--language {given}: expected one of {', '.join(LANGUAGES)}")
    return None if given is None else LANGUAGES[given]


def known_task(task: Any, tasks: Iterable[str], where: str) -> str:
    """The task, where the benchmark has it: paths, tables and rubrics go by its name. Raises EditError."""
    if task not in (known := list(tasks)):
        raise EditError(f"{where}: {task!r} is no task of the benchmark; it has {', '.join(known)}")
    return task


@dataclass(frozen=True)
class Outputs:
    """What a rescoring is asked for: the scripts' outputs, and what they do not hold themselves."""

    path: Path
    meta: Path | None = None
    language: str | None = None
    suite: str | None = None
    model: str | None = None  # where a folder holds the outputs of several


OfficialMeans = dict[str, dict[str, dict[str, float]]]
"""Language -> task (or `average`, `intersection`) -> metric -> mean."""


@dataclass(frozen=True)
class Rescored:
    """`official` is the released script's result; the scores are ours, by language where there are several ("" else).

    `official_means` are the official means for a table: language -> task -> metric -> mean, `average` being that of
    the tasks and `intersection` that of the subset; empty where the script ends with an exception. `without_failed`
    are the same by the same formula, of the cases that do not make the script fail: only where there are official
    means neither of all tasks nor on average. `expected` counts the cases of each task, by language: None of a task of
    which no file says it, and None where nothing was asked for. `notes` say where the official numbers are known to be
    wrong, and what was found on the way.
    """

    official: Any
    official_means: OfficialMeans
    scores: dict[str, list[Score]]
    expected: dict[str, Mapping[str, int | None] | None]
    notes: list[str]
    without_failed: OfficialMeans = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's name and source, the range of its scores, and what is done with it.

    `rescore` scores released outputs again. `cases` lists what is to be generated, given the user's copy of the
    benchmark, a language, a suite and the root of the pictures (None for the defaults); it imports pyarrow, which
    rescoring does without. `suites` are the tasks that a case may have, those that are run together side by side.
    `values` makes the metrics out of a judged case's dimensions (None where one is missing), and `write` writes the
    judged cases as the released scripts do, so that they and `rescore` read them; it returns what to rescore.
    `abilities` are those that a case of a task asks for, given the benchmark's facts of it.
    """

    name: str
    source: str
    metrics: dict[str, tuple[float, float]]  # name -> lowest and highest value
    rescore: Callable[[Outputs], Rescored]
    cases: Callable[[Path, str | None, str | None, Path | None], list[Case]]
    suites: tuple[tuple[str, ...], ...]
    values: Callable[[dict[str, float], dict[str, Any]], dict[str, float] | None]
    write: Callable[[list[JudgedRow], Path, str], Outputs]
    abilities: Callable[[str, Mapping[str, Any]], tuple[str, ...]] = lambda task, facts: ()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for suite in self.suites for task in suite)

    def wanted(self, scores: Iterable[Score]) -> dict[str, int | None]:
        """The tasks of the suites that the scores are of, each with an unknown number of cases."""
        found = {score.task for score in scores}
        return {task: None for suite in self.suites if found.intersection(suite) for task in suite}


@functools.cache
def benchmarks() -> dict[str, Benchmark]:
    """Every public benchmark by name, in alphabetical order."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        declared = getattr(importlib.import_module(f"{__name__}.{module.name}"), "BENCHMARK", None)
        if isinstance(declared, Benchmark):
            found[declared.name] = declared
    return found
