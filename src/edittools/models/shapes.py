"""Shapes that pictures are cut to, so that rows fit into one batch [SPEC T3, FireRed 3.2].

FireRed's eq. 1 as printed compares areas only and cannot choose an aspect ratio. Here the cropped share after a
resize that covers the shape is minimised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Shape = tuple[int, int]  # height, width in pixels

SLACK = 0.06  # a shape may have so much less than the wanted area, to come nearer to its ratio
STEP = math.sqrt(2)  # between the sides of two sizes, where pictures keep their own size


def shapes(ratios: Sequence[str], sides: Sequence[int], multiple: int) -> list[Shape]:
    """All shapes for W:H ratios and their inverses, for areas from sides[0]² to sides[1]², the largest first.

    Areas halve from one to the next.

    Height and width are multiples of `multiple`; no shape has a larger area than asked for, so that a budget of tokens
    that is made for the area fits.
    """
    areas = [sides[1] ** 2]
    while areas[-1] / STEP**2 >= sides[0] ** 2 * 0.999:
        areas.append(int(areas[-1] / STEP**2))
    both = []
    for ratio in ratios:
        w, h = map(int, ratio.split(":"))
        both += [w / h] if w == h else [w / h, h / w]
    found: list[Shape] = []
    for area in areas:
        for wanted in both:
            shape = nearest(wanted, area, multiple)
            if shape not in found:
                found.append(shape)
    return found


def nearest(ratio: float, area: int, multiple: int) -> Shape:
    """The shape of a ratio W/H with at most `area` pixels and at most SLACK less: the best ratio, then the largest."""
    units = max(1, area // multiple**2)
    best = (math.inf, 0, (1, 1))
    for rows in range(1, units + 1):
        for columns in {int(rows * ratio), int(rows * ratio) + 1, units // rows}:
            used = rows * columns
            if columns < 1 or used > units:
                continue
            off = abs(math.log(columns / rows / ratio))
            # the area counts only once it is too small by more than the slack
            lost = max(0.0, 1 - SLACK - used / units)
            best = min(best, (off + 10 * lost, -used, (rows, columns)))
    rows, columns = best[2]
    return rows * multiple, columns * multiple


def cropped(sizes: np.ndarray, choices: Sequence[Shape]) -> np.ndarray:
    """The share cut away from pictures (N, 2) height and width by a cover of each shape: (N, S)."""
    ratio = np.log(sizes[:, 1] / sizes[:, 0])[:, None]
    wanted = np.log([w / h for h, w in choices])[None]
    # what a cover keeps is the ratio of the two aspect ratios, the smaller over the larger
    return -np.expm1(-np.abs(ratio - wanted))


def choose(sizes: np.ndarray, choices: Sequence[Shape]) -> np.ndarray:
    """The shape of every picture (N, 2): of those next to its own area the one that crops least. (N,) numbers.

    A picture larger than all shapes gets the largest area, a smaller one the smallest: it is enlarged to that.
    """
    areas = np.array([h * w for h, w in choices], dtype=float)
    own = sizes.prod(1).astype(float)[:, None]
    distance = np.abs(np.log(np.clip(own, areas.min(), areas.max()) / areas[None]))
    nearby = distance <= distance.min(1, keepdims=True) + np.log(1 / (1 - SLACK)) + 1e-9
    return np.where(nearby, cropped(sizes, choices), np.inf).argmin(1)
