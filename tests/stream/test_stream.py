"""The stream between commands, shard sets, and everything that `edit shard` reads, against independent readers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import select
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from conftest import Runner, image, make_crawl, rejects_of, rows_of, tar_bytes, tree
from PIL import Image

from edittools.stream.batch import Batch, joined
from edittools.stream.ipc import IpcReader

IMAGE_FIELDS = {"bytes", "file", "offset", "length", "row", "column", "etag", "width", "height", "format"}


def read_stream(data: bytes) -> tuple[pa.Schema, list[tuple[pa.RecordBatch, dict]], dict | None]:
    """The schema, the batches with their `edit.batch`, and the `edit.end` of one stream, by pyarrow alone."""
    reader = pa.ipc.open_stream(data)
    batches, end = [], None
    while True:
        try:
            rows, notes = reader.read_next_batch_with_custom_metadata()
        except StopIteration:
            return reader.schema, batches, end
        notes = dict(notes or {})
        if b"edit.end" in notes:
            end = json.loads(notes[b"edit.end"])
            assert rows.num_rows == 0
        else:
            batches.append((rows, json.loads(notes[b"edit.batch"])))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- the stream


def test_stream_metadata_markers_and_end_record(edit: Runner, shards: Path) -> None:
    schema, batches, end = read_stream(edit("cat", shards).stdout)
    assert schema.metadata[b"edit.version"] == b"1"
    assert schema.metadata[b"edit.rows"] == b"24"
    assert end == {"rows": 24, "kept": 24, "failed": 0}
    assert sum(rows.num_rows for rows, _ in batches) == 24
    places = [place for _, place in batches]
    assert [p["shard"] for p in places] == sorted(p["shard"] for p in places)
    assert {p["shard"] for p in places} == {0, 1, 2} and {p["of"] for p in places} == {3}
    assert [p["shard"] for p in places if p["last"]] == [0, 1, 2]
    assert sum(p["seen"] for p in places) == 24
    target = schema.field("target").type
    assert {target.field(k).name for k in range(target.num_fields)} == IMAGE_FIELDS


def test_references_point_at_the_original_bytes(edit: Runner, shards: Path, crawl: Path) -> None:
    _, batches, _ = read_stream(edit("cat", shards).stdout)
    count = 0
    for rows, _ in batches:
        for row in rows.to_pylist():
            place = row["target"]
            facts = os.stat(place["file"])
            assert place["bytes"] is None and os.path.isabs(place["file"])
            assert place["etag"] == f"{facts.st_size}-{facts.st_mtime_ns}"
            with open(place["file"], "rb") as file:
                file.seek(place["offset"])
                assert file.read(place["length"]) == (crawl / row["provenance"]["path"]).read_bytes()
            count += 1
    assert count == 24


def test_inline_carries_the_bytes(edit: Runner, shards: Path, crawl: Path, tmp_path: Path) -> None:
    data = edit("cat", shards, "--inline").stdout
    _, batches, _ = read_stream(data)
    for rows, _ in batches:
        for row in rows.to_pylist():
            assert row["target"]["bytes"] == (crawl / row["provenance"]["path"]).read_bytes()
            assert row["target"]["file"] is None
    edit("cat", "-o", tmp_path / "there", stdin=data)
    edit("shard", "--verify", "-o", tmp_path / "decoded", "--max-errors", 0, stdin=data)
    assert rows_of(tmp_path / "decoded") == rows_of(shards)
    assert rows_of(tmp_path / "there") == rows_of(shards)


def test_batches_have_at_most_256_rows(edit: Runner, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": f"r{k}", "n": k}) + "\n" for k in range(5000))
    (tmp_path / "rows.jsonl").write_text(lines)
    _, batches, end = read_stream(edit("cat", tmp_path / "rows.jsonl").stdout)
    assert max(rows.num_rows for rows, _ in batches) <= 256
    assert [n for rows, _ in batches for n in rows.column("n").to_pylist()] == list(range(5000))
    assert end == {"rows": 5000, "kept": 5000, "failed": 0}


def test_a_stream_cut_anywhere_is_incomplete(edit: Runner, shards: Path, tmp_path: Path) -> None:
    data = edit("cat", shards).stdout
    rng = np.random.default_rng(1)
    # Between two messages a plain Arrow reader would see a complete stream; so these places are among the cuts.
    cuts = {len(data) - 1, len(data) - 8, len(data) - 9, 1, 4, 7, *rng.integers(0, len(data), 10).tolist()}
    start = 0
    while (start := data.find(b"\xff\xff\xff\xff", start + 1)) > 0:
        cuts.add(start)
    for number, cut in enumerate(sorted(cuts)):
        out = tmp_path / f"{number}"
        result = edit("cat", "-o", out, stdin=data[:cut], check=None)
        if cut >= len(data) - 8 and result.code == 0:
            # Only the end-of-stream mark of Arrow itself is missing: everything has arrived, and is accounted for.
            assert rows_of(out) == rows_of(shards)
            continue
        assert result.code == 4, (cut, result.stderr)
        assert not (out / "_end.json").exists()


def test_a_slow_producer_starves_nobody(edit: Runner, shards: Path, tmp_path: Path) -> None:
    """Rows that are in the pipe come out although the writer has not ended."""
    data = edit("cat", shards, "--inline").stdout
    read_end, feed = os.pipe()
    result, out = os.pipe()
    with open(tmp_path / "err", "wb") as errors:
        child = edit.start("cat", "-f", "jsonl", stdin=read_end, stdout=out, stderr=errors.fileno())
    os.close(read_end)
    os.close(out)
    half = data.rfind(b"edit.end") - 2000  # everything up to the last batch or two, and no end of the file
    with open(result, "rb") as lines, open(feed, "wb", buffering=0) as feeder:
        assert half < 1 << 16, "more than a pipe holds"
        feeder.write(data[:half])
        first = [select.select([lines], [], [], 30)[0] and json.loads(lines.readline()) for _ in range(8)]
        assert [row["id"] for row in first] == [row["id"] for row in rows_of(shards)][:8]
        feeder.write(data[half:])
        feeder.close()
        assert len(lines.readlines()) == 16
    assert child.wait() == 0


def test_what_was_cut_for_the_stream_is_joined_for_a_stage(edit: Runner, tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"r{k}", "n": k, "words": ["x"] * (k % 3)}) for k in range(1000)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    data = edit("cat", tmp_path / "rows.jsonl").stdout
    schema, batches, _ = read_stream(data)
    assert [rows.num_rows for rows, _ in batches] == [256, 256, 256, 232, 0]
    assert [place["more"] for _, place in batches] == [True, True, True, False, False]
    passed = edit("cat", stdin=data).stdout
    assert [place["more"] for _, place in read_stream(passed)[1]] == [True, True, True, False, False]

    def read(stream: bytes) -> list[Batch]:
        return list(joined(IpcReader(io.BufferedReader(io.BytesIO(stream)), "x").batches()))  # type: ignore[arg-type]

    whole, last = read(data)
    assert whole.rows.to_pylist() == pa.Table.from_batches([rows for rows, _ in batches]).to_pylist()
    assert (whole.seen, whole.last, last.seen, last.last) == (1000, False, 0, True)
    # A filter's pieces come when they are ready, and say so: nobody may wait for the next one.
    kept = edit("filter", "--where", "n % 2 = 0", stdin=data)
    assert [place["more"] for _, place in read_stream(kept.stdout)[1]] == [True, False, False]
    assert (
        edit("cat", "-f", "jsonl", stdin=kept.stdout).stdout
        == edit("filter", tmp_path / "rows.jsonl", "--where", "n % 2 = 0", "-f", "jsonl").stdout
    )

    # A stream that says of every batch that more of it follows, of other shards too.
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for k in range(200):
            place = {**batches[0][1], "shard": k // 150, "last": k == 149, "of": None, "seen": 256}
            writer.write_batch(batches[0][0], custom_metadata={"edit.batch": json.dumps(place)})
        end = {"rows": 51200, "kept": 51200, "failed": 0}
        writer.write_batch(batches[0][0].slice(0, 0), custom_metadata={"edit.end": json.dumps(end)})
    found = read(sink.getvalue())
    assert [(b.shard.index, b.rows.num_rows // 256) for b in found] == [(0, 64), (0, 64), (0, 22), (1, 50)]
    assert [b.last for b in found] == [False, False, True, False] and sum(b.seen for b in found) == 51200


def test_an_end_record_with_another_count_is_incomplete(edit: Runner, shards: Path) -> None:
    schema, batches, _ = read_stream(edit("cat", shards).stdout)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for rows, place in batches[1:]:
            writer.write_batch(rows, custom_metadata={"edit.batch": json.dumps(place)})
        empty = batches[0][0].slice(0, 0)
        writer.write_batch(empty, custom_metadata={"edit.end": json.dumps({"rows": 24, "kept": 24, "failed": 0})})
    result = edit("cat", "-f", "jsonl", stdin=sink.getvalue(), check=4)
    assert "24" in result.stderr


def test_streams_may_follow_each_other(edit: Runner, shards: Path, tmp_path: Path) -> None:
    data = edit("cat", shards).stdout
    other = edit("cat", shards, "--limit", 5).stdout
    twice = edit("cat", "-f", "jsonl", stdin=data + other + data).lines
    assert [row["id"] for row in twice] == (
        [row["id"] for row in rows_of(shards)]
        + [row["id"] for row in rows_of(shards)][:5]
        + [row["id"] for row in rows_of(shards)]
    )
    edit("cat", "-o", tmp_path / "out", stdin=data + data)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 6
    edit("cat", "-f", "jsonl", stdin=data + data[: len(data) // 2], check=4)
    assert edit("cat", "-f", "jsonl", stdin=data + b"rubbish", check=None).code in (1, 4)


def test_a_second_stream_with_other_columns_is_refused(edit: Runner, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"id": "a", "other": 1}\n')
    other = edit("cat", tmp_path / "x.jsonl").stdout
    result = edit("cat", "-f", "jsonl", stdin=edit("cat", shards).stdout + other, check=1)
    assert "other" in result.stderr


def test_a_foreign_arrow_stream_is_named_as_such(edit: Runner) -> None:
    sink = io.BytesIO()
    table = pa.table({"id": ["a"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert "edit.version" in edit("cat", stdin=sink.getvalue(), check=1).stderr


def test_rejects_travel_to_the_last_sink(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "crawl"
    make_crawl(folder, 12)
    (folder / "a" / "empty.jpg").write_bytes(b"")
    (folder / "b" / "page.jpg").write_text("<html>nothing here</html>")
    (folder / "broken.png").write_bytes(image(1, "PNG")[:20])
    results = edit.pipe(["shard", folder, "--rows", 6], ["cat"], ["cat", "-o", tmp_path / "out"], check=[0, 0, 3])
    found = {reject["path"]: (reject["reason"], reject["stage"]) for reject in rejects_of(tmp_path / "out")}
    assert found.keys() == {"a/empty.jpg", "b/page.jpg", "broken.png"}
    assert found["a/empty.jpg"] == ("empty file", "shard")
    assert found["b/page.jpg"] == ("not an image", "shard")
    assert found["broken.png"][0] == "damaged image"
    assert len(rows_of(tmp_path / "out")) == 12
    end = json.loads((tmp_path / "out" / "_end.json").read_text())
    assert (end["rows"], end["kept"], end["failed"]) == (15, 12, 3)
    assert results[0].stderr == results[1].stderr == "", "only the last command of a pipe reports"


def test_history_is_a_chain_of_commands(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    edit("shard", crawl, "-o", tmp_path / "a", "--rows", 10)
    edit("cat", tmp_path / "a", "-o", tmp_path / "b")
    edit("cat", tmp_path / "b", "-o", tmp_path / "c.parquet")
    history = json.loads(pq.read_schema(tmp_path / "c.parquet").metadata[b"edit.history"])
    nodes = history["nodes"]
    assert [node["command"] for node in nodes] == ["shard", "cat", "cat"]
    assert nodes[0]["inputs"] == []
    assert nodes[1]["inputs"] == [nodes[0]["hash"]] and nodes[2]["inputs"] == [nodes[1]["hash"]]
    assert history["heads"] == [nodes[2]["hash"]]
    assert nodes[0]["settings"]["rows"] == 10
    for node in nodes:
        text = json.dumps({k: v for k, v in node.items() if k != "hash"}, sort_keys=True, separators=(",", ":"))
        state = xxhash.xxh3_128()
        state.update(len(text).to_bytes(8, "little"))
        state.update(text.encode())
        assert node["hash"] == state.hexdigest()


# ---------------------------------------------------------------- the shard set


def test_the_tar_by_the_standard_library(shards: Path, crawl: Path) -> None:
    rows = rows_of(shards)
    seen = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                assert (entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, 0, "", "")
                assert entry.isreg()
                seen.append((entry.name, tar.extractfile(entry).read()))  # type: ignore[union-attr]
            assert json.loads(tar.pax_headers["comment"])["edittools"] == 1
    files = {name: data for name, data in seen}
    assert len(files) == len(seen) == 48
    for row in rows:
        ending = row["provenance"]["path"].rpartition(".")[2]
        assert files[f"{row['id']}.target.{ending}"] == (crawl / row["provenance"]["path"]).read_bytes()
        described = json.loads(files[f"{row['id']}.json"])
        assert described["caption"] == row["caption"]
        assert described["target"]["member"] == f"target.{ending}"


def test_the_tar_by_gnu_tar(shards: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar")
    done = subprocess.run(["tar", "-tf", shards / "00001.tar"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    with tarfile.open(shards / "00001.tar") as tar:
        assert done.stdout.split() == tar.getnames()


def test_the_tar_by_webdataset(shards: Path, crawl: Path) -> None:
    import webdataset as wds

    dataset = wds.WebDataset([str(p) for p in sorted(shards.glob("*.tar"))], shardshuffle=False, empty_check=False)
    samples = list(dataset)
    rows = rows_of(shards)
    assert [sample["__key__"] for sample in samples] == [row["id"] for row in rows]
    for sample, row in zip(samples, rows):
        ending = row["provenance"]["path"].rpartition(".")[2]
        assert sample[f"target.{ending}"] == (crawl / row["provenance"]["path"]).read_bytes()
        assert json.loads(sample["json"])["id"] == row["id"]


def test_the_parquet_by_duckdb(shards: Path, crawl: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(
        "select filename, id, target, provenance.path from "
        f"read_parquet('{shards}/*.parquet', filename=true, file_row_number=true) order by filename, file_row_number"
    ).fetchall()
    assert len(found) == 24
    for filename, _, target, path in found:
        with open(filename[: -len("parquet")] + "tar", "rb") as file:
            file.seek(target["offset"])
            data = file.read(target["length"])
        assert data == (crawl / path).read_bytes()
        assert Image.open(io.BytesIO(data)).size == (target["width"], target["height"])


def test_footers_and_end_record(shards: Path) -> None:
    end = json.loads((shards / "_end.json").read_text())
    assert (end["version"], end["shards"], end["rows"], end["kept"], end["failed"]) == (1, 3, 24, 24, 0)
    for k in range(3):
        notes = pq.read_schema(shards / f"{k:05d}.parquet").metadata
        tar = json.loads(notes[b"edit.tar"])
        data = (shards / f"{k:05d}.tar").read_bytes()
        assert tar == {"size": len(data), "digest": xxhash.xxh3_128(data).hexdigest()}
        assert json.loads(notes[b"edit.shard"]) == {"index": k, "count": 3}
        assert json.loads(notes[b"edit.counts"]) == {"rows": 8, "kept": 8, "failed": 0}
        assert (shards / "_rejects" / f"{k:05d}.jsonl").read_bytes() == b""
    assert not [p for p in shards.rglob("*") if p.name.startswith(".tmp")]


AWKWARD = ["plain", "a.b.c", "dir/name", "100%", "%41", "图片", "ünï", "x" * 180, "图" * 60, "tab\there", "sp ace"]
AWKWARD += ["back\\slash", " ", "-", "*?", "\U0001f600", "e\u0301"]


def test_awkward_ids_and_many_images_survive_a_tar(edit: Runner, tmp_path: Path) -> None:
    for k in range(6):
        (tmp_path / f"{k}.png").write_bytes(image(k, "PNG"))
        (tmp_path / f"{k}.jpg").write_bytes(image(10 + k))
    lines = []
    for k, identity in enumerate(AWKWARD):
        row: dict[str, Any] = {"id": identity, "target": f"{k % 6}.png"}
        row["source"] = [f"{j}.jpg" for j in range(k % 4)]
        row["instruction"] = {"en": f"edit {k}", "zh": "编辑"}
        lines.append(json.dumps(row))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    edit("cat", tmp_path / "rows.jsonl", "-o", tmp_path / "set", "--max-errors", 0)
    rows = rows_of(tmp_path / "set")
    assert [row["id"] for row in rows] == AWKWARD
    with tarfile.open(tmp_path / "set" / "00000.tar") as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    keys = {}
    for name, data in files.items():
        key, _, ending = name.partition(".")
        assert "/" not in name
        if ending == "json":
            keys[json.loads(data)["id"]] = key
    assert keys.keys() == set(AWKWARD)
    for k, identity in enumerate(AWKWARD):
        names = {name.partition(".")[2] for name in files if name.partition(".")[0] == keys[identity]}
        sources = {1: {"source.jpg"}}.get(k % 4, {f"source.{j}.jpg" for j in range(k % 4)})
        assert names == {"json", "target.png", *sources}
        for j in range(k % 4):
            assert rows[k]["source"][j] == image(10 + j)
    # The tar alone is the whole set.
    edit("cat", tmp_path / "set" / "00000.tar", "-o", tmp_path / "again")
    assert rows_of(tmp_path / "again") == rows
    with open(tmp_path / "set" / "00000.tar", "rb") as file:
        edit("cat", "-o", tmp_path / "piped", stdin=file.fileno())
    assert rows_of(tmp_path / "piped") == rows
    if shutil.which("tar"):
        done = subprocess.run(
            ["tar", "--quoting-style=literal", "-tf", tmp_path / "set" / "00000.tar"],
            capture_output=True,
            check=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        assert set(done.stdout.decode().splitlines()) == set(files)


def test_turns_are_members_of_their_own(edit: Runner, tmp_path: Path) -> None:
    from edittools.record import COLUMNS
    from edittools.stream.input_reader import reference

    turns = [
        {"parent": -1, "instruction": {"en": "one"}, "target": reference(bytes=image(1, "PNG"))},
        {
            "parent": 0,
            "instruction": {"en": "two"},
            "target": reference(bytes=image(2, "PNG")),
            "mask": reference(bytes=image(3, "PNG")),
        },
    ]
    rows = [{"id": "d1", "source": [reference(bytes=image(0))], "turns": turns}, {"id": "d2", "turns": []}]
    schema = pa.schema([(name, COLUMNS[name]) for name in ("id", "source", "turns")])
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    data = stream_of([batch])
    edit("cat", "-o", tmp_path / "set", stdin=data)
    with tarfile.open(tmp_path / "set" / "00000.tar") as tar:
        assert tar.getnames() == [
            "d1.source.jpg",
            "d1.turn.0.target.png",
            "d1.turn.1.target.png",
            "d1.turn.1.mask.png",
            "d1.json",
            "d2.json",
        ] or set(tar.getnames()) == {
            "d1.source.jpg",
            "d1.turn.0.target.png",
            "d1.turn.1.target.png",
            "d1.turn.1.mask.png",
            "d1.json",
            "d2.json",
        }
    found = rows_of(tmp_path / "set")
    assert [turn["target"] for turn in found[0]["turns"]] == [image(1, "PNG"), image(2, "PNG")]
    assert found[0]["turns"][1]["mask"] == image(3, "PNG") and found[0]["turns"][0]["mask"] is None
    assert found[1]["turns"] == []


def stream_of(batches: list[pa.RecordBatch]) -> bytes:
    """A stream of one shard, written by pyarrow alone."""
    sink = io.BytesIO()
    schema = batches[0].schema.with_metadata({"edit.version": "1"})
    total = sum(batch.num_rows for batch in batches)
    with pa.ipc.new_stream(sink, schema) as writer:
        for k, batch in enumerate(batches):
            place = {
                "shard": 0,
                "of": 1,
                "digest": "x",
                "last": k == len(batches) - 1,
                "seen": batch.num_rows,
                "rejects": [],
            }
            writer.write_batch(batch, custom_metadata={"edit.batch": json.dumps(place)})
        end = {"rows": total, "kept": total, "failed": 0}
        writer.write_batch(batches[0].slice(0, 0), custom_metadata={"edit.end": json.dumps(end)})
    return sink.getvalue()


def test_an_id_twice_in_one_shard_is_a_reject(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(image(0, "PNG"))
    lines = [json.dumps({"id": identity, "target": "p.png", "n": n}) for n, identity in enumerate("abac")]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    for out in ("set/", "one.tar"):
        args = ["--rejects", tmp_path / f"{out.strip('/')}.rejects"]
        edit("cat", tmp_path / "x.jsonl", "-o", f"{tmp_path}/{out}", *args, check=3)
    assert [row["n"] for row in rows_of(tmp_path / "set")] == [0, 1, 3]
    for name in ("set.rejects", "one.tar.rejects"):
        line = json.loads((tmp_path / name).read_text())
        assert line["id"] == "a" and "twice" in line["reason"] and line["failed"] is True
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert [n for n in tar.getnames() if n.endswith("json")] == ["a.json", "b.json", "c.json"]


def test_every_format_holds_the_same_rows(edit: Runner, shards: Path, tmp_path: Path) -> None:
    truth = rows_of(shards)
    for name in ("x.tar", "x.parquet", "x.arrows"):
        edit("cat", shards, "-o", tmp_path / name)
        edit("cat", tmp_path / name, "-o", f"{tmp_path}/{name}-set/")
        assert rows_of(tmp_path / f"{name}-set") == truth, name
    edit("cat", tmp_path / "x.tar", "-o", tmp_path / "y.tar")
    with tarfile.open(tmp_path / "x.tar") as one, tarfile.open(tmp_path / "y.tar") as two:
        assert [(m.name, m.size) for m in one] == [(m.name, m.size) for m in two]
    redirected = edit("cat", shards, pipe=False).stdout
    assert redirected == (tmp_path / "x.tar").read_bytes(), "into a regular file goes a tar"


def test_parquet_shows_images_in_datasets(
    edit: Runner, shards: Path, crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit("cat", shards, "-o", tmp_path / "x.parquet")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "x.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(data) == 24
    for row in data:
        assert isinstance(row["target"], Image.Image)
        with Image.open(crawl / row["provenance"]["path"]) as truth:
            assert np.array_equal(np.asarray(row["target"].convert("RGB")), np.asarray(truth.convert("RGB")))


def test_jsonl_is_a_view(edit: Runner, shards: Path) -> None:
    lines = edit("cat", shards, "-f", "jsonl").lines
    truth = rows_of(shards)
    assert [line["caption"] for line in lines] == [row["caption"] for row in truth]
    assert all("bytes" not in line["target"] for line in lines)


def test_images_of_any_column_come_back_from_json_lines(edit: Runner, shards: Path, tmp_path: Path) -> None:
    """As `edit sample -f jsonl` leaves results, also of turns; what only looks like a reference stays what it is."""
    rows = edit("cat", shards, "-f", "jsonl").lines
    for row in rows:
        row |= {"result": row["target"], "result_a": row["target"], "result_turns": [row["target"]] * 2}
        row["like"] = {"file": "x", "offset": 1}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit("cat", tmp_path / "rows.jsonl", "-o", tmp_path / "set")
    for row in rows_of(tmp_path / "set"):
        assert isinstance(row["target"], bytes) and [row["target"]] * 2 == row["result_turns"]
        assert row["result"] == row["result_a"] == row["target"]
        assert row["like"] == {"file": "x", "offset": 1}


def test_check_finds_a_flipped_byte(edit: Runner, shards: Path, tmp_path: Path) -> None:
    assert "24 rows, 24 images" in edit("cat", "--check", shards).stderr
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    data = bytearray((copy / "00001.tar").read_bytes())
    data[5000] ^= 1
    (copy / "00001.tar").write_bytes(data)
    assert "00001.tar" in edit("cat", "--check", copy, check=1).stderr
    shutil.copytree(shards, tmp_path / "double")
    edit("cat", "--check", shards, shards, check=1)


# ---------------------------------------------------------------- what `edit shard` reads


def ingest(edit: Runner, *inputs: Any, out: Path, options: tuple = ()) -> tuple[list[dict], list[dict]]:
    """Rows and rejects of `edit shard`; ends well or with too many failures."""
    result = edit("shard", *inputs, "-o", out, *options, check=None)
    assert result.code in (0, 3), result.stderr
    return rows_of(out), rejects_of(out)


def test_a_folder_with_everything_in_it(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "crawl"
    made = make_crawl(folder, 9)
    (folder / "a/p000.json").write_text('{"photographer": "X", "stars": 4.5}')
    (folder / "a/p002.json").write_text("not json")
    (folder / "notes.txt").write_text("no picture of this name")
    (folder / "doc.pdf").write_bytes(b"%PDF-1.4")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "noending").write_bytes(image(50))
    (folder / "wrong.gif").write_bytes(image(51))
    (folder / "UPPER.JPG").write_bytes(image(52))
    (folder / "dots.in.name.jpg").write_bytes(image(53))
    (folder / "twin1.jpg").write_bytes(image(60))
    (folder / "twin2.jpg").write_bytes(image(60))
    os.symlink("nowhere", folder / "dangling.jpg")
    (folder / ".hidden.jpg").write_bytes(image(54))
    os.mkfifo(folder / "fifo.jpg")
    rows, rejects = ingest(edit, folder, out=tmp_path / "out")
    paths = {row["provenance"]["path"] for row in rows}
    assert paths == set(made) | {"noending", "wrong.gif", "UPPER.JPG", "dots.in.name.jpg", "twin1.jpg", "twin2.jpg"}
    reasons = {reject["path"]: reject["reason"] for reject in rejects}
    assert reasons.keys() == {"notes.txt", "doc.pdf", "empty.jpg", "dangling.jpg", "fifo.jpg"}
    assert reasons["empty.jpg"] == "empty file" and reasons["doc.pdf"] == "not an image"
    by_path = {row["provenance"]["path"]: row for row in rows}
    assert by_path["a/p000.jpg"]["caption"] == {"en": None, "zh": "图片 0"}
    assert by_path["b/p003.png"]["caption"] == {"en": "caption 3", "zh": None}
    assert by_path["a/p000.jpg"]["photographer"] == "X" and by_path["a/p000.jpg"]["stars"] == 4.5
    assert by_path["a/p002.jpg"]["sidecar"] == "not json"
    assert by_path["a/p002.jpg"]["photographer"] is None
    for path, row in by_path.items():
        assert row["target"] == (folder / path).read_bytes()
        assert row["provenance"]["sha256"] == sha(row["target"]) and row["task"] == "t2i"
    assert by_path["twin1.jpg"]["id"] != by_path["twin2.jpg"]["id"]
    assert by_path["twin1.jpg"]["provenance"]["sha256"] == by_path["twin2.jpg"]["provenance"]["sha256"]


def test_names_that_are_not_utf8(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "crawl"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(image(0))
    with open(os.path.join(os.fsencode(folder), b"b\xff\xfe.jpg"), "wb") as file:
        file.write(image(1))
    with open(os.path.join(os.fsencode(folder), "名.jpg".encode()), "wb") as file:
        file.write(image(2))
    rows, rejects = ingest(edit, folder, out=tmp_path / "out")
    assert {row["provenance"]["path"] for row in rows} == {"a.jpg", "名.jpg"}
    assert [reject["reason"] for reject in rejects] == ["name is not UTF-8"]


def test_pairs_by_roles(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for k in range(4):
        (folder / f"p{k}.source.jpg").write_bytes(image(k))
        (folder / f"p{k}.target.png").write_bytes(image(100 + k, "PNG"))
        (folder / f"p{k}.json").write_text(json.dumps({"instruction": f"make it {k}", "task": "color"}))
    (folder / "p2.source.1.jpg").write_bytes(image(200))
    (folder / "p3.mask.png").write_bytes(image(300, "PNG"))
    (folder / "p3.rejected.png").write_bytes(image(301, "PNG"))
    rows, rejects = ingest(edit, folder, out=tmp_path / "out")
    assert not rejects and len(rows) == 4
    for k, row in enumerate(rows):
        assert row["source"][0] == image(k) and row["target"] == image(100 + k, "PNG")
        assert row["instruction"] == {"en": f"make it {k}", "zh": None} and row["task"] == "color"
    assert rows[2]["source"] == [image(2), image(200)]
    assert rows[3]["mask"] == image(300, "PNG") and rows[3]["rejected"] == image(301, "PNG")


def test_foreign_webdataset_tars(edit: Runner, tmp_path: Path) -> None:
    """What img2dataset writes: KEY.jpg, KEY.txt, KEY.json."""
    import webdataset as wds

    pattern = tmp_path / "wds"
    pattern.mkdir()
    for s in range(2):
        with wds.TarWriter(str(pattern / f"{s:05d}.tar")) as writer:
            for k in range(5):
                key = f"{s:05d}{k:04d}"
                writer.write(
                    {
                        "__key__": key,
                        "jpg": image(10 * s + k),
                        "txt": f"caption {k}",
                        "json": {"url": f"http://x/{k}", "width": 40, "nsfw": None if k else 0.5},
                    }
                )
            writer.write({"__key__": f"bad{s}", "jpg": b"not an image", "txt": "x"})
            writer.write({"__key__": f"text{s}", "txt": "only text"})
    rows, rejects = ingest(edit, pattern, out=tmp_path / "out")
    assert len(rows) == 10 and len(rejects) == 4
    assert {r["reason"] for r in rejects} == {"not an image", "no picture"}
    for n, row in enumerate(rows):
        s, k = divmod(n, 5)
        assert row["target"] == image(10 * s + k)
        assert row["caption"]["en"] == f"caption {k}" and row["url"] == f"http://x/{k}"
        assert row["nsfw"] == (None if k else 0.5)


def test_foreign_tar_with_odd_entries(edit: Runner, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in [
            ("d/" * 70 + "long.jpg", image(0)),
            ("./here.jpg", image(1)),
            ("名.png", image(2, "PNG")),
            ("pair.source.jpg", image(3)),
            ("pair.target.jpg", image(4)),
            ("raw.jpg", image(5)),
            ("raw.cls", b"7"),
            ("raw.npy", b"\x93NUMPY\xff"),
            (".dotfile", b"x"),
        ]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        directory = tarfile.TarInfo("folder")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "raw.jpg"
        tar.addfile(link)
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    rows, rejects = ingest(edit, tmp_path / "x.tar", out=tmp_path / "out")
    targets = {sha(row["target"]) for row in rows}
    assert targets == {sha(image(k, "PNG" if k == 2 else "JPEG")) for k in (0, 1, 2, 4, 5)}
    raw = next(row for row in rows if row["target"] == image(5))
    assert raw["cls"] == "7" and raw["npy"] == b"\x93NUMPY\xff"
    pair = next(row for row in rows if row["target"] == image(4))
    assert pair["source"] == [image(3)]
    assert [row["provenance"]["path"] for row in rows if row["target"] == image(5)] == ["x.tar/raw", "x.tar/link"]
    assert len(rows) == 6 and [reject["reason"] for reject in rejects] == ["hidden file"]


def hf(data: bytes | None, path: str | None = None) -> dict:
    return {"bytes": data, "path": path}


def test_hugging_face_parquet(edit: Runner, tmp_path: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array([hf(image(k), f"{k}.jpg") for k in range(5)], struct),
            "views": pa.array([[hf(image(100 * k + j)) for j in range(k)] for k in range(5)], pa.list_(struct)),
            "raw": pa.array([image(50 + k, "PNG") for k in range(5)], pa.binary()),
            "text": pa.array([f"edit {k}" for k in range(5)]),
            "label": pa.array(["cat", "dog", "cat", None, "dog"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    options = (
        "--map",
        "target=image",
        "--map",
        "instruction=text",
        "--map",
        "mask=raw",
        "--origin",
        "test-set",
        "--license",
        "cc0",
    )
    rows, rejects = ingest(edit, tmp_path / "x.parquet", out=tmp_path / "out", options=options)
    assert not rejects and len(rows) == 5
    for k, row in enumerate(rows):
        assert row["target"] == image(k) and row["mask"] == image(50 + k, "PNG")
        assert row["views"] == [image(100 * k + j) for j in range(k)]
        assert row["instruction"] == {"en": f"edit {k}", "zh": None}
        assert row["label"] == ["cat", "dog", "cat", None, "dog"][k]
        assert row["provenance"]["origin"] == "test-set" and row["provenance"]["license"] == "cc0"


def test_datasets_own_parquet(edit: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"target": datasets.Image(), "caption": datasets.Value("string")})
    images = [{"bytes": image(k, "PNG"), "path": None} for k in range(3)]
    data = datasets.Dataset.from_dict({"target": images, "caption": ["a", "b", None]}, features=features)
    data.to_parquet(str(tmp_path / "x.parquet"))
    rows, rejects = ingest(edit, tmp_path / "x.parquet", out=tmp_path / "out")
    assert not rejects and [row["target"] for row in rows] == [image(k, "PNG") for k in range(3)]


def test_parquet_with_nulls_and_odd_columns(edit: Runner, tmp_path: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array([None, hf(image(1)), hf(None, "gone.jpg"), hf(b"rubbish"), hf(b"")], struct),
            "id": pa.array([1, 2, 3, 4, 5]),
            "provenance": pa.array(["a", "b", "c", "d", "e"]),
            "task": pa.array([1, 2, 3, 4, 5]),
            "caption": pa.array([["x"], [], None, ["y"], ["z"]]),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    result = edit("shard", tmp_path / "x.parquet", "-o", tmp_path / "out", "--map", "target=image", check=None)
    assert result.code == 3, result.stderr
    rows, rejects = rows_of(tmp_path / "out"), rejects_of(tmp_path / "out")
    assert [(row["target"], row["task"], row["user_provenance"], row["user_caption"]) for row in rows] == [
        (image(1), "2", "b", [])
    ]
    assert sorted((r["id"], r["reason"]) for r in rejects) == [
        ("1", "no picture"),
        ("3", "no picture"),
        ("4", "not an image"),
        ("5", "empty file"),
    ]
    lines = edit("cat", tmp_path / "x.parquet", "-f", "jsonl").lines
    assert [line["id"] for line in lines] == ["1", "2", "3", "4", "5"]


def test_parquet_with_unusable_ids_and_names(edit: Runner, tmp_path: Path) -> None:
    for name, ids in (("lists", [[1], [2]]), ("floats", [0.5, 1.5]), ("dates", pa.array([1, 2], pa.date32()))):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"id": ids, "target": [image(1), image(2)]}), path)
        assert "`id`" in edit("cat", path, "-o", f"{tmp_path}/{name}-cat/", check=1).stderr
        rows, rejects = ingest(edit, path, out=tmp_path / name)
        assert len(rows) == 2 and not rejects and len({row["id"] for row in rows}) == 2
        assert [row["user_id"] for row in rows] == pa.array(ids).to_pylist()
    both = {"target": [image(1)], "task": [1.5], "user_task": ["mine"]}  # `task` is no text: it is the user's
    pq.write_table(pa.table(both), tmp_path / "both.parquet")
    assert "`user_task`" in edit("shard", tmp_path / "both.parquet", "-o", f"{tmp_path}/both/", check=2).stderr
    rows, _ = ingest(edit, tmp_path / "both.parquet", out=tmp_path / "both", options=("--map", "my_task=user_task"))
    assert [(row["user_task"], row["my_task"]) for row in rows] == [(1.5, "mine")]
    named = {"target": [image(1)], "id": ["old"], "key": ["k"]}  # one of the two was gone without a word
    pq.write_table(pa.table(named), tmp_path / "named.parquet")
    rows, _ = ingest(edit, tmp_path / "named.parquet", out=tmp_path / "named", options=("--map", "id=key"))
    assert [(row["id"], row["user_id"]) for row in rows] == [("k", "old")]
    words = ["shard", tmp_path / "named.parquet", "-o", f"{tmp_path}/twice/", "--map", "task=key", "--map", "task=id"]
    assert "both would be called `task`" in edit(*words, check=2).stderr
    double = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], names=["id", "x", "x"])
    pq.write_table(double, tmp_path / "double.parquet")
    assert "`x`" in edit("cat", tmp_path / "double.parquet", "-f", "jsonl", check=1).stderr


def test_json_lines_with_bad_lines(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(image(0))
    (tmp_path / "q.png").write_bytes(image(1, "PNG"))
    lines = [
        '{"image": "p.jpg", "text": "hello"}',
        '{"image": "missing.jpg"}',
        "{broken",
        "[1, 2]",
        "null",
        '{"source": "p.jpg", "target": "q.png", "instruction": "变成红色", "id": "mine"}',
        '{"source": ["p.jpg", "q.png"], "target": "q.png", "score": 1}',
        '{"target": "q.png", "score": 1.5, "nested": {"a": [1, {"b": null}]}}',
        '{"target": 7}',
        '{"target": "q.png", "score": "many"}',
        "",
        '{"target": "' + str(tmp_path / "p.jpg") + '"}',
        '{"target": "q.png", "big": 123456789012345678901234567890}',
        '{"target": "../' + tmp_path.name + '/q.png"}',
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    rows, rejects = ingest(edit, tmp_path / "x.jsonl", out=tmp_path / "out")
    assert len(rows) + len(rejects) == 13
    reasons = sorted(reject["reason"] for reject in rejects)
    assert reasons == ["missing file", "no picture", "not JSON", "not a JSON object", "not a JSON object"]
    assert len(rows) == 8
    # Rows have a number of their own; the `id` a row came with is not lost.
    one = next(row for row in rows if row["instruction"] is not None)
    assert one["source"] == [image(0)] and one["target"] == image(1, "PNG")
    assert one["instruction"]["zh"] == "变成红色"
    assert {row["score"] for row in rows} == {None, "1", "1.5", "many"}
    assert "123456789012345678901234567890" in {row["big"] for row in rows}


def test_json_lines_with_results_of_another_model(edit: Runner, tmp_path: Path) -> None:
    """What is to be judged need not come from `edit sample`; a reference may be a path alone."""
    for k, name in enumerate(("s.png", "a.png", "b.webp")):
        (tmp_path / name).write_bytes(image(k, "WEBP" if name == "b.webp" else "PNG"))
    line = {"source": "s.png", "instruction": "Make it red.", "result": "a.png", "result_other": {"file": "b.webp"}}
    paths = {"source": [{"file": "s.png"}], "result": {"file": "a.png"}}
    lines = [line, {**line, "result": None}, {"source": "s.png", "result": "good"}, {**line, **paths}]
    lines[2] |= {"result_path": "out/1.png", "result_url": "s3://bucket/x.png", "resulting_file": {"file": "gone.png"}}
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, [*lines[:2], lines[3]])))
    rows, rejects = ingest(edit, tmp_path / "x.jsonl", out=tmp_path / "out")
    assert not rejects and [row["source"] for row in rows] == [[image(0, "PNG")]] * 3
    assert [row["result"] for row in rows] == [image(1, "PNG"), None, image(1, "PNG")]
    assert [row["result_other"] for row in rows] == [image(2, "WEBP")] * 3
    (tmp_path / "y.jsonl").write_text(json.dumps(lines[2]))
    (row,), _ = ingest(edit, tmp_path / "y.jsonl", out=tmp_path / "words")
    assert all(row[name] == value for name, value in lines[2].items() if name.startswith("result"))
    # The lines stay, their result does not: what is there was made of other rows.
    (tmp_path / "a.png").write_bytes(image(5, "PNG"))
    assert "--overwrite" in edit("shard", tmp_path / "x.jsonl", "-o", tmp_path / "out", check=1).stderr
    (tmp_path / "a.png").unlink()
    rejects = ingest(edit, tmp_path / "x.jsonl", out=tmp_path / "less", options=("--max-errors", "9"))[1]
    assert len(rejects) == 2
    assert all(reject["reason"] == "missing file" and "a.png" in reject["value"] for reject in rejects)


def test_a_shard_set_reads_itself(edit: Runner, shards: Path, tmp_path: Path) -> None:
    edit("shard", shards, "-o", tmp_path / "again", "--rows", 5)
    assert rows_of(tmp_path / "again") == rows_of(shards), "ids and everything else stay"
    assert len(list((tmp_path / "again").glob("*.tar"))) == 5
    edit.pipe(["cat", shards], ["shard", "--rows", 5, "-o", tmp_path / "piped"])
    assert rows_of(tmp_path / "piped") == rows_of(shards)
    assert len(list((tmp_path / "piped").glob("*.tar"))) == 5


def test_a_shard_may_be_named_by_its_parquet_file(edit: Runner, shards: Path, tmp_path: Path) -> None:
    edit("cat", *sorted(shards.glob("*.parquet")), "-o", tmp_path / "named")
    assert rows_of(tmp_path / "named") == rows_of(shards)
    edit("dedup", "00000.parquet", "--clusters", "0", "-o", tmp_path / "one", cwd=shards)
    assert rows_of(tmp_path / "one") == rows_of(shards)[:8]
    # Without its tar there are no images, and that is not passed over.
    shutil.copy(shards / "00000.parquet", tmp_path / "x.parquet")
    data = (shards / "00000.parquet").read_bytes()
    assert "under another name" in edit("cat", tmp_path / "x.parquet", "-o", f"{tmp_path}/x/", check=1).stderr
    assert "standard input: " in edit("cat", "-o", f"{tmp_path}/x/", stdin=data, check=1).stderr


def test_lines_from_a_pipe_refer_by_whole_paths(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(image(0))
    stream = edit("cat", stdin=b'{"id": "a", "target": "p.jpg"}\n', cwd=tmp_path).stdout
    edit("cat", "-o", tmp_path / "out", stdin=stream, cwd="/")
    assert [row["target"] for row in rows_of(tmp_path / "out")] == [image(0)]


def test_ids_are_the_same_on_another_machine(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(crawl, elsewhere, copy_function=shutil.copyfile)
    for k, path in enumerate(sorted(elsewhere.rglob("*.*"))):
        os.utime(path, (k, k))
    ours, _ = ingest(edit, crawl, out=tmp_path / "a", options=("--rows", "7"))
    theirs, _ = ingest(edit, elsewhere, out=tmp_path / "b", options=("--rows", "11", "-j", "3"))
    assert ours == theirs


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "jsonl"])
def test_rows_and_bytes_cut_shards(edit: Runner, kind: str, tmp_path: Path) -> None:
    data = [image(k, "PNG", height=8 + 3 * (k % 5)) for k in range(20)]
    path = tmp_path / {"folder": "in", "tar": "x.tar", "parquet": "x.parquet", "jsonl": "x.jsonl"}[kind]
    if kind == "folder":
        path.mkdir()
        for k, item in enumerate(data):
            (path / f"{k:02d}.png").write_bytes(item)
    elif kind == "tar":
        path.write_bytes(tar_bytes([(f"{k:02d}.png", item) for k, item in enumerate(data)]))
    elif kind == "parquet":
        pq.write_table(pa.table({"target": data}), path)
    else:
        for k, item in enumerate(data):
            (tmp_path / f"{k}.png").write_bytes(item)
        path.write_text("".join(json.dumps({"target": f"{k}.png"}) + "\n" for k in range(20)))
    edit("shard", path, "-o", tmp_path / "rows", "--rows", 6)
    assert [pq.read_metadata(p).num_rows for p in sorted((tmp_path / "rows").glob("*.parquet"))] == [6, 6, 6, 2]
    limit = 3 * max(map(len, data))
    edit("shard", path, "-o", tmp_path / "bytes", "--bytes", limit)
    cut: list[list[bytes]] = [[]]
    for item in data:  # the same greedy cut, by hand
        if cut[-1] and sum(map(len, cut[-1])) + len(item) > limit:
            cut.append([])
        cut[-1].append(item)
    found = []
    for p in sorted((tmp_path / "bytes").glob("*.parquet")):
        tar = p.with_suffix(".tar").read_bytes()
        found.append([tar[t["offset"] :][: t["length"]] for t in pq.read_table(p).column("target").to_pylist()])
    assert found == cut
    edit("shard", path, "-o", tmp_path / "one", "--bytes", "1")
    assert len(list((tmp_path / "one").glob("*.parquet"))) == 20


def test_native_names_become_canonical(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(image(0))
    tasks = ["subject-add", "tone_transfer", "ps_human", "no_such_task"]
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps({"source": "p.jpg", "target": "p.jpg", "task": task}) + "\n" for task in tasks)
    )
    rows, rejects = ingest(edit, tmp_path / "x.jsonl", out=tmp_path / "out", options=("--task-names", "gedit"))
    assert [row["task"] for row in rows] == ["add", "tone", "portrait"]
    assert [row["provenance"]["native_task"] for row in rows] == tasks[:3]
    assert [reject["reason"] for reject in rejects] == ["unknown task"]


def test_verify_decodes(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    whole = image(0, height=200, width=300)
    (tmp_path / "in" / "whole.jpg").write_bytes(whole)
    (tmp_path / "in" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    rows, _ = ingest(edit, tmp_path / "in", out=tmp_path / "headers")
    assert len(rows) == 2, "without --verify only headers are read"
    rows, rejects = ingest(edit, tmp_path / "in", out=tmp_path / "verified", options=("--verify",))
    assert [row["target"] for row in rows] == [whole]
    assert [(r["path"], r["reason"]) for r in rejects] == [("half.jpg", "damaged image")]


def test_stdin_of_every_format(edit: Runner, shards: Path, tmp_path: Path) -> None:
    truth = rows_of(shards)
    edit("cat", shards, "-o", tmp_path / "x.parquet")
    edit("cat", shards, "-o", tmp_path / "x.tar")
    for name in ("x.parquet", "x.tar"):
        edit("cat", "-o", f"{tmp_path}/{name}.d/", stdin=(tmp_path / name).read_bytes())
        assert rows_of(tmp_path / f"{name}.d") == truth
    found = edit("cat", "-f", "jsonl", stdin=b'{"id": "a", "n": 1}\n{"id": "b"}\n').lines
    assert [(row["id"], row["n"]) for row in found] == [("a", 1), ("b", None)]
    edit("cat", stdin=b"no format at all", check=1)
    edit("cat", stdin=b"", check=4)


def test_spooled_parquet_leaves_nothing_behind(edit: Runner, shards: Path, tmp_path: Path) -> None:
    edit("cat", shards, "-o", tmp_path / "x.parquet")
    (tmp_path / "tmp").mkdir()
    data = (tmp_path / "x.parquet").read_bytes()
    edit("cat", "-o", tmp_path / "out", stdin=data, env={"TMPDIR": str(tmp_path / "tmp")})
    assert list((tmp_path / "tmp").iterdir()) == []


def test_tar_needs_its_end(edit: Runner, shards: Path, tmp_path: Path) -> None:
    data = (shards / "00000.tar").read_bytes()
    for cut in (len(data) - 512, len(data) - 1024, len(data) - 1025, len(data) // 2, 513, 700):
        (tmp_path / "x.tar").write_bytes(data[:cut])
        expected = 0 if cut == len(data) else 4
        edit("cat", tmp_path / "x.tar", "-f", "jsonl", check=expected)
        edit("cat", "-f", "jsonl", stdin=data[:cut], check=expected)


def test_columns_of_several_inputs_are_aligned(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "a", "x": 1, "s": {"p": 1}}\n')
    (tmp_path / "b.jsonl").write_text('{"id": "b", "y": "t", "x": 2.5, "s": {"q": "r"}}\n')
    rows = edit("cat", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "-f", "jsonl").lines
    assert [(r["id"], r["x"], r["y"], r["s"]) for r in rows] == [
        ("a", 1.0, None, {"p": 1, "q": None}),
        ("b", 2.5, "t", {"p": None, "q": "r"}),
    ]
    pq.write_table(pa.table({"id": ["c"], "x": [[1]]}), tmp_path / "c.parquet")
    assert "`x`" in edit("cat", tmp_path / "a.jsonl", tmp_path / "c.parquet", "-f", "jsonl", check=1).stderr


# ---------------------------------------------------------------- other file systems


def test_memory_urls_in_process(shards: Path) -> None:
    """The library reads and writes fsspec addresses without a command line."""
    from edittools.stream.opening import open_source
    from edittools.stream.run import RunOptions, run

    for place, source in (("memory://set-a/", str(shards)), ("memory://set-b/", "memory://set-a")):
        run("cat", open_source([source]), [], {}, RunOptions(output=place, quiet=True))
    import fsspec

    system = fsspec.filesystem("memory")
    names = sorted(name.rsplit("/", 1)[-1] for name in system.find("/set-b"))
    assert names == sorted(p.name for p in shards.rglob("*") if p.is_file())
    found = []
    for rows in (batch.rows for batch in open_source(["memory://set-b"]).batches(lambda shard: True)):
        for row in rows.to_pylist():
            place = row["target"]
            with system.open(place["file"]) as file:
                file.seek(place["offset"])
                found.append(file.read(place["length"]))
    assert found == [row["target"] for row in rows_of(shards)]
    run("cat", open_source(["memory://set-b"]), [], {}, RunOptions(output="memory://one.tar", quiet=True))
    with tarfile.open(fileobj=io.BytesIO(system.cat("/one.tar"))) as tar:
        assert len(tar.getnames()) == 48


def test_file_addresses_are_local_paths(edit: Runner, shards: Path, crawl: Path, tmp_path: Path) -> None:
    found = edit("cat", f"file://{shards}/*.tar", "-f", "jsonl").lines
    assert [row["id"] for row in found] == [row["id"] for row in rows_of(shards)]
    edit("shard", f"file://{crawl}", "-o", f"file://{tmp_path}/set/", "--rows", 8)
    assert tree(tmp_path / "set") == tree(shards)


@pytest.fixture(scope="module")
def s3() -> Any:
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id="x",
        aws_secret_access_key="x",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="data")
    yield env, client
    server.stop()


def test_shard_sets_in_an_object_store(edit: Runner, s3: Any, shards: Path, crawl: Path, tmp_path: Path) -> None:
    env, client = s3
    edit("cat", shards, "-o", "s3://data/set/", env=env)
    keys = sorted(item["Key"] for item in client.list_objects_v2(Bucket="data", Prefix="set/")["Contents"])
    assert keys == sorted(f"set/{p.relative_to(shards)}" for p in shards.rglob("*") if p.is_file())
    edit("cat", "s3://data/set", "-o", tmp_path / "back", env=env)
    assert rows_of(tmp_path / "back") == rows_of(shards)
    edit("cat", shards, "-o", "s3://data/set/", env=env)  # resumes: nothing is left to do
    edit("cat", "s3://data/set/0000[01].tar", "-o", "s3://data/two.tar", env=env)
    body = client.get_object(Bucket="data", Key="two.tar")["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert len(tar.getnames()) == 32
    for path in sorted(crawl.rglob("*.jpg")):
        client.put_object(Bucket="data", Key=f"crawl/{path.relative_to(crawl)}", Body=path.read_bytes())
    edit("shard", "s3://data/crawl", "-o", tmp_path / "crawled", env=env)
    assert {row["provenance"]["path"] for row in rows_of(tmp_path / "crawled")} == {
        str(path.relative_to(crawl)) for path in crawl.rglob("*.jpg")
    }
    assert {r["target"] for r in rows_of(tmp_path / "crawled")} <= {r["target"] for r in rows_of(shards)}
    client.delete_object(Bucket="data", Key="set/00001.parquet")
    edit("cat", "s3://data/set", "-f", "jsonl", env=env, check=4)
    edit("cat", "s3://data/nothing", "-f", "jsonl", env=env, check=1)


def test_an_object_that_changes_is_noticed(edit: Runner, s3: Any, shards: Path) -> None:
    env, client = s3
    edit("cat", shards, "-o", "s3://data/changing/", env=env)
    stream = edit("cat", "s3://data/changing", env=env).stdout
    client.put_object(Bucket="data", Key="changing/00001.tar", Body=b"\0" * 30000)
    assert "changed" in edit("cat", "-f", "tar", stdin=stream, env=env, check=1).stderr


def test_two_sets_are_the_same_bytes(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    edit("shard", crawl, "-o", tmp_path / "a", "--rows", 8)
    edit("shard", crawl, "-o", tmp_path / "b", "--rows", 8, "-j", 1)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_our_own_tar_without_its_header(edit: Runner, shards: Path, tmp_path: Path) -> None:
    """Copied member by member, unpacked, and packed again: the images are found by the JSON's names for them."""
    edit("synth", shards, "--limit", 6, "--templates", "flip,invert", "-o", tmp_path / "pairs.tar")
    want = rows_of_tar(edit, tmp_path / "pairs.tar")
    assert len(want) > 2
    with tarfile.open(tmp_path / "pairs.tar") as old, tarfile.open(tmp_path / "copy.tar", "w") as new:
        for member in old.getmembers():
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member))
        old.extractall(tmp_path / "loose", filter="data")
    for given in ("copy.tar", "loose"):
        rows, rejects = ingest(edit, tmp_path / given, out=tmp_path / f"{given[:4]}-set")
        assert not rejects
        for name in ("source", "target", "instruction", "task"):
            assert sorted(repr(row[name]) for row in rows) == sorted(repr(row[name]) for row in want), (given, name)
    next((tmp_path / "loose").rglob("*.target.*")).unlink()
    rows, rejects = ingest(edit, tmp_path / "loose", out=tmp_path / "one-less")
    assert len(rows) == len(want) - 1 and [reject["reason"] for reject in rejects] == ["missing file"]


