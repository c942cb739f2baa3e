"""Pieces that the prompts of several kinds share: places in words, what is known of a row, left and right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edittools.caption.kind import Box, Row
from edittools.caption.schemas import Schema, choice, in_languages, record, text
from edittools.caption.text_facts import check_language

CELLS = (
    "top left", "top center", "top right", "middle left", "center", "middle right", "bottom left", "bottom center",
    "bottom right",
)  # fmt: skip
EVERYWHERE = "whole image"
ACTIONS = ("add", "remove", "replace", "change", "move", "write", "style")

VIEWER = (
    "Left and right are always the viewer's, as one looks at the image; only of a part of a body say whose it is "
    '("her left hand").'
)
QUOTES = "Copy visible text letter for letter, in its own script, inside double quotation marks."


def cell_of(box: Box) -> str:
    """The ninth of the image in which the middle of a box lies."""
    column = min(2, int((box[0] + box[2]) / 2 * 3))
    row = min(2, int((box[1] + box[3]) / 2 * 3))
    return CELLS[3 * max(0, row) + max(0, column)]


def cells_of(mask: np.ndarray, slack: float = 0.05, least: float = 0.2) -> set[str]:
    """The ninths, `slack` (share of the side) wider, that hold `least` of a mask, or are `least` full of it."""
    height, width = mask.shape
    total, found = int(mask.sum()), set()
    for number, cell in enumerate(CELLS):
        y, x = divmod(number, 3)
        rows = slice(max(0, round((y / 3 - slack) * height)), round(((y + 1) / 3 + slack) * height))
        columns = slice(max(0, round((x / 3 - slack) * width)), round(((x + 1) / 3 + slack) * width))
        part = mask[rows, columns]
        if part.sum() >= least * total or part.mean() >= least:
            found.add(cell)
    return found


def box_in_words(box: Box) -> str:
    """`top left, 12% of the image`."""
    share = max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
    return f"{cell_of(box)}, {share:.0%} of the image" if share >= 0.01 else f"{cell_of(box)}, very small"


def objects_in_words(objects: Sequence[Mapping[str, Any]]) -> str:
    """One line per object, with its place."""
    return "\n".join(
        f"- {item['name']}" + (f" ({box_in_words(tuple(item['box']))})" if item.get("box") else "") for item in objects
    )


def words_of(*texts: str) -> set[str]:
    """Small words left out."""
    return {word for text in texts for word in re.findall(r"[\w-]+", text.casefold())} - {"the", "a", "an", "of"}


def change_schema() -> Schema:
    """One atomic change of a pair."""
    return record(
        action=choice(ACTIONS, "what kind of change"),
        object=text("what was changed, so that it cannot be mistaken", 120),
        before=text("how it was; empty for what was added", 200, empty=True),
        after=text("how it is now; empty for what was removed", 200, empty=True),
        where=choice((*CELLS, EVERYWHERE), "the part of the image"),
    )


def bilingual(row: Row, says: str, longest: int = 600) -> Schema:
    """A text in each of --language."""
    return in_languages(row.languages, says, longest)


def both_languages(row: Row) -> str:
    """What the prompt says about languages, where there are two."""
    if len(row.languages) < 2:
        return ""
    return (
        " Write both languages as a native speaker would ask, each for itself and with the same content; text in "
        "quotation marks stays as it is in both."
    )


def check_languages(texts: Mapping[str, str]) -> None:
    """Raises ValueError where a text is in another language than its key says."""
    for language, content in texts.items():
        check_language(content, language)
