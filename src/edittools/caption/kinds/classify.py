"""The class of an image, with FireRed's classes of text-to-image data (FireRed-Image-Edit 2.1), or the task of a pair
that was found and not made; and whether its writing is right (Step1X-Edit's valid and invalid text edits).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, Question, Row
from edittools.caption.prompting import QUOTES
from edittools.caption.schemas import choice, listing, record, text, yes_no
from edittools.record import TASKS

CLASSES: dict[str, tuple[str, ...]] = {
    "nature": ("landscape", "animal", "plant", "food", "object", "indoor", "city"),
    "design": ("poster", "slide", "interface", "illustration", "product", "infographic", "art"),
    "people": ("portrait", "group", "activity", "sport"),
    "synthetic": ("text rendering", "rendering"),
}
_TEXT = pa.list_(pa.struct([("text", pa.string()), ("right", pa.bool_())]))

_IMAGE = """Say to which class this image belongs: nature (landscapes, animals, plants, food, things, rooms, cities as a
camera sees them), design (made at a desk: posters, slides, interfaces, illustrations, products, art), people (they are
what it is about), synthetic (rendered text or scenes). Then the subclass."""
_PAIR = """The second image was made out of the first. Say which kind of edit this is, by what differs most."""
_WRITING = f"""
List the pieces of text that can be read, and of each whether it is right: whole letters of a real script that make
words, without doubled, missing or melted signs. {QUOTES}"""


def _converse(row: Row) -> Conversation:
    pair = row.has("source") and row.has("target")
    writing = listing(record(text=text("as it reads", 200), right=yes_no()), 20)
    if pair:
        tasks = [task for task in TASKS if task != "t2i"]
        schema = record(task=choice(tasks), writing=writing)
        answer = yield Question(row.pair(), _PAIR + _WRITING, schema, max_tokens=600)
        return {"task": answer["task"], "text_regions": answer["writing"], "image_class": None, "image_subclass": None}

    def check(value: Any) -> None:
        if value["subclass"] not in CLASSES[value["class"]]:
            raise ValueError(f"{value['subclass']!r} is no subclass of {value['class']}: {CLASSES[value['class']]}")

    every = sorted({name for names in CLASSES.values() for name in names})
    schema = record(**{"class": choice(list(CLASSES)), "subclass": choice(every)}, writing=writing)
    answer = yield Question((row.look(),), _IMAGE + _WRITING, schema, check, max_tokens=600)
    return {
        "image_class": answer["class"],
        "image_subclass": answer["subclass"],
        "text_regions": answer["writing"],
    }


KIND = Kind(
    summary="class and subclass of an image, or the task of a found pair; which writing is right",
    reads="image, or pair",
    columns={"task": pa.string(), "image_class": pa.string(), "image_subclass": pa.string(), "text_regions": _TEXT},
    converse=_converse,
)
