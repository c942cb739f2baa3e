#!/usr/bin/env python3
"""Draw a strip of held-out edits: instruction, source, result and truth of the median row of some kinds.

usage: strip.py ROWS OUT.png [--templates add,sepia,flip]

ROWS are results with a truth that `edit score` has measured. The row of a kind is its median by PSNR, so that nothing
is picked for its looks; pixels are enlarged and not smoothed.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import edittools
from edittools.bench.heldout import kind_of
from edittools.errors import EditError
from edittools.stream import codec
from edittools.stream.fetch import Fetcher

SIDE, GAP, WORDS, HEAD = 132, 10, 270, 24  # pixels: an image, between two, the column of words, the line of titles
TITLES = ("source", "result", "truth")


def medians(rows: str, kinds: list[str]) -> list[dict[str, Any]]:
    """The median row of every kind, in this order."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for row in edittools.read(rows).rows():
        if row["result"] is not None and (kind := kind_of(row)) in found:
            found[kind].append(row)
    if missing := [kind for kind, rows in found.items() if not rows]:
        raise SystemExit(f"no results of {', '.join(missing)}")
    ranked = (sorted(rows, key=lambda row: (row["scores"]["psnr"], row["id"])) for rows in found.values())
    return [rows[(len(rows) - 1) // 2] for rows in ranked]


def drawn(rows: list[dict[str, Any]]) -> Image.Image:
    """A line for each row, below a line of titles."""
    font, small = ImageFont.load_default(14), ImageFont.load_default(13)
    size = (WORDS + 3 * (SIDE + GAP), HEAD + len(rows) * (SIDE + GAP))
    strip = Image.new("RGB", size, "white")
    draw, fetcher = ImageDraw.Draw(strip), Fetcher()
    places = [WORDS + k * (SIDE + GAP) for k in range(3)]
    for x, title in zip(places, TITLES):
        draw.text((x, 4), title, "#555", small)
    for number, row in enumerate(rows):
        top = HEAD + number * (SIDE + GAP)
        draw.multiline_text((8, top + 8), textwrap.fill(row["instruction"]["en"], 34), "black", font)
        scores = row["scores"]
        draw.text((8, top + SIDE - 22), f"PSNR {scores['psnr']:.1f} dB (copy {scores['copy_psnr']:.1f})", "#777", small)
        for x, value in zip(places, (row["source"][0], row["result"], row["target"])):
            image = Image.fromarray(codec.decode(fetcher.get(value)))
            image = image.resize((SIDE, round(SIDE * image.height / image.width)), Image.Resampling.NEAREST)
            strip.paste(image.crop((0, 0, SIDE, SIDE)), (x, top))
    return strip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", metavar="ROWS")
    parser.add_argument("out", metavar="OUT.png", type=Path)
    parser.add_argument("--templates", default="add,sepia,flip", help="default: %(default)s")
    given = parser.parse_args()
    try:
        strip = drawn(medians(given.rows, given.templates.split(",")))
    except EditError as error:
        raise SystemExit(f"strip.py: {error}") from None
    strip.quantize(255).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
