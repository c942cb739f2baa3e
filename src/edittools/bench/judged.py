"""Rows of a benchmark that a model has edited and a judge has scored: their scores, and the official output files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from edittools.bench.dataset import is_probability
from edittools.bench.public import Benchmark
from edittools.bench.rejects import stored_rejects
from edittools.bench.score_report import JudgedCase
from edittools.bench.scores import Score
from edittools.bench.thumbnails import data_uri
from edittools.errors import RowError, UsageError
from edittools.judges.judgements import ALL, PLAIN, called, chosen_judges, earlier_models, judge_names, passes_of
from edittools.judges.rubrics import Rubric, load_rubric, rubric_names
from edittools.stream import images
from edittools.stream.batch import Reject
from edittools.stream.fetch import Fetcher, kept_reference, leaf_references
from edittools.stream.pictures import row_pictures
from edittools.stream.rows import column_values
from edittools.stream.source import Source

_SIDE = 160
"""Longest side of the gallery's pictures: 1,212 cases with two each are about 13 MB, so that the file opens at once."""

_HINT = "edit sample CASES --model M | edit judge --rubric BENCH --model J -o JUDGED/"


@dataclass(frozen=True)
class JudgedRow:
    """One case: the benchmark's facts of it, and what the judge said.

    `passes` are the judgements of each pass: dimension -> {score, state, error, reply, ...}. `replies` are the texts
    of the first pass by the name of the call, as far as they came. `detected` are the probabilities of a class that a
    classifier gave the result (`edit filter --classifier`), by the name of the score. `earlier` are the models of
    runs under the same name that do not count any more. The pictures are references.
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

    def values(self) -> dict[str, float]:
        """Dimension -> mean over the passes that gave one."""
        found: dict[str, list[float]] = {}
        for one in self.passes:
            for name, judgement in one.items():
                if judgement["score"] is not None:
                    found.setdefault(name, []).append(judgement["score"])
        return {name: fmean(scores) for name, scores in found.items()}

    def trouble(self) -> tuple[str, str] | None:
        """(state, reason) of the first judgement without a score that had to have one; None if there is none."""
        for one in self.passes:
            for judgement in one.values():
                if judgement["score"] is None and judgement["error"] != NOT_ASKED:
                    return judgement["state"], judgement["error"] or judgement["state"]
        return None


NOT_ASKED = "the rubric does not ask for it here"
NOT_JUDGED = "not judged by this rubric"


def read_judged(
    source: Source, benchmark: str, judge: str | None = None, otherwise: str | None = None
) -> tuple[dict[str, list[JudgedRow]], list[Reject]]:
    """The judged cases of a benchmark, with what one of its rubrics said of them, by judge (all cases of each judge, in
    the same order), and the rows that were rejected on the way; the source is read once.

    `judge` and `otherwise` are chosen_judges'. Raises UsageError where the rows are no judged cases, or not by this
    judge, or by several and none is named.
    """
    for name in ("case", "result", "judgements"):
        if name not in source.schema.names:
            raise UsageError(f"the input has no `{name}` column", hint=_HINT)
    found: list[tuple[Any, ...]] = []
    rejects = stored_rejects(source)
    for batch in source.batches(lambda shard: True):
        rows = batch.rows
        rejects += batch.rejects
        pictures = [leaf_references(row_pictures(rows, name)) for name in ("source", "result")]
        columns = [rows.column(name).to_pylist() for name in ("id", "case", "instruction", "judgements")]
        columns.append(column_values(rows, "scores"))
        found += zip(*columns, *(map(kept_reference, shown) for shown in pictures))
    rubric = _rubric_of(found, benchmark, judge)
    found = _joined(found, rubric)
    names = judge_names((judgements for _, _, _, judgements, *_ in found), rubric.name)
    judges = chosen_judges(names, judge, otherwise)
    made: dict[str, list[JudgedRow]] = {name: [] for name in judges}
    for identity, case, instruction, judgements, scores, shown, result in found:
        text = next((words for words in (instruction or {}).values() if words), "")
        likely = {name: value for name, value in (scores or {}).items() if is_probability(name) and value is not None}
        for name in judges:
            passes = passes_of(judgements, rubric.name, name)
            replies, earlier = _replies(passes, rubric), earlier_models(judgements, rubric.name, name)
            made[name].append(JudgedRow(identity, case, text, passes, replies, shown, result, likely, earlier))
    known = {identity for identity, *_ in found}
    return made, list({reject.id: reject for reject in rejects if reject.id not in known}.values())


def _joined(rows: list[tuple[Any, ...]], rubric: Rubric) -> list[tuple[Any, ...]]:
    """The rows, those of one result that judges have judged apart, each into a set of its own, as one row."""
    places: dict[str, int] = {}
    joined: list[tuple[Any, ...]] = []
    for row in rows:
        identity, _, _, judgements, *_, result = row
        place = places.setdefault(identity, len(joined))
        if place < len(joined):
            before = joined[place]
            names = [set(judge_names([said], rubric.name)) for said in (before[3], judgements)]
            if all(names) and names[0].isdisjoint(names[1]) and _alike(before[-1], result):
                joined[place] = (*before[:3], [*before[3], *judgements], *before[4:])
                continue
        joined.append(row)
    return joined


def _alike(first: dict[str, Any] | None, second: dict[str, Any] | None) -> bool:
    """Whether two references can be of the same picture: that of another model hardly has as many bytes."""
    if first is None or second is None:
        return first is second
    return all(first[name] == second[name] for name in ("length", "width", "height", "format"))


def _rubric_of(rows: list[tuple[Any, ...]], benchmark: str, judge: str | None) -> Rubric:
    """The benchmark's rubric that judged the rows (by that judge): its namesake, where that judged any, or one of its
    others.

    Others are GEdit-Bench's for a local Qwen2.5-VL, that of ImgEdit's second suite, which has texts of its own, and
    ours for a suite that has none.
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
    found: dict[str, str] = {}
    for dimension in rubric.dimensions:
        text = passes[0].get(dimension.name, {}).get("reply") if passes else None
        if len(dimension.calls) == 1 and text is not None:
            found.setdefault(dimension.calls[0], text)
    return found


