"""Does the instruction say please?"""

from edittools.caption.kind import Conversation, Kind, Row


def converse(row: Row) -> Conversation:
    said = row.needed_text("instruction").lower()
    return {"scores": {"caption_politeness": float("please" in said)}}
    yield  # a conversation without questions


KIND = Kind(
    summary="whether the instruction says please (0 or 1)", reads="text", columns={}, converse=converse,
    after=("*",), scores=("caption_politeness",), asks=False,
)  # fmt: skip
