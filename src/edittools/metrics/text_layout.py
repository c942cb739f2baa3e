"""Is a text written as wanted, and where and how large? A reward from characters with their places (FireRed, eq. 5).

As printed the sum over characters grows with the text's length and a factor rewards what is too long; here both parts
lie between 0 and 1 and are divided by the length of the wanted text. Case, punctuation and signs count, spaces do not.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WEIGHT_TEXT = WEIGHT_LAYOUT = 0.5
GATE = 0.5  # the text's part, 0 to 1, below which the layout does not count


@dataclass(frozen=True)
class Letter:
    """A character and its box: centre, width and height in pixels."""

    sign: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class TextReward:
    """Both parts and their weighted sum, 0 to 1 each; the layout is None where no places are wanted."""

    text: float
    layout: float | None
    total: float


def text_reward(read: Sequence[Letter], wanted: Sequence[Letter], gate: float = GATE) -> TextReward:
    """How far the letters that were read are the wanted ones, at their places and of their size.

    text     1 - Levenshtein distance / number of wanted characters, at least 0, in reading order
    layout   Σ exp(-d) exp(-Δs) / number of wanted characters, over the one-to-one matching of equal characters that
             has the largest sum: d is the distance of the centres in diagonals of the wanted text's box, Δs the
             logarithm by which the letter is higher, 0 where it is lower. 0 where `text` is below the gate.

    Where nothing is wanted and nothing is read, both are 1.
    """
    seen, meant = in_reading_order(read), in_reading_order(wanted)
    text = text_part([letter.sign for letter in seen], [letter.sign for letter in meant])
    if meant:
        layout = _kept(seen, meant) / len(meant) if text >= gate else 0.0
    else:
        layout = 1.0 if not seen else 0.0
    return TextReward(text, layout, WEIGHT_TEXT * text + WEIGHT_LAYOUT * layout)


def without_layout(read: Sequence[Letter], wanted: str) -> TextReward:
    """The same where it is not known where the text is to stand: the layout has no weight."""
    text = text_part([letter.sign for letter in in_reading_order(read)], signs(wanted))
    return TextReward(text, None, text)


def text_part(read: Sequence[str], wanted: Sequence[str]) -> float:
    return max(0.0, 1 - _distance(read, wanted) / max(len(wanted), 1))


def signs(text: str) -> list[str]:
    """The characters of a text that count: compatible forms as one (NFKC), no spaces."""
    return [sign for sign in unicodedata.normalize("NFKC", text) if not sign.isspace()]


def in_reading_order(letters: Sequence[Letter]) -> list[Letter]:
    """Line by line from the top, in a line from the left; what a letter is in compatible form, several share its box.

    A letter belongs to a line if its centre lies less than half its height off the middle of the line's letters so far.
    """
    lines: list[list[Letter]] = []
    for letter in sorted(letters, key=lambda one: one.y):
        if lines and letter.y - float(np.mean([one.y for one in lines[-1]])) < letter.height / 2:
            lines[-1].append(letter)
        else:
            lines.append([letter])
    return [
        Letter(sign, letter.x, letter.y, letter.width, letter.height)
        for line in lines
        for letter in sorted(line, key=lambda one: one.x)
        for sign in signs(letter.sign)
    ]


def _kept(read: Sequence[Letter], wanted: Sequence[Letter]) -> float:
    from scipy.optimize import linear_sum_assignment

    left, right = (side(letter.x - letter.width / 2 * s for letter in wanted) for side, s in ((min, 1), (max, -1)))
    top, bottom = (side(letter.y - letter.height / 2 * s for letter in wanted) for side, s in ((min, 1), (max, -1)))
    diagonal = math.hypot(right - left, bottom - top)
    worth = np.zeros((len(read), len(wanted)))
    for row, one in enumerate(read):
        for column, other in enumerate(wanted):
            if one.sign == other.sign:
                away = math.hypot(one.x - other.x, one.y - other.y) / diagonal
                worth[row, column] = math.exp(-away) * min(1.0, other.height / one.height)
    return float(worth[linear_sum_assignment(worth, maximize=True)].sum())


def _distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's."""
    row = list(range(len(b) + 1))
    for k, sign in enumerate(a, 1):
        last, row[0] = row[0], k
        for j, other in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (sign != other))
    return row[-1]
