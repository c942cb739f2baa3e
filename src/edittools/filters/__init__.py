"""Filters: one measurement per file. The file name is the registry; a new filter is one new file here.

A file declares `FILTER`, a Filter. Its option, help text, line in the manual, score column and reject reason all
come from that. What it measures is one of four: width and height, the file's header, a raster of the picture, or what
models make of the row.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from edittools.errors import UsageError
from edittools.rounding import significant
from edittools.stream.images import Header, Raster

# The raster of the photometric measures. Filters of equal rasters share one decode.
PHOTOMETRIC = Raster(short_side=256)


class Input(NamedTuple):
    """What a model is asked about a row: its vector of one picture or text (of a classifier, its probabilities)."""

    model: str  # clip, dino, classifier
    of: str  # picture (the one that --image names), source, target, text, source_text


@dataclass(frozen=True)
class Filter:
    """One measurement of a picture, and how a bound on it is spelled.

    `measure` takes the raster (uint8, HxWx3 or HxW) and returns a number; a filter without a raster needs only
    width and height (arrays of int64, pixels) and has `from_size` instead, or what else the header says and has
    `from_header`.
    A filter with a model names its `inputs`; `score` takes the models and, for each input, the vectors of n rows
    (n, size), and returns n numbers. Filters of equal inputs share them. `measure_flow` takes the motion from the first
    source to the target (HxWx2, per cent of the diagonal) and the source's foreground (bool HxW).
    """

    name: str  # of the score and of the reject reason
    help: str
    unit: str
    source: str  # the paper or definition
    bare: Literal["min", "max"] = "min"  # what a single number on the command line bounds
    cost: float | None = None  # CPU milliseconds for a JPEG of 1.5 megapixels, decoding too: benchmarks/cost.py
    option: str | None = None  # if it differs from --NAME
    raster: Raster | None = None
    measure: Callable[[np.ndarray], float] | None = None
    from_size: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    from_header: Callable[[Header], float] | None = None
    inputs: tuple[Input, ...] = ()
    score: Callable[..., np.ndarray] | None = None
    heads: tuple[str, ...] = ()  # models that `score` itself uses
    measure_flow: Callable[[np.ndarray, np.ndarray], float] | None = None

    @property
    def roles(self) -> list[str]:
        """The models it cannot do without."""
        return list(dict.fromkeys([*(item.model for item in self.inputs), *self.heads]))

    @property
    def stored(self) -> bool:
        """Whether its value is kept as a score: sizes stand in columns of their own."""
        return self.from_size is None

    @property
    def flag(self) -> str:
        return self.option or "--" + self.name.replace("_", "-")


@functools.cache
def filters() -> dict[str, Filter]:
    """Every filter by name, in alphabetical order of their files."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        declared = getattr(importlib.import_module(f"{__name__}.{module.name}"), "FILTER", None)
        if isinstance(declared, Filter):
            found[declared.name] = declared
    return found


@dataclass(frozen=True)
class Bounds:
    """Lowest and highest value that passes; None is open. `q` bounds are quantiles of the data set, 0 to 1."""

    low: float | None = None
    high: float | None = None
    low_q: float | None = None
    high_q: float | None = None

    @property
    def empirical(self) -> bool:
        return self.low_q is not None or self.high_q is not None

    def __str__(self) -> str:
        def said(value: float | None, q: float | None) -> str:
            if q is not None:
                return "q" + np.format_float_positional(q, trim="-")[2:].ljust(2, "0")
            return "" if value is None else np.format_float_positional(value, trim="-")

        return f"{said(self.low, self.low_q)}..{said(self.high, self.high_q)}"

    @classmethod
    def parse(cls, text: str, bare: str, option: str) -> Bounds:
        """`5`, `5..`, `..90`, `5..90`, and the same with quantiles: `q05`, `q01..q99`. `..` only measures.

        Raises UsageError.
        """
        low, dots, high = text.partition("..")
        if not text.strip():
            # Most likely a shell variable without a value: it must not turn the bound off.
            raise UsageError(f"{option}: the bound is empty", hint="`..` measures and bounds nothing")
        if not dots:
            low, high = (text, "") if bare == "min" else ("", text)
        fixed: list[float | None] = []
        quantiles: list[float | None] = []
        for part in (low.strip(), high.strip()):
            try:
                if part.startswith("q"):
                    # q05 is 0.05, q5 is 0.5, q995 is 0.995: the digits after the point.
                    if part == "q100":  # which would be 10%
                        raise UsageError(f"{option} {text}: no quantile q100", hint="to bound nothing, as in `q05..`")
                    if not part[1:].isdigit():
                        raise ValueError
                    fixed.append(None)
                    quantiles.append(float("0." + part[1:]))
                else:
                    value = float(part) if part else None
                    if value is not None and not np.isfinite(value):
                        raise ValueError
                    fixed.append(value)
                    quantiles.append(None)
            except ValueError:
                raise UsageError(
                    f"{option} {text}: expected a number, A..B, or quantiles such as q05 or q01..q99"
                ) from None
        if any(None not in pair and pair[0] > pair[1] for pair in (fixed, quantiles)):  # type: ignore[operator]
            raise UsageError(f"{option} {text}: the lower bound is above the upper one")
        return cls(fixed[0], fixed[1], quantiles[0], quantiles[1])

    def resolve(self, values: np.ndarray) -> Bounds:
        """Quantiles replaced by what they are in `values` (linear interpolation, 6 significant digits)."""
        if not self.empirical:
            return self
        if not len(values):
            return Bounds(self.low, self.high)
        low = significant(float(np.quantile(values, self.low_q))) if self.low_q is not None else self.low
        high = significant(float(np.quantile(values, self.high_q))) if self.high_q is not None else self.high
        return Bounds(low, high)

    def passes(self, values: np.ndarray) -> np.ndarray:
        """Which values are inside; NaN never is."""
        inside = ~np.isnan(values)
        if self.low is not None:
            inside &= values >= self.low
        if self.high is not None:
            inside &= values <= self.high
        return inside


def luma(pixels: np.ndarray) -> np.ndarray:
    """Rec. 601 luma of uint8 HxWx3 as float32 HxW, 0 to 255; not to be written to."""
    return _shared("luma", pixels, lambda: pixels @ _REC_601)


def planes(pixels: np.ndarray) -> np.ndarray:
    """The channels of uint8 HxWx3 apart, 3xHxW, each in one piece; not to be written to."""
    return _shared("planes", pixels, lambda: np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _shared(name: str, pixels: np.ndarray, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What the last filter made of the same raster, if nobody can have changed that."""
    if pixels.flags.writeable:
        return make()
    if getattr(_last, "pixels", None) is not pixels:
        _last.pixels, _last.made = pixels, {}
    if name not in _last.made:
        _last.made[name] = make()
    return _last.made[name]


_REC_601 = np.array([0.299, 0.587, 0.114], np.float32)
_last = threading.local()
