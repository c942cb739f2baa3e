"""Rows of a benchmark that a model has edited and a judge has scored: their scores, and the official output files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from edittools.bench.public import Benchmark
from edittools.bench.rejects import stored_rejects
from edittools.bench.score_report import JudgedCase
from edittools.bench.scores import Score
from edittools.bench.thumbnails import data_uri
from edittools.errors import RowError, UsageError
from edittools.judges.rubrics import Rubric, load_rubric, rubric_names
from edittools.stream import images
from edittools.stream.batch import Reject
from edittools.stream.fetch import Fetcher, kept_reference, leaf_references
from edittools.stream.pictures import row_pictures
from edittools.stream.source import Source

_SIDE = 160
"""Longest side of the gallery's pictures: 1,212 cases with two each are about 13 MB, so that the file opens at once."""

_HINT = "edit sample CASES --model M | edit judge --rubric BENCH --model J -o JUDGED/"


@dataclass(frozen=True)
class JudgedRow:
    """One case: the benchmark's facts of it, and what the judge said.

    `passes` are the judgements of each pass: dimension -> {score, state, error, reply, ...}. `replies` are the texts
    of the first pass by the name of the call, as far as they came. The pictures are references.
    """

    id: str
    case: dict[str, Any]
    instruction: str
    passes: list[dict[str, dict[str, Any]]]
    replies: dict[str, str]
    source: dict[str, Any] | None
    result: dict[str, Any] | None

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


def read_judged(
    source: Source, benchmark: str, judge: str | None = None, required: bool = True
) -> tuple[list[JudgedRow], list[Reject], list[str]]:
    """The judged cases of a benchmark, with what one of its rubrics said of them, the rows that were rejected on the
    way, and what was chosen out of several; the source is read once.

    `judge` is one of those that judged the rows by that rubric, by the name that it was given; where it is not
    `required`, any other does. Raises UsageError where the rows are no judged cases, or not judged by it.
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
        found += zip(*columns, *(map(kept_reference, shown) for shown in pictures))
    rubric = _rubric_of(found, benchmark)
    chosen, notes = _judge_of(found, rubric, judge, required)
    made = []
    for identity, case, instruction, judgements, shown, result in found:
        mine = [one for one in judgements or [] if one["rubric"] == rubric.name and one.get("judge") == chosen]
        turns = sorted({one["pass"] for one in mine})
        passes = [{one["dimension"]: one for one in mine if one["pass"] == turn} for turn in turns]
        text = next((words for words in (instruction or {}).values() if words), "")
        made.append(JudgedRow(identity, case, text, passes, _replies(passes, rubric), shown, result))
    known = {row.id for row in made}
    return made, list({reject.id: reject for reject in rejects if reject.id not in known}.values()), notes


def _judge_of(
    rows: list[tuple[Any, ...]], rubric: Rubric, wanted: str | None, required: bool
) -> tuple[str | None, list[str]]:
    """The judge whose judgements count, by its name (None has none): the wanted one, else the one without a name, else
    the first by the alphabet; and a note where there are others. Raises UsageError."""
    named = {
        one.get("judge") for *_, judgements, _, _ in rows for one in judgements or [] if one["rubric"] == rubric.name
    }
    said = ", ".join(sorted(name or "one without a name" for name in named))
    if wanted is not None and wanted not in named:
        if not required:
            return _judge_of(rows, rubric, None, required)
        raise UsageError(f"--judge {wanted}: no such judge of rubric {rubric.name}", hint=f"there are: {said}")
    chosen = wanted if wanted is not None or None in named or not named else min(filter(None, named))
    if len(named) < 2:
        return chosen, []
    return chosen, [
        f"judged by several ({said}): the scores are of {chosen or 'the one without a name'}; --judge chooses"
    ]


def _rubric_of(rows: list[tuple[Any, ...]], benchmark: str) -> Rubric:
    """The benchmark's rubric that judged the rows: its namesake, where that judged any, or one of its others.

    Others are GEdit-Bench's for a local Qwen2.5-VL, and that of ImgEdit's second suite, which has texts of its own.
    """
    texts = {benchmark, *(case["suite"] for _, case, *_ in rows)}
    named = {one["rubric"] for _, _, _, judgements, *_ in rows for one in judgements or []}
    used = [rubric for name in rubric_names() if name in named and (rubric := load_rubric(name)).benchmark in texts]
    return next((rubric for rubric in used if rubric.name == benchmark), used[0] if used else load_rubric(benchmark))


def _replies(passes: list[dict[str, dict[str, Any]]], rubric: Rubric) -> dict[str, str]:
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
    if row.result is None:
        return Score(key, task, {}, "missing", "no result picture", subset)
    trouble = row.trouble() if row.passes else ("failed", "not judged by this rubric")
    values = row.values()
    made = benchmark.values(values, row.case) if values else None
    if made is None:
        state, reason = trouble or ("failed", "scores are missing")
        return Score(key, task, {}, "missing" if state == "missing" else "failed", reason, subset)
    return Score(key, task, made, subset=subset)


def shown_case(row: JudgedRow, score: Score, metric: str, fetcher: Fetcher) -> JudgedCase:
    """What the report's gallery shows of a case."""
    words = []
    for number, one in enumerate(row.passes):
        for name, judgement in one.items():
            if judgement["error"] == NOT_ASKED:
                continue
            label = name if len(row.passes) == 1 else f"{name}, pass {number + 1}"
            said = "\n".join(filter(None, (judgement["error"], judgement["reply"])))
            words.append((label, judgement["score"], said))
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


def judge_facts(judgements: list[dict[str, Any]]) -> dict[str, Any]:
    """What every score was made with, for the report and the JSON file.

    Who judged is who answered: a row that nobody was asked about, and a call that got no answer, name the model that
    was wanted, and that may be an alias. They are only looked at where nothing was answered at all.
    """
    asked = [one for one in judgements if one["state"] != "missing"]
    answered = [one for one in asked if one["state"] in ("ok", "unparsed")] or asked or judgements
    names = {"rubric": "rubric", "judge": "model", "endpoint": "endpoint", "image encoding": "image_encoding"}
    names["prompts"] = "prompt_hash"
    facts: dict[str, Any] = {}
    for shown, name in names.items():
        values = sorted({one[name] for one in answered if one[name]})
        if values:
            facts[shown] = f"{len(values)} different texts" if name == "prompt_hash" else ", ".join(values)
    facts["passes"] = len({one["pass"] for one in judgements})
    states = Counter(one["state"] for one in judgements)
    facts["states of single scores"] = ", ".join(f"{name} {count}" for name, count in sorted(states.items()))
    return facts
