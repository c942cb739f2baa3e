"""Dialogues of three turns, written in one pass and then split (ImgEdit 3.1 and 3.2).

The photograph is the result of turn 1, which adds an object that is in it: its source is made by removal, and turns 2
and 3 start from the real image, one generated image less than otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, NotAsked, Question, Row
from edittools.caption.prompting import (
    VIEWER,
    bilingual,
    both_languages,
    box_in_words,
    check_languages,
    objects_in_words,
    words_of,
)
from edittools.caption.schemas import choice, record, text
from edittools.record import DIALOGUE_KINDS, TEXT
from edittools.seeded import draw

_TURN = pa.struct(
    [
        ("parent", pa.int32()),  # turn whose image it edits, from 0; -1 is the source
        ("kind", pa.string()),  # of the dialogue
        ("task", pa.string()),
        ("instruction", TEXT),
        ("object", pa.string()),
        ("result", pa.string()),  # noun phrase for the painter
    ]
)
TASKS = ("add", "remove", "replace", "adjust")
PARENTS = {
    "content_memory": (-1, 0, 1),
    "content_understanding": (-1, 0, 1),
    "version_backtracking": (-1, 0, 0),  # turn 3 goes on from turn 1
}
_RULES = {
    "content_memory": (
        'Turn 1 adds the object and lays down a premise for everything that follows: a material or a colour ("from now '
        'on everything is made of wood"). Turns 2 and 3 replace or adjust other things without repeating the premise, '
        "and their results obey it. `premise` is the one word that their results carry for it, such as wooden or red."
    ),
    "content_understanding": (
        "Turn 1 adds the object. Turn 2 adjusts it, turn 3 removes or replaces it; both speak of it by a pronoun or by "
        'what it is to the rest ("it", "the one you put there"), not by its name.'
    ),
    "version_backtracking": (
        'Turn 1 adds the object. Turn 2 replaces something. Turn 3 rejects turn 2 ("go back to before that") and '
        "adjusts what turn 1 made."
    ),
}
_ALLOWED = {
    "content_memory": (("add",), ("replace", "adjust"), ("replace", "adjust")),
    "content_understanding": (("add",), ("adjust",), ("remove", "replace")),
    "version_backtracking": (("add",), ("replace",), ("adjust",)),
}


def check_turns(kind: str, turns: list[Mapping[str, Any]], anchor: str, premise: str | None = None) -> None:
    """Raises ValueError where turns are not a dialogue of this kind about the object `anchor`, with this premise."""
    for number, (turn, allowed) in enumerate(zip(turns, _ALLOWED[kind]), start=1):
        if turn["task"] not in allowed:
            raise ValueError(f"turn {number} is `{turn['task']}`; in {kind} it is {' or '.join(allowed)}")
        check_languages(turn["instruction"])
    if not words_of(anchor) & words_of(turns[0]["object"]):
        raise ValueError(f"turn 1 adds {turns[0]['object']!r}, not {anchor!r}")
    if premise is not None:
        said = [_has_premise(turn["instruction"].get("en", premise), premise) for turn in turns]
        if not said[0]:
            raise ValueError(f"turn 1 does not say the premise {premise!r}")
        for number, turn in enumerate(turns[1:], start=2):
            if said[number - 1] and "en" in turn["instruction"]:
                raise ValueError(f"turn {number} repeats the premise {premise!r}")
            if not _has_premise(turn["result"], premise):
                raise ValueError(f"the result of turn {number} does not obey the premise {premise!r}")
    if kind == "content_understanding":
        noun = anchor.casefold().split()[-1]
        for number, turn in enumerate(turns[1:], start=2):
            if noun in re.findall(r"[\w-]+", turn["instruction"].get("en", "").casefold()):
                raise ValueError(f"turn {number} names the {noun}: it is to be a pronoun")


def _has_premise(text: str, premise: str) -> bool:
    """Whether a word of the text is of the premise's family, by its first four letters (wood, wooden)."""
    return any(
        word == one or (len(one) > 3 and word[:4] == one[:4]) for word in words_of(text) for one in words_of(premise)
    )


def _converse(row: Row) -> Conversation:
    objects = row.objects
    if not objects:
        raise NotAsked("no objects: `edit ground` finds them")
    rng = row.rng("dialogue")
    kind = draw(rng, DIALOGUE_KINDS)
    anchor = objects[int(rng.integers(len(objects)))]
    place = f" ({box_in_words(tuple(anchor['box']))})" if anchor.get("box") else ""
    words = f"""Write three turns of a talk between somebody and a program that edits images. Imagine it without
the {anchor["name"]}{place}: that is where they begin, and turn 1 adds it, so that the image shown
is the result of turn 1.
{_RULES[kind]} Each turn is one order of at most twenty-five words. {VIEWER}{both_languages(row)}
Objects in the image:
{objects_in_words(objects)}"""
    one = record(
        task=choice(TASKS),
        object=text("what this turn edits, in English", 120),
        instruction=bilingual(row, "what is said in this turn", 300),
        result=text("a noun phrase, in English: what is there afterwards", 160),
    )
    turns = ("first", "second", "third")
    schema = {name: one for name in turns}
    if kind == "content_memory":
        schema["premise"] = text("one English word", 40)
    answer = yield Question(
        (row.look(),),
        words,
        record(**schema),
        lambda value: check_turns(kind, [value[name] for name in turns], anchor["name"], value.get("premise")),
        max_tokens=900,
        examples=True,
    )
    return {"dialogue": [{"parent": parent, "kind": kind} | answer[name] for name, parent in zip(turns, PARENTS[kind])]}


KIND = Kind(
    summary="three turns of one kind, the first of which adds an object that is there",
    reads="image",
    columns={"dialogue": pa.list_(_TURN)},
    converse=_converse,
    after=("structured", "names"),
    needs=("objects",),
)
