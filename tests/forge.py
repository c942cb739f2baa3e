"""Runs `edit` in processes of its own without paying for the imports each time.

A server imports the libraries once and forks: every command is a real process with its own descriptors, working
directory and environment, can be killed, and dies by signals, but starts in milliseconds. What the start of the
interpreter itself does is tested with `subprocess` elsewhere.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

_LIMIT = 1 << 20  # bytes of one request


class Child:
    """A command that runs."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection = connection
        self.pid = pid
        self.returncode: int | None = None

    def wait(self, timeout: float = 120) -> int:
        """The exit status; -N for signal N, as `subprocess` has it."""
        if self.returncode is None:
            self.connection.settimeout(timeout)
            data = self.connection.recv(64)
            assert data, "the server died"
            self.returncode = int(data)
            self.connection.close()
        return self.returncode

    def kill(self, signum: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)


class Forge:
    """The client's side: one server per test session. `also` are further modules that it imports beforehand."""

    def __init__(self, *also: str, env: dict[str, str] | None = None) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="edit-forge-")
        self.path = os.path.join(self.folder.name, "socket")
        self.server = subprocess.Popen(
            [sys.executable, __file__, self.path, *also], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == b"ready\n"

    def start(
        self,
        arguments: list[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
        group: int | None = None,
        script: str | Path | None = None,
    ) -> Child:
        """Start one command on open descriptors; `group` 0 makes a process group, another number joins it.

        With `script` that Python file is run instead of `edit`.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self.path)
        request = {
            "arguments": arguments, "cwd": str(cwd or os.getcwd()), "env": env or {}, "group": group,
            "script": str(script) if script else None,
        }  # fmt: skip
        fds = array.array("i", [stdin, stdout, stderr])
        connection.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds.tobytes())])
        return Child(connection, int(connection.recv(64)))

    def close(self) -> None:
        self.server.kill()
        self.server.wait()
        self.folder.cleanup()


def stand_in(path: str, arguments: list[str]) -> NoReturn:
    """As a process of its own, be `edit` to whoever started it: its descriptors, its signals, its end."""
    forge = Forge.__new__(Forge)
    forge.path = path
    child = forge.start(arguments, stdin=0, stdout=1, stderr=2, env=dict(os.environ))
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, frame: child.kill(signum))  # type: ignore[arg-type]
    code = child.wait(600)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _command(request: dict[str, Any], fds: list[int]) -> None:
    """In the new process: become the command."""
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    os.closerange(3, 256)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.argv = [request["script"] or "edit", *request["arguments"]]
    sys.stdin, sys.stdout, sys.stderr = (
        open(k, mode, buffering=1, closefd=False) for k, mode in enumerate(("r", "w", "w"))
    )
    if request["script"]:
        sys.path.insert(0, os.path.dirname(request["script"]))  # as Python itself does
        code: Any = 0
        try:
            runpy.run_path(request["script"], run_name="__main__")
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    from edittools.cli.main import main

    main(request["arguments"])


def _monitor(connection: socket.socket) -> None:
    """In a process per command: fork it, say its number, wait, say how it ended."""
    data, fds, _, _ = socket.recv_fds(connection, _LIMIT, 3)
    request = json.loads(data)
    pid = os.fork()
    if pid == 0:
        try:
            if request["group"] is not None:
                os.setpgid(0, request["group"])
            _command(request, list(fds))
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(70)
    if request["group"] is not None:
        with contextlib.suppress(OSError):
            os.setpgid(pid, request["group"] or pid)
    for fd in fds:
        os.close(fd)
    connection.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def serve(path: str, also: list[str]) -> None:
    import importlib

    modules = ["main", "shard", "cat", "filter_", "dedup"]
    for name in [*(f"edittools.cli.{module}" for module in modules), *also]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import PIL.Image
    import pyarrow.compute
    import pyarrow.parquet
    import simplejpeg

    import edittools.ingest.stage
    import edittools.stream.check
    import edittools.stream.run  # noqa: F401

    PIL.Image.init()
    pyarrow.array([1])  # makes pyarrow import what it imports when it is first used
    del simplejpeg
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(path)
    server.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            server.close()
            _monitor(connection)
        connection.close()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
