"""Whether a text tells an edit that a template of `edit synth` made: what has to be said, what may be, what is wrong.

What the slots of a template hold is what the edit is. A slot that every wording of the template names has to be told; a
text may also name whatever else is in the slots or in the template's own words. Everything further is invented.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from edittools.caption.grammar import Choice, Literal, Slot, parse
from edittools.caption.lexicon import WORDS, word
from edittools.caption.mentions import Mentions, mentions_of
from edittools.caption.referring import REFERRING
from edittools.caption.text_facts import first_sentence
from edittools.synth.registry import load

ASPECTS = ("operation", "thing", "side", "colour", "count", "text", "amount")
"""What of an edit is told right or wrong. `amount` is size and strength."""
_OF = {"size": "amount", "strength": "amount"}
# What a text names that was not there and nobody asked for; adverbs and adjectives of size are a manner of speaking.
_INVENTED = ("colour", "side", "count", "text")

_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_TURNS = {"right": ("clockwise", "90"), "left": ("counterclockwise", "90"), "half": (None, "180")}
_TIMES = {"slight": "1.25", "medium": "1.5", "strong": "2"}
_BLOCKS = {"slight": "small", "medium": "medium", "strong": "large"}
_PLACES = ("place", "spot", "cell")
_STRENGTHS = ("strength", "adverb", "degree", "comparative", "intensity")

Told = Mapping[str, frozenset[str]]


def _facts(kind: str, value: Any) -> list[tuple[str, str]]:
    """What a slot's value means, as (of what, name); nothing for what no words can say (a seed)."""
    said = str(value)
    if kind in (*_PLACES, "side"):
        return [("side", said)]
    if kind in ("half", "opposite"):
        side = said.removesuffix("_half")
        return [("side", _OPPOSITE[side] if kind == "opposite" else side)]
    if kind in ("turn", "angle"):
        way, degrees = _TURNS[said]
        return [("count", degrees), *([("side", way)] if way else [])]
    if kind in ("pair", "outcome", "channels"):
        return [("colour", name) for name in said.split("_")]
    if kind in _STRENGTHS:
        return [("strength", said)]
    simple: dict[str, Callable[[], tuple[str, str]]] = {
        "color": lambda: ("colour", said),
        "size": lambda: ("size", said),
        "blocks": lambda: ("size", _BLOCKS[said]),
        "times": lambda: ("count", _TIMES[said]),
        "factor": lambda: ("count", _TIMES[said]),
        "count": lambda: ("count", said),
        "levels": lambda: ("count", said),
        "degrees": lambda: ("count", said),
        "text": lambda: ("text", said),
        "letter": lambda: ("text", said),
        "shape": lambda: ("thing", f"shape:{said}"),
        "cutout": lambda: ("thing", f"shape:{said}"),
        "material": lambda: ("thing", f"material:{said}"),
        "backdrop": lambda: ("thing", f"backdrop:{said}"),
        "operation": lambda: ("thing", f"operation:{said}"),
        "result": lambda: ("thing", f"operation:{said}"),
    }
    return [simple[kind]()] if kind in simple else []


@dataclass(frozen=True)
class Part:
    """One atomic edit: what has to be told of it, and what may be."""

    template: str
    task: str
    needed: Told
    allowed: Told
    effect: re.Pattern[str] | None
    order: tuple[str, ...] = ()  # places in the order of going, where there are two
    coloured: frozenset[tuple[str, str]] = frozenset()  # (colour, shape) that belong together


@dataclass
class Verdict:
    """What a text tells right: by aspect true, false, or null where the edit has nothing of the kind."""

    right: dict[str, bool | None]
    missed: list[str] = field(default_factory=list)  # templates of parts that are not told at all
    invented: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def perfect(self) -> bool:
        return not self.missed and not self.invented and all(value is not False for value in self.right.values())


# ------------------------------------------------------------------ what the edit is


