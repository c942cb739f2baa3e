"""KRIS-Bench's judge: consistency, instruction (and knowledge, in ten categories) and quality, 1 to 5.

Its overall pools single scores over all samples, so there is none for one sample.
"""

from __future__ import annotations

from edittools.judges import protocols
from edittools.judges.parsing import Scores, Unparsed, kris_strict
from edittools.judges.protocols import KRIS_KNOWLEDGE, Call, Case, Encoding, Prompts
from edittools.judges.rubrics import Dimension, Rubric, number_of


def ask(case: Case, prompts: Prompts, encoding: Encoding) -> list[Call]:
    return protocols.kris(case, prompts)


def read(reply: str, call: str, case: Case, prompts: Prompts) -> Scores | Unparsed:
    dual = call == "instruction" and case.facts.get("category", case.task) in KRIS_KNOWLEDGE
    return kris_strict(reply, (f"{call}_score", "knowledge_score") if dual else (f"{call}_score",))


RUBRIC = Rubric(
    name="kris",
    summary="KRIS-Bench's own: consistency, instruction, knowledge and quality, 1 to 5",
    dimensions=(
        *(
            Dimension(call, (call,), number_of(call, f"{call}_score"), 1, 5)
            for call in ("consistency", "instruction", "quality")
        ),
        Dimension("knowledge", ("instruction",), number_of("instruction", "knowledge_score"), 1, 5),
    ),
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
    benchmark="kris",
)