def rows_of_tar(edit: Runner, path: Path) -> list[dict[str, Any]]:
    edit("cat", path, "-o", path.with_suffix(""))
    return rows_of(path.with_suffix(""))


def test_images_beside_other_inputs_are_not_passed_over(edit: Runner, shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "crawl"
    made = make_crawl(folder, 6)
    (folder / "log.jsonl").write_text('{"message": "fetched"}\n')
    rows, rejects = ingest(edit, folder, out=tmp_path / "with-log")
    assert len(rows) == len(made) and [reject["path"] for reject in rejects] == ["log.jsonl"]
    edit("cat", shards, "-o", folder / "extra.tar")
    refused = edit("shard", folder, "-o", tmp_path / "with-tar", check=2).stderr
    assert "extra.tar" in refused and "a/p000.jpg" in refused, "both readings are named"
    assert not (tmp_path / "with-tar").exists()


def test_every_entry_of_a_crawl_is_a_row_or_a_reject(edit: Runner, tmp_path: Path) -> None:
    folder, beside = tmp_path / "crawl", tmp_path / "beside"
    make_crawl(beside, 2)
    folder.mkdir()
    (folder / "a.jpg").write_bytes(image(0))
    (folder / "folder").symlink_to(beside)
    (folder / "file.jpg").symlink_to(beside / "a/p000.jpg")
    (folder / "gone.jpg").symlink_to(beside / "nothing.jpg")
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "a.txt")
    for ending in ("jpg", "jpeg"):
        (folder / f"x.target.{ending}").write_bytes(image(ord(ending[-1])))
    (folder / "x.source.jpg").write_bytes(image(5))
    (folder / ".hidden.jpg").write_bytes(image(6))
    rows, rejects = ingest(edit, folder, out=tmp_path / "out")
    reasons = {reject["path"]: reject["reason"] for reject in rejects}
    assert reasons == {"folder": "link to a folder", "gone.jpg": "missing file", "pipe.jpg": "not a regular file",
                       "a.txt": "not a regular file"}  # fmt: skip
    want = {"a.jpg": image(0), "file.jpg": image(0), "x.source.jpg": image(ord("g")),
            "x.target.jpg": image(ord("g"))}  # fmt: skip
    want |= {"x.target.jpeg": image(ord("g"))}
    assert {row["provenance"]["path"]: row["target"] for row in rows}.keys() <= want.keys()
    assert len(rows) == 4 and {row["target"] for row in rows} == {image(0), image(ord("g"))}


