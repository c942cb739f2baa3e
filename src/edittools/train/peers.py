"""Whether the processes that train together are all there.

Each says so again and again in the store that they met by, and looks after its two neighbours: one of its own machine
whether it has ended, which the architecture knows at once, any other whether it still says something. Who finds one
gone leaves word of it in the store.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from pathlib import Path

from edittools.errors import EditError
from edittools.train.parallel import Parallel

LOOK = 1.0  # seconds between looks at the others
SILENT = 30.0  # seconds after which a process that says nothing is gone: what a launcher leaves the others is as much
_POLL = 0.05


class Gone(EditError):
    """A process was killed, or its machine is lost."""

    def __init__(self, rank: int | None, world: int) -> None:
        """rank: which; None: it cannot be known, as the process that had the store is gone."""
        which = "a process" if rank is None else f"process {rank}"
        super().__init__(f"{which} of {world} is gone: it was killed, or its machine is lost")
        self.rank = rank


class Peers:
    """This process's view of the others; every one makes it. Not for two threads at a time."""

    def __init__(self, parallel: Parallel, name: str) -> None:
        # of its own connection: a thread that waits for a word of the store keeps all others of its connection waiting
        self.store, self.rank, self.world, self.name = parallel.store.clone(), parallel.rank, parallel.world, name
        self.near = {(self.rank + 1) % self.world, (self.rank - 1) % self.world} - {self.rank}
        self.count = 0
        self.heard = {rank: (b"", time.monotonic()) for rank in self.near}
        self.ends: dict[int, int] = {}  # what becomes readable when a neighbour of this machine ends

    def look(self) -> None:
        """Say that this one is there. Raises Gone where another is not."""
        self.count += 1
        try:
            self.store.set(f"{self.name}/{self.rank}", f"{self.count} {os.getpid()} {machine()}")
            if self.store.check([f"{self.name}/gone"]):
                raise Gone(int(self.store.get(f"{self.name}/gone")), self.world)
            for rank in self.near:
                if self._gone(rank):
                    self.store.set(f"{self.name}/gone", str(rank))
                    raise Gone(rank, self.world)
        except RuntimeError as error:
            raise Gone(None, self.world) from error

    def _gone(self, rank: int) -> bool:
        key, (said, since) = f"{self.name}/{rank}", self.heard[rank]
        now = self.store.get(key) if self.store.check([key]) else said
        if now != said:
            if not said:
                self._follow(rank, *now.decode().split(" ", 2)[1:])
            self.heard[rank] = now, time.monotonic()
            return False
        if rank in self.ends:
            return bool(select.select([self.ends[rank]], [], [], 0)[0])
        return time.monotonic() - since > SILENT

    def _follow(self, rank: int, process: str, where: str) -> None:
        if where == machine() and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # it has ended already, or the architecture does not let others look
                self.ends[rank] = os.pidfd_open(int(process))

    def failing(self) -> bool:
        """Has one of them said that it fails? Raises Gone."""
        try:
            return bool(self.store.check([f"{self.name}/failed"]))
        except RuntimeError as error:
            raise Gone(None, self.world) from error

    def meet(self, failed: bool) -> None:
        """Wait until every process has come here. Raises Gone where one cannot. failed: the others are to come at
        once."""
        try:
            if failed:
                self.store.set(f"{self.name}/failed", "")
            self.store.add(f"{self.name}/met", 1)
            looked = 0.0
            while self.store.add(f"{self.name}/met", 0) < self.world:
                if time.monotonic() - looked > LOOK:
                    looked = time.monotonic()
                    self.look()
                time.sleep(_POLL)
        except RuntimeError as error:
            raise Gone(None, self.world) from error

    def first(self) -> bool:
        """Whether this process is the first that asks."""
        try:
            return bool(self.store.add(f"{self.name}/first", 1) == 1)
        except RuntimeError:
            return True  # nobody can know

    def close(self) -> None:
        for handle in self.ends.values():
            os.close(handle)
        self.ends.clear()


def machine() -> str:
    """What processes that see each other's numbers have in common."""
    space = ""
    with contextlib.suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {space}"
