"""Settings from TOML tables, checked against a dataclass."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from edittools.errors import UsageError

S = TypeVar("S")


def read_settings(kind: type[S], values: dict[str, Any], where: str) -> S:
    """Check the names and types of settings against a dataclass. Raises UsageError."""
    types = typing.get_type_hints(kind)
    if unknown := sorted(set(values) - set(types)):
        raise UsageError(f"{where}: no setting `{unknown[0]}`", hint=f"settings: {', '.join(types)}")
    needed = [
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := sorted(set(needed) - set(values)):
        raise UsageError(f"{where}: setting `{missing[0]}` is missing")
    return kind(**{name: read_value(value, types[name], f"{where}: `{name}`") for name, value in values.items()})


def field_comments(path: Path, name: str) -> dict[str, str]:
    """What the comments of a class's fields say, by field; from its file, so that nothing has to be imported."""
    _, found, rest = path.read_text(encoding="utf-8").partition(f"\nclass {name}:\n")
    body = re.split(r"\n(?=\S)", rest, maxsplit=1)[0] if found else ""
    return dict(re.findall(r"^    (\w+): [^#\n]*  # (.+)$", body, re.M))


def table_comments(path: Path) -> dict[str, str]:
    """What the comments behind the values of a TOML file say, by TABLE.KEY."""
    table, found = "", {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\[([\w.]+)\].*", line):
            table = f"{match[1]}."
        elif match := re.fullmatch(r"""([\w.]+) *= *(?:"[^"]*"|[^"#])* *# *(.+)""", line):
            found[table + match[1]] = match[2]
    return found


def read_value(value: Any, kind: Any, where: str) -> Any:
    """A TOML or command-line value as int, float, bool, str, a list of them, or a table. Raises UsageError."""
    if isinstance(value, str) and kind is not str:
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise UsageError(f"{where} is not a number: {value}") from None
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # X | None, whose None is not written
        return read_value(value, inner[0], where)
    if kind is str and type(value) in (int, float):
        return str(value)  # a name that looks like a number: `version = 1.1`, `version=1.1`
    if kind is float and type(value) is int:
        return read_value(float(value), kind, where)
    if origin is list and isinstance(value, list):
        return [read_value(item, inner[0], where) for item in value]
    if origin is dict and isinstance(value, dict):
        return {name: item if inner[1] is Any else read_value(item, inner[1], where) for name, item in value.items()}
    if type(value) is kind:
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{where} must be a finite number, not {value!r}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UsageError(f"{where} must have 64 bits at most, not {value!r}")
        return value
    name = kind.__name__ if isinstance(kind, type) and origin is None else str(kind)
    raise UsageError(f"{where} must be {name}, not {value!r}")
