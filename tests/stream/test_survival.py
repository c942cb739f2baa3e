"""SIGKILL at any moment, of any process of a pipeline: no half-written file under a final name, and a rerun repairs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import xxhash
from conftest import Runner, image, tree

KILLS = 9  # per pipeline and victim, at most; 54 in all with --long
ENOUGH = 3  # without it


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough pixels that a pipeline over them takes a while, without any sleep in it."""
    folder = tmp_path_factory.mktemp("survival") / "in"
    folder.mkdir()
    data = [image(k, "JPEG" if k % 3 == 0 else "PNG", 200, 260) for k in range(12)]
    for k in range(72):
        (folder / f"{k:02d}.png").write_bytes(data[k % 12])
    return folder


def pipeline(images: Path, out: str) -> list[list[Any]]:
    return [
        ["shard", images, "--rows", 6, "-j", 1],
        ["cat", "--inline"],
        ["shard", "--verify", "--rows", 8, "-j", 1, "-o", out],
    ]


def run(edit: Runner, commands: list[list[Any]], log: Path, kill: tuple[int, float] | None) -> list[int]:
    """Run a pipeline; `kill` is the victim's place and when, in seconds from the start. Returns the statuses."""
    children, before = [], os.open(os.devnull, os.O_RDONLY)
    for k, command in enumerate(commands):
        reader, writer = os.pipe() if k + 1 < len(commands) else (-1, os.open(os.devnull, os.O_WRONLY))
        with open(log.with_suffix(f".{k}"), "wb") as errors:
            children.append(edit.start(*command, stdin=before, stdout=writer, stderr=errors.fileno()))
        os.close(writer)
        os.close(before)
        before = reader
    if kill is not None:
        time.sleep(kill[1])
        children[kill[0]].kill(signal.SIGKILL)
    codes = [child.wait() for child in children]
    for k in range(len(commands)):
        assert "Traceback" not in log.with_suffix(f".{k}").read_text()
    return codes


def check_shards(out: Path) -> int:
    """Every committed shard is whole; returns how many there are."""
    committed = sorted(out.glob("0*.parquet"))
    for path in committed:
        footer = json.loads(pq.read_schema(path).metadata[b"edit.tar"])
        data = path.with_suffix(".tar").read_bytes()
        assert footer == {"size": len(data), "digest": xxhash.xxh3_128(data).hexdigest()}, path
        assert (out / "_rejects" / f"{path.stem}.jsonl").exists()
    end = out / "_end.json"
    if end.exists():
        assert json.loads(end.read_text())["shards"] == len(committed) == 9
    return len(committed)


@pytest.fixture(scope="module")
def undisturbed(session_edit: Runner, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, float]:
    """What the pipeline writes when nobody disturbs it, and how long that takes."""
    base = tmp_path_factory.mktemp("undisturbed")
    times = []
    for k in range(2):
        started = time.monotonic()
        codes = run(session_edit, pipeline(images, f"{base}/{k}/"), base / "log", None)
        times.append(time.monotonic() - started)
        assert codes == [0, 0, 0]
    assert tree(base / "0") == tree(base / "1")
    return tree(base / "0"), min(times)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_killed_while_writing_shards(
    edit: Runner, images: Path, undisturbed: tuple[dict, float], tmp_path: Path, victim: int,
    pytestconfig: pytest.Config,
) -> None:  # fmt: skip
    truth, duration = undisturbed
    rng = np.random.default_rng([3, victim])
    middle = 0
    for number, moment in enumerate(rng.uniform(0.02, duration, KILLS)):
        out = tmp_path / f"{number}"
        commands = pipeline(images, f"{out}/")
        codes = run(edit, commands, tmp_path / "log", (victim, float(moment)))
        if codes[victim] == -signal.SIGKILL:
            # The ones before the victim see a reader that left, which is no failure of theirs.
            assert all(code == 0 for code in codes[:victim]), codes
            # The ones after it miss its end record, unless the kill came between its last word and its exit.
            after = codes[victim + 1 :]
            assert set(after) in ({4}, {0}, set()), codes
            assert (out / "_end.json").exists() == (set(after) == {0}) or victim == 2, codes
            if (out / "_end.json").exists():
                assert tree(out) == truth
        middle += 0 < check_shards(out) < 9
        if number % 3 == 2:  # and killed again while it resumes
            run(edit, commands, tmp_path / "log", (victim, float(moment) / 2))
            check_shards(out)
        assert run(edit, commands, tmp_path / "log", None) == [0, 0, 0]
        assert tree(out) == truth, f"killed after {moment:.3f} of {duration:.3f} s"
        shutil.rmtree(out)
        if number + 1 >= ENOUGH and (middle or victim != 2) and not pytestconfig.getoption("--long"):
            break
    if victim == 2:
        assert middle, "not one kill hit between the first and the last shard"


@pytest.mark.parametrize("name", ["x.tar", "x.parquet", "x.arrows"])
def test_killed_while_writing_one_file(
    edit: Runner, images: Path, undisturbed: tuple[dict, float], tmp_path: Path, name: str,
    pytestconfig: pytest.Config,
) -> None:  # fmt: skip
    _, duration = undisturbed
    path = tmp_path / name
    commands = [["shard", images, "-j", 1], ["cat", "--inline", "-o", path]]
    assert run(edit, commands, tmp_path / "log", None) == [0, 0]
    truth = path.read_bytes()
    path.unlink()
    rng = np.random.default_rng(len(name))
    kills = KILLS if pytestconfig.getoption("--long") else ENOUGH
    for number, moment in enumerate(rng.uniform(0.02, duration / 2, kills)):
        codes = run(edit, commands, tmp_path / "log", (number % 2, float(moment)))
        if path.exists():
            assert path.read_bytes() == truth, "whole, or not there"
        else:
            assert codes[1] == (4 if number % 2 == 0 else -signal.SIGKILL), codes
        path.unlink(missing_ok=True)
    assert run(edit, commands, tmp_path / "log", None) == [0, 0]
    assert path.read_bytes() == truth
    if name == "x.tar":
        with tarfile.open(path) as tar:
            assert len(tar.getnames()) == 144
    elif name == "x.parquet":
        assert pq.read_metadata(path).num_rows == 72
    else:
        assert sum(batch.num_rows for batch in pyarrow.ipc.open_stream(path)) == 72
