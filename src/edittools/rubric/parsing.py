"""From a judge's reply to numbers: the grammars that several rubrics share, lines `Label: n` and JSON.

A benchmark's file reads a reply twice, as its script does it and as we think it right. `*_official` give what the
released script computes from a reply, its defects included. Where the script would draw a number at random, they
return `Random`; where it would ask again, `Unparsed`; where it would crash, they raise what it raises. Only `--scoring
official` may turn any of those into a number.

`*_strict`, here and there, give `Scores` only for a reply that says what was asked for: every label, once, in range.
Anything else is `Unparsed`, and says why. They forgive typography (bold, list marks, a full-width colon, `4/5`, a line
break inside a JSON string, a comma before a closing bracket), never content. Of a thinking model they read what it
answers.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec

from edittools.vlm.objects import Pairs, objects
from edittools.vlm.thoughts import answer_of

P = ParamSpec("P")


@dataclass(frozen=True)
class Scores:
    """What a reply says, by label. `spans` is where each number stands in the reply: (start, end)."""

    values: dict[str, float]
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    capped: tuple[str, ...] = ()  # labels whose number was lowered to the first one's


@dataclass(frozen=True)
class Unparsed:
    """A reply without a readable score, and why. It never becomes a number."""

    reason: str


@dataclass(frozen=True)
class Random:
    """The official script draws an integer from `low` to `high`, evenly, and takes it for the score."""

    low: int
    high: int


Strict = Callable[Concatenate[str, P], Scores | Unparsed]


def of_the_answer(parse: Strict[P]) -> Strict[P]:
    """Reads the answer behind a finished thought; the draft in an unfinished one says nothing."""

    @functools.wraps(parse)
    def read(reply: str, *args: P.args, **options: P.kwargs) -> Scores | Unparsed:
        answer = answer_of(reply)
        return Unparsed("the thought is not finished") if answer is None else parse(answer, *args, **options)

    return read


# ---------------------------------------------------------------- labelled lines


def official_average(numbers: Sequence[int]) -> float | None:
    """The mean of one reply's numbers, rounded to 2 digits (ties to even); None without a number."""
    return round(sum(numbers) / len(numbers), 2) if numbers else None


_MARKS = " \t*_#>•-–—|`"  # around a label
BOLD = " \t\r*_`|"  # around a number: a minus sign belongs to it
RATING = re.compile(
    # Possessive blanks: a reply that ends in a thousand of them is read in one pass.
    r"(?P<number>[+-]?\d{1,6}(?:[.,]\d{1,6})?)\s*+(?:/\s*+(?P<of>\d{1,6}))?\s*+(?:\([^()\d]*\))?\s*+[.。]?"
)


@of_the_answer
def labelled_strict(
    reply: str,
    labels: Sequence[str] | None = None,
    *,
    count: int = 3,
    low: int = 1,
    high: int = 5,
    cap: bool = True,
) -> Scores | Unparsed:
    """Lines `Label: n`: each of `labels` once, integers in range; with `cap`, none above that of the first label.

    Without `labels`, exactly `count` lines with different labels must carry a number, reasoning lines aside; the first
    is then the one that says whether the instruction was followed, as the rubrics call it, or else the first line.
    """
    rated: dict[str, tuple[str, float, tuple[int, int]]] = {}
    wanted = None if labels is None else {_folded(label): label for label in labels}
    for start, line in _lines(reply):
        label, at = _label(line)
        if label is None:
            continue
        folded = _folded(label)
        if wanted is not None and folded not in wanted:
            continue
        if wanted is None and (_IS_REASONING.search(folded) or _IS_TOTAL.fullmatch(folded)):
            continue
        rating = _rating(line, at)
        if rating is None:
            if wanted is None:
                continue  # a line of prose with a colon
            return Unparsed(f"`{label}` has no number")
        value, of, span = rating
        if of is not None and of != high:
            return Unparsed(f"`{label}` is out of {of}, not {high}")
        if value != int(value) or not low <= value <= high:
            return Unparsed(f"`{label}` is {value:g}, not an integer from {low} to {high}")
        if folded in rated and rated[folded][1] != value:
            return Unparsed(f"`{label}` is there twice, with different numbers")
        if folded not in rated:
            rated[folded] = (label, value, (start + span[0], start + span[1]))
    if wanted is not None:
        missing = [label for folded, label in wanted.items() if folded not in rated]
        if missing:
            return Unparsed("no line for " + ", ".join(f"`{label}`" for label in missing))
        rows = [(label, *rated[folded][1:]) for folded, label in wanted.items()]
    else:
        if len(rated) != count:
            return Unparsed(f"{len(rated)} lines with a number instead of {count}")
        rows = sorted(rated.values(), key=lambda one: not _IS_FIRST.search(_folded(one[0])))
    values = {label: value for label, value, _ in rows}
    lowered = tuple(label for label, value in values.items() if cap and value > rows[0][1])
    values.update({label: rows[0][1] for label in lowered})
    return Scores(values, {label: span for label, _, span in rows}, lowered)


