"""The answers of raters: files that the page exports, or the database of a study that was served."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edittools.bench.studies.design import Design
from edittools.errors import EditError
from edittools.stream import files

KEY_FORMAT = "edittools study key"
ANSWERS_FORMAT = "edittools study answers"
VERSION = 1
_SQLITE = b"SQLite format 3\0"

Values = dict[tuple[str, str], float]
"""(letter, dimension) -> value of one rater's answer to a case."""


def read_json(path: str, kind: str) -> dict[str, Any]:
    """A key or a rater's answers. Raises EditError if the file is not that."""
    try:
        data = json.loads(files.read_bytes(path))
    except OSError as error:
        raise EditError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise EditError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != kind:
        raise EditError(f"{path}: not a file of the kind `{kind}`")
    if data.get("version") != VERSION:
        raise EditError(f"{path}: version {data.get('version')}, this edittools reads {VERSION}")
    return data


def read_answers(path: str) -> list[dict[str, Any]]:
    """The answers of one rater, or of all in a database that `edit eval study serve` wrote. Raises EditError."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(len(_SQLITE)) == _SQLITE:
            return _of_database(path)
    return [read_json(path, ANSWERS_FORMAT)]


def _of_database(path: str) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT study, rater, number, answer FROM answers ORDER BY rater, number")
            for study, rater, number, answer in rows:
                one = found.setdefault((study, rater), {"study": study, "rater": rater, "answers": {}})
                one["answers"][str(number)] = json.loads(answer)
    except (sqlite3.Error, ValueError) as error:
        raise EditError(f"{path}: not the answers of a study: {error}") from error
    return [{"format": ANSWERS_FORMAT, "version": VERSION, **one} for one in found.values()]


def given_answers(
    key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], asked: Design
) -> Iterator[tuple[str, int, dict[str, Any], Values | None]]:
    """(rater, case, answer, values) of every answer; the values are None where it is not complete.

    Raises EditError for answers of another study, a rater who comes twice, or answers that the design has not.
    """
    if not answers:
        raise EditError("no answers to score")
    cases, seen = key["cases"], set()
    numbers = set(map(str, range(len(cases))))
    for given in answers:
        rater = str(given.get("rater"))
        if given.get("study") != key["study"]:
            raise EditError(f"answers of {rater}: of another study ({given.get('study')}, not {key['study']})")
        if rater in seen:
            raise EditError(f"rater {rater} comes twice", hint="give one file per rater, the last one exported")
        seen.add(rater)
        for number, answer in _table(given.get("answers"), rater).items():
            if number not in numbers:
                raise EditError(f"answers of {rater}: there is no case {number}")
            answer = _table(answer, rater)
            where = f"answers of {rater}, case {number}"
            yield rater, int(number), answer, values_of(answer, cases[int(number)]["results"], asked, where)


def values_of(answer: Mapping[str, Any], letters: Mapping[str, str], asked: Design, where: str) -> Values | None:
    """What an answer says of a case's results; None if something is not answered yet.

    Raises EditError, naming `where`, for what is no answer to this design.
    """
    given = answer.get("given")
    shown = answer.get("shown") or []
    if not isinstance(given, dict) or not all(isinstance(one, dict) for one in given.values()):
        raise EditError(f"{where}: not as the page writes them")
    if not isinstance(shown, list):
        raise EditError(f"{where}: not as the page writes them")
    names = {dimension.name for dimension in asked.dimensions}
    values: Values = {}
    _check_words(answer, where)
    for letter, levels in given.items():
        for dimension, level in levels.items():
            known = letter in letters and dimension in names
            if not known or type(level) is not int or not 1 <= level <= len(asked.values):
                raise EditError(f"{where}: result {letter}, {dimension}: {level} is no answer to this design")
            values[letter, dimension] = asked.values[level - 1]
    if asked.picks:
        if len(values) > asked.picks:
            raise EditError(f"{where}: {len(values)} picks of {asked.picks}")
        if len(values) < asked.picks and not (asked.none and answer.get("none") is True and not values):
            return None
        return {(letter, name): values.get((letter, name), 0.0) for letter in letters for name in names}
    if len(values) < len(letters) * len(names) or not _explained(answer, values, asked, where):
        return None
    return values


def _explained(answer: Mapping[str, Any], values: Values, asked: Design, where: str) -> bool:
    """Whether an answer has what its level needs: a reason, or other words."""
    said, words = answer.get("reason"), answer.get("instruction")
    if asked.reasons and said is not None and said not in asked.reasons:
        raise EditError(f"{where}: `{said}` is no reason of this design")
    levels = {asked.levels[asked.values.index(value)] for value in values.values()}
    if asked.reasons and asked.levels[-1] in levels and said is None:
        return False
    return not (asked.edits in levels and not any(word.strip() for word in (words or {}).values()))


def _check_words(answer: Mapping[str, Any], where: str) -> None:
    words = answer.get("instruction")
    if words is not None and not (isinstance(words, dict) and all(isinstance(word, str) for word in words.values())):
        raise EditError(f"{where}: not as the page writes them")


def _table(value: Any, rater: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EditError(f"answers of {rater}: not as the page writes them")
    return value
