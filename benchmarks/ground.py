#!/usr/bin/env python3
"""What `edit ground` and `edit synth --painter` do offline, on scenes whose truth is known, and what they cost.

usage: ground.py [--photos DIR] [--scenes N] [--only PART,...] [--json FILE]

Shapes are planted in photographs: their boxes, their masks and what is behind them are exact. `segmenter` cuts them out
of their boxes (IoU): shapes of one colour, which is easy, and shapes cut out of another photograph; `removal` paints
over their exact masks (which share the painters accept, and PSNR inside of those); `alignment` moves photographs by
known parts of a pixel, made by shrinking a larger picture from another corner; `cuts` joins pans over photographs to
clips; `text` writes words on them, has one replaced, and reads it again (slow: 2 calls of OCR per scene, --texts of
them); `paint` times the geometry about a painter at 1.5 megapixels; `speed` finds faces and people in photographs of
1.5 megapixels, cuts them out and draws edges (`edit ground --detector face,person --segmenter grabcut --maps canny`),
counts how often an image is decoded and a model loaded, and times each part. Without --photos, the photographs of
scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from edittools.ground import Found
from edittools.metrics.alignment import alignment
from edittools.metrics.pixels import psnr
from edittools.seeded import stream
from edittools.synth.palette import rgb
from edittools.synth.shapes import box, draw_thing, pick_thing, stencil

SIDE = 512  # pixels of a scene's longer side
PARTS = ("segmenter", "removal", "alignment", "cuts", "text", "paint", "speed")
Rows = list[tuple[str, str, bool | None]]  # what, the figure, whether its bar was met
SPEED_IMAGES = 40


def photographs(folder: Path | None) -> list[np.ndarray]:
    if folder is not None:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        return [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    import skimage.data
    import sklearn.datasets

    names = ("astronaut", "chelsea", "coffee", "rocket", "grass", "gravel", "brick", "moon", "camera", "coins")
    found = [np.asarray(Image.fromarray(getattr(skimage.data, name)()).convert("RGB")) for name in names]
    return found + [sklearn.datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]


def scenes(photos: list[np.ndarray], number: int, textured: bool = False) -> Any:
    """Crops of the photographs with one shape each: (bare, with the shape, its mask, its box as shares). A `textured`
    shape is cut out of another photograph."""
    for k in range(number):
        rng, photo = stream("scene", k), photos[k % len(photos)]
        height, width = photo.shape[:2]
        share = rng.uniform(0.6, 1.0)
        size = max(96, int(width * share)), max(96, int(height * share))
        left, top = int(rng.integers(max(1, width - size[0] + 1))), int(rng.integers(max(1, height - size[1] + 1)))
        crop = Image.fromarray(photo[top : top + size[1], left : left + size[0]])
        crop.thumbnail((SIDE, SIDE))
        bare = np.asarray(crop)
        thing = pick_thing(bare, rng)
        x0, y0, x1, y1 = box(thing["place"], thing["size"], *bare.shape[:2])
        mask = np.zeros(bare.shape[:2], bool)
        mask[y0:y1, x0:x1] = stencil(thing["shape"], x1 - x0)
        shares = (x0 / bare.shape[1], y0 / bare.shape[0], x1 / bare.shape[1], y1 / bare.shape[0])
        shown = draw_thing(bare, thing)
        if textured:
            other = Image.fromarray(photos[(k + 1 + int(rng.integers(len(photos) - 1))) % len(photos)])
            texture = np.asarray(other.resize(bare.shape[1::-1]))
            shown = np.where(mask[..., None], texture, bare)
        yield bare, shown, mask, shares


def quantiles(values: list[float], form: str = ".2f") -> str:
    if not values:
        return "none"
    return " / ".join(f"{value:{form}}" for value in np.quantile(values, (0.05, 0.5, 0.95)))


def segmenter(photos: list[np.ndarray], number: int) -> Rows:
    from edittools.ground.segmenters.grabcut import load

    cut = load()
    rows: Rows = []
    for textured, name in ((False, "shapes of one colour"), (True, "shapes out of another photograph")):
        found, whole = [], []
        for _, shown, mask, shares in scenes(photos, number, textured):
            (made,) = cut.masks(shown, [Found("shape", shares)])
            found.append(0.0 if made is None else float((made & mask).sum() / (made | mask).sum()))
            height, width = mask.shape
            whole.append(float(mask.sum() / ((shares[2] - shares[0]) * width * (shares[3] - shares[1]) * height)))
        rows += [
            (f"grabcut, IoU of {number} {name}, 5 / 50 / 95%", quantiles(found), None),
            ("the IoU of the box itself", quantiles(whole), None),
            ("share of them with an IoU of .9 or more", f"{np.mean(np.array(found) >= 0.9):.2f}", None),
        ]
    return rows


def removal(photos: list[np.ndarray], number: int) -> Rows:
    from edittools.painters import load_painter
    from edittools.painters.canvas import Brush, canvas

    rows: Rows = []
    for name in ("inpaint", "clone"):
        painter, inside = load_painter(name), []
        for bare, shown, mask, _ in scenes(photos, number):
            ready = canvas(shown, mask, Brush(grow=4, feather=2, context=2.0), painter)
            if painter.refuses(shown, ready.alpha > 0) is None:
                (paint,) = painter.paint([ready.request()])
                if isinstance(paint, np.ndarray):
                    made = ready.paste(paint)
                    assert (made[ready.alpha == 0] == shown[ready.alpha == 0]).all()
                    inside.append(float(psnr(made, bare, mask) or 0))
        rows.append((f"{name}, PSNR inside of {len(inside)} of {number} accepted, dB", quantiles(inside, ".1f"), None))
    return rows


def moved(rng: np.random.Generator, photos: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Two views of a photograph, 8 times as fine, whose corners lie so many eighths of a pixel apart."""
    photo = Image.fromarray(photos[k % len(photos)])
    fine = photo.resize((256 * 8 + 64, 192 * 8 + 64), Image.Resampling.BICUBIC)
    x, y = (int(value) for value in rng.integers(0, 33, 2))
    views = [fine.crop((a, b, a + 256 * 8, b + 192 * 8)) for a, b in ((16, 16), (x, y))]
    first, second = (np.asarray(view.resize((256, 192), Image.Resampling.BOX)) for view in views)
    return first, second, (16 - x) / 8, (16 - y) / 8


