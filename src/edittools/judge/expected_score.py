"""Soft scores: the expectation of a rating under the judge's own token probabilities (FireRed, equation 4).

After the rationale c_k of pass k: P(v) = exp z_v / sum of exp z_v' over the rating tokens v' in V, and
R = mean over K passes of sum of v P(v). Log-probabilities differ from logits by a constant, which cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Candidates = Sequence[tuple[str, float]]
"""The likely tokens at one position, with their natural log-probabilities."""

_WRAPPING = " \t\r\n\"'*:,.}]/_▁Ġ"


def expected_rating(candidates: Candidates, ratings: Sequence[int]) -> float | None:
    """Sum of v P(v) over the rating tokens among the candidates; None where there is none.

    Spellings of one rating (`4`, ` 4`, `4,`) add up. A rating that is not among the listed candidates counts as
    impossible: a backend lists the likeliest only. Where ratings have two digits and the tokenizer writes digit by
    digit, a `1` may be a 1 or the start of a 10, and the answer is None.
    """
    weights: dict[int, float] = {}
    top = max((value for _, value in candidates if math.isfinite(value)), default=None)
    if top is None:
        return None
    for token, value in candidates:
        text = token.strip(_WRAPPING)
        if text.isascii() and text.isdecimal() and str(int(text)) == text and int(text) in ratings:
            weights[int(text)] = weights.get(int(text), 0.0) + math.exp(value - top)
    total = sum(weights.values())
    if total <= 0:
        return None
    longer = [rating for rating in ratings if rating >= 10]
    if any(str(rating)[0] == str(v) for rating in longer for v in weights) and not set(longer) & set(weights):
        return None
    return sum(rating * weight for rating, weight in weights.items()) / total


def soft_score(passes: Iterable[float | None]) -> float | None:
    """R of equation 4: the mean of the passes' expectations; None unless every pass has one and there is a pass."""
    values = list(passes)
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present and len(present) == len(values) else None


def rating_positions(
    text: str, logprobs: Sequence[Candidates], spans: dict[str, tuple[int, int]]
) -> dict[str, int | None]:
    """Which token wrote each number of a reply: {label: position}, None where that is not certain.

    The first candidate at each position is the token that was written. Tokens are laid along the text from its end,
    where the scores stand, as far as they fit; what leaves no trace in the text, such as the end of the turn, may
    follow it.
    """
    starts: dict[int, int] = {}
    offset = len(text.rstrip())
    for position in range(len(logprobs) - 1, -1, -1):
        token = _plain(logprobs[position][0][0]) if logprobs[position] else ""
        if not starts:
            token = token.rstrip()
            if not token or not text.endswith(token, 0, offset):
                continue  # nothing of the text yet: blanks, or the end of the turn
        if not text.endswith(token, 0, offset):
            break
        offset -= len(token)
        if token:
            starts[offset] = position
    return {
        label: starts[max(begin for begin in starts if begin <= start)] if starts and min(starts) <= start else None
        for label, (start, _) in spans.items()
    }


def _plain(token: str) -> str:
    """A token as it reads, where a backend names it as its vocabulary does."""
    return token.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")


def soft_values(
    text: str,
    logprobs: Sequence[Candidates] | None,
    spans: dict[str, tuple[int, int]],
    ratings: Sequence[int],
) -> dict[str, float | None]:
    """The expectation of each number of a reply, by label; None where log-probabilities do not say."""
    if not logprobs:
        return {label: None for label in spans}
    positions = rating_positions(text, logprobs, spans)
    return {
        label: None if position is None else expected_rating(logprobs[position], ratings)
        for label, position in positions.items()
    }
