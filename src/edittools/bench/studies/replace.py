"""Which public image stands for each private one, as people chose (Step1X-Edit 4.1)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from edittools.bench.studies.answers import given_answers
from edittools.bench.studies.design import design_of
from edittools.bench.studies.score import aligned

NONE = "none"


def choices_of(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Case -> decision, choice, instruction where it was reworded, raters. What most picked; a draw is open."""
    said: dict[int, list[tuple[str, str, dict[str, str] | None]]] = defaultdict(list)
    for rater, number, answer, values in given_answers(key, answers, design_of(key)):
        if values is not None:
            picked = [key["cases"][number]["results"][letter] for (letter, _), value in values.items() if value]
            words = {name: text for name, text in (answer.get("instruction") or {}).items() if text.strip()}
            said[number].append((picked[0] if picked else NONE, rater, words or None))
    found = {}
    for number in sorted(said):
        (winner, count), *others = Counter(choice for choice, *_ in said[number]).most_common(2)
        drawn = bool(others) and others[0][1] == count
        reworded = [words for choice, _, words in said[number] if choice == winner and words]
        replaced = not drawn and winner != NONE
        found[number] = {
            "id": key["cases"][number]["id"],
            "decision": "open" if drawn else "replace" if replaced else "reject",
            "choice": winner if replaced else None,
            "instruction": reworded[0] if replaced and reworded else None,
            "raters": [rater for _, rater, _ in said[number]],
        }
    return found


def score(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """How many were replaced, reworded, rejected, per task. Nothing is drawn: no `seed`."""
    found = choices_of(key, answers)
    tasks: dict[str, Counter[str]] = defaultdict(Counter)
    for number, case in enumerate(key["cases"]):
        one = found.get(number)
        name = "unseen" if one is None else "reworded" if one["instruction"] else one["decision"]
        tasks[case["task"]][name] += 1
    names = ("replace", "reworded", "reject", "open", "unseen")
    return {
        "study": key["study"],
        "design": key["design"],
        "cases": len(key["cases"]),
        "dropped": len(key["dropped"]),
        "tasks": {task: {name: tasks[task][name] for name in names} for task in sorted(tasks)},
    }


def export(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> str:
    """One line of JSON per case that somebody has seen, which `edit dedup --replace` reads."""
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in choices_of(key, answers).values())


def as_text(found: Mapping[str, Any], markdown: bool = False) -> str:
    """A table of decisions per task."""
    names = ("replace", "reworded", "reject", "open", "unseen")
    rows = [["task", *names], *([task, *(str(n[name]) for name in names)] for task, n in found["tasks"].items())]
    return "\n".join(
        [*aligned(rows, markdown), "", f"Cases: {found['cases']}; dropped before: {found['dropped']}.", ""]
    )
