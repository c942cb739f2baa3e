"""A word of the photograph's writing becomes another one of its kind: OCR finds it, it is drawn without a painter."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edittools.caption.targets import read_things
from edittools.errors import RowError
from edittools.metrics.ocr import Line, read_words
from edittools.painters.canvas import Brush
from edittools.seeded import draw
from edittools.synth.core import Inapplicable
from edittools.synth.fonts import latin_fonts
from edittools.synth.painting import Plan, Scene, worded
from edittools.synth.retext import rewrite

TASK = "text"
HELP = "a word that OCR reads becomes another of its length, in its font, colour and perspective, without the painter"
PROMPT = False
INVERSE = "text"
BARE = True
_SURE = 0.9
_LATER = 0.2  # by which the new word may be longer or shorter, in letters
_TRIES = 12  # words that are tried in a place
_SAID = [
    'change {the text|the word|} "<old>" to "<new>"',
    'replace {the text|the word|} "<old>" with "<new>"',
    'make it say "<new>" instead of "<old>"',
    'the {text|writing} "<old>" should read "<new>"',
]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    """Raises RowError with the reason where there is writing, and none of it can be written anew."""
    found: list[Plan] = []
    why = ""
    for line, words, k in readable(scene, "--painted text"):
        made = _plan(scene, line, words, k, rng)
        found += [made] if isinstance(made, Plan) else []
        why = why if isinstance(made, Plan) else made
    if not found and why:
        raise RowError(why)
    return found


def readable(scene: Scene, use: str) -> Iterator[tuple[Line, list[Line], int]]:
    """The words that may become others: a line, all its words, and which one. A word that stands there twice is none:
    nothing says which is meant. Raises EditError, see read_words()."""
    lines = read_words(scene.image, use)
    counts = Counter(word.text.casefold() for _, words in lines for word in words)
    for line, words in lines:
        for k, word in enumerate(words):
            alone = counts[word.text.casefold()] == 1
            if alone and word.score >= _SURE and len(word.text) >= 2 and word.text.isascii():
                yield line, words, k


def _plan(scene: Scene, line: Line, words: list[Line], k: int, rng: np.random.Generator) -> Plan | str:
    """An edit of the k-th word of a line, or why there is none."""
    old, why = words[k].text, "no word of its length"
    for new in alike(old, rng)[:_TRIES]:
        try:
            made = rewrite(scene.image, words[k].corners, old, new, latin_fonts())
        except Inapplicable as error:
            why = str(error)
            if why not in ("the new word is wider or narrower", "the font lacks a letter"):
                break
            continue
        plan = retold(scene, line, words, k, new, made.mask, Brush(0, 0, 1.0, holes=True), rng)
        return replace(plan, slots={**plan.slots, "font": made.font.rsplit("/", 1)[-1]}, made=made.image)
    return why


def retold(
    scene: Scene,
    line: Line,
    words: list[Line],
    k: int,
    new: str,
    mask: np.ndarray,
    brush: Brush,
    rng: np.random.Generator,
) -> Plan:
    """The plan of a line in which the k-th word becomes another: how it is said, and what is to read there."""
    old, whole = words[k].text, [one.text for one in words]
    whole[k] = new
    corners = line.corners / [scene.image.shape[1], scene.image.shape[0]]
    return Plan(
        mask,
        brush,
        worded(_SAID, rng, old=old, new=new),
        {"object": old, "text": new},
        inverse=worded(_SAID, rng, old=new, new=old),
        text=" ".join(whole),
        place=(*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()),
    )


def alike(old: str, rng: np.random.Generator) -> list[str]:
    """Other words of about the length of one, in its case; of a number, others with as many digits."""
    if re.search(r"\d", old):
        return list(dict.fromkeys(new for _ in range(_TRIES) if (new := _digits(old, rng)) != old))
    if not old.isalpha():
        return []
    fitting = [word for word in _words() if abs(len(word) - len(old)) <= _LATER * len(old) and word != old.casefold()]
    same = [word for word in fitting if len(word) == len(old)]
    order = [some[int(n)] for some in (same, [w for w in fitting if w not in same]) for n in rng.permutation(len(some))]
    case = str.upper if old.isupper() else str.capitalize if old[:1].isupper() else str.lower
    return [case(word) for word in order]


def _digits(old: str, rng: np.random.Generator) -> str:
    """Every digit another, the first of a number no zero that was none; a time of day is one again."""
    if (clock := re.fullmatch(r"(\d?\d):([0-5]\d)(\D*)", old)) and int(clock[1]) < 24:
        width = len(clock[1])
        half = re.match(r"\s*[ap]\.?m", clock[3], re.IGNORECASE)
        hours = range(10, 13 if half else 24) if width == 2 and clock[1][0] != "0" else range(1, 10)
        hour = draw(rng, [f"{hour:0{width}d}" for hour in hours if hour != int(clock[1])])
        minute = draw(rng, [f"{minute:02d}" for minute in range(0, 60, 5) if minute != int(clock[2])])
        return f"{hour}:{minute}{clock[3]}"
    if re.search(r"\d:\d\d\D+\d", old):  # a span of time: its end is to stay behind its beginning
        return old
    made = ""
    for k, sign in enumerate(old):
        first = not re.search(r"\d", old[:k])
        free = [d for d in "0123456789" if d != sign and (d != "0" or sign == "0" or not first)]
        made += draw(rng, free) if sign.isdigit() else sign
    return made


@functools.cache
def _words() -> list[str]:
    """Words of one part, as signs may say them."""
    more = (
        "open sale fresh hotel music hello cafe exit welcome market bakery books summer winter river valley north south"
    )
    names = [name for names in read_things().values() for name in names] + more.split()
    return sorted({name.casefold() for name in names if name.isascii() and name.isalpha()} - {"hoe"})  # also abuse
