"""Which part of the work a task of an array does."""

from __future__ import annotations

import os

from edittools.errors import UsageError


def parse_task(text: str | None) -> tuple[int, int] | None:
    """`I/N`, counted from 0; `auto` reads Slurm's variables. Raises UsageError."""
    if text is None:
        return None
    if text == "auto":
        index, count = _slurm_task()
    else:
        head, slash, tail = text.partition("/")
        if not slash or not head.isdecimal() or not tail.isdecimal():
            raise UsageError(f"--task {text}: expected I/N with I counted from 0, or `auto`")
        index, count = int(head), int(tail)
    if not 0 <= index < count:
        raise UsageError(f"--task {index}/{count}: I counts from 0 and is less than N")
    return index, count


def _slurm_task() -> tuple[int, int]:
    """Which task of an array job this process is, and of how many. Raises UsageError.

    Slurm numbers the tasks of `--array=0-6:2` 0, 2, 4 and 6. A retry of failed tasks names them one by one
    (`--array=3,7`), so that the number of tasks of the first submission has to be given: EDITTOOLS_TASKS says how the
    work was cut, not what is done.
    """
    known = {}
    for name in ("ID", "MIN", "MAX", "STEP", "COUNT"):
        try:
            known[name] = int(os.environ[f"SLURM_ARRAY_TASK_{name}"])
        except KeyError:
            continue
        except ValueError:
            raise UsageError("--task auto: Slurm's variables are not numbers") from None
    if "ID" not in known or "COUNT" not in known:
        raise UsageError("--task auto: not inside a Slurm array job", hint="say --task I/N")
    tasks = os.environ.get("EDITTOOLS_TASKS")
    if tasks:
        if not tasks.isdecimal():
            raise UsageError(f"--task auto: EDITTOOLS_TASKS={tasks}: not a number")
        return known["ID"], int(tasks)
    first, step = known.get("MIN", 0), max(known.get("STEP", 1), 1)
    whole = "MAX" not in known or (known["MAX"] - first) // step + 1 == known["COUNT"]
    if not whole or (known["ID"] - first) % step:
        raise UsageError(
            "--task auto: the array has gaps: which part of the work is this task's?",
            hint="number the tasks 0 to N-1, or export EDITTOOLS_TASKS=N, of which this array names some",
        )
    return (known["ID"] - first) // step, known["COUNT"]
