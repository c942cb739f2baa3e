"""Anchors of interfaces on an image: buttons and cards, with hard edges and real letters."""

from collections.abc import Callable

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools
from edittools.synth.lettering import check_room, font_path, letters, place_box, stamp
from edittools.synth.palette import Box, legible, pick_color, rgb
from edittools.synth.shapes import PLACES

LABELS = ("BUY", "PLAY", "LOGIN", "SHARE", "START", "NEXT", "MENU", "SEND", "MORE", "HELP", "BACK", "SAVE")
TITLES = ("NEWS", "OFFER", "MENU", "EVENTS", "PRICES", "TEAM", "WEATHER", "TICKETS", "GALLERY", "CONTACT")
CARD_PLACES = ("top_left", "top_right", "left", "center", "right", "bottom_left", "bottom_right")
LEAST = 96  # pixels of the short side: below it letters are 5 pixels high or less, and corners are not round


def panel(image: np.ndarray, box: Box, color: str) -> np.ndarray:
    """A copy with a plain rectangle whose corners are rounded by a quarter of its shorter side."""
    x0, y0, x1, y1 = box
    wide, high = x1 - x0, y1 - y0
    radius = min(wide, high) // 4
    # how far each row and column lies inside a corner's square, twice, so that integers are enough
    across = np.maximum(2 * radius - 1 - 2 * np.minimum(np.arange(wide), np.arange(wide)[::-1]), 0)
    down = np.maximum(2 * radius - 1 - 2 * np.minimum(np.arange(high), np.arange(high)[::-1]), 0)
    inside = across[None, :] ** 2 + down[:, None] ** 2 <= 4 * radius * radius
    result = image.copy()
    result[y0:y1, x0:x1][inside] = rgb(color)
    return result


def _pick(
    image: np.ndarray,
    rng: np.random.Generator,
    tools: Tools,
    box: Callable[[str, int, int], Box],
    places: tuple[str, ...],
    texts: tuple[str, ...],
) -> dict:
    """Draw place, colours and text of a panel that stands out from the image."""
    check_room(image, LEAST)
    font_path("latin", tools)
    place = draw(rng, places)
    plate = pick_color(image, box(place, *image.shape[:2]), rng)
    return {"place": place, "plate_color": plate, "color": draw(rng, legible(plate)), "text": draw(rng, texts)}


# ------------------------------------------------------------------ buttons


def button_box(place: str, height: int, width: int) -> Box:
    """Three tenths of the short side wide, a ninth of it high: buttons at two of the nine places do not touch."""
    side = min(height, width)
    return place_box(place, side * 3 // 10, side // 9, height, width)


def pick_button(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    """Draw place, colours and label of a button that stands out from the image."""
    return _pick(image, rng, tools, button_box, PLACES, LABELS)


def draw_button(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    """A copy with the button of `pick_button`."""
    x0, y0, x1, y1 = box = button_box(slots["place"], *image.shape[:2])
    wide, high = x1 - x0, y1 - y0
    label = letters(slots["text"], font_path("latin", tools), wide * 4 // 5, high * 3 // 5)
    left, top = x0 + (wide - label.shape[1]) // 2, y0 + (high - label.shape[0]) // 2
    return stamp(panel(image, box, slots["plate_color"]), label, left, top, slots["color"])


# ------------------------------------------------------------------ cards


def card_box(place: str, height: int, width: int) -> Box:
    """Two fifths of the short side wide, a third of it high."""
    side = min(height, width)
    return place_box(place, side * 2 // 5, side // 3, height, width)


def pick_card(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    """Draw place, colours and title of a card; the color of its letters is that of its lines."""
    return _pick(image, rng, tools, card_box, CARD_PLACES, TITLES)


def draw_card(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    """A copy with the card of `pick_card`: its title, and below it three lines that stand for a text."""
    x0, y0, x1, y1 = box = card_box(slots["place"], *image.shape[:2])
    wide, high = x1 - x0, y1 - y0
    gap, thick = wide // 8, max(1, high // 16)
    result = panel(image, box, slots["plate_color"])
    for line, share in enumerate((4, 4, 3)):  # fourths of the room between the margins
        top = y0 + high // 2 + line * high // 7
        result[top : top + thick, x0 + gap : x0 + gap + (wide - 2 * gap) * share // 4] = rgb(slots["color"])
    title = letters(slots["text"], font_path("latin", tools), wide - 2 * gap, high // 5)
    return stamp(result, title, x0 + gap, y0 + high // 6, slots["color"])
