"""Editors: sources and an instruction in, the edited picture out. `load_editor` picks the backend.

A backend is one file of this folder; it declares `recognises(folder)` and `load(spec, device, dtype, options)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edittools.errors import EditError, RowError, UsageError
from edittools.models.weights import check_kept


@dataclass(frozen=True)
class EditRequest:
    """One edit to make."""

    sources: list[np.ndarray]  # uint8 (h, w, 3), sRGB; the first is "Figure 1"
    instruction: str
    seed: int  # the result is a function of this, not of the batch
    height: int | None = None  # of the result in pixels, as near as the model can; None: the model's own choice
    width: int | None = None


@dataclass(frozen=True)
class EditorOptions:
    """How a model samples; what is None or empty is the model's own."""

    steps: int | None = None
    guidance: float | None = None  # scale of classifier-free guidance by a second forward pass; 1 is none
    distilled_guidance: float | None = None  # what a guidance-distilled model is told
    negative: str | None = None  # instruction of the second forward pass
    side: int | None = None  # work at about side² pixels
    batch_size: int | None = None  # rows of equal shape that go through the network together
    legacy_positions: bool = False  # see diffusers_pipeline.three_axis_positions()
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
        if self.side is not None and self.side < 16:
            raise UsageError("`side` must be at least 16 pixels")

    def refuse(self, model: str, *names: str) -> None:
        """Raise UsageError for the first of these that is set, since `model` has no such thing."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value is not False and value != ():
                raise UsageError(f"--{name.replace('_', '-')}: {model} has no such option")


DEFAULTS = EditorOptions()


@dataclass
class Work:
    """What an editor has done so far."""

    pictures: int = 0
    seconds: float = 0.0  # within edit()
    flops: float = 0.0  # of the network's forward passes, see System.flops(); 0 where nobody knows


class Editor(Protocol):
    """A loaded editing model."""

    batch_size: int  # rows that go through the network together, if their shapes are equal
    work: Work

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray | RowError]:
        """One uint8 (H, W, 3) picture per request, in their order, or why the model cannot make it."""
        ...


def load_editor(spec: str, device: str = "cpu", dtype: str = "float32", **options: Any) -> Editor:
    """Load an editor from a folder, or a diffusers pipeline by its name on the hub.

    spec     a folder that `edit train` left, a model's folder with edit.json, a folder with a diffusers pipeline, or a
             hub name OWNER/NAME
    dtype    "float32", "bfloat16" or "float16"
    options  see EditorOptions

    Raises EditError that names the folder or the download that is missing, UsageError for an option that the model or
    the machine does not have.
    """
    path = Path(spec)
    check_kept(spec)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UsageError(f"no dtype `{dtype}`", hint="float32, bfloat16 or float16")
    if not path.is_dir() and (spec.count("/") != 1 or spec.startswith((".", "/", "~"))):
        raise EditError(f"no folder {spec}", hint="a folder, or a name on the Hugging Face hub such as OWNER/NAME")
    chosen = EditorOptions(**options)
    # After the checks: importing these takes seconds.
    from edittools.models import diffusers_pipeline, run_folder, system_editor
    from edittools.models.quiet import no_bars
    from edittools.models.speed import open_device

    no_bars("transformers", "diffusers")
    open_device(device)

    if path.is_dir():
        for backend in (run_folder, system_editor):
            if backend.recognises(path):
                return backend.load(spec, device, dtype, chosen)
        if not diffusers_pipeline.recognises(path):
            raise EditError(
                f"{spec} holds neither a run of `edit train` (config.json, transformer/), nor a model (edit.json), nor "
                f"a diffusers pipeline (model_index.json)"
            )
    folder = diffusers_pipeline.locate_pipeline(spec)
    if system_editor.recognises(folder):
        return system_editor.load(str(folder), device, dtype, chosen)
    return diffusers_pipeline.load(spec, device, dtype, chosen)
