#!/usr/bin/env python3
"""Make a small crawl to try the pipeline on, out of photographs.

usage: make_crawl.py OUT [--photos FOLDER] [--crops N] [--heldout N] [--seed S]

OUT/crawl    crops of training photographs, with what a real crawl has: copies (exact, resized, mirrored,
             recompressed), truncated and empty files, pages of HTML named .jpg, rotated and tiny images
OUT/heldout  crops of photographs that no training crop comes from

Without --photos, the photographs are those that scikit-image and scikit-learn bring along; of a FOLDER, every
tenth photograph is held out, at least four and at most one per held-out crop. Files that cannot be opened are named
and left out. The bundled ones are few, so their crops also vary in colour
(order and gain of the channels), which stands in for the variety of a real crawl.
"""

from __future__ import annotations

import argparse
import functools
import io
import sys
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# Name and weight: images without texture or with too much of it teach less.
TRAINING = {
    "astronaut.png": 4,
    "flower.jpg": 4,
    "motorcycle_left.png": 4,
    "motorcycle_right.png": 2,
    "ihc.png": 1.5,
    "camera.png": 1.5,
    "hubble_deep_field.jpg": 1,
    "retina.jpg": 1,
    "coins.png": 1,
    "gravel.png": 0.5,
    "brick.png": 0.5,
    "grass.png": 0.5,
    "moon.png": 0.5,
}
HELD_OUT = ["coffee.png", "china.jpg", "chelsea.png", "rocket.jpg"]
ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}
SHORT_SIDE = 1280  # pixels of it that a crop can use: 30% are then three times the largest crop


def bundled() -> tuple[list[tuple[Path, float]], list[Path]]:
    """(training photographs and weights, held-out photographs) of scikit-image and scikit-learn."""
    import skimage.data
    import sklearn.datasets

    folders = [Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images"]

    def find(name: str) -> Path:
        return next(folder / name for folder in folders if (folder / name).exists())

    return [(find(name), weight) for name, weight in TRAINING.items()], [find(name) for name in HELD_OUT]


def from_folder(folder: Path, crops: int) -> tuple[list[tuple[Path, float]], list[Path]]:
    """The same for a folder of the user's, of which `crops` held-out crops are wanted."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if len(found) < 8:
        raise SystemExit(f"{folder}: {len(found)} photographs; at least 8 are needed, four of them to hold out")
    every = max(2, min(10, len(found) // 4))
    tenth = found[::every]
    others = [path for path in found if path not in set(tenth)]
    readable = (path for path in (*tenth, *others) if photograph(path) is not None)
    held = set(islice(readable, max(4, min(crops, len(tenth)))))
    if len(held) < 4:
        raise SystemExit(f"{folder}: {len(held)} photographs that can be opened; at least 8 are needed")
    return [(path, 1.0) for path in found if path not in held], sorted(held)


@functools.lru_cache(maxsize=len(TRAINING))
def photograph(path: Path) -> Image.Image | None:
    """The photograph upright, large ones smaller; None, and a line on stderr, where it cannot be opened."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (SHORT_SIDE, SHORT_SIDE))  # of a JPEG file not more pixels than needed
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        print(f"{path}: left out: {error}", file=sys.stderr)
        return None
    factor = min(upright.size) // SHORT_SIDE
    return upright.reduce(factor) if factor > 1 else upright


def crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random square of 30% to 100% of the short side, at 72 to 128 pixels."""
    width, height = photo.size
    side = max(1, int(min(width, height) * rng.uniform(0.3, 1.0)))
    left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    size = int(rng.integers(72, 129))
    box = (left, top, left + side, top + side)
    return photo.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image with its channels in another order (half the time) and other gains."""
    pixels = np.asarray(image).astype(np.float64)
    if rng.random() < 0.5:
        pixels = pixels[:, :, rng.permutation(3)]
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    gains = rng.uniform(0.7, 1.3, 3)
    return Image.fromarray(np.clip(pixels * gains, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 92, **extra: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, **extra)
    return buffer.getvalue()


def plant(folder: Path, files: list[Path], rng: np.random.Generator) -> None:
    """What a crawl has besides good images."""
    chosen = [files[k] for k in rng.choice(len(files), 40, replace=False)]
    for k, path in enumerate(chosen[:10]):
        (folder / f"copy-{k}.jpg").write_bytes(path.read_bytes())
    for k, path in enumerate(chosen[10:20]):
        image = Image.open(path)
        (folder / f"small-copy-{k}.jpg").write_bytes(jpeg(image.resize((66, 66), Image.Resampling.LANCZOS), 80))
    for k, path in enumerate(chosen[20:26]):
        (folder / f"mirrored-{k}.jpg").write_bytes(jpeg(ImageOps.mirror(Image.open(path)), 70))
    for k, path in enumerate(chosen[26:30]):
        data = path.read_bytes()
        (folder / f"truncated-{k}.jpg").write_bytes(data[: len(data) // 2])
    for k, path in enumerate(chosen[30:34]):
        exif = Image.Exif()
        exif[0x0112] = 6  # turn right to see it upright
        (folder / f"rotated-{k}.jpg").write_bytes(jpeg(Image.open(path).rotate(90, expand=True), exif=exif))
    for k, path in enumerate(chosen[34:40]):
        (folder / f"tiny-{k}.jpg").write_bytes(jpeg(Image.open(path).resize((24, 24))))
    (folder / "not-found.jpg").write_text("<!DOCTYPE html><title>404 Not Found</title>\n")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.bin").write_bytes(bytes(range(256)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--crops", type=int, default=4200)
    parser.add_argument("--heldout", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    training, held = from_folder(args.photos, args.heldout) if args.photos else bundled()
    rng = np.random.default_rng(args.seed)
    for name in ("crawl", "heldout"):
        (args.out / name).mkdir(parents=True, exist_ok=True)
    weights = np.array([weight for _, weight in training])
    files: list[Path] = []
    while len(files) < args.crops:
        k = len(files)
        # Of a folder one photograph after the other, so that each is opened once.
        chosen = k * len(training) // args.crops if args.photos else rng.choice(len(weights), p=weights / weights.sum())
        photo = photograph(training[chosen][0])
        if photo is None:
            del training[chosen]
            if not training:
                raise SystemExit(f"{args.photos}: no photograph is left to train on")
            continue
        image = crop(photo, rng)
        path = args.out / "crawl" / f"{k:05d}.jpg"
        path.write_bytes(jpeg(image if args.photos else recoloured(image, rng)))
        files.append(path)
    plant(args.out / "crawl", files, rng)
    for k in range(args.heldout):
        path = held[k % len(held)]
        photo = photograph(path)
        assert photo is not None
        (args.out / "heldout" / f"{path.stem}-{k:03d}.jpg").write_bytes(jpeg(crop(photo, rng)))


if __name__ == "__main__":
    main()
