"""Is every quoted text, and what `structured` calls visible, to be read in one of the row's images?"""

from __future__ import annotations

from edittools.caption.checks.language import texts_of
from edittools.caption.kind import Conversation, Kind, Look, NotAsked, Row
from edittools.caption.text_facts import quoted


def _converse(row: Row) -> Conversation:
    from edittools.metrics.ocr import passage_distance, read_text
    from edittools.stream import codec

    quotes = {said for _, _, text in texts_of(row) for said in quoted(text)}
    visible = (row.values.get("caption_structured") or {}).get("visible_text") or ()
    wanted = {said for said in [*quotes, *visible] if _letters(said)}
    if not wanted:
        raise NotAsked("nothing is quoted")
    looks = [Look(column) for column in ("source", "target") if row.has(column)]
    if not looks:
        raise NotAsked("no image")
    read = [_letters(read_text(codec.decode(row.data(look), codec.FULL, row.config.max_pixels))) for look in looks]
    # One wrong sign in six is a misreading, and no other text.
    seen = [any(passage_distance(_letters(said), text) <= len(_letters(said)) // 6 for text in read) for said in wanted]
    return {"scores": {"caption_ocr": sum(seen) / len(seen)}}
    yield  # a conversation without questions


def _letters(text: str) -> str:
    return "".join(sign for sign in text.casefold() if sign.isalnum())


KIND = Kind(
    summary="share of quoted and of visible texts that OCR reads in source or target (extra `ocr`)",
    reads="image",
    columns={},
    converse=_converse,
    after=("*",),
    scores=("caption_ocr",),
    asks=False,
)
