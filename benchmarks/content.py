#!/usr/bin/env python3
"""How well the detectors of `edit filter` find what is planted into photographs, and what they cost.

usage: content.py --photos DIR [--only NAME,...] [--limit N] [--json FILE]

The photographs under DIR are split into a tuning half and a test half; no photograph is in both. Each half gives
positives (one per photograph: the kind, size, place, contrast and font vary, and JPEG comes after planting) and clean
images (each photograph whole, and a crop of it). About a third is enlarged twice first. The table is of the test
half at the bound that the filter's help names; `best` is the bound with the highest F1 on the tuning half. Precision
is that of a set with one positive to two clean images; the false alarm rate says what any other mix would give.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from edittools.filter import all_filters
from edittools.stream import codec

ImageArray = Image.Image
FACES = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSansMono.ttf",
    "DejaVuSansCondensed-Bold.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSans-Oblique.ttf",
)  # fmt: skip
WORDS = (
    "sample preview stock photo copyright limited edition summer sale only today fresh coffee studio north street "
    "news market garden original design follow subscribe breaking weather report best price new season collection"
).split()


# ---------------------------------------------------------------- what is planted


def text(rng: random.Random, least: int = 1, most: int = 4) -> str:
    words = " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))
    return rng.choice([str.title, str.upper, str.lower, str.capitalize])(words)


def font(rng: random.Random, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(rng.choice(FACES), max(9, round(size)))


def lettering(words: str, face: ImageFont.FreeTypeFont, outline: int = 0) -> ImageArray:
    """The words as a mask, cut to their box."""
    box = face.getbbox(words, stroke_width=outline)
    mask = Image.new("L", (math.ceil(box[2] - box[0]) + 2, math.ceil(box[3] - box[1]) + 2))
    ImageDraw.Draw(mask).text((1 - box[0], 1 - box[1]), words, 255, font=face, stroke_width=outline)
    return mask


def blend(image: ImageArray, mask: ImageArray, at: tuple[int, int], colour: tuple[int, int, int], alpha: float) -> None:
    image.paste(colour, at, mask.point(lambda v: round(v * alpha)))


def contrasting(image: ImageArray, box: tuple[int, int, int, int], rng: random.Random) -> tuple[int, int, int]:
    """White on dark and black on light, at times tinted: people choose a colour that can be read."""
    x0, y0, x1, y1 = box
    part = image.crop((max(0, x0), max(0, y0), min(image.width, x1), min(image.height, y1)))
    dark = np.asarray(part.convert("L")).mean() < 140
    tint = rng.choice([0, 0, 0, 40])
    base = (255, 255, 255 - tint) if dark else (tint, 0, 0)
    return base


def code(image: ImageArray, rng: random.Random, others: list[ImageArray]) -> ImageArray:
    """A QR code or barcode: pasted with a quiet zone, at times turned, soft, or of low contrast."""
    import zxingcpp

    kind = rng.choice(["QRCode", "QRCode", "QRCode", "Aztec", "DataMatrix", "PDF417", "EAN13", "UPCA", "Code128"])
    number = "".join(rng.choice("0123456789") for _ in range(12))
    content = {"EAN13": number, "UPCA": number[:11]}.get(kind, f"https://example.org/{text(rng).replace(' ', '/')}")
    if kind == "Code128":
        content = number
    made = zxingcpp.create_barcode(content, zxingcpp.barcode_format_from_str(kind))
    matrix = Image.fromarray(np.array(made.to_image(scale=4)))
    share = rng.uniform(0.18, 0.5) if kind in ("QRCode", "Aztec", "DataMatrix") else rng.uniform(0.3, 0.6)
    width = round(min(image.size) * share)
    matrix = matrix.resize((width, max(8, round(width * matrix.height / matrix.width))), Image.Resampling.LANCZOS)
    ink, paper = rng.choice([(0, 255), (0, 255), (40, 220), (70, 200)])
    matrix = matrix.point(lambda v: ink + (paper - ink) * v // 255)
    quiet = max(4, width // 12)
    card = Image.new("L", (matrix.width + 2 * quiet, matrix.height + 2 * quiet), paper)
    card.paste(matrix, (quiet, quiet))
    mask = Image.new("L", card.size, 255)
    angle = rng.choice([0, 0, 0, rng.uniform(-25, 25), 90])
    card, mask = (item.rotate(angle, Image.Resampling.BICUBIC, expand=True) for item in (card, mask))
    if rng.random() < 0.3:
        card = card.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    at = place(image, card.size, rng)
    image.paste(card.convert("RGB"), at, mask)
    return image


def place(image: ImageArray, size: tuple[int, int], rng: random.Random) -> tuple[int, int]:
    return tuple(rng.randint(0, max(0, side - own)) for side, own in zip(image.size, size))  # type: ignore[return-value]


def overlay_text(image: ImageArray, rng: random.Random, others: list[ImageArray]) -> ImageArray:
    """A headline, caption or banner of one to three lines; plain, outlined, or on a bar."""
    height = min(image.size) * rng.uniform(0.05, 0.13)
    style = rng.choice(["plain", "outline", "bar"])
    lines = rng.randint(1, 3)
    y = rng.uniform(0.04, 0.96 - 1.5 * lines * height / image.height) * image.height
    for _ in range(lines):
        face = font(rng, height)
        words = text(rng, 2, 5)
        while face.getlength(words) > image.width * 0.95 and " " in words:
            words = words.rsplit(" ", 1)[0]
        mask = lettering(words, face)
        x = rng.choice([round(image.width * 0.03), (image.width - mask.width) // 2])
        x, line = max(0, x), min(round(y), image.height - mask.height)
        box = (x, line, x + mask.width, line + mask.height)
        if style == "bar":
            dark = rng.random() < 0.5
            shade = (20, 20, 20) if dark else (240, 240, 240)
            bar = Image.new("L", (image.width, mask.height + round(height * 0.7)), 255)
            blend(image, bar, (0, line - round(height * 0.35)), shade, rng.uniform(0.6, 1))
            blend(image, mask, (x, line), (255, 255, 255) if dark else (0, 0, 0), 1)
        else:
            colour = contrasting(image, box, rng)
            if style == "outline":
                around = lettering(words, face, outline=max(1, round(height / 12)))
                blend(image, around, (x, line), tuple(255 - v for v in colour), 1)  # type: ignore[arg-type]
            blend(image, mask, (x, line), colour, rng.uniform(0.8, 1))
        y += height * 1.5
    return image


def tiled_mark(image: ImageArray, rng: random.Random, others: list[ImageArray]) -> ImageArray:
    """Half-transparent words or a logo, repeated over the whole image, often slanted."""
    unit = min(image.size)
    if rng.random() < 0.75:
        mask = lettering(text(rng, 1, 2), font(rng, unit * rng.uniform(0.04, 0.09)))
    else:
        mask = logo(rng, round(unit * rng.uniform(0.1, 0.2)))
    gap_x, gap_y = (round(unit * rng.uniform(0.04, 0.15)) for _ in range(2))
    side = math.ceil(math.hypot(*image.size)) + 2
    layer = Image.new("L", (side, side))
    staggered = rng.random() < 0.5
    for row, y in enumerate(range(0, side, mask.height + gap_y)):
        shift = (mask.width + gap_x) // 2 if staggered and row % 2 else 0
        for x in range(-shift, side, mask.width + gap_x):
            layer.paste(mask, (x, y))
    layer = layer.rotate(rng.choice([0, 0, 30, 45, -30, rng.uniform(-45, 45)]), Image.Resampling.BICUBIC)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    layer = layer.crop((left, top, left + image.width, top + image.height))
    colour = rng.choice([(255, 255, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128)])
    blend(image, layer, (0, 0), colour, rng.uniform(0.15, 0.45))
    return image


def logo(rng: random.Random, size: int) -> ImageArray:
    """A made-up sign: a ring, a badge or a diamond with letters."""
    size = max(16, size)
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    thick = max(2, size // 12)
    kind = rng.choice(["ring", "badge", "diamond"])
    if kind == "ring":
        draw.ellipse((0, 0, size - 1, size - 1), outline=255, width=thick)
    elif kind == "badge":
        draw.rounded_rectangle((0, size // 4, size - 1, size * 3 // 4), size // 8, outline=255, width=thick)
    else:
        middle = size // 2
        draw.polygon([(middle, 0), (size - 1, middle), (middle, size - 1), (0, middle)], outline=255, width=thick)
    letters = lettering("".join(rng.choice("ABCDEFGHKMNPRSTX") for _ in range(2)), font(rng, size * 0.35))
    mask.paste(letters, ((size - letters.width) // 2, (size - letters.height) // 2))
    return mask


def corner_mark(image: ImageArray, rng: random.Random, others: list[ImageArray]) -> ImageArray:
    """A signature, address or date in a corner, or a logo with a word beside it."""
    unit = min(image.size)
    height = unit * rng.uniform(0.03, 0.06)
    words = rng.choice(
        [
            f"© {text(rng, 1, 2)}",
            f"www.{rng.choice(WORDS)}{rng.choice(WORDS)}.com",
            f"@{rng.choice(WORDS)}_{rng.choice(WORDS)}",
            "{}/{}/{} {}:{}".format(
                *(rng.randint(*ends) for ends in [(2001, 2024), (10, 12), (10, 28), (10, 23), (10, 59)])
            ),
            text(rng, 2, 3),
        ]
    )
    mask = lettering(words, font(rng, height))
    if rng.random() < 0.25:
        sign = logo(rng, round(height * 2.2))
        joined = Image.new("L", (sign.width + 6 + mask.width, max(sign.height, mask.height)))
        joined.paste(sign, (0, (joined.height - sign.height) // 2))
        joined.paste(mask, (sign.width + 6, (joined.height - mask.height) // 2))
        mask = joined
    margin = round(unit * rng.uniform(0.015, 0.05))
    x = rng.choice([margin, image.width - margin - mask.width])
    y = rng.choice([margin, image.height - margin - mask.height])
    colour = contrasting(image, (x, y, x + mask.width, y + mask.height), rng)
    blend(image, mask, (x, y), colour, rng.uniform(0.35, 0.95))
    return image


def region(image: ImageArray, rng: random.Random, low: float = 0.12, high: float = 0.45) -> tuple[int, int, int, int]:
    width, height = (round(side * rng.uniform(low, high)) for side in image.size)
    x, y = place(image, (width, height), rng)
    return x, y, x + width, y + height


def shape(size: tuple[int, int], rng: random.Random) -> ImageArray:
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    box = (0, 0, size[0] - 1, size[1] - 1)
    draw.rectangle(box, 255) if rng.random() < 0.65 else draw.ellipse(box, 255)
    return mask


def pixelate(image: ImageArray, rng: random.Random, others: list[ImageArray]) -> ImageArray:
    """One to three regions, or now and then the whole image, of squares of one colour."""
    count = rng.choice([1, 1, 1, 2, 3])
    whole = rng.random() < 0.1
    for _ in range(count):
        x0, y0, x1, y1 = (0, 0, *image.size) if whole else region(image, rng)
        part = image.crop((x0, y0, x1, y1))
        block = max(5, round(min(image.size) * rng.uniform(0.018, 0.06)))
        small = (max(2, part.width // block), max(2, part.height // block))
        blocky = part.resize(small, Image.Resampling.BOX)
        blocky = blocky.resize((small[0] * block, small[1] * block), Image.Resampling.NEAREST)
        mask = Image.new("L", blocky.size, 255) if whole or rng.random() < 0.65 else shape(blocky.size, rng)
        image.paste(blocky, (x0, y0), mask)
    return image


def masked(image: ImageArray, rng: random.Random, others: list[ImageArray]) -> ImageArray:
    """One to three regions made unreadable: filled with a colour, or blurred."""
    solid = rng.random() < 0.5
    for _ in range(rng.choice([1, 1, 2, 3])):
        x0, y0, x1, y1 = region(image, rng, 0.08, 0.4)
        mask = shape((x1 - x0, y1 - y0), rng)
        if solid:
            shade = rng.choice([(0, 0, 0), (0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 30, 30), (20, 60, 160)])
            image.paste(shade, (x0, y0), mask)
        else:
            radius = min(image.size) * rng.uniform(0.015, 0.05)
            image.paste(image.filter(ImageFilter.GaussianBlur(radius)).crop((x0, y0, x1, y1)), (x0, y0), mask)
    return image


def collage(image: ImageArray, rng: random.Random, others: list[ImageArray]) -> ImageArray:
    """Two to six panels of different photographs, with or without gutters and a frame."""
    width, height = image.size
    gap = rng.choice([0, 0, 2, 4, round(min(image.size) * rng.uniform(0.01, 0.04))])
    sheet = Image.new("RGB", image.size, rng.choice([(255, 255, 255), (255, 255, 255), (0, 0, 0), (230, 220, 200)]))
    layout = rng.choice(["row", "row", "column", "grid", "one_two", "strip"])
    cut = rng.uniform(0.35, 0.65)
    if layout == "row":
        cells = [(0, 0, cut, 1), (cut, 0, 1, 1)]
    elif layout == "column":
        cells = [(0, 0, 1, cut), (0, cut, 1, 1)]
    elif layout == "grid":
        cells = [(0, 0, cut, 0.5), (cut, 0, 1, 0.5), (0, 0.5, cut, 1), (cut, 0.5, 1, 1)]
    elif layout == "one_two":
        cells = [(0, 0, cut, 1), (cut, 0, 1, 0.5), (cut, 0.5, 1, 1)]
    else:
        cells = [(k / 3, 0, (k + 1) / 3, 1) for k in range(3)]
    frame = gap if rng.random() < 0.5 else 0
    for k, (x0, y0, x1, y1) in enumerate(cells):
        left = round(x0 * width) + (frame if x0 == 0 else gap // 2)
        top = round(y0 * height) + (frame if y0 == 0 else gap // 2)
        right = round(x1 * width) - (frame if x1 == 1 else gap - gap // 2)
        bottom = round(y1 * height) - (frame if y1 == 1 else gap - gap // 2)
        sheet.paste(fill([image, *others][k % (len(others) + 1)], right - left, bottom - top), (left, top))
    return sheet


def fill(image: ImageArray, width: int, height: int) -> ImageArray:
    """The middle of the image, scaled to cover width x height."""
    scale = max(width / image.width, height / image.height)
    size = math.ceil(image.width * scale), math.ceil(image.height * scale)
    big = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (big.width - width) // 2, (big.height - height) // 2
    return big.crop((left, top, left + width, top + height))


def bordered(image: ImageArray, rng: random.Random, others: list[ImageArray]) -> ImageArray:
    """Bars above and below, bars beside, a frame, or a bar on one side."""
    shade = rng.choice(
        [(0, 0, 0), (0, 0, 0), (255, 255, 255), (255, 255, 255), (18, 18, 18), (90, 120, 160), (200, 180, 150)]
    )
    thick = [round(side * rng.uniform(0.02, 0.2)) for side in image.size]
    kind = rng.choice(["letterbox", "pillarbox", "frame", "polaroid", "one"])
    left = right = thick[0] if kind in ("pillarbox", "frame", "polaroid") else 0
    top = bottom = thick[1] if kind in ("letterbox", "frame") else 0
    if kind == "polaroid":
        top, bottom = left, 3 * left
    if kind == "one":
        left, right, top, bottom = rng.choice(
            [(thick[0], 0, 0, 0), (0, thick[0], 0, 0), (0, 0, thick[1], 0), (0, 0, 0, thick[1])]
        )
    sheet = Image.new("RGB", (image.width + left + right, image.height + top + bottom), shade)
    sheet.paste(image, (left, top))
    return sheet


def tilted(image: ImageArray, rng: random.Random, others: list[ImageArray]) -> ImageArray:
    """Turned by 4 to 14 degrees and cut to the largest upright part."""
    return turned_by(image, rng.choice([-1, 1]) * rng.uniform(4, 14))


def turned_by(image: ImageArray, angle: float) -> ImageArray:
    """Turned counter-clockwise and cut."""
    turned = image.rotate(angle, Image.Resampling.BICUBIC, expand=False)
    sine, cosine = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    width, height = image.size
    # The largest crop of the same aspect that lies inside the turned image.
    share = 1 / max(cosine + sine * height / width, cosine + sine * width / height)
    cut_x, cut_y = round(width * (1 - share) / 2) + 1, round(height * (1 - share) / 2) + 1
    return turned.crop((cut_x, cut_y, width - cut_x, height - cut_y))


Plant = Callable[[ImageArray, random.Random, list[ImageArray]], ImageArray]
PLANTS: dict[str, Plant] = {
    "qr": code,
    "text_overlay": overlay_text,
    "watermark": tiled_mark,
    "corner_mark": corner_mark,
    "mosaic": pixelate,
    "privacy_mask": masked,
    "collage": collage,
    "borders": bordered,
    "tilt": tilted,
}


# ---------------------------------------------------------------- the sets


def prepared(path: Path, rng: random.Random) -> ImageArray:
    """The photograph; one in three enlarged twice, so that sizes differ."""
    image = Image.open(path).convert("RGB")
    if rng.random() < 1 / 3:
        image = image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS)
    return image


def encoded(image: ImageArray, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(60, 95), subsampling=rng.choice([0, 2]))
    return buffer.getvalue()


def positives(name: str, paths: list[Path]) -> list[bytes]:
    made = []
    for k, path in enumerate(paths):
        rng = random.Random(f"{name} {path.name}")
        image = prepared(path, rng)
        others = [Image.open(paths[(k + step) % len(paths)]).convert("RGB") for step in (7, 31, 64)]
        made.append(encoded(PLANTS[name](image, rng, others), rng))
    return made


def clean(paths: list[Path]) -> list[bytes]:
    made = []
    for path in paths:
        rng = random.Random(f"clean {path.name}")
        image = prepared(path, rng)
        made.append(encoded(image, rng))
        share = rng.uniform(0.6, 0.85)
        width, height = round(image.width * share), round(image.height * share)
        x, y = place(image, (width, height), rng)
        made.append(encoded(image.crop((x, y, x + width, y + height)), rng))
    return made


# ---------------------------------------------------------------- the figures


def values(name: str, images: list[bytes]) -> tuple[np.ndarray, float]:
    """The measure of every image, and its CPU milliseconds per image without decoding."""
    item = all_filters()[name]
    assert item.measure is not None and item.raster is not None
    found, spent = [], 0.0
    for data in images:
        pixels = codec.decode(data, item.raster)
        start = time.process_time()
        found.append(item.measure(pixels))
        spent += time.process_time() - start
    return np.array(found), 1000 * spent / max(1, len(images))


def area_under_curve(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that a positive scores higher than a clean image; ties count half."""
    order = np.sort(negative)
    below, upto = np.searchsorted(order, positive, "left"), np.searchsorted(order, positive, "right")
    return float((below + upto).mean() / 2 / len(negative))


