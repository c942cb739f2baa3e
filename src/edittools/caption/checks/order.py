"""The order test: shown the pair the other way round, a captioner has to describe the inverse edit."""

from __future__ import annotations

from collections.abc import Mapping

from edittools.caption.kind import Conversation, Kind, Row
from edittools.caption.kinds.detailed import claims_of, jaccard, looked_again, same_place
from edittools.caption.prompting import words_of

_INVERSE = {"add": "remove", "remove": "add"}


def undone(change: Mapping[str, str], seen: Mapping[str, str]) -> bool:
    """Whether a change that was seen in the turned pair takes the other one back: at its place, of the same thing,
    whatever it is called by then, and from what it was after to what it was before.
    """
    if seen["action"] != _INVERSE.get(change["action"], change["action"]) or not same_place(change, seen):
        return False
    if not words_of(*_said(change)) & words_of(*_said(seen)):
        return False
    before, after = words_of(change["before"]), words_of(change["after"])
    was, now = words_of(seen["before"]), words_of(seen["after"])
    back, again = len(before & now) + len(after & was), len(before & was) + len(after & now)
    return back >= again


def _said(change: Mapping[str, str]) -> tuple[str, str, str]:
    return change["object"], change["before"], change["after"]


def _converse(row: Row) -> Conversation:
    changes = claims_of(row)
    seen = yield from looked_again(row, row.pair(swapped=True))
    return {"scores": {"caption_order": jaccard(changes, seen, undone)}}


KIND = Kind(
    summary="the pair the other way round: share of changes that come back as their inverse",
    reads="pair",
    columns={},
    converse=_converse,
    after=("detailed",),
    needs=("source", "target", "changes"),
    scores=("caption_order",),
)
