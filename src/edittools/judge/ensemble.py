"""Several judges of one rubric as one: their mean, and how far they are apart.

Verga et al., "Replacing Judges with Juries: Evaluating LLM Generations with a Panel of Diverse Models" (2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import pyarrow as pa

from edittools.errors import UsageError
from edittools.judge.judgements import ENDINGS, NOT_JUDGED, called, passes_of, score_dimensions, score_name
from edittools.judge.rubrics import load_rubric, rubric_names
from edittools.judge.stage import COLUMN, JUDGEMENT, judgements_of
from edittools.rounding import rounded, significant
from edittools.rubric import NOT_ASKED
from edittools.rubric.names import ENSEMBLE, PLAIN, ending_of
from edittools.stream.batch import Batch
from edittools.stream.history import History
from edittools.stream.rows import column_values
from edittools.stream.scores import add_scores, score_types, scores_schema

SPREAD = "_spread"


def mean_judgement(
    scores: Mapping[str, float | None], said: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Score, state and error of several judges together, given judge -> its score and the judgements that it rests on.

    Every judge counts once, however many passes it made. Where one of them gave no score there is none: a mean over
    some of the judges would move with who is left.
    """
    without = [judge for judge, score in scores.items() if score is None]
    if not without:
        return {"score": fmean(score for score in scores.values() if score is not None), "state": "ok", "error": None}
    errors = {one["error"] for judge in without for one in said[judge]}
    if len(without) == len(scores) and errors == {NOT_ASKED}:
        return {"score": None, "state": "missing", "error": NOT_ASKED}
    judge = without[0]
    first = next(iter(said[judge]), {"state": "failed", "error": NOT_JUDGED})
    return {"score": None, "state": first["state"], "error": f"{judge}: {first['error'] or first['state']}"}


class EnsembleStage:
    """Stage: of every rubric by which several judges have judged, the scores `judge_RUBRIC_DIMENSION__ensemble`, their
    mean, and `judge_RUBRIC_DIMENSION_spread__ensemble`, their standard deviation (n - 1); and the judgements of a judge
    called `ensemble`, as which they can be evaluated. Nobody is asked.

    The judges are those that have columns in `scores`. A row that one of them gave no score has none here.
    """

    name = "judge"
    VERSION = 1

    def __init__(self, rubric: str | None = None) -> None:
        """`rubric` narrows down whose judges are put together."""
        self.rubric, self.rubrics = rubric, [rubric] if rubric else rubric_names()
        self.panels: dict[str, list[str]] = {}  # rubric -> what the score columns of its judges end with
        self.rows = self.without = 0
        self.why = ""

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        return {"ensemble": True, **({"rubric": self.rubric} if self.rubric else {})}

    def schema(self, schema: pa.Schema) -> pa.Schema:
        dimensions = {name: _dimensions(name) for name in self.rubrics}
        by_rubric: dict[str, dict[str, None]] = {}
        for rubric, _, ending in score_dimensions(score_types(schema), dimensions).values():
            if ending != ending_of(ENSEMBLE):
                by_rubric.setdefault(rubric, {})[ending] = None
        self.panels = {rubric: sorted(endings) for rubric, endings in by_rubric.items() if len(endings) > 1}
        if not self.panels:
            raise UsageError(
                "--ensemble: the input has no scores of two judges by one rubric",
                hint="edit judge ROWS --rubric R --model M --judge NAME, once for each of them",
            )
        beside = {COLUMN: pa.list_(JUDGEMENT)}
        return scores_schema(schema, self._names(("", SPREAD)), beside, without=self._names(ENDINGS))

    def _names(self, endings: Sequence[str]) -> list[str]:
        return [
            score_name(rubric, dimension, ENSEMBLE, ending)
            for rubric in self.panels
            for dimension in _dimensions(rubric)
            for ending in endings
        ]

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            schema = self.schema(batch.rows.schema)
            before = judgements_of(batch.rows)
            values: list[dict[str, float]] = []
            for scores, judgements in zip(column_values(batch.rows, "scores"), before):
                means: dict[str, float] = {}
                mine = [one for rubric in self.panels for one in self._judge(rubric, scores or {}, judgements, means)]
                values.append(means)
                judgements[:] = [*(one for one in judgements if not self._is_old(one)), *mine]
                self._count(mine)
            beside = {COLUMN: pa.array(before, pa.list_(JUDGEMENT))}
            yield batch.replace(add_scores(batch.rows, schema, self._names(("", SPREAD)), values, beside))

    def _is_old(self, judgement: Mapping[str, Any]) -> bool:
        return judgement["rubric"] in self.panels and judgement["judge"] == ENSEMBLE

    def _judge(
        self, rubric: str, scores: Mapping[str, Any], judgements: list[dict[str, Any]], values: dict[str, float]
    ) -> Iterator[dict[str, Any]]:
        """The judgements of a row by the judges of a rubric together; its scores go into `values`."""
        known = {ending_of(one["judge"]): called(one) for one in judgements if one["rubric"] == rubric}
        names = {known.get(ending, ending.removeprefix("__") or PLAIN): ending for ending in self.panels[rubric]}
        passes = {name: passes_of(judgements, rubric, name) for name in names}
        for dimension in _dimensions(rubric):
            by_judge = {name: scores.get(score_name(rubric, dimension) + ending) for name, ending in names.items()}
            said = {
                name: [one[dimension] for one in judgement if dimension in one] for name, judgement in passes.items()
            }
            judgement = mean_judgement(by_judge, said)
            if judgement["score"] is not None:
                judgement["score"] = values[score_name(rubric, dimension, ENSEMBLE)] = rounded(judgement["score"])
                spread = stdev(score for score in by_judge.values() if score is not None)
                values[score_name(rubric, dimension, ENSEMBLE, SPREAD)] = significant(spread)
            facts = {
                fact: ", ".join(sorted({one[fact] for judged in said.values() for one in judged if one[fact]})) or None
                for fact in ("model", "endpoint")
            }
            head = {"rubric": rubric, "judge": ENSEMBLE, "dimension": dimension, "pass": 0}
            yield {field.name: None for field in JUDGEMENT} | head | facts | judgement

    def _count(self, judgements: list[dict[str, Any]]) -> None:
        self.rows += 1
        why = next((one["error"] for one in judgements if one["state"] not in ("ok", "missing")), None)
        self.without += why is not None
        self.why = self.why or why or ""

    def remark(self) -> str:
        """Who was put together, and of how many rows not."""
        told = "; ".join(
            f"{rubric}: the mean over {', '.join(ending.removeprefix('__') or PLAIN for ending in endings)}"
            for rubric, endings in self.panels.items()
        )
        return told + (f"; {self.without} of {self.rows} rows lack one, the first: {self.why}" if self.without else "")


def _dimensions(rubric: str) -> list[str]:
    return [one.name for one in load_rubric(rubric).dimensions]
