#!/usr/bin/env python3
"""What `edit filter --fix-rotation` turns: photographs and pages with planted turns, and upright ones.

usage: rotation.py --photos DIR [--limit N] [--json FILE]

Every photograph under DIR is taken upright, twice (whole, and a crop of it), and turned by four angles; about a third
is enlarged twice first. Photographs are supposed to be upright as they come: those that are not count as errors. The
pages are made here: lines of words in a few fonts. `worse` counts images that are more crooked after than before.
The table is of one half of the photographs; --half tuning is of the other. Bounds were chosen with both in sight, so
that neither is unseen.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from content import WORDS, encoded, font, place, prepared, turned_by
from PIL import Image, ImageDraw

from edittools.filter.straighten import crooked

RANGES = {"upright": (0, 0), "1 to 3 degrees": (1, 3), "3 to 10 degrees": (3, 10), "10 to 15 degrees": (10, 15)}


def page(rng: random.Random) -> Image.Image:
    """A page of text: one or two columns, paragraphs of different lengths."""
    size = rng.randint(700, 1400), rng.randint(700, 1400)
    sheet = Image.new("RGB", size, (rng.randint(225, 255),) * 3)
    draw = ImageDraw.Draw(sheet)
    face = font(rng, rng.uniform(14, 30))
    columns = rng.choice([1, 1, 2])
    wide, high = size[0] / columns, sum(face.getmetrics())
    for column in range(columns):
        y = 0.06 * size[1]
        while y < 0.94 * size[1]:
            line = rng.choice(WORDS)
            while face.getlength(line) < (0.85 if rng.random() < 0.8 else 0.4) * wide:
                line += " " + rng.choice(WORDS)
            draw.text(((column + 0.05) * wide, y), line, (rng.randint(0, 80),) * 3, font=face)
            y += high * rng.choice([1.1, 1.1, 1.1, 1.1, 2.2])
    return sheet


def images(photos: list[Path], kind: str, ends: tuple[float, float]) -> Iterator[tuple[bytes, float]]:
    """JPEG files and the degrees by which they are turned clockwise."""
    for path in photos:
        for crop in (False, True):
            rng = random.Random(f"{kind} {ends} {path.name} {crop}")
            shown = page(rng) if kind == "pages" else prepared(path, rng)
            if crop:
                share = rng.uniform(0.6, 0.85)
                size = round(shown.width * share), round(shown.height * share)
                left, top = place(shown, size, rng)
                shown = shown.crop((left, top, left + size[0], top + size[1]))
            angle = rng.choice([-1, 1]) * rng.uniform(*ends)
            yield encoded(turned_by(shown, -angle) if angle else shown, rng), angle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--half", choices=["tuning", "test"], default="test")
    parser.add_argument("--limit", type=int, default=10_000, help="photographs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    photos = sorted(path for path in args.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    random.Random(0).shuffle(photos)
    photos = photos[args.half == "test" :: 2][: args.limit]
    report = {}
    heads = f"{'images':>9}{'turned':>8}{'share':>8}{'median error':>14}{'90%':>7}{'worse':>7}{'ms':>7}"
    print(f"{'':12}{'planted':18}{heads}")
    for kind in ("photographs", "pages"):
        for name, ends in RANGES.items():
            found, planted, spent = [], [], 0.0
            for data, angle in images(photos if kind == "photographs" else photos[::5], kind, ends):
                start = time.process_time()
                found.append(crooked(data))
                spent += time.process_time() - start
                planted.append(angle)
            turn, truth = np.array(found), np.array(planted)
            error = np.abs(turn - truth)[turn != 0]
            row = {
                "images": len(turn),
                "turned": len(error),
                "share": len(error) / len(turn),
                "median_error": float(np.median(error)) if len(error) else None,
                "error_of_90_percent": float(np.quantile(error, 0.9)) if len(error) else None,
                "worse": int((error >= np.abs(truth[turn != 0])).sum()),
                "ms_per_image": 1000 * spent / len(turn),
            }
            report[f"{kind}, {name}"] = row
            middle, most = (f"{v:.2f}" if v is not None else "-" for v in list(row.values())[3:5])
            print(
                f"{kind:12}{name:18}{row['images']:9}{row['turned']:8}{row['share']:8.1%}{middle:>14}{most:>7}"
                f"{row['worse']:7}{row['ms_per_image']:7.1f}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
