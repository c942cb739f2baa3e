"""Editing models taken apart: frozen encoders that may run beforehand, and the network that is trained.

A system is one file of this folder; it declares `load(settings, ...)`. See base.System.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edittools.errors import EditError, UsageError
from edittools.models.weights import read_config
from edittools.settings import read_settings

if TYPE_CHECKING:
    from edittools.models.systems.base import System


def system_names() -> list[str]:
    """The systems there are: the file name is the name."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in ("base", "flux"))


def recognise(weights: str) -> str:
    """The system of a model's folder, or of a pipeline on the hub. Raises EditError where there is none."""
    from edittools.models.diffusers_pipeline import locate_pipeline, pipeline_class

    described = Path(weights, "edit.json")
    if described.is_file():
        return str(read_config(Path(weights), described.name).get("system"))
    found = pipeline_class(locate_pipeline(weights)) if weights else ""
    for name in system_names():
        if found in getattr(importlib.import_module(f"{__name__}.{name}"), "PIPELINES", ()):
            return name
    raise EditError(f"{weights or 'no weights'}: not the weights of a system that can be trained: {found}")


def sees_references(name: str, settings: dict[str, Any]) -> bool:
    """Do the latents of references go through the network of a system? Elsewhere the encoders alone see sources."""
    if name not in system_names():
        return True
    module = importlib.import_module(f"{__name__}.{name}")
    return bool(getattr(module, "sees_references", lambda settings: True)(settings))


def most_references(name: str, settings: dict[str, Any]) -> int | None:
    """How many source pictures a system takes at most; None: any number. Raises EditError for weights of no system."""
    if name == "auto":
        name = recognise(str(settings.get("weights", "")))
    if name not in system_names():
        return None
    module = importlib.import_module(f"{__name__}.{name}")
    return getattr(module, "most_references", lambda settings: None)(settings)


def load_system(
    name: str,
    settings: dict[str, Any],
    *,
    encoders: bool = True,
    network: bool = True,
    seed: int = 0,
    texts: Callable[[], Sequence[str]] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    loading: dict[str, Any] | None = None,
) -> System:
    """Load a system by its name.

    settings  the system's own: its `Settings` says which there are
    encoders  load the frozen encoders (autoencoder, language model); without them nothing new can be encoded
    network   load or make the network; without it the system only encodes
    seed      of the random weights of what is new
    texts     the instructions of the data, for a system that builds its vocabulary from them
    device, dtype   of the encoders; the network stays as it is stored, on the CPU, until the caller moves it
    loading   how a published transformer is read instead: arguments of its from_pretrained(), such as dtype

    The name "auto" is the system that the weights are of. Raises UsageError for an unknown system or setting, EditError
    for weights that are missing or damaged.
    """
    if name == "auto":
        name = recognise(str(settings.get("weights", "")))
    if name not in system_names():
        raise UsageError(f"no system `{name}`", hint=f"systems: {', '.join(system_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    return module.load(
        read_settings(module.Settings, settings, f"[model] of system {name}"),
        encoders=encoders,
        network=network,
        seed=seed,
        texts=texts,
        device=device,
        dtype=dtype,
        loading=loading,
    )
