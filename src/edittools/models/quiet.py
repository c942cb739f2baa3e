"""The commands have a progress bar of their own."""

from __future__ import annotations

import importlib


def no_bars(*libraries: str) -> None:
    """Turn off what `transformers` or `diffusers` draw on standard error while they load a model."""
    for name in libraries:
        importlib.import_module(f"{name}.utils.logging").disable_progress_bar()
