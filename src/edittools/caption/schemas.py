"""JSON schemas of replies: small parts to write them with, what endpoints take of them, and how a reply is read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from edittools.errors import missing_extra
from edittools.vlm.objects import Pairs, objects
from edittools.vlm.thoughts import answer_of

Schema = dict[str, Any]

# Keywords that strict endpoints and xgrammar refuse or get wrong. They are checked when the reply is there.
_BOUNDS = ("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "pattern", "uniqueItems")


def record(**fields: Schema) -> Schema:
    """A closed object whose keys are all required."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def text(says: str, longest: int = 600, *, empty: bool = False) -> Schema:
    """A string, described by what it says; `longest` in characters stops runaway replies."""
    return {"type": "string", "description": says, "minLength": 0 if empty else 1, "maxLength": longest}


def choice(values: Sequence[str], says: str = "") -> Schema:
    return {"type": "string", "enum": list(values), "description": says}


def listing(items: Schema, longest: int, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": longest}


def whole(low: int, high: int, says: str = "") -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high, "description": says}


def yes_no(says: str = "") -> Schema:
    return {"type": "boolean", "description": says}


def in_languages(languages: Sequence[str], says: str, longest: int = 600) -> Schema:
    """One string per language, under its code."""
    names = {"en": "in English", "zh": "in Chinese"}
    return record(**{code: text(f"{says}, {names[code]}", longest) for code in languages})


def strict(schema: Schema) -> Schema:
    """The schema as endpoints with strict structured output take it: without bounds, which are checked afterwards."""
    kept = {name: value for name, value in schema.items() if name not in _BOUNDS and value != ""}
    if "properties" in kept:
        kept["properties"] = {name: strict(child) for name, child in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = strict(kept["items"])
    return kept


def form(schema: Schema) -> str:
    """The schema as an example of JSON with descriptions in place of values: what the prompt shows."""
    return json.dumps(_form(schema), ensure_ascii=False)


def _form(schema: Schema) -> Any:
    says = schema.get("description") or ""
    if schema["type"] == "object":
        return {name: _form(child) for name, child in schema["properties"].items()}
    if schema["type"] == "array":
        return [_form(schema["items"]), f"... ({schema['maxItems']} at most)"]
    if "enum" in schema:
        return (f"{says}: " if says else "") + "one of " + ", ".join(schema["enum"])
    if schema["type"] == "boolean":
        return f"true or false: {says}" if says else "true or false"
    if schema["type"] == "integer":
        return f"integer, {schema['minimum']} to {schema['maximum']}" + (f": {says}" if says else "")
    return says or "text"


def specimen(schema: Schema) -> Any:
    """The smallest value that the schema takes: stands for a reply where nobody is asked (`--dry-run`)."""
    if schema["type"] == "object":
        return {name: specimen(child) for name, child in schema["properties"].items()}
    if schema["type"] == "array":
        return [specimen(schema["items"]) for _ in range(max(1, schema.get("minItems", 0)))]
    if "enum" in schema:
        return schema["enum"][0]
    return {"boolean": True, "integer": schema.get("minimum", 0)}.get(schema["type"], "text")


def read_answer(reply: str, schema: Schema, check: Callable[[Any], Any] | None = None, part: str | None = None) -> Any:
    """The JSON value of a reply, or of its `part`, valid by its schema and by `check`. Raises ValueError that says what
    is wrong.

    Thoughts, code fences and sentences around the object are passed over; line breaks inside strings and a comma
    before a closing bracket are forgiven. Nothing else is repaired: what would change content is asked for again.
    """
    answer = answer_of(reply)
    if answer is None:
        raise ValueError("the thought is not finished")
    values = [_plain(pairs) for _, _, pairs in objects(answer)]
    if not values:
        raise ValueError("there is no JSON object in the answer")
    if len(values) > 1:
        raise ValueError(f"there are {len(values)} JSON objects in the answer, one is wanted")
    value = values[0]
    if part is not None:
        if part not in value:
            raise ValueError(f"there is no {part!r} in the answer")
        value = value[part]
    problem = next(_validator(json.dumps(schema)).iter_errors(value), None)
    if problem is not None:
        where = "".join(f"[{step!r}]" for step in problem.absolute_path) or "the object"
        # The message repeats the value, which may be as long as a reply.
        said = (
            problem.message if len(problem.message) < 200 else f"violates {problem.validator} {problem.validator_value}"
        )
        raise ValueError(f"{where}: {said[:200]}")
    if check is not None:
        check(value)
    return value


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise missing_extra("jsonschema", "captions", "a caption by a model") from error
    return Draft202012Validator(json.loads(schema))


def _plain(value: Any) -> Any:
    """Dictionaries out of pairs. Raises ValueError for a key that stands there twice: which one is meant?"""
    if isinstance(value, Pairs):
        keys = [key for key, _ in value]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"key {twice!r} is given twice")
        return {key: _plain(child) for key, child in value}
    if isinstance(value, list):
        return [_plain(child) for child in value]
    return value
