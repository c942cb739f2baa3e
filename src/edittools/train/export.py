"""A trained network as the folders its libraries open: safetensors and config.json, file by file.

Never more than one file's tensors are gathered at a time, on the process that writes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edittools.nets.base import EditModel, NetworkPart
from edittools.nets.lora import save_adapters, split_parameter, trained_adapters
from edittools.train.checkpoint import sync, temporary_folder
from edittools.train.parallel import Parallel, full
from edittools.weights.lookup import link

FILE_BYTES = 5 * 10**9  # of one safetensors file, as diffusers has it


def save_model(
    edit_model: EditModel,
    network: nn.Module,
    average: dict[str, Tensor],
    out: Path,
    parallel: Parallel,
    dtype: torch.dtype = torch.float32,
    frozen: Mapping[str, Path] | None = None,
) -> None:
    """Write every part of the network and link the frozen ones beside them; every process calls it.

    network   the module that holds the parameters, sharded or not, under the names of architecture.network
    average   what replaces parameters, by name
    frozen    where the frozen parts lie; None: where the architecture has them from

    Raises EditError where a part cannot be written; what was there before is still there.
    """
    tensors = {name: average.get(name, p.detach()) for name, p in network.named_parameters()}
    tensors |= {name: b for name, b in network.named_buffers() if name in network.state_dict()}
    tensors = edit_model.exported(tensors)
    adapters = {name: tensor for name, tensor in tensors.items() if split_parameter(name)[1]}
    if adapters:
        _write_adapters(edit_model, adapters, out, parallel)
        return
    for name, part in edit_model.parts().items():
        chosen = {key.removeprefix(part.prefix): t for key, t in tensors.items() if key.startswith(part.prefix)}
        chosen = {part.names.get(key, key): tensor for key, tensor in chosen.items()}
        _write_part(chosen, part, out / name, parallel, dtype)
    parallel.on_main(lambda: _describe(edit_model, out))
    parallel.on_main(lambda: link_parts(edit_model.frozen_parts() if frozen is None else frozen, out))


def _describe(edit_model: EditModel, out: Path) -> None:
    if edit_model.described():
        (out / "edit.json").write_text(json.dumps(edit_model.described(), indent=2) + "\n")


def keep_model(
    edit_model: EditModel,
    network: nn.Module,
    average: dict[str, Tensor],
    out: Path,
    step: int,
    end: dict[str, Any],
    parallel: Parallel,
) -> None:
    """Keep the model of a step as the run folder `out/@STEP`, finished as `end` says; see save_model()."""
    folder = kept_folder(out, step)
    adapters = edit_model.adapters is not None
    frozen = {} if adapters else edit_model.frozen_parts()
    parallel.on_main(lambda: link_parts(frozen, out))  # once, should they have to be copied
    frozen = {name: out / name for name in frozen if (out / name).exists()}
    with temporary_folder(folder, parallel, "the model") as temporary:
        save_model(edit_model, network, average, temporary, parallel, frozen=frozen)
        parallel.on_main(lambda: _finish_kept(out, temporary, end))


def _finish_kept(out: Path, folder: Path, end: dict[str, Any]) -> None:
    (folder / "config.json").write_bytes((out / "config.json").read_bytes())
    (folder / "_end.json").write_text(json.dumps(end, indent=2) + "\n")


def kept_folder(out: Path, step: int) -> Path:
    return out / f"@{step}"


def link_best(out: Path, step: int) -> None:
    """Make `out/@best` stand for `out/@STEP`, which has been kept."""
    temporary = out / ".tmp-@best"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(kept_folder(out, step).name)
    temporary.rename(out / "@best")
    sync(out)


def link_parts(parts: Mapping[str, Path], out: Path) -> None:
    """Link a model's frozen parts into a folder; what a run writes itself is none, should the model be a run's."""
    own = ("config.json", "log.jsonl", "heldout.jsonl", "rejects.jsonl", "checkpoints", "samples", "tensorboard",
           "wandb")  # fmt: skip
    for name, path in parts.items():
        if name in own or name.startswith(("@", "_", ".")) or (out / name).exists():
            continue
        if path.resolve() != (out / name).resolve():
            link(path, out / name)


def _write_part(
    tensors: dict[str, Tensor], part: NetworkPart, folder: Path, parallel: Parallel, dtype: torch.dtype
) -> None:
    files, total = _files(tensors, part.stem, dtype)
    texts = {"config.json": json.dumps(_plain(part.config), indent=2, sort_keys=True) + "\n", **part.files}
    if len(files) > 1:
        index = {name: file for file, names in files.items() for name in names}
        listing = {"metadata": {"total_size": total}, "weight_map": index}
        texts[f"{part.stem}.safetensors.index.json"] = json.dumps(listing, indent=2) + "\n"
    with temporary_folder(folder, parallel, "the weights") as temporary:
        for file, names in files.items():
            held: dict[str, Tensor] = {}
            for name in names:
                value = full(tensors[name])  # every process takes part, one keeps it
                if parallel.is_main:
                    held[name] = (value.to(dtype) if value.is_floating_point() else value).cpu().contiguous()
            parallel.on_main(functools.partial(save_file, held, temporary / file, metadata={"format": "pt"}))
        parallel.on_main(lambda: [(temporary / name).write_text(text, "utf-8") for name, text in texts.items()])


def _files(tensors: dict[str, Tensor], stem: str, dtype: torch.dtype) -> tuple[dict[str, list[str]], int]:
    """Assign tensors to files; also returns the bytes of all."""
    size = torch.finfo(dtype).bits // 8
    groups: list[list[str]] = [[]]
    used = total = 0
    for name, tensor in tensors.items():
        needed = tensor.numel() * (size if tensor.is_floating_point() else tensor.element_size())
        if groups[-1] and used + needed > FILE_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used, total = used + needed, total + needed
    if len(groups) == 1:
        return {f"{stem}.safetensors": groups[0]}, total
    return {f"{stem}-{k:05d}-of-{len(groups):05d}.safetensors": names for k, names in enumerate(groups, 1)}, total


def _write_adapters(edit_model: EditModel, tensors: dict[str, Tensor], out: Path, parallel: Parallel) -> None:
    """One file, in the spelling that was asked for."""
    held = {}
    for name, tensor in tensors.items():
        value = full(tensor)
        if parallel.is_main:
            held[name.removeprefix("transformer.")] = value.cpu()
    network: Any = edit_model.network

    def save(folder: Path) -> None:
        assert edit_model.adapters is not None
        dtype = getattr(torch, edit_model.adapters.dtype)
        found = trained_adapters(network.transformer, held)
        save_adapters(found, network.transformer, folder, edit_model.adapters.format, dtype)

    with temporary_folder(out / ".lora", parallel, "the adapters") as temporary:
        parallel.on_main(lambda: save(temporary))

    def place() -> None:
        for path in (out / ".lora").iterdir():
            path.rename(out / path.name)
        (out / ".lora").rmdir()
        sync(out)

    parallel.on_main(place)


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(v) for v in value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(getattr(value, "value", value))
