"""Structured replies: what is sent to get JSON, and how JSON is found in what was written."""

from __future__ import annotations

import json
import re
from typing import Any

# A string, which is left alone, or a comma before a closing bracket.
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])', re.DOTALL)
_OPENING = re.compile(r'\{(?=\s*(?:"|\}))')  # braces in prose are followed by something else


def json_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """`response_format` for endpoints that hold a model to a JSON schema (put it into Request.parameters)."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def parse_json(text: str) -> dict[str, Any]:
    """The outermost JSON object in `text`; what stands around it (prose, code fences) is left out.

    A comma before a closing bracket is dropped; nothing else is repaired. Raises ValueError where there is no object,
    where it is broken or not whole, and where there are several that differ.
    """
    found: list[dict[str, Any]] = []
    while (opening := _OPENING.search(text)) is not None:
        text = text[opening.start() :]
        try:
            value, end = _DECODER.raw_decode(text)
        except json.JSONDecodeError:
            text = _STRING_OR_COMMA.sub(lambda match: match[0].removeprefix(","), text)
            try:
                value, end = _DECODER.raw_decode(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"broken JSON: {error}") from error
        if value not in found:
            found.append(value)
        text = text[end:]
    if len(found) != 1:
        raise ValueError("several JSON objects" if found else "no JSON object")
    return found[0]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Line breaks inside strings are common, and mean what they seem to mean.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_constant)
