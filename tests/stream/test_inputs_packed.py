"""Images in base64, archives, damaged files among others, numbers and names that a column cannot simply hold."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, image, rejects_of, rows_of, tar_bytes

ANY = ("--max-errors", "100%")
FILES = [("a.jpg", image(0)), ("a.txt", b"a cat"), ("x/b.png", image(1, "PNG")), ("x/b.json", b'{"n": 7}')]


def zip_bytes(files: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return made.getvalue()


ARCHIVES = {
    "in.tar.gz": lambda: gzip.compress(tar_bytes(FILES)),
    "in.tgz": lambda: gzip.compress(tar_bytes(FILES), 1),
    "in.tar.bz2": lambda: bz2.compress(tar_bytes(FILES)),
    "in.tar.xz": lambda: lzma.compress(tar_bytes(FILES)),
    "in.tar.zst": lambda: pa.compress(tar_bytes(FILES), codec="zstd", asbytes=True),
    "in.zip": lambda: zip_bytes(FILES),
    "stored.zip": lambda: zip_bytes(FILES, zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_read_as_the_tar_of_its_files(edit: Runner, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(ARCHIVES[name]())
    for path, out in ((tmp_path / "in" / name, tmp_path / "file"), (tmp_path / "in", tmp_path / "folder")):
        edit("shard", path, "--rows", 1, "-o", out)
        rows = rows_of(out)
        assert [row["target"] for row in rows] == [image(0), image(1, "PNG")]
        assert rows[0]["caption"]["en"] == "a cat" and rows[1]["n"] == 7
        assert [row["provenance"]["path"] for row in rows] == [f"{name}/a", f"{name}/x/b"]
    shown = edit("filter", tmp_path / "in" / name, "--min-side", 8, "-f", "jsonl").lines
    assert [row["n"] for row in shown] == [None, 7]


def test_what_does_not_come_out_of_an_archive(edit: Runner, tmp_path: Path) -> None:
    data = bytearray(zip_bytes(FILES, zipfile.ZIP_STORED))
    data[data.index(image(0)) + 40] ^= 255
    (tmp_path / "x.zip").write_bytes(data)
    edit("shard", tmp_path / "x.zip", "-o", tmp_path / "out", *ANY)
    assert [row["target"] for row in rows_of(tmp_path / "out")] == [image(1, "PNG")]
    assert ("x.zip/a.jpg", "damaged") in [(r["path"], r["reason"]) for r in rejects_of(tmp_path / "out")]
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(tar_bytes(FILES))[:-40])
    assert "cut.tar.gz: damaged" in edit("shard", tmp_path / "cut.tar.gz", "-o", tmp_path / "no", check=1).stderr
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"some text"))
    assert "unpack it first" in edit("shard", tmp_path / "text.gz", "-o", tmp_path / "no", check=1).stderr


def test_an_archive_beside_images_or_lists_is_named(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(image(0))
    (tmp_path / "in/more.zip").write_bytes(zip_bytes(FILES))
    edit("shard", tmp_path / "in", "-o", tmp_path / "out", *ANY)
    (reject,) = rejects_of(tmp_path / "out")
    assert reject["path"] == "more.zip" and "name it as the input" in str(reject["value"])


def uri(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def test_images_in_base64(edit: Runner, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"image": uri(image(0))},
        {"source": [uri(image(1)), uri(image(2, "PNG"), "png")], "target": uri(image(3))},
        {"image": base64.b64encode(image(4)).decode()},
        {"image": "data:image/png;base64,@@@@"},
        {"image": "data:image/svg+xml,<svg/>"},
        {"image": uri(b"no picture")},
        {"image": "missing.jpg"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    edit("shard", tmp_path / "in.jsonl", "-o", tmp_path / "out", *ANY)
    rows = rows_of(tmp_path / "out")
    assert [row["target"] for row in rows] == [image(0), image(3), image(4)]
    assert rows[1]["source"] == [image(1), image(2, "PNG")]
    reasons = sorted(reject["reason"] for reject in rejects_of(tmp_path / "out"))
    assert reasons == sorted(["damaged base64", "data: URI without base64", "not an image", "missing file"])
    pq.write_table(pa.table({"image": [uri(image(5)), None]}), tmp_path / "in.parquet")
    edit("shard", tmp_path / "in.parquet", "-o", tmp_path / "parquet", *ANY)
    assert [row["target"] for row in rows_of(tmp_path / "parquet")] == [image(5)]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_one_damaged_file_of_many_is_a_reject(edit: Runner, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    for k in range(3):
        pq.write_table(pa.table({"image": [image(k)]}), tmp_path / f"in/{k}.parquet")
    bad = tmp_path / f"in/1b.{kind}"
    bad.write_bytes(b"PAR1" + b"\0" * 50 if kind == "parquet" else b"version https://git-lfs.github.com/spec/v1\n")
    for words, out in (([tmp_path / "in"], "folder"), (sorted((tmp_path / "in").iterdir()), "files")):
        edit("shard", *words, "-o", tmp_path / out, *ANY)
        assert [row["image"] for row in rows_of(tmp_path / out)] == [image(k) for k in range(3)]
        (reject,) = rejects_of(tmp_path / out)
        assert reject["reason"] == "damaged file" and reject["path"] == bad.name and reject["failed"]
        assert edit("shard", *words, "-o", tmp_path / f"{out}2", check=3).stderr.count("\n") < 8
    for words in ([bad], [bad, bad]):
        said = edit("shard", *words, "-o", tmp_path / "no", check=1).stderr
        assert bad.name in said and "Traceback" not in said


def test_a_table_of_several_that_is_damaged_inside(edit: Runner, tmp_path: Path) -> None:
    text = [f"{k:06d}" * 20 for k in range(3000)]
    for k in range(2):
        table = pa.table({"image": [image(k)] * 3000, "text": text})
        pq.write_table(
            table, tmp_path / f"{k}.parquet", row_group_size=1000, compression="snappy", use_dictionary=False
        )
    whole = bytearray((tmp_path / "1.parquet").read_bytes())
    at = pq.ParquetFile(tmp_path / "1.parquet").metadata.row_group(1).column(1).data_page_offset
    whole[at : at + 3000] = bytes(3000)
    (tmp_path / "1.parquet").write_bytes(whole)
    both = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    edit("cat", *both, "-o", tmp_path / "out.jsonl", "--rejects", tmp_path / "rejects", *ANY)
    kept = (tmp_path / "out.jsonl").read_text().count("\n")
    rejects = [json.loads(line) for line in (tmp_path / "rejects").read_text().splitlines()]
    assert kept + len(rejects) == 6000 and 3000 <= kept < 6000
    assert {reject["reason"] for reject in rejects} == {"damaged file"}
    edit("cat", both[1], "-o", tmp_path / "one.jsonl", "--rejects", tmp_path / "of one", check=3)
    assert (tmp_path / "one.jsonl").read_text().count("\n") == 2000
    rows = [json.loads(line)["path"] for line in (tmp_path / "of one").read_text().splitlines()]
    assert rows == [f"1.parquet/{k}" for k in range(1000, 2000)], "of one file too: the rows of the row group"


@pytest.mark.parametrize("hf", [True, False])
@pytest.mark.parametrize("options", [(), ("--rows", 17), ("--bytes", "100K"), ("-j", 3)])
def test_images_of_a_row_group_that_is_damaged(
    edit: Runner, tmp_path: Path, hf: bool, options: tuple[Any, ...]
) -> None:
    images = [image(k) for k in range(90)]
    column = [{"bytes": data, "path": None} for data in images] if hf else images
    table = pa.table({"target": column, "number": [*range(90)]})
    path = tmp_path / "in.parquet"
    pq.write_table(table, path, row_group_size=30, compression="snappy", use_dictionary=False)
    whole = bytearray(path.read_bytes())
    for group in (0, 2) if options else (1,):
        leaf = pq.ParquetFile(path).metadata.row_group(group).column(0)
        whole[leaf.data_page_offset : leaf.data_page_offset + 4000] = bytes(4000)
    path.write_bytes(whole)
    edit("shard", path, "-o", tmp_path / "out", *options, check=3)
    rows, rejects = rows_of(tmp_path / "out"), rejects_of(tmp_path / "out")
    kept = [*range(30, 60)] if options else [*range(30), *range(60, 90)]
    assert [row["number"] for row in rows] == kept
    assert [row["target"] for row in rows] == [images[k] for k in kept]
    assert sorted(int(reject["path"].rpartition("/")[2]) for reject in rejects) == sorted({*range(90)} - {*kept})
    assert {reject["reason"] for reject in rejects} == {"damaged file"}


def test_long_numbers_beside_decimals_keep_their_digits(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(image(0))
    long = 2**53 + 1
    records = [{"n": long, "m": long, "k": 3, "d": {"x": -long}}, {"n": 0.5, "m": 7, "k": 0.5, "d": {"x": 0.25}}]
    lines = [json.dumps({"image": "p.jpg", **record}) for record in records]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    edit("shard", tmp_path / "in.jsonl", "-o", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [json.loads(row["n"]) for row in rows] == [long, 0.5] and [row["m"] for row in rows] == [long, 7]
    assert [row["k"] for row in rows] == [3.0, 0.5]
    assert [json.loads(row["d"]["x"]) for row in rows] == [-long, 0.25]


@pytest.mark.parametrize("kind", ["jsonl", "tar"])
def test_records_whose_names_are_ids_grow_with_their_rows(edit: Runner, tmp_path: Path, kind: str) -> None:
    (tmp_path / "p.jpg").write_bytes(image(0))
    records = [{f"obj_{k}_{j}": [k, j, 1.5] for j in range(3)} | {"same": k} for k in range(200)]
    if kind == "jsonl":
        lines = [json.dumps({"image": "p.jpg", **record}) for record in records]
        (tmp_path / "in.jsonl").write_text("\n".join(lines))
    else:
        files = [
            (f"{k}.{e}", d)
            for k, r in enumerate(records)
            for e, d in (("jpg", image(0)), ("json", json.dumps(r).encode()))
        ]
        (tmp_path / "in.tar").write_bytes(tar_bytes(files))
    edit("shard", tmp_path / f"in.{kind}", "-o", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [{**json.loads(row["user_keys"]), "same": row["same"]} for row in rows] == records
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        assert max(member.size for member in tar if member.name.endswith(".json")) < 2000
    (tmp_path / "wide.jsonl").write_text(json.dumps({"image": "p.jpg", **{f"key{k}": k for k in range(300)}}))
    edit("shard", tmp_path / "wide.jsonl", "-o", tmp_path / "wide")
    assert rows_of(tmp_path / "wide")[0]["key299"] == 299


@pytest.mark.parametrize("kind", ["names", "records"])
def test_keys_of_many_inputs_grow_with_their_rows(edit: Runner, tmp_path: Path, kind: str) -> None:
    """60 lists whose records have 6 keys of their own each: no row has the keys of all lists, and none is lost."""
    (tmp_path / "p.jpg").write_bytes(image(0))
    wanted = []
    for k in range(60):
        own = {f"k{k}_{j}": j if j % 2 else {"deep": [k, k + 1], "猫": "x"} for j in range(6)}
        record = {"image": "p.jpg", "all": k, **(own if kind == "names" else {"boxes": own})}
        (tmp_path / f"{k:02d}.jsonl").write_text(json.dumps(record) + "\n")
        wanted.append(own)
    lists = sorted(tmp_path.glob("*.jsonl"))
    column = "user_keys" if kind == "names" else "boxes"
    edit("shard", *lists, "-o", tmp_path / "whole")
    for task in range(7):
        edit("shard", *lists, "--task", f"{task}/7", "--rows", 20, "-o", tmp_path / "tasks")
    for name in ("whole", "tasks"):
        rows = edit("cat", tmp_path / name, "-f", "jsonl").lines
        assert [row["all"] for row in rows] == [*range(60)]
        if name == "whole":
            assert set(rows[0]) - {column} == {"id", "task", "target", "provenance", "all"}
            assert [json.loads(row[column]) for row in rows] == wanted
        assert all(f"k{k}_5" in json.dumps(row) for k, row in enumerate(rows))


def test_a_tar_of_several_that_is_cut_off(edit: Runner, tmp_path: Path) -> None:
    """Cut at any place: what is whole before it is rows, and the tar is one reject; alone it is incomplete input."""
    members = [(f"{k}.{ending}", data) for k in range(4) for ending, data in (("jpg", image(k)), ("txt", b"a cat"))]
    whole = tar_bytes(members)
    (tmp_path / "0.tar").write_bytes(tar_bytes([("x.jpg", image(9)), ("x.txt", b"x")]))
    ends = [0]  # of rows
    for k in range(4):
        ends.append(ends[-1] + 1024 + -(-len(image(k)) // 512) * 512 + 512)
    near = (ends[1] + 700, ends[2] - 512, ends[2] - 507, ends[3] - 1024, ends[3] + 100)
    for cut in sorted({600, ends[1], *near, ends[4]}):
        (tmp_path / "1.tar").write_bytes(whole[:cut])
        out = tmp_path / f"out{cut}"
        both = [tmp_path / "0.tar", tmp_path / "1.tar"]
        edit("shard", *both, "--rows", 2, "-o", out, *ANY)
        kept = [k for k in range(4) if ends[k + 1] - 507 <= cut]
        assert [row["target"] for row in rows_of(out)] == [image(9), *map(image, kept)], cut
        (reject,) = rejects_of(out)
        assert reject["reason"] == "tar cut off" and reject["failed"] and "cut off at byte" in reject["value"]
        assert edit("shard", tmp_path / "1.tar", "-o", tmp_path / "alone", check=4)
    damaged = bytearray(whole)
    damaged[ends[2] + 5] ^= 1
    (tmp_path / "1.tar").write_bytes(damaged)
    edit("shard", tmp_path / "0.tar", tmp_path / "1.tar", "-o", tmp_path / "damaged", *ANY)
    assert len(rows_of(tmp_path / "damaged")) == 3 and len(rejects_of(tmp_path / "damaged")) == 1
    edit("shard", tmp_path / "0.tar", "-o", tmp_path / "own.tar")
    own = (tmp_path / "own.tar").read_bytes()
    (tmp_path / "own.tar").write_bytes(own[:-1024])
    assert edit("cat", tmp_path / "0.tar", tmp_path / "own.tar", "-f", "jsonl", check=4)
