"""The mirror test: shown both images mirrored, a captioner has to swap left and right and nothing else."""

from __future__ import annotations

from typing import Any

from edittools.caption.kind import Conversation, Kind, Row
from edittools.caption.kinds.detailed import agreement, claims_of, looked_again


def mirrored(change: dict[str, Any]) -> dict[str, Any]:
    """The change as it stands in the mirror image."""
    swap = {"left": "right", "right": "left"}
    where = " ".join(swap.get(word, word) for word in change["where"].split())
    return {**change, "where": where}


def _converse(row: Row) -> Conversation:
    changes = claims_of(row)
    seen = yield from looked_again(row, row.pair(mirrored=True))
    return {"scores": {"caption_mirror": agreement(changes, [mirrored(change) for change in seen])}}


KIND = Kind(
    summary="both images mirrored: share of changes that stay, with left and right swapped",
    reads="pair",
    columns={},
    converse=_converse,
    after=("detailed",),
    needs=("source", "target", "changes"),
    scores=("caption_mirror",),
)