def parts_of(template: str, slots: Mapping[str, Any], language: str) -> list[Part]:
    """The atomic edits of a row: of a hybrid both, of a dialogue those of every turn. Raises KeyError for a template
    that there is not."""
    if "parts" in slots:
        return [part for one in slots["parts"] for part in parts_of(one["template"], one["slots"], language)]
    if "turns" in slots:
        return [part for turn in slots["turns"] for part in parts_of(turn["template"], turn["slots"], language)]
    made = load(template)
    wording = slots.get("wording")
    patterns = REFERRING[wording][template][language] if wording else made.instruction[language]

    def lookup(name: str, kind: str) -> str:
        if name == "core":
            return "{" + "|".join(made.instruction[language]) + "}"
        return word(name, kind, dict(slots), language)

    always = set.intersection(*(_named(pattern, lookup, slots, set.intersection) for pattern in patterns))
    ever = set.union(*(_named(pattern, lookup, slots, set.union) for pattern in patterns))
    ways = [_in_order(pattern, lookup) for pattern in patterns]
    order = ways[0] if len(set(ways)) == 1 and len(ways[0]) == 2 else ()
    effect = made.effect.get(language) if wording is None else None
    own = _own_words(template, language, wording)
    words = [fact for name, value in slots.items() for fact in _words_of(_kind(name), str(value), language)]
    return [
        Part(
            template=template,
            task=made.task,
            needed=_told(always),
            allowed=_told([*ever, *_all_facts(slots), *own, *words]),
            effect=re.compile(effect, re.IGNORECASE | re.DOTALL) if effect else None,
            order=tuple(str(slots[name]) for name in order),
            coloured=_coloured(slots),
        )
    ]


