"""Rows of a benchmark that a model has edited and a judge has scored: their scores, and the official output files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from edittools.bench.dataset import is_probability
from edittools.bench.rejects import stored_rejects
from edittools.errors import RowError, UsageError
from edittools.judge.judgements import (
    NOT_JUDGED,
    called,
    chosen_judges,
    earlier_models,
    judge_names,
    passes_of,
    score_name,
)
from edittools.judge.rubrics import load_rubric, rubric_names
from edittools.report.thumbnails import data_uri
from edittools.rubric import NOT_ASKED, Rubric
from edittools.rubric.names import ALL, PLAIN
from edittools.stream import codec
from edittools.stream.batch import Reject
from edittools.stream.fetch import Fetcher, image_references, kept_reference
from edittools.stream.row_images import list_slots, row_images
from edittools.stream.rows import column_values
from edittools.stream.source import Source
from edittools.suites.shared.scores import Score
from edittools.suites.shared.types import Benchmark, JudgedCase, JudgedRow

_SIDE = 160
"""Longest side of the gallery's images: 1,212 cases with two each are about 13 MB, so that the file opens at once."""

_SCORES = 4
"""Place of the scores in a row that was read."""

_HINT = "edit sample CASES --model M | edit judge --rubric BENCH --model J -o JUDGED/"


def read_judged(
    source: Source, benchmark: str, judge: str | None = None, otherwise: str | None = None, calibrated: bool = False
) -> tuple[dict[str, list[JudgedRow]], list[Reject]]:
    """The judged cases of a benchmark, with what one of its rubrics said of them, by judge (all cases of each judge, in
    the same order), and the rows that were rejected on the way; the source is read once.

    `judge` and `otherwise` are chosen_judges'; with `calibrated` the calibrated scores count where there are such.
    Raises UsageError where the rows are no judged cases, or not by this judge, or by several and none is named, or
    where no score of a judge is calibrated.
    """
    for name in ("case", "result", "judgements"):
        if name not in source.schema.names:
            raise UsageError(f"the input has no `{name}` column", hint=_HINT)
    # id, case, instruction, judgements, scores, turns, their images, source, result
    records: list[tuple[Any, ...]] = []
    rejects = list(stored_rejects(source))
    for batch in source.batches(lambda shard: True):
        rows = batch.rows
        rejects += batch.rejects
        images = [image_references(row_images(rows, name)) for name in ("source", "result")]
        columns = [rows.column(name).to_pylist() for name in ("id", "case", "instruction", "judgements")]
        columns += [column_values(rows, "scores"), column_values(rows, "turns")]
        columns.append([[*map(kept_reference, turns)] for turns in list_slots(rows, "result_turns")])
        records += zip(*columns, *(map(kept_reference, references) for references in images))
    rubric = _rubric_of(records, benchmark, judge)
    records = _joined(records, rubric)
    names = judge_names((judgements for _, _, _, judgements, *_ in records), rubric.name)
    judges = chosen_judges(names, judge, otherwise)
    columns_of = {name: _calibrated_columns(records, rubric, name) if calibrated else {} for name in judges}
    by_judge: dict[str, list[JudgedRow]] = {name: [] for name in judges}
    for identity, case, instruction, judgements, scores, turns, spoken, references, result in records:
        text = _first_text(instruction)
        if turns:
            text = "\n".join(f"{n}. {_first_text(turn['instruction'])}" for n, turn in enumerate(turns, 1))
        likely = {name: value for name, value in (scores or {}).items() if is_probability(name) and value is not None}
        for name in judges:
            passes = passes_of(judgements, rubric.name, name)
            replies, earlier = _replies(passes, rubric), earlier_models(judgements, rubric.name, name)
            on_scale = {dimension: (scores or {}).get(column) for dimension, column in columns_of[name].items()}
            by_judge[name].append(
                JudgedRow(identity, case, text, passes, replies, references, result, likely, earlier, on_scale, spoken)
            )
    known = {identity for identity, *_ in records}
    return by_judge, list({reject.id: reject for reject in rejects if reject.id not in known}.values())


