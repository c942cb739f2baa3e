"""REDEdit-Bench (FireRed-Image-Edit, section 4): 15 tasks, judged on three dimensions from 1 to 5.

Outputs are evaluation_details.json; its keys are line numbers (from 0) of the redbench.jsonl it was made with.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from edittools.errors import EditError, UsageError
from edittools.rubric import Rubric
from edittools.rubric.calls import Call, Prompts, text_of_task
from edittools.rubric.calls import JudgedEdit as Asked
from edittools.rubric.parsing import Scores, Unparsed, labelled_strict, official_average
from edittools.rubric.prompts import PromptLayout
from edittools.rubric.three import THREE, read_three
from edittools.suites.shared.scores import (
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
from edittools.suites.shared.types import (
    LANGUAGES,
    Benchmark,
    Case,
    CaseChoice,
    JudgedRow,
    NewCase,
    Outputs,
    Rescored,
    known_task,
    spoken_language,
)
from edittools.vlm.images import Encoding, open_image, rgb, saved

CANONICAL = {
    "add": "add",
    "adjust": "adjust",
    "background": "background",
    "beauty": "beauty",
    "color": "color",
    "compose": "hybrid",
    "extract": "extract",
    "lowlevel": "lowlevel",
    "motion": "motion",
    "portrait": "portrait",
    "remove": "remove",
    "replace": "replace",
    "stylize": "style",
    "text": "text",
    "viewpoint": "viewpoint",
}
TASKS = tuple(CANONICAL)
_TEXT = "text"
_DETAILS = "evaluation_details.json"


def rescore(outputs: Outputs) -> Rescored:
    path = outputs.path / _DETAILS if outputs.path.is_dir() else outputs.path
    details, broken = released_json(path)
    if outputs.meta is None:
        raise UsageError("REDEdit-Bench needs --meta redbench.jsonl, which says the tasks")
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


def cases(path: Path, language: str | None, suite: str | None, images: Path | None) -> list[Case]:
    """Read the cases from redbench.jsonl and the unpacked tar. Default language: Chinese, as in the script."""
    from edittools.suites.shared.images import loose_image

    if suite not in (None, _TEXT):
        raise UsageError(f"--suite {suite}: expected text, or none for all tasks")
    spoken = spoken_language(language) or "cn"
    listed = _list(path)
    made = []
    for number, item in enumerate(read_lines(listed)):
        try:
            task = known_task(item["task"], TASKS, f"{listed}: line {number + 1}")
            place = f"{task}/{task}-{item['id']}.png"
            image = loose_image(_image(images or listed.parent, item["source"]))
            text = item[_INSTRUCTIONS[spoken]]
            made.append(Case(str(item["id"]), task, text, spoken, [image], place, facts={"line": number}))
        except (TypeError, KeyError) as error:
            raise EditError(f"{listed}: line {number + 1} is no case of REDEdit-Bench: {error!r}") from error
    return [case for case in made if suite in (None, case.task)]


def _list(path: Path) -> Path:
    """The list of cases: the file itself, or the one in a folder. Raises EditError."""
    found = [path] if path.is_file() else sorted(path.rglob("redbench.jsonl"))
    if not found:
        raise EditError(f"{path}: holds no redbench.jsonl")
    return found[0]


def _image(folder: Path, name: str) -> Path:
    """In the folder, or the one above it: the names begin with `redbench/`, which may be the list's own folder."""
    return folder / name if (folder / name).exists() else folder.parent / name


def publish(cases: Sequence[NewCase], folder: Path) -> None:
    """Write redbench.jsonl and its images, which are PNG."""
    from edittools.stream import codec

    lines = []
    for number, case in enumerate(cases):
        name = f"redbench/{case.task}/{case.task}-{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        is_png = codec.sniff(case.image) == "png"
        (folder / name).write_bytes(case.image if is_png else codec.encode_png(codec.decode(case.image)))
        words = {_INSTRUCTIONS[LANGUAGES[language]]: said for language, said in case.instruction.items()}
        lines.append(json.dumps({"id": str(number), "source": name, **words, "task": case.task}, ensure_ascii=False))
    (folder / "redbench.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")


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


# ---------------------------------------------------------------- what a judge is asked

_SOURCE, _EDITED = "这是原图A", "这是编辑后的图B。请进行评估。"


def ask(case: Asked, prompts: Prompts, encoding: Encoding | None = None) -> list[Call]:
    """Original, its label, edited, its label, and the rubric last; RGB as PNG, each in its own size."""
    source, edited = (saved(rgb(open_image(data)), "PNG") for data in (case.source, case.edited))
    text = text_of_task(prompts, case.task).replace("<edit_prompt>", case.instruction)
    parameters = {"temperature": 0.1, "top_p": 0.95, "max_tokens": 8192}
    return [Call("judge", (source, _SOURCE, edited, _EDITED, text), "png, rgb", parameters)]


# ---------------------------------------------------------------- its replies


def rededit_official(reply: object) -> list[int]:
    """REDEdit-Bench's variant: blanks around the number are dropped, and what is no text counts for nothing.

    A stored failure such as `Error: 429` is a score of 429.
    """
    if not isinstance(reply, str):
        return []
    halves = (line.strip().split(": ") for line in reply.splitlines())
    return [int(half[1].strip()) for half in halves if len(half) == 2 and half[1].strip().isdigit()]


def read(reply: str, call: str, case: Asked, prompts: Prompts) -> Scores | Unparsed:
    return read_three(reply, prompts.get(case.task, ""))


RUBRIC = Rubric(
    name="rededit",
    summary="REDEdit-Bench's own: three numbers, 1 to 5; overall is their mean",
    dimensions=THREE,
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
    layout=PromptLayout("rededit", ("prompts.json",), ("lowlevel", "portrait")),
)


BENCHMARK = Benchmark(
    name="rededit",
    title="REDEdit-Bench",
    source="FireRed-Image-Edit (2026), section 4",
    canonical=CANONICAL,
    metrics={"score": (1.0, 5.0)},
    suites=(TASKS,),
    rubrics=(RUBRIC,),
    rescore=rescore,
    cases=cases,
    values=values,
    write=write,
    publish=publish,
    outputs="evaluation_details.json",
    columns={"BG": "background", "Low-level": "lowlevel"},
    text_suite=_TEXT,
    choices=(
        CaseChoice("language", "one language, cn (also zh; the default) or en (also eng)", ("cases",)),
        CaseChoice("language", "one language, en (also eng) or cn (also zh)", ("report", "compare")),
        CaseChoice("suite", "text, its text task", ("cases",)),
        CaseChoice(
            "suite",
            "text, its text task by the four questions of `edit judge --rubric text` and by `edit score --ocr`",
            ("report",),
        ),
    ),
)
