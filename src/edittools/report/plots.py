"""The report's plots, as inline SVG. Colours are the page's (CSS classes), so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from edittools.report import digits
from edittools.report.markup import text

# Widths in units of the viewBox, near those of the page's panels, so that text comes out at its nominal size.
WIDE, NARROW = 860, 480


def gain_bars(bars: Sequence[tuple[str, float, list[float] | None, str]]) -> str:
    """Horizontal bars, one per (name, gain in dB, 95% interval, verdict), with their intervals."""
    left, right, step, top = 170, 84, 26, 6
    values = [0.0, *(gain for _, gain, _, _ in bars), *(end for bar in bars for end in bar[2] or [])]
    low, high = min(values), max(max(values), min(values) + 1)
    scale = _scale(low, high, left, WIDE - right)
    ticks = [tick for tick in nice_ticks(low, high) if low <= tick <= high]
    bottom = top + step * len(bars)
    parts = [_vertical_grid(ticks, scale, top, bottom)]
    for index, (name, gain, bounds, verdict) in enumerate(bars):
        middle = top + step * (index + 0.5)
        x0, x1 = sorted((scale(0), scale(gain)))
        shown = digits.with_digits(gain, bounds, "+")
        parts.append(_label(name, left - 10, middle + 4))
        parts.append(
            f'<rect class="bar {verdict}" x="{x0:.1f}" y="{middle - 8:.1f}" width="{max(x1 - x0, 1):.1f}"'
            f' height="16" rx="2"><title>{text(name)}: {shown} dB</title></rect>'
        )
        end = max(x1, scale(0))
        if bounds:
            start, stop = scale(bounds[0]), scale(bounds[1])
            parts.append(
                f'<path class="whisker" d="M{start:.1f} {middle:.1f}H{stop:.1f}'
                f'M{start:.1f} {middle - 4:.1f}v8M{stop:.1f} {middle - 4:.1f}v8"/>'
            )
            end = max(end, stop)
        note = f"{digits.SIGNS[verdict]} {shown}"
        parts.append(f'<text class="value" x="{end + 8:.1f}" y="{middle + 4:.1f}">{note}</text>')
    parts.append(f'<path class="zero" d="M{scale(0):.1f} {top}V{bottom}"/>')
    parts.append(_axis_title("gain over copying the source, dB", (left + WIDE - right) / 2, bottom + 38))
    return _svg(WIDE, bottom + 46, "Gain per kind of edit, in decibels, with 95% intervals", parts)


def score_bars(bars: Sequence[tuple[str, float, list[float] | None]], low: float, high: float) -> str:
    """Horizontal bars, one per (name, mean, 95% interval), on the whole scale of the score, with their intervals."""
    left, right, step, top = 170, 60, 24, 6
    scale = _scale(low, high, left, NARROW - right)
    bottom = top + step * len(bars)
    parts = [_vertical_grid([tick for tick in nice_ticks(low, high) if low <= tick <= high], scale, top, bottom)]
    for index, (name, mean, bounds) in enumerate(bars):
        middle, shown = top + step * (index + 0.5), digits.with_digits(mean, bounds)
        parts.append(_label(name, left - 10, middle + 4))
        parts.append(
            f'<rect class="bar plain" x="{left}" y="{middle - 7:.1f}" height="14" rx="2"'
            f' width="{max(scale(mean) - left, 1):.1f}"><title>{text(name)}: {shown}</title></rect>'
        )
        if bounds:
            start, stop = scale(bounds[0]), scale(bounds[1])
            parts.append(
                f'<path class="whisker" d="M{start:.1f} {middle:.1f}H{stop:.1f}'
                f'M{start:.1f} {middle - 4:.1f}v8M{stop:.1f} {middle - 4:.1f}v8"/>'
            )
        parts.append(f'<text class="value" x="{NARROW - right + 10}" y="{middle + 4:.1f}">{shown}</text>')
    return _svg(NARROW, bottom + 26, "Mean score per task, with 95% intervals", parts)


def gain_histogram(edges: Sequence[float], counts: Sequence[int]) -> str:
    """How many rows gained how much; bins below 0 are those where doing nothing would have been better."""
    left, right, top, bottom = 46, 16, 10, 210
    x = _scale(edges[0], edges[-1], left, NARROW - right)
    ticks = nice_ticks(0, max(counts))
    y = _scale(0, ticks[-1], bottom, top)
    parts = [_horizontal_grid(ticks, y, left, NARROW - right)]
    for (low, high), count in zip(pairwise(edges), counts):
        verdict = "worse" if high <= 0 else "better"
        parts.append(
            f'<rect class="bar {verdict}" x="{x(low) + 0.75:.1f}" y="{y(count):.1f}"'
            f' width="{max(x(high) - x(low) - 1.5, 0.5):.1f}" height="{y(0) - y(count):.1f}">'
            f"<title>{_number(low)} to {_number(high)} dB: {count} rows</title></rect>"
        )
    parts.append(_tick_texts(nice_ticks(edges[0], edges[-1]), edges[0], edges[-1], x, bottom + 18))
    if edges[0] <= 0 <= edges[-1]:
        parts.append(f'<path class="zero" d="M{x(0):.1f} {top}V{bottom}"/>')
    parts.append(_axis_title("gain of a row, dB", (left + NARROW - right) / 2, bottom + 40))
    return _svg(NARROW, bottom + 48, "Histogram of the gain per row, in decibels", parts)


def loss_curve(points: Sequence[tuple[int, float]]) -> str:
    """Training loss over steps: thin, the extremes of each column of pixels; bold, the running mean."""
    left, right, top, bottom = 54, 16, 10, 210
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    positive = [loss for loss in losses if loss > 0]
    # A loss that falls by more than a decade shows its end only on a logarithmic axis.
    logarithmic = len(positive) == len(losses) and max(positive) > 10 * min(positive)
    ticks = (_log_ticks if logarithmic else nice_ticks)(min(losses), max(losses))
    height = math.log10 if logarithmic else float
    y_of = _scale(height(ticks[0]), height(ticks[-1]), bottom, top)
    x = _scale(min(steps), max(max(steps), min(steps) + 1), left, NARROW - right)
    columns: dict[int, list[float]] = {}
    for step, loss in points:
        columns.setdefault(round(x(step)), []).append(y_of(height(loss)))
    thin = " ".join(f"{at},{min(ys):.1f} {at},{max(ys):.1f}" for at, ys in sorted(columns.items()))
    window = max(1, len(points) // 40)
    bold = []
    for stop in range(window, len(points) + 1, max(1, len(points) // 200)):
        mean = sum(losses[stop - window : stop]) / window
        bold.append(f"{x(steps[stop - 1 - window // 2]):.1f},{y_of(height(mean)):.1f}")
    parts = [_horizontal_grid(ticks, lambda value: y_of(height(value)), left, NARROW - right)]
    parts.append(f'<polyline class="raw" points="{thin}"/>')
    parts.append(f'<polyline class="line" points="{" ".join(bold)}"/>')
    parts.append(_tick_texts(nice_ticks(min(steps), max(steps)), min(steps), max(steps), x, bottom + 18))
    title = "step (loss on a logarithmic axis)" if logarithmic else "step"
    parts.append(_axis_title(title, (left + NARROW - right) / 2, bottom + 40))
    return _svg(NARROW, bottom + 48, f"Training loss over {len(points)} recorded steps", parts)


def curves(lines: Sequence[tuple[str, Sequence[tuple[int, float]]]], title: str) -> str:
    """Several named lines of (step, value), each with its name at its end; at least one has a point."""
    left, right, top, bottom = 54, 120, 10, 210
    steps = [step for _, points in lines for step, _ in points]
    values = [value for _, points in lines for _, value in points]
    ticks = nice_ticks(min(values), max(values))
    y = _scale(ticks[0], ticks[-1], bottom, top)
    x = _scale(min(steps), max(max(steps), min(steps) + 1), left, NARROW - right)
    parts = [_horizontal_grid(ticks, y, left, NARROW - right)]
    names = sorted(range(len(lines)), key=lambda k: y(lines[k][1][-1][1]))
    places: dict[int, float] = {}  # names of lines that end together stand below one another
    for k in names:
        places[k] = max(y(lines[k][1][-1][1]) + 4, *(place + 14 for place in places.values()), top + 4)
    for k, (name, points) in enumerate(lines):
        drawn = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        said = f"{text(name)}: {_number(points[-1][1])}"
        parts.append(f'<polyline class="line curve{k % 6}" points="{drawn}"><title>{said}</title></polyline>')
        short = name if len(name) <= 16 else name[:15] + "…"
        parts.append(
            f'<text class="tick name{k % 6}" x="{NARROW - right + 8}" y="{places[k]:.1f}">{text(short)}'
            f"<title>{said}</title></text>"
        )
    parts.append(_tick_texts(nice_ticks(min(steps), max(steps)), min(steps), max(steps), x, bottom + 18))
    parts.append(_axis_title("step", (left + NARROW - right) / 2, bottom + 40))
    return _svg(NARROW, max(bottom + 48, max(places.values()) + 8), title, parts)


def count_bars(counts: Sequence[tuple[str, int]], unit: str) -> str:
    """Small horizontal bars with their counts, for the data set's own statistics."""
    left, right, step = 170, 70, 22
    scale = _scale(0, max([1, *(count for _, count in counts)]), left, NARROW - right)
    parts = []
    for index, (name, count) in enumerate(counts):
        middle = step * (index + 0.5)
        parts.append(_label(name, left - 10, middle + 4))
        parts.append(
            f'<rect class="bar plain" x="{left}" y="{middle - 6:.1f}" height="12" rx="2"'
            f' width="{max(scale(count) - left, 1):.1f}"/>'
        )
        parts.append(f'<text class="value" x="{scale(count) + 8:.1f}" y="{middle + 4:.1f}">{count:,}</text>')
    return _svg(NARROW, step * len(counts) + 4, f"Number of {unit}", parts)


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that enclose low and high."""
    rough = (high - low or 1.0) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 and 10 times the powers of ten that enclose low and high, without those beyond the ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    first = max(index for index, tick in enumerate(ticks) if tick <= low)
    last = min((index for index, tick in enumerate(ticks) if tick >= high), default=len(ticks) - 1)
    return ticks[first : last + 1]


def _scale(low, high, start, end):
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _vertical_grid(ticks, scale, top, bottom) -> str:
    lines = "".join(f"M{scale(tick):.1f} {top}V{bottom}" for tick in ticks)
    texts = _tick_texts(ticks, ticks[0], ticks[-1], scale, bottom + 18)
    return f'<path class="grid" d="{lines}"/>{texts}'


def _horizontal_grid(ticks, scale, left, right) -> str:
    lines = "".join(f"M{left} {scale(tick):.1f}H{right}" for tick in ticks)
    texts = "".join(
        f'<text class="label tick" x="{left - 8}" y="{scale(tick) + 4:.1f}">{_number(tick)}</text>' for tick in ticks
    )
    return f'<path class="grid" d="{lines}"/>{texts}'


def _tick_texts(ticks, low, high, scale, y) -> str:
    """The numbers under an axis, of those ticks that lie on it."""
    return "".join(
        f'<text class="tick" x="{scale(tick):.1f}" y="{y}">{_number(tick)}</text>'
        for tick in ticks
        if low <= tick <= high
    )


def _label(name: str, x: float, y: float) -> str:
    """A bar's name, right-aligned; a long one is cut, and whole in its tooltip."""
    short = name if len(name) <= 22 else name[:21] + "…"
    return f'<text class="label" x="{x}" y="{y:.1f}">{text(short)}<title>{text(name)}</title></text>'


def _axis_title(title: str, x: float, y: float) -> str:
    return f'<text class="axis" x="{x:.0f}" y="{y}">{title}</text>'


def _number(value: float) -> str:
    return f"{value:,.6g}".replace("-", "−") if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"


def _svg(width: int, height: float, title: str, parts: list[str]) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{text(title)}">'
        f"{''.join(parts)}</svg>"
    )
