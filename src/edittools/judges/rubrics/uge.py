"""ImgEdit's judge for the UGE suite (understanding, grounding, editing): one rubric, one number from 1 to 5."""

from __future__ import annotations

from edittools.judges import protocols
from edittools.judges.parsing import Scores, Unparsed, uge_strict
from edittools.judges.protocols import Call, Case, Encoding, Prompts
from edittools.judges.rubrics import Dimension, Rubric, number_of


def ask(case: Case, prompts: Prompts, encoding: Encoding) -> list[Call]:
    return protocols.uge(case, prompts)


def read(reply: str, call: str, case: Case, prompts: Prompts) -> Scores | Unparsed:
    return uge_strict(reply)


RUBRIC = Rubric(
    name="uge",
    summary="ImgEdit's own, UGE suite: one number, 1 to 5",
    dimensions=(Dimension("overall", ("judge",), number_of("judge", "score"), 1, 5),),
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
    benchmark="uge",
)
