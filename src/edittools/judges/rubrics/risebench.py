"""RISEBench's judge: consistency, reasoning and quality, 1 to 5, in up to three calls.

Overall is 0.3 C + 0.5 R + 0.2 V (0.8 R + 0.2 V where consistency is not asked for, 0.3 C + 0.7 R for logical
puzzles), halved where the reasoning is 1, but not below 1.
"""

from __future__ import annotations

from edittools.judges import protocols
from edittools.judges.parsing import Scores, Unparsed, risebench_strict
from edittools.judges.protocols import Call, Case, Encoding, Prompts
from edittools.judges.rubrics import Dimension, Numbers, Rubric, number_of

CALLS = ("consistency", "reasoning", "quality")


def ask(case: Case, prompts: Prompts, encoding: Encoding) -> list[Call]:
    return protocols.risebench(case, prompts)


def read(reply: str, call: str, case: Case, prompts: Prompts) -> Scores | Unparsed:
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
    benchmark="risebench",
)