_IS_REASONING = re.compile(r"reason|explan|rationale|comment|error")
# How the rubrics of ImgEdit and REDEdit-Bench call the number that caps the others.
_IS_FIRST = re.compile(r"compliance|^(style|action|motion) fidelity|^object\b.*identity")
_IS_TOTAL = re.compile(r"(total|overall|average|mean|sum)( score)?")  # some judges add them up, though nobody asked


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, line
        start += len(line)


def _folded(label: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def _label(line: str) -> tuple[str | None, int]:
    """The label of a line and where what follows its colon starts."""
    match = re.match(r"([^:：]*)[:：]", line)
    if match is None:
        return None, 0
    label = re.sub(r"^\d+[.)]\s*", "", match.group(1).strip(_MARKS)).strip(_MARKS)
    return (label or None), match.end()


def _rating(line: str, at: int) -> tuple[float, int | None, tuple[int, int]] | None:
    """The number that stands alone after a colon, bold or not: (value, of what, where)."""
    rest = line[at:]
    match = RATING.fullmatch(rest.rstrip().strip(BOLD).replace("*", " ").strip())
    if match is None:
        return None
    number = match.group("number")
    begin = at + rest.index(number)
    value = float(number.replace(",", "."))
    return value, int(match.group("of")) if match.group("of") else None, (begin, begin + len(number))


# ---------------------------------------------------------------- JSON: our own rubrics


@of_the_answer
def json_strict(reply: str, keys: Sequence[str], low: int, high: int) -> Scores | Unparsed:
    """A JSON object that has every key once, with an integer from `low` to `high`.

    It may stand in a code fence or between sentences; two such objects must agree.
    """
    candidates = [(start, end, pairs) for start, end, pairs in objects(reply) if {key for key, _ in pairs} & set(keys)]
    if not candidates:
        return Unparsed("no JSON object with the scores")
    read: list[Scores] = []
    for start, end, pairs in candidates:
        values: dict[str, float] = {}
        for key in keys:
            numbers = [value for name, value in pairs if name == key]
            if len(numbers) != 1:
                return Unparsed(f"`{key}` is {'missing' if not numbers else 'there twice'}")
            value = numbers[0]
            if isinstance(value, bool) or not isinstance(value, int):
                return Unparsed(f"`{key}` is not an integer: {short(value)}")
            if not low <= value <= high:
                return Unparsed(f"`{key}` is {value}, not from {low} to {high}")
            values[key] = value
        spans = {}
        for key in keys:
            match = re.compile(rf'"{re.escape(key)}"\s*:\s*(-?\d+)').search(reply, start, end)
            if match is not None:
                spans[key] = match.span(1)
        read.append(Scores(values, spans))
    if any(other.values != read[-1].values for other in read):
        return Unparsed("two objects with different scores")
    return read[-1]


def short(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:  # the decoder goes deeper than the encoder
        return "nested too deeply"
    return text if len(text) <= 40 else text[:37] + "..."


@of_the_answer
def viescore_strict(reply: str, count: int = 2, low: float = 0, high: float = 10) -> Scores | Unparsed:
    """A JSON object whose `score` is a list of `count` numbers in range; the values are `score_1`, `score_2`."""
    lists = [(start, end, value) for start, end, pairs in objects(reply) for key, value in pairs if key == "score"]
    if len(lists) != 1:
        return Unparsed("no JSON object with `score`" if not lists else "`score` is there twice")
    start, end, value = lists[0]
    if not isinstance(value, list) or isinstance(value, Pairs):
        return Unparsed(f"`score` is not a list: {short(value)}")
    if len(value) != count:
        return Unparsed(f"{len(value)} scores instead of {count}")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float):
            return Unparsed(f"not a number: {short(item)}")
        if not low <= item <= high:  # NaN fails this too
            return Unparsed(f"{short(item)} is not from {low:g} to {high:g}")
    names = [f"score_{k}" for k in range(1, count + 1)]
    spans = {}
    opened = re.compile(r'"score"\s*:\s*\[').search(reply, start, end)
    if opened is not None:
        numbers = re.compile(r"-?\d+(?:\.\d+)?").finditer(reply, opened.end(), reply.index("]", opened.end()))
        spans = {name: match.span() for name, match in zip(names, numbers)}
    return Scores(dict(zip(names, value)), spans)
