"""Plain shapes of a named colour and size at one of nine places.

The image is cut into a 3 x 3 grid of cells and a shape is centred in its cell, which it never
leaves; edits of different cells therefore cannot touch each other. Edges are hard: a pixel either
has the shape's colour or is left alone.
"""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from edittools.seeded import draw
from edittools.synth.core import Inapplicable
from edittools.synth.palette import Box, pick_color, rgb

PLACES = ("top_left", "top", "top_right", "left", "center", "right", "bottom_left", "bottom", "bottom_right")
SHAPES = ("square", "circle", "triangle", "star", "diamond", "cross")
SIZES = {"small": 6, "medium": 4, "large": 3}  # side = short side of the image / this, rounded down
# Sides in pixels below which a shape cannot be told from a square.
MIN_SIDES = {"square": 1, "circle": 5, "triangle": 5, "diamond": 5, "cross": 6, "star": 9}

# Vertices of a five-pointed star that fills the unit box, in thousandths: x, y.
STAR = (
    (500, 0), (618, 382), (1000, 382), (691, 618), (809, 1000),
    (500, 764), (191, 1000), (309, 618), (0, 382), (382, 382),
)  # fmt: skip


def cell(place: str, height: int, width: int) -> Box:
    """The cell of a place, in pixels."""
    row, column = divmod(PLACES.index(place), 3)
    return (width * column // 3, height * row // 3, width * (column + 1) // 3, height * (row + 1) // 3)


def box(place: str, size: str, height: int, width: int) -> Box:
    """The square box of a shape, centred in the cell of its place."""
    side = side_of(size, height, width)
    x0, y0, x1, y1 = cell(place, height, width)
    left, top = x0 + (x1 - x0 - side) // 2, y0 + (y1 - y0 - side) // 2
    return (left, top, left + side, top + side)


def side_of(size: str, height: int, width: int) -> int:
    return min(height, width) // SIZES[size]


@lru_cache(maxsize=256)
def stencil(shape: str, side: int) -> np.ndarray:
    """bool side x side: the pixels of a shape that fills its box."""
    # twice the distance of pixel centres from the box's centre, so that integers are enough
    axis = 2 * np.arange(side) - (side - 1)
    dx, dy = axis[None, :], axis[:, None]
    if shape == "square":
        return np.ones((side, side), bool)
    if shape == "circle":
        return dx * dx + dy * dy <= side * side
    if shape == "diamond":
        return np.abs(dx) + np.abs(dy) <= side
    if shape == "triangle":  # point up: row y is y + 1 half pixels wide on either side
        return np.abs(dx) <= (dy + side - 1) // 2 + 1
    if shape == "cross":  # arms a third of the box wide
        return (3 * np.abs(dx) <= side) | (3 * np.abs(dy) <= side)
    if shape == "star":
        canvas = Image.new("1", (side, side))
        points = [((x * (side - 1) + 500) // 1000, (y * (side - 1) + 500) // 1000) for x, y in STAR]
        ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
        drawn = np.asarray(canvas)
        return drawn | drawn[:, ::-1]  # Pillow rounds to one side
    raise ValueError(f"unknown shape: {shape}")


def pick_shape(side: int, rng: np.random.Generator, avoid: tuple[str, ...] = ()) -> str:
    """Draw a shape that can be told from others at this side in pixels."""
    fitting = [shape for shape in SHAPES if shape not in avoid and side >= MIN_SIDES[shape]]
    if not fitting:
        raise Inapplicable("picture is too small for another shape")
    return draw(rng, fitting)


def pick_other_size(thing: dict, image: np.ndarray, rng: np.random.Generator) -> str:
    """Draw another size at which the thing's shape can still be told."""
    least = MIN_SIDES[thing["shape"]]
    fitting = [s for s in SIZES if s != thing["size"] and side_of(s, *image.shape[:2]) >= least]
    if not fitting:
        raise Inapplicable("picture is too small for another size")
    return draw(rng, fitting)


def pick_thing(image: np.ndarray, rng: np.random.Generator, places: tuple[str, ...] = PLACES) -> dict:
    """Draw the slots of one shape that stands out from the image: color, shape, size, place."""
    height, width = image.shape[:2]
    place, size = draw(rng, places), draw(rng, tuple(SIZES))
    where = box(place, size, height, width)
    return {
        "color": pick_color(image, where, rng),
        "shape": pick_shape(where[2] - where[0], rng),
        "size": size,
        "place": place,
    }


def fill(image: np.ndarray, thing: dict, paint: np.ndarray) -> np.ndarray:
    """A copy with the shape filled by `paint`: a colour (3,) or a texture (side, side, 3)."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box(thing["place"], thing["size"], height, width)
    result = image.copy()
    area = result[y0:y1, x0:x1]
    inside = stencil(thing["shape"], x1 - x0)
    area[inside] = np.broadcast_to(paint, area.shape)[inside]
    return result


def draw_thing(image: np.ndarray, thing: dict) -> np.ndarray:
    """A copy with the shape drawn in its colour."""
    return fill(image, thing, rgb(thing["color"]))
