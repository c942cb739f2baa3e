"""Checkpoints of an unfinished run: everything a step depends on, as safetensors and one JSON file.

    checkpoints/step-00000400/*.safetensors   "model/NAME", "average/NAME", "optimizer/KIND/NAME"
                              state.json      {"step": 400, ...}

torch.distributed.checkpoint writes them, every process its shards; they load at any number of processes. Only what
trains is in them. A folder is written under a temporary name, flushed to disk and renamed: one named step-N is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor

from edittools.errors import EditError, describe
from edittools.train.parallel import Parallel


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


def save(run: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], parallel: Parallel) -> None:
    """Write the checkpoint of `step` finished steps, then remove older ones; every process calls it."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    if parallel.any(folder.exists()):
        return
    temporary = folder.with_name(".tmp")
    if parallel.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    parallel.wait()
    with warnings.catch_warnings(action="ignore"):  # torch: one process saves alone, as is meant
        dcp.save(
            tensors,
            storage_writer=dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True),
            no_dist=parallel.world == 1,
        )
    if parallel.is_main:
        (temporary / "state.json").write_text(json.dumps({"step": step, **state}))
        flush(temporary)
        temporary.rename(folder)
        flush(folder.parent)
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other)
    parallel.wait()


def load(folder: Path, tensors: dict[str, Tensor], parallel: Parallel) -> dict[str, Any]:
    """Fill tensors, in place, from a checkpoint; returns its state ("step" and what save() was given)."""
    try:
        with warnings.catch_warnings(action="ignore"):
            dcp.load(
                tensors,
                storage_reader=dcp.HuggingFaceStorageReader(str(folder)),
                no_dist=parallel.world == 1,
            )
        return json.loads((folder / "state.json").read_text())
    except Exception as error:  # missing or damaged files: torch wraps whatever happened
        raise EditError(
            f"{folder}: the checkpoint cannot be read: {describe(error)}", hint="remove it to begin anew"
        ) from error
