"""From a judge's reply to numbers, twice per benchmark: as its script does it, and as we think it right.

`*_official` give what the released script computes from a reply, its defects included. Where the script would draw
a number at random, they return `Random`; where it would ask again, `Unparsed`; where it would crash, they raise what
it raises. Only `--scoring official` may turn any of those into a number.

`*_strict` give `Scores` only for a reply that says what was asked for: every label, once, in range. Anything else is
`Unparsed`, and says why. They forgive typography (bold, list marks, a full-width colon, `4/5`, a line break inside a
JSON string, a comma before a closing bracket), never content. Of a thinking model they read what it answers.

Sources: descriptions of the released evaluation code of VIEScore, GEdit-Bench, ImgEdit, REDEdit-Bench, RISEBench and
KRIS-Bench.
"""

from __future__ import annotations

import functools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec

from edittools.models.writers.thoughts import answer_of

P = ParamSpec("P")


@dataclass(frozen=True)
class Scores:
    """What a reply says, by label. `spans` is where each number stands in the reply: (start, end)."""

    values: dict[str, float]
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    capped: tuple[str, ...] = ()  # labels whose number was lowered to the first one's


@dataclass(frozen=True)
class Unparsed:
    """A reply that says no score. Not a number, and nothing may be made of it."""

    reason: str


@dataclass(frozen=True)
class Random:
    """The official script draws an integer from `low` to `high`, evenly, and takes it for the score."""

    low: int
    high: int


Strict = Callable[Concatenate[str, P], Scores | Unparsed]


def _of_the_answer(parse: Strict[P]) -> Strict[P]:
    """Reads the answer behind a finished thought; the draft in an unfinished one says nothing."""

    @functools.wraps(parse)
    def read(reply: str, *args: P.args, **options: P.kwargs) -> Scores | Unparsed:
        answer = answer_of(reply)
        return Unparsed("the thought is not finished") if answer is None else parse(answer, *args, **options)

    return read


# ---------------------------------------------------------------- labelled lines: ImgEdit, UGE, REDEdit-Bench


def imgedit_official(reply: str) -> list[int]:
    """The numbers that ImgEdit's script counts: lines of exactly one `: ` whose second part is all digits.

    Neither labels nor count nor range matter. Raises ValueError for digits that are no decimals (`²`) and
    AttributeError for what is no text, as the script does.
    """
    if not isinstance(reply, str):
        raise AttributeError(f"'{type(reply).__name__}' object has no attribute 'splitlines'")
    halves = (line.strip().split(": ") for line in reply.splitlines())
    return [int(half[1]) for half in halves if len(half) == 2 and half[1].isdigit()]


def rededit_official(reply: object) -> list[int]:
    """REDEdit-Bench's variant: blanks around the number are dropped, and what is no text counts for nothing.

    A stored failure such as `Error: 429` is a score of 429.
    """
    if not isinstance(reply, str):
        return []
    halves = (line.strip().split(": ") for line in reply.splitlines())
    return [int(half[1].strip()) for half in halves if len(half) == 2 and half[1].strip().isdigit()]


def official_average(numbers: Sequence[int]) -> float | None:
    """The mean of one reply's numbers, rounded to 2 digits (ties to even); None without a number."""
    return round(sum(numbers) / len(numbers), 2) if numbers else None


_MARKS = " \t*_#>•-–—|`"  # around a label
_BOLD = " \t\r*_`|"  # around a number: a minus sign belongs to it
_RATING = re.compile(
    # Possessive blanks: a reply that ends in a thousand of them is read in one pass.
    r"(?P<number>[+-]?\d{1,6}(?:[.,]\d{1,6})?)\s*+(?:/\s*+(?P<of>\d{1,6}))?\s*+(?:\([^()\d]*\))?\s*+[.。]?"
)


