"""How scores are rounded before they are stored or compared: the same on every machine."""

from __future__ import annotations

from typing import Any, TypeVar, cast

T = TypeVar("T")


def significant(value: float) -> float:
    """Rounded to 6 significant digits."""
    return float(f"{value:.6g}")


def rounded(value: T) -> T:
    """The decimals inside dictionaries and lists rounded, everything else as it is."""
    inside: Any = value
    if isinstance(value, dict):
        inside = {key: rounded(item) for key, item in value.items()}
    elif isinstance(value, list):
        inside = [rounded(item) for item in value]
    elif isinstance(value, float):
        inside = significant(value)
    return cast(T, inside)
