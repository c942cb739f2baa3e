"""JSON objects in what a model has written: in code fences, between sentences, with small slips."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator


class Pairs(list):
    """A JSON object as its pairs, so that a key given twice is seen."""


# Not strict: models write line breaks and tabs inside a string as they are.
_DECODER = json.JSONDecoder(object_pairs_hook=Pairs, strict=False)
_COMMA_BEFORE_CLOSING = re.compile(r",\s*[}\]]")
_STRING_OR_COMMA = re.compile(r'"(?:\\.|[^"\\])*"|,(?=\s*[}\]])', re.DOTALL)


def objects(text: str) -> Iterator[tuple[int, int, Pairs]]:
    """The outermost JSON objects in a text: (start, end, pairs). None of what is nested too deeply to be read, nor of
    what follows it.
    """
    at = text.find("{")
    while at >= 0:
        try:
            try:
                value, end = _DECODER.raw_decode(text, at)
            except json.JSONDecodeError as error:
                text = _mended(text, at, error)
                value, end = _DECODER.raw_decode(text, at)
        except ValueError:
            end = at + 1
        except RecursionError:  # every bracket within would be, too
            return
        else:
            yield at, end, value
        at = text.find("{", end)


def _mended(text: str, at: int, error: json.JSONDecodeError) -> str:
    """Every comma from `at` on that stands before a closing bracket becomes a blank, so that everything stays where it
    was. Raises the error where that is none.
    """
    comma = text.rfind(",", at, error.pos + 1)
    if comma < 0 or _COMMA_BEFORE_CLOSING.match(text, comma) is None:
        raise error
    return text[:at] + _STRING_OR_COMMA.sub(lambda match: " " if match[0] == "," else match[0], text[at:])
