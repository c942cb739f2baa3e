"""What benchmarks, evaluation and reports have in common: cases, what was judged, and what a benchmark declares.

Rescoring imports this file and neither pyarrow nor a model's library.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from edittools.errors import EditError, UsageError
from edittools.rubric import NOT_ASKED, Rubric
from edittools.suites.shared.scores import Score

LANGUAGES = {"en": "en", "eng": "en", "cn": "cn", "zh": "cn"}
"""What users and forks call a language -> the word of the benchmarks' data."""


OfficialMeans = dict[str, dict[str, dict[str, float]]]
"""Language -> task (or `average`, `intersection`) -> metric -> mean."""


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


def case_id(task: str, language: str, key: str) -> str:
    """Task, language and key, without the signs that an id cannot hold."""
    return re.sub(r"[^0-9A-Za-z_-]", "_", "_".join(filter(None, (task, language, key))))


@dataclass(frozen=True)
class Case:
    """One case of a benchmark. `sources` are IMAGE values; `language` is the benchmark's own word for it."""

    key: str
    task: str
    instruction: str
    language: str
    sources: list[dict[str, Any]]
    result_path: str
    source_path: str | None = None
    subset: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    turns: tuple[str, ...] = ()  # of a dialogue: its instructions, the first one included; each edits the last result

    def __post_init__(self) -> None:
        """Raises EditError for a language that reports would not know."""
        if self.language not in (*LANGUAGES.values(), ""):
            raise EditError(f"case {self.key}: its language is {self.language!r}, not 'en' or, of Chinese, 'cn'")

    @property
    def id(self) -> str:
        """Unique in a benchmark."""
        return case_id(self.task, self.language, self.key)