def score_row(benchmark: Benchmark, row: JudgedRow) -> Score:
    """Our score of a case: failed or missing unless every number is there."""
    key, task, subset = row.case["key"], row.case["task"], bool(row.case["subset"])
    abilities = benchmark.abilities(task, json.loads(row.case["facts"] or "{}"))
    if row.result is None:
        return Score(key, task, {}, "missing", "no result picture", subset, abilities)
    trouble = row.trouble() if row.passes else ("failed", NOT_JUDGED)
    values = row.values()
    made = benchmark.values(values, row.case) if values else None
    if made is None:
        state, reason = trouble or ("failed", "scores are missing")
        return Score(key, task, {}, "missing" if state == "missing" else "failed", reason, subset, abilities)
    return Score(key, task, made, subset=subset, abilities=abilities)


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
    return JudgedCase(
        row.id,
        score.task,
        row.instruction,
        score.values.get(metric),
        score.state,
        without_repeats(words),
        thumbnail(row.source, fetcher),
        thumbnail(row.result, fetcher),
    )


def without_repeats(words: list[tuple[str, float | None, str]]) -> list[tuple[str, float | None, str]]:
    """Dimensions read from one reply show it once."""
    seen: set[str] = set()
    shown = []
    for label, score, said in words:
        shown.append((label, score, "" if said in seen else said))
        seen.add(said)
    return shown


def thumbnail(reference: dict[str, Any] | None, fetcher: Fetcher) -> str | None:
    """A small picture for the gallery as a data: URI; None where there is none to be decoded."""
    if reference is None:
        return None
    try:
        picture = images.decode(fetcher.get(reference), images.Raster(short_side=_SIDE))
    except RowError:
        return None
    return data_uri(picture, _SIDE, quality=70)


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
    for shown, name in names.items():
        values = sorted({one[name] for one in answered if one[name]})
        if values:
            facts[shown] = f"{len(values)} different texts" if name == "prompt_hash" else ", ".join(values)
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
    return f"judge: {judges}{named}" + (f", mean over {facts['mean over']}" if "mean over" in facts else "")
