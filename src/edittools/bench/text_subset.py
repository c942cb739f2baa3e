"""REDEdit-Bench's text subset [SPEC E3]: FireRed's four questions to a judge, and what an OCR engine reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from edittools.bench.case_list import Case
from edittools.bench.scores import Score, count_tasks, summarize
from edittools.errors import EditError, UsageError
from edittools.judges.ocr import target_text
from edittools.judges.rubrics.text import KEYS, RUBRIC
from edittools.stream.source import Source

TASK = "text"
OCR = "ocr"
_NOTES = (
    f"{', '.join(KEYS)}: the judge's, 1 to 5; ocr: 0 to 1, of the cases whose instruction names a text",
    "questions, definitions and weights are ours: not comparable with the published table",
)


def text_subset(source: Source, language: str | None, cases: list[Case] | None, seed: int) -> dict[str, Any]:
    """Mean, interval and coverage of each metric that the rows were asked for.

    `cases` are all of the subset; without them the rows themselves are what is expected.
    """
    for name in ("case", "result", "instruction"):
        if name not in source.schema.names:
            raise UsageError(f"the input has no `{name}` column", hint=_HINT)
    names = ["case", "result", "instruction", *({"judgements", "scores"} & set(source.schema.names))]
    rows: list[dict[str, Any]] = []
    for batch in source.batches(lambda shard: True):
        columns = {name: batch.rows.column(name) for name in names}
        columns["result"] = columns["result"].is_valid()
        found = [dict(zip(columns, values)) for values in zip(*(column.to_pylist() for column in columns.values()))]
        rows += [row for row in found if _belongs(row["case"], language)]
    if not rows:
        raise EditError("there are no rows of REDEdit-Bench's text task" + (f" in {language}" if language else ""))
    scores = []
    if any(_judgements(row) for row in rows):
        scores += [_judged(row, key) for row in rows for key in KEYS]
    if any((row.get("scores") or {}).get(OCR) is not None for row in rows):
        scores += [_read(row) for row in rows if _names_text((row["instruction"] or {}).values())]
    if not scores:
        raise UsageError("no row was judged by the text rubric or by OCR", hint=_HINT)
    metrics = dict.fromkeys(score.task for score in scores)
    expected = None
    if cases is not None:
        named = [case for case in cases if _names_text([case.instruction])]
        expected = count_tasks(metric for metric in metrics for _ in (named if metric == OCR else cases))
    made = summarize(scores, expected, ["score"], seed)
    reasons = {metric: Counter(score.reason for score in scores if score.task == metric) for metric in metrics}
    return {
        "benchmark": "rededit",
        "suite": TASK,
        "metrics": {metric: {"n": entry["n"], **entry["score"]} for metric, entry in made["tasks"].items()},
        "coverage": made["coverage"]["tasks"],
        "reasons": {metric: {why: n for why, n in found.items() if why} for metric, found in reasons.items()},
        "notes": list(_NOTES),
    }


_HINT = "edit judge ROWS --rubric text --model J | edit judge --ocr -o JUDGED/"


def _belongs(case: dict[str, Any], language: str | None) -> bool:
    return case["benchmark"] == "rededit" and case["task"] == TASK and language in (None, case["language"])


def _names_text(instructions: Iterable[str | None]) -> bool:
    return any(target_text(text) is not None for text in instructions if text)


def _judgements(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in row.get("judgements") or [] if one["rubric"] == RUBRIC.name]


def _judged(row: dict[str, Any], metric: str) -> Score:
    key = row["case"]["key"]
    found = [one for one in _judgements(row) if one["dimension"] == metric]
    values = [one["score"] for one in found if one["score"] is not None]
    if not row["result"]:
        return Score(key, metric, {}, "missing", "no result picture")
    if values:
        return Score(key, metric, {"score": fmean(values)})
    why = next((one["error"] or one["state"] for one in found), "not judged by this rubric")
    return Score(key, metric, {}, "failed", why)


def _read(row: dict[str, Any]) -> Score:
    key, value = row["case"]["key"], (row["scores"] or {}).get(OCR)
    if not row["result"]:
        return Score(key, OCR, {}, "missing", "no result picture")
    return Score(key, OCR, {}, "failed", "not read") if value is None else Score(key, OCR, {"score": value})
