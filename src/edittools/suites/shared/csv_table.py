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
_DIGITS = re.compile(r"[ \t]*[+-]?[0-9]+")
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


def plain_number(cell: str) -> float | None:
    """The number of a single cell, whatever its column; None where it is none, or missing."""
    return float(cell) if cell not in MISSING and _DECIMAL.fullmatch(cell) else None


def _typed(cells: list[str]) -> list[Any]:
    """As pandas 2 tries the types: whole numbers of 64 bits, decimals, truth values, text."""
    present = [cell for cell in cells if cell not in MISSING]
    width = _width(present, complete=len(present) == len(cells))
    if width == "uint64" or (width == "int64" and len(present) == len(cells)):
        return [int(cell) for cell in cells]
    if width == "raw text":  # a blank among numbers above int64 stays what it is
        return list(cells)
    if width != "text":
        numbers = {cell: _decimal(cell) for cell in present}
        if None not in numbers.values():
            return [numbers.get(cell, math.nan) for cell in cells]
        if all(cell.lower() in _TRUTH for cell in present):
            return [math.nan if cell in MISSING else _TRUTH[cell.lower()] for cell in cells]
    return [math.nan if cell in MISSING else cell for cell in cells]


def _width(present: list[str], complete: bool) -> str:
    """int64, uint64, or what comes instead: text above 64 bits, "decimal" where something else may still be tried.

    The first cell that is no int64 decides, and a number counts as too large before the sign that ends it is seen:
    `99999999999999999999.5` is text, and is a decimal below a cell that is one.
    """
    signed = next((why for cell in present if (why := _unfit(cell, -(2**63), 2**63 - 1))), None)
    if signed is None:
        return "int64"
    if signed == "no whole number":
        return "decimal"
    negative = [cell for cell in present if cell.lstrip(" \t").startswith("-")]
    unsigned = next((why for cell in present if cell not in negative and (why := _unfit(cell, 0, 2**64 - 1))), None)
    if unsigned is not None:
        return "text" if unsigned == "too large" else "decimal"
    large = any(cell not in negative and _unfit(cell, 0, 2**63 - 1) for cell in present)
    if large and (negative or not complete):
        return "raw text"
    return "text" if negative else "uint64"


def _unfit(cell: str, low: int, high: int) -> str | None:
    """Why a cell is no whole number of this range; None if it is one."""
    start = _DIGITS.match(cell)
    if start is None:
        return "no whole number"
    if not low <= int(start[0]) <= high:
        return "too large"
    return None if _WHOLE.fullmatch(cell) else "no whole number"


def _decimal(cell: str) -> float | None:
    """None where it is no number, or one that pandas 2 takes for too large: also 0e400."""
    found = _DECIMAL.fullmatch(cell)
    if found is None:
        return None
    value = float(cell)
    mantissa, _, power = cell.strip(" \t").lower().partition("e")
    if math.isinf(value):
        return value if "inf" in cell.lower() else None
    return None if power and int(power) - len(mantissa.partition(".")[2]) > 308 else value
