"""A benchmark's edits of writing: FireRed's four questions to a judge (its table 7), and what an OCR engine reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from edittools.bench.judged import NOT_JUDGED, judge_facts, judge_note, thumbnail, without_repeats
from edittools.bench.panel import between_judges
from edittools.bench.rescoring import coverage_warnings
from edittools.errors import EditError, UsageError
from edittools.judge.judgements import chosen_judges, judge_names, passes_of
from edittools.judge.rubrics.text import HIGH, KEYS, LOW, RUBRIC
from edittools.metrics.ocr import target_text
from edittools.stream.fetch import Fetcher, image_references, kept_reference
from edittools.stream.row_images import row_images
from edittools.stream.source import Source
from edittools.suites.shared.scores import Score, count_tasks, plain, summarize
from edittools.suites.shared.types import Benchmark, Case, JudgedCase

OCR = "ocr"
SCALES = {**dict.fromkeys(KEYS, (LOW, HIGH)), OCR: (0, 1)}
_NOTES = (
    f"{', '.join(KEYS)}: the judge's, 1 to 5; ocr: 0 to 1, of the cases whose instruction names a text",
    "questions, definitions and weights are ours: not comparable with the published table",
)


class TextSubset:
    """Judged or read rows of the text task; the source is read once. Raises UsageError where they are no such rows."""

    def __init__(self, benchmark: Benchmark, source: Source, language: str | None, judge: str | None = None) -> None:
        self.benchmark, self.task = benchmark, benchmark.text_suite
        for name in ("case", "source", "result", "instruction"):
            if name not in source.schema.names:
                raise UsageError(f"the input has no `{name}` column", hint=_HINT)
        self.history = source.history.nodes
        names = ["id", "case", "instruction", *({"judgements", "scores"} & set(source.schema.names))]
        self.rows: list[dict[str, Any]] = []
        for batch in source.batches(lambda shard: True):
            columns: dict[str, list[Any]] = {name: batch.rows.column(name).to_pylist() for name in names}
            for name in ("source", "result"):
                columns[name] = [*map(kept_reference, image_references(row_images(batch.rows, name)))]
            records = [dict(zip(columns, values)) for values in zip(*columns.values())]
            self.rows += [row for row in records if self._belongs(row["case"], language)]
        if not self.rows:
            raise EditError(f"there are no rows of {self.about}" + (f" in {language}" if language else ""))
        names = judge_names((row.get("judgements") for row in self.rows), RUBRIC.name)
        self.judges = chosen_judges(names, judge)
        judgements = [one for row in self.rows for who in self.judges for one in _judgements(row, who)]
        self.facts = judge_facts(judgements) if judgements else {}
        read = any((row.get("scores") or {}).get(OCR) is not None for row in self.rows)
        self.scores = [
            ([_judged(row, key, self.judges) for key in KEYS] if judgements else [])
            + ([_read(row)] if read and _names_text((row["instruction"] or {}).values()) else [])
            for row in self.rows
        ]
        if not any(self.scores):
            raise UsageError("no row was judged by the text rubric or by OCR", hint=_HINT)

    @property
    def about(self) -> str:
        return f"{self.benchmark.title}'s {self.task} task"

    def _belongs(self, case: dict[str, Any], language: str | None) -> bool:
        whose, task = case["benchmark"], case["task"]
        return whose == self.benchmark.name and task == self.task and language in (None, case["language"])

    def summary(self, cases: list[Case] | None, seed: int) -> dict[str, Any]:
        """Mean, interval and coverage of each metric that the rows were asked for.

        `cases` are all of the subset; without them the rows themselves are what is expected.
        """
        scores = [score for entry in self.scores for score in entry]
        metrics = dict.fromkeys(score.task for score in scores)
        expected = None
        if cases is not None:
            named = [case for case in cases if _names_text([case.instruction])]
            expected = count_tasks(metric for metric in metrics for _ in (named if metric == OCR else cases))
        by_metric = {
            metric: summarize(
                [score for score in scores if score.task == metric],
                None if expected is None else {metric: expected.get(metric, 0)},
                {"score": SCALES[metric]},
                seed,
            )
            for metric in metrics
        }
        reasons = {metric: Counter(score.reason for score in scores if score.task == metric) for metric in metrics}
        return {
            "benchmark": self.benchmark.name,
            "suite": self.task,
            "metrics": {
                metric: {"n": entry["tasks"][metric]["n"], **entry["tasks"][metric]["score"]}
                for metric, entry in by_metric.items()
            },
            "coverage": {metric: entry["coverage"]["tasks"][metric] for metric, entry in by_metric.items()},
            "reasons": {metric: {why: n for why, n in entry.items() if why} for metric, entry in reasons.items()},
            "notes": [*_NOTES, *([judge_note(self.facts)] if self.facts else [])],
            "judge": self.facts,
            **self._between(),
            "warnings": [
                f"{metric}: {said}"
                for metric, entry in by_metric.items()
                for said in coverage_warnings(entry["coverage"])
            ],
        }

    def _between(self) -> dict[str, Any]:
        if len(self.judges) < 2:
            return {}
        scores = {
            judge: [
                {key: score.values["score"] for key in KEYS if (score := _judged(row, key, [judge])).values}
                for row in self.rows
            ]
            for judge in self.judges
        }
        return {"between_judges": plain(between_judges(scores))}

    def shown(self) -> list[JudgedCase]:
        """Every case for the report's gallery; its score is the mean of the judge's four, or else the OCR's."""
        fetcher = Fetcher()
        cases = []
        for row, scores in zip(self.rows, self.scores):
            judged = [score.values["score"] for score in scores if score.values and score.task in KEYS]
            values = judged or [score.values["score"] for score in scores if score.values]
            words = []
            for score in scores:
                said = [
                    one["reply"]
                    for judge in self.judges
                    for one in _judgements(row, judge)
                    if one["dimension"] == score.task
                ]
                told = "\n".join(filter(None, (score.reason, *said)))
                words.append((score.task, score.values.get("score"), told))
            cases.append(
                JudgedCase(
                    row["id"],
                    row["case"]["task"],
                    next((text for text in (row["instruction"] or {}).values() if text), ""),
                    fmean(values) if values else None,
                    next((score.state for score in scores if score.state != "ok"), "ok"),
                    without_repeats(words),
                    [(name, thumbnail(row[name], fetcher)) for name in ("source", "result")],
                )
            )
        return cases