def aligned(photos: list[np.ndarray], number: int) -> Rows:
    errors, lost = [], 0
    for k in range(number):
        first, second, x, y = moved(stream("moved", k), photos, k)
        found = alignment(first, second)
        if found is None:
            lost += 1
        else:
            errors.append(float(np.hypot(found.shift_x - x, found.shift_y - y)))
    median = float(np.median(errors)) if errors else np.inf
    return [
        (f"alignment, error of {number} shifts in pixels, 5 / 50 / 95%", quantiles(errors, ".3f"), median < 0.1),
        ("without an answer", str(lost), lost == 0),
    ]


def joined(photos: list[np.ndarray], number: int) -> Rows:
    from edittools.metrics.cuts import SIDE as LOOK
    from edittools.metrics.cuts import FrameLook, clips

    right = wrong = planted = 0
    for k in range(number):
        rng, starts, looks = stream("cuts", k), [0], []
        for shot in rng.choice(len(photos), 4, replace=False):
            photo = Image.fromarray(photos[shot]).resize((400, 320))
            x, y = rng.integers(0, 40, 2)
            dx, dy = rng.uniform(-1, 1, 2)
            for step in range(int(rng.integers(15, 31))):
                left, top = 40 + x + dx * step, 10 + y * 0.5 + dy * step * 0.5
                view = photo.crop((round(left), round(top), round(left) + LOOK, round(top) + LOOK))
                looks.append(FrameLook(np.asarray(view)))
            starts.append(len(looks))
        found = clips([b.alike(a) for a, b in itertools.pairwise(looks)])
        begins = {first - 4 for first, _ in found[1:]}  # four frames of a clip's beginning are left out
        planted += 3
        right += len(begins & set(starts[1:-1]))
        wrong += len(begins - set(starts[1:-1]))
    return [
        ("cuts found of those planted", f"{right} of {planted}", None),
        ("cuts where there are none", str(wrong), None),
    ]


def replaced(photos: list[np.ndarray], number: int) -> Rows:
    from edittools.errors import RowError
    from edittools.metrics.ocr import read_lines
    from edittools.synth.fonts import latin_fonts, load_font
    from edittools.synth.painted import text
    from edittools.synth.painting import Scene

    words, fonts = ("MARKET", "coffee", "Station", "museum", "GARDEN", "Harbour"), latin_fonts()
    accepted = read = 0
    for k in range(number):
        rng = stream("text", k)
        sheet = Image.fromarray(photos[k % len(photos)]).resize((480, 320))
        draw, colour = ImageDraw.Draw(sheet), rgb(("white", "black", "red", "blue")[k % 4])
        ground = tuple(int(v) for v in 255 - np.array(colour) // 2)
        draw.rectangle((60, 100, 420, 200), fill=ground)
        face = load_font(fonts[int(rng.integers(len(fonts)))], int(rng.integers(36, 60)))
        draw.text((80, 115), words[k % len(words)], tuple(int(v) for v in colour), font=face)
        shown = sheet.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC)
        try:
            plans = text.plans(Scene(np.asarray(shown)), rng)
        except RowError:
            plans = []
        if plans and plans[0].made is not None:
            accepted += 1
            lines = read_lines(plans[0].made)
            read += any(str(plans[0].slots["text"]).casefold() in line.text.casefold() for line in lines)
    return [
        (f"words replaced, of {number} written on photographs", str(accepted), None),
        ("of these read again as asked", f"{read} of {accepted}", None),
    ]


