"""The instruction as somebody asks for help: persona, mood, marks of asking and length are drawn by our seed, since a
model left alone always begins with the same polite words (FireRed-Image-Edit 2.5.2).
"""

from __future__ import annotations

from edittools.caption.kind import Conversation, Kind, Row
from edittools.caption.rewording import reword
from edittools.record import TEXT
from edittools.seeded import draw

_PERSONAS = (
    "a parent with a family snapshot", "the owner of a small online shop", "a student who is late with a poster",
    "a travel blogger", "an estate agent", "somebody who restores old photographs for relatives", "a wedding guest",
    "a teacher who prepares a work sheet", "a social media manager", "a pensioner with a new phone", "a pet owner",
    "a cook with a menu to print", "a designer who knows the trade's words", "a hobby astronomer", "a club's treasurer",
    "a teenager among friends",
)  # fmt: skip
_MOODS = (
    "in a hurry",
    "cheerful",
    "unsure of the right words",
    "matter-of-fact",
    "a little annoyed",
    "grateful",
    "shy",
)
_ASKING = (
    "Ask a question.",
    "Say what is wrong first, then ask.",
    "Say what the image is for, in half a sentence, then ask.",
    "Write as in a chat, without a greeting.",
    "Thank in advance, briefly.",
    "No courtesy at all.",
    "Admit that you cannot do it yourself.",
)
_LENGTHS = ("one short sentence", "one sentence", "two sentences", "three short sentences")


def _converse(row: Row) -> Conversation:
    rng = row.rng("user_like")
    manner = (
        f"You are {draw(rng, _PERSONAS)}, {draw(rng, _MOODS)}, and ask somebody who can edit images. "
        f"{draw(rng, _ASKING)} {draw(rng, _LENGTHS).capitalize()}. Do not introduce yourself."
    )
    return (yield from reword(row, "user_like", manner, 500))


KIND = Kind(
    summary="as somebody asks for help: drawn persona, mood, manner and length",
    reads="text",
    columns={"instruction_user_like": TEXT},
    converse=_converse,
    after=("detailed", "instruct"),
)
