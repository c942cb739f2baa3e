"""RISEBench: temporal, causal, spatial and logical reasoning in edits; consistency, reasoning and plausibility.

Outputs are the judge's replies as JSON: {index: {judge1: consistency, judge2: reasoning, judge3: quality}}, or the
script's table, MODEL_judge.xlsx, saved as CSV or as JSON records; beside the cases as the benchmark's data.json. The
script's own resume file is a pickle, which may run anything when it is read: it is not.
"""

from __future__ import annotations

import bdb
import contextlib
import csv
import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edittools.errors import EditError, RowError, UsageError
from edittools.json_file import read_json
from edittools.rubric import Dimension, Numbers, Rubric, number_of
from edittools.rubric.calls import Call, Prompts, absent, filled, named_text, reference_bytes
from edittools.rubric.calls import JudgedEdit as Asked
from edittools.rubric.parsing import BOLD, RATING, Scores, Unparsed, of_the_answer
from edittools.rubric.prompts import PromptLayout
from edittools.suites.shared.scores import (
    Score,
    count_tasks,
    crashed,
    official,
    released_json,
    that_end_well,
    unreadable,
)
from edittools.suites.shared.types import Benchmark, Case, JudgedRow, Outputs, Rescored, known_task
from edittools.vlm import EncodedImage
from edittools.vlm.images import Encoding, opened, saved

CATEGORIES = {
    "Temporal": "temporal_reasoning",
    "Causal": "causal_reasoning",
    "Spatial": "spatial_reasoning",
    "Logical": "logical_reasoning",
}
_THREE = ("temporal_reasoning", "causal_reasoning", "spatial_reasoning")
SUBTASKS = {
    "Temp": ("Life Progression", "Material Progression", "Environmental Cycles", "Societal Transformation"),
    "Causal": (
        "Structural Deformation",
        "State Transition",
        "Chemical and Biological Transformation",
        "Physics Manifestation",
    ),
    "Spa": (
        "Component Assembly",
        "Object Arrangement",
        "Viewpoint Generation",
        "Structural Inference",
        "Layout Reasoning",
    ),
    "Logic": ("Pattern Prediction", "Mathematical Derivation", "Puzzle Solving"),
}
_PARTS = ("ApprConsistency", "Reasoning", "VisualPlausibility")


def rescore(outputs: Outputs) -> Rescored:
    if outputs.meta is None:
        raise UsageError("RISEBench needs --meta data.json, which says the categories")
    replies = _replies(outputs.path)
    data, unlisted = released_json(outputs.meta)
    if isinstance(data, dict):
        with contextlib.suppress(KeyError, ValueError):
            data = _rows(data)
    cases = [case for case in data if isinstance(case, dict) and "index" in case] if isinstance(data, list) else []
    notes = unreadable((outputs.meta, unlisted))
    if data != cases and not unlisted:
        notes.append(f"{outputs.meta}: not a list of cases with an index")
    if any("consistency_free" in case for case in cases):
        notes.append("the script takes a case without `consistency_free` for one with it: 0.8 R + 0.2 V for all")
    if not all("subtask" in case for case in cases):
        notes.append("the script needs `subtask` in the data")
    expected = count_tasks(str(case.get("category")) for case in cases)
    made: Any = unlisted or official(lambda: _official(replies, _table(data)))
    clean: dict[str, Any] = {}
    if crashed(made) and isinstance(replies, dict):
        by_index = {str(case["index"]): case for case in cases}
        kept = that_end_well(by_index, lambda one: _official(replies, list(one.values())))
        clean = _means(official(lambda: _official(replies, list(kept.values()))))
    facts = {str(case["index"]): case for case in cases}
    scores = [replace(score, abilities=abilities(score.task, facts[score.key])) for score in _scores(replies, cases)]
    return Rescored(made, {"": _means(made)}, {"": scores}, {"": expected}, notes, {"": clean})


_UNPACK = "python -c \"import json, pickle; json.dump(pickle.load(open('{0}.pkl', 'rb')), open('{0}.json', 'w'))\""
_SAVE = "pip install pandas openpyxl; python -c \"import pandas; pandas.read_excel('{}').to_csv('{}')\""
_TABLE = {"judge_cons": "judge1", "judge_reas": "judge2", "judge_qua": "judge3"}


