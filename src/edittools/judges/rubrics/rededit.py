"""REDEdit-Bench's judge: ImgEdit's three numbers for 15 tasks, the pictures before the rubric."""

from __future__ import annotations

from edittools.judges import protocols
from edittools.judges.parsing import Scores, Unparsed
from edittools.judges.protocols import Call, Case, Encoding, Prompts
from edittools.judges.rubrics import Rubric
from edittools.judges.rubrics.imgedit import THREE, read_three


def ask(case: Case, prompts: Prompts, encoding: Encoding) -> list[Call]:
    return protocols.rededit(case, prompts)


def read(reply: str, call: str, case: Case, prompts: Prompts) -> Scores | Unparsed:
    return read_three(reply, prompts.get(case.task, ""))


RUBRIC = Rubric(
    name="rededit",
    summary="REDEdit-Bench's own: three numbers, 1 to 5; overall is their mean",
    dimensions=THREE,
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
    benchmark="rededit",
)