@_of_the_answer
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
    found: dict[str, tuple[str, float, tuple[int, int]]] = {}
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
        if folded in found and found[folded][1] != value:
            return Unparsed(f"`{label}` is there twice, with different numbers")
        if folded not in found:
            found[folded] = (label, value, (start + span[0], start + span[1]))
    if wanted is not None:
        missing = [label for folded, label in wanted.items() if folded not in found]
        if missing:
            return Unparsed("no line for " + ", ".join(f"`{label}`" for label in missing))
        rows = [(label, *found[folded][1:]) for folded, label in wanted.items()]
    else:
        if len(found) != count:
            return Unparsed(f"{len(found)} lines with a number instead of {count}")
        rows = sorted(found.values(), key=lambda one: not _IS_FIRST.search(_folded(one[0])))
    values = {label: value for label, value, _ in rows}
    lowered = tuple(label for label, value in values.items() if cap and value > rows[0][1])
    values.update({label: rows[0][1] for label in lowered})
    return Scores(values, {label: span for label, _, span in rows}, lowered)


_SCORE = re.compile(r"\bscore\b[\s*_`]*[:：][\s*_`]*(\S+)", re.IGNORECASE)


_OUT_OF = re.compile(r"^[\s*_`]*(?:/|(?:out\s+)?of\b)\s*(\d+)", re.IGNORECASE)


@_of_the_answer
def uge_strict(reply: str) -> Scores | Unparsed:
    """One number after `Score:`, an integer from 1 to 5, on its own line or at the end of the reasoning.

    The suite's rubric asks for no score line, so the place is left to the reply; two numbers must agree.
    """
    found = []
    for match in _SCORE.finditer(reply):
        rating = _RATING.fullmatch(match[1].strip("*_`,;"))
        if rating is None:
            return Unparsed("`Score` has no number")
        value = float(rating["number"].replace(",", "."))
        scale = rating["of"] or next(iter(_OUT_OF.findall(reply[match.end() : match.end() + 40])), None)
        if value != int(value) or not 1 <= value <= 5 or scale not in (None, "5"):
            return Unparsed(f"`Score` is {rating[0]}, not an integer from 1 to 5")
        begin = match.start(1) + match[1].index(rating["number"])
        found.append((value, (begin, begin + len(rating["number"]))))
    if not found:
        return Unparsed("no `Score`")
    if len({value for value, _ in found}) > 1:
        return Unparsed("`Score` is there twice, with different numbers")
    return Scores({"score": found[-1][0]}, {"score": found[-1][1]})


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
    match = _RATING.fullmatch(rest.rstrip().strip(_BOLD).replace("*", " ").strip())
    if match is None:
        return None
    number = match.group("number")
    begin = at + rest.index(number)
    value = float(number.replace(",", "."))
    return value, int(match.group("of")) if match.group("of") else None, (begin, begin + len(number))


# ---------------------------------------------------------------- JSON: our own rubrics


@_of_the_answer
def json_strict(reply: str, keys: Sequence[str], low: int, high: int) -> Scores | Unparsed:
    """A JSON object that has every key once, with an integer from `low` to `high`.

    It may stand in a code fence or between sentences; two such objects must agree.
    """
    objects = [
        (start, end, pairs)
        for start, end, pairs in _objects(reply)
        if isinstance(pairs, list) and {key for key, _ in pairs} & set(keys)
    ]
    if not objects:
        return Unparsed("no JSON object with the scores")
    read: list[Scores] = []
    for start, end, pairs in objects:
        values: dict[str, float] = {}
        for key in keys:
            given = [value for name, value in pairs if name == key]
            if len(given) != 1:
                return Unparsed(f"`{key}` is {'missing' if not given else 'there twice'}")
            value = given[0]
            if isinstance(value, bool) or not isinstance(value, int):
                return Unparsed(f"`{key}` is not an integer: {_short(value)}")
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


class _Pairs(list):
    """A JSON object as its pairs, so that a key given twice is seen."""


