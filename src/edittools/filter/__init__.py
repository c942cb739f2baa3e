"""Filters: one measurement per file. The file name is the registry; a new filter is one new file of filters/.

A file declares `FILTER`, a Filter. Its option, help text, line in the manual, score column and reject reason all
come from that. What it measures is one of four: width and height, the file's header, a raster of the image, or what
models make of the row. A Model declares its options, its weights and how it is loaded: those that several filters ask
are in `shared`, a model of one filter stands in the filter's file.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from edittools.errors import EditError, UsageError
from edittools.registry import Registry
from edittools.rounding import significant
from edittools.stream.codec import Header, Raster

FILTERS = Registry("edittools.filter.filters", "edittools.filters")

# The raster of the photometric measures. Filters of equal rasters share one decode.
PHOTOMETRIC = Raster(short_side=256)


@dataclass(frozen=True, eq=False)
class Model:
    """A model that filters ask: its option --NAME, what else it is told, where its weights are, how it is loaded.

    `load` takes the name or folder of the weights and the settings of `edit filter` (FilterConfig; `placed` is device
    and dtype). What it returns has `prepare(image)`, of uint8 HxWx3 and done in threads, and `infer(prepared)`, of a
    list of n, which gives float32 (n, size); or whatever the filters' `score` uses by itself.
    """

    name: str
    help: str  # of the option
    load: Callable[[str, Any], Any]
    default: str | None = None  # the weights where nobody names others; None: the option is needed
    option: str | None = None  # if it differs from --NAME
    told: Mapping[str, Any] = field(default_factory=dict)  # further settings by name, each made by settings.setting
    release: Callable[[str], str | None] = lambda name: None  # where weights of this name are published, if on no hub
    converter: str | None = None  # module with `recognises` and `save_released`, which make folders of releases
    parts: Callable[[list[str], Any], list[str]] | None = None  # a score's name from that of the weights, if another's
    missing: str | None = None  # what to say where an option of these is needed and not given

    @property
    def setting(self) -> str:
        return (self.option or self.name).removeprefix("--").replace("-", "_")


# The headings of the help, in their order; a filter may have one of its own, which comes last.
HEADINGS = (
    "Size",
    "Exposure and sharpness",
    "Overlays and marks",
    "People",
    "Pairs",
    "By a model",
)


class Input(NamedTuple):
    """What a model is asked about a row: its vector of one image or text (of a classifier, its probabilities)."""

    model: Model
    of: str  # image (the one that --image names), source, target, text, source_text


@dataclass(frozen=True)
class Filter:
    """One measurement of an image, and how a bound on it is spelled.

    `measure` takes the raster (uint8, HxWx3 or HxW) and returns a number; a filter without a raster needs only
    width and height (arrays of int64, pixels) and has `from_size` instead, or what else the header says and has
    `from_header`.
    A filter with a model names its `inputs`; `score` takes the models and, for each input, the vectors of n rows
    (n, size), and returns n numbers. Filters of equal inputs share them. `measure_pair` takes the raster of the first
    source and that of the edited image. `measure_flow` takes the motion from the first
    source to the target (HxWx2, per cent of the diagonal) and the source's foreground (bool HxW).
    """

    name: str  # of the score and of the reject reason
    help: str
    unit: str
    source: str  # the paper or definition
    group: str = "Further filters"  # heading in the help
    bare: Literal["min", "max"] = "min"  # what a single number on the command line bounds
    cost: float | None = None  # CPU milliseconds for a JPEG of 1.5 megapixels, decoding too: benchmarks/cost.py
    option: str | None = None  # if it differs from --NAME
    raster: Raster | None = None
    measure: Callable[[np.ndarray], float] | None = None
    from_size: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    from_header: Callable[[Header], float] | None = None
    inputs: tuple[Input, ...] = ()
    score: Callable[..., np.ndarray] | None = None
    heads: tuple[Model, ...] = ()  # models that `score` itself uses, as models["NAME"]
    optional: tuple[Model, ...] = ()  # models that are asked where they are given
    measure_flow: Callable[[np.ndarray, np.ndarray], float] | None = None
    measure_pair: Callable[[np.ndarray, np.ndarray], float] | None = None

    def __post_init__(self) -> None:
        """Raises EditError for what measures nothing, or in two ways."""
        if not self.name.isidentifier():
            raise EditError(f"filter `{self.name}`: a name has letters, digits and _ (its option has - for _)")
        if "at most" in self.help and self.bare == "min":
            raise EditError(f"filter `{self.name}`: its help says at most, and bare is 'min'")
        if not isinstance(self.cost, (int, float, type(None))):
            raise EditError(f"filter `{self.name}`: cost is {self.cost!r}, not a number of milliseconds")
        if self.bare not in ("min", "max"):
            raise EditError(f"filter `{self.name}`: bare is {self.bare!r}, not 'min' or 'max'")
        ways = (self.measure, self.measure_pair, self.measure_flow, self.from_size, self.from_header, self.score)
        if sum(way is not None for way in ways) != 1:
            raise EditError(
                f"filter `{self.name}`: one of measure, measure_pair, measure_flow, from_size, from_header and score"
            )
        if self.raster is None and (self.measure or self.measure_pair):
            raise EditError(f"filter `{self.name}`: no raster, of which it would measure")

    @property
    def models(self) -> list[Model]:
        """The models it cannot do without."""
        return list(dict.fromkeys([*(item.model for item in self.inputs), *self.heads]))

    @property
    def stored(self) -> bool:
        """Whether its value is kept as a score: sizes stand in columns of their own."""
        return self.from_size is None

    @property
    def cost_class(self) -> str:
        """Cost class: CPU time where it was measured, else a decode, a model, or next to nothing."""
        if self.cost is not None:
            return f"{self.cost:g} ms"
        if self.inputs or self.heads or self.measure_flow is not None:
            return "a model"
        return "a decode" if self.raster is not None else "header only"

    @property
    def flag(self) -> str:
        return self.option or "--" + self.name.replace("_", "-")


@functools.cache
def all_filters() -> dict[str, Filter]:
    """Every filter by name, in alphabetical order of their files. Raises EditError for a name that is there twice."""
    found: dict[str, Filter] = {}
    files: dict[str, str] = {}
    for name, item in FILTERS.each("FILTER").items():
        file = FILTERS.modules[name]
        if files.setdefault(item.name, file) != file:
            raise EditError(f"the filter `{item.name}` is in both {files[item.name]} and {file}")
        found[item.name] = item
    return found


@functools.cache
def all_models() -> dict[str, Model]:
    """Every model that some filter asks, by name."""
    return {one.name: one for item in all_filters().values() for one in (*item.models, *item.optional)}


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
        """Mask of the values inside the bounds; NaN never is."""
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
