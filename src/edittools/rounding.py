"""How scores are rounded before they are stored or compared: the same on every machine (DESIGN 3)."""

from __future__ import annotations

from typing import Any


def significant(value: float) -> float:
    """Rounded to 6 significant digits."""
    return float(f"{value:.6g}")


def rounded(value: Any) -> Any:
    """The decimals inside dictionaries and lists rounded, everything else as it is."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return significant(value) if isinstance(value, float) else value
