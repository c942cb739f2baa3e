"""The named colours, and which of them can be seen on a given piece of an image."""

from collections.abc import Sequence

import numpy as np

from edittools.seeded import draw

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 not included

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 20, 20),
    "orange": (255, 140, 0),
    "yellow": (255, 225, 0),
    "green": (20, 160, 40),
    "cyan": (0, 205, 225),
    "blue": (20, 60, 220),
    "purple": (130, 30, 170),
    "pink": (255, 120, 180),
    "brown": (120, 70, 20),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
}

# Sum of the three channels' differences from the mean of what lies beneath.
VISIBLE_DISTANCE = 150
# Difference in Rec. 601 luma that letters need to be read.
LEGIBLE_DIFFERENCE = 70


def rgb(name: str) -> np.ndarray:
    """The colour as uint8, shape (3,)."""
    return np.array(COLORS[name], np.uint8)


def distance(a: str, b: str) -> int:
    """Sum of the channels' absolute differences, 0 to 765."""
    return sum(abs(x - y) for x, y in zip(COLORS[a], COLORS[b]))


def apart(avoid: tuple[str, ...]) -> list[str]:
    """The names of all colours that differ clearly from each of those to avoid."""
    return [n for n in COLORS if all(distance(n, other) >= VISIBLE_DISTANCE for other in avoid)]


def legible(name: str) -> list[str]:
    """The names of the colours in which letters can be read on a plain ground of the named one."""
    return [n for n in apart((name,)) if abs(_luma(COLORS[n]) - _luma(COLORS[name])) >= LEGIBLE_DIFFERENCE]


def pick_color(image: np.ndarray, box: Box, rng: np.random.Generator, avoid: tuple[str, ...] = ()) -> str:
    """Draw a colour that stands out from the image inside the box and from the colours to avoid."""
    mean = _mean(image, box)
    return draw(rng, [n for n in apart(avoid) if int(np.abs(mean - COLORS[n]).sum()) >= VISIBLE_DISTANCE])


def pick_ink(image: np.ndarray, box: Box, rng: np.random.Generator) -> str:
    """Draw a colour for letters inside the box: lighter or darker than the image there."""
    ground = _luma(_mean(image, box).tolist())
    return draw(rng, [n for n in COLORS if abs(_luma(COLORS[n]) - ground) >= LEGIBLE_DIFFERENCE])


def _luma(color: Sequence[int]) -> int:
    return (299 * color[0] + 587 * color[1] + 114 * color[2]) // 1000


def _mean(image: np.ndarray, box: Box) -> np.ndarray:
    """Mean colour inside the box, int64 (3,), rounded down."""
    x0, y0, x1, y1 = box
    area = image[y0:y1, x0:x1].reshape(-1, 3)
    return area.sum(axis=0, dtype=np.int64) // len(area)
