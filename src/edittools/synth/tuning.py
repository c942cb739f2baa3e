"""Numbers of painted tasks: how a region is grown and pasted, how the painter samples, how edges are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from edittools.errors import UsageError
from edittools.painters import Sampling
from edittools.painters.canvas import Brush
from edittools.synth.registry import PAINTED

SIDE = 1024  # the shorter side that pixels are told at
_BRUSH = ("grow", "feather", "context")
_EDGES = ("canny_low", "canny_high")
_SAMPLING = tuple(one.name for one in fields(Sampling))
_WHOLE = ("steps", *_EDGES)
NAMES = (*_BRUSH, *_SAMPLING, *_EDGES)


@dataclass(frozen=True)
class Tuning:
    """What a user or a preset says of one task."""

    numbers: dict[str, float] = field(default_factory=dict)

    def brush(self, brush: Brush, shorter: int) -> Brush:
        """A task's own brush with these numbers, on an image of this shorter side."""
        told = {name: self.numbers[name] for name in _BRUSH if name in self.numbers}
        pixels = {name: round(told[name] * shorter / SIDE) for name in ("grow", "feather") if name in told}
        return replace(
            brush,
            grow=pixels.get("grow", brush.grow),
            feather=pixels.get("feather", brush.feather),
            context=told.get("context", brush.context),
        )

    @property
    def sampling(self) -> Sampling:
        return Sampling(**{name: _typed(name, self.numbers[name]) for name in _SAMPLING if name in self.numbers})  # type: ignore[arg-type]

    @property
    def edges(self) -> tuple[int, int] | None:
        """Thresholds of canny, where they are told."""
        if not any(name in self.numbers for name in _EDGES):
            return None
        return int(self.numbers.get("canny_low", 100)), int(self.numbers.get("canny_high", 200))


def read_tuning(specs: Sequence[str], tasks: Sequence[str]) -> dict[str, Tuning]:
    """By task, of TASK.NAME=NUMBER each. Numbers of tasks that are not painted are passed over: a preset has them of
    all. Raises UsageError."""
    found: dict[str, dict[str, float]] = {task: {} for task in tasks}
    for spec in specs:
        place, _, number = spec.partition("=")
        task, _, name = place.partition(".")
        if name not in NAMES:
            raise UsageError(f"--tune {spec}: not TASK.NAME=NUMBER", hint=f"names: {', '.join(NAMES)}")
        if task not in PAINTED.names:
            raise UsageError(f"--tune {spec}: there is no such task", hint=f"there are: {', '.join(PAINTED.names)}")
        try:
            value = float(number)
        except ValueError:
            raise UsageError(f"--tune {spec}: {number or 'nothing'} is not a number") from None
        if not 0 <= value < 1e6 or (name in _WHOLE and value != int(value)) or (name == "context" and value < 1):
            raise UsageError(f"--tune {spec}: {name} cannot be {number}")
        found.setdefault(task, {})[name] = value
    return {task: Tuning(found[task]) for task in tasks}


def _typed(name: str, value: float) -> float | int:
    return int(value) if name == "steps" else value
