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
_PAIRS_AT_ONCE = 1 << 21  # candidates in memory together, per thread
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


def _deal_bits(values: np.ndarray, chunks: int) -> list[tuple[np.ndarray, int]]:
    """Chunk keys (uint32) and widths; bit k goes to chunk k mod m, so that related frequencies are spread."""
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    dealt = []
    for chunk in range(chunks):
        own = bits[:, chunk::chunks]
        width = own.shape[1]
        padded = np.zeros((len(values), 32), np.uint8)
        padded[:, :width] = own
        dealt.append((np.packbits(padded, axis=1, bitorder="little").view(np.uint32).ravel(), width))
    return dealt


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
    own = queries is None
    asked = values if queries is None else queries
    radii = chunk_radii(limit, chunks)
    sides = zip(_deal_bits(values, chunks), _deal_bits(asked, chunks), radii)
    with ThreadPoolExecutor(jobs) as pool:
        for (keys, width), (asked_keys, _), radius in sides:
            if radius < 0:
                continue
            table = _Table(keys, width)
            probe = table if own else _Table(asked_keys, width)
            masks = _masks(width, radius)
            groups = [masks[k :: max(1, 4 * jobs)] for k in range(max(1, 4 * jobs))]
            futures = [pool.submit(_join, table, probe, group, values, asked, limit, own) for group in groups]
            for future in futures:
                yield from future.result()


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
    """Signatures grouped by a chunk's key: `order[start[k] : start[k] + count[k]]` are those with key `keys[k]`."""

    def __init__(self, keys: np.ndarray, width: int) -> None:
        self.order = np.argsort(keys, kind="stable").astype(np.int32)
        self.keys, first, counts = np.unique(keys[self.order], return_index=True, return_counts=True)
        self.start, self.count = first.astype(np.int64), counts.astype(np.int64)
        # Where a key is in `keys`, plus one; 0 for a key that nobody has.
        self.place = np.zeros(1 << width, np.int32)
        self.place[self.keys] = np.arange(1, len(self.keys) + 1, dtype=np.int32)


def _join(
    table: _Table, probe: _Table, masks: np.ndarray, values: np.ndarray, asked: np.ndarray, limit: int, own: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs whose keys differ by one of the masks and whose signatures are near."""
    found = []
    for mask in masks:
        places = table.place[probe.keys ^ mask]
        hits = places > 0
        if own and mask:
            # key and key ^ mask find each other twice: take the side on which the mask's lowest bit is 0.
            lowest = np.uint32(int(mask) & -int(mask))
            hits &= (probe.keys & lowest) == 0
        rows = np.flatnonzero(hits)
        for a, b in _products(probe, rows, table, places[rows] - 1):
            i, j = probe.order[a], table.order[b]
            near = distance(asked[i], values[j]) <= limit
            if own and not mask:
                near &= i < j
            if near.any():
                i, j = i[near], j[near]
                found.append((np.minimum(i, j), np.maximum(i, j)) if own else (i, j))
    return found


def _products(left: _Table, rows: np.ndarray, right: _Table, others: np.ndarray) -> Iterator[tuple]:
    """Every combination of a member of group rows[k] with one of group others[k], some millions at a time."""
    lefts, rights = left.count[rows], right.count[others]
    sizes = lefts * rights
    bounds = np.cumsum(sizes)
    start = 0
    while start < len(rows):
        base = bounds[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(bounds, base + _PAIRS_AT_ONCE, "right")))
        size = sizes[start:stop]
        group = np.repeat(np.arange(start, stop), size)
        within = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
        width = rights[group]
        yield left.start[rows[group]] + within // width, right.start[others[group]] + within % width
        start = stop
