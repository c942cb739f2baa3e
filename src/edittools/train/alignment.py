"""Stochastic instruction alignment [SPEC T4, FireRed 3.2]: references shuffled and dropped, the text rewritten.

Names of references are counted from 1: "Figure 2", "Fig. 2", "Image 2", "Picture 2", "图2", "图片2", "第2张图",
"第二张图".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

CHINESE = "一二三四五六七八九十"
NAME = re.compile(
    r"(?P<english>\b(?:figures?|figs?\.?|images?|pictures?|photos?)\s*#?\s*)(?P<a>\d{1,2})\b"
    r"|(?P<chinese>图(?:片|像)?\s*)(?P<b>\d{1,2}|[一二三四五六七八九十])"
    r"|(?P<before>第\s*)(?P<c>\d{1,2}|[一二三四五六七八九十])(?P<after>\s*(?:张|幅|个)?\s*(?:图片|图像|照片|图))",
    re.IGNORECASE,
)


def _number(digits: str) -> int:
    return CHINESE.index(digits) + 1 if digits in CHINESE else int(digits)


def named(text: str) -> set[int]:
    """The references that a text names, counted from 1."""
    return {_number(m["a"] or m["b"] or m["c"]) for m in NAME.finditer(text)}


def renumber(text: str, numbers: Mapping[int, int]) -> str:
    """Rewrite every name of a reference by old number -> new number; a number that is not in it stays."""

    def one(m: re.Match[str]) -> str:
        digits = m["a"] or m["b"] or m["c"]
        old = _number(digits)
        new = numbers.get(old, old)
        written = CHINESE[new - 1] if digits in CHINESE and new <= len(CHINESE) else str(new)
        return (m["english"] or m["chinese"] or m["before"]) + written + (m["after"] or "")

    return NAME.sub(one, text)


def align(text: str, count: int, *, shuffle: bool, drop: float, random: np.random.Generator) -> tuple[str, list[int]]:
    """Choose and order `count` references -> the text with their new numbers, and the old ones (from 0) in order.

    Every reference that the text does not name is dropped with probability `drop`, but never the last one, and none
    where the text names none: then all of them are meant.
    """
    kept = list(range(count))
    spoken = named(text)
    if drop and spoken:
        lost = random.random(count) < drop
        kept = [k for k in kept if k + 1 in spoken or not lost[k]] or kept[:1]
    if shuffle and spoken and len(kept) > 1:
        kept = [kept[k] for k in random.permutation(len(kept))]
    return renumber(text, {old + 1: new + 1 for new, old in enumerate(kept)}), kept
