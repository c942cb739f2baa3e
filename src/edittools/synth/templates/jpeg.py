"""JPEG artefacts: the image saved at a low quality (4:2:0 colour) and read back."""

import io

import numpy as np
from PIL import Image

from edittools.synth.core import Tools, draw_strength

TASK = "lowlevel"
LOCAL = False
INVERSE = "dejpeg"
QUALITIES = {"slight": 30, "medium": 15, "strong": 6}
INSTRUCTION = {
    "en": [
        "{compress|degrade} <whole> <strength> so that JPEG {artifacts|blocks} {appear|show}",
        "add <strength:degree> JPEG {compression artifacts|artifacts|blockiness} to <whole>",
        (
            "make <whole> look {like a JPEG with <strength:degree> compression|"
            "<strength:intensity> blocky from JPEG compression}"
        ),
    ],
    "zh": [
        "{给|为}<whole>{添加|加上|增加}<strength:degree>JPEG{压缩痕迹|压缩失真|块效应}",
        "<ba><whole><strength>压缩，{使其出现|让它带有}JPEG{压缩痕迹|块效应|失真}",
    ],
}
DETAIL = {
    "en": ["<strength:degree> {square blocks|blocks} and {ringing|ripples} around edges {appear|can be seen}"],
    "zh": ["{出现|可以看到}<strength:degree>方块和边缘{波纹|振铃}"],
}
EFFECT = {
    "en": r"\A(?!.*\b(?:remov|repair|undo|clean)).*(?:jpeg|compress|artifact|\bblock)",
    "zh": r"\A(?!.*(?:去|修复|还原)).*(?:JPEG|压缩|块)",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITIES[slots["strength"]], subsampling=2)
    return np.asarray(Image.open(buffer).convert("RGB"))
