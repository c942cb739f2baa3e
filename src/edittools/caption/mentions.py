"""What a text names, by counting words: places, sizes, strengths, shapes and materials, beside the facts of text_facts.

English and Chinese words lead to the same names, those of the slots of `edit synth` (`top_left`, `slight`, `star`), so
that a text can be compared with what an edit is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from edittools.caption.text_facts import COLOUR, facts_of, of_the_edit, quoted, unquoted

_HORIZONTAL = {"left": "L", "right": "R"}
_VERTICAL = {"top": "T", "bottom": "B"}
_TOKENS = {
    "en": {
        "top": r"\b(?:top(?! of what| of it)|upper(?:most)?|above)\b",
        "bottom": r"\b(?:bottom|lowermost|below)\b"
        r"|\blower(?=[- ](?:left|right|half|part|corner|third|edge|cent|middle))",
        "left": r"\bleft(?:most)?\b(?![- ](?:(?:to[- ]|and )(?:the )?)?right)(?! only|,? and nothing)",
        "right": r"(?<!left[- ])(?<!left to )(?<!left and )\bright(?:most)?\b"
        r"(?! (?:now|away|amount|size|colou?r|angle))",
        "center": r"\b(?:cent(?:er|re)|middle(?! (?:tone|gr[ae]y))|central)\b",
    },
    "zh": {
        "top": "顶部?|顶端|(?<=[左右中])上(?!面?[加写画放])|上(?=[方端侧角边半部]|中)",
        "bottom": "底部|底端|(?<=[左右中])下|下(?=[方端侧角边半部]|中)",
        "left": "左(?!右)",
        "right": "(?<!左)右",
        "center": "正中[间央]?|中间(?!调)|中央|中心|(?<=[左右])中|中(?=[上下])",
    },
}
_PLACE = {
    language: re.compile("|".join(f"(?P<{name}>{words})" for name, words in tokens.items()), re.IGNORECASE)
    for language, tokens in _TOKENS.items()
}
# What may stand between two words that name one place: "the middle of the left side", 左侧中间.
_WITHIN = {
    "en": re.compile(r"(?:[- ](?:side|edge|part|half|corner))?[- ,]*(?:(?:of|at|on|in) )?(?:the )?", re.IGNORECASE),
    "zh": re.compile("[侧边部方端]?的?"),
}
_FROM = {
    "en": re.compile(r"\bfrom (?:its place )?(?:(?:in|at|on) )?(?:the )?\Z", re.IGNORECASE),
    "zh": re.compile(r"从\Z"),
}
_NAMES = {
    (None, None): "center", ("T", None): "top", ("B", None): "bottom", (None, "L"): "left", (None, "R"): "right",
    ("T", "L"): "top_left", ("T", "R"): "top_right", ("B", "L"): "bottom_left", ("B", "R"): "bottom_right",
}  # fmt: skip

_SIZES = {
    "small": r"\b(?:small|tiny|fine(?! detail)|(?<!a )little)\b"
    r"|小号|细小|(?<!大)小的|小(?=方块|色块|[正五三菱十圆]|字|文字)",
    "medium": r"\b(?:medium|mid)\b|中号|中等",
    "large": r"\b(?:large|big|huge|coarse)\b|大号|粗大|大的|大(?=方块|色块|[正五三菱十圆]|字|文字)",
}
_STRENGTHS = {
    "slight": r"\b(?:slight(?:ly)?|a (?:little|bit)|subtl[ey]|mild(?:ly)?|faint(?:ly)?|somewhat)\b"
    r"|稍微|略微|稍稍|轻微|轻度|一点|些许",
    "strong": r"\b(?:strong(?:ly)?|heav(?:y|ily)|very|much|far|a lot|really|extremely|greatly|significantly|severely?"
    r"|dramatic(?:ally)?|considerabl[ey])\b|大幅|明显|强烈|重度|非常|十分|大大|极|严重",
}
_THINGS = {
    "shape:square": r"\bsquares?\b|正方形|方块|方形",
    "shape:circle": r"\b(?:circles?|circular|round|discs?)\b|圆",
    "shape:triangle": r"\btriang\w+|三角",
    "shape:star": r"\bstars?\b|五角星|星形",
    "shape:diamond": r"\bdiamonds?\b|\brhomb\w+|菱形",
    "shape:cross": r"\b(?:cross|plus)\b|十字",
    "material:wood": r"\bwood(?:en)?\b|木",
    "material:stone": r"\bstone\b|石",
    "material:brick": r"\bbricks?\b|\bbrickwork\b|砖",
    "material:checker": r"\bcheck\w+|棋盘",
    "material:metal": r"\b(?:metal|metallic|steel)\b|金属|钢",
    "backdrop:solid": r"\b(?:plain|solid|uniform)\b|纯",
    "backdrop:gradient": r"\bgradient\b|渐变",
    "backdrop:checker": r"\bcheck\w+|棋盘",
    "backdrop:stripes": r"\bstrip\w+|条纹",
    "operation:brighten": r"\b(?:bright|light)(?:er|en)|亮",
    "operation:darken": r"\b(?:dark|dim)|暗",
    "operation:gray": r"\bblack[- ]and[- ]white\b|\bcolou?r (?:from|out)\b|\bgr[ae]y|\bdesaturat|黑白|去色|灰",
    "operation:invert": r"\binver|\brevers|\bnegative\b|反|负片",
    "operation:blur": r"\bblur|模糊",
}

_compiled: dict[str, dict[str, re.Pattern[str]]] = {
    "size": {name: re.compile(words, re.IGNORECASE) for name, words in _SIZES.items()},
    "strength": {name: re.compile(words, re.IGNORECASE) for name, words in _STRENGTHS.items()},
    "thing": {name: re.compile(words, re.IGNORECASE) for name, words in _THINGS.items()},
}

# What may stand between the colour and the shape that has it.
_BETWEEN = (
    r"(?:[ -](?:small|tiny|little|medium|mid|sized|large|big|huge|solid|filled|plain|colou?red))*[ -]"
    r"|色?(?:的|[大中小]号?|中等|大小|实心|纯)*"
)
_COLOURED = {
    (colour, thing): re.compile(f"(?:{words.pattern})(?:{_BETWEEN})(?:{_THINGS[thing]})", re.IGNORECASE)
    for colour, words in COLOUR.items()
    for thing in _THINGS
    if thing.startswith("shape:")
}

# Clauses in which people speak of themselves: "I run a small shop and", 我开了一家小店.
_CLAUSE = re.compile(r"(?<=[.!?:])\s+|(?<=[。！？，])|(?<=\band) (?=I\b)|(?<=\bso) (?=I\b)")
_SELF = re.compile(r"\b(?:I|my(?! (?:first|second|last) (?:change|edit))|we|our)\b|\bthis is for\b|我|老板|老师|客户")
_WANTED = re.compile(
    r"\b(?:you|want|need|like|love|wish|please)\b|请|麻烦|希望|帮|能不能|能否|可不可以|想", re.IGNORECASE
)


@dataclass(frozen=True)
class Place:
    """A place that a text names: one of the nine, where in the text it stands, and whether it says "from" there."""

    name: str
    start: int
    origin: bool


@dataclass(frozen=True)
class Mentions:
    """What a text names. `told` holds names by what they are of: colour, side, count, text, size, strength, thing."""

    told: Mapping[str, frozenset[str]]
    places: tuple[Place, ...]
    coloured: frozenset[tuple[str, str]]  # (colour, shape) that stand together
    bare: str  # the text without quotes, what people say of themselves, and what stays as it is


@lru_cache(maxsize=4096)
def mentions_of(text: str, language: str) -> Mentions:
    bare = of_the_edit(_without_speaker(unquoted(text)))
    facts = facts_of(bare)
    places = _places(bare, language)
    found = {
        kind: frozenset(name for name, words in table.items() if words.search(bare))
        for kind, table in _compiled.items()
    }
    turns = {side for side in facts.sides if side.endswith("clockwise")}
    told = {
        "colour": frozenset(facts.colours),
        "side": frozenset(place.name for place in places) | turns,
        "count": frozenset(facts.numbers),
        "text": frozenset(quoted(text)),
        **found,
        # Nothing said is the middle one.
        "strength": found["strength"] or frozenset(("medium",)),
    }
    coloured = frozenset(pair for pair, words in _COLOURED.items() if pair[0] in facts.colours and words.search(bare))
    return Mentions(told, tuple(places), coloured, bare)


def _without_speaker(text: str) -> str:
    clauses = _CLAUSE.split(text)
    kept = [clause for clause in clauses if clause and (not _SELF.search(clause) or _WANTED.search(clause))]
    return " ".join(kept)


def _places(text: str, language: str) -> list[Place]:
    """The places that a text names, in order; words that name one place together count once."""
    found: list[Place] = []
    vertical: str | None = None
    horizontal: str | None = None
    start, end, middle = -1, -1, False

    def close() -> None:
        if start >= 0:
            origin = _FROM[language].search(text, 0, start) is not None
            found.append(Place(_NAMES[vertical, horizontal], start, origin))

    for token in _PLACE[language].finditer(text):
        name = token.lastgroup or ""
        new = (vertical if name in _VERTICAL else horizontal if name in _HORIZONTAL else middle or None) is None
        if start < 0 or not new or not _WITHIN[language].fullmatch(text, end, token.start()):
            close()
            vertical, horizontal, middle, start = None, None, False, token.start()
        vertical = _VERTICAL.get(name, vertical)
        horizontal = _HORIZONTAL.get(name, horizontal)
        middle = middle or name == "center"
        end = token.end()
    close()
    return found
