"""`--ray`: the array tasks of one command, spread over a Ray cluster.

Every task is the command itself with `--task I/N`, run by a worker in the caller's folder, so that a shard is made
by the same code wherever it runs. The machines share the file system, or the paths are URLs. What the tasks have
finished the caller then finds as a rerun would: it only counts, and commits the set.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edittools.errors import INCOMPLETE, EditError, IncompleteError, missing_extra
from edittools.stream import files
from edittools.stream.progress import Progress
from edittools.stream.shards import shard_numbers

_TASKS_PER_SLOT = 4  # more tasks than workers, so that a slow shard keeps only one of them busy at the end
_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class RayCluster:
    """Where `--ray` points, and what is run there.

    `arguments` are those of the command line without `--ray`; `threads` is what `-j` says, None where it says
    nothing: then a task takes one core; `device` says whether the command has a model, whose task takes a GPU
    where the cluster has any.
    """

    address: str
    arguments: list[str]
    threads: int | None
    device: bool


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        import ray
    except ImportError:
        raise missing_extra("ray", "ray", "--ray") from None
    try:
        ray.init(address=address, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EditError(
            f"--ray {address}: no cluster answers: {str(error).splitlines()[0]}",
            hint="`ray start --head` starts one; --ray=local uses this machine alone",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _run_task(arguments: list[str], folder: str) -> tuple[int, str, str]:
    """On a worker: one command. Returns its exit status, its messages and the machine's name."""
    done = subprocess.run(
        [sys.executable, "-m", "edittools", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stderr, socket.gethostname()


def run_tasks(cluster: RayCluster, command: str, output: str, shards: int, *, shown: bool, more: list[str]) -> None:
    """Run the command over `shards` input shards into the shard set `output`; `more` are further arguments.

    Raises EditError with the first failed task's own message; finished shards stay, and running again continues.
    """
    with _connected(cluster.address) as ray:
        total = ray.cluster_resources()
        threads = cluster.threads or 1
        gpus = int(total.get("GPU", 0)) if cluster.device else 0
        slots = gpus or max(1, int(total.get("CPU", 1)) // threads)
        count = min(shards, slots if cluster.device else slots * _TASKS_PER_SLOT)
        # The caller judges the failed rows of all tasks together.
        common = [*cluster.arguments, *more, "--quiet", "--max-errors", "100%", "-j", str(threads)]
        work = ray.remote(num_cpus=threads, num_gpus=1 if gpus else 0, scheduling_strategy="SPREAD")(_run_task)
        waiting = {work.remote([*common, "--task", f"{index}/{count}"], os.getcwd()): index for index in range(count)}
        progress = Progress(f"{command}, {count} tasks on Ray", shards, shown=shown, unit="shard")
        seen = 0
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=_POLL_SECONDS)
                for finished in ready:
                    _check(waiting.pop(finished), count, ray.get(finished))
                now = len(shard_numbers(output)) if files.exists(output) else 0
                progress.step(max(0, now - seen))
                seen = max(seen, now)
        except BaseException:
            for task in waiting:
                with contextlib.suppress(Exception):
                    ray.cancel(task, recursive=True)
            raise
        finally:
            progress.close()


def _check(index: int, count: int, result: tuple[int, str, str]) -> None:
    status, messages, host = result
    if status == 0:
        return
    lines = [line for line in messages.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("edit ")), lines[-1] if lines else f"exit {status}")
    said = said.partition(": ")[2] if said.startswith("edit ") else said
    hint = next((line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")), None)
    kind = IncompleteError if status == INCOMPLETE else EditError
    raise kind(f"task {index}/{count} on {host}: {said}", hint=hint)
