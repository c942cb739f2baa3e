"""Editors: sources and an instruction in, the edited picture out. `load_editor` picks the backend.

A backend is one file of this folder; it declares `recognises(folder)` and `load(spec, device, dtype, **options)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edittools.errors import EditError, UsageError


@dataclass(frozen=True)
class EditRequest:
    """One edit to make."""

    sources: list[np.ndarray]  # uint8 (h, w, 3), sRGB; the first is "Figure 1"
    instruction: str
    seed: int  # the result is a function of this, not of the batch
    height: int | None = None  # of the result in pixels; None: the first source's, as near as the model can
    width: int | None = None


class Editor(Protocol):
    """A loaded editing model."""

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray]:
        """One uint8 (H, W, 3) picture per request, in their order."""
        ...


def load_editor(spec: str, device: str = "cpu", dtype: str = "float32", **options: Any) -> Editor:
    """Load an editor from a folder, or a diffusers pipeline by its name on the hub.

    spec     a folder that `edit train` left, a folder with a diffusers pipeline, or a hub name OWNER/NAME
    dtype    "float32", "bfloat16" or "float16"
    options  the backend's own: `steps` (both); `guidance`, `call` (diffusers)

    Raises EditError that names the folder or the download that is missing.
    """
    path = Path(spec)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UsageError(f"no dtype `{dtype}`", hint="float32, bfloat16 or float16")
    if not path.is_dir() and (spec.count("/") != 1 or spec.startswith((".", "/", "~"))):
        raise EditError(f"no folder {spec}", hint="a folder, or a name on the Hugging Face hub such as OWNER/NAME")
    # After the checks: importing these takes seconds.
    from edittools.models import diffusers_pipeline, run_folder

    if path.is_dir():
        if run_folder.recognises(path):
            return run_folder.load(path, device, dtype, **options)
        if diffusers_pipeline.recognises(path):
            return diffusers_pipeline.load(spec, device, dtype, **options)
        raise EditError(
            f"{spec} holds neither a run of `edit train` (config.json, transformer/) nor a diffusers "
            f"pipeline (model_index.json)"
        )
    return diffusers_pipeline.load(spec, device, dtype, **options)