def _first_text(instruction: Mapping[str, str | None] | None) -> str:
    return next((words for words in (instruction or {}).values() if words), "")


def _calibrated_columns(rows: list[tuple[Any, ...]], rubric: Rubric, judge: str) -> dict[str, str]:
    """Dimension -> the column of a judge's calibrated scores. Raises UsageError where there is none."""
    there = {column for row in rows for column in row[_SCORES] or ()}
    named = None if judge == PLAIN else judge
    columns = {one.name: score_name(rubric.name, one.name, named, "_calibrated") for one in rubric.dimensions}
    columns = {dimension: column for dimension, column in columns.items() if column in there}
    if not columns:
        raise UsageError(
            f"--calibrated: no score of judge {judge} by rubric {rubric.name} is calibrated",
            hint="edit judge JUDGED/ --calibrate RATINGS.csv -o CALIBRATED/",
        )
    return columns


def _joined(rows: list[tuple[Any, ...]], rubric: Rubric) -> list[tuple[Any, ...]]:
    """The rows, those of one result that judges have judged apart, each into a set of its own, as one row."""
    places: dict[str, int] = {}
    joined: list[tuple[Any, ...]] = []
    for row in rows:
        identity, _, _, judgements, *_, result = row
        index = places.setdefault(identity, len(joined))
        if index < len(joined):
            before = joined[index]
            names = [set(judge_names([said], rubric.name)) for said in (before[3], judgements)]
            if all(names) and names[0].isdisjoint(names[1]) and _alike(before[-1], result):
                scores = {**(before[_SCORES] or {}), **(row[_SCORES] or {})}
                joined[index] = (*before[:3], [*before[3], *judgements], scores, *before[_SCORES + 1 :])
                continue
        joined.append(row)
    return joined


def _alike(first: dict[str, Any] | None, second: dict[str, Any] | None) -> bool:
    """Whether two references can be of the same image: that of another model hardly has as many bytes."""
    if first is None or second is None:
        return first is second
    return all(first[name] == second[name] for name in ("length", "width", "height", "format"))


def _rubric_of(rows: list[tuple[Any, ...]], benchmark: str, judge: str | None) -> Rubric:
    """The benchmark's rubric that judged the rows (by that judge): its namesake, where that judged any, or one of its
    others.

    Others are for another judge or another suite, which has texts of its own, and ours for a suite that has none.
    """
    suites = {case["suite"] for _, case, *_ in rows}
    named = {
        one["rubric"]
        for _, _, _, judgements, *_ in rows
        for one in judgements or []
        if judge in (None, ALL) or called(one) == judge
    }
    candidates = [load_rubric(name) for name in rubric_names() if name in named]
    used = [rubric for rubric in candidates if rubric.benchmark in {benchmark, *suites} or rubric.suite in suites]
    return next((rubric for rubric in used if rubric.name == benchmark), used[0] if used else load_rubric(benchmark))


def _replies(passes: list[dict[str, Mapping[str, Any]]], rubric: Rubric) -> dict[str, str]:
    """Call -> text, out of the dimensions that are read from one call."""
    replies: dict[str, str] = {}
    for dimension in rubric.dimensions:
        text = passes[0].get(dimension.name, {}).get("reply") if passes else None
        if len(dimension.calls) == 1 and text is not None:
            replies.setdefault(dimension.calls[0], text)
    return replies


def score_row(benchmark: Benchmark, row: JudgedRow) -> Score:
    """Our score of a case: failed or missing unless every number is there."""
    key, task, subset = row.case["key"], row.case["task"], bool(row.case["subset"])
    abilities = benchmark.abilities(task, json.loads(row.case["facts"] or "{}"))
    if row.result is None:
        return Score(key, task, {}, "missing", "no result picture", subset, abilities)
    trouble = row.trouble() if row.passes else ("failed", NOT_JUDGED)
    values = row.values()
    measured = benchmark.values(values, row.case) if values else None
    if measured is None:
        state, reason = trouble or ("failed", "scores are missing")
        return Score(key, task, {}, "missing" if state == "missing" else "failed", reason, subset, abilities)
    return Score(key, task, measured, subset=subset, abilities=abilities)


