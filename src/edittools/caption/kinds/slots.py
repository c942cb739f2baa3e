"""Hard negatives of the templates' own edits, exactly and without a model: the instruction with another value in one
slot (colour, side, number, size, strength ...), which the target does not follow.

The other value is drawn by the template, and worded by the grammar that wrote the positive: their words alone tell no
negative (`edit eval probe`). That it is one is known: the edit that it asks for is made, and must look different.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, Look, NotAsked, Row
from edittools.caption.lexicon import LANGUAGES
from edittools.caption.telling import judge, parts_of
from edittools.caption.wording import instruct
from edittools.errors import RowError
from edittools.metrics.pixels import psnr
from edittools.record import TEXT
from edittools.stream import codec
from edittools.synth.core import Inapplicable, Pair, Template, Tools
from edittools.synth.registry import load

MOST_ALIKE = 30.0  # dB between what was asked for and what the negative asks for: more alike, it may be true
_TRIES = 40


def other_slots(
    template: Template, slots: Mapping[str, Any], image: np.ndarray, rng: np.random.Generator, tools: Tools
) -> tuple[str, dict[str, Any]] | None:
    """The slots with another value in one of them, and which; None where the template draws the same again."""
    drawn = template.slots(image, rng, tools)
    if slots.keys() != drawn.keys():  # what a value means hangs on others
        return None
    names = sorted(name for name, value in slots.items() if isinstance(value, str | int) and value != drawn[name])
    if not names:
        return None
    name = names[int(rng.integers(len(names)))]
    return name, {**slots, name: drawn[name]}


def negative(
    name: str, slots: Mapping[str, Any], image: np.ndarray, target: np.ndarray, rng: np.random.Generator, tools: Tools
) -> tuple[str, dict[str, str]] | None:
    """The slot that is another, and the instruction by language; None where nothing was found that is plainly wrong.

    image, target: uint8 (h, w, 3), the pair that the template has made with these slots.
    """
    template = load(name)
    for _ in range(_TRIES):
        try:
            found = other_slots(template, slots, image, rng, tools)
            if found is None:
                continue
            made = template.apply(image, found[1], tools)
        except Inapplicable:
            continue
        if isinstance(made, Pair):
            return None
        if made.shape == target.shape and (psnr(made, target) or 0.0) >= MOST_ALIKE:
            continue
        texts = instruct(name, found[1], dict.fromkeys(LANGUAGES, rng))
        told = (judge(text, language, parts_of(name, slots, language)) for language, text in texts.items())
        if not any(verdict.perfect for verdict in told):
            return found[0], texts
    return None


def _converse(row: Row) -> Conversation:
    origin = row.values.get("provenance") or {}
    name, slots = origin.get("template"), json.loads(origin.get("slots") or "null")
    if not name or not slots or {"parts", "turns", "wording"} & slots.keys():
        raise NotAsked("no template of one edit with slots has made it")
    try:
        image, target = (
            codec.decode(row.data(Look(column)), codec.FULL, row.config.max_pixels) for column in ("source", "target")
        )
        found = negative(name, slots, image, target, row.rng("slots"), Tools())
    except KeyError as error:
        raise RowError("unknown template", f"{name}: {error}") from error
    if found is None:
        raise NotAsked(f"no other value of a slot of `{name}` is plainly wrong")
    return {"instruction_negative": found[1], "perturbation": {"operator": found[0], "changed": found[0]}}
    yield  # a conversation without questions


KIND = Kind(
    summary="of rows of `edit synth`: the instruction with another value in one slot, without a model",
    reads="pair and provenance",
    columns={
        "instruction_negative": TEXT,
        "perturbation": pa.struct([("operator", pa.string()), ("changed", pa.string())]),
    },
    converse=_converse,
    needs=("source", "target", "provenance"),
    asks=False,
)
