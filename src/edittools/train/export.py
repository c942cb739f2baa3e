"""A trained network as the folders its libraries open: safetensors and config.json, file by file.

Never more than one file's tensors are gathered at a time, on the process that writes.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edittools.models.systems.base import Part, System
from edittools.train.checkpoint import flush
from edittools.train.parallel import Parallel, full

FILE_BYTES = 5 * 10**9  # of one safetensors file, as diffusers has it


def save_model(
    system: System,
    network: nn.Module,
    average: dict[str, Tensor],
    out: Path,
    parallel: Parallel,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write every part of the network and link the frozen ones beside them; every process calls it.

    network   the module that holds the parameters, sharded or not, under the names of system.network
    average   what replaces parameters, by name
    """
    tensors = {name: average.get(name, p.detach()) for name, p in network.named_parameters()}
    tensors |= {name: b for name, b in network.named_buffers() if name in network.state_dict()}
    adapters = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    if adapters:
        _write_adapters(system, adapters, out, parallel)
    else:
        for name, part in system.parts().items():
            chosen = {key.removeprefix(part.prefix): t for key, t in tensors.items() if key.startswith(part.prefix)}
            _write_part(chosen, part, out / name, parallel, dtype)
    if parallel.is_main and not adapters:
        for name, path in system.frozen_parts().items():
            if not (out / name).exists() and path.resolve() != (out / name).resolve():
                link(path, out / name)
    parallel.wait()


def _write_part(tensors: dict[str, Tensor], part: Part, folder: Path, parallel: Parallel, dtype: torch.dtype) -> None:
    temporary = folder.with_name(f".tmp-{folder.name}")
    if parallel.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / "config.json").write_text(json.dumps(_plain(part.config), indent=2, sort_keys=True) + "\n")
        for name, text in part.files.items():
            (temporary / name).write_text(text, encoding="utf-8")
    size = torch.finfo(dtype).bits // 8
    files: list[list[str]] = [[]]
    used = total = 0
    for name, tensor in tensors.items():
        needed = tensor.numel() * (size if tensor.is_floating_point() else tensor.element_size())
        if files[-1] and used + needed > FILE_BYTES:
            files.append([])
            used = 0
        files[-1].append(name)
        used, total = used + needed, total + needed
    index = {}
    for number, names in enumerate(files, start=1):
        numbered = f"{part.stem}-{number:05d}-of-{len(files):05d}.safetensors"
        file = f"{part.stem}.safetensors" if len(files) == 1 else numbered
        held = {}
        for name in names:
            value = full(tensors[name])  # every process takes part, one keeps it
            if parallel.is_main:
                held[name] = (value.to(dtype) if value.is_floating_point() else value).cpu().contiguous()
            index[name] = file
        if parallel.is_main:
            save_file(held, temporary / file, metadata={"format": "pt"})
    if parallel.is_main:
        if len(files) > 1:
            listing = {"metadata": {"total_size": total}, "weight_map": index}
            (temporary / f"{part.stem}.safetensors.index.json").write_text(json.dumps(listing, indent=2) + "\n")
        flush(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)


def _write_adapters(system: System, tensors: dict[str, Tensor], out: Path, parallel: Parallel) -> None:
    """One file as diffusers' load_lora_weights() reads it, with rank and alpha in its metadata."""
    import diffusers
    from diffusers.training_utils import _collate_lora_metadata

    held = {}
    for name, tensor in tensors.items():
        value = full(tensor)
        if parallel.is_main:
            held[name.removeprefix("transformer.").replace(".default.", ".")] = value.cpu().contiguous()
    if parallel.is_main:
        temporary = out / ".tmp-lora"
        network: Any = system.network
        metadata = _collate_lora_metadata({"transformer": network.transformer})
        getattr(diffusers, system.pipeline).save_lora_weights(temporary, transformer_lora_layers=held, **metadata)
        flush(temporary)
        for path in temporary.iterdir():
            path.rename(out / path.name)
        temporary.rmdir()


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(v) for v in value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(getattr(value, "value", value))


def link(source: Path, target: Path) -> None:
    """A file or a folder as hard links, or as a copy where that cannot be."""

    def one(a: str, b: str) -> None:
        try:
            os.link(os.path.realpath(a), b)
        except OSError:
            shutil.copy2(a, b)

    if source.is_dir():
        shutil.copytree(source, target, copy_function=one)
    else:
        one(str(source), str(target))
