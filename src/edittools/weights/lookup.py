"""Where the weights of a model are, and how a release in another format becomes safetensors.

A model is named by a folder, or by a name: then it is looked for below EDITTOOLS_WEIGHTS, in the Hugging Face cache,
and, if it is an OWNER/NAME, on the hub. Weights are safetensors only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edittools.errors import EditError, describe
from edittools.json_file import read_json

VARIABLE = "EDITTOOLS_WEIGHTS"
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def find_weights(spec: str, *, revision: str | None = None, release: str | None = None) -> Path:
    """The folder of a model: `config.json` beside safetensors.

    revision  of a model on the hub: a branch, tag or commit
    release   where a model that is on no hub is published: its file is converted once, by `python -m
              edittools.convert`

    Raises EditError that says what to fetch and where to put it.
    """
    folder = Path(spec)
    if folder.is_dir():
        return _checked(folder, release)
    local = Path(os.environ.get(VARIABLE) or ".", spec)
    if os.environ.get(VARIABLE) and local.is_dir():
        return _checked(local, release)
    where = f"{os.environ[VARIABLE]}/{spec}" if os.environ.get(VARIABLE) else f"DIR/{spec}, with {VARIABLE}=DIR set"
    if release is not None:
        raise EditError(
            f"no weights `{spec}`: fetch {release} and convert it into {where}",
            hint=f"python -m edittools.convert FILE {local if os.environ.get(VARIABLE) else f'DIR/{spec}'}",
        )
    if not may_be_on_hub(spec):
        raise EditError(f"no folder {spec}", hint=f"a folder, a name below {VARIABLE}, or OWNER/NAME on the hub")
    cached = _from_hub(spec, revision, local_only=True)
    if isinstance(cached, Path):
        return cached
    loaded = _from_hub(spec, revision, local_only=False)
    if isinstance(loaded, Path):
        return loaded
    raise EditError(
        f"no weights `{spec}`: fetch https://huggingface.co/{spec} into {where} ({loaded})",
        hint=f"where there is a network: hf download {spec} --local-dir {where.partition(',')[0]}",
    )


def may_be_on_hub(spec: str) -> bool:
    """Whether it may be the name of a model on the hub, OWNER/NAME; `rnu/` is a folder that is misspelt."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", spec) is not None


def check_kept(spec: str) -> None:
    """Raises EditError where RUN/@STEP names a model that the run has not kept; no hub has such names."""
    path = Path(spec)
    if path.name.startswith("@") and not path.exists():
        kept = sorted(p.name for p in path.parent.glob("@*"))
        hint = f"{path.parent} has {', '.join(sorted(kept, key=lambda name: (len(name), name)))}"
        raise EditError(f"{spec}: no such model was kept", hint=hint if kept else "`keep_every` of a recipe keeps some")


def _checked(folder: Path, release: str | None) -> Path:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        other = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".tar"))
        found = f" (it has {other[0]}, which is not read)" if other else ""
        how = (
            f"python -m edittools.convert FILE {folder}"
            if release
            else "only safetensors beside their config.json are read; `python -m edittools.convert FILE FOLDER` makes "
            "them of releases that it knows"
        )
        raise EditError(f"{folder}: no config.json beside safetensors{found}", hint=how)
    return folder


def _from_hub(spec: str, revision: str | None, local_only: bool) -> Path | str:
    """The folder of a snapshot, or what was in the way."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(spec, revision=revision, allow_patterns=_HUB_FILES, local_files_only=local_only)
        return _checked(Path(found), None)
    except EditError as error:  # another program has fetched a part of it
        return str(error)
    except Exception as error:  # no network, no such repository, not allowed: one class each, in three packages
        return describe(error)


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a model's or a run's settings. Raises EditError."""
    config = read_json(folder / name)
    if not isinstance(config, dict):
        raise EditError(f"{folder / name}: no table of settings")
    return config


