"""A small grammar for wordings.

    {a|b|c}       one of the alternatives, each equally likely; they may be empty and nested
    [a|b]         the same, or nothing (an even chance)
    <name>        a slot: its value put into words
    <name:kind>   a slot whose value is looked up under another kind of word

A slot's word comes from the `lookup` function of the caller and may itself be a pattern, so that a
lexicon entry can offer synonyms. Values that must be inserted literally are wrapped in `Literal`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


class Literal(str):
    """Text that is inserted as it stands: no sign in it belongs to the grammar."""


@dataclass(frozen=True)
class Slot:
    name: str
    kind: str


@dataclass(frozen=True)
class Choice:
    options: tuple["Sequence", ...]
    optional: bool


Sequence = tuple[str | Slot | Choice, ...]
Lookup = Callable[[str, str], str]

_TOKEN = re.compile(r"[{}\[\]|]|<[a-z_]+(?::[a-z_]+)?>|[^{}\[\]|<>]+")
_CLOSING = {"{": "}", "[": "]"}


class GrammarError(ValueError):
    """A pattern that cannot be read."""


@lru_cache(maxsize=4096)
def parse(pattern: str) -> Sequence:
    """Read a pattern; raise GrammarError if brackets do not match or a slot is malformed."""
    tokens = _TOKEN.findall(pattern)
    if "".join(tokens) != pattern:
        raise GrammarError(f"stray sign in pattern: {pattern!r}")
    sequence, rest = _parse_sequence(tokens, 0, pattern)
    if rest != len(tokens):
        raise GrammarError(f"unmatched {tokens[rest]!r} in pattern: {pattern!r}")
    return sequence


def _parse_sequence(tokens: list[str], at: int, pattern: str) -> tuple[Sequence, int]:
    parts: list[str | Slot | Choice] = []
    while at < len(tokens) and tokens[at] not in ("|", "}", "]"):
        token = tokens[at]
        if token in _CLOSING:
            choice, at = _parse_choice(tokens, at, pattern)
            parts.append(choice)
            continue
        if token.startswith("<"):
            name, _, kind = token[1:-1].partition(":")
            # `new_color` is a color: the last part of a slot's name says what kind of word it is
            parts.append(Slot(name, kind or name.rsplit("_", 1)[-1]))
        else:
            parts.append(token)
        at += 1
    return tuple(parts), at


def _parse_choice(tokens: list[str], at: int, pattern: str) -> tuple[Choice, int]:
    opening = tokens[at]
    options = []
    at += 1
    while True:
        option, at = _parse_sequence(tokens, at, pattern)
        options.append(option)
        if at >= len(tokens):
            raise GrammarError(f"unclosed {opening!r} in pattern: {pattern!r}")
        if tokens[at] == _CLOSING[opening]:
            return Choice(tuple(options), opening == "["), at + 1
        if tokens[at] != "|":
            raise GrammarError(f"{tokens[at]!r} closes {opening!r} in pattern: {pattern!r}")
        at += 1


def expand(pattern: str, lookup: Lookup, rng: np.random.Generator) -> str:
    """Expand a pattern into one text, with tidy spaces but no capital letter and no full stop."""
    return tidy(_expand(parse(pattern), lookup, rng))


def _expand(sequence: Sequence, lookup: Lookup, rng: np.random.Generator) -> str:
    text = []
    for part in sequence:
        if isinstance(part, Choice):
            if part.optional and rng.integers(2):
                continue
            option = part.options[int(rng.integers(len(part.options)))]
            text.append(_expand(option, lookup, rng))
        elif isinstance(part, Slot):
            word = lookup(part.name, part.kind)
            text.append(word if isinstance(word, Literal) else _expand(parse(word), lookup, rng))
        else:
            text.append(part)
    return "".join(text)


def openings(sequence: Sequence) -> frozenset[str]:
    """The words that a wording may begin with, as far as they are the pattern's own."""
    if not sequence or isinstance(sequence[0], Slot):
        return frozenset()
    if isinstance(sequence[0], str):
        return frozenset(sequence[0].split()[:1])
    return frozenset().union(*map(openings, sequence[0].options))


_CJK = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
QUOTED = re.compile(r'("[^"]*"|“[^”]*”)')  # what is written as it stands


def _unquoted(change: Callable[[str], str], text: str) -> str:
    """The text changed, but for what is in quotation marks: that is written as it stands."""
    return "".join(part if k % 2 else change(part) for k, part in enumerate(QUOTED.split(text)))


def tidy(text: str) -> str:
    """Close the gaps that empty slots leave, and none at all between Chinese characters."""
    return _unquoted(_closed, text).strip()


def _closed(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r" ([,.;:?!])", r"\1", text)
    return re.sub(rf"(?<={_CJK}) | (?={_CJK})", "", text)


def sentence(text: str, lang: str) -> str:
    """Make a bare wording a sentence: a capital letter, a(n) before vowels, a full stop."""
    if lang == "zh":
        return text if text.endswith(("。", "？", "！")) else text + "。"
    text = articles(text)
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."


def articles(text: str) -> str:
    """`a orange star` -> `an orange star`, by how the next word is spoken: `a uniform`, `a one-way sign`, `an hour`."""
    return _unquoted(lambda part: _VOWEL.sub(r"\1n ", part), text)


_VOWEL = re.compile(
    r"\b([Aa]) (?!(?i:uni[cfoqstv]|ur[ai]n|us[aeu]|ut[ei]|uk[eu]|eu|one\b|once\b))"
    r"(?=[aeiou]|[AEIOU][a-z]|(?i:hour|heir|honest))"
)


def with_article(noun: str) -> str:
    """`a dog`, `an owl`; what has an article, or is a plural by its look, stays as it is."""
    first = noun.split(" ", 1)[0].casefold()
    if first in ("a", "an", "the", "some", "two", "three") or is_plural(noun):
        return noun
    return articles(f"a {noun}")


def is_plural(noun: str) -> bool:
    """By its look: `trousers`, and not `bus`, `glass` or `rhinoceros`."""
    last = noun.casefold().split(" ")[-1]
    return last.endswith("s") and not last.endswith(("ss", "us")) and last not in _SINGULAR


_SINGULAR = frozenset("rhinoceros lens gas canvas atlas iris christmas".split())


def without_article(noun: str) -> str:
    """`red vase` of `a red vase`: what a detector is asked for."""
    first, _, rest = noun.partition(" ")
    return rest if first.casefold() in ("a", "an", "the", "some") and rest else noun
