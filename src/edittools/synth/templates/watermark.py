"""A half-transparent white word repeated over the whole image, as stock photographs carry it."""

import numpy as np

from edittools.caption.lexicon import LATIN_TEXTS
from edittools.seeded import draw
from edittools.synth.core import Tools
from edittools.synth.lettering import check_room, font_path, letters
from edittools.synth.pixels import blend, short_side

TASK = "add"
LOCAL = False
INVERSE = "watermark_remove"
OPACITY = 110  # of 255
INSTRUCTION = {
    "en": [
        ('{cover|overlay} <whole> with {a|the} repeated [semi-transparent] white watermark {reading|saying} "<text>"'),
        '{add|apply} a repeated [semi-transparent] white "<text>" watermark {all over|across} <whole>',
    ],
    "zh": [
        "{给|为}<whole>{加上|添加|铺满}重复的[半透明]白色“<text>”水印",
        "在<whole>上{铺满|布满|重复添加}[半透明]白色水印“<text>”",
    ],
}
DETAIL = {
    "en": ['the word "<text>" repeats in rows in {semi-transparent|translucent} white'],
    "zh": ["“<text>”以{半透明|透明}白色一行行重复出现"],
}
EFFECT = {
    "en": r"\A(?!.*\b(?:remov|eras|delet|clean|rid|take away)).*\bwatermark",
    "zh": r"\A(?!.*(?:去|移除|清除|擦)).*水印",
}
KEEPS = {
    "en": ["the picture {beneath|underneath} {stays|remains} {the same|as it is}"],
    "zh": ["水印下面的画面{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    check_room(image)
    font_path("latin", tools)
    return {"text": draw(rng, LATIN_TEXTS)}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    height, width = image.shape[:2]
    side = short_side(image)
    word = letters(slots["text"], font_path("latin", tools), side // 2, side // 9)
    word = np.pad(word, ((side // 16, side // 16), (side // 14, side // 14)))
    rows, columns = -(-height // word.shape[0]), -(-width // word.shape[1]) + 1
    # every other row is shifted by half a word
    bands = [np.roll(np.tile(word, columns), -(r % 2) * word.shape[1] // 2, axis=1) for r in range(rows)]
    coverage = np.concatenate(bands)[:height, :width, None].astype(np.int32)
    return blend(image, np.full(3, 255, np.uint8), coverage * OPACITY // 255)
