"""Texts that say nearly what earlier ones say: most pairs of neighbouring words are the same."""

from __future__ import annotations

import math
import re
import zlib
from collections import defaultdict

_ALIKE = 0.8  # shared pairs of words, of those of both texts (Jaccard)
_WORD = re.compile(r"[\u3400-\u9fff]|\w+")  # a Chinese character is a word
_IDLE = frozenset("a an the please could would you can just and".split())


class NearCopies:
    """Texts in the order in which they come; of those that are alike the first `most` count.

    Prefix filter (Chaudhuri, Ganti and Kaushik 2006): two sets of which so much is shared have an element in common
    among the first of either in any fixed order, so that few texts are compared.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.kept: list[tuple[str, frozenset[str]]] = []  # name, pairs of words
        self.where: dict[str, list[int]] = defaultdict(list)  # which of them have a pair among their first

    def first_like(self, name: str, text: str) -> str | None:
        """The name of the first text that this one is nearly a copy of, where there are `most` such texts already;
        else None, and from now on this one counts.
        """
        pairs = _pairs(text)
        first = sorted(pairs, key=lambda pair: (zlib.crc32(pair.encode()), pair))
        first = first[: len(pairs) - math.ceil(_ALIKE * len(pairs) - 1e-9) + 1]
        candidates = sorted({number for pair in first for number in self.where[pair]})
        alike = [self.kept[k][0] for k in candidates if _shared(pairs, self.kept[k][1]) >= _ALIKE]
        if len(alike) >= self.most:
            return alike[0]
        for pair in first:
            self.where[pair].append(len(self.kept))
        self.kept.append((name, pairs))
        return None


def _pairs(text: str) -> frozenset[str]:
    words = [word for word in _WORD.findall(text.casefold()) if word not in _IDLE]
    return frozenset(f"{one} {other}" for one, other in zip(["", *words], [*words, ""]))


def _shared(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
