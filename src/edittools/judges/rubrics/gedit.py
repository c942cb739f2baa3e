"""GEdit-Bench's judge: VIEScore's two calls in the benchmark's words, order and encoding; 0 to 10."""

from __future__ import annotations

import math

from edittools.judges import protocols
from edittools.judges.parsing import Scores, Unparsed, viescore_strict
from edittools.judges.protocols import Call, Case, Encoding, Prompts
from edittools.judges.rubrics import Dimension, Numbers, Rubric


def ask(case: Case, prompts: Prompts, encoding: Encoding) -> list[Call]:
    return protocols.gedit(case, prompts)


def read(reply: str, call: str, case: Case, prompts: Prompts) -> Scores | Unparsed:
    return viescore_strict(reply)


def _overall(numbers: Numbers) -> float:
    return math.sqrt(min(numbers["SC"].values()) * min(numbers["PQ"].values()))


RUBRIC = Rubric(
    name="gedit",
    summary="GEdit-Bench's own: VIEScore's SC and PQ, 0 to 10; overall is sqrt(SC * PQ)",
    dimensions=(
        Dimension("sc", ("SC",), lambda numbers: min(numbers["SC"].values()), 0, 10),
        Dimension("pq", ("PQ",), lambda numbers: min(numbers["PQ"].values()), 0, 10),
        Dimension("overall", ("SC", "PQ"), _overall, 0, 10),
    ),
    ask=ask,
    read=read,
    ratings=tuple(range(11)),
    benchmark="gedit",
)