@dataclass(frozen=True)
class NewCase:
    """A case that becomes part of a benchmark: `id` is unique, `task` the benchmark's own word, the instruction by
    language (en, zh), the encoded source image."""

    id: str
    task: str
    instruction: Mapping[str, str]
    image: bytes

    @property
    def key(self) -> str:
        """32 hexadecimal digits, as released benchmarks call their cases."""
        return hashlib.sha256(self.id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class JudgedRow:
    """One case: the benchmark's facts of it, and what the judge said.

    `passes` are the judgements of each pass: dimension -> {score, state, error, reply, ...}. `replies` are the texts
    of the first pass by the name of the call, as far as they came. `detected` are the probabilities of a class that a
    classifier gave the result (`edit filter --classifier`), by the name of the score. `earlier` are the models of
    runs under the same name that do not count any more. `calibrated` has the dimensions whose scores on people's scale
    (`edit judge --calibrate`) are used instead, None where the row has none. `spoken` are the images of a dialogue's
    turns, the last one being the result's; its instructions are lines of the one text. The images are references.
    """

    id: str
    case: dict[str, Any]
    instruction: str
    passes: list[dict[str, Mapping[str, Any]]]
    replies: dict[str, str]
    source: dict[str, Any] | None
    result: dict[str, Any] | None
    detected: dict[str, float] = field(default_factory=dict)
    earlier: set[str] = field(default_factory=set)
    calibrated: dict[str, float | None] = field(default_factory=dict)
    spoken: list[dict[str, Any] | None] = field(default_factory=list)

    def values(self) -> dict[str, float]:
        """Dimension -> mean over the passes that gave one, or what it was calibrated to."""
        found: dict[str, list[float]] = {}
        for one in self.passes:
            for name, judgement in one.items():
                if judgement["score"] is not None:
                    found.setdefault(name, []).append(judgement["score"])
        means = {name: fmean(scores) for name, scores in found.items()} | self.calibrated
        return {name: mean for name, mean in means.items() if mean is not None}

    def trouble(self) -> tuple[str, str] | None:
        """(state, reason) of the first judgement without a score that had to have one; None if there is none."""
        for one in self.passes:
            for judgement in one.values():
                if judgement["score"] is None and judgement["error"] != NOT_ASKED:
                    return judgement["state"], judgement["error"] or judgement["state"]
        return None


@dataclass(frozen=True)
class JudgedCase:
    """What the gallery shows of a case. `words` are (dimension, score, what the judge wrote or what went wrong),
    `images` (caption, data: URI or None where there is none); `verdict` stands in the score's place where given."""

    id: str
    task: str
    instruction: str
    score: float | None
    state: str  # ok, failed or missing; of a comparison, who is better
    words: list[tuple[str, float | None, str]]
    images: list[tuple[str, str | None]]
    verdict: str = ""


@dataclass(frozen=True)
class Outputs:
    """What a rescoring is asked for: the scripts' outputs, and what they do not hold themselves."""

    path: Path
    meta: Path | None = None
    language: str | None = None
    suite: str | None = None
    model: str | None = None  # where a folder holds the outputs of several


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
class CaseChoice:
    """An option by which one chooses among a benchmark's cases, for the verbs of `edit eval` that have it."""

    name: str  # language or suite
    help: str
    verbs: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's name and source, its tasks and scores, and what is done with it.

    `canonical` says what we call a task, for every name that the benchmark and data sets of its kind use; `rubrics` are
    its own judges' words and formats, the usual one first.
    `cases` lists what is to be generated, given the user's copy of the
    benchmark, a language, a suite and the root of the images (None for the defaults); it imports pyarrow, which
    rescoring does without. `suites` are the tasks that a case may have, those that are run together side by side.
    `values` makes the metrics out of a judged case's dimensions (None where one is missing). Of a benchmark that has a
    script of its own, `rescore` scores released outputs again, and `write` writes the judged cases as the script does,
    so that it and `rescore` read them; it returns what to rescore. Others have neither, and no official numbers.
    `publish` writes cases of a user's own into a folder, in the layout that `cases` reads.
    `abilities` are those that a case of a task asks for, given the benchmark's facts of it. `outputs` says what
    `rescore` reads, `columns` what the columns of published tables are called here, metrics or tasks, where they have
    another name. `text_suite` is a suite of edits of writing, which we also report by questions of ours and by OCR.
    `examples` are lines of the manual, by the verb of `edit eval` or the command that they are about.
    """

    name: str
    title: str
    source: str
    canonical: Mapping[str, str]
    metrics: dict[str, tuple[float, float]]  # name -> lowest and highest value
    suites: tuple[tuple[str, ...], ...]
    rubrics: tuple[Rubric, ...]
    cases: Callable[[Path, str | None, str | None, Path | None], list[Case]]
    values: Callable[[dict[str, float], dict[str, Any]], dict[str, float] | None]
    publish: Callable[[Sequence[NewCase], Path], None] | None = None
    rescore: Callable[[Outputs], Rescored] | None = None
    write: Callable[[list[JudgedRow], Path, str], Outputs] | None = None
    abilities: Callable[[str, Mapping[str, Any]], tuple[str, ...]] = lambda task, facts: ()
    outputs: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    text_suite: str | None = None
    choices: tuple[CaseChoice, ...] = ()
    examples: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.rescore is None) != (self.write is None):
            raise EditError(
                f"benchmark `{self.name}`: `rescore` reads what `write` writes; it has one without the other"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for suite in self.suites for task in suite)

    def canonical_task(self, name: str) -> str:
        """What we call a task. Raises ValueError for a name that neither the benchmark nor our own list knows."""
        from edittools.record import TASKS

        if name in self.canonical or name in TASKS:
            return self.canonical.get(name, name)
        raise ValueError(f"unknown task `{name}` of {self.name}")

    def native_task(self, task: str, named: str | None = None) -> str:
        """The benchmark's word for one of our tasks: what the row itself calls it, where the benchmark does so too.

        Raises KeyError for a task that it does not have.
        """
        words = [word for word in self.tasks if self.canonical.get(word) == task]
        if named in words:
            return str(named)
        if not words:
            raise KeyError(task)
        return words[0]

    def wanted(self, scores: Iterable[Score]) -> dict[str, int | None]:
        """The tasks of the suites that the scores are of, each with an unknown number of cases."""
        found = {score.task for score in scores}
        return {task: None for suite in self.suites if found.intersection(suite) for task in suite}