def shown_case(rows: Mapping[str, JudgedRow], score: Score, metric: str, fetcher: Fetcher) -> JudgedCase:
    """What the report's gallery shows of a case: what each judge said of it."""
    words = []
    for judge, row in rows.items():
        for number, one in enumerate(row.passes):
            for name, judgement in one.items():
                if judgement["error"] == NOT_ASKED:
                    continue
                told = [judge] if len(rows) > 1 else []
                told += [f"pass {number + 1}"] if len(row.passes) > 1 else []
                said = "\n".join(filter(None, (judgement["error"], judgement["reply"])))
                words.append((", ".join([name, *told]), judgement["score"], said))
    row = next(iter(rows.values()))
    named = [("source", row.source), ("result", row.result)]
    if len(row.spoken) > 1:
        named[1:] = [(f"turn {number}", image) for number, image in enumerate(row.spoken, 1)]
    return JudgedCase(
        row.id,
        score.task,
        row.instruction,
        score.values.get(metric),
        score.state,
        without_repeats(words),
        [(caption, thumbnail(image, fetcher)) for caption, image in named],
    )


def without_repeats(words: list[tuple[str, float | None, str]]) -> list[tuple[str, float | None, str]]:
    """Dimensions read from one reply show it once."""
    seen: set[str] = set()
    result = []
    for label, score, said in words:
        result.append((label, score, "" if said in seen else said))
        seen.add(said)
    return result


def thumbnail(reference: dict[str, Any] | None, fetcher: Fetcher, side: int = _SIDE) -> str | None:
    """A small image for the gallery as a data: URI; None where there is none to be decoded."""
    if reference is None:
        return None
    try:
        image = codec.decode(fetcher.get(reference), codec.Raster(short_side=side))
    except RowError:
        return None
    return data_uri(image, side, quality=70)


def judge_facts(judgements: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What every score was made with, for the report and the JSON file. Judges have a `judge name` where one was given.

    Who judged is who answered: a row that nobody was asked about, and a call that got no answer, name the model that
    was wanted, and that may be an alias. They are only looked at where nothing was answered at all.
    """
    asked = [one for one in judgements if one["state"] != "missing"]
    answered = [one for one in asked if one["state"] in ("ok", "unparsed")] or asked or judgements
    names = {"rubric": "rubric", "judge": "model", "endpoint": "endpoint", "image encoding": "image_encoding"}
    names["prompts"] = "prompt_hash"
    facts: dict[str, Any] = {}
    called_so = sorted({called(one) for one in judgements})
    if called_so not in ([], [PLAIN]):
        facts["judge name"] = ", ".join(called_so)
    for label, name in names.items():
        values = sorted({one[name] for one in answered if one[name]})
        if values:
            facts[label] = f"{len(values)} different texts" if name == "prompt_hash" else ", ".join(values)
    if len(called_so) > 1:
        facts["mean over"] = f"{len(called_so)} judges"
    facts["passes"] = len({one["pass"] for one in judgements})
    states = Counter(one["state"] for one in judgements)
    facts["states of single scores"] = ", ".join(f"{name} {count}" for name, count in sorted(states.items()))
    return facts


def judge_note(facts: Mapping[str, Any]) -> str:
    """Whose scores they are, in a line below a table."""
    judges = facts.get("judge", "nobody has answered")
    named = f", called {facts['judge name']}" if "judge name" in facts else ""
    over = f", mean over {facts['mean over']}" if "mean over" in facts else ""
    return f"judge: {judges}{named}{over}" + (f"; {facts['scores']}" if "scores" in facts else "")
