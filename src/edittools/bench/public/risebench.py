"""RISEBench: temporal, causal, spatial and logical reasoning in edits; consistency, reasoning and plausibility.

Outputs are the judge's replies as JSON: {index: {judge1: consistency, judge2: reasoning, judge3: quality}} (the
script's own resume file is a pickle, which is not read), beside the cases as the benchmark's data.json.
"""

from __future__ import annotations

import bdb
import contextlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edittools.bench.public import Benchmark, Outputs, Rescored, known_task
from edittools.bench.scores import Score, count_tasks, crashed, official, released_json, that_end_well, unreadable
from edittools.errors import EditError, UsageError
from edittools.json_file import read_json
from edittools.judges.parsing import Scores, risebench_official, risebench_strict

if TYPE_CHECKING:
    from edittools.bench.case_list import Case
    from edittools.bench.judged import JudgedRow

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
        raise UsageError("--rescore of RISEBench needs --meta data.json, which says the categories")
    if outputs.path.is_dir() or outputs.path.suffix == ".pkl":
        raise UsageError(f"{outputs.path}: expected the replies as JSON; pickles are not read")
    replies = read_json(outputs.path)
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
    """Of columns as lists of one length or as {row: value}; a single value holds for every row."""
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


def cases(path: Path, language: str | None, suite: str | None, pictures: Path | None) -> list[Case]:
    """Of a data*.json whose pictures lie in the folder beside it."""
    from edittools.bench.case_list import Case, loose_picture

    found = [path] if path.is_file() else sorted(path.glob("data*.json")) or sorted(path.rglob("data*.json"))
    if not found:
        raise EditError(f"{path}: holds no data*.json of RISEBench")
    told: tuple[str, ...] = ("reference", "reference_img", "reference_txt", "reasoning_img", "reasoning_wo_ins")
    told += ("consistency_free", "subtask")
    folder = pictures or found[0].parent
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
                [loose_picture(folder / item["image"])],
                f"images/{item['category']}/{item['index']}.png",
                facts=_located({name: item[name] for name in told if item.get(name) is not None} | common, folder),
            )
            for item in items
        ]
    except (TypeError, KeyError) as error:
        raise EditError(f"{found[0]}: not a list of RISEBench's cases: {error!r}") from error


def _located(facts: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The facts with the reference picture as a path of its own."""
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


BENCHMARK = Benchmark(
    "risebench",
    "Zhao et al., RISEBench (2025)",
    {"score": (0.0, 100.0), "accuracy": (0.0, 1.0)},
    rescore,
    cases,
    (tuple(CATEGORIES.values()),),
    values,
    write,
    abilities,
)
