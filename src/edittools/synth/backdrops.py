"""Backgrounds that words determine (plain, gradient, pattern) and materials; uint8 HxWx3."""

from functools import lru_cache

import numpy as np

from edittools.seeded import draw
from edittools.synth.palette import apart, rgb
from edittools.synth.pixels import blend, to_byte

BACKDROPS = ("solid", "gradient", "checker", "stripes")
MATERIALS = ("wood", "stone", "brick", "checker", "metal")
PATTERN_CELLS = 8  # squares or stripes along the shorter side


def pick_backdrop(rng: np.random.Generator, avoid: tuple[str, ...] = ()) -> dict:
    """Draw backdrop, new_color and second_color; a solid one has no second colour."""
    backdrop, color = draw(rng, BACKDROPS), draw(rng, apart(avoid))
    slots = {"backdrop": backdrop, "new_color": color}
    if backdrop != "solid":
        slots["second_color"] = draw(rng, apart((*avoid, color)))
    return slots


def paint_backdrop(slots: dict, height: int, width: int) -> np.ndarray:
    """The background that `pick_backdrop` described. A gradient runs from the top row to the bottom row."""
    first = rgb(slots["new_color"])
    if slots["backdrop"] == "solid":
        return np.broadcast_to(first, (height, width, 3)).copy()
    second = rgb(slots["second_color"])
    if slots["backdrop"] == "gradient":
        alpha = (np.arange(height) * 255 // (height - 1))[:, None, None]
        return np.broadcast_to(blend(first, second, alpha), (height, width, 3)).copy()
    side = max(1, min(height, width) // PATTERN_CELLS)
    rows, columns = np.arange(height)[:, None] // side, np.arange(width)[None, :] // side
    odd = (rows + columns if slots["backdrop"] == "checker" else rows + 0 * columns) % 2 == 1
    return np.where(odd[..., None], second, first)


@lru_cache(maxsize=64)
def material(name: str, side: int) -> np.ndarray:
    """A square texture, uint8 side x side x 3. One name always gives one texture: it has no seed."""
    y, x = np.mgrid[0:side, 0:side]
    unit = max(1, side // 8)
    if name == "checker":
        return np.where(((x // unit + y // unit) % 2 == 1)[..., None], rgb("black"), rgb("white"))
    if name == "brick":
        course = y // (unit + 1)
        mortar = (y % (unit + 1) == 0) | ((x + (course % 2) * unit) % (2 * unit + 1) == 0)
        clay = np.array((170, 70, 50)) + (_grain(side, side, 3) - 128)[..., None] // 8
        return np.where(mortar[..., None], np.uint8(205), to_byte(clay))
    if name == "wood":  # boards side by side, each with its own shade and long grain
        board = x // (2 * unit)
        streaks = np.repeat(_grain(1, side, 5), side, axis=0) - 128
        shade = streaks // 3 + (board * 29) % 23 - 11 - 60 * (x % (2 * unit) == 0)
        return to_byte(np.array((150, 95, 50)) + shade[..., None] * np.array((8, 6, 4)) // 8)
    if name == "metal":  # brushed along the rows, with a bright band across the middle
        brushed = np.repeat(_grain(side, 1, 7), side, axis=1) - 128
        band = 60 - 120 * np.abs(2 * y - side + 1) // side
        return to_byte((165 + brushed // 5 + band // 2)[..., None] + np.array((0, 2, 6)))
    if name == "stone":
        coarse = np.repeat(np.repeat(_grain(-(-side // 2), -(-side // 2), 9), 2, 0), 2, 1)[:side, :side]
        speckle = (coarse - 128) // 3 + (_grain(side, side, 11) - 128) // 6
        return to_byte(np.array((125, 122, 116)) + speckle[..., None])
    raise ValueError(f"unknown material: {name}")


def _grain(height: int, width: int, seed: int) -> np.ndarray:
    """Fixed uniform noise, int64 HxW in 0..255: part of what a material is, like its colour."""
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (height, width))