def _replies(path: Path) -> Any:
    """Index -> {judge1, judge2, judge3}, as the script's resume file has them, whichever file holds them.

    Raises UsageError with a way to convert those that are not read, EditError.
    """
    if path.is_dir():
        raise UsageError(f"{path}: a folder; expected the file with the replies, JSON or CSV")
    if path.suffix in (".pkl", ".pickle"):
        raise UsageError(
            f"{path}: a pickle is not read, for it may run anything",
            hint="yours? " + _UNPACK.format(path.with_suffix("")),
        )
    if path.suffix in (".xlsx", ".xls"):
        raise UsageError(
            f"{path}: a spreadsheet is not read; save it as CSV",
            hint=_SAVE.format(path, path.with_suffix(".csv")),
        )
    if path.suffix == ".csv":
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows: Any = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise EditError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    else:
        rows = read_json(path)
    if not isinstance(rows, list):
        return rows
    if not all(isinstance(row, dict) and {"index", *_TABLE} <= row.keys() for row in rows):
        raise EditError(f"{path}: not the table of replies: expected the columns index, {', '.join(_TABLE)}")
    return {str(row["index"]): _of_row(row) for row in rows}


def _of_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the script's table as the case was in its resume file: a call that was not made has no key, but for
    consistency, which is None."""
    said = {name: row[column] for column, name in _TABLE.items() if isinstance(row[column], str) and row[column]}
    return {"judge1": None, **said}


def _means(made: Any) -> dict[str, dict[str, float]]:
    return {
        name: {"score": line["Score-Percentage"], "accuracy": line["Accuracy"]}
        for name, line in made.get("summary", {}).items()
        if name in CATEGORIES or name == "Overall"
    }


# ---------------------------------------------------------------- as the script does it


def _numbers(judge: dict[str, Any]) -> list[Any] | None:
    """The numbers of a case's replies, one after the other; None where a reply has none."""
    if judge["judge1"] is None:
        texts = ["judge2", "judge3"]
    elif "judge3" not in judge:
        texts = ["judge1", "judge2"]
    elif "judge2" not in judge:
        first = risebench_official(judge["judge1"])
        # It swaps the two, but appends the reply to no column: those get another length than the table.
        return [(first[1], first[0])]  # type: ignore[index]
    else:
        texts = ["judge1", "judge2", "judge3"]
        if not all(isinstance(judge[name], str) for name in texts):
            raise bdb.BdbQuit  # the script stops in the debugger, which ends at the end of its input
    for name in texts:
        if not isinstance(judge[name], str):
            raise TypeError(f"{name} is no text")
    found = [risebench_official(judge[name]) for name in texts]
    if not all(found):
        return None
    numbers: list[Any] = [number for part in found for number in part or []]
    return [None, *numbers] if judge["judge1"] is None else numbers


def _table(data: Any) -> list[dict[str, Any]]:
    """The rows of pandas' DataFrame(data), if that has a column `index`."""
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return [dict(case) for case in data]
    if isinstance(data, dict) and data:
        return _rows(data)
    if data is None or isinstance(data, list | dict):
        raise KeyError("index")
    raise ValueError("no table")