def painted(photos: list[np.ndarray], number: int) -> Rows:
    from edittools.painters.backends.backdrop import load
    from edittools.painters.canvas import Brush, canvas

    painter, image = load(), np.asarray(Image.fromarray(photos[0]).resize((1536, 1024)))
    mask = np.zeros(image.shape[:2], bool)
    mask[300:700, 500:1000] = True
    times = []
    for _ in range(max(3, number // 20)):
        began = time.process_time()
        ready = canvas(image, mask, Brush(8, 4, 1.5), painter)
        ready.paste(ready.request().image)
        times.append(time.process_time() - began)
    spent = float(np.median(times))
    return [
        ("geometry and paste at 1.5 megapixels, images per second of CPU", f"{1 / spent:.1f}", 1 / spent >= 20),
        ("its share of a model call of 1 s", f"{spent:.1%}", spent <= 0.05),
    ]


def speed(photos: list[np.ndarray], number: int) -> Rows:
    """Through GroundStage, as the command runs it, in one thread: 40 images in two shards."""
    from edittools.ground.config import GroundConfig
    from edittools.ground.stage import GroundStage
    from edittools.stream import codec
    from edittools.stream.run import RunOptions, open_input

    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()

    def timed(name: str, work: Any) -> Any:
        def measured(*given: Any, **told: Any) -> Any:
            began = time.process_time()
            try:
                return work(*given, **told)
            finally:
                spent[name] += time.process_time() - began
                calls[name] += 1

        return measured

    with tempfile.TemporaryDirectory() as folder:
        for k in range(SPEED_IMAGES):
            photo = Image.fromarray(photos[k % len(photos)]).resize((1536, 1024), Image.Resampling.BICUBIC)
            place = Path(folder, str(k % 2))
            place.mkdir(exist_ok=True)
            photo.save(place / f"{k}.jpg", quality=90)
        stage = GroundStage(GroundConfig(detector="face,person", segmenter="grabcut", maps="canny"))
        stage._load = timed("load", stage._load)  # type: ignore[method-assign]
        parts = [(f"detector {name}", one, "detect") for name, one in stage.detectors.items()]
        parts += [("segmenter grabcut", stage.segmenter, "masks"), ("map canny", stage.maps["canny"], "draw")]
        for name, one, method in parts:
            setattr(one, method, timed(name, getattr(one, method)))
        decode, codec.decode = codec.decode, timed("decode", codec.decode)
        try:
            source = open_input([f"{folder}/0", f"{folder}/1"], RunOptions())
            began, rows = time.process_time(), 0
            for batch in stage(source.batches(lambda shard: True)):
                rows += batch.rows.num_rows
            whole = time.process_time() - began
        finally:
            codec.decode = decode
    found: Rows = [
        (
            f"decodes of {rows} images by two detectors, a segmenter and a map",
            str(calls["decode"]),
            calls["decode"] == rows,
        ),
        ("models loaded, of four, over two shards", str(calls["load"]), calls["load"] == 4),
        ("images of 1.5 megapixels per second of CPU, all of it", f"{rows / whole:.2f}", None),
    ]
    for name in ("decode", *(name for name, _, _ in parts)):
        found.append((f"of it {name}, ms per image", f"{1000 * spent[name] / rows:.0f}", None))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    photos, rows = photographs(told.photos), []
    run = {
        "segmenter": segmenter, "removal": removal, "alignment": aligned, "cuts": joined, "text": replaced,
        "paint": painted, "speed": speed,
    }  # fmt: skip
    for part in told.only.split(","):
        number = {"text": told.texts, "cuts": max(1, told.scenes // 15)}.get(part, told.scenes)
        for what, figure, met in run[part](photos, number):
            rows.append({"part": part, "what": what, "figure": figure, "met": met})
            verdict = {None: "", True: "  met", False: "  MISSED"}[met]
            print(f"{part:10} {what:66} {figure}{verdict}", flush=True)
    if told.json is not None:
        told.json.write_text(json.dumps(rows, indent=1))
    raise SystemExit(any(row["met"] is False for row in rows))


if __name__ == "__main__":
    main()
