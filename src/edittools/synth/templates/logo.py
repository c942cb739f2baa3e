"""A round badge with one letter in a corner, as channels and shops put it on their images."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools
from edittools.synth.lettering import check_room, font_path, letters, place_box, stamp
from edittools.synth.palette import Box, legible, pick_color, rgb
from edittools.synth.shapes import stencil

TASK = "add"
LOCAL = True
INVERSE = "logo_remove"
CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
LETTERS = tuple("ABCDEGHKMNPRSTWXYZ")
INSTRUCTION = {
    "en": [
        (
            "{add|put|place|insert} a round <plate_color> {logo|badge} with a <color> {letter|capital} "
            '"<letter>" <place>'
        ),
        ('{stamp|mark} <picture> with a round <plate_color> {logo|badge} <place>, bearing a <color> "<letter>"'),
    ],
    "zh": [
        ("在<place>{添加|加上|放|放置}一个<plate_color>圆形{标志|徽标|徽章}，{上面|中间}是<color>字母“<letter>”"),
        "{给|为}<picture>的<place>{加上|添加}带<color>字母“<letter>”的<plate_color>圆形{标志|徽标|徽章}",
    ],
}
DETAIL = {
    "en": ['a small round <plate_color> badge with a <color> "<letter>" {is|appears} <place>'],
    "zh": ["<place>出现一个带<color>“<letter>”的<plate_color>圆形徽章"],
}
_LOGO = r"\b(?:logo|badge|emblem|stamp)"
_WITHIN = r"(?:(?!\b(?:and|then|add)\b)[^.,;])*"  # one thing that is asked for
EFFECT = {  # unless it is the logo itself that goes
    "en": (
        rf"\A(?!.*(?:\b(?:remov|eras|delet|wip|tak(?:e|ing) (?:away|off|out|the|this)\b){_WITHIN}{_LOGO}"
        rf"|{_LOGO}{_WITHIN}\b(?:gone|removed|erased|deleted|disappear))).*{_LOGO}"
    ),
    "zh": (
        r"\A(?!.*(?:(?:移除|删|去掉|擦)[^。，；]*(?:标志|徽)|(?:标志|徽)[^。，；]*(?:移除|删|去掉|擦|消失|不见)))"
        r".*(?:标志|徽)"
    ),
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    check_room(image)
    font_path("latin", tools)
    place = draw(rng, CORNERS)
    plate = pick_color(image, _box(place, image), rng)
    return {
        "place": place,
        "plate_color": plate,
        "color": draw(rng, legible(plate)),
        "letter": draw(rng, LETTERS),
    }


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    left, top, right, bottom = _box(slots["place"], image)
    side = right - left
    result = image.copy()
    result[top:bottom, left:right][stencil("circle", side)] = rgb(slots["plate_color"])
    letter = letters(slots["letter"], font_path("latin", tools), side * 3 // 5, side * 3 // 5)
    x, y = left + (side - letter.shape[1]) // 2, top + (side - letter.shape[0]) // 2
    return stamp(result, letter, x, y, slots["color"])


def _box(place: str, image: np.ndarray) -> Box:
    height, width = image.shape[:2]
    side = min(height, width) // 5
    return place_box(place, side, side, height, width)
