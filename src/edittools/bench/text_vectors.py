"""Instructions as vectors, without a model: runs of three characters, weighted by rarity, hashed into few dimensions.

Quoted text and numbers are what they are called, not what they say: "SALE" and "EXIT" are alike. Chinese signs count
alone and in pairs. Salton and Buckley 1988 for the weights, Weinberger et al. 2009 ("Feature hashing") for the signs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from edittools.caption.text_facts import unquoted

DIM = 256
_BUCKETS = 1 << 18  # in which grams are counted
_AT_ONCE = 4096  # texts
_COUNTED = 200_000  # texts at most that rarity is counted in, evenly spaced
_NUMBER = re.compile(r"[-−]?\d+(?:[.,]\d+)*")
_WIDE = re.compile("([\u2e80-\u9fff\uf900-\ufaff])")
_NO_WORD = re.compile(r"[^\w]+")


def plain(text: str) -> str:
    """What a text is compared by: small letters, without signs, quotes and numbers."""
    masked = _NUMBER.sub(" 0 ", unquoted(text.casefold(), " quoted "))
    words = _NO_WORD.sub(" ", _WIDE.sub(r" \1 ", masked))
    return f" {words.strip()} "


def _grams(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(row, hash) of every run of three characters, int32 and uint32."""
    said = [plain(text) for text in texts]
    letters = np.frombuffer("".join(said).encode("utf-32-le"), np.uint32)
    rows = np.repeat(np.arange(len(said), dtype=np.int32), [len(one) for one in said])
    first, second, third = letters[:-2], letters[1:-1], letters[2:]
    code = (first * np.uint32(0x9E3779B1)) ^ (second * np.uint32(0x85EBCA77)) ^ (third * np.uint32(0xC2B2AE3D))
    code ^= code >> np.uint32(15)
    code *= np.uint32(0x2C1B3C6D)
    code ^= code >> np.uint32(12)
    whole = rows[:-2] == rows[2:]
    return rows[:-2][whole], code[whole]


class MaskedTexts:
    """A model of texts that sees them as they are compared: their quotes and numbers say nothing."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, dim), unit."""
        return self.model.texts([plain(text).strip() for text in texts])


class TextVectors:
    """Vectors of texts by the rarity of their grams in `corpus`."""

    dim = DIM
    name = "grams"

    def __init__(self, corpus: Sequence[str]) -> None:
        counts = np.zeros(_BUCKETS)
        counted = corpus[:: -(-len(corpus) // _COUNTED) or 1]
        for start in range(0, len(counted), _AT_ONCE):
            _, code = _grams(counted[start : start + _AT_ONCE])
            counts += np.bincount(code % np.uint32(_BUCKETS), minlength=_BUCKETS)
        self.weights = np.log1p(max(len(counted), 1) / np.maximum(counts, 1)).astype(np.float32)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, DIM), unit; zero of a text without words."""
        made = np.zeros((len(texts), DIM), np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            rows, code = _grams(texts[start : start + _AT_ONCE])
            weight = self.weights[code % np.uint32(_BUCKETS)]
            sign = np.where(code >> np.uint32(31), np.float32(-1), np.float32(1))
            place = rows * DIM + ((code >> np.uint32(18)) % np.uint32(DIM)).astype(np.int32)
            count = min(_AT_ONCE, len(texts) - start)
            summed = np.bincount(place, weights=weight * sign, minlength=count * DIM)
            made[start : start + count] = summed.reshape(count, DIM)
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        return made / np.where(lengths == 0, 1, lengths)
