"""The summary as rows of text: the one table that the HTML report, the terminal and Markdown print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edittools.metrics import intervals

COLUMNS = (
    "kind", "rows", "", "edit, dB", "95% interval", "copy, dB", "gain, dB",
    "inside: edit", "inside: copy", "wrong text, dB", "SSIM: edit", "SSIM: copy",
)  # fmt: skip
LEGEND = (
    "edit: PSNR of the result against the truth. copy: of the unedited source. gain: their difference. "
    "▲ the 95% interval of the gain lies above 0, ▼ below 0, ≈ it contains 0. "
    "inside: PSNR inside the mask of the edit, where rows have one. "
    "wrong text: PSNR when the model was given another row's instruction."
)
SIGNS = {"better": "▲", "worse": "▼", "unclear": "≈"}
MEANS = {"mean": "mean of kinds", "mean_without_invert": "… without invert", "mean_rows": "mean of rows"}


def mean_entries(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The means of a summary by their titles in the table; "without invert" only if there are `invert` edits."""
    shown = [key for key in MEANS if key != "mean_without_invert" or "invert" in summary["kinds"]]
    return {MEANS[key]: summary[key] for key in shown if summary[key]}


def cells(name: str, entry: dict[str, Any]) -> list[str]:
    """One row of the table; `entry` is a value of summary["kinds"], or one of the means."""
    inside, ssim = entry["inside"], entry["ssim"]
    return [
        name,
        str(entry["n"]),
        SIGNS[entry["verdict"]],
        with_digits(entry["edit"], entry["interval"]),
        bounds(entry["interval"], entry["n"]),
        with_digits(entry["copy"], entry["copy_interval"]),
        with_digits(entry["gain"], entry["gain_interval"], "+"),
        with_digits(inside["edit"], inside["edit_interval"]),
        with_digits(inside["copy"], inside["copy_interval"]),
        with_digits(entry["shuffled"], entry["shuffled_interval"]),
        with_digits(ssim["edit"], ssim["edit_interval"]),
        with_digits(ssim["copy"], ssim["copy_interval"]),
    ]


def decibels(value: float) -> str:
    """Decibels of one image, as text."""
    return with_digits(value, None)


def with_digits(value: float | None, interval: Sequence[float] | None, sign: str = "", most: int = 3) -> str:
    """A mean with as many digits as its interval allows, and a true minus; `sign` is "+" for a difference."""
    if value is None:
        return "–"
    digits = intervals.decimals(interval, most)
    kept = round(value, digits)
    return f"{kept or 0.0:{sign if kept else ''}.{digits}f}".replace("-", "−")


def bounds(interval: Sequence[float] | None, cases: int, sign: str = "") -> str:
    """A 95% interval with the digits of its mean; in words, where there are too few cases for one."""
    if interval is None:
        return intervals.TOO_FEW if cases else ""
    low, high = (with_digits(end, interval, sign) for end in interval)
    return f"{low} to {high}" if sign or "−" in low else f"{low}–{high}"
