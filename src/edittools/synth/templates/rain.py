"""Rain: slanting streaks before an even veil, t v + (1 - t) A (the model of Li et al. 2019, eq. 2)."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import STRENGTHS, Tools
from edittools.synth.pixels import blend, line_table, per_channel

TASK = "lowlevel"
LOCAL = False
INVERSE = "derain"
AIRLIGHT = (165, 170, 176)
WATER = (232, 236, 240)
TRANSMISSIONS = {"slight": (19, 20), "medium": (9, 10), "strong": (4, 5)}  # t as a fraction
SHARES = {"slight": 25, "medium": 50, "strong": 100}  # thousandths of the image under streaks, where they do not cross
INSTRUCTION = {
    "en": [
        "{add|bring in} <strength:degree> {rain|falling rain|streaks of rain} [all over] to <whole>",
        "make it rain <strength> in <picture>",
        "{cover|fill} <whole> with <strength:degree> {rain|falling rain|rain streaks}",
    ],
    "zh": [
        "{给|为}<whole>{加上|添加}<strength:degree>{雨|雨丝|下雨的效果|雨水}",
        "{让|使}<whole>{里|中}<strength>{下起雨来|下雨}",
    ],
}
DETAIL = {
    "en": [
        "<strength:degree> streaks of rain {fall|come down} {over the whole picture|everywhere}, in a thin gray veil"
    ],
    "zh": ["{整个画面|全图}{布满|落着}<strength:degree>雨丝，{蒙着|带有}薄薄的灰色水汽"],
}
_WITHIN = r"(?:(?!\b(?:and|then|add)\b)[^.,;])*"  # one thing that is asked for
GONE = {  # of the rain itself: other things may be taken away, be clear, or look (看上去) as they like
    "en": (
        rf"\bderain|\b(?:remov|eras|delet|stop|clean|rid of){_WITHIN}\brain"
        rf"|\b(?:clear|clearing|take|taking|wipe|wiping) (?:(?:away|off|out|up)\b{_WITHIN}|(?:the |all |this )+)\brain"
        rf"|\brainy\b{_WITHIN}\b(?:clear(?!ly)|free)|\brain\b{_WITHIN}\b(?:gone|stops?\b|vanish|disappear|removed)"
        r"|\b(?:free of|without|no|no more) rain"
    ),
    "zh": "去雨|(?:去除|去掉|除去|消除|清除|移除|擦掉)[^。，；]*雨|雨[^。，；]*(?:停|消失|不见|去除|去掉|消除|清除)",
}
EFFECT = {
    "en": rf"\A(?!.*(?:{GONE['en']})).*\brain",
    "zh": rf"\A(?!.*(?:{GONE['zh']})).*雨",
}
KEEPS = {
    "en": ["everything behind {it|the rain} {stays|remains} {the same|as it is}"],
    "zh": ["雨后面的{一切|画面}{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    # which drops they are cannot be said in words, and a model need not guess them: only their look
    return {"strength": draw(rng, STRENGTHS), "rain_seed": int(rng.integers(2**31))}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    veiled = per_channel(image, *(line_table(*TRANSMISSIONS[slots["strength"]], pivot=a) for a in AIRLIGHT))
    covered = streaks(image.shape[0], image.shape[1], slots)
    return blend(veiled, np.array(WATER, np.uint8), covered[..., None])


def streaks(height: int, width: int, slots: dict) -> np.ndarray:
    """How much of each pixel streaks cover, uint8 (height, width). All slant alike, and fade at both ends."""
    rng = np.random.Generator(np.random.PCG64(slots["rain_seed"]))
    side = min(height, width)
    length, thick = max(4, side // 10), max(1, side // 320)
    slant = int(rng.integers(-3, 4))  # eighths of a pixel to the right for each row
    reach = length * 3 // 8 + thick
    count = max(1, SHARES[slots["strength"]] * height * width // (1000 * length * thick))
    left, top, light = rng.integers([-reach, -length, 70], [width + reach, height, 190], (count, 3)).T[..., None]
    step = np.arange(length)
    fade = np.minimum(4 * np.minimum(step + 1, length - step), length)  # of `length`
    covered = np.zeros((height, width), np.uint8)
    for k in range(thick):
        x, y = np.broadcast_arrays(left + step * slant // 8 + k, top + step)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        np.maximum.at(covered, (y[inside], x[inside]), (light * fade // length).astype(np.uint8)[inside])
    return covered
