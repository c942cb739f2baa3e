"""Checkpoints of an unfinished run: everything a step depends on, as safetensors and one JSON file.

    checkpoints/step-00000400/model.safetensors       the weights
                              average.safetensors     their moving average
                              optimizer.safetensors   "momentum/transformer.img_in.weight" and so on
                              state.json              {"step": 400, ...}

A folder is written under a temporary name, flushed to disk and renamed: a folder named step-N is whole.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def flush(folder: Path) -> None:
    """fsync every file below a folder, and the folder itself."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def newest(run: Path) -> Path | None:
    """The run's latest whole checkpoint."""
    whole = [path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return max(whole, key=lambda path: int(path.name[5:]), default=None)


def save(
    run: Path,
    step: int,
    model: nn.Module,
    average: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
) -> None:
    """Write the checkpoint of `step` finished steps, then remove older ones."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    if folder.exists():
        return
    temporary = folder.with_name(f".tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(model.state_dict(), temporary / "model.safetensors")
    save_file(average.state_dict(), temporary / "average.safetensors")
    save_file(_optimizer_tensors(model, optimizers), temporary / "optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps({"step": step, **state}))
    flush(temporary)
    temporary.rename(folder)
    flush(folder.parent)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other)


def load(folder: Path, model: nn.Module, average: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Fill model, average and optimisers from a checkpoint; returns its state ("step" and what save() was given)."""
    model.load_state_dict(load_file(folder / "model.safetensors"))
    average.load_state_dict(load_file(folder / "average.safetensors"))
    tensors = load_file(folder / "optimizer.safetensors")
    named = dict(model.named_parameters())
    owner = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for key, tensor in tensors.items():
        kind, name = key.split("/")
        parameter = named[name]
        # AdamW keeps its step count on the CPU, as a tensor without dimensions
        owner[id(parameter)].state[parameter][kind] = tensor if tensor.ndim == 0 else tensor.to(parameter.device)
    return json.loads((folder / "state.json").read_text())


def _optimizer_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{kind}/{names[id(p)]}": tensor
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        for kind, tensor in state.items()
    }
