"""Do the styles and languages of an instruction say the same: quoted text, numbers, sides, colours, negation?"""

from __future__ import annotations

from edittools.caption.checks.language import texts_of
from edittools.caption.kind import Conversation, Kind, NotAsked, Row
from edittools.caption.text_facts import NAMES, differences, first_sentence

_SCORES = {name: f"caption_{name}" for name in NAMES}


def _converse(row: Row) -> Conversation:
    texts = {
        (column, language): said
        for column, language, said in texts_of(row)
        if column.startswith("instruction") and column not in ("instruction_negative", "instruction_evolved")
    }
    if len(texts) < 2:
        raise NotAsked("fewer than two wordings of the instruction")
    kept = dict.fromkeys(NAMES, True)
    full = next((c for c in ("instruction_detailed", "instruction") if any(column == c for column, _ in texts)), None)
    for (column, language), content in texts.items():
        # Styles against the fullest one of their language; of one style the languages against each other.
        before = texts.get((full, language)) if full and column != full else texts.get((column, "en"))
        if before is None or before is content:
            continue
        required = first_sentence(before) if column != full else before
        for name in NAMES:
            if differences(before, content, (name,), required=required):
                kept[name] = False
    return {"scores": {_SCORES[name]: float(value) for name, value in kept.items()}}
    yield  # a conversation without questions


KIND = Kind(
    summary="quoted text, numbers, sides, colours and negation equal in all styles and languages (0 or 1 each)",
    reads="text",
    columns={},
    converse=_converse,
    after=("*",),
    scores=tuple(_SCORES.values()),
    asks=False,
)
