"""`--ray`: the same bytes as one process, and a task's own message where it fails. On a Ray of this machine alone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import EDIT, Runner, tree

pytest.importorskip("ray")


def on_ray(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Ray does not survive the fork that the other tests run commands in."""
    words = [EDIT, *map(str, arguments), "--ray=local"]
    return subprocess.run(words, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)


def test_a_failed_task_says_why_and_a_rerun_of_both_passes_is_byte_identical(
    edit: Runner, shards: Path, tmp_path: Path
) -> None:
    edit("dedup", shards, "-o", tmp_path / "one")
    edit("filter", shards, "--min-side", 9, "--task", "1/3", "-o", tmp_path / "ray")
    done = on_ray("dedup", shards, "-o", tmp_path / "ray")
    assert done.returncode == 1
    assert "of 3 on" in done.stderr.replace("/3", " of 3") and "made from other input" in done.stderr, done.stderr
    for path in (tmp_path / "ray").glob("00001.*"):
        path.unlink()
    done = on_ray("dedup", shards, "-o", tmp_path / "ray")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "ray") == tree(tmp_path / "one")
    # What is finished is not done again; no cluster is even looked for.
    words = [EDIT, "dedup", str(shards), "-o", str(tmp_path / "ray"), "--ray=192.0.2.1:1"]
    again = subprocess.run(words, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert again.returncode == 0, again.stderr
    assert "24 rows in shards finished before" in again.stderr


def test_what_cannot_be_spread(edit: Runner, shards: Path, tmp_path: Path) -> None:
    for more in ([], ["-o", tmp_path / "x.tar"], ["-o", tmp_path / "x", "--task", "0/2"],
                 ["-o", tmp_path / "x", "--limit", "3"]):  # fmt: skip
        assert "--ray" in edit("filter", shards, "--min-side", 9, *more, "--ray=local", check=2).stderr
