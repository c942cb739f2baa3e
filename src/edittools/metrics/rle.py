"""Masks as run lengths, in the format of COCO's API: plain counts, or counts packed into text.

Runs go down the columns, from left to right, and begin with what is outside. Packed, a count is the difference to the
one before the last, in groups of five bits, the lowest first, each a printable sign from `0` on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def decode(counts: str | bytes | Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask, bool (height, width). Raises ValueError for counts that are none of a mask of this size."""
    runs = np.asarray(unpacked(counts) if isinstance(counts, (str, bytes)) else counts)
    if runs.ndim != 1 or not np.issubdtype(runs.dtype, np.integer) or (runs < 0).any():
        raise ValueError("no run lengths")
    if int(runs.sum()) != height * width:
        raise ValueError(f"run lengths of {int(runs.sum())} pixels, and the mask is {width}x{height}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def encode(mask: np.ndarray) -> str:
    """A mask (height, width), bool or 0 and above, as packed counts."""
    flat = np.concatenate([[False], np.asarray(mask, bool).T.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges, [len(flat) - 1]]))
    return packed(runs.tolist())


def unpacked(text: str | bytes) -> list[int]:
    """The counts that a text holds. Raises ValueError."""
    signs = text.encode() if isinstance(text, str) else text
    counts: list[int] = []
    value, shift = 0, 0
    for sign in signs:
        bits = sign - 48
        if not 0 <= bits < 64:
            raise ValueError("no packed run lengths")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (1 << shift) if bits & 0x10 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
        elif shift > 60:
            raise ValueError("no packed run lengths")
    if shift:
        raise ValueError("packed run lengths are cut off")
    return counts


def packed(counts: Sequence[int]) -> str:
    """Counts as a text."""
    signs = bytearray()
    for number, count in enumerate(counts):
        value = count - (counts[number - 2] if number > 2 else 0)
        while True:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            signs.append(48 + bits + (0x20 if more else 0))
            if not more:
                break
    return signs.decode()
