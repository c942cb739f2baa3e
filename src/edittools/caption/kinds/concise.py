"""The instruction in one short sentence, with varied syntax, by a model drawn per row (FireRed-Image-Edit 2.5.2)."""

from __future__ import annotations

from edittools.caption.kind import Conversation, Kind, Row
from edittools.caption.rewording import reword
from edittools.record import TEXT
from edittools.seeded import draw

_SYNTAX = (
    "Begin with the verb.",
    "Begin with the place where the edit happens.",
    "Begin with the thing that is edited.",
    "Say what the result should show, as a wish.",
    "Use two very short clauses.",
    "Leave out articles where that still reads well.",
)
_WORDS = (8, 12, 16, 22)


def _converse(row: Row) -> Conversation:
    rng = row.rng("concise")
    words = _WORDS[int(rng.integers(len(_WORDS)))]
    manner = f"One sentence of about {words} words, without greeting, reason or description. {draw(rng, _SYNTAX)}"
    return (yield from reword(row, "concise", manner, 300))


KIND = Kind(
    summary="one short sentence, of drawn syntax and length",
    reads="text",
    columns={"instruction_concise": TEXT},
    converse=_converse,
    after=("detailed", "instruct"),
)
