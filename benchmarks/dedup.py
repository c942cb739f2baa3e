#!/usr/bin/env python3
"""How long the decisions over many fingerprints takes, what memory it needs, and whether it finds what it should.

usage: dedup.py [--rows 1000000] [--distance 8] [--rotations] [--sample 20000] [--jobs 2] [--json FILE]
       dedup.py --vectors [--rows 1000000] [--dim 512] [--cosine 0.75] [--queries 1000] [--jobs 2] [--json FILE]

Signatures: 90% random, 10% copies of others with up to 8 bits changed; the pairs of a sample are checked against all
comparisons first. Then the decisions end to end: fingerprints to clusters to the decisions's table.

Vectors: 90% evenly spread over the sphere, which is the hardest case for an index, 10% copies of others at a cosine
between 0.7 and 1, as float16 in a file. Recall is measured on all of the planted pairs, and against an exact search
of some queries.

Time is wall clock and CPU of this process, memory its peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from edittools.dedup import kmeans
from edittools.dedup.cosine import cosine, near_cosine
from edittools.dedup.decide import decide
from edittools.dedup.fingerprint import FINGERPRINT
from edittools.dedup.fingerprint_table import FingerprintTable
from edittools.dedup.hamming import distance, near_pairs
from edittools.dedup.rule import Rule

BLOCK = 1 << 16


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


def fingerprints(values: np.ndarray, seed: int) -> FingerprintTable:
    """The values as fingerprints of rows of one image; the other seven orientations are random."""
    rng = np.random.default_rng(seed)
    table = FingerprintTable()
    for start in range(0, len(values), BLOCK):
        part = values[start : start + BLOCK]
        count = len(part)
        words = rng.integers(0, 1 << 63, (count, 8), dtype=np.uint64) << np.uint64(1)
        words[:, 0] = part
        exact = np.zeros((count, 2), np.uint64)
        exact[:, 0] = np.arange(start, start + count)

        def fixed(array: np.ndarray, count: int = count) -> pa.Array:
            width = array.itemsize * array.shape[1]
            return pa.Array.from_buffers(pa.binary(width), count, [None, pa.py_buffer(np.ascontiguousarray(array))])

        columns = {
            "id": pa.array([f"{k:016x}" for k in range(start, start + count)]),
            "shard": pa.array(np.full(count, start // BLOCK, np.int32)),
            "row": pa.array(np.arange(count, dtype=np.int32)),
            "exact": fixed(exact),
            "signatures": fixed(words),
            "one_image": pa.array(np.ones(count, bool)),
            "pixels": pa.array(np.full(count, 1 << 20)),
            "detail": pa.array(rng.random(count)),
        }
        made = [columns.get(field.name, pa.nulls(count, field.type)) for field in FINGERPRINT]
        table.add(pa.record_batch(made, schema=FINGERPRINT))
    return table


def measure_signatures(args: argparse.Namespace) -> dict[str, object]:
    sample = signatures(args.sample, 1)
    expected = brute_force(sample, args.distance)
    found: set[tuple[int, int]] = set()
    for i, j in near_pairs(sample, args.distance, jobs=args.jobs):
        found |= set(zip(i.tolist(), j.tolist()))
    print(f"sample of {len(sample)}: {len(expected)} pairs by brute force, the same pairs: {found == expected}")
    if found != expected:
        raise SystemExit(1)
    values = signatures(args.rows, 2)
    table = fingerprints(values, 3)
    del values
    clock = Clock()
    verdict = decide(table, Rule(limit=args.distance, rotations=args.rotations), args.jobs).table()
    dropped = len(verdict) - verdict.column("duplicate_of").null_count
    return {"rows": table.rows, "distance": args.distance, "rotations": args.rotations, "dropped": dropped,
            **clock.read(), "exact_on_sample": True}  # fmt: skip


def planted_vectors(path: Path, count: int, dim: int) -> tuple[np.ndarray, int]:
    """Unit vectors in a file; the last tenth are copies of the first."""
    rng = np.random.default_rng(4)
    copies = count // 10
    vectors = np.memmap(path, np.float16, "w+", shape=(count, dim))
    for start in range(0, count - copies, BLOCK):
        part = rng.standard_normal((min(BLOCK, count - copies - start), dim), dtype=np.float32)
        vectors[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    for start in range(0, copies, BLOCK):
        stop = min(start + BLOCK, copies)
        base = kmeans.unit(vectors, slice(start, stop))
        alike = rng.uniform(0.7, 1, (len(base), 1))
        aside = rng.standard_normal(base.shape, dtype=np.float32)
        aside -= (aside * base).sum(axis=1, keepdims=True) * base
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        vectors[count - copies + start : count - copies + stop] = alike * base + np.sqrt(1 - alike**2) * aside
    vectors.flush()
    return np.memmap(path, np.float16, "r", shape=(count, dim)), copies


def measure_vectors(args: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        vectors, copies = planted_vectors(Path(folder) / "vectors", args.rows, args.dim)
        clock = Clock()
        blocks = list(near_cosine(vectors, np.arange(args.rows), args.cosine, jobs=args.jobs))
        figures = clock.read()
        pairs = np.unique(np.concatenate([np.minimum(a, b) * args.rows + np.maximum(a, b) for a, b in blocks]))
        first = np.arange(copies)
        last = first + args.rows - copies
        near = cosine(vectors, first, last) >= args.cosine
        recall = np.isin(first[near] * args.rows + last[near], pairs).mean()
        # An exact search of a few copies among all vectors.
        queries = np.random.default_rng(5).choice(last, min(args.queries, copies), replace=False)
        asked = kmeans.unit(vectors, queries)
        exact = set()
        for start in range(0, args.rows, BLOCK):
            i, j = np.nonzero(asked @ kmeans.unit(vectors, slice(start, start + BLOCK)).T >= args.cosine)
            exact |= {(min(q, r), max(q, r)) for q, r in zip(queries[i].tolist(), (j + start).tolist()) if q != r}
        both = np.array([a * args.rows + b for a, b in exact])
        sampled = float(np.isin(both, pairs).mean())
    return {"rows": args.rows, "dim": args.dim, "cosine": args.cosine, "pairs": len(pairs), **figures,
            "recall_planted": float(recall), "recall_of_exact_search": sampled}  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "peak_mib": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--distance", type=int, default=8)
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--rotations", action="store_true", help="the eight orientations")
    parser.add_argument("--vectors", action="store_true")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--cosine", type=float, default=0.75)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    record = measure_vectors(args) if args.vectors else measure_signatures(args)
    print(", ".join(f"{name} {value}" for name, value in record.items()))
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
