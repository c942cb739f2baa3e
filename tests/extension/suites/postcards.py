"""Postcards, an invented benchmark: a few edits of two tasks, and one question to the judge.

Its list is postcards.jsonl, with key, task, instruction and image in every line. Its script keeps the judge's replies
by key in judged.json, takes the first digit of each for the score, and prints the mean of every task.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from edittools.rubric import Dimension, Rubric, number_of
from edittools.rubric import calls as judge
from edittools.rubric.parsing import Scores, Unparsed, json_strict
from edittools.suites.shared.images import loose_image
from edittools.suites.shared.scores import Score, count_tasks, official, read_lines, released_json
from edittools.suites.shared.types import Benchmark, Case, JudgedRow, Outputs, Rescored, known_task
from edittools.vlm.images import Encoding

TASKS = {"recolour": "color", "stamp": "add"}  # what it calls them -> what edittools does
PROMPT = """The first image was to be edited: <instruction> The second is the result. Is it what was asked for?
Answer with one JSON object: {"rationale": "why", "score": n} with n from 1 (not at all) to 5 (in full).
"""


def cases(path: Path, language: str | None, suite: str | None, images: Path | None) -> list[Case]:
    """What is to be generated, of the user's copy of the benchmark."""
    listed = path / "postcards.jsonl" if path.is_dir() else path
    return [
        Case(
            key=one["key"],
            task=known_task(one["task"], TASKS, f"{listed}: {one['key']}"),
            instruction=one["instruction"],
            language="en",
            sources=[loose_image((images or listed.parent) / one["image"])],
            result_path=f"{one['key']}.png",  # where its script looks for the result
        )
        for one in read_lines(listed)
    ]


# ---------------------------------------------------------------- what a judge is asked, and how its reply is read


def ask(case: judge.JudgedEdit, prompts: judge.Prompts, encoding: Encoding) -> list[judge.Call]:
    text = PROMPT.replace("<instruction>", case.instruction)
    parts = (text, encoding.image(case.source), encoding.image(case.edited))
    return [judge.Call("judge", parts, str(encoding), {"max_tokens": 256})]


def read(reply: str, call: str, case: judge.JudgedEdit, prompts: judge.Prompts) -> Scores | Unparsed:
    return json_strict(reply, ("score",), 1, 5)


def values(dimensions: dict[str, float], case: dict[str, Any]) -> dict[str, float] | None:
    """The metrics of a judged case; None where a number is missing."""
    return {"score": dimensions["overall"]} if "overall" in dimensions else None


# ---------------------------------------------------------------- the files of its own script


def write(rows: list[JudgedRow], folder: Path, model: str) -> Outputs:
    """The judged cases as its script writes them, so that it and `rescore` can read them."""
    folder.mkdir(parents=True, exist_ok=True)
    replies = {row.case["key"]: row.replies.get("judge", "") for row in rows}
    (folder / "judged.json").write_text(json.dumps(replies), "utf-8")
    listed = [json.dumps({"key": row.case["key"], "task": row.case["task"]}) for row in rows]
    (folder / "postcards.jsonl").write_text("\n".join(listed), "utf-8")
    return Outputs(folder / "judged.json", folder / "postcards.jsonl")


def rescore(outputs: Outputs) -> Rescored:
    """Its script's numbers, and ours of the same replies."""
    replies, broken = released_json(outputs.path)
    listed = outputs.meta or outputs.path.with_name("postcards.jsonl")
    tasks = {one["key"]: one["task"] for one in read_lines(listed)}
    means = broken or official(lambda: _means(replies, tasks))
    by_task: dict[str, dict[str, float]] = {}
    if "raises" not in means:
        by_task = {task: {"score": mean} for task, mean in means.items()}
    scores = [_score(key, tasks[key], reply) for key, reply in (replies or {}).items()]
    return Rescored(means, {"": by_task}, {"": scores}, {"": count_tasks(tasks.values())}, notes=[])


def _means(replies: dict[str, str], tasks: dict[str, str]) -> dict[str, float]:
    found: dict[str, list[int]] = defaultdict(list)
    for key, reply in replies.items():
        found[tasks[key]].append(int(re.findall(r"\d", reply)[0]))  # IndexError without one, as in the script
    means = {task: fmean(numbers) for task, numbers in found.items()}
    return means | {"average": fmean(means.values())}


def _score(key: str, task: str, reply: str) -> Score:
    scores = json_strict(reply, ("score",), 1, 5)
    if isinstance(scores, Unparsed):
        return Score(key, task, {}, "failed", scores.reason)
    return Score(key, task, {"score": scores.values["score"]})


RUBRIC = Rubric(
    name="postcards",
    summary="the invented benchmark's question, 1 to 5",
    dimensions=(Dimension("overall", ("judge",), number_of("judge", "score"), 1, 5),),
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
)

BENCHMARK = Benchmark(
    name="postcards",
    title="Postcards",
    source="an example",
    canonical=TASKS,
    metrics={"score": (1.0, 5.0)},
    suites=(tuple(TASKS),),
    rubrics=(RUBRIC,),
    rescore=rescore,
    cases=cases,
    values=values,
    write=write,
    outputs="judged.json",
    examples={"cases": (("edit eval cases postcards Postcards/ -o cases/", "what a model is to edit"),)},
)
