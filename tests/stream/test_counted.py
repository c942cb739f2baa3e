"""Array tasks that cut many files by rows share the counting, and open the files that they read rows of."""

from __future__ import annotations

import functools
import io
import json
import operator
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, image, rejects_of, rows_of

from edittools.ingest.stage import Ingest
from edittools.stream import counted, files
from edittools.stream.counted import COUNTS, Counted, RowCounts
from edittools.stream.history import History
from edittools.stream.mapping import Mapping
from edittools.stream.readers import reader_for_file
from edittools.stream.run import Cut, RunOptions, open_input, run
from edittools.stream.source import FileSource

ROWS = (3, 5, 2, 4, 6, 1, 3, 4)


def write(path: Path, first: int, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        numbers = [*range(first, first + rows)]
        pq.write_table(pa.table({"target": [image(k) for k in numbers], "number": numbers}), path)
        return
    with tarfile.open(path, "w") as tar:
        for k in range(first, first + rows):
            for name, data in ((f"{k}.jpg", image(k)), (f"{k}.json", json.dumps({"number": k}).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture(params=["tar", "parquet"])
def inputs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for k, rows in enumerate(ROWS):
        write(tmp_path / f"in/{k}.{request.param}", sum(ROWS[:k]), rows)
    return tmp_path / "in"


class Opened:
    """Which files were opened, and how many bytes of tars were read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.times: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        opening, making, reading = files.open_read, files.RangeReader.__init__, files.RangeReader.read

        def open_read(path: str) -> Any:
            self.times[os.path.basename(path)] += 1
            return opening(path)

        def make(reader: Any, path: str) -> None:
            self.times[os.path.basename(path)] += 1
            making(reader, path)

        def read(reader: Any, offset: int, length: int) -> bytes:
            self.bytes[os.path.basename(reader.path)] += length
            return reading(reader, offset, length)

        patch.setattr(files, "open_read", open_read)
        patch.setattr(files.RangeReader, "__init__", make)
        patch.setattr(files.RangeReader, "read", read)


def task_source(paths: list[Path], out: Path | str, task: tuple[int, int], rows: int = 4) -> FileSource:
    cut = Cut(rows, None, None, RowCounts(str(out), task))
    source = open_input([str(path) for path in paths], RunOptions(task=task), Mapping(), cut)
    assert isinstance(source, FileSource)
    return source


@pytest.mark.parametrize("by_name", [True, False])
def test_a_task_opens_the_files_of_its_rows(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
) -> None:
    paths = sorted(inputs.iterdir())
    numbers = [*range(sum(ROWS))]
    owner = [paths[k].name for k, rows in enumerate(ROWS) for _ in range(rows)]
    out = tmp_path / "out"
    for task in range(7):
        with monkeypatch.context() as patch:
            seen = Opened(patch)
            source = task_source(paths if by_name else [inputs], out, (task, 7))
            (shard,) = source.shards
            found = [row for batch in source.batches(lambda shard: True) for row in batch.rows.to_pylist()]
        assert [row["number"] for row in found] == numbers[shard.index * 4 : shard.index * 4 + 4]
        own = set(owner[shard.index * 4 : shard.index * 4 + 4])
        touched = {name for name in {*seen.times, *seen.bytes} if name in owner}
        looked = {paths[0].name} if by_name else set()  # whether all of them are Arrow streams
        assert touched == ({path.name for path in paths} if task == 0 else own | looked)
        if task:
            assert not any(seen.bytes[name] for name in set(owner) - own)
    assert len(os.listdir(out / COUNTS)) == len(ROWS), "each was counted once"


@pytest.mark.parametrize("cut", [("--rows", 4), ("--bytes", 4000)])
def test_the_set_is_that_of_a_run_without_tasks(edit: Runner, inputs: Path, tmp_path: Path, cut: tuple) -> None:
    edit("shard", inputs, *cut, "-o", tmp_path / "whole")
    for task in (3, 0, 2, 1):
        assert not (tmp_path / "tasks/_end.json").exists()
        edit("shard", inputs, *cut, "--task", f"{task}/4", "-o", tmp_path / "tasks")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "tasks").iterdir()), "the counts are gone"
    for name in names:
        if not (tmp_path / "whole" / name).is_dir():
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "tasks" / name).read_bytes(), name
    edit("shard", inputs, *cut, "-o", tmp_path / "tasks")  # nothing to do: the same digests


def test_a_task_that_cuts_by_bytes_opens_the_files_of_its_rows(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the images of every row weigh is counted once, too: a task reads its own rows, and 8 bytes of others."""
    paths = sorted(inputs.iterdir())
    owner = {
        number: paths[k].name for k, rows in enumerate(ROWS) for number in range(sum(ROWS[:k]), sum(ROWS[: k + 1]))
    }
    limit, out = 4 * len(image(0)), tmp_path / "out"
    alone = open_input([str(inputs)], RunOptions(), Mapping(), Cut(None, limit, None, None))
    wanted = [[row["number"] for row in rows] for rows in shards_of(alone)]
    assert 5 < len(wanted) < 12 and functools.reduce(operator.iadd, wanted, []) == [*range(sum(ROWS))]
    for task in range(len(wanted)):
        with monkeypatch.context() as patch:
            seen = Opened(patch)
            cut = Cut(None, limit, None, RowCounts(str(out), (task, len(wanted)), by_size=True))
            source = open_input([str(inputs)], RunOptions(task=(task, len(wanted))), Mapping(), cut)
            (found,) = shards_of(source)
        assert [row["number"] for row in found] == wanted[task]
        touched = {name for name in {*seen.times, *seen.bytes} if name in owner.values()}
        assert touched == ({path.name for path in paths} if task == 0 else {owner[k] for k in wanted[task]})
    assert len(os.listdir(out / COUNTS)) == len(ROWS), "each was counted once"


def shards_of(source: Any) -> list[list[dict]]:
    found: dict[int, list[dict]] = {shard.index: [] for shard in source.shards}
    for batch in source.batches(lambda shard: True):
        found[batch.shard.index] += batch.rows.to_pylist()
    return list(found.values())


@pytest.mark.parametrize("weights", ["inline", "paths", "nested"])
def test_bytes_of_images_are_those_of_the_shards(edit: Runner, tmp_path: Path, weights: str) -> None:
    """However a Parquet file holds its images, no shard is larger than it was told to be, or could be smaller."""
    data = [image(k, height=16 + 8 * (k % 5)) for k in range(12)]
    for k, content in enumerate(data):
        (tmp_path / f"{k}.jpg").write_bytes(content)
    hf = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = {
        "inline": pa.array(data),
        "paths": pa.array([f"{k}.jpg" for k in range(12)]),
        "nested": pa.array([[{"bytes": content, "path": None}] for content in data], pa.list_(hf)),
    }[weights]
    pq.write_table(pa.table({"source" if weights == "nested" else "target": column}), tmp_path / "in.parquet")
    limit = 3 * max(map(len, data))
    edit("shard", tmp_path / "in.parquet", "--bytes", limit, "-o", tmp_path / "whole")
    for task in range(3):
        edit("shard", tmp_path / "in.parquet", "--bytes", limit, "--task", f"{task}/3", "-o", tmp_path / "tasks")
    sizes, cut = [], [0]
    for content in data:  # by hand
        if sizes and sizes[-1] + len(content) <= limit:
            sizes[-1] += len(content)
            cut[-1] += 1
        else:
            sizes.append(len(content))
            cut = [*cut, 1] if sizes[1:] else [1]
    for folder in ("whole", "tasks"):
        stored = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / folder).glob("0*.parquet"))]
        assert stored == cut and len(cut) > 3


