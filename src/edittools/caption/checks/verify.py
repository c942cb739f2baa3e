"""Yes/no questions about every atomic change, on both images, by another model: a change that is real is there after,
and was not before.
"""

from __future__ import annotations

from edittools.caption.kind import Conversation, Kind, Question, Row
from edittools.caption.kinds.detailed import claims_of
from edittools.caption.schemas import record, yes_no


def _claims(row: Row) -> list[str]:
    claims = []
    for change in claims_of(row):
        if change["action"] == "remove":
            claims.append(f"There is no {change['object']} (at: {change['where']}).")
        elif change["action"] == "add":
            claims.append(f"There is {change['after'] or change['object']} (at: {change['where']}).")
        else:
            claims.append(f"{change['object']} (at: {change['where']}) is like this: {change['after']}.")
    return claims


def _converse(row: Row) -> Conversation:
    claims = _claims(row)
    before, *_, after = row.pair()
    listed = "\n".join(f"claim_{number}: {claim}" for number, claim in enumerate(claims, start=1))
    words = f"Here are claims about this image. Say of each whether it is true; in doubt, false.\n{listed}"
    schema = record(**{f"claim_{number}": yes_no() for number in range(1, len(claims) + 1)})
    model = row.config.judge_of_claims
    seen_after = yield Question((after,), words, schema, model=model, max_tokens=200)
    seen_before = yield Question((before,), words, schema, model=model, max_tokens=200)
    true = [seen_after[name] and not seen_before[name] for name in seen_after]
    return {"scores": {"caption_verified": sum(true) / len(true)}}


KIND = Kind(
    summary="share of changes that another model sees in the target and not in the source",
    reads="image",
    columns={},
    converse=_converse,
    after=("detailed",),
    needs=("source", "target", "changes"),
    scores=("caption_verified",),
)
