"""What grows in an image, by its colour alone, and how it looks in other seasons.

Of 524 photographs 140 are green enough; in 6 of 20 that were looked at green water, a copper roof or a fish counts as
leaves, which a judge has to drop (`edit judge`).
"""

import numpy as np

from edittools.synth.core import Inapplicable, Tools
from edittools.synth.pixels import blend, luma, saturation, to_byte

# What is said to stay where a season changes: snow comes and goes, and so do colours.
SEASON_KEEPS = {
    "en": ["the {place|composition} {stays|remains} the same"],
    "zh": ["{地点|构图}{保持不变|不变}"],
}
LEAST = 10  # per cent of the image: with less of it, no season can be told by it


def season_told(season: dict[str, str], others: dict[str, str]) -> dict[str, str]:
    """What tells (EFFECT) that a season comes, by words for it and for the others in each language: it is the only one
    named, or it is what the others become."""
    en, zh = season["en"], season["zh"]
    no_en, no_zh = rf"(?:(?!\b(?:{others['en']}))[^.])*", f"(?:(?!{others['zh']})[^。])*"
    return {
        "en": (
            rf"\A(?!.*\b(?:{others['en']})).*(?<!from )\b(?:{en})|(?<!back )\b(?:to|into|be|make it)\b{no_en}\b(?:{en})"
            rf"|\b(?:turn|make|chang|giv|lend|from)\w*\b[^.,;]*\b(?:{others['en']})[^.,;]*\b(?:{en})"
            rf"|\b(?:bring|call|get|want)\w*\b (?:back )?(?:the )?(?:{en})"
        ),
        "zh": rf"\A(?!.*(?:{others['zh']})).*(?<!从)(?:{zh})|(?:[成为到回至]|[换染披]上){no_zh}(?:{zh})",
    }


def greenness(image: np.ndarray) -> np.ndarray:
    """How surely each pixel is of a plant, uint8 HxW: by how far green exceeds red, and their mean blue, as a share of
    the sum, from 3% on and fully from 8% on. In the sea blue exceeds red, on a cream wall green does not."""
    r, g, b = (image[..., c].astype(np.int32) for c in range(3))
    excess = 100 * np.minimum(g - r, (r + g) // 2 - b) // np.maximum(r + g + b, 60)
    return to_byte((excess - 2) * 43)


def season_slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    """`slots` of a season, which has none; Inapplicable where little is green."""
    if 100 * int(np.count_nonzero(greenness(image) >= 128)) < LEAST * image.shape[0] * image.shape[1]:
        raise Inapplicable("little in the picture is green")
    return {}


def autumnal(image: np.ndarray) -> np.ndarray:
    """Leaves and grass in yellow, orange and brown; everything else stays as it is."""
    r, g, b = (image[..., c].astype(np.int32) for c in range(3))
    # What was yellowish gets golden and what was deep green rusty: red and green change places, a quarter brighter.
    leaves = to_byte(np.stack([g * 5 // 4, r * 5 // 4 - 8, b // 2], axis=-1))
    return blend(image, leaves, greenness(image)[..., None])


def wintry(image: np.ndarray) -> np.ndarray:
    """Snow on everything green, with its light and shade, and colours that are cold and pale."""
    light = 120 + luma(image).astype(np.int32) * 4 // 3
    snow = to_byte(np.stack([light - 4, light, light + 6], axis=-1))
    pale = saturation(image, 1, 2).astype(np.int32) + np.array([-6, 0, 8])
    return blend(to_byte(pale), snow, greenness(image)[..., None])
