"""The summary as rows of text: the one table that the HTML report, the terminal and Markdown print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edittools.bench import statistics

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
    """The means by the name they are shown under; that without invert only where there is an invert."""
    shown = [key for key in MEANS if key != "mean_without_invert" or "invert" in summary["kinds"]]
    return {MEANS[key]: summary[key] for key in shown if summary[key]}


def cells(name: str, entry: dict[str, Any]) -> list[str]:
    """One row of the table; `entry` is a value of summary["kinds"], or one of the means."""
    return [
        name,
        str(entry["n"]),
        SIGNS[entry["verdict"]],
        decibels(entry["edit"]),
        interval(entry["interval"]) if entry["n"] >= statistics.MIN_CASES else statistics.TOO_FEW,
        decibels(entry["copy"]),
        signed(entry["gain"]),
        decibels(entry["inside"]["edit"]),
        decibels(entry["inside"]["copy"]),
        decibels(entry["shuffled"]),
        share(entry["ssim"]["edit"]),
        share(entry["ssim"]["copy"]),
    ]


def decibels(value: float | None) -> str:
    return "–" if value is None else f"{round(value, 1) or 0.0:.1f}".replace("-", "−")


def signed(value: float) -> str:
    """A difference with its sign, a true minus: "+7.4", "−0.3", "0.0"."""
    return f"{round(value, 1) or 0.0:+.1f}".replace("-", "−").replace("+0.0", "0.0")


def interval(bounds: list[float] | None) -> str:
    return "–" if bounds is None else f"{decibels(bounds[0])} to {decibels(bounds[1])}"


def with_digits(value: float | None, interval: Sequence[float] | None, sign: str = "") -> str:
    """A mean with as many digits as its interval allows; `sign` is "+" for a difference."""
    return "–" if value is None else f"{value:{sign}.{statistics.decimals(interval)}f}"


def bounds(interval: Sequence[float] | None, cases: int, sign: str = "") -> str:
    """A 95% interval with the digits of its mean; in words, where there are too few cases for one."""
    if interval is None:
        return statistics.TOO_FEW if cases else ""
    low, high = (with_digits(end, interval, sign) for end in interval)
    return f"{low} to {high}" if sign else f"{low}–{high}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
