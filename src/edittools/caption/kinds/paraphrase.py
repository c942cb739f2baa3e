"""Both sides of a hard negative in other words: the instruction and its negative, each written anew by the same model
in the same manner, without a word about which of the two it is.

Whoever makes up negatives has a handwriting, and a judge that learns from them learns to read it (`edit eval probe`).
What goes through the same hands on both sides has one handwriting: facts are what is left to tell them apart by.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher

from edittools.caption.kind import Conversation, Eliminated, Kind, NotAsked, Row
from edittools.caption.rewording import ORIGINALS, ask_anew
from edittools.record import TEXT
from edittools.seeded import draw

_SENTENCES = ("one short sentence", "one sentence", "one long sentence", "two short sentences")
_SYNTAX = (
    "Begin with the verb.",
    "Begin with the thing that is edited.",
    "Say what the result should show, as a wish.",
    "Ask for it as a question.",
    "Write as in a chat.",
)


def positive(row: Row, negative: Mapping[str, str]) -> dict[str, str]:
    """The text that a negative was made out of: of the row's instructions the one that it has most in common with."""
    texts = [row.values.get(column) for column in ORIGINALS]
    there = [{name: text for name, text in each.items() if text} for each in texts if isinstance(each, Mapping)]
    common = [
        max((SequenceMatcher(None, each[name], negative[name]).ratio() for name in each.keys() & negative.keys()),
            default=-1.0) for each in there
    ]  # fmt: skip
    if not common or max(common) < 0:
        raise NotAsked("no instruction in a language of its negative")
    return there[common.index(max(common))]


def _converse(row: Row) -> Conversation:
    bad = {name: text for name, text in (row.values.get("instruction_negative") or {}).items() if text}
    if not bad:
        raise NotAsked("no instruction_negative: kinds `slots` and `perturb` write it")
    rng = row.rng("paraphrase")
    manner = f"{draw(rng, _SENTENCES).capitalize()}. {draw(rng, _SYNTAX)}"
    both = []
    for before in (positive(row, bad), bad):
        both.append((yield from ask_anew(row, before, "paraphrase", manner, 600)))
    if any(both[0][name].split() == both[1][name].split() for name in both[0]):
        raise Eliminated("an instruction and its negative that say the same", next(iter(both[1].values())))
    return {"instruction": both[0], "instruction_negative": both[1]}


KIND = Kind(
    summary="instruction and instruction_negative in other words, both by one model in one manner",
    reads="text",
    columns={"instruction": TEXT, "instruction_negative": TEXT},
    converse=_converse,
    after=("detailed", "instruct", "slots", "perturb"),
    needs=("instruction_negative",),
)
