"""`python -m edittools.convert FILE FOLDER`: a released checkpoint as safetensors, once.

What it is, its keys tell: a model that filters ask or an embedder (`*.pth`, `*.pt`, `*.pth.tar`), a reward model (these
or safetensors), or an editing model in safetensors, a file or a folder. Of an editing model `--to LAYOUT` is the way
back. Each says what it can convert in its own file.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from edittools.encoders.embedders import EMBEDDERS
from edittools.errors import EditError
from edittools.filter import all_models
from edittools.nets.architectures import weight_adapters
from edittools.score.reward_models import REWARD_MODELS
from edittools.weights.lookup import read_released


def converters() -> Iterator[ModuleType]:
    """The modules that make folders of releases: of models that filters ask, and of embedders."""
    yield from (importlib.import_module(one.converter) for one in all_models().values() if one.converter is not None)
    for module in map(EMBEDDERS.load, EMBEDDERS.names):
        if hasattr(module, "recognises"):
            yield module
    yield from _reward_models()


def _reward_models() -> Iterator[ModuleType]:
    return (module for module in map(REWARD_MODELS.load, REWARD_MODELS.names) if hasattr(module, "recognises"))


def convert(
    path: str | Path, target: str | Path, layout: str = "ours", given: Mapping[str, str | Path] | None = None
) -> str:
    """Convert; returns what it was. `layout` other than "ours", and parts that are `given`, are of editing models.

    Raises EditError.
    """
    if Path(path).is_dir() or Path(path).suffix == ".safetensors":
        released = _of_reward_model(path)
        if released is None:
            return _adapter(path).convert(path, target, layout, given)
    else:
        released = read_released(path)
    for module in converters():
        if module.recognises(released):
            if layout != "ours":
                raise EditError(f"{path}: only editing models are written in the layout `{layout}`")
            module.save_released(released, target, str(path))
            return module.__name__.rpartition(".")[2]
    known = ", ".join(module.__name__.rpartition(".")[2] for module in converters())
    raise EditError(f"{path}: no released checkpoint that is known", hint=f"{known}, or {_titles()}")


def _of_reward_model(path: str | Path) -> dict[str, Any] | None:
    """The tensors of a reward model that was released as safetensors; None of anything else."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            names = dict.fromkeys(file.keys())
    except (OSError, SafetensorError):  # a folder, or what an editing model's file says better
        return None
    return load_file(path) if any(module.recognises(names) for module in _reward_models()) else None


def _adapter(path: str | Path) -> ModuleType:
    """The architecture's file that reads a checkpoint. Raises EditError."""
    unreadable: list[EditError] = []
    for adapter in weight_adapters():
        try:
            if adapter.reads(path):
                return adapter
        except EditError as error:  # another one may know better
            unreadable.append(error)
    if unreadable:
        raise unreadable[0]
    raise EditError(f"{path}: no checkpoint of {_titles()}", hint="its file, or a folder with transformer/ in it")


def _titles() -> str:
    return " or ".join(adapter.TITLE for adapter in weight_adapters())


def main(arguments: list[str]) -> int:
    adapters = weight_adapters()
    layouts = dict.fromkeys(name for adapter in adapters for name in adapter.LAYOUTS)
    parts = {part: (adapter.TITLE, *said) for adapter in adapters for part, said in adapter.GIVEN.items()}
    parser = argparse.ArgumentParser(
        prog="python -m edittools.convert", description="A released checkpoint as safetensors, once."
    )
    parser.add_argument("source", metavar="FILE", help="the release's file; of an editing model, a folder too")
    parser.add_argument("target", metavar="FOLDER", help="where it goes; with --to official, a file")
    parser.add_argument("--to", choices=layouts, default="ours", help="layout of an editing model (default: ours)")
    for part, (title, flag, said) in parts.items():
        parser.add_argument(flag, dest=part, metavar="FOLDER", help=f"of {title}: {said}")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    given = {part: folder for part in parts if (folder := getattr(options, part))}
    try:
        print(f"{convert(options.source, options.target, options.to, given)}: {options.target}", file=sys.stderr)
        if lacks := [name for adapter in adapters for name in adapter.missing_encoders(Path(options.target))]:
            names, flags = ", ".join(f"{name}/" for name in lacks), ", ".join(flag for _, flag, _ in parts.values())
            print(f"hint: to train or sample it also needs {names}: {flags}", file=sys.stderr)
    except EditError as error:
        print(f"convert: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