def _rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows from columns: lists of one length, or {row: value}; a single value holds for every row."""
    lists = [column for column in columns.values() if isinstance(column, list)]
    keyed = [column for column in columns.values() if isinstance(column, dict)]
    if bool(lists) == bool(keyed) or len({len(column) for column in lists}) > 1:
        raise ValueError("columns that make no table")
    if "index" not in columns:
        raise KeyError("index")
    numbers: list[Any] = list(range(len(lists[0]))) if lists else list(dict.fromkeys(itertools.chain(*keyed)))

    def value(column: Any, row: Any) -> Any:
        if isinstance(column, dict):
            return column.get(row, math.nan)
        return column[row] if isinstance(column, list) else column

    return [{name: value(column, row) for name, column in columns.items()} for row in numbers]


def _column(values: list[Any]) -> list[Any]:
    """As pandas keeps them: None is NaN among numbers; alone, and among anything else, it stays None."""
    present = [value for value in values if not _is_missing(value)]
    if all(type(value) in (int, float) for value in present) and any(value is not None for value in values):
        return [math.nan if value is None else float(value) for value in values]
    return values


def _official(replies: Any, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """main() of gpt_eval.py after its calls."""
    numbers = [_numbers(judge) for judge in [replies[str(case["index"])] for case in cases]]
    table: dict[str, list[Any]] = {name: [] for name in _PARTS}
    for found in numbers:
        if not found:
            values = [None, None, None]
        elif len(found) == 3:
            values = found
        elif len(found) == 2:
            values = [4 * min(found[0], 1) + 1, 4 * min(found[1], 1) + 1, None]
        else:  # appends nothing: the columns get another length than the table
            raise ValueError(f"{len(found)} numbers in the replies of one case")
        for name, value in zip(_PARTS, values):
            table[name].append(value)
    table = {name: _column(column) for name, column in table.items()}  # None cannot be calculated with, NaN can
    # Where any case has the key, the others have NaN, which counts as true.
    known = any("consistency_free" in case for case in cases)
    frees = _column([case.get("consistency_free", math.nan) if known else None for case in cases])
    if not any("category" in case for case in cases):
        raise KeyError("category")
    rows = []
    for k, (case, free) in enumerate(zip(cases, frees)):
        parts = {name: table[name][k] for name in _PARTS}
        score = _official_score(case.get("category"), parts, bool(free))
        complete = _complete(case.get("category"), parts, not _is_missing(free))
        rows.append({**parts, "match_log": "succeed" if numbers[k] else "failed", "score": score, "complete": complete})
    return {
        "samples": {str(case["index"]): row for case, row in zip(cases, rows)},
        "summary": _summary(cases, rows),
    }


def _official_score(category: str | None, parts: dict[str, Any], free: bool) -> float:
    consistency, reasoning, quality = (parts[name] for name in _PARTS)
    if category in _THREE:
        score = 0.2 * quality + 0.8 * reasoning if free else 0.3 * consistency + 0.5 * reasoning + 0.2 * quality
    elif category == "logical_reasoning":
        score = 0.3 * consistency + 0.7 * reasoning
    else:
        raise UnboundLocalError(f"no rule for category {category}")
    if reasoning == 1:
        score *= 0.5
        score = 1 if score < 1 else score  # NaN stays
    return score


def _complete(category: str | None, parts: dict[str, Any], free: bool) -> int:
    consistency, reasoning, quality = (parts[name] == 5 for name in _PARTS)
    if category == "logical_reasoning":
        return int(consistency and reasoning)
    return int(reasoning and quality and (free or consistency))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _mean(values: list[Any]) -> float:
    """Without the missing ones, as pandas takes a mean."""
    import numpy as np

    present = [value for value in values if not _is_missing(value)]
    return float(np.mean(present)) if present else math.nan


def _summary(cases: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    def line(mean: float, accuracy: float = math.nan) -> dict[str, float]:
        return {"Score-Origin": mean, "Score-Percentage": 25 * (mean - 1), "Accuracy": accuracy}

    def of(chosen: list[dict[str, Any]]) -> dict[str, float]:
        return line(_mean([row["score"] for row in chosen]), _mean([row["complete"] for row in chosen]))

    members = {
        name: [row for case, row in zip(cases, rows) if case.get("category") == category]
        for name, category in CATEGORIES.items()
    }
    summary = {"Overall": of(rows), **{name: of(chosen) for name, chosen in members.items()}}
    named = {"Reasoning": "Reasoning", "ApprConsistency": "ApprConsistency"}
    for shown, part in (*named.items(), ("VisualPlausibility_total", "VisualPlausibility")):
        summary[f"Overall_{shown}"] = line(_mean([row[part] for row in rows]))
    for name, chosen in members.items():
        parts = {"Reasoning": "Reasoning", "Consistency": "ApprConsistency", "Quality": "VisualPlausibility"}
        for shown, part in parts.items():
            if (name, shown) != ("Logical", "Quality"):
                summary[f"{name}_{shown}"] = line(_mean([row[part] for row in chosen]))
    if not any("subtask" in case for case in cases):
        raise KeyError("subtask")
    by_subtask: dict[Any, list[dict[str, Any]]] = {}
    for case, row in zip(cases, rows):
        by_subtask.setdefault(case.get("subtask"), []).append(row)
    for prefix, subtasks in SUBTASKS.items():
        for subtask in subtasks:
            if subtask in by_subtask:
                summary[f"{prefix}-{subtask}"] = of(by_subtask[subtask])
    return summary


# ---------------------------------------------------------------- ours


def _scores(replies: Any, cases: list[dict[str, Any]]) -> list[Score]:
    """One number per reply, from 1 to 5 (0 or 1 for logical consistency and reasoning); else the case has failed.

    A case is free of consistency only where the data say so. The weights and the rule for R = 1 are the script's.
    """
    found = []
    for case in cases:
        key, task = str(case["index"]), str(case.get("category"))
        judge = replies.get(key) if isinstance(replies, dict) else None
        if not isinstance(judge, dict):
            found.append(Score(key, task, {}, "missing", "no replies"))
            continue
        if task not in CATEGORIES.values():
            found.append(Score(key, task, {}, "failed", f"no rule for category {task}"))
            continue
        logical = task == "logical_reasoning"
        free = bool(case.get("consistency_free")) and not logical
        asked = ["judge2"] if free else ["judge1", "judge2"]
        values = [_one(judge.get(name), logical) for name in (asked if logical else [*asked, "judge3"])]
        if None in values:
            found.append(Score(key, task, {}, "failed", "a reply without one score in range"))
            continue
        numbers = [value for value in values if value is not None]
        parts = dict(zip(_PARTS, [math.nan, *numbers] if free else [*numbers, math.nan] if logical else numbers))
        score = _official_score(task, parts, free)
        found.append(Score(key, task, {"score": 25 * (score - 1), "accuracy": float(_complete(task, parts, free))}))
    return found


def _one(reply: Any, logical: bool) -> float | None:
    scores = risebench_strict(reply, *((0, 1) if logical else (1, 5))) if isinstance(reply, str) else None
    if not isinstance(scores, Scores):
        return None
    return 4.0 * scores.values["score"] + 1 if logical else scores.values["score"]


def abilities(task: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The kind of reasoning within the category, where the data say it."""
    return (facts["subtask"],) if isinstance(facts.get("subtask"), str) else ()


