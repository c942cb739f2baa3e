"""What the official scripts make of a judge's reply in the `Label: number` form of ImgEdit and REDEdit, and we."""

from __future__ import annotations

import re

LOWEST, HIGHEST, DIMENSIONS = 1, 5, 3

# `Label: 4`, also bold, with a full-width colon, as a bullet, as 4/5, or with a remark after it in brackets.
_LABELLED = re.compile(
    r"[\s>*•\-\d.)]*\**(?P<label>[A-Za-z][A-Za-z &/\-]*?)\**\s*[:：]\s*\**\s*(?P<score>[0-9]+(?:\.0)?)\s*"
    r"(?:/\s*5)?\s*\**\s*(?:\(.*\)|（.*）)?\s*[.。]?\s*"
)
_NOT_A_DIMENSION = re.compile(r"brief reasoning|reasoning|total|overall|average|sum", re.IGNORECASE)


def official_mean(reply: str, *, strip: bool) -> float | None:
    """Mean of every line that is `... : digits`, rounded to two places; None if there is none.

    Labels, their number and the range are not looked at. `strip`: REDEdit's script ignores blanks around the digits.
    Raises what the script does: AttributeError for what is no text, ValueError for digits such as `²`.
    """
    scores = []
    for line in reply.splitlines():
        parts = line.strip().split(": ")
        if len(parts) != 2:
            continue
        number = parts[1].strip() if strip else parts[1]
        if number.isdigit():
            scores.append(int(number))
    return round(sum(scores) / len(scores), 2) if scores else None


def strict_scores(reply: str) -> list[int] | str:
    """The three scores, the second and third capped at the first as the rubrics ask; a reason where there are none."""
    found = []
    for line in reply.splitlines():
        match = _LABELLED.fullmatch(line)
        if match and not _NOT_A_DIMENSION.fullmatch(match["label"].strip()):
            found.append(int(float(match["score"])))
    if len(found) != DIMENSIONS:
        return f"{len(found)} labelled scores, not {DIMENSIONS}"
    if not all(LOWEST <= score <= HIGHEST for score in found):
        return f"a score outside {LOWEST} to {HIGHEST}: {found}"
    return [found[0], *(min(score, found[0]) for score in found[1:])]
