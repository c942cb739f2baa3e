"""Inputs that have grown add shards, whatever kind they are, and those that are there stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, image, rows_of

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class Growth:
    """A command over an input that grows, in whose output the shards that are there may not be touched."""

    def __init__(self, edit: Runner, out: Path, *words: Any) -> None:
        self.edit, self.out, self.words = edit, out, (*words, "-o", out)
        self.before: dict[str, tuple[int, bytes]] = {}

    def run(self) -> list[dict]:
        ran = self.edit(*self.words)
        there = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in self.out.glob("0*")}
        assert {name: there[name] for name in self.before} == self.before, "a shard was made again"
        assert set(there) > set(self.before), ran.stderr
        self.before = there
        return rows_of(self.out)

    def refused(self) -> None:
        said = self.edit(*self.words, check=1).stderr
        assert "rows are gone or changed, row" in said and "--overwrite" in said


def put_images(folder: Path, numbers: range, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in numbers:
        data = image(k + seed)
        if not (folder / f"{k}.jpg").exists() or (folder / f"{k}.jpg").read_bytes() != data:
            (folder / f"{k}.jpg").write_bytes(data)


def of_names(path: Path, count: int) -> None:
    names = [f"{k}.jpg" for k in range(count)]
    pq.write_table(pa.table({"image": names, "n": range(count)}), path)


def of_lists(path: Path, count: int) -> None:
    named = [[f"{j}.jpg" for j in range(k % 3)] for k in range(count)]
    pq.write_table(pa.table({"source": named, "target": [f"{k}.jpg" for k in range(count)], "n": range(count)}), path)


def of_both(path: Path, count: int) -> None:
    """Hugging Face images, half of them only paths, in row groups of three."""
    rows = [{"bytes": None if k % 2 else image(k), "path": f"{k}.jpg"} for k in range(count)]
    with pq.ParquetWriter(path, pa.schema([("target", HF), ("n", pa.int64())])) as writer:
        for first in range(0, count, 3):
            part = {"target": rows[first : first + 3], "n": list(range(first, min(first + 3, count)))}
            writer.write_table(pa.table(part, schema=writer.schema))


@pytest.mark.parametrize("write", [of_names, of_lists, of_both])
@pytest.mark.parametrize("cut", [("--rows", 2), ("--bytes", 3000)])
def test_a_grown_parquet_of_paths_adds_shards(edit: Runner, tmp_path: Path, write: Any, cut: tuple) -> None:
    put_images(tmp_path, range(12))
    path = tmp_path / "x.parquet"
    growth = Growth(edit, tmp_path / "out", "shard", path, *cut)
    for count in (6, 9, 12):
        write(path, count)
        assert [row["n"] for row in growth.run()] == list(range(count))
    put_images(tmp_path, range(3, 4), seed=50)  # one that a row names is another one now
    growth.refused()


def test_a_row_of_a_list_that_says_something_else_is_another_one(edit: Runner, tmp_path: Path) -> None:
    put_images(tmp_path, range(6))
    path = tmp_path / "x.parquet"
    growth = Growth(edit, tmp_path / "out", "shard", path, "--rows", 2)
    of_names(path, 4)
    growth.run()
    table = pa.table({"image": [f"{k}.jpg" for k in range(6)], "n": [0, 1, 7, 3, 4, 5]})
    pq.write_table(table, path)
    growth.refused()


def test_a_grown_set_adds_shards_to_what_is_cut_from_it(edit: Runner, tmp_path: Path) -> None:
    """crawl -> set -> larger shards, each grown in turn."""
    crawl, made = tmp_path / "crawl", tmp_path / "set"
    first = Growth(edit, made, "shard", crawl, "--rows", 2)
    growth = Growth(edit, tmp_path / "out", "shard", made, "--rows", 3)
    by_bytes = Growth(edit, tmp_path / "bytes", "shard", made, "--bytes", 3000)
    filtered = Growth(edit, tmp_path / "clean", "filter", made, "--min-side", 8)
    for count in (5, 9, 10):
        put_images(crawl, range(count))
        ids = [row["id"] for row in first.run()]
        for grown in (growth, by_bytes, filtered):
            assert sorted(row["id"] for row in grown.run()) == sorted(ids)


def test_grown_folders_of_our_tars_add_shards(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    growth = Growth(edit, tmp_path / "out", "shard", tmp_path / "in", "--rows", 2)
    for k in (3, 1, 2):
        put_images(tmp_path / f"crawl{k}", range(3 * k, 3 * k + 3))
        edit("shard", tmp_path / f"crawl{k}", "-o", tmp_path / f"in/{k}.tar")
        found = {row["provenance"]["sha256"] for row in growth.run()}
        assert len(found) == 3 * len(list((tmp_path / "in").iterdir()))


def test_one_of_our_tars_that_is_written_again_with_more_rows_adds_shards(edit: Runner, tmp_path: Path) -> None:
    crawl, path = tmp_path / "crawl", tmp_path / "x.tar"
    growth = Growth(edit, tmp_path / "out", "shard", path, "--rows", 2)
    for count in (4, 7):
        put_images(crawl, range(count))
        edit("shard", crawl, "-o", path, "--overwrite")
        assert len(growth.run()) == count
    put_images(crawl, range(2, 3), seed=40)
    edit("shard", crawl, "-o", path, "--overwrite")
    growth.refused()


def test_several_sets_of_which_one_grows(edit: Runner, tmp_path: Path) -> None:
    for name in ("a", "b"):
        put_images(tmp_path / name, range(3), seed=ord(name))
        edit("shard", tmp_path / name, "--rows", 2, "-o", tmp_path / f"{name}-set")
    growth = Growth(edit, tmp_path / "out", "shard", tmp_path / "a-set", tmp_path / "b-set", "--rows", 4)
    growth.run()
    put_images(tmp_path / "a", range(3, 6), seed=ord("a"))
    edit("shard", tmp_path / "a", "--rows", 2, "-o", tmp_path / "a-set")
    assert len(growth.run()) == 9


def test_the_record_of_the_grown_set_is_that_of_its_shards(edit: Runner, tmp_path: Path) -> None:
    put_images(tmp_path, range(5))
    for count in (3, 5):
        of_names(tmp_path / "x.parquet", count)
        edit("shard", tmp_path / "x.parquet", "--rows", 2, "-o", tmp_path / "out")
    end = json.loads((tmp_path / "out/_end.json").read_text())
    assert (end["rows"], end["kept"]) == (5, 5)
    edit("cat", "--check", tmp_path / "out")
