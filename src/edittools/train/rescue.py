"""What becomes of a run that something ends: its finished steps are saved, and no process waits for another in vain.

A process that waits within an exchange cannot be called out of it, and one that has failed does not come to it. So a
thread of every process looks whether another has failed. If one has, all save what is whole, by an exchange of their
own, and end. Nothing of it can change meanwhile: a step needs every process. If one is gone, killed or with its
machine, no exchange is left: where each process has the whole state, one of the others saves it by itself; of a state
that was sharded the last checkpoint remains.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from edittools.errors import FAILED, EditError, Interrupted
from edittools.train import checkpoint
from edittools.train.folder import LOCK, alone
from edittools.train.log import Log, say
from edittools.train.parallel import Parallel
from edittools.train.peers import LOOK, SILENT, Gone, Peers
from edittools.train.state import TrainState

_RUNS = itertools.count()  # of these processes, all of which count alike


class Diverged(EditError):
    """A loss that is not finite, or jumped."""

    def __init__(self, message: str, hint: str, sound: bool) -> None:
        """sound: the weights are not what is wrong."""
        super().__init__(message, hint)
        self.sound = sound


class Left(Interrupted):
    """A signal that all processes have agreed to leave at."""


@dataclass(frozen=True)
class Standing:
    """Where a process is when a run is left."""

    step: int = -1
    whole: bool = False  # what would be saved is that of a finished step, and worth it
    begun: int = -1  # the step of the last checkpoint that it has begun to write
    untold: bool = False  # there are steps that no line of the log tells
    status: int = 0  # it exits with; 0: nothing has failed here


class Saved:
    """What there is to save of a run, and by what."""

    def __init__(
        self, out: Path, state: TrainState, saver: checkpoint.Saver, log: Log, parallel: Parallel, exchange: Parallel
    ) -> None:
        """saver: the run's; what it is writing is waited for. exchange: that of the rescue."""
        self.out, self.state, self.saver, self.log, self.device = out, state, saver, log, parallel.device
        # page-locked memory cannot be had while a device waits for others
        self.own = checkpoint.Saver(out, parallel, saver.room, pinned=False, exchange=exchange)

    @contextlib.contextmanager
    def still(self) -> Iterator[bool]:
        """Nothing changes while the block runs; or False, where an update itself waits for another process."""
        got = self.state.lock.acquire(timeout=SILENT)
        try:
            yield got and self.state.whole and self.state.step > self.log.first
        finally:
            if got:
                self.state.lock.release()

    def save(self, own: checkpoint.Saver) -> None:
        """Raises EditError."""
        with _beside(self.device):
            self.state.save(own)
        own.finish()