def _coloured(slots: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """`new_color` is the colour of `new_shape`, or where there is none of `shape`; and the other way round."""
    colours, shapes = (
        {name.removesuffix(kind): str(value) for name, value in slots.items() if _kind(name) == kind}
        for kind in ("color", "shape")
    )
    return frozenset(
        (colour, f"shape:{shape}")
        for of, colour in colours.items()
        for what, shape in shapes.items()
        if what == of or (not what and of not in shapes) or (not of and what not in colours)
    )


def _told(facts: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    kinds: dict[str, set[str]] = {}
    for kind, name in facts:
        kinds.setdefault(kind, set()).add(name)
    return {kind: frozenset(names) for kind, names in kinds.items()}


def _kind(slot: str) -> str:
    """`new_color` is a color."""
    return slot.rsplit("_", 1)[-1]


def _all_facts(slots: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    for name, value in slots.items():
        if isinstance(value, Mapping):
            facts += _all_facts(value)
        else:
            kind = _kind(name)
            facts += _facts(kind, value)
            if kind == "half":
                facts += _facts("opposite", value)
    return facts


Facts = set[tuple[str, str]]


def _named(
    pattern: str | tuple[Any, ...], lookup: Callable[[str, str], str], slots: Mapping[str, Any], join: Any
) -> Facts:
    """The facts that every expansion of a pattern names (`join` is intersection), or some (union)."""
    found: Facts = set()
    for piece in parse(pattern) if isinstance(pattern, str) else pattern:
        if isinstance(piece, Slot):
            if piece.name in slots:
                found.update(_facts(piece.kind, slots[piece.name]))
            if not isinstance(inner := lookup(piece.name, piece.kind), Literal):
                found |= _named(inner, lookup, slots, join)
        elif isinstance(piece, Choice) and not (piece.optional and join is set.intersection):
            found |= join(*(_named(option, lookup, slots, join) for option in piece.options))
    return found


def _in_order(pattern: str | tuple[Any, ...], lookup: Callable[[str, str], str]) -> tuple[str, ...]:
    """The slots of places that a pattern names, in order, outside of choices."""
    found: list[str] = []
    for piece in parse(pattern) if isinstance(pattern, str) else pattern:
        if isinstance(piece, Slot):
            if piece.kind in _PLACES:
                found.append(piece.name)
            elif not isinstance(inner := lookup(piece.name, piece.kind), Literal):
                found += _in_order(inner, lookup)
    return tuple(found)


@lru_cache(maxsize=512)
def _own_words(template: str, language: str, wording: str | None) -> tuple[tuple[str, str], ...]:
    """What a template's own words name beside its slots ("on pure white", "reds become stronger")."""
    made = load(template)
    patterns = [*made.instruction[language], *made.detail[language], *made.keeps.get(language, ())]
    return _spoken((*patterns, *(REFERRING[wording][template][language] if wording else ())), language)


@lru_cache(maxsize=512)
def _words_of(kind: str, value: str, language: str) -> tuple[tuple[str, str], ...]:
    """What the words for a slot's value name beside it ("red at the top")."""
    entry = WORDS.get(kind, {}).get(value)
    return _spoken((entry[language],), language) if entry else ()


def _spoken(patterns: Sequence[str], language: str) -> tuple[tuple[str, str], ...]:
    told = [mentions_of(text, language).told for pattern in patterns for text in _cover(pattern)]
    return tuple(sorted({(kind, name) for one in told for kind in _INVENTED for name in one[kind]}))


def _cover(pattern: str) -> list[str]:
    """Expansions in which every option of every choice stands at least once; slots are left out."""
    parsed = parse(pattern)

    def breadth(sequence: tuple[Any, ...]) -> int:
        widths = [len(p.options) * max(map(breadth, p.options)) + p.optional for p in sequence if isinstance(p, Choice)]
        return max(widths, default=1)

    def expanded(sequence: tuple[Any, ...], turn: int) -> str:
        text = ""
        for piece in sequence:
            if isinstance(piece, str):
                text += piece
            elif isinstance(piece, Slot):
                text += " … "
            elif not (piece.optional and turn == len(piece.options) * max(map(breadth, piece.options))):
                count = len(piece.options)
                text += expanded(piece.options[turn % count], turn // count)
        return text

    return [expanded(parsed, turn) for turn in range(breadth(parsed))]


# ------------------------------------------------------------------ what a text tells


def judge(text: str, language: str, parts: Sequence[Part]) -> Verdict:
    """A text against the atomic edits that it should tell."""
    said = mentions_of(text, language)
    verdict = Verdict(dict.fromkeys(ASPECTS))
    told = [part for part in parts if _is_told(part, parts, said)]
    verdict.missed = [part.template for part in parts if part not in told]
    verdict.problems += [f"`{name}` is not told" for name in verdict.missed]
    for part in told:
        if part.effect is not None:
            _mark(verdict, "operation", part.effect.search(said.bare) is not None, f"it is `{part.template}`")
    for kind in ("thing", "side", "colour", "count", "text", "size", "strength"):
        needed = _union(part.needed for part in told).get(kind, frozenset())
        if kind == "strength" and not needed:
            continue
        missing = needed - said.told[kind]
        further = said.told[kind] - _union(part.allowed for part in parts).get(kind, frozenset()) - needed
        if kind == "side":
            further = frozenset(name for name in further if not _vague(name, parts))
        if needed:
            wrong = f"{_listed(missing)} is not named" + (f", but {_listed(further)}" if further else "")
            aspect = "operation" if all(name.startswith("operation:") for name in needed) else _OF.get(kind, kind)
            _mark(verdict, aspect, not missing, wrong)
        # In place of what is missing a wrong one was named: that is an error, and no invention.
        if kind in _INVENTED and len(further) > len(missing):
            verdict.invented += sorted(further)
            verdict.problems.append(f"{_listed(further)}: nobody asked for it")
        if kind == "thing" and needed and not missing:
            shapes = [name for name in further if name.startswith("shape:")]
            if shapes and any(name.startswith("shape:") for name in needed):
                verdict.invented += shapes
                verdict.problems.append(f"{_listed(shapes)}: nobody asked for it")
    _mark_exchanged(verdict, said, parts)
    for part in told:
        if part.order and verdict.right["side"] and not _goes(part.order, text, language):
            _mark(verdict, "side", False, f"it goes from {part.order[0]} to {part.order[1]}")
    return verdict


def judge_claims(claims: Sequence[Mapping[str, str]], parts: Sequence[Part]) -> Verdict:
    """The atomic changes of kind `detailed` against the atomic edits, each edit with the claim that tells it best.

    Nobody asks a claim for sizes and strengths. More claims than edits are inventions. Where a claim can be asked for
    nothing (a blur) it is taken to tell the edit: see `claimable`.
    """
    verdict = Verdict(dict.fromkeys(ASPECTS))
    said = [_of_claim(claim) for claim in claims]
    left = list(range(len(claims)))
    for part in parts:
        facts = _claimed(part)
        if not left:
            verdict.missed.append(part.template)
            verdict.problems.append(f"`{part.template}` is not told")
            continue
        best = max(left, key=lambda k: sum(_in_claim(fact, said[k], claims[k]) for fact in facts))
        left.remove(best)
        for kind, name in facts:
            right = _in_claim((kind, name), said[best], claims[best])
            aspect = "operation" if name.startswith("operation:") else kind
            _mark(verdict, aspect, right, f"{_listed([name])} is not named")
        _mark_exchanged(verdict, said[best], [part])
    verdict.invented = [claims[k]["object"] for k in left]
    verdict.problems += [f"{thing}: nobody asked for it" for thing in verdict.invented]
    return verdict


def claimable(parts: Sequence[Part]) -> bool:
    """Whether a claim can be right or wrong about every part."""
    return all(map(_claimed, parts))


def _claimed(part: Part) -> list[tuple[str, str]]:
    return [(kind, name) for kind in ("thing", "side", "colour", "text") for name in part.needed.get(kind, ())]


def _mark_exchanged(verdict: Verdict, said: Mentions, parts: Sequence[Part]) -> None:
    """A shape that is called by the colour of another one."""
    known = {pair for part in parts for pair in part.coloured}
    colours, shapes = {colour for colour, _ in known}, {shape for _, shape in known}
    for colour, shape in sorted(said.coloured - known):
        if colour in colours and shape in shapes:
            _mark(verdict, "colour", False, f"there is no {colour} {_listed([shape])}")


def _of_claim(claim: Mapping[str, str]) -> Mentions:
    return mentions_of(
        f"{claim['action']} {claim['object']}: {claim['before']}, {claim['after']} ({claim['where']})", "en"
    )


def _in_claim(fact: tuple[str, str], said: Mentions, claim: Mapping[str, str]) -> bool:
    kind, name = fact
    if kind == "text":
        return any(name in (claim[key] or "") for key in ("object", "before", "after"))
    return name in said.told[kind]


def _mark(verdict: Verdict, aspect: str, right: bool, problem: str) -> None:
    verdict.right[aspect] = right and verdict.right[aspect] is not False
    if not right:
        verdict.problems.append(f"{aspect}: {problem}")


def _union(tolds: Iterable[Told]) -> dict[str, frozenset[str]]:
    return _told((kind, name) for told in tolds for kind, names in told.items() for name in names)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(name.rpartition(":")[2].replace("_", " ") for name in names))


def _is_told(part: Part, parts: Sequence[Part], said: Mentions) -> bool:
    """Whether anything speaks for it that does not speak for another part: half of what is only its own."""
    others = _union(other.needed for other in parts if other is not part)
    own = [
        (kind, name)
        for kind, names in part.needed.items()
        for name in names
        if name not in others.get(kind, ()) and kind != "strength"
    ]
    shared = own or [(kind, name) for kind, names in part.needed.items() for name in names if kind != "strength"]
    found = sum(name in said.told[kind] for kind, name in shared)
    total = len(shared)
    if part.effect is not None and not any(other.template == part.template for other in parts if other is not part):
        found, total = found + (part.effect.search(said.bare) is not None), total + 1
    return total == 0 or 2 * found >= total


def _vague(name: str, parts: Sequence[Part]) -> bool:
    """Whether a place is a less exact name of one that may be named: `left` of `top_left`."""
    allowed = _union(part.allowed for part in parts).get("side", frozenset())
    return any(set(name.split("_")) < set(place.split("_")) for place in allowed)


def _goes(order: tuple[str, ...], text: str, language: str) -> bool:
    """Whether a text goes from the first place to the second: by the order of its first sentence, or by "from"."""
    places = mentions_of(first_sentence(text), language).places
    first = next((place for place in places if place.name == order[0]), None)
    second = next((place for place in places if place.name == order[1]), None)
    if first is None or second is None:
        return True
    return first.origin or (first.start < second.start and not second.origin)