def test_ids_of_the_users_own(edit: Runner, tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.jpg").write_bytes(image(k))
    lines = [{"id": f"user-{k}", "key": f"K{k}", "file_name": f"{k}.jpg"} for k in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pq.write_table(
        pa.table({"id": ["A", "B"], "image": [{"bytes": image(k), "path": None} for k in range(2)]}),
        tmp_path / "rows.parquet",
    )
    rows, _ = ingest(edit, tmp_path / "rows.jsonl", out=tmp_path / "lines")
    assert [row["user_id"] for row in rows] == ["user-0", "user-1", "user-2"]
    assert not {row["id"] for row in rows} & {"user-0", "user-1", "user-2"}
    rows, _ = ingest(edit, tmp_path / "rows.jsonl", out=tmp_path / "mapped", options=("--map", "id=key"))
    assert [(row["id"], row["user_id"]) for row in rows] == [(f"K{k}", f"user-{k}") for k in range(3)]
    rows, _ = ingest(edit, tmp_path / "rows.parquet", out=tmp_path / "table")
    assert [row["user_id"] for row in rows] == ["A", "B"]
    edit("cat", tmp_path / "table", "-o", tmp_path / "own.parquet")
    again, _ = ingest(edit, tmp_path / "own.parquet", out=tmp_path / "again")
    assert [(row["id"], row["user_id"]) for row in again] == [(row["id"], row["user_id"]) for row in rows]
    (tmp_path / "crawl").mkdir()
    for name, data in (("a.jpg", image(1)), ("a.json", b'{"id": "mine"}'), ("b.jpg", image(2))):
        (tmp_path / "crawl" / name).write_bytes(data)
    with tarfile.open(tmp_path / "crawl.tar", "w") as tar:
        for path in sorted((tmp_path / "crawl").iterdir()):
            tar.add(path, path.name)
    rows, _ = ingest(edit, tmp_path / "crawl", out=tmp_path / "sidecars")
    assert [row["user_id"] for row in rows] == ["mine", None]
    rows, _ = ingest(edit, tmp_path / "crawl.tar", out=tmp_path / "samples")
    assert [row["user_id"] for row in rows] == ["mine", "b"]  # of a sample without one, its key
