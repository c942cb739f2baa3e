"""What reading costs: array tasks read their own tars, image columns are decoded once, memory stays flat."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, image, rows_of

from edittools.errors import EditError
from edittools.ingest.stage import Ingest
from edittools.stream import columns, files, rowgroups
from edittools.stream.listing import Listing
from edittools.stream.opening import open_source
from edittools.stream.process import PerProcess
from edittools.stream.run import RunOptions, open_input, run
from edittools.stream.slices import Slice
from edittools.stream.source import FileSource


def write_tar(path: Path, rows: list[tuple[str, dict[str, Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for k, (key, fields) in enumerate(rows):
            for name, data in ((f"{key}.jpg", image(k)), (f"{key}.json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Four tars of 3, 5, 2 and 4 rows, whose sidecars do not agree on what `score` is, nor on the columns."""
    values: list[Any] = [1, "high", {"mean": 2}, [3]]
    for k, count in enumerate((3, 5, 2, 4)):
        rows = [(f"{k}{row}", {"score": values[k], f"only{k}": row}) for row in range(count)]
        write_tar(tmp_path / "in" / f"{k}.tar", rows)
    return tmp_path / "in"


def test_an_array_task_reads_its_own_tars(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, int] = {}
    whole = files.RangeReader.read

    def counted(self: files.RangeReader, offset: int, length: int) -> bytes:
        read[Path(self.path).name] = read.get(Path(self.path).name, 0) + length
        return whole(self, offset, length)

    monkeypatch.setattr(files.RangeReader, "read", counted)
    source = open_input([str(tars)], RunOptions(task=(1, 4)))
    assert isinstance(source, FileSource)
    rows = [row for batch in source.batches(lambda shard: True) for row in batch.rows.to_pylist()]
    assert [row["id"] for row in rows] == [f"1{k}" for k in range(5)]
    assert read.pop("1.tar") > 5000
    assert set(read.values()) == {512}, "of the others only the first block, which says whether they are of edittools"
    assert source.count == 4 and [shard.index for shard in source.shards or ()] == [1]
    assert "only1" in source.schema.names and "only2" not in source.schema.names


@pytest.mark.parametrize("cut", [(), ("--rows", 4)])
def test_what_the_tasks_made_is_one_set(edit: Runner, tars: Path, tmp_path: Path, cut: tuple[Any, ...]) -> None:
    """Every row once, under the numbers of a run without tasks; columns on which tasks do not agree are text."""
    edit("shard", tars, *cut, "-o", tmp_path / "whole")
    for k in (2, 0, 1):
        edit("shard", tars, *cut, "--task", f"{k}/3", "-o", tmp_path / "tasks")
    assert (tmp_path / "tasks" / "_end.json").exists()
    whole, found = (edit("cat", tmp_path / name, "-f", "jsonl").lines for name in ("whole", "tasks"))
    assert [(row["id"], row["provenance"]["path"]) for row in found] == [
        (row["id"], row["provenance"]["path"]) for row in whole
    ]
    assert len(found) == 14 and [r["only2"] for r in found if r["only2"] is not None] == [0, 1]
    scores = {row["provenance"]["path"][0]: str(row["score"]) for row in found}
    assert scores == {"0": "1", "1": "high", "2": '{"mean": 2}', "3": "[3]"}