def cases(path: Path, language: str | None, suite: str | None, images: Path | None) -> list[Case]:
    """Read the cases from a data*.json and the folder of images beside it."""
    from edittools.suites.shared.images import loose_image

    found = [path] if path.is_file() else sorted(path.glob("data*.json")) or sorted(path.rglob("data*.json"))
    if not found:
        raise EditError(f"{path}: holds no data*.json of RISEBench")
    told: tuple[str, ...] = ("reference", "reference_img", "reference_txt", "reasoning_img", "reasoning_wo_ins")
    told += ("consistency_free", "subtask")
    folder = images or found[0].parent
    items = read_json(found[0])
    try:
        # The script looks for this column in its table of all cases: one that has it decides for every other.
        common = {"reasoning_wo_ins": True} if any("reasoning_wo_ins" in item for item in items) else {}
        return [
            Case(
                str(item["index"]),
                known_task(item["category"], CATEGORIES.values(), f"{found[0]}: {item['index']}"),
                item["instruction"],
                "en",
                [loose_image(folder / item["image"])],
                f"images/{item['category']}/{item['index']}.png",
                facts=_located({name: item[name] for name in told if item.get(name) is not None} | common, folder),
            )
            for item in items
        ]
    except (TypeError, KeyError) as error:
        raise EditError(f"{found[0]}: not a list of RISEBench's cases: {error!r}") from error


