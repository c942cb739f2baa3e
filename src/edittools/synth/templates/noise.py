"""Grain: the sum of four uniform integers in [-a, a] per channel, close to Gaussian and exact."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import STRENGTHS, Tools
from edittools.synth.pixels import to_byte

TASK = "lowlevel"
LOCAL = False
INVERSE = "denoise"
AMPLITUDES = {"slight": 9, "medium": 18, "strong": 36}  # a; standard deviation 1.15 a to 1.2 a
INSTRUCTION = {
    "en": [
        "add <strength:degree> {noise|color noise|grain|random noise} to <whole>",
        "make <whole> <strength:intensity> {noisy|grainy}",
        "cover <whole> with <strength:degree> {noise|color noise|grain}",
    ],
    "zh": [
        "{给|为}<whole>{添加|加上|增加}<strength:degree>{噪点|噪声|彩色噪点|颗粒}",
        "{让|使}<whole>{出现|带有}<strength:degree>{噪点|噪声|颗粒感}",
    ],
}
DETAIL = {
    "en": ["<strength:degree> random {specks|grain} {cover|covers} {everything|the whole picture}"],
    "zh": ["整个画面{布满|覆盖着}<strength:degree>随机噪点"],
}
EFFECT = {
    "en": r"\A(?!.*\b(?:remov|denois|clean|take away)).*\b(?:nois|grain|speck)",
    "zh": r"\A(?!.*(?:去|消除|清除|降噪)).*(?:噪|颗粒)",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    # which grain it is cannot be said in words, and a model need not guess it: only its look
    return {"strength": draw(rng, STRENGTHS), "grain_seed": int(rng.integers(2**31))}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    a = AMPLITUDES[slots["strength"]]
    rng = np.random.Generator(np.random.PCG64(slots["grain_seed"]))
    grain = rng.integers(-a, a + 1, (4, *image.shape), dtype=np.int16).sum(axis=0, dtype=np.int16)
    return to_byte(image + grain)