def test_shards_cut_anew_are_those_of_counting_rows_one_by_one(tars: Path) -> None:
    source = open_source([str(tars)])
    assert isinstance(source, FileSource)
    counts = (3, 5, 2, 4)
    places = [(k, row) for k, count in enumerate(counts) for row in range(count)]
    for rows in range(1, 16):
        cut = source.resharded(rows, None)
        found = [
            [(cut.readers.index(piece.reader), row) for piece in item for row in range(piece.start, piece.end)]
            for item in cut.items
        ]
        assert found == [places[k : k + rows] for k in range(0, len(places), rows)]
    sizes = [int(size) for reader in source.readers for size in reader.row_sizes()]
    for size in (1, max(sizes), sum(sizes) // 3, sum(sizes)):
        expected: list[list[int]] = [[]]
        for k, weight in enumerate(sizes):
            if expected[-1] and sum(sizes[j] for j in expected[-1]) + weight > size:
                expected.append([])
            expected[-1].append(k)
        cut = source.resharded(None, size)
        assert [sum(piece.end - piece.start for piece in item) for item in cut.items] == [len(e) for e in expected]


def test_first_rows_of_many_tars(edit: Runner, tars: Path) -> None:
    for limit in (0, 1, 3, 4, 9, 14, 99):
        ids = [row["id"] for row in edit("cat", tars, "--limit", limit, "-f", "jsonl").lines]
        assert ids == [f"{k}{row}" for k, count in enumerate((3, 5, 2, 4)) for row in range(count)][:limit]
    source = open_source([str(tars)])
    assert isinstance(source, FileSource)
    reader = source.readers[1]
    assert Slice(reader, 0, 5).digest() != Slice(reader, 0, 4).digest()
    whole = Slice(reader).digest()
    limited = open_input([str(tars)], RunOptions(limit=4))
    assert limited.shards is not None and whole not in [shard.digest for shard in limited.shards]


# ---------------------------------------------------------------- folders with tables that name their images


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_folder_with_a_table_is_looked_through_by_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What is known of a file is not made anew for every question about its name, and Arrow is not asked row by row."""
    names = [f"images/{k:03d}.jpg" for k in range(120)]
    (tmp_path / "in/images").mkdir(parents=True)
    for name in names:
        (tmp_path / "in" / name).write_bytes(image(0))
    if kind == "jsonl":
        text = "".join(json.dumps({"file_name": name, "text": "cat 猫"}) + "\n" for name in names[:100])
        (tmp_path / "in/metadata.jsonl").write_text(text)
    else:
        table = pa.table({"file_name": names[:100], "text": ["cat"] * 100})
        pq.write_table(table, tmp_path / "in/metadata.parquet")
    looked, asked = [], []
    whole, fits = Listing.__getitem__, columns._fits
    monkeypatch.setattr(Listing, "__getitem__", lambda self, k: looked.append(k) or whole(self, k))
    monkeypatch.setattr(columns, "_fits", lambda value, kind: asked.append(value) or fits(value, kind))
    source = open_source([str(tmp_path / "in")])
    rows = [row for batch in source.batches(lambda shard: True) for row in batch.rows.to_pylist()]
    assert [os.path.basename(row["target"]["file"]) for row in rows] == [os.path.basename(name) for name in names]
    assert len(looked) <= 2 * len(names) and not asked


@pytest.mark.parametrize(
    "name, values",
    [
        ("id", ["a", "猫", "\ud800", 1, None, b"x"]),
        ("target", [{"file": "x", "length": 1 << 62}, {"file": "x", "width": 1 << 40}, {"no": 1}, "x", {}]),
        ("source", [[{"file": "x"}], [None], ["x"], {"file": "x"}]),
        ("caption", [{"en": "x"}, {"en": 1}, {"fr": "x"}, []]),
        ("objects", [[{"name": "x", "box": [0.5, 1.0]}], [{"box": [1, True]}], [{"score": 1 << 70}]]),
    ],
)
def test_what_is_taken_without_asking_arrow_is_what_arrow_takes(name: str, values: list[Any]) -> None:
    said = [columns._SURELY[name](value) for value in values]
    assert True in said and False in said
    for value, sure in zip(values, said):
        assert not sure or columns._fits(value, columns.COLUMNS[name])


# ---------------------------------------------------------------- images inside Parquet files

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_images(path: Path, columns: int, rows: int, group: int, compression: str = "snappy") -> dict[str, list]:
    """Columns of small images, some of them null: {column: [bytes or None]}."""
    known: dict[str, list] = {}
    for c in range(columns):
        known[f"im{c}"] = [None if (k + c) % 7 == 3 and c else image((k + c) % 20) for k in range(rows)]
    arrays = {
        name: pa.array([None if value is None else {"bytes": value, "path": None} for value in values], HF)
        for name, values in known.items()
    }
    pq.write_table(pa.table(arrays), path, row_group_size=group, compression=compression)
    return known


@pytest.mark.parametrize("jobs", [1, 4])
def test_columns_of_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    """Five columns, three row groups, read by threads and written behind them: each part is decoded once."""
    known = write_images(tmp_path / "in.parquet", 5, 300, 100)
    decoded: list[tuple[int, str]] = []
    whole = rowgroups._File.pieces

    def counted(self: Any, group: int, column: str) -> Any:
        decoded.append((group, column))
        return whole(self, group, column)

    monkeypatch.setattr(rowgroups._File, "pieces", counted)
    monkeypatch.setattr(rowgroups, "shared", PerProcess(rowgroups.RowGroups))
    source = open_input([str(tmp_path / "in.parquet")], RunOptions())
    options = RunOptions(output=f"{tmp_path}/out/", quiet=True)
    run("shard", source, [Ingest(jobs=jobs, foreign_ids=False)], {}, options)
    assert sorted(decoded) == [(group, f"im{c}") for group in range(3) for c in range(5)]
    found = rows_of(tmp_path / "out")
    assert {name: [row[name] for row in found] for name in known} == known


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_rows_in_any_order_of_row_groups_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool, compression: str
) -> None:
    known = write_images(tmp_path / "in.parquet", 2, 90, 40, compression)
    monkeypatch.setattr(rowgroups, "_LARGE", 0 if large else 1 << 40)
    monkeypatch.setattr(rowgroups, "_MOST_BYTES", 0)
    groups = rowgroups.RowGroups()
    order = np.random.default_rng(0).permutation(180).tolist()
    for place in order[:60]:
        name, row = f"im{place % 2}", place // 2
        assert groups.value(str(tmp_path / "in.parquet"), None, name, row) == known[name][row]
        assert groups.held == sum(values.nbytes for kept in groups.groups.values() for values in kept.values())
    assert len(groups.groups) <= 2
    for column, row in (("im0", 90), ("im0", -1), ("other", 0)):
        with pytest.raises(EditError, match="has no row"):
            groups.value(str(tmp_path / "in.parquet"), None, column, row)
    with pytest.raises(EditError, match="changed while"):
        groups.value(str(tmp_path / "in.parquet"), "1-1", "im0", 0)


LARGE_GROUP = """
import resource, sys
from edittools.stream import rowgroups
from edittools.stream.rowgroups import RowGroups
groups = RowGroups()
groups.value(sys.argv[1], None, "image", 0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for k in range(100):
    assert len(groups.value(sys.argv[2], None, "image", k)) == 1_000_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_a_large_row_group_is_in_memory_once(tmp_path: Path) -> None:
    """100 MB of images in one page: Arrow holds them while it decodes, and nobody holds them once more."""
    rng = np.random.default_rng(0)
    for name, count in (("small", 2), ("large", 100)):
        values = [{"bytes": rng.bytes(1_000_000), "path": None} for _ in range(count)]
        table = pa.table({"image": pa.array(values, HF)})
        pq.write_table(table, tmp_path / name, compression="none", use_dictionary=False)
    words = [sys.executable, "-c", LARGE_GROUP, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 175


# ---------------------------------------------------------------- dictionaries, threads


@pytest.mark.parametrize("wrap", [lambda boxes: boxes, lambda boxes: {"page": {"boxes": boxes}}, lambda boxes: [boxes]])
def test_dictionaries_keyed_by_id_grow_with_their_rows(edit: Runner, tmp_path: Path, wrap: Any) -> None:
    """Every row has keys of its own: no row gets those of the others, and nothing is lost."""
    (tmp_path / "p.jpg").write_bytes(image(0))
    rows = [{"image": "p.jpg", "boxes": wrap({f"obj_{k}_{j}": [k, j, 1.5] for j in range(3)})} for k in range(200)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit("shard", tmp_path / "in.jsonl", "-o", tmp_path / "out")

    def read(value: Any) -> Any:
        if isinstance(value, str):
            return json.loads(value)
        if isinstance(value, list):
            return [read(item) for item in value]
        return {key: read(item) for key, item in value.items()} if isinstance(value, dict) else value

    assert [read(row["boxes"]) for row in rows_of(tmp_path / "out")] == [row["boxes"] for row in rows]
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        sizes = [member.size for member in tar if member.name.endswith(".json")]
    assert max(sizes) < 2000


def test_wide_records_stay_records() -> None:
    """A record of 300 keys that most rows have in full, or of which some rows have a few and none of their own."""
    observed = columns.ObservedSchema()
    wide = {f"key{k}": k for k in range(300)}
    for row in (wide, {**wide, "more": 1.5}, {"key3": 4}, {}, {f"key{k}": k for k in range(100)}):
        observed.observe({"record": row})
    assert observed.schema().field("record").type.num_fields == 301


API = """
import sys
import numpy, threadpoolctl
import edittools
from edittools.filter.config import FilterConfig
from edittools.filter.stage import FilterStage

def threads():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

seen = []
class Looking(FilterStage):
    def __call__(self, batches):
        for batch in super().__call__(batches):
            seen.append(threads())
            yield batch

threadpoolctl.threadpool_limits(limits=2, user_api="blas")
before = threads()
sharp = Looking(FilterConfig(sharpness="0.."))
edittools.read(sys.argv[1]).pipe(sharp).write(sys.argv[2])
for batch in edittools.read(sys.argv[1]).pipe(sharp).batches():
    pass
assert before and set(before) == {2} and threads() == before, (before, threads())
assert len(seen) >= 2 and all(set(found) == {1} for found in seen), seen
"""


def test_the_python_api_multiplies_in_one_thread(shards: Path, tmp_path: Path) -> None:
    """As the command does, whatever was imported before; and afterwards the user's numpy is as it was."""
    env = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    words = [sys.executable, "-c", API, str(shards), f"{tmp_path}/out/"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
