"""A CSV file with the column types that pandas gives it, which is what the official scripts calculate with.

Only what decides a score: blank cells are NaN, a column is whole numbers, decimals or truth values if all of it can
be read so, and text otherwise - then every cell is text, numbers and "False" too.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

# The cells that pandas reads as missing (its documented default list).
MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)
_TRUTH = {"true": True, "false": False}  # in any case, `tRUE` too
_WHOLE = re.compile(r"[ \t]*[+-]?[0-9]+[ \t]*")
_END = ["the", "end"]  # a row of its own after the last, unless a quote is open
_DECIMAL = re.compile(r"[ \t]*[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf(inity)?)[ \t]*", re.IGNORECASE)


class ParserError(ValueError):
    """A row has more cells than the header, or a quote is not closed (pandas' error of this name)."""


class EmptyDataError(ValueError):
    """A file without a header (pandas' error of this name)."""


def read_csv(path: Path) -> dict[str, list[Any]]:
    """Columns by name. Raises OSError, UnicodeDecodeError, ParserError and EmptyDataError."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            rows = list(csv.reader([*file, ",".join(_END)]))
        except csv.Error as error:
            raise ParserError(f"{path}: {error}") from error
    if rows.pop() != _END:
        raise ParserError(f"{path}: ends inside a quoted cell")
    rows = [row for row in rows if len(row) > 1 or "".join(row).strip(" \t")]
    if not rows:
        raise EmptyDataError(f"{path}: no columns")
    header, body = rows[0], rows[1:]
    if body and (extra := len(body[0]) - len(header)) > 0:
        body = [row[extra:] for row in body]  # as pandas has it: what stands in front is the rows' index
    for number, row in enumerate(body, 2):
        if len(row) > len(header):
            raise ParserError(f"{path}: line {number} has {len(row)} cells, the header {len(header)}")
    columns = [_typed([row[k] if k < len(row) else "" for row in body]) for k in range(len(header))]
    return dict(zip(reversed(header), reversed(columns)))  # of columns of one name, the first keeps it


def _typed(cells: list[str]) -> list[Any]:
    present = [cell for cell in cells if cell not in MISSING]
    if all(_WHOLE.fullmatch(cell) for cell in present) and len(present) == len(cells):
        return [int(cell) for cell in cells]
    if all(_DECIMAL.fullmatch(cell) for cell in present):
        return [math.nan if cell in MISSING else float(cell) for cell in cells]
    if all(cell.lower() in _TRUTH for cell in present):
        return [math.nan if cell in MISSING else _TRUTH[cell.lower()] for cell in cells]
    return [math.nan if cell in MISSING else cell for cell in cells]
