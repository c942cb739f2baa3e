"""REDEdit-Bench (FireRed-Image-Edit, section 4): 15 tasks, judged on three dimensions from 1 to 5.

Outputs are evaluation_details.json; its keys are line numbers (from 0) of the redbench.jsonl it was made with.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from edittools.bench.public import Benchmark, Outputs, Rescored, known_task, spoken_language
from edittools.bench.scores import (
    Score,
    count_tasks,
    crashed,
    official,
    read_lines,
    released_json,
    released_lines,
    that_end_well,
    unreadable,
)  # fmt: skip
from edittools.errors import EditError, UsageError
from edittools.judges.parsing import Unparsed, labelled_strict, official_average, rededit_official
from edittools.record import NATIVE_TASKS

if TYPE_CHECKING:
    from edittools.bench.case_list import Case
    from edittools.bench.judged import JudgedRow

TASKS = tuple(NATIVE_TASKS["rededit"])
_DETAILS = "evaluation_details.json"


def rescore(outputs: Outputs) -> Rescored:
    path = outputs.path / _DETAILS if outputs.path.is_dir() else outputs.path
    details, broken = released_json(path)
    if outputs.meta is None:
        raise UsageError("--rescore of REDEdit-Bench needs --meta redbench.jsonl, which says the tasks")
    listed = _list(outputs.meta)
    cases, unlisted = released_lines(listed)
    notes = unreadable((path, broken), (listed, unlisted))
    if isinstance(details, dict):
        quota = [key for key, reply in details.items() if isinstance(reply, str) and reply.startswith("Error: ")]
        if quota:
            notes.append(f"{len(quota)} replies are error messages; one of digits only is a score to the script")
        if strange := len(details.keys() - {str(number) for number in range(len(cases))}):
            notes.append(f"{strange} replies are to no line of the list: ours leave them out")
    tasks = [case.get("task") for case in cases if isinstance(case, dict)]
    expected = count_tasks(task for task in tasks if isinstance(task, str))
    made: Any = unlisted or broken or official(lambda: _official(details, cases))
    clean: dict[str, Any] = {}
    if crashed(made) and isinstance(details, dict):
        clean = _means(official(lambda: _official(that_end_well(details, lambda one: _official(one, cases)), cases)))
    return Rescored(made, {"": _means(made)}, {"": _scores(details, cases)}, {"": expected}, notes, {"": clean})


def _means(made: Any) -> dict[str, dict[str, float]]:
    means = {str(task): {"score": mean} for task, mean in made.get("averaged_result", {}).items()}
    return means | {"average": {"score": made["final_score"]}} if means else {}


def _official(details: Any, cases: list[Any]) -> dict[str, Any]:
    """compute_averages, compute_edit_type_averages and the final mean of redbench_eval.py."""
    means = {key: official_average(rededit_official(reply)) for key, reply in details.items()}
    averages = {key: mean for key, mean in means.items() if mean is not None}
    by_task: dict[str, list[float]] = defaultdict(list)
    for index, average in averages.items():
        task = cases[int(index)].get("task")
        if task is not None:
            by_task[task].append(average)
    tasks = {task: round(sum(found) / len(found), 2) for task, found in by_task.items()}
    final = sum(tasks.values()) / len(tasks) if tasks else 0
    return {"averaged_data": averages, "averaged_result": tasks, "final_score": final}


def _scores(details: Any, cases: list[Any]) -> list[Score]:
    if not isinstance(details, dict):
        return []  # the official result says what is wrong
    tasks = {str(number): case.get("task") for number, case in enumerate(cases) if isinstance(case, dict)}
    found = []
    for key, reply in details.items():
        task = tasks.get(key)
        if not isinstance(task, str):
            continue
        if not isinstance(reply, str) or reply.startswith("Error: "):
            found.append(Score(key, task, {}, "failed", f"no reply: {reply!r}"[:200]))
            continue
        scores = labelled_strict(reply)
        if isinstance(scores, Unparsed):
            found.append(Score(key, task, {}, "failed", scores.reason))
        else:
            found.append(Score(key, task, {"score": fmean(scores.values.values())}))
    return found


_INSTRUCTIONS = {"cn": "a_to_b_instructions", "en": "a_to_b_instructions_eng"}


def cases(path: Path, language: str | None, suite: str | None, pictures: Path | None) -> list[Case]:
    """Of redbench.jsonl with the pictures as the unpacked tar has them; Chinese, as in the script, unless told."""
    from edittools.bench.case_list import Case, loose_picture

    if suite not in (None, "text"):
        raise UsageError(f"--suite {suite}: expected text, or none for all tasks")
    spoken = spoken_language(language) or "cn"
    listed = _list(path)
    made = []
    for number, item in enumerate(read_lines(listed)):
        try:
            task = known_task(item["task"], TASKS, f"{listed}: line {number + 1}")
            place = f"{task}/{task}-{item['id']}.png"
            picture = loose_picture(_picture(pictures or listed.parent, item["source"]))
            text = item[_INSTRUCTIONS[spoken]]
            made.append(Case(str(item["id"]), task, text, spoken, [picture], place, facts={"line": number}))
        except (TypeError, KeyError) as error:
            raise EditError(f"{listed}: line {number + 1} is no case of REDEdit-Bench: {error!r}") from error
    return [case for case in made if suite in (None, case.task)]


def _list(path: Path) -> Path:
    """The list of cases: the file itself, or the one in a folder. Raises EditError."""
    found = [path] if path.is_file() else sorted(path.rglob("redbench.jsonl"))
    if not found:
        raise EditError(f"{path}: holds no redbench.jsonl")
    return found[0]


def _picture(folder: Path, name: str) -> Path:
    """In the folder, or the one above it: the names begin with `redbench/`, which may be the list's own folder."""
    return folder / name if (folder / name).exists() else folder.parent / name


def values(dimensions: dict[str, float], case: dict[str, Any]) -> dict[str, float] | None:
    return {"score": dimensions["overall"]} if "overall" in dimensions else None


def write(rows: list[JudgedRow], folder: Path, model: str) -> Outputs:
    """What redbench_eval.py writes, of the first pass: evaluation_details.json and, unless it ends with an exception,
    score_summary.json; and a list of cases with the same lines."""
    folder.mkdir(parents=True, exist_ok=True)
    details, lines = {}, {}
    for row in rows:
        number = int(json.loads(row.case["facts"])["line"])
        details[str(number)] = next(iter(row.replies.values()), "Error: no reply")
        lines[number] = {"id": row.case["key"], "task": row.case["task"]}
    (folder / _DETAILS).write_text(json.dumps(details, ensure_ascii=False, indent=4), "utf-8")
    # A line that no row is about has no task: the keys of the details are line numbers.
    listed = [lines.get(number, {}) for number in range(max(lines, default=-1) + 1)]
    (folder / "cases.jsonl").write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in listed), "utf-8")
    made = official(lambda: _official(details, listed))
    if "final_score" in made:
        (folder / "score_summary.json").write_text(json.dumps(made, indent=4), "utf-8")
    return Outputs(folder / _DETAILS, folder / "cases.jsonl")


BENCHMARK = Benchmark(
    "rededit", "FireRed-Image-Edit (2026), section 4", {"score": (1.0, 5.0)}, rescore, cases, (TASKS,), values, write
)
