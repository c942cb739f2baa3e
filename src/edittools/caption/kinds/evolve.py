"""Instructions that grow from an atomic edit to a complex request in stages, with elimination (FireRed-Image-Edit
3.6.1; Evol-Instruct, arXiv 2304.12244, for the idea of elimination; Complex-Edit, arXiv 2504.13143, for chains of
atomic edits).

The atomic edits stay with the row: they are what a judge checks off, and the plan of whoever makes the pair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import pyarrow as pa

from edittools.caption.kind import Conversation, Eliminated, Kind, Question, Row
from edittools.caption.prompting import ACTIONS, VIEWER, bilingual, both_languages, check_languages, objects_in_words
from edittools.caption.schemas import choice, listing, record, text
from edittools.caption.text_facts import facts_of
from edittools.record import TEXT
from edittools.seeded import draw

STAGES = (
    "atomic",
    "concrete: name exact colours, sizes, sides or numbers that the instruction leaves open",
    "indirect: name things by their relation, order or a property instead of by their plain name (the second one from "
    "the left, what she holds)",
    "compound: ask for one or two more edits, of other things",
    "chain: ask for one more edit that depends on the result of the one before it",
    "intent: say only what it is to be for or to feel like, so that the edits follow from it without being named",
    "knowledge: the edits follow from something one has to know (how this is done in that country, what belongs to "
    "that feast), without being named",
)
# By which stages an instruction of a stage comes about: complex ones are first compounds, then made implicit.
_PATHS = {1: (0, 1), 2: (0, 1, 2), 3: (0, 1, 3), 4: (0, 3, 4), 5: (0, 3, 5), 6: (0, 3, 6)}
# At least so many atomic edits belong to an instruction of a stage.
_LEAST = (1, 1, 1, 2, 2, 1, 1)
_EDIT = pa.struct([(name, pa.string()) for name in ("action", "object", "change")])

# Words of prompts of this kind that models leave in.
_LEFT_OVER = re.compile(
    r"#\s*(?:given|rewritten|evolved|created)|\b(?:given|rewritten|evolved|created|original) (?:prompt|instruction)\b"
    r"|\bstage \d\b|\batomic edits?\b|指令[:：]|改写后",
    re.IGNORECASE,
)
# What no image shows.
_UNSEEN = re.compile(
    r"\b(?:sounds?|noise of|smells?|scents?|taste[sd]?|melody|music playing|louder|quieter|heartbeat)\b"
    r"|声音|气味|味道|音乐|心跳",
    re.IGNORECASE,
)
# What no expert makes of an image (edittools.synth.experts): their tasks are those of stills.
_BEYOND = re.compile(
    r"\b(?:(?:into|to|as|make|create) (?:an? )?(?:\w+ )?"
    r"(?:videos?(?! ?game| camera)|gifs?|animations?(?! still| style|-style))"
    r"|animate|slow motion|time-?lapse|3d (?:model|print)|interactive|clickable)\b"
    r"|(?:成|做|生成)(?:一[个段])?(?:短?视频|动图|动画(?!风|片|电影|角色))|三维模型",
    re.IGNORECASE,
)
_STOP = frozenset(
    "me my you your us we i it its this that some a an the of in on at to for and or with can could would will please "
    "make do edit very nice better good image picture photo something".split()
)
_OPPOSITE = (
    ("brighten", "darken"), ("brighter", "darker"), ("larger", "smaller"), ("bigger", "smaller"), ("enlarge", "shrink"),
    ("warmer", "cooler"), ("sharpen", "blur"), ("open", "close"), ("day", "night"),
    ("young", "old"), ("younger", "older"), ("wet", "dry"), ("summer", "winter"), ("sunny", "rainy"), ("full", "empty"),
    ("left", "right"), ("happy", "sad"),
)  # fmt: skip
_OPPOSITES = {frozenset(pair) for pair in _OPPOSITE}


def contradiction(edits: Sequence[Mapping[str, str]]) -> str | None:
    """What in a chain of atomic edits cannot all be done, in words; None where nothing is.

    After its removal (or replacement) a thing is not edited any more; what is added is not there before; one thing does
    not get two values of the same kind; opposites are not asked of the same thing.
    """
    gone: set[str] = set()
    touched: set[str] = set()
    values: dict[str, set[str]] = {}
    for edit in edits:
        thing = _name(edit["object"])
        action = edit["action"]
        if thing in gone and action != "add":
            return f"`{action}` of {thing!r}, which an edit before has taken away"
        if action == "add" and thing in touched and thing not in gone:
            return f"{thing!r} is added although it is there"
        if action == "remove" and thing in touched:
            return f"{thing!r} is edited and then removed"
        said = set(re.findall(r"[a-z]+|[\u4e00-\u9fff]+", edit["change"].casefold()))
        for word in said:
            for other in values.get(thing, set()):
                if frozenset((word, other)) in _OPPOSITES:
                    return f"{thing!r} is to be both {other!r} and {word!r}"
        colours, before = _colours(edit["change"]), _colours(" ".join(values.get(thing, set())))
        if action == "change" and colours and before and not colours & before:
            return f"{thing!r} is to be both {'/'.join(sorted(before))} and {'/'.join(sorted(colours))}"
        touched.add(thing)
        values.setdefault(thing, set()).update(said)
        if action in ("remove", "replace"):
            gone.add(thing)
        elif action == "add":
            gone.discard(thing)
    return None


def _colours(content: str) -> set[str]:
    return set(facts_of(content).colours)


def _name(thing: str) -> str:
    return " ".join(word for word in re.findall(r"[\w-]+", thing.casefold()) if word not in ("the", "a", "an", "its"))


def eliminate(
    before: Mapping[str, str], after: Mapping[str, str], edits: Sequence[Mapping[str, str]], stage: int, known: set[str]
) -> None:
    """Raises Eliminated for an evolved instruction that is of no use. `known`: words of what is in the image, if
    anybody has looked; then an edit of something else is not grounded.
    """
    for language, content in after.items():
        if found := _LEFT_OVER.search(content):
            raise Eliminated("words of the prompt", found[0])
        if found := _UNSEEN.search(content):
            raise Eliminated("cannot be seen", found[0])
        if found := _BEYOND.search(content):
            raise Eliminated("beyond the experts", found[0])
        words = set(re.findall(r"[a-z']+", content.casefold()))
        if language == "en" and not words - _STOP:
            raise Eliminated("says nothing", content)
        old = before.get(language)
        if old is not None and SequenceMatcher(None, _plain(old), _plain(content)).ratio() > 0.92:
            raise Eliminated("no gain", content)
    if len(edits) < _LEAST[stage]:
        raise Eliminated("no gain", f"{len(edits)} edits in stage {stage}")
    if problem := contradiction(edits):
        raise Eliminated("contradicts itself", problem)
    added = {word for edit in edits if edit["action"] == "add" for word in _name(edit["object"]).split()}
    for edit in edits:
        thing = set(_name(edit["object"]).split())
        whole = thing & {"image", "scene", "photo", "picture", "background", "everything", "sky", "light", "whole"}
        if known and edit["action"] != "add" and not whole and not thing & (known | added):
            raise Eliminated("not in the image", edit["object"])


def _plain(content: str) -> str:
    return " ".join(re.findall(r"\w+", content.casefold()))


def _converse(row: Row) -> Conversation:
    before = {language: content for language, content in (row.values.get("instruction") or {}).items() if content}
    if not before:
        before = {"en": row.needed_text("instruction")}
    last = int(draw(row.rng("evolve"), [str(stage) for stage in row.config.stages]))
    objects = row.objects
    names = (row.values.get("names") or {}) if isinstance(row.values.get("names"), dict) else {}
    listed = [*(item["name"] for item in objects), *(names.get("objects") or ()), *(names.get("backgrounds") or ())]
    known = {word for name in listed for word in _name(name).split()}
    schema = record(
        instruction=bilingual(row, "the new instruction", 700),
        edits=listing(
            record(
                action=choice(ACTIONS),
                object=text("what is edited", 120),
                change=text("what becomes of it, in a few English words", 200),
            ),
            8,
            least=1,
        ),
    )
    told, edits = before, []
    for stage in _PATHS[last]:
        lines = "\n".join(f"{language}: {content}" for language, content in told.items())
        task = (
            "Split it into atomic edits, each of one thing, and write it anew as plainly as can be."
            if stage == 0
            else f"Write a harder one out of it, in this way: {STAGES[stage]}. List all atomic edits it comes to, in "
            "the order in which they are done, those that are not named as well."
        )
        words = f"""This is an instruction for an edit of the image:
{lines}

{task} It has to stay possible in this very image, visible when done, and free of contradiction: nothing is edited after
it is gone. A replacement is one edit, never a removal and an addition. It sounds like a person, not like a form.
{VIEWER}{both_languages(row)}"""
        if objects:
            words += f"\nObjects in the image:\n{objects_in_words(objects)}"
        answer = yield Question(
            (row.look(),), words, schema, lambda value: check_languages(value["instruction"]), max_tokens=900
        )
        if stage:
            eliminate(told, answer["instruction"], answer["edits"], stage, known)
        elif problem := contradiction(answer["edits"]):
            raise Eliminated("contradicts itself", problem)
        told, edits = answer["instruction"], answer["edits"]
    return {"instruction_evolved": told, "atomic_edits": edits, "evolution_stage": last}


KIND = Kind(
    summary="the instruction, grown in stages into a complex one; its atomic edits",
    reads="image and instruction",
    columns={"instruction_evolved": TEXT, "atomic_edits": pa.list_(_EDIT), "evolution_stage": pa.int32()},
    converse=_converse,
    after=("names", "instruct"),
    needs=("instruction",),
    distinct="instruction_evolved",
)
