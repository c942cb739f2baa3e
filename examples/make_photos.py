#!/usr/bin/env python3
"""Photographs to ground and paint, out of those that scikit-image brings along, and frames of a clip.

usage: make_photos.py OUT [--clip FILE] [--seed S]

A dozen crops of a person, and as many of a printed page, half of them with its heading; some mirrored (the person),
none recoloured. With --clip, frames of it three times as large. Beside them a cat, a cup of coffee, a rocket:
photographs in which offline detectors find nothing, so that what is refused is seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

PEOPLE, PAGES, FRAMES = 12, 14, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(told.seed)
    person = Image.fromarray(skimage.data.astronaut()[:420])
    for k in range(PEOPLE):
        left, top = rng.integers(0, 40, 2).tolist()
        right, bottom = 512 - int(rng.integers(60, 120)), 420 - int(rng.integers(0, 120))
        crop = person.crop((left, top, right, bottom))
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if k % 2 else crop
        crop.save(told.out / f"person-{k:02}.png")
    page = Image.fromarray(skimage.data.page()).convert("RGB")
    for k in range(PAGES):
        top = int(rng.integers(0, 8)) if k % 2 else int(rng.integers(40, 80))
        high = int(rng.integers(120, 170) if k % 2 else rng.integers(60, 111))  # a heading is little of its page
        crop = page.crop((int(rng.integers(0, 6)), top, 384, top + high))
        scale = rng.uniform(1.5, 2.2)
        size = round(crop.width * scale), round(crop.height * scale)
        crop.resize(size, Image.Resampling.BICUBIC).save(told.out / f"page-{k:02}.png")
    for name in ("chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(told.out / f"{name}.png")
    if told.clip is not None:
        save_frames(told.clip, told.out)


def save_frames(clip: Path, out: Path) -> None:
    """Frames at even distances, the first and last of which are not those of the clip."""
    import av

    with av.open(str(clip)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    for k, place in enumerate(np.linspace(0, len(frames) - 1, FRAMES + 2).round().astype(int)[1:-1].tolist()):
        size = 3 * frames[place].width, 3 * frames[place].height
        frames[place].resize(size, Image.Resampling.BICUBIC).save(out / f"frame-{k:02}.png")


if __name__ == "__main__":
    main()
