"""Painters fill a region of an image: by a network for in-painting, or by what is about it.

A painter is one file of backends/; what it declares as literals is read without importing it:

    HELP     what the manual says of it
    WEIGHTS  its weights where none are named; "" of one that has none, or whose weights have to be named

`load(weights, **placed)` makes a Painter; `placed` are device and dtype. The geometry about it is
edittools.painters.canvas: a painter sees a crop at the size that it is best at, and what it changes outside of the
region is not kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edittools.errors import RowError
from edittools.registry import Registry

PAINTERS = Registry("edittools.painters.backends", "edittools.painters")


@dataclass(frozen=True)
class Sampling:
    """How a painter samples; what is None is its own. Painters that do not sample take no notice."""

    steps: int | None = None
    guidance: float | None = None
    strength: float | None = None  # 1: nothing of what is there is left; of painters that begin with it
    control_scale: float | None = None
    control_end: float | None = None  # share of the steps that the structure map is followed in


@dataclass(frozen=True)
class PaintRequest:
    """One region to paint."""

    image: np.ndarray  # uint8 HxWx3; both sides are multiples of the painter's
    mask: np.ndarray  # bool HxW, what to paint
    prompt: str = ""  # what is to be there
    negative: str = ""  # what is not
    seed: int = 0
    control: np.ndarray | None = None  # a structure map, uint8 HxWx3, for painters that follow one
    sampling: Sampling = Sampling()
    instruction: str = ""  # what is to be done, for painters that follow one
    references: tuple[np.ndarray, ...] = ()  # further images, that the instruction speaks of or the paint is to be like


class Painter(Protocol):
    """What fills regions. The result of a request does not depend on those beside it."""

    batch_size: int  # requests it takes together
    multiple: int  # of both sides
    area: int | None  # pixels that it is best at; None: any
    wants: frozenset[str]  # of prompt, control, instruction and reference: what it needs
    # `context`, where it has one: sides of the crop over those of the region that it needs to see at least

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        """Why it should not paint this region of a whole image; None where it can."""

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        """The image of every request, of its size; unpainted pixels may have changed."""


def load_painter(spec: str, device: str = "cpu", dtype: str = "float32", **more: object) -> Painter:
    """A painter by NAME[=WEIGHTS]; `more` is what else its `load` takes, such as `lora`. Raises UsageError for a name
    or an option unknown, EditError for weights that are missing."""
    from edittools.errors import UsageError

    name, _, weights = spec.partition("=")
    if name not in PAINTERS.names:
        raise UsageError(f"--painter {spec}: there is no such painter", hint=f"there are: {', '.join(PAINTERS.names)}")
    load = PAINTERS.load(name).load
    told = {option: value for option, value in more.items() if value}
    for option in told.keys() - inspect.signature(load).parameters.keys():
        raise UsageError(f"--{option}: --painter {name} has no such option")
    made: Painter = load(weights or PAINTERS.declared("WEIGHTS", "")[name], device=device, dtype=dtype, **told)
    return made
