"""Words in an image: drawing them with a real font, and the code that text templates share."""

import numpy as np
from PIL import Image, ImageDraw

from edittools.caption.lexicon import CHINESE_TEXTS, LATIN_TEXTS
from edittools.seeded import draw
from edittools.synth.core import Inapplicable, Tools
from edittools.synth.fonts import load_font
from edittools.synth.palette import Box, legible, pick_color, pick_ink, rgb
from edittools.synth.pixels import blend, short_side
from edittools.synth.shapes import PLACES

MIN_TEXT_SIDE = 48  # pixels; on smaller images letters cannot be read
TEXTS = {"latin": LATIN_TEXTS, "chinese": CHINESE_TEXTS}
HEIGHTS = {"small": 8, "large": 5}  # letter size = short side / this


def font_path(script: str, tools: Tools) -> str:
    """The font for a script, or Inapplicable: a machine without one skips, and counts, such edits."""
    path = tools.fonts.chinese if script == "chinese" else tools.fonts.latin
    if path is None:
        raise Inapplicable("no font covers Chinese" if script == "chinese" else "no font found")
    return path


def check_room(image: np.ndarray, least: int = MIN_TEXT_SIDE) -> None:
    if short_side(image) < least:
        raise Inapplicable(f"picture is smaller than {least} px, too small for text")


def letters(text: str, path: str, width: int, height: int) -> np.ndarray:
    """Coverage of the text, uint8, cropped to the ink and no larger than width x height pixels."""
    size = height
    while True:
        font = load_font(path, size)
        x0, y0, x1, y1 = (int(edge) for edge in font.getbbox(text))
        if (x1 - x0 <= width and y1 - y0 <= height) or size <= 4:
            break
        # the ink grows with the size, so this lands at or just below the wanted one
        size = max(4, min(size - 1, size * width // max(1, x1 - x0)))
    canvas = Image.new("L", (max(1, x1 - x0), max(1, y1 - y0)))
    ImageDraw.Draw(canvas).text((-x0, -y0), text, font=font, fill=255)
    return np.asarray(canvas)


def stamp(image: np.ndarray, coverage: np.ndarray, left: int, top: int, color: str) -> np.ndarray:
    """A copy with the covered pixels painted; the coverage is cut off at the image's edges."""
    result = image.copy()
    area = result[top : top + coverage.shape[0], left : left + coverage.shape[1]]
    alpha = coverage[: area.shape[0], : area.shape[1], None]
    area[...] = blend(area, rgb(color), alpha)
    return result


def place_box(place: str, box_width: int, box_height: int, height: int, width: int) -> Box:
    """A box at one of the nine places: against the margin, or centred."""
    row, column = divmod(PLACES.index(place), 3)
    margin = min(height, width) // 24
    left = (margin, (width - box_width) // 2, width - margin - box_width)[column]
    top = (margin, (height - box_height) // 2, height - margin - box_height)[row]
    return (left, top, left + box_width, top + box_height)


def pick_text(image: np.ndarray, rng: np.random.Generator, tools: Tools, script: str) -> dict:
    """Draw text, size, place and a colour that can be read there."""
    check_room(image)
    slots = {
        "script": script,
        "text": draw(rng, TEXTS[script]),
        "size": draw(rng, tuple(HEIGHTS)),
        "place": draw(rng, PLACES),
    }
    where, _ = _layout(image, slots, font_path(script, tools))
    return slots | {"color": pick_ink(image, where, rng)}


def write_text(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    """A copy with the text of `pick_text` written on it."""
    where, coverage = _layout(image, slots, font_path(slots["script"], tools))
    return stamp(image, coverage, where[0], where[1], slots["color"])


def _layout(image: np.ndarray, slots: dict, path: str) -> tuple[Box, np.ndarray]:
    height, width = image.shape[:2]
    room = width - 2 * (min(height, width) // 24)
    coverage = letters(slots["text"], path, room, min(height, width) // HEIGHTS[slots["size"]])
    return place_box(slots["place"], coverage.shape[1], coverage.shape[0], height, width), coverage


def pick_sign(image: np.ndarray, rng: np.random.Generator, tools: Tools, script: str) -> dict:
    """Draw a sign: a plain plate of one colour with a text in another, and the text that replaces it."""
    check_room(image)
    font_path(script, tools)
    place = draw(rng, PLACES)
    plate = pick_color(image, sign_box(place, *image.shape[:2]), rng)
    old = draw(rng, TEXTS[script])
    return {
        "script": script,
        "place": place,
        "plate_color": plate,
        "color": draw(rng, legible(plate)),
        "old_text": old,
        "new_text": draw(rng, [text for text in TEXTS[script] if text != old]),
    }


def sign_box(place: str, height: int, width: int) -> Box:
    """Half the short side wide, a fifth of it high."""
    side = min(height, width)
    return place_box(place, side // 2, side // 5, height, width)


def write_sign(image: np.ndarray, slots: dict, text: str, tools: Tools) -> np.ndarray:
    """A copy with the sign; every text is fitted into the same box and centred in it."""
    x0, y0, x1, y1 = sign_box(slots["place"], *image.shape[:2])
    padding = max(2, (y1 - y0) // 8)
    path = font_path(slots["script"], tools)
    coverage = letters(text, path, x1 - x0 - 2 * padding, y1 - y0 - 2 * padding)
    result = image.copy()
    result[y0:y1, x0:x1] = rgb(slots["plate_color"])
    left = x0 + (x1 - x0 - coverage.shape[1]) // 2
    top = y0 + (y1 - y0 - coverage.shape[0]) // 2
    return stamp(result, coverage, left, top, slots["color"])
