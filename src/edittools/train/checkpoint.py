"""Checkpoints of a run: everything a step depends on, as safetensors and one JSON file.

    checkpoints/step-00000400/*.safetensors   "model/NAME", "average/NAME", "optimizer/KIND/NAME"
                              state.json      {"step": 400, ..., "files": {NAME: digest}}

torch.distributed.checkpoint writes them, every process its shards; they load at any number of processes. Only what
trains is in them. A folder is written under a temporary name, flushed to disk and renamed: one named step-N is whole,
and what its digests do not fit any more is not used. A run goes on while a copy of its state is written (Saver).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import xxhash
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from edittools.errors import EditError, describe
from edittools.train.log import say
from edittools.train.parallel import Parallel

FAILURES = (Exception, CheckpointException)  # torch's own is no Exception
_GIVE_UP = 5.0  # seconds


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


@dataclass(frozen=True)
class Room:
    """Limits on the checkpoints of a run: how many are kept, and how much disk they and the kept models take."""

    last: int = 1  # the latest so many checkpoints
    every: int = 0  # and those of every so many-th step; 0: none of these
    size: float = 0.0  # bytes; 0: any number

    def prune(self, run: Path, last: int | None = None, coming: float = 0.0) -> None:
        """Remove what is not to be kept; `coming`: bytes that are about to be written.

        Where the rest takes more room than there is, the oldest checkpoints go first, then the oldest kept models.
        Never the latest checkpoint, the latest kept model, and the one that is `@best`.
        """
        folders = whole(run)
        kept = folders[: last or self.last]
        kept += [path for path in folders[len(kept) :] if self.every and step_of(path) % self.every == 0]
        for path in (run / "checkpoints").glob("*"):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
        if not self.size:
            return
        models = [path for path in run.glob("@*") if path.name[1:].isdigit()]
        models.sort(key=lambda path: int(path.name[1:]))
        best = (run / "@best").resolve()
        old = [*reversed(kept[1:]), *(path for path in models[:-1] if path.resolve() != best)]
        used = {path: used_bytes(path) for path in [*kept, *models]}
        left = self.size - coming - sum(used.values())
        while left < 0 and old:
            left += used[old[0]]
            shutil.rmtree(old.pop(0), ignore_errors=True)


def used_bytes(folder: Path) -> int:
    """Bytes that deleting a folder would free: of its files without those that are linked elsewhere too."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(each.st_size for each in found if each.st_nlink == 1)


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
    """The error of the first process that failed, unwrapped from torch's."""
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
                process_group=parallel.group,
                no_dist=parallel.world == 1,
            )
        text = json.dumps({"step": step, **state, "files": digests(temporary, parallel)})
        parallel.on_main(lambda: (temporary / "state.json").write_text(text))


class Saver:
    """Writes a run's checkpoints, one at a time, while the run goes on. Its methods are for every process to call.

    What is written is a copy of each process's tensors in its main memory. It is written by a thread, and by an
    exchange among the processes that is not the training's. A process that is killed meanwhile leaves the checkpoint
    before.
    """

    def __init__(
        self, run: Path, parallel: Parallel, room: Room = Room(), pinned: bool = True, exchange: Parallel | None = None
    ) -> None:
        """pinned: copies lie in page-locked memory, where a GPU writes by itself. exchange: by which the processes
        write; None: one of their own."""
        self.run, self.room, self.device = run, room, parallel.device
        self.parallel = exchange or parallel.beside()
        self.begun = -1  # the step of the last checkpoint
        self.seconds: float | None = None  # that the last one took that is written, copy and all
        self.stager = DefaultStager(StagingOptions(pinned and self.device.type == "cuda", False, False, False))
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def begin(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Begin to write the checkpoint of `step` finished steps; returns as soon as the tensors have been copied.

        Waits for the one before, and raises what `finish` does. Where there is no room for a copy, it waits for the
        writing.
        """
        self.finish()
        self.begun, began = step, time.perf_counter()
        written: Any = tensors
        with contextlib.suppress(MemoryError, RuntimeError):
            written = self.stager.stage(tensors)
        given = step, written, state, began
        self.thread = threading.Thread(target=self._write, args=given, name="checkpoint", daemon=True)
        self.thread.start()
        if written is tensors:
            self.finish()

    def _write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], began: float) -> None:
        try:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)  # of a new thread it is the first one
            coming = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            self.parallel.on_main(lambda: self.room.prune(self.run, max(1, self.room.last - 1), coming))
            save(self.run, step, tensors, state, self.parallel)
            self.seconds = time.perf_counter() - began
            self.parallel.on_main(lambda: self.room.prune(self.run))
        except BaseException as error:  # raised where the run can be told
            self.error = error

    @property
    def failed(self) -> bool:
        """Whether `finish` would raise at once; for this process alone to ask."""
        return self.error is not None

    def finish(self) -> None:
        """Wait for what is being written. Raises NotWritten where it cannot be, on every process."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        if error is not None:
            raise error

    def abandon(self) -> None:
        """What is being written is lost, as a process is gone that had a part in it."""
        if self.thread is not None:
            self.thread.join(_GIVE_UP)  # to see so takes it a moment, or for ever

    def close(self) -> None:
        """Wait for what is being written where something else ends the run; what is wrong with it is said."""
        try:
            self.finish()
        except EditError as error:
            if self.parallel.is_main:
                say(str(error))


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
