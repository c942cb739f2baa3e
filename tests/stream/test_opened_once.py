"""How often a command opens the files of its input: a program's own count of what Python opens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import image, make_crawl, rows_of

from edittools.stream import fetch
from edittools.stream.fetch import Fetcher, Handed

COUNTING = """
import os, sys
noted = os.open(sys.argv.pop(1), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        os.write(noted, os.fsencode(os.path.abspath(arguments[0])) + bytes(1))
sys.addaudithook(note)
from edittools.cli.main import main
main()
"""


def opened(tmp_path: Path, inside: Path, *words: Any) -> Counter[str]:
    """How often each file below a folder was opened, by its path in it."""
    command = [sys.executable, "-c", COUNTING, tmp_path / "noted", *words]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    paths = map(Path, (tmp_path / "noted").read_text().split("\0"))
    return Counter(str(path.relative_to(inside)) for path in paths if path.is_relative_to(inside))


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_file_of_a_crawl_is_opened_once_and_so_is_its_sidecar(tmp_path: Path, jobs: int) -> None:
    crawl = tmp_path / "crawl"
    made = make_crawl(crawl, 60)
    for k, inside in enumerate(made):
        if k % 4 == 0:
            (crawl / inside).with_suffix(".json").write_text(json.dumps({"number": k, "words": "x" * k}))
    times = opened(tmp_path, crawl, "shard", crawl, "-j", jobs, "-o", tmp_path / "out")
    every = {str(path.relative_to(crawl)): 1 for path in crawl.rglob("*") if path.is_file()}
    assert times == every and len(every) > 90
    rows = rows_of(tmp_path / "out")
    assert {row["provenance"]["path"]: row["target"] for row in rows} == made
    assert (
        sum(row["number"] is not None for row in rows) == 15 and sum(row["caption"] is not None for row in rows) == 20
    )


@pytest.mark.parametrize("words", [["filter", "--sharpness", "0.."], ["shard", "--verify"]])
@pytest.mark.parametrize("output", ["out/", "out.tar", "out.parquet"])
def test_other_commands_and_outputs_open_it_once_too(tmp_path: Path, words: list[str], output: str) -> None:
    crawl = tmp_path / "crawl"
    make_crawl(crawl, 12)
    times = opened(tmp_path, crawl, words[0], crawl, *words[1:], "-j", 2, "-o", tmp_path / output)
    assert set(times.values()) == {1} and len(times) == 16


def test_what_rejected_rows_leave_behind_does_not_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_HANDED", 100)
    monkeypatch.setattr(fetch, "_BEHIND", 4)
    handed = Handed()
    for k in range(20):
        handed.put(f"{k}", "tag", bytes(10))
    assert [k for k in range(20) if handed.take(f"{k}", "tag") is not None] == [*range(10)], "the first ones, in order"
    for k in range(20, 60):  # of which every second row falls out
        handed.put(f"{k}", "tag", bytes(10))
        if k % 2:
            assert handed.take(f"{k}", "tag") == bytes(10)
    assert handed.take("59", "tag") is None and handed.take("x", "tag") is None


def test_only_whole_files_of_the_same_state_are_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(image(1))
    from edittools.stream import files
    from edittools.stream.input_reader import reference

    size, tag = files.facts(str(path))
    whole = reference(file=str(path), offset=0, length=size, etag=tag)
    reader, writer = Fetcher(), Fetcher()
    reader.gives = writer.takes = Handed()
    reader.get(whole, most=10)
    assert writer.takes.take(str(path), tag) is None
    reader.get(whole)
    path.unlink()
    assert writer.takes.take(str(path), "another") is None
    assert bytes(writer.get(whole)) == image(1)
    with pytest.raises(Exception, match="missing file"):
        writer.get(whole)
