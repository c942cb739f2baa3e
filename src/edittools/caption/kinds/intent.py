"""What an instruction asks for: the kind of edit, and the concept it is about, of ImgEdit-Bench's six groups
(ImgEdit 4.1; Step1X-Edit 4.1 splits instructions of users into its categories by hand).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, Question, Row
from edittools.caption.schemas import choice, record, text
from edittools.record import TASKS

GROUPS = ("human", "transportation", "nature", "animals", "architecture", "necessities")

_PROMPT = """Somebody asks for an edit of this image. Say which kind of edit it is; what it is about, as one English
noun in the singular ("cat", "bridge", "coat"); and to which group that belongs: people and parts of them; vehicles;
landscape, plants and weather; animals; buildings and streets; things of daily life, food and clothes (necessities).

The instruction: """


def _check(answer: Any) -> None:
    if len(answer["concept"].split()) > 3:
        raise ValueError(f"{answer['concept']!r} is a phrase, not a noun")


def _converse(row: Row) -> Conversation:
    said = row.needed_text("instruction")
    tasks = [task for task in TASKS if task != "t2i"]
    schema = record(task=choice(tasks), concept=text("a noun", 40), group=choice(list(GROUPS)))
    looks = [row.look()] if row.has("source") or row.has("target") else []
    answer = yield Question(tuple(looks), _PROMPT + said, schema, _check, max_tokens=200)
    return {
        "task": answer["task"],
        "concept": answer["concept"].strip().casefold(),
        "concept_group": answer["group"],
    }


KIND = Kind(
    summary="the task that an instruction asks for, and the concept that it is about",
    reads="image and text",
    columns={"task": pa.string(), "concept": pa.string(), "concept_group": pa.string()},
    converse=_converse,
    needs=("instruction",),
)
