"""Is every text in the language that its field says?"""

from __future__ import annotations

from collections.abc import Mapping

from edittools.caption.kind import Conversation, Kind, NotAsked, Row
from edittools.caption.text_facts import check_language


def texts_of(row: Row) -> list[tuple[str, str, str]]:
    """(column, language, text) of everything written: captions and instructions of all styles."""
    found = []
    for column, value in row.values.items():
        if isinstance(value, Mapping) and column.startswith(("caption", "instruction")) and set(value) <= {"en", "zh"}:
            found += [(column, language, said) for language, said in value.items() if said]
    return found


def _converse(row: Row) -> Conversation:
    texts = texts_of(row)
    if not texts:
        raise NotAsked("no texts")
    right = 0
    for _, language, content in texts:
        try:
            check_language(content, language)
            right += 1
        except ValueError:
            pass
    return {"scores": {"caption_language": right / len(texts)}}
    yield  # a conversation without questions


KIND = Kind(
    summary="share of texts in their field's language, by counting signs and words",
    reads="text",
    columns={},
    converse=_converse,
    after=("*",),
    scores=("caption_language",),
    asks=False,
)
