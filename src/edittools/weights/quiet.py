"""Silence libraries: the commands have a progress bar and error lines of their own."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from types import ModuleType

from edittools.errors import missing_extra


def disable_progress_bars(*libraries: str) -> None:
    """Turn off what `transformers` or `diffusers` draw on standard error while they load a model."""
    if "diffusers" in libraries:
        _without_bitsandbytes()
        logging.getLogger("diffusers.models.modeling_utils").addFilter(_needless)  # it says so of every model
    if "transformers" in libraries:  # every process would say that images are read by Pillow, as they are everywhere
        logging.getLogger("transformers.utils.import_utils").addFilter(_needless)
    for name in libraries:
        importlib.import_module(f"{name}.utils.logging").disable_progress_bar()


def _needless(record: logging.LogRecord) -> bool:
    return not any(
        words in record.getMessage() for words in ("requires torchvision", "Attention backends are an experimental")
    )


def _without_bitsandbytes() -> None:
    """Import peft and diffusers in the belief that there is no bitsandbytes.

    They would import it for layers that are of no use here: our adapters have their own for weights in few bits. That
    takes seconds, and prints a warning of a kernel that it lacks.
    """
    if {"peft", "diffusers", "bitsandbytes"} & sys.modules.keys():
        return
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # as Python marks what is not to be imported
    try:
        import diffusers.utils.import_utils  # noqa: F401  # it looks once

        with contextlib.suppress(ImportError):  # whoever needs peft says what is wrong with it
            from peft.import_utils import is_bnb_4bit_available, is_bnb_available

            is_bnb_available(), is_bnb_4bit_available()  # likewise
    finally:
        del sys.modules["bitsandbytes"]


def open_bitsandbytes(use: str) -> ModuleType:
    """bitsandbytes, for what needs it. Raises EditError where it is not installed."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of kernels that only make it faster
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError:
        raise missing_extra("bitsandbytes", "train", use) from None
    finally:
        logger.setLevel(level)