# Not strict: models write line breaks and tabs inside a string as they are.
_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs, strict=False)
_STRING_OR_COMMA = re.compile(r'"(?:\\.|[^"\\])*"|,(?=\s*[}\]])', re.DOTALL)


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins there and where it ends. Raises ValueError and RecursionError."""
    try:
        return _DECODER.raw_decode(text, at)
    except ValueError:
        # A comma before a closing bracket becomes a blank: everything stays where it was.
        mended = _STRING_OR_COMMA.sub(lambda match: " " if match[0] == "," else match[0], text[at:])
        value, end = _DECODER.raw_decode(mended)
        return value, at + end


def _objects(text: str) -> Iterator[tuple[int, int, Any]]:
    """The outermost JSON objects in a text: (start, end, pairs)."""
    at = text.find("{")
    while at >= 0:
        try:
            value, end = _decoded(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield at, end, value
        at = text.find("{", end)


def _short(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:  # the decoder goes deeper than the encoder
        return "nested too deeply"
    return text if len(text) <= 40 else text[:37] + "..."


# ---------------------------------------------------------------- VIEScore, GEdit-Bench

_DELIMITER = "||V^=^V||"


def viescore_official(reply: str, later: bool = False) -> Any | Unparsed | Random:
    """What VIEScore takes a reply for: its dictionary, `Unparsed` (both calls are asked again), or `Random`.

    `later` is a second or later try. The script then guesses wherever a reply has no braces, even for a list that it
    had understood the first time. A reply with braces that cannot be repaired stays unparsed for ever. The returned
    dictionary may lack `score`, or hold anything in it; between delimiters it need not even be a dictionary.
    """
    if reply.count(_DELIMITER) == 2:
        body = reply[reply.find(_DELIMITER) + len(_DELIMITER) : reply.rfind(_DELIMITER)]  # two may overlap
        if not body:
            return Unparsed("nothing between the delimiters")
        return _vie_object(body)
    opening, closing = reply.find("{"), reply.rfind("}")
    if opening >= 0 and closing >= 0:
        return _vie_object(reply[opening : closing + 1])
    if later:
        return Random(0, 10)
    start, end = reply.find("["), reply.rfind("]") + 1
    if re.match(r"^\[\d+, ?\d+\]$", reply[start:end]):
        return _vie_object(f'{{"score": {reply[start:end]}}}')
    try:
        number = int(reply)
    except ValueError:
        return Unparsed("no JSON object")
    return {"score": [number]} if 0 <= number <= 10 else Unparsed("no JSON object")


def _vie_object(text: str) -> Any | Unparsed:
    text = text.strip().replace("\n", "")
    try:
        found = json.loads(text)
        if not isinstance(found["score"], list):
            found["score"] = [found["score"]]
        return found
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        pass
    try:
        return json.loads(_vie_repaired(text))
    except (ValueError, RecursionError):
        return Unparsed("braces that cannot be repaired")


def _vie_repaired(text: str) -> str:
    """VIEScore's repair: bare words before a colon become keys, and every value up to the next `,` or `}` is quoted.

    Numbers are put into lists instead, and true, false and null left alone. The script uses the package `regex`, whose
    idea of a word differs from `re`'s in a few characters.
    """
    import regex

    def quoted(match: Any) -> str:
        key, value, close = match[1], match[2].strip(), match[3]
        if re.match(r"^-?\d+(\.\d+)?$", value):
            value = "[" + value + "]"
        elif value.lower() not in ("true", "false", "null"):
            value = '"' + value + '"'
        return key + ": " + value + close

    return regex.sub(r'(".*?"):(.*?)(,|})', quoted, regex.sub(r"(\w+):", r'"\1":', text))


def viescore_official_scores(semantics: Any, quality: Any) -> tuple[Any, Any, float]:
    """[SC, PQ, overall] from two dictionaries; raises what the script raises (it then waits and asks again)."""
    lowest, plain = min(semantics["score"]), min(quality["score"])
    return lowest, plain, math.sqrt(lowest * plain)


@_of_the_answer
def viescore_strict(reply: str, count: int = 2, low: float = 0, high: float = 10) -> Scores | Unparsed:
    """A JSON object whose `score` is a list of `count` numbers in range; the values are `score_1`, `score_2`."""
    objects = [(start, end, pairs) for start, end, pairs in _objects(reply) if isinstance(pairs, _Pairs)]
    lists = [(start, end, value) for start, end, pairs in objects for key, value in pairs if key == "score"]
    if len(lists) != 1:
        return Unparsed("no JSON object with `score`" if not lists else "`score` is there twice")
    start, end, value = lists[0]
    if not isinstance(value, list) or isinstance(value, _Pairs):
        return Unparsed(f"`score` is not a list: {_short(value)}")
    if len(value) != count:
        return Unparsed(f"{len(value)} scores instead of {count}")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float):
            return Unparsed(f"not a number: {_short(item)}")
        if not low <= item <= high:  # NaN fails this too
            return Unparsed(f"{_short(item)} is not from {low:g} to {high:g}")
    names = [f"score_{k}" for k in range(1, count + 1)]
    spans = {}
    opened = re.compile(r'"score"\s*:\s*\[').search(reply, start, end)
    if opened is not None:
        numbers = re.compile(r"-?\d+(?:\.\d+)?").finditer(reply, opened.end(), reply.index("]", opened.end()))
        spans = {name: match.span() for name, match in zip(names, numbers)}
    return Scores(dict(zip(names, value)), spans)


# ---------------------------------------------------------------- RISEBench


def risebench_official(reply: str) -> list[int] | None:
    """The digits after the first `Final Score` that has any (then `Final Scores`): all of them; None without one.

    An empty list is a heading without digits, which the script treats like None.
    """
    for heading in ("Score", "Scores"):
        matches = re.findall(rf"\*?\*?Final {heading}\*?\*?:?\s*([\d*\s,\n]*)", reply, re.IGNORECASE)
        for match in matches:
            numbers = re.findall(r"\d+", match)
            if numbers:
                return [int(number) for number in numbers]
    return [] if matches else None


_FINAL = re.compile(r"final\s+score\s*[*_`]*\s*[:：]?[\s*_`]*(?P<rest>[^\n]*)", re.IGNORECASE)


@_of_the_answer
def risebench_strict(reply: str, low: int = 1, high: int = 5) -> Scores | Unparsed:
    """Exactly one number after the last `Final Score`, an integer in range; the value is `score`."""
    matches = list(_FINAL.finditer(reply))
    if not matches:
        return Unparsed("no line `Final Score`")
    last = matches[-1]
    match = _RATING.fullmatch(last["rest"].strip(_BOLD).replace("*", " ").strip())
    if match is None:
        return Unparsed("`Final Score` is not one number")
    value = float(match["number"].replace(",", "."))
    if match["of"] and int(match["of"]) != high:
        return Unparsed(f"out of {match['of']}, not {high}")
    if value != int(value) or not low <= value <= high:
        return Unparsed(f"{value:g} is not an integer from {low} to {high}")
    begin = last.start("rest") + last["rest"].index(match["number"])
    return Scores({"score": value}, {"score": (begin, begin + len(match["number"]))})


# ---------------------------------------------------------------- KRIS-Bench

_KRIS_LOOSE = (r"([1-5])\s*/\s*5", r"([1-5])\s+out\s+of\s+5", r"\b([1-5])\b")


def kris_official(reply: str, key: str, *, named: bool = True, knowledge: bool = False) -> int | None:
    """One score as KRIS-Bench's scripts find it: a JSON object with `key`, else expressions, else any digit 1 to 5.

    `named` also looks for the key's own words before a number (the temporal and multi-element scripts do not);
    `knowledge` is the script of the ten knowledge categories, which wants a colon there.
    """
    found = re.search(r"\{[^{}]*" + re.escape(key) + r"[^{}]*\}", reply, re.DOTALL)
    if found:
        try:
            data = json.loads(found[0])
            value = data.get(key)
            if value is not None:
                return int(value)
            if knowledge:
                return None
        except Exception:  # the script catches everything and goes on looking
            pass
    words = key.removesuffix("_score") + r"[_\s]*score\s*[:：]" + ("" if knowledge else "?") + r"\s*([1-5])"
    for pattern in ((words,) if named or knowledge else ()) + _KRIS_LOOSE:
        match = re.search(pattern, reply, re.IGNORECASE | re.DOTALL)
        if match:
            return int(match[1])
    return None


def kris_official_dual(reply: str) -> dict[str, int | None]:
    """Instruction and knowledge scores from the one reply that holds both."""
    keys = ("instruction_score", "knowledge_score")
    found = re.search(r"\{[^{}]*instruction_score[^{}]*\}", reply, re.DOTALL)
    if found:
        try:
            data = json.loads(found[0])
            return {key: None if data.get(key) is None else int(data[key]) for key in keys}
        except Exception:  # as above
            pass
    result: dict[str, int | None] = {}
    for key in keys:
        match = re.search(key.removesuffix("_score") + r"[_\s]*score\s*[:：]\s*([1-5])", reply, re.IGNORECASE)
        result[key] = int(match[1]) if match else None
    return result


def kris_strict(reply: str, keys: Sequence[str]) -> Scores | Unparsed:
    """A JSON object with every key, each an integer from 1 to 5."""
    return json_strict(reply, keys, 1, 5)
