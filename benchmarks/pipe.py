"""Run commands as a pipe and print what they took, as JSON: wall time, CPU seconds and peak memory of each.

    echo '[["edit", "cat", "in/"], ["edit", "cat", "-f", "arrows"]]' | python benchmarks/pipe.py

A program of its own, and a small one: on Linux the peak memory of a process counts that of the process it was
forked from, which must not be a benchmark full of images. The last command writes to /dev/null.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any, BinaryIO


def run_pipe(commands: list[list[str]]) -> dict[str, Any]:
    """Exits with a message where a command fails."""
    started = time.perf_counter()
    processes: list[subprocess.Popen[bytes]] = []
    said: list[BinaryIO] = []
    upstream: Any = subprocess.DEVNULL
    for k, command in enumerate(commands):
        output = subprocess.DEVNULL if k == len(commands) - 1 else subprocess.PIPE
        said.append(tempfile.TemporaryFile())  # not a pipe: nobody would read it while the commands run
        process = subprocess.Popen(command, stdin=upstream, stdout=output, stderr=said[-1])
        if k:
            upstream.close()
        upstream = process.stdout
        processes.append(process)
    cpu, memory = [], []
    for process, errors in zip(processes, said):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{process.args!r}: exit {process.returncode}: {errors.read().decode()}")
        cpu.append(usage.ru_utime + usage.ru_stime)
        memory.append(usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
    return {"wall": time.perf_counter() - started, "cpu": cpu, "peak_mb": memory}


if __name__ == "__main__":
    print(json.dumps(run_pipe(json.load(sys.stdin))))