def test_tasks_that_begin_together_share_the_counting(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each begins elsewhere, and takes what others have counted meanwhile."""
    monkeypatch.setattr(counted, "_LOOK_AGAIN", -1.0)
    paths = sorted(inputs.iterdir())
    order: dict[int, list[str]] = {0: [], 2: []}

    def readers(task: int) -> list[Counted]:
        def opening(path: Path) -> Any:
            order[task].append(path.name)
            if task == 0 and len(order[0]) == 2:  # in the middle of its work another one does all of its own
                RowCounts(str(tmp_path / "out"), (2, 4)).count(others)
            return reader_for_file(str(path))

        return [Counted(str(p), p.name, (files.etag(str(p)),), functools.partial(opening, p)) for p in paths]

    others = readers(2)
    mine = readers(0)
    RowCounts(str(tmp_path / "out"), (0, 4)).count(mine)
    assert order[2] == [path.name for path in [*paths[4:], *paths[1:4]]]
    assert order[0] == [path.name for path in paths[:2]]
    assert [reader.rows for reader in mine] == [reader.rows for reader in others] == [*ROWS]


def test_a_file_that_changes_is_counted_anew(inputs: Path, tmp_path: Path) -> None:
    paths = sorted(inputs.iterdir())
    assert task_source(paths, tmp_path / "out", (0, 2)).count == 7
    write(paths[2], 100, 9)
    assert task_source(paths, tmp_path / "out", (1, 2)).count == 9
    assert len(os.listdir(tmp_path / "out" / COUNTS)) == len(ROWS) + 1


def test_counts_in_a_store(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, out = sorted(inputs.iterdir()), f"memory://counted-{inputs.parent.name}"
    assert task_source(paths, out, (0, 2)).count == 7
    assert len(files.listdir(f"{out}/{COUNTS}")) == len(ROWS)
    with monkeypatch.context() as patch:
        seen = Opened(patch)
        assert task_source(paths, out, (6, 7)).count == 7
    assert not any(seen.times[path.name] for path in paths[1:7])


def test_history_damage_and_what_is_no_table(edit: Runner, tmp_path: Path) -> None:
    """A tar of ours brings its history along, a damaged file is one row, a table beside a tar none."""
    write(tmp_path / "1.tar", 0, 3)
    edit("shard", tmp_path / "1.tar", "-o", tmp_path / "in/0.tar")
    write(tmp_path / "in/1.tar", 3, 5)
    (tmp_path / "in/2.parquet").write_bytes(b"PAR1" + bytes(50))
    told = pa.table({"key": ["3", "x"], "status": ["success", "failed"], "error_message": [None, "gone"]})
    pq.write_table(told, tmp_path / "in/1.parquet")
    for folder, tasks in (("whole", [()]), ("tasks", [("--task", f"{k}/3") for k in range(3)])):
        for words in tasks:
            edit("shard", tmp_path / "in", "--rows", 4, *words, "-o", tmp_path / folder, "--max-errors", "100%")
    whole, tasks = (rows_of(tmp_path / name) for name in ("whole", "tasks"))
    assert [row["id"] for row in whole] == [row["id"] for row in tasks] and len(whole) == 8
    assert rejects_of(tmp_path / "whole") == rejects_of(tmp_path / "tasks")
    schemas = [pq.read_schema(tmp_path / name / "00000.parquet") for name in ("whole", "tasks")]
    histories = [schema.metadata[b"edit.history"] for schema in schemas]
    assert histories[0] == histories[1] and len(History.from_json(histories[0]).nodes) == 2
    bad = tmp_path / "in/2.parquet"
    edit("shard", bad, "--rows", 4, "--task", "0/2", "-o", tmp_path / "bad", check=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    edit("shard", tmp_path / "in", "--rows", 4, "--task", "0/2", "-o", tmp_path / "other", check=1)
    assert sorted(os.listdir(tmp_path / "other")) == ["notes.txt"]


def test_run_removes_nothing_before_the_end(inputs: Path, tmp_path: Path) -> None:
    source = task_source([inputs], tmp_path / "out", (0, 2))
    options = RunOptions(output=f"{tmp_path}/out/", quiet=True, task=(0, 2))
    run("shard", source, [Ingest()], {}, options)
    assert len(os.listdir(tmp_path / "out" / COUNTS)) == len(ROWS)