class Rescue:
    """Within `with rescue.ready():` nothing that is whole is lost, and no process waits for another in vain; every
    process makes one."""

    def __init__(self, parallel: Parallel) -> None:
        self.parallel, self.exchange = parallel, parallel.beside()
        self.peers = Peers(parallel, f"rescue {next(_RUNS)}") if parallel.world > 1 else None
        self.over = threading.Event()
        self.saved: Saved | None = None
        self.lasting = contextlib.ExitStack()  # of what is to last until all is saved
        self.held = False

    def hold(self, out: Path) -> None:
        """Keep other trainers out of a run's folder until all is saved; every process calls it."""
        if not self.held:
            self.held = True
            self.parallel.on_main(lambda: self.lasting.enter_context(alone(out)))

    def keep(self, out: Path, state: TrainState, saver: checkpoint.Saver, log: Log) -> None:
        """From now on there is something to save; every process calls it."""
        self.saved = Saved(out, state, saver, log, self.parallel, self.exchange)

    @contextlib.contextmanager
    def ready(self) -> Iterator[Rescue]:
        watch = threading.Thread(target=self._watch, name="rescue", daemon=True)
        if self.peers is not None:
            watch.start()
        failed: BaseException | None = None
        with self.lasting:
            try:
                yield self
            except BaseException as error:
                failed = None if isinstance(error, Left) else error
                raise
            finally:
                self.over.set()
                if self.peers is not None:
                    watch.join()  # should it be at work already, it ends the process
                try:
                    self.leave(failed)
                except Gone as gone:
                    self._alone(gone)
                    if not isinstance(failed, EditError) or _of_exchange(failed):
                        raise gone from failed
                    self.parallel.told = False  # what went wrong here is to be said
                if self.peers is not None:
                    self.peers.close()

    def _watch(self) -> None:
        assert self.peers is not None
        while not self.over.wait(LOOK):
            gone: Gone | None = None
            try:
                self.peers.look()
                if not self.peers.failing():
                    continue
            except Gone as error:
                gone = error
            status = FAILED
            try:
                if self.parallel.device.type == "cuda":
                    torch.cuda.set_device(self.parallel.device)  # of a new thread it is the first one
                status = self._end(gone)
            finally:
                if self.parallel.is_main and self.saved is not None:
                    (self.saved.out / LOCK).unlink(missing_ok=True)
                sys.stderr.flush()
                os._exit(status)  # the main thread waits for what does not come

    def _end(self, gone: Gone | None) -> int:
        """Leave in place of the main thread; returns the status to exit with."""
        try:
            if gone is not None:
                raise gone
            status = self.leave(None)
            if self.saved is not None:
                self.saved.log.close()
            return status
        except Gone as error:
            self._alone(error)
            if not self.parallel.told:
                say(f"{error}; {error.hint}")
            return error.status

    def leave(self, error: BaseException | None) -> int:
        """Save where any process has failed; returns the status to exit with. Every process calls it once.

        Raises Gone where one of them cannot.
        """
        if self.peers is not None:
            self.peers.meet(error is not None)
        with contextlib.ExitStack() as stack:
            still = self.saved is not None and stack.enter_context(self.saved.still())
            try:
                every: list[Standing] = self.exchange.gather(self._standing(error, still))
            except RuntimeError as lost:
                raise Gone(None, self.parallel.world) from lost
            failed = [rank for rank, each in enumerate(every) if each.status]
            if failed and self.saved is not None:
                self._save(self.saved, every)
        # one process says what is wrong
        self.parallel.told = bool(failed) and failed[0] != self.parallel.rank
        return every[failed[0]].status if failed else 0

    def _standing(self, error: BaseException | None, still: bool) -> Standing:
        status = 0 if error is None else getattr(error, "status", FAILED)
        lost = isinstance(error, checkpoint.NotWritten) or (isinstance(error, Diverged) and not error.sound)
        lost |= error is not None and not isinstance(error, Exception)
        if self.saved is None:
            return Standing(status=status)
        state = self.saved.state
        return Standing(state.step, still and not lost, self.saved.saver.begun, self.saved.log.untold, status)

    def _save(self, saved: Saved, every: list[Standing]) -> None:
        # what others have not begun to write this one waits for in vain
        if saved.saver.begun == min(each.begun for each in every):
            saved.saver.close()
        saved.log.parallel = self.exchange
        with contextlib.suppress(EditError, OSError):  # the disk may be what is full
            saved.log.reject()
        if not all(each.whole and each.step == every[0].step for each in every):
            return
        try:
            if all(each.untold for each in every):
                with _beside(saved.device), contextlib.suppress(EditError, OSError):
                    saved.log.write()
            saved.save(saved.own)
        except EditError as error:
            if self.parallel.is_main:
                say(str(error))

    def _alone(self, gone: Gone) -> None:
        """Save what this process has, where that is everything; `gone` gets its hint, and one process is to tell it."""
        assert self.peers is not None
        parallel, saved = self.parallel, self.saved
        parallel.gone = True
        gone.hint = "the same command begins anew"
        if saved is None:
            parallel.told = not self.peers.first()
            return
        saved.saver.abandon()
        with contextlib.ExitStack() as stack:
            try:
                if not parallel.is_main:  # which has it already, and saves if it is there
                    stack.enter_context(alone(saved.out))
            except EditError:
                if gone.rank != 0:
                    parallel.told = True
                    return
            if parallel.mode == "ddp" and stack.enter_context(saved.still()):
                by_itself = Parallel("single", 0, 1, parallel.device)
                try:
                    saved.save(checkpoint.Saver(saved.out, by_itself, saved.saver.room, pinned=False))
                except EditError as error:
                    say(str(error))
            found = checkpoint.newest(saved.out)
            parallel.told = not self.peers.first()
            if found is not None:
                gone.hint = f"the same command goes on from step {checkpoint.step_of(found)}"


def _of_exchange(error: BaseException | None) -> bool:
    """Is an error what becomes of an exchange that another process does not come to?"""
    causes = (dist.DistError, CheckpointException)
    while error is not None:
        if type(error) is RuntimeError or isinstance(error, causes):
            return True
        error = error.__cause__
    return False


@contextlib.contextmanager
def _beside(device: torch.device) -> Iterator[Any]:
    """A stream that does not wait for what a device is at."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield
