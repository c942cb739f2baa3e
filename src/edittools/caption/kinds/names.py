"""Names of what can be told apart in an image: what grounding looks for (ImgEdit 3.2: objects and backgrounds)."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, Question, Row
from edittools.caption.schemas import listing, record, text

_NAMES = pa.struct([("objects", pa.list_(pa.string())), ("backgrounds", pa.list_(pa.string()))])
# What no box can be drawn around.
_ABSTRACT = re.compile(
    r"\b(?:mood|atmosphere|feeling|emotion|beauty|style|scene|view|image|picture|photo(?:graph)?|composition|light(?:ing)?"
    r"|colou?rs?|time|day|night|weather|happiness|joy|background|foreground)\b",
    re.IGNORECASE,
)

_PROMPT = """List what could be cut out of an image, one by one: people, animals, things, parts of them that stand for
themselves (a hat, a sign). Then what lies behind: sky, sea, wall, meadow. English nouns in the singular, with an
adjective only where two of a kind have to be told apart ("red car", "blue car"). No moods, no styles, no light, nothing
that cannot be outlined with a pen. Sum the image up in at most fifteen words."""


def _check(answer: Any) -> None:
    names = [*answer["objects"], *answer["backgrounds"]]
    for name in names:
        if _ABSTRACT.fullmatch(name.strip()):
            raise ValueError(f"{name!r} cannot be outlined")
        if len(name.split()) > 5:
            raise ValueError(f"{name!r} is a sentence, not a name")
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError("a name stands there twice")
    if len(answer["summary"].split()) > 20:
        raise ValueError("the summary has more than fifteen words")


def _converse(row: Row) -> Conversation:
    caption = row.text("caption")
    shown = any(map(row.has, (row.config.column,) if row.config.column else ("target", "source")))
    looks = () if caption and not shown else (row.look(),)
    known = f"\nIts caption says: {caption}" if caption else ""
    schema = record(
        objects=listing(text("a noun", 60), 24),
        backgrounds=listing(text("a noun", 60), 6),
        summary=text("at most fifteen words", 200),
    )
    answer = yield Question(looks, _PROMPT + known, schema, _check, max_tokens=400, examples=True)
    names = {part: [name.strip() for name in answer[part]] for part in ("objects", "backgrounds")}
    return {"names": names, "summary": answer["summary"]}


KIND = Kind(
    summary="objects and backgrounds that `edit ground` looks for, and fifteen words about the image",
    reads="image, or its caption",
    columns={"names": _NAMES, "summary": pa.string()},
    converse=_converse,
    after=("structured",),
)
