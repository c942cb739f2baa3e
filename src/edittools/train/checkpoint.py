"""Checkpoints of a run: everything a step depends on, as safetensors and one JSON file.

    checkpoints/step-00000400/*.safetensors   "model/NAME", "average/NAME", "optimizer/KIND/NAME"
                              state.json      {"step": 400, ..., "files": {NAME: digest}}

torch.distributed.checkpoint writes them, every process its shards; they load at any number of processes. Only what
trains is in them. A folder is written under a temporary name, flushed to disk and renamed: one named step-N is whole,
and what its digests do not fit any more is not used.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
import xxhash
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from edittools.errors import EditError, describe
from edittools.train.parallel import Parallel

FAILURES = (Exception, CheckpointException)  # torch's own is no Exception


class NotWritten(EditError):
    """What was to be kept could not be: the disk is full, a quota is used up."""


def flush(folder: Path) -> None:
    """fsync every file below a folder, and the folder itself; whoever may read the folder may read its new files."""
    for path in [*folder.rglob("*"), folder]:
        # safetensors makes files that only their owner can read; a linked file is somebody else's too
        if path.is_file() and path.stat().st_nlink == 1:
            path.chmod(path.parent.stat().st_mode & 0o666)
        sync(path)


def sync(path: Path) -> None:
    """fsync a file, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def step_of(folder: Path) -> int:
    return int(folder.name[5:])


def whole(run: Path) -> list[Path]:
    """The run's whole checkpoints, the latest first."""
    found = [path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def newest(run: Path) -> Path | None:
    """The run's latest whole checkpoint."""
    return next(iter(whole(run)), None)


def find(spec: str) -> Path:
    """The checkpoint that RUN (its newest), RUN/@STEP or its own folder names. Raises EditError."""
    path = Path(spec)
    if re.fullmatch(r"step-\d+", path.name) and path.is_dir():
        return path
    run, step = (path.parent, path.name[1:]) if re.fullmatch(r"@\d+", path.name) else (path, "")
    found = [folder for folder in whole(run) if not step or step_of(folder) == int(step)]
    if not found:
        there = ", ".join(f"@{step_of(folder)}" for folder in reversed(whole(run)))
        raise EditError(f"{spec}: no such checkpoint", hint=f"{run} has {there or 'none'}")
    return found[0]


def prune(run: Path, last: int, every: int) -> None:
    """Remove all checkpoints but the `last` latest and those of every `every`-th step (0: none of these)."""
    folders = whole(run)
    kept = {*folders[:last], *(path for path in folders if every and step_of(path) % every == 0)}
    for path in (run / "checkpoints").glob("*"):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(folder: Path, parallel: Parallel, what: str) -> Iterator[Path]:
    """A folder to write into, which gets its name when the block ends; every process calls it.

    Where anything goes wrong, on whichever process, it is removed, and all raise EditError: `what` names it.
    """
    temporary = folder.with_name(f".tmp-{folder.name}")

    def begin() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def finish() -> None:
        flush(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync(folder.parent)

    try:
        parallel.on_main(begin)
        yield temporary
        parallel.on_main(finish)
    except FAILURES as error:
        if parallel.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, EditError):
            raise
        raise NotWritten(
            f"{folder}: {what} cannot be written: {describe(first_cause(error))}",
            hint="make room and run the same command again: it goes on from the last checkpoint",
        ) from error


def first_cause(error: BaseException) -> BaseException:
    """What went wrong in the first process that failed, where torch wraps it."""
    failures = getattr(error, "failures", None)
    if isinstance(failures, dict) and failures:
        return next(iter(failures.values()))[0]
    return error


def save(run: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], parallel: Parallel) -> None:
    """Write the checkpoint of `step` finished steps; every process calls it. Raises EditError."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    if parallel.any(folder.exists()):
        return
    with temporary_folder(folder, parallel, "the checkpoint") as temporary:
        with warnings.catch_warnings(action="ignore"):  # torch: one process saves alone, as is meant
            dcp.save(
                tensors,
                storage_writer=dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True),
                no_dist=parallel.world == 1,
            )
        text = json.dumps({"step": step, **state, "files": digests(temporary, parallel)})
        parallel.on_main(lambda: (temporary / "state.json").write_text(text))


def digests(folder: Path, parallel: Parallel) -> dict[str, str]:
    """xxh3 of every safetensors file of a folder; the processes share them out."""
    names = parallel.gather(sorted(path.name for path in folder.glob("*.safetensors")))[0]
    mine = {}
    for name in names[parallel.rank :: parallel.world]:
        try:
            mine[name] = file_digest(folder / name)
        except OSError as error:  # every process has to go on to the exchange
            mine[name] = describe(error)
    return {name: value for part in parallel.gather(mine) for name, value in part.items()}


def file_digest(path: Path) -> str:
    state = xxhash.xxh3_64()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            state.update(piece)
    return state.hexdigest()


def read_state(folder: Path) -> dict[str, Any]:
    """What save() was given beside tensors, and "step". Raises EditError."""
    try:
        state = json.loads((folder / "state.json").read_text())
        if not isinstance(state, dict) or not isinstance(state.get("step"), int):
            raise ValueError("state.json names no step")
        return state
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from error


def load(folder: Path, tensors: dict[str, Tensor], parallel: Parallel) -> None:
    """Fill tensors, in place, from a checkpoint; every process calls it. Raises EditError."""
    kept = read_state(folder).get("files")  # 0.1 wrote none
    try:
        if kept is not None and digests(folder, parallel) != kept:
            raise ValueError("its files are not those that were written")
        with warnings.catch_warnings(action="ignore"):
            dcp.load(
                tensors,
                storage_reader=dcp.HuggingFaceStorageReader(str(folder)),
                no_dist=parallel.world == 1,
            )
    except FAILURES as error:  # missing or damaged files: torch wraps whatever happened
        raise unreadable(folder, first_cause(error)) from error


def unreadable(folder: Path, error: BaseException) -> EditError:
    return EditError(f"{folder}: the checkpoint cannot be read: {describe(error)}", hint="remove it to begin anew")
