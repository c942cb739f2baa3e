#!/usr/bin/env python3
"""Draw random pairs of several sets on one sheet: instruction, source, target. To be judged by eye.

usage: pairs.py OUT.png ROWS... [--sample N] [--seed S]
"""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import edittools
from edittools.stream import codec
from edittools.stream.fetch import Fetcher

SIDE, WORDS, ACROSS = 200, 34, 3  # pixels of an image, letters of a line, pairs in a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--sample", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    pairs = [row for rows in told.rows for row in edittools.read(rows).rows() if row["source"]]
    chosen = np.random.default_rng(told.seed).permutation(len(pairs))[: told.sample]
    drawn = [draw(pairs[k], f"{n + 1}. ") for n, k in enumerate(sorted(chosen.tolist()))]
    if not drawn:
        raise SystemExit(f"no pairs in {', '.join(told.rows)}")
    width, height = drawn[0].size
    sheet = Image.new("RGB", (width * min(ACROSS, len(drawn)), height * -(-len(drawn) // ACROSS)), "white")
    for k, one in enumerate(drawn):
        sheet.paste(one, (k % ACROSS * width, k // ACROSS * height))
    sheet.save(told.out)
    print(f"{told.out}: {len(drawn)} of {len(pairs)} pairs")


def draw(row: dict[str, Any], number: str) -> Image.Image:
    """One pair with its words below."""
    tile = Image.new("RGB", (2 * SIDE + 16, SIDE + 44), "white")
    for k, image in enumerate((row["source"][0], row["target"])):
        shown = Image.fromarray(codec.decode(Fetcher().get(image)))
        shown.thumbnail((SIDE, SIDE))
        tile.paste(shown, (k * (SIDE + 4), 0))
    words = textwrap.wrap(f"{number}[{row['task']}] {row['instruction']['en']}", 2 * WORDS)[:3]
    ImageDraw.Draw(tile).multiline_text((2, SIDE + 2), "\n".join(words), fill="black")
    return tile


if __name__ == "__main__":
    main()
