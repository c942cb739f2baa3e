"""Small tables that a user writes beside a set: ratings, wanted texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edittools.errors import EditError, describe


def read_table(path: str, what: str) -> Iterable[Mapping[str, Any]]:
    """The rows of a CSV, Parquet or JSON lines file, told apart by their first bytes. Raises EditError."""
    try:
        with Path(path).open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        if parquet:
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        with open(path, encoding="utf-8-sig", newline="") as text:
            lines = text.read(1) == "{"
            text.seek(0)
            found = [json.loads(line) for line in text if line.strip()] if lines else list(csv.DictReader(text))
    except (OSError, ValueError, csv.Error) as error:
        raise EditError(f"{path}: cannot be read as {what}: {describe(error)}") from None
    for number, line in enumerate(found, 1):
        if not isinstance(line, dict):
            raise EditError(f"{path}: line {number} is no JSON object")
    return found


def read_by_id(path: str, what: str, wrong: Callable[[Mapping[str, Any]], str | None]) -> dict[str, dict[str, Any]]:
    """The lines of such a file by their `id`; `wrong` says what is the matter with one, a missing id too.

    Raises EditError, with the line, for one that is wrong or whose id comes twice, and where there is none.
    """
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(read_table(path, f"{what}s"), 1):
        if problem := wrong(line):
            raise EditError(f"{path}: line {number}: {problem}")
        if line["id"] in found:
            raise EditError(f"{path}: line {number}: row {line['id']} comes twice")
        found[line["id"]] = dict(line)
    if not found:
        raise EditError(f"{path}: no {what} in it")
    return found