def rates(positive: np.ndarray, negative: np.ndarray, bound: float) -> dict[str, float]:
    hits, alarms = int((positive > bound).sum()), int((negative > bound).sum())
    precision = hits / (hits + alarms) if hits + alarms else 1.0
    return {"precision": precision, "recall": hits / len(positive), "false_alarms": alarms / len(negative)}


def best_bound(positive: np.ndarray, negative: np.ndarray) -> float:
    """The bound with the highest F1."""

    def f1(bound: float) -> float:
        found = rates(positive, negative, bound)
        total = found["precision"] + found["recall"]
        return 2 * found["precision"] * found["recall"] / total if total else 0.0

    return float(max(np.unique(np.concatenate([positive, negative])), key=f1))


def bound_of(name: str) -> float:
    import importlib

    return float(importlib.import_module(f"edittools.filter.filters.{name}").BOUND)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--only", default=",".join(PLANTS), help="names, with commas")
    parser.add_argument("--limit", type=int, default=10_000, help="photographs of each half")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, help="also write the positives of the tuning half here, to look at")
    parser.add_argument("--half", choices=["tuning", "both"], default="both")
    args = parser.parse_args()

    paths = sorted(path for path in args.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    random.Random(0).shuffle(paths)
    halves = {"tuning": paths[::2][: args.limit], "test": paths[1::2][: args.limit]}
    if args.half == "tuning":
        del halves["test"]
    backgrounds = {half: clean(members) for half, members in halves.items()}
    report = {}
    print(f"{'filter':14}{'bound':>9}{'precision':>11}{'recall':>8}{'alarms':>8}{'AUC':>7}{'best':>9}{'ms':>8}")
    for name in args.only.split(","):
        found = {}
        for half, members in halves.items():
            planted = positives(name, members)
            if args.save and half == "tuning":
                args.save.mkdir(parents=True, exist_ok=True)
                for k, data in enumerate(planted[:24]):
                    (args.save / f"{name}_{k:02d}.jpg").write_bytes(data)
            (high, _), (low, cost) = values(name, planted), values(name, backgrounds[half])
            found[half] = (high, low, cost)
        high, low, cost = found.get("test", found["tuning"])
        bound = bound_of(name)
        row = rates(high, low, bound) | {
            "bound": bound,
            "auc": area_under_curve(high, low),
            "best_bound_of_tuning_half": best_bound(*found["tuning"][:2]),
            "ms_per_image": cost,
            "positives": len(high),
            "clean": len(low),
            "photographs": len(halves.get("test", halves["tuning"])),
        }
        report[name] = row
        print(
            f"{name:14}{bound:9.4g}{row['precision']:11.3f}{row['recall']:8.3f}{row['false_alarms']:8.3f}"
            f"{row['auc']:7.3f}{row['best_bound_of_tuning_half']:9.4g}{cost:8.1f}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