def _located(facts: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The facts with the reference image as a path of its own."""
    if "reference_img" in facts:
        facts["reference_img"] = str((folder / facts["reference_img"]).resolve())
    return facts


def values(dimensions: dict[str, float], case: dict[str, Any]) -> dict[str, float] | None:
    if "overall" not in dimensions:
        return None
    parts = [value for name, value in dimensions.items() if name != "overall"]
    return {"score": 25 * (dimensions["overall"] - 1), "accuracy": float(all(value == 5 for value in parts))}


_FAILED = "Failed to obtain answer via API. "


def write(rows: list[JudgedRow], folder: Path, model: str) -> Outputs:
    """The replies as JSON under the script's names, of the first pass, and the cases they belong to.

    A call without a reply has the script's words for it: left out, it would count as one that was not asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {"consistency": "judge1", "reasoning": "judge2", "quality": "judge3"}
    replies, cases = {}, []
    for row in rows:
        facts = json.loads(row.case["facts"])
        free = {name: facts[name] for name in ("consistency_free", "subtask") if name in facts}
        cases.append({"index": row.case["key"], "category": row.case["task"], **free})
        judged = row.passes[0] if row.passes else {}
        asked = [name for name in names if name in judged and judged[name]["state"] != "missing"]
        said = {names[name]: row.replies.get(name, _FAILED) for name in asked}
        replies[row.case["key"]] = {"judge1": None, **said}
    for name, content in (("replies.json", replies), ("data.json", cases)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")
    return Outputs(folder / "replies.json", folder / "data.json")


# ---------------------------------------------------------------- what a judge is asked


def ask(case: Asked, prompts: Prompts, encoding: Encoding | None = None) -> list[Call]:
    """Up to three calls: consistency (input and output), reasoning (output, or both), quality (output).

    Which text is used depends on the category and on what references an item has. Where the reference is an
    image, it takes the input's place in the calls that show two. RGBA and palettes become RGB; thumbnails of at
    most 768 pixels; JPEG; each with `detail: high`.
    """
    facts = {name: value for name, value in case.facts.items() if not absent(value)}
    category, instruct = str(facts.get("category", case.task)), case.instruction
    first, both = case.source, False
    consistency: str
    quality: str | None
    if category in ("temporal_reasoning", "causal_reasoning"):
        both = "reasoning_img" in facts
        name = "prompt_reasoning_w_input" if both else "prompt_reasoning"
        reasoning = filled(prompts, name, instruct=instruct, reference=facts.get("reference", ""))
        consistency = filled(prompts, "prompt_consist", instruct=instruct)
        quality = named_text(prompts, "prompt_generation")
    elif category == "spatial_reasoning":
        if "reference_img" in facts:
            both, first = True, reference_bytes(facts["reference_img"])
            reasoning = filled(prompts, "prompt_spatial_ref_img", instruct=instruct)
        else:
            both = "reasoning_img" in facts
            name = "prompt_spatial_ref_w_input" if both else "prompt_spatial_ref"
            reasoning = filled(prompts, name, instruct=instruct, reference=facts.get("reference", ""))
        consistency = filled(prompts, "prompt_spatial_cons", instruct=instruct)
        quality = named_text(prompts, "prompt_spatial_qual")
    elif category == "logical_reasoning":
        quality = None
        if "reference_txt" in facts:
            words = {"instruct": instruct, "reference": facts["reference_txt"]}
            consistency = filled(prompts, "prompt_logical_cons_ans", **words)
            reasoning = filled(prompts, "prompt_logical_txt", **words)
        elif "reference_img" in facts:
            both, first = True, reference_bytes(facts["reference_img"])
            consistency = filled(prompts, "prompt_logical_cons", instruct=instruct)
            if "reasoning_wo_ins" in facts:
                reasoning = named_text(prompts, "prompt_logical_img_wo_q")
            else:
                reasoning = filled(prompts, "prompt_logical_img", instruct=instruct)
        else:
            raise RowError("no reference", "a logical item needs `reference_txt` or `reference_img`")
    else:
        raise RowError("unknown category", category)
    given, edited = _thumbnail(first), _thumbnail(case.edited)
    call = functools.partial(
        Call,
        encoding="jpeg, quality 75, at most 768 pixels, detail high",
        parameters={"temperature": 0, "max_tokens": 4096},
    )
    calls = []
    if "consistency_free" not in facts:
        calls.append(call("consistency", (consistency, given, edited)))
    calls.append(call("reasoning", (reasoning, given, edited) if both else (reasoning, edited)))
    if quality is not None:
        calls.append(call("quality", (quality, edited)))
    return calls


def _thumbnail(data: bytes) -> EncodedImage:
    with opened(data) as image:
        if image.mode in ("RGBA", "P"):
            image = image.convert("RGB")
        # Not decoded before: Pillow then decodes a large JPEG at a part of its size.
        image.thumbnail((768, 768))
        image.load()
    return dataclasses.replace(saved(image, "JPEG"), detail="high")


# ---------------------------------------------------------------- its replies


def risebench_official(reply: str) -> list[int] | None:
    """The digits after the first `Final Score` that has any (then `Final Scores`): all of them; None without one.

    An empty list is a heading without digits, which the script treats like None.
    """
    for heading in ("Score", "Scores"):
        matches = re.findall(rf"\*?\*?Final {heading}\*?\*?:?\s*([\d*\s,\n]*)", reply, re.IGNORECASE)
        for match in matches:
            numbers = re.findall(r"\d+", match)
            if numbers:
                return [int(number) for number in numbers]
    return [] if matches else None


_FINAL = re.compile(r"final\s+score\s*[*_`]*\s*[:：]?[\s*_`]*(?P<rest>[^\n]*)", re.IGNORECASE)


@of_the_answer
def risebench_strict(reply: str, low: int = 1, high: int = 5) -> Scores | Unparsed:
    """Exactly one number after the last `Final Score`, an integer in range; the value is `score`."""
    matches = list(_FINAL.finditer(reply))
    if not matches:
        return Unparsed("no line `Final Score`")
    last = matches[-1]
    match = RATING.fullmatch(last["rest"].strip(BOLD).replace("*", " ").strip())
    if match is None:
        return Unparsed("`Final Score` is not one number")
    value = float(match["number"].replace(",", "."))
    if match["of"] and int(match["of"]) != high:
        return Unparsed(f"out of {match['of']}, not {high}")
    if value != int(value) or not low <= value <= high:
        return Unparsed(f"{value:g} is not an integer from {low} to {high}")
    begin = last.start("rest") + last["rest"].index(match["number"])
    return Scores({"score": value}, {"score": (begin, begin + len(match["number"]))})


CALLS = ("consistency", "reasoning", "quality")


def read(reply: str, call: str, case: Asked, prompts: Prompts) -> Scores | Unparsed:
    """Logical puzzles are answered with 0 or 1, which count as 1 and 5."""
    if case.facts.get("category", case.task) != "logical_reasoning":
        return risebench_strict(reply)
    scores = risebench_strict(reply, 0, 1)
    return scores if isinstance(scores, Unparsed) else Scores({"score": 1 + 4 * scores.values["score"]})


def _overall(numbers: Numbers) -> float:
    given = {call: numbers[call]["score"] for call in numbers}
    reasoning = given["reasoning"]
    if "quality" not in given:
        score = 0.3 * given["consistency"] + 0.7 * reasoning
    elif "consistency" not in given:
        score = 0.8 * reasoning + 0.2 * given["quality"]
    else:
        score = 0.3 * given["consistency"] + 0.5 * reasoning + 0.2 * given["quality"]
    return max(1.0, 0.5 * score) if reasoning == 1 else score


RUBRIC = Rubric(
    name="risebench",
    summary="RISEBench's own: consistency, reasoning and quality, 1 to 5, and their weighted mean",
    dimensions=(
        *(Dimension(call, (call,), number_of(call, "score"), 1, 5) for call in CALLS),
        Dimension("overall", CALLS, _overall, 1, 5),
    ),
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
    layout=PromptLayout("risebench", ("utils.py",), ("prompt_consist", "prompt_spatial_cons")),
)


BENCHMARK = Benchmark(
    name="risebench",
    title="RISEBench",
    source="Zhao et al., RISEBench (2025)",
    canonical=dict.fromkeys(CATEGORIES.values(), "visual"),
    metrics={"score": (0.0, 100.0), "accuracy": (0.0, 1.0)},
    suites=(tuple(CATEGORIES.values()),),
    rubrics=(RUBRIC,),
    rescore=rescore,
    cases=cases,
    values=values,
    write=write,
    abilities=abilities,
    outputs="replies as JSON",
)
