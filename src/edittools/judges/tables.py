"""Small tables that a user writes beside a set: ratings, wanted texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
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
            return [json.loads(line) for line in text if line.strip()] if lines else list(csv.DictReader(text))
    except (OSError, ValueError, csv.Error) as error:
        raise EditError(f"{path}: cannot be read as {what}: {describe(error)}") from None
