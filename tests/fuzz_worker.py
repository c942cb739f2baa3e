"""Reads damaged files through the command line's own entry, many in one process. `test_fuzz.py` starts it.

python fuzz_worker.py SEEDS WORK FIRST LAST: SEEDS holds whole inputs, WORK is scratch space. Every input has a
number, which decides everything about it. One JSON line per input: {"number": N} when it begins, and then
{"number": N, "code": C, "what": ..., "problem": null or text}.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq

from edittools.cli.main import group
from edittools.errors import EditError

SECONDS = 20  # of processor time for one input, so that a busy machine is no hang; one takes a few hundredths
MEMORY = 6 << 30  # bytes of address space, most of it reserved by libraries and never touched


class Hang(BaseException):
    pass


def _alarm(signum: int, frame: Any) -> None:
    raise Hang


def mutate(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Damage of one to three kinds."""
    broken = bytearray(data)
    done = []
    for _ in range(int(rng.integers(1, 4))):
        size = len(broken)
        if not size:
            break
        kind = rng.choice(["flip", "flip", "byte", "word", "cut", "insert", "double", "swap"])
        at = int(rng.integers(0, size))
        if rng.random() < 0.4:  # headers and footers are where the interesting things are
            near = min(int(rng.integers(0, 1024)), size - 1)
            at = near if rng.random() < 0.5 else size - 1 - near
        length = int(rng.integers(1, 1024))
        if kind == "flip":
            broken[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == "byte":
            broken[at] = int(rng.choice([0, 255, 127, 128, 32, 34, 123, int(rng.integers(0, 256))]))
        elif kind == "word":
            value = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 65536]))
            word = value.to_bytes(4, str(rng.choice(["little", "big"])))
            broken[at : at + 4] = word[: size - at]
        elif kind == "cut":
            del broken[at:]
        elif kind == "insert":
            broken[at:at] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif kind == "double":
            broken[at:at] = broken[at : at + length]
        else:
            other = int(rng.integers(0, size))
            one, two = bytes(broken[at : at + 16]), bytes(broken[other : other + 16])
            broken[at : at + len(two)], broken[other : other + len(one)] = two, one
            del broken[size:]
        done.append(f"{kind}@{at}")
    return bytes(broken), " ".join(done)


def prepare(seeds: Path, work: Path, rng: np.random.Generator) -> tuple[Path, str, int]:
    """One damaged input: its path, what was done, and how many rows it must account for if it is read at all."""
    name = str(rng.choice(sorted(p.name for p in seeds.iterdir())))
    source = seeds / name
    if source.is_dir():
        path = work / "set"
        shutil.copytree(source, path)
        if name == "images":
            victim = path / str(rng.choice(sorted(p.name for p in path.iterdir())))
            broken, what = mutate(victim.read_bytes(), rng)
            victim.write_bytes(broken)
            # A sidecar belongs to its image, so that it is no row of its own.
            return path, f"{name}/{victim.name} {what}", sum(p.suffix != ".json" for p in path.iterdir())
        victim = path / str(rng.choice(["_end.json", "00000.parquet", "00001.tar", "00001.parquet"]))
        broken, what = mutate(victim.read_bytes(), rng)
        victim.write_bytes(broken)
        return path, f"{name}/{victim.name} {what}", 9
    broken, what = mutate(source.read_bytes(), rng)
    path = work / name
    path.write_bytes(broken)
    if name.endswith(".jsonl"):
        return path, f"{name} {what}", sum(1 for line in broken.split(b"\n") if line.strip())
    # A tar that others wrote can lose a sample where nothing tells; ours, Parquet and streams count their rows.
    expected = {"foreign.tar": 0, "foreign.parquet": 5}.get(name, 9)
    return path, f"{name} {what}", expected


def call(arguments: list[str]) -> tuple[int, str | None]:
    """Run one command as `main` does: (exit status, traceback of what `main` would not have handled)."""
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), group.make_context("edit", list(arguments)) as context:
            group.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code, None
    except click.UsageError:
        return 2, None
    except click.ClickException:
        return 1, None
    except EditError as error:
        text = str(error)
        if not text or len(text) > 2000:
            return error.status, f"a message that says nothing, or too much: {text[:3000]!r}"
        return error.status, None
    except OSError as error:
        if type(error).__module__ != "builtins":
            return 1, traceback.format_exc()
        return 1, None
    except Hang:
        return 1, "hang: " + traceback.format_exc()
    except BaseException:
        return 1, traceback.format_exc()
    return 0, None


def count(path: Path) -> int:
    if path.is_dir():
        rows = sum(pq.read_metadata(p).num_rows for p in path.glob("*.parquet"))
        return rows + sum(len(p.read_bytes().splitlines()) for p in (path / "_rejects").glob("*"))
    return len(path.read_bytes().splitlines())


def one(number: int, seeds: Path, work: Path) -> dict[str, Any]:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    rng = np.random.default_rng([7, number])
    path, what, rows = prepare(seeds, work, rng)
    out = work / "out"
    choice = int(rng.integers(0, 4))
    arguments = [
        ["shard", path, "-o", f"{out}/", "--rows", 4, "-j", 1, "--verify"],
        ["cat", path, "-o", f"{out}/", "-j", 2],
        ["cat", path, "-o", f"{out}.jsonl", "--rejects", work / "rejects"],
        ["cat", path, "-o", f"{out}.parquet", "--rejects", work / "rejects"],
    ][choice]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        code, problem = call([str(a) for a in [*arguments, "-q"]])
    except Hang:
        code, problem = 1, "hang"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if problem is None and code in (0, 3) and rows > 0:
        found = count([out, out, work / "out.jsonl", work / "rejects"][choice])
        if choice == 2:
            found += count(work / "rejects")
        elif choice == 3:
            found += pq.read_metadata(work / "out.parquet").num_rows
        if found < rows:
            problem = f"silent loss: {found} of {rows} rows"
    if problem is None and code in (1, 4) and choice < 2 and (out / "_end.json").exists():
        problem = "an end record although the command failed"
    left = [p.name for p in work.rglob(".tmp-*")] if problem is None else []
    if left:
        problem = f"temporaries left: {left}"
    command = " ".join(map(str, arguments[:1]))
    return {"number": number, "code": code, "what": f"{command} {what}", "problem": problem}


def main(seeds: str, work: str, first: str, last: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _alarm)
    for number in range(int(first), int(last)):
        print(json.dumps({"number": number}), flush=True)
        print(json.dumps(one(number, Path(seeds), Path(work))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
