"""Shapes that images are cut to, so that rows fit into one batch (FireRed 3.2).

FireRed's eq. 1 as printed compares areas only and cannot choose an aspect ratio. Here the cropped share after a
resize that covers the shape is minimised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Shape = tuple[int, int]  # height, width in pixels

SLACK = 0.06  # a shape may have so much less than the wanted area, to come nearer to its ratio
NEARBY = 0.15  # of areas whose logarithms differ by less, the ratio decides
SAME_SCENE = 0.06  # of aspect ratios' logarithms: sides that were rounded to 16 or 32 pixels differ so much


def shapes(ratios: Sequence[str], sides: Sequence[int], multiple: int) -> list[Shape]:
    """All shapes for W:H ratios and their inverses, for areas from sides[1]² down to sides[0]², the largest first.

    The areas between are evenly spaced, each at least half the one before. Height and width are multiples of
    `multiple`; no shape has a larger area than asked for, so that a budget of tokens that is made for the area fits.
    """
    smallest, largest = sides[0] ** 2, sides[1] ** 2
    steps = math.ceil(math.log2(largest / smallest))
    areas = [round(largest * (smallest / largest) ** (k / max(1, steps))) for k in range(steps + 1)]
    both = []
    for ratio in ratios:
        w, h = map(int, ratio.split(":"))
        both += [w / h] if w == h else [w / h, h / w]
    return list(dict.fromkeys(nearest(wanted, area, multiple) for area in areas for wanted in both))


def nearest(ratio: float, area: int, multiple: int) -> Shape:
    """The shape of a ratio W/H with at most `area` pixels: the best ratio of those with at most SLACK less.

    Where a network's patches are so large that no such shape is near the ratio, one with a smaller area.
    """
    units = max(1, area // multiple**2)
    best = (math.inf, 0, (1, 1))
    for rows in range(1, units + 1):
        fewest = math.ceil(units * (1 - SLACK) / rows)
        for columns in {int(rows * ratio), int(rows * ratio) + 1, fewest, units // rows}:
            used = rows * columns
            if columns < 1 or used > units:
                continue
            off = abs(math.log(columns / rows / ratio))
            lost = max(0.0, 1 - SLACK - used / units)
            best = min(best, (off + 10 * lost, -used, (rows, columns)))
    rows, columns = best[2]
    return rows * multiple, columns * multiple


def cropped(sizes: np.ndarray, choices: Sequence[Shape]) -> np.ndarray:
    """The share cut away from images (N, 2) height and width by a cover of each shape: (N, S)."""
    return cropped_by(sizes[:, None], np.array(choices)[None])


def cropped_by(sizes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """The share cut away from images (..., 2) by a cover of shapes (..., 2)."""
    # what a cover keeps is the ratio of the two aspect ratios, the smaller over the larger
    ratio = np.log(sizes[..., 1] / sizes[..., 0]) - np.log(shapes[..., 1] / shapes[..., 0])
    return -np.expm1(-np.abs(ratio))


def same_scene(sizes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Do images (..., 2) have about the aspect ratios of targets (..., 2), so that both show the same scene?"""
    ratios, wanted = (np.log(x[..., 0] / x[..., 1]) for x in (sizes, targets))
    return np.abs(ratios - wanted) < SAME_SCENE


def choose(sizes: np.ndarray, choices: Sequence[Shape]) -> np.ndarray:
    """The shape of every image (N, 2): of those next to its own area the one that crops least. (N,) numbers.

    An image larger than all shapes gets the largest area, a smaller one the smallest: it is enlarged to that.
    """
    areas = np.array([h * w for h, w in choices], dtype=float)
    own = np.clip(sizes.astype(float).prod(1), areas.min(), areas.max())[:, None]
    distance = np.abs(np.log(own / areas))
    nearby = distance <= distance.min(1, keepdims=True) + NEARBY
    return np.where(nearby, cropped(sizes, choices), np.inf).argmin(1)


def step1x_shape(height: int, width: int, side: int) -> Shape:
    """About side² pixels of an image's aspect ratio, sides cut to multiples of 16: Step1X-Edit's size levels."""
    ratio = width / height
    if width > height:
        w = math.ceil(math.sqrt(side * side * ratio))
        h = math.ceil(w / ratio)
    else:
        h = math.ceil(math.sqrt(side * side / ratio))
        w = math.ceil(h * ratio)
    return floor(h, 16), floor(w, 16)


def floor(size: int, multiple: int) -> int:
    """The largest multiple that is not above `size`, and one at least."""
    return max(1, size // multiple) * multiple
