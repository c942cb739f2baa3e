#!/usr/bin/env python3
"""How long near pairs among many 64-bit signatures take, and whether they are exactly those of brute force.

usage: dedup.py [--count 1000000] [--distance 8] [--sample 20000] [--rotations] [--jobs 2] [--json FILE]

Signatures: 90% random, 10% copies of others with up to 8 bits changed. Checked first on a sample, pair by pair,
against all comparisons. Time is wall clock and CPU of this process, memory its peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from edittools.dedup.clusters import Components
from edittools.dedup.hamming import distance, near_pairs


def signatures(count: int, seed: int) -> np.ndarray:
    """Distinct signatures with planted near copies."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1 << 63, count, dtype=np.uint64) << np.uint64(1)
    copies = count // 10
    changed = values[:copies].copy()
    for _ in range(8):
        changed ^= np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
    values[-copies:] = changed
    return np.unique(values)


def brute_force(values: np.ndarray, limit: int) -> set[tuple[int, int]]:
    pairs = set()
    for start in range(0, len(values), 256):
        i, j = np.nonzero(distance(values[start : start + 256, None], values[None]) <= limit)
        keep = i + start < j
        pairs |= set(zip((i[keep] + start).tolist(), j[keep].tolist()))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--distance", type=int, default=8)
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--rotations", action="store_true", help="also 7 query sets of the same size")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    sample = signatures(args.sample, 1)
    expected = brute_force(sample, args.distance)
    found: set[tuple[int, int]] = set()
    for i, j in near_pairs(sample, args.distance, jobs=args.jobs):
        found |= set(zip(i.tolist(), j.tolist()))
    print(f"sample of {len(sample)}: {len(expected)} pairs by brute force, the same pairs: {found == expected}")
    if found != expected:
        raise SystemExit(1)

    values = signatures(args.count, 2)
    wall, cpu = time.perf_counter(), time.process_time()
    components, pairs = Components(len(values)), 0
    for i, j in near_pairs(values, args.distance, jobs=args.jobs):
        components.union(i, j)
        pairs += len(i)
    if args.rotations:
        rng = np.random.default_rng(3)
        for _ in range(7):
            queries = np.unique(rng.permutation(values) ^ np.uint64(rng.integers(1 << 62)))
            for i, j in near_pairs(values, args.distance, queries=queries, jobs=args.jobs):
                components.union(i, j)
    clusters = len(values) - len(np.unique(components.labels()))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(values)} signatures, distance {args.distance}: {pairs} pairs, {clusters} rows less; "
          f"{wall:.1f} s wall, {cpu:.1f} s CPU, {peak:.0f} MiB peak")
    if args.json:
        record = {"count": len(values), "distance": args.distance, "pairs": pairs, "wall": wall, "cpu": cpu}
        args.json.write_text(json.dumps({**record, "peak_mib": peak, "exact_on_sample": True}, indent=2) + "\n")


if __name__ == "__main__":
    main()
