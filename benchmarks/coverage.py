#!/usr/bin/env python3
"""What the radius of `edit eval coverage` is worth, and what looking costs.

usage: coverage.py [--texts N] [--queries N] [--encoder NAME]

The table: of wordings of templates of `edit synth`, precision and recall of radii that were calibrated on half of the
templates, for pairs of the other half (mean, and 5 to 95% over the halves). The cost: N instructions, made of wordings
with a word of their own each, and the queries among them.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import numpy as np

from edittools.bench.coverage import Radius, calibrated, coverage, wordings
from edittools.bench.text_vectors import MaskedTexts, TextVectors
from edittools.synth.core import Tools


def table(encoder: str | None) -> None:
    for language in ("en", "zh"):
        texts, templates = wordings(language, Tools())
        model: Any = TextVectors(texts)
        if encoder is not None:
            from edittools.encoders.embedders import load_embedder

            model = MaskedTexts(load_embedder(encoder))
        print(f"{language}: {len(texts)} wordings of {len(set(templates.tolist()))} templates")
        for target in (0.3, 0.5, 0.7, 0.9):
            one = calibrated(model, language, target)
            assert one.recall_range is not None and one.precision_range is not None
            recall, precision = ("{:.2f} to {:.2f}".format(*x) for x in (one.recall_range, one.precision_range))
            print(
                f"  --recall {target}: cosine {one.cosine:.3f}, recall {one.recall:.2f} ({recall}), "
                f"precision {one.precision:.2f} ({precision})"
            )


def cost(number: int, asked: int) -> None:
    known, _ = wordings("en", Tools())
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghiklmnoprstuvw"), 6)) for _ in range(5000)]
    texts = [f"{known[k % len(known)]} {words[int(rng.integers(len(words)))]}" for k in range(number)]
    began, spent = time.perf_counter(), time.process_time()
    found = coverage(TextVectors(texts), texts, texts[:: max(1, number // asked)][:asked], Radius(0.5))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{number:,} instructions, {found['queries']:,} requests: {time.perf_counter() - began:.1f} s, "
        f"{time.process_time() - spent:.1f} s of CPU, {memory:.2f} GiB at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--encoder")
    told = parser.parse_args()
    table(told.encoder)
    cost(told.texts, told.queries)


if __name__ == "__main__":
    main()
