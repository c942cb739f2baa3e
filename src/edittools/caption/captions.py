"""Captions of images and edits. Styles of instruction captions without a model (FireRed 2.5.2) are in styles/."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from edittools.caption.lexicon import LANGUAGES
from edittools.registry import Registry
from edittools.seeded import stream

Style = Callable[[str, dict, str, np.random.Generator], str]


STYLES = Registry("edittools.caption.styles", "edittools.styles")


def style_names() -> tuple[str, ...]:
    """All instruction styles, in alphabetical order: concise, detailed, user_like."""
    return STYLES.names


@lru_cache(maxsize=16)
def load_style(name: str) -> Style:
    return STYLES.load(name).write


def caption(template: str, slots: dict, row_id: str, seed: int = 0) -> dict[str, dict[str, str]]:
    """Word an edit in every style and language: {"detailed": {"en", "zh"}, "concise": ..., ...}.

    template and slots are those of a synth Sample or of a dialogue's Turn. A whole dialogue's caption
    is its turns' captions in order. A pure function of its arguments.
    """
    return {
        style: {lang: _write(style, template, slots, lang, (seed, row_id, template)) for lang in LANGUAGES}
        for style in style_names()
    }


def _write(style: str, template: str, slots: dict, lang: str, key: tuple[object, ...]) -> str:
    if "turns" in slots:
        texts = [
            _write(style, turn["template"], turn["slots"], lang, (*key, index))
            for index, turn in enumerate(slots["turns"])
        ]
        return (" " if lang == "en" else "").join(texts)
    return load_style(style)(template, slots, lang, stream(*key, style, lang))