def read_tensors(folder: Path, names: re.Pattern[str] | None = None) -> dict[str, Any]:
    """Every tensor of the folder's safetensors, or those whose whole name matches. Raises EditError."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            if names is None:
                tensors |= load_file(path)
                continue
            with safe_open(path, "pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys() if names.fullmatch(name)}
    except (OSError, SafetensorError) as error:
        raise EditError(f"{folder}: damaged weights: {describe(error)}") from error
    return tensors


def stored_bytes(folder: Path, itemsize: int) -> int:
    """Of a folder's safetensors in numbers of so many bytes, as their headers say; 0 without any."""
    return itemsize * sum(_stored(folder).values())


def stored_dtype(folder: Path) -> Any:
    """The torch.dtype that most of a folder's safetensors are in, as their headers say; bfloat16 for what has less
    than 16 bits, which is no precision to compute in. Raises EditError."""
    import torch

    found = {"F64": torch.float32, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    sizes = _stored(folder)
    return found.get(max(sizes, key=lambda kind: sizes[kind]), torch.bfloat16) if sizes else torch.float32


def stored_shape(folder: Path, names: re.Pattern[str]) -> list[int] | None:
    """Of the tensor of a folder's safetensors whose whole name matches; None without one. Raises EditError."""
    return next((shape for name, _, shape in _headers(folder) if names.fullmatch(name)), None)


def _stored(folder: Path) -> dict[str, int]:
    """How many numbers of each type a folder's safetensors hold. Raises EditError."""
    sizes: dict[str, int] = {}
    for _, kind, shape in _headers(folder):
        sizes[kind] = sizes.get(kind, 0) + math.prod(shape)
    return sizes


def _headers(folder: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Name, type and shape of every tensor of a folder's safetensors. Raises EditError."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    tensor = file.get_slice(name)
                    yield name, tensor.get_dtype(), tensor.get_shape()
        except (OSError, SafetensorError) as error:
            raise EditError(f"{path}: damaged weights: {describe(error)}") from error


def load_strictly(network: Any, tensors: dict[str, Any], folder: Path, *, assign: bool = False) -> None:
    """Load a state dict that has to fit exactly; `assign` takes the tensors as they are. Raises EditError."""
    try:
        network.load_state_dict(tensors, assign=assign)
    except RuntimeError as error:
        raise EditError(f"{folder}: the weights are not those of this model: {_second_line(error)}") from error


def _second_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[min(1, len(lines) - 1)].strip()[:200]


def read_released(path: str | Path) -> dict[str, Any]:
    """What a released `.pt` or `.pth` file holds, by a load that executes nothing. Raises EditError."""
    import torch

    try:
        # ISC21's holds its training arguments; of TorchScript torch says at length what the error below says.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise EditError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # pickles of anything, archives of code, damaged files: torch has no one class
        raise EditError(
            f"{path}: not a file of weights alone: {describe(error)}",
            hint="TorchScript archives hold code; take the release's plain weights (of SSCD: *.torchvision.pt)",
        ) from error
    if not isinstance(loaded, dict):
        raise EditError(f"{path}: holds a {type(loaded).__name__}, not named tensors")
    return loaded


def save_converted(folder: str | Path, tensors: dict[str, Any], config: dict[str, Any]) -> None:
    """Write config.json and model.safetensors; the weights come last, so that a folder without them is unfinished."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    partial = folder / ".model.partial"
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, partial)
    os.replace(partial, folder / "model.safetensors")


def link(source: Path, target: Path) -> None:
    """A file or a folder as hard links, or as a copy where that cannot be."""

    def one(a: str, b: str) -> None:
        try:
            os.link(os.path.realpath(a), b)
        except OSError:
            shutil.copy2(a, b)

    temporary = target.with_name(f".tmp-{target.name}")
    if source.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary, copy_function=one)
    else:
        temporary.unlink(missing_ok=True)
        one(str(source), str(temporary))
    temporary.rename(target)