_HINT = "edit judge ROWS --rubric text --model J | edit score --ocr -o JUDGED/"


def _names_text(instructions: Iterable[str | None]) -> bool:
    return any(target_text(text) is not None for text in instructions if text)


def _judgements(row: dict[str, Any], judge: str) -> list[Mapping[str, Any]]:
    passes = passes_of(row.get("judgements"), RUBRIC.name, judge)
    return [judgement for one in passes for judgement in one.values()]


def _judged(row: dict[str, Any], metric: str, judges: list[str]) -> Score:
    """The mean over the judges, of each over its passes; none where one of the judges gave none."""
    key = row["case"]["key"]
    if row["result"] is None:
        return Score(key, metric, {}, "missing", "no result picture")
    means = []
    for judge in judges:
        judgements = [one for one in _judgements(row, judge) if one["dimension"] == metric]
        values = [one["score"] for one in judgements if one["score"] is not None]
        if not values:
            why = next((one["error"] or one["state"] for one in judgements), NOT_JUDGED)
            return Score(key, metric, {}, "failed", why if len(judges) == 1 else f"{judge}: {why}")
        means.append(fmean(values))
    return Score(key, metric, {"score": fmean(means)})


def _read(row: dict[str, Any]) -> Score:
    key, value = row["case"]["key"], (row["scores"] or {}).get(OCR)
    if row["result"] is None:
        return Score(key, OCR, {}, "missing", "no result picture")
    return Score(key, OCR, {}, "failed", "not read") if value is None else Score(key, OCR, {"score": value})
