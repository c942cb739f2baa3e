"""A kind by its name, or one of the user's own: a Python file that holds KIND, or a table in TOML:

reads = "image"                      # or "pair", or "text"
prompt = "Describe the light. What is known of it: {caption}"
languages = true                     # optional: every text column in each of --language

[columns]                            # what the model answers, and what is written
light = "where it comes from and how hard it is"
hours = { type = "integer", low = 0, high = 24, says = "the time of day" }
mood = { choices = ["calm", "tense"] }
"""

from __future__ import annotations

import importlib.util
import re
import string
import sys
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa

from edittools.caption.kind import KINDS, Conversation, Kind, NotAsked, Question, Row
from edittools.caption.schemas import Schema, choice, in_languages, record, text, whole, yes_no
from edittools.errors import EditError, UsageError
from edittools.record import TEXT

_READS = ("image", "pair", "text")


def load_kind(name: str) -> Kind:
    """Raises UsageError for a name that is neither a kind nor a file, EditError for a file that holds none."""
    if name in KINDS.names:
        return KINDS.load(name).KIND
    file = Path(name)
    if file.suffix not in (".toml", ".py") or not file.is_file():
        raise UsageError(
            f"--kinds {name}: no kind of that name" + (", and no such file" if file.suffix else ""),
            hint="known: grammar, " + ", ".join(KINDS.names),
        )
    return _from_python(file) if file.suffix == ".py" else _from_toml(file)


def _from_python(file: Path) -> Kind:
    spec = importlib.util.spec_from_file_location(f"edittools_kind_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise EditError(f"{file}: {type(error).__name__}: {error}") from error
    kind = getattr(module, "KIND", None)
    if not isinstance(kind, Kind):
        raise EditError(f"{file}: holds no KIND, a Kind of edittools.caption.kind")
    return kind


def _from_toml(file: Path) -> Kind:
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EditError(f"{file}: {error}") from error
    if unknown := sorted(set(table) - {"reads", "prompt", "languages", "columns"}):
        raise EditError(f"{file}: no setting `{unknown[0]}`", hint="reads, prompt, languages, [columns]")
    reads, prompt, columns = table.get("reads"), table.get("prompt"), table.get("columns")
    if reads not in _READS or not isinstance(prompt, str) or not isinstance(columns, dict) or not columns:
        raise EditError(f"{file}: needs reads ({', '.join(_READS)}), prompt and [columns]")
    languages = bool(table.get("languages"))
    fields = {name: _field(file, name, given) for name, given in columns.items()}
    used = [name for _, name, _, _ in string.Formatter().parse(prompt) if name]

    def converse(row: Row) -> Conversation:
        known = {name: row.text(name) for name in used}
        if missing := [name for name, value in known.items() if value is None]:
            raise NotAsked(f"no {missing[0]}")
        looks = (row.look(),) if reads == "image" else row.pair() if reads == "pair" else ()
        schema = record(
            **{
                name: in_languages(row.languages, said["description"]) if languages and kind == TEXT else said
                for name, (said, kind) in fields.items()
            }
        )
        answer = yield Question(looks, prompt.format(**known), schema, examples=True)
        return {
            name: {"en": value} if kind == TEXT and not languages else value
            for (name, (_, kind)), value in zip(fields.items(), answer.values())
        }

    return Kind(
        summary=f"your own, {file.name}",
        reads=reads,
        columns={name: kind for name, (_, kind) in fields.items()},
        converse=converse,
    )


def _field(file: Path, name: str, given: Any) -> tuple[Schema, pa.DataType]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise EditError(f"{file}: column `{name}`: small letters, digits and _")
    if isinstance(given, str):
        return text(given), TEXT
    if isinstance(given, dict):
        says = str(given.get("says", ""))
        if "choices" in given:
            return choice([str(item) for item in given["choices"]], says), pa.string()
        if given.get("type") == "integer":
            return whole(int(given.get("low", 0)), int(given.get("high", 100)), says), pa.int64()
        if given.get("type") == "boolean":
            return yes_no(says), pa.bool_()
    raise EditError(f"{file}: column `{name}`: a description, or a table with choices or type (integer, boolean)")
