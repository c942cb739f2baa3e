#!/usr/bin/env python3
"""What every filter of `edit filter` costs: CPU milliseconds for one JPEG of 1.5 megapixels, on one core.

usage: cost.py --photos DIR [--only NAME,...] [--images N]

Four photographs under DIR, side by side at 768x512 each, make one of 1536x1024 (JPEG, quality 90), with as much detail
per pixel as they have. A filter's cost is the decode at its raster and the measure; filters of one raster share the
decode, which stands beside it. The median over N images is printed beside what the filter says of itself (`cost`,
which the manual shows). Filters that read the header, or ask a model, have none.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import time
from pathlib import Path

from PIL import Image, ImageOps

from edittools.filter import Filter, all_filters, flow
from edittools.stream import codec


def decodes(path: Path) -> bool:
    try:
        Image.open(path).load()
    except OSError as error:
        print(f"left out {path}: {error}")
        return False
    return True


def joined(paths: list[Path]) -> bytes:
    """Four photographs as one JPEG of 1.57 megapixels."""
    sheet = Image.new("RGB", (1536, 1024))
    for k, path in enumerate(paths):
        sheet.paste(ImageOps.fit(Image.open(path).convert("RGB"), (768, 512)), (k % 2 * 768, k // 2 * 512))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def milliseconds(item: Filter, data: bytes, other: bytes) -> tuple[float, float]:
    """CPU time of decoding one image (of a pair both) at the filter's raster, and of both steps."""
    assert item.raster is not None
    start = time.process_time()
    pixels = codec.decode(data, item.raster)
    if item.measure is not None:
        decoded = time.process_time()
        item.measure(pixels)
    else:
        target = codec.decode(other, item.raster)
        decoded = time.process_time()
        if item.measure_pair is not None:
            item.measure_pair(pixels, target)
        if item.measure_flow is not None:
            item.measure_flow(flow.per_cent(flow.dis(pixels, target)), pixels > 127)
    return 1000 * (decoded - start), 1000 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--images", type=int, default=24)
    args = parser.parse_args()

    photos = [path for path in sorted(args.photos.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    photos = [path for path in photos if decodes(path)]
    rng = random.Random(0)
    made = [joined(rng.sample(photos, 4)) for _ in range(args.images)]
    print(f"{'filter':18}{'decode':>9}{'in all':>9}{'stated':>9}   milliseconds of one core")
    for name, item in all_filters().items():
        if item.raster is None or (args.only and name not in args.only.split(",")):
            continue
        milliseconds(item, made[0], made[1])  # what is loaded once is not counted
        found = [milliseconds(item, data, other) for data, other in zip(made, made[1:] + made[:1])]
        decode, both = (statistics.median(times) for times in zip(*found))
        stated = "-" if item.cost is None else f"{item.cost:g}"
        print(f"{name:18}{decode:9.1f}{both:9.1f}{stated:>9}", flush=True)


if __name__ == "__main__":
    main()
