"""Editors: sources and an instruction in, the edited image out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edittools.errors import RowError, UsageError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class EditRequest:
    """One edit to make."""

    sources: list[np.ndarray]  # uint8 (h, w, 3), or (h, w, 4) of a result with alpha, sRGB; the first is "Figure 1"
    instruction: str
    seed: int  # the result is a function of this, not of the batch
    height: int | None = None  # of the result in pixels, as near as the model can; None: the model's own choice
    width: int | None = None
    whole: bool = False  # the result is laid over the first source: it has to show all of it, if it be out of its ratio


@dataclass(frozen=True)
class EditorOptions:
    """How a model samples; what is None or empty is the model's own."""

    steps: int | None = None
    guidance_scale: float | None = None  # scale of classifier-free guidance by a second forward pass; 1 is none
    distilled_guidance: float | None = None  # what a guidance-distilled model is told
    negative_prompt: str | None = None  # instruction of the second forward pass
    resolution: int | None = None  # work at about side² pixels
    batch_size: int | None = None  # rows of equal shape that go through the network together
    legacy_positions: bool = False  # see diffusers_weights.three_axis_positions()
    lora: tuple[str, ...] = ()  # PATH or PATH:SCALE, see lora.add_adapters()
    attention: str | None = None  # a backend of diffusers
    compile: bool = False  # the repeated blocks
    quantize: str | None = None  # "int8" or "fp8"
    cache: str | None = None  # "first-block"
    cache_threshold: float = 0.08  # of "first-block": a step whose first block changes less is skipped
    offload: bool = False  # keep weights in the main memory and fetch them block by block

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UsageError("`steps` must be at least 1")
        if self.resolution is not None and self.resolution < 16:
            raise UsageError("`resolution` must be at least 16 pixels")

    def refuse(self, model: str, *names: str) -> None:
        """Raise UsageError for the first of these that is set, since `model` has no such thing."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value is not False and value != ():
                raise UsageError(f"--{name.replace('_', '-')}: {model} has no such option")


DEFAULTS = EditorOptions()


@dataclass
class Work:
    """Counters of an editor: images, time, operations, memory."""

    images: int = 0
    seconds: float = 0.0  # within edit()
    flops: float = 0.0  # of the network's forward passes, see EditModel.flops(); 0 where nobody knows
    peak: int | None = None  # bytes that a CUDA device of another process has held at most


class Editor(Protocol):
    """A loaded editing model."""

    batch_size: int  # rows that go through the network together, if their shapes are equal
    at_once: int  # calls of edit() that go on at the same time, from threads
    work: Work

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray | RowError]:
        """One uint8 (H, W, 3) image per request, in their order, or why the model cannot make it; (H, W, 4) with alpha.

        One whose attribute `from_text` is True takes requests without sources.
        """
        ...
