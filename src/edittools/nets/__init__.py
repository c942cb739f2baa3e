"""Editing models taken apart: frozen encoders that may run beforehand, and the network that is trained.

An architecture is one package of this folder, or of another package by an entry point of the group
`edittools.architectures`. It declares `Settings` and `load(settings, ...)` (see base.EditModel); if its network needs
no weights and no encoders, the literal `FROM_SCRATCH = True`. A file `editor.py` in the package says how a published
model of it is sampled, a file `weights.py` how released checkpoints become ours and back (see
`architectures.weight_adapters`), a file `names.py` what files of adapters call its modules (see
`architectures.namings`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edittools.errors import EditError, UsageError
from edittools.nets.architectures import ARCHITECTURES
from edittools.settings import read_settings
from edittools.weights.lookup import read_config

if TYPE_CHECKING:
    from edittools.nets.base import EditModel, Once
    from edittools.nets.images import Box
    from edittools.nets.shapes import Shape


def architecture_names() -> list[str]:
    """The architectures there are: the name of the folder is the name."""
    return list(ARCHITECTURES.names)


def recognise(weights: str) -> str:
    """The architecture of a model's folder, or of a pipeline on the hub. Raises EditError where there is none."""
    from edittools.weights.diffusers import locate_pipeline, pipeline_class

    described = Path(weights, "edit.json")
    if described.is_file():
        return str(read_config(Path(weights), described.name).get("system"))
    found = pipeline_class(locate_pipeline(weights)) if weights else ""
    for name in architecture_names():
        if found in getattr(ARCHITECTURES.load(name), "PIPELINES", ()):
            return name
    raise EditError(f"{weights or 'no weights'}: not the weights of an architecture that can be trained: {found}")


def from_scratch(name: str) -> bool:
    """Whether an architecture makes its network without any weights, and has no frozen encoders: as it declares
    itself.
    """
    return bool(ARCHITECTURES.declared("FROM_SCRATCH", False).get(name))


def has_editor(name: object) -> bool:
    """Whether a published model of this architecture is sampled as its authors do."""
    return (
        name in architecture_names()
        and importlib.util.find_spec(f"{ARCHITECTURES.modules[str(name)]}.editor") is not None
    )


def sees_references(name: str, settings: dict[str, Any]) -> bool:
    """Do the latents of references go through the network of an architecture? Elsewhere the encoders alone see
    sources.
    """
    return bool(_declared(name, settings, "sees_references", True))


def mixes_references(name: str, settings: dict[str, Any]) -> bool:
    """May rows with other references, more or fewer, share a batch?"""
    return bool(_declared(name, settings, "mixes_references", False))


def most_references(name: str, settings: dict[str, Any]) -> int | None:
    """How many source images an architecture takes at most; None: any number."""
    found: int | None = _declared(name, settings, "most_references", None)
    return found


def source_limits(name: str, settings: dict[str, Any]) -> tuple[int, float]:
    """The fewest pixels that a side of a source may have, and how many times the other side at most."""
    found: tuple[int, float] = _declared(name, settings, "source_limits", (1, float("inf")))
    return found


def sampled_as(name: str, settings: dict[str, Any]) -> Callable[[int, int, int], tuple[Shape, Box]] | None:
    """How an image of this height and width is sampled with at about so many pixels: its shape, and what of it is seen.

    None: an architecture whose sampling and training have nothing in common here.
    """
    found: Callable[[int, int, int], tuple[Shape, Box]] | None = _declared(name, settings, "sampled_as", None)
    return found


def sampler_shift(name: str, settings: dict[str, Any], folder: Path) -> tuple[float, list[float]]:
    """The shift of time of a model's own sampler: a factor, or a line, see flow.shift_factor().

    What its architecture says of it, else what the scheduler in its folder does. Raises UsageError.
    """
    from edittools.nets.sampling import scheduler_shift

    line = _declared(name, settings, "sampler_line", None)
    return scheduler_shift(folder) if line is None else (0.0, line)


def _declared(name: str, settings: dict[str, Any], what: str, usual: Any) -> Any:
    """What an architecture's function of this name says of these settings.

    Raises EditError for weights of no architecture where the name is "auto".
    """
    if name == "auto" and settings.get("weights"):
        name = recognise(str(settings["weights"]))
    if name not in architecture_names():
        return usual
    return getattr(ARCHITECTURES.load(name), what, lambda settings: usual)(settings)


_OLD_NAMES = {
    "sides": "resolution", "clip": "max_grad_norm", "spike": "loss_spike_factor",
    "batches": "microbatches", "wordings": "instruction_styles", "drop_text": "caption_dropout",
}  # fmt: skip


def with_new_names(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run, of this version or an earlier one, with this version's keys."""
    return {_OLD_NAMES.get(name, name): value for name, value in recipe.items()}


def load_edit_model(
    name: str,
    settings: dict[str, Any],
    *,
    encoders: bool = True,
    network: bool = True,
    seed: int = 0,
    texts: Callable[[], Iterable[str]] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    loading: dict[str, Any] | None = None,
    once: Once | None = None,
) -> EditModel:
    """Load an architecture by its name.

    settings  the architecture's own: its `Settings` says which there are
    encoders  load the frozen encoders (autoencoder, language model); without them nothing new can be encoded
    network   load or make the network; without it the architecture only encodes
    seed      of the random weights of what is new
    texts     the instructions of the data, for an architecture that builds its vocabulary from them
    device, dtype   of the encoders; the network stays as it is stored, on the CPU, until the caller moves it
    loading   how a published transformer is read instead: arguments of its from_pretrained(), such as dtype
    once      who makes a new network; None: this process

    The name "auto" is the architecture that the weights are of. Raises UsageError for an unknown architecture or
    setting, EditError for weights that are missing or damaged.
    """
    if name == "auto":
        name = recognise(str(settings.get("weights", "")))
    from edittools.nets.base import at_once

    if name not in architecture_names():
        raise UsageError(f"no architecture `{name}`", hint=f"architectures: {', '.join(architecture_names())}")
    module = ARCHITECTURES.load(name)
    return module.load(
        read_settings(module.Settings, settings, f"[model] of architecture {name}"),
        encoders=encoders,
        network=network,
        seed=seed,
        texts=texts,
        device=device,
        dtype=dtype,
        loading=loading,
        once=once or at_once,
    )
