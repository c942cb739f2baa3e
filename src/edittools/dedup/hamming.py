"""All pairs of 64-bit signatures within a Hamming distance, exactly, without comparing all pairs.

Multi-index hashing (Norouzi, Punjani and Fleet 2012). The bits are dealt to m chunks; if two signatures differ in
at most d bits, then for radii r_1..r_m with Σ (r_i + 1) = d + 1 some chunk i differs in at most r_i bits, or else
the chunks would add up to Σ (r_i + 1) > d. So it is enough to look, per chunk, at keys that differ by one of the
few bit masks with at most r_i bits set, and to check the candidates on all 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np

BITS = 64
_PAIRS_AT_ONCE = 1 << 18  # candidates in memory together, per thread: what the processor's cache holds
_ROWS_AT_ONCE = 1 << 15
_BRUTE_FORCE = 2_000  # fewer signatures than this are simply compared


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number of differing bits, element by element."""
    return np.bitwise_count(a ^ b)


def chunk_radii(limit: int, chunks: int) -> list[int]:
    """Radii r_i ≥ -1 (-1: the chunk need not be looked at) with Σ (r_i + 1) = limit + 1, as even as can be."""
    share, extra = divmod(limit + 1, chunks)
    return [share + (i < extra) - 1 for i in range(chunks)]


def _masks(width: int, radius: int) -> np.ndarray:
    masks = [0]
    for count in range(1, radius + 1):
        masks += [sum(1 << bit for bit in bits) for bits in combinations(range(width), count)]
    return np.array(masks, np.uint32)


def _chunk_keys(values: np.ndarray, chunk: int, chunks: int) -> tuple[np.ndarray, int]:
    """A chunk's keys (uint32) and its width; bit k is in chunk k mod m, so that related frequencies are spread."""
    keys = np.zeros(len(values), np.uint32)
    for place, bit in enumerate(range(chunk, BITS, chunks)):
        keys |= ((values >> np.uint64(bit)) & np.uint64(1)).astype(np.uint32) << np.uint32(place)
    return keys, len(range(chunk, BITS, chunks))


def near_pairs(
    values: np.ndarray, limit: int, queries: np.ndarray | None = None, jobs: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (i, j) with distance(values[i], values[j]) ≤ limit and i < j.

    With `queries`, pairs (i, j) with distance(queries[i], values[j]) ≤ limit instead, every i and j. `values` must
    be distinct (see `unique`); a pair may be reported more than once. `limit` is 0 to 31.
    """
    if not 0 <= limit < 32:
        raise ValueError(f"distance {limit}: 0 to 31")
    if (len(values) < 2 and queries is None) or not len(values):
        return
    if len(values) <= _BRUTE_FORCE:
        yield from _brute_force(values, limit, queries)
        return
    # Keys of about log2(n) + 1 bits leave few candidates per key and few masks per chunk.
    chunks = 3 if limit < 12 or len(values) > 1 << 19 else 4
    with ThreadPoolExecutor(jobs) as pool:
        for chunk, radius in enumerate(chunk_radii(limit, chunks)):
            if radius < 0:
                continue
            table = _Table(values, chunk, chunks)
            probe = table if queries is None else _Table(queries, chunk, chunks)
            masks = _masks(table.width, radius)
            groups = [masks[k :: 8 * jobs] for k in range(8 * jobs)]
            futures = [pool.submit(_join, table, probe, group, limit, queries is None) for group in groups]
            while futures:
                yield from futures.pop(0).result()


def _brute_force(values: np.ndarray, limit: int, queries: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    asked = values if queries is None else queries
    step = max(1, _PAIRS_AT_ONCE // len(values))
    for start in range(0, len(asked), step):
        block = asked[start : start + step]
        i, j = np.nonzero(distance(block[:, None], values[None, :]) <= limit)
        i = i + start
        if queries is None:
            keep = i < j
            i, j = i[keep], j[keep]
        if len(i):
            yield i, j


class _Table:
    """Signatures sorted by a chunk's key. Group g, from 1, are rows `start[g] : start[g] + count[g]`; 0 is empty."""

    def __init__(self, values: np.ndarray, chunk: int, chunks: int) -> None:
        keys, self.width = _chunk_keys(values, chunk, chunks)
        self.order = np.argsort(keys, kind="stable").astype(np.int32)
        self.values = values[self.order]
        keys = keys[self.order]
        first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]).astype(np.int32) if len(keys) else np.zeros(0, int)
        self.keys = keys[first]
        self.start = np.r_[0, first].astype(np.int32)
        self.count = np.r_[0, np.diff(np.r_[first, len(keys)])].astype(np.int32)
        self.group = np.repeat(np.arange(1, len(first) + 1, dtype=np.int32), self.count[1:])
        # Which group has a key; 0 for a key that nobody has.
        self.place = np.zeros(1 << self.width, np.int32)
        self.place[self.keys] = np.arange(1, len(first) + 1, dtype=np.int32)


def _join(
    table: _Table, probe: _Table, masks: np.ndarray, limit: int, own: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs whose keys differ by one of the masks and whose signatures are near."""
    found = []
    for mask in masks:
        places = np.r_[np.int32(0), table.place[probe.keys ^ mask]]  # of each of the probe's groups
        if own and mask:
            # key and key ^ mask find each other twice: take the side on which the mask's lowest bit is 0.
            lowest = np.uint32(int(mask) & -int(mask))
            places[1:][(probe.keys & lowest) != 0] = 0
        for low in range(0, len(probe.values), _ROWS_AT_ONCE):
            rows = slice(low, low + _ROWS_AT_ONCE)
            place = places[probe.group[rows]]
            asked = np.flatnonzero(place)
            place = place[asked]
            asked += low
            first, sizes = table.start[place], table.count[place]
            if own and not mask:  # each row with those behind it in its own group
                first, sizes = asked + 1, first + sizes - asked - 1
            for i, j in _near_in(probe.values[asked], table.values, first, sizes, limit):
                a, b = probe.order[asked[i]], table.order[j]
                found.append((np.minimum(a, b), np.maximum(a, b)) if own else (a, b))
    return found


def _near_in(
    asked: np.ndarray, values: np.ndarray, first: np.ndarray, sizes: np.ndarray, limit: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of asked[i] with a near one of values[first[i] : first[i] + sizes[i]]."""
    if not len(asked):
        return
    ends = np.cumsum(sizes, dtype=np.int64)
    start = 0
    while start < len(asked) and ends[-1] > (base := ends[start - 1] if start else 0):
        stop = max(start + 1, int(np.searchsorted(ends, base + _PAIRS_AT_ONCE, "right")))
        size = sizes[start:stop]
        bounds = ends[start:stop] - base
        others = np.arange(bounds[-1])
        others += np.repeat(first[start:stop] - (bounds - size), size)
        near = np.flatnonzero(distance(np.repeat(asked[start:stop], size), values[others]) <= limit)
        if len(near):
            yield start + np.searchsorted(bounds, near, "right"), others[near]
        start = stop
