"""Processes that each hold one object, usually a model on a device of its own, and are asked by threads of this one."""

from __future__ import annotations

import contextlib
import pickle
import queue
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from edittools.errors import EditError, UsageError, describe

# The caller's sys.path comes first: edittools may be found by nothing else.
_COMMAND = (
    "import sys; from multiprocessing.connection import Connection; connection = Connection(int(sys.argv[1])); "
    "sys.path[:] = connection.recv(); from edittools.workers import serve; serve(connection)"
)
_PATIENCE = 5.0  # seconds that a process is given to end


def devices(name: str, count: int) -> list[str]:
    """The devices of `count` processes: each a CUDA device of its own, or all the CPU. Raises UsageError."""
    if name == "cpu":
        return ["cpu"] * count
    if name != "cuda":
        raise UsageError(f"--processes {count} --device {name}: each process has a device of its own",
                         hint="--device cuda: the first uses cuda:0, the next cuda:1, ...")  # fmt: skip
    import torch

    there = torch.cuda.device_count()
    if there < count:
        raise UsageError(f"--processes {count}: this machine has {there} CUDA devices")
    return [f"cuda:{k}" for k in range(count)]


class Worker:
    """One process with the object that `maker(*arguments)` makes there; `name` is what an error calls it.

    The process is another start of the interpreter, since CUDA does not survive a fork. What it prints goes to standard
    error, a terminal's Ctrl-C is for its parent alone, and it ends when its parent does.
    """

    def __init__(self, name: str, maker: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self.name = name
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2, start_new_session=True,
            )  # fmt: skip
        self.connection = Connection(ours.detach())
        self._say(sys.path)
        self._say((maker, tuple(arguments)))

    def _say(self, what: Any) -> None:
        try:
            self.connection.send(what)
        except OSError:  # it has ended, which the next answer tells
            pass

    def answer(self) -> Any:
        """What it has been asked for last. Raises what was raised there, EditError where the process has ended."""
        try:
            good, value = self.connection.recv()
        except (EOFError, OSError):
            status = self.process.wait()
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            hint = "out of main memory?" if status == -signal.SIGKILL else None
            raise EditError(f"the process on {self.name} ended ({how})", hint) from None
        if not good:
            raise value
        return value

    def call(self, method: str, *arguments: Any) -> Any:
        self._say((method, arguments))
        return self.answer()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.terminate()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.connection.close()


class Workers:
    """Several processes; whichever is free takes the next call. Leave the `with` block to end them."""

    def __init__(self, maker: Callable[..., Any], arguments: Sequence[Sequence[Any]], names: Sequence[str]) -> None:
        """arguments: of `maker`, for every process. Raises what the first of them raises that cannot begin."""
        self.all: list[Worker] = []
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        try:
            for name, given in zip(names, arguments):
                self.all.append(Worker(name, maker, given))
            for worker in self.all:  # which load at the same time
                worker.answer()
                self._free.put(worker)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.all)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def free(self) -> Iterator[Worker]:
        """A process that nobody else asks meanwhile; waits for one."""
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)

    def call(self, method: str, *arguments: Any) -> Any:
        with self.free() as worker:
            return worker.call(method, *arguments)

    def close(self) -> None:
        for worker in self.all:
            worker.process.terminate()
        for worker in self.all:
            worker.close()


def serve(connection: Connection) -> None:
    """The process's side: make the object, then call its methods until nobody asks any more."""
    made: Any = None
    try:
        while True:
            what, arguments = connection.recv()
            try:
                if made is None:
                    made, value = what(*arguments), None
                else:
                    value = getattr(made, what)(*arguments)
                connection.send((True, value))
            except Exception as error:
                connection.send((False, _portable(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _portable(error: Exception) -> Exception:
    """An error as it goes through a pipe: some cannot be made again from what they are pickled as."""
    if not isinstance(error, EditError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return EditError(describe(error))
    return error
