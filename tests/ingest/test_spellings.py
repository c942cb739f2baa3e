"""One thing under several spellings: names in archives, paths in lists, ids that come twice, columns of one name."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, image, rejects_of, rows_of, tar_bytes

from edittools.stream.tar import plain_name

# ---------------------------------------------------------------- names in archives


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("x/1.jpg", "x/1.jpg"),
        ("./x/1.jpg", "x/1.jpg"),
        ("././x/1.jpg", "x/1.jpg"),
        ("x//1.jpg", "x/1.jpg"),
        ("x/./1.jpg", "x/1.jpg"),
        ("x/y/../1.jpg", "x/1.jpg"),
        ("/x/1.jpg", "x/1.jpg"),
        ("//x/1.jpg", "x/1.jpg"),
        ("../x/1.jpg", "x/1.jpg"),
        ("x\\1.jpg", "x/1.jpg"),
        (".\\x\\1.jpg", "x/1.jpg"),
        ("x/e\u0301.jpg", "x/\u00e9.jpg"),
        ("x/a..b.jpg", "x/a..b.jpg"),
        ("x/...jpg", "x/...jpg"),
        ("x/.hidden", "x/.hidden"),
    ],
)
def test_an_entry_has_one_name(name: str, meant: str) -> None:
    assert plain_name(name) == meant
    assert plain_name(meant) == meant


SPELLINGS = ("./x/{}", "x//{}", "/x/{}", "../x/{}", "x\\{}", "y/../x/./{}")


def test_a_image_and_its_text_are_one_row_however_their_paths_are_spelled(edit: Runner, tmp_path: Path) -> None:
    members = []
    for k, spelling in enumerate(SPELLINGS):
        members += [(spelling.format(f"{k}.jpg"), image(k)), (f"x/{k}.txt", f"a text {k}".encode())]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    edit("shard", tmp_path / "in.tar", "-o", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["caption"]["en"] for row in rows] == [f"a text {k}" for k in range(len(SPELLINGS))]
    assert [row["provenance"]["path"] for row in rows] == [f"in.tar/x/{k}" for k in range(len(SPELLINGS))]
    assert edit("cat", tmp_path / "in.tar", "--limit", 2, "-f", "jsonl").lines[1]["caption"]["en"] == "a text 1"


def test_a_zip_of_windows_is_read_by_its_folders(edit: Runner, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        for name, data in (("x\\1.jpg", image(1)), ("x/1.txt", b"a text")):
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            packed.writestr(entry, data)
    edit("shard", tmp_path / "in.zip", "-o", tmp_path / "out")
    assert [row["caption"]["en"] for row in rows_of(tmp_path / "out")] == ["a text"]


def test_names_that_meet_are_two_rows_and_links_are_followed(edit: Runner, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name, data in (("./x/1.jpg", image(1)), ("x/1.jpg", image(2))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("./x/2.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, ".//x/1.jpg"
        tar.addfile(link)
    edit("shard", tmp_path / "in.tar", "-o", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["provenance"]["path"] for row in rows] == ["in.tar/x/1", "in.tar/x/1#2", "in.tar/x/2"]
    assert rows[2]["provenance"]["sha256"] == rows[1]["provenance"]["sha256"] != rows[0]["provenance"]["sha256"]


# ---------------------------------------------------------------- paths in lists


@pytest.mark.parametrize(
    "said",
    [
        " a.jpg",
        "a.jpg\t",
        "\u00a0a.jpg ",
        "a.jpg?x=1",
        "a.jpg?w=100&h=2#top",
        "a.jpg#top",
        " sub\\b c.jpg ",
        "sub/b%20c.jpg?x=1",
        "file://{folder}/a.jpg",
        " file://localhost{folder}/a.jpg\n",
    ],
)
@pytest.mark.parametrize("column", ["image", "target", "photo"])
def test_what_a_path_means_beside_its_letters(edit: Runner, tmp_path: Path, said: str, column: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jpg").write_bytes(image(1))
    (tmp_path / "sub/b c.jpg").write_bytes(image(2))
    path = said.replace("{folder}", str(tmp_path))
    (tmp_path / "in.jsonl").write_text(json.dumps({column: path}) + "\n")
    pq.write_table(pa.table({column: [path]}), tmp_path / "in.parquet")
    extra = ["--map", "target=photo"] if column == "photo" else []
    for kind in ("jsonl", "parquet"):
        edit("shard", tmp_path / f"in.{kind}", *extra, "-o", tmp_path / kind)
        (row,) = rows_of(tmp_path / kind)
        assert (tmp_path / kind / "00000.tar").read_bytes().count(image(2 if "sub" in said else 1)) == 1
        assert row["target"] is not None


def test_a_name_that_is_there_as_it_stands_wins(edit: Runner, tmp_path: Path) -> None:
    for name, seed in ((" a.jpg", 1), ("a.jpg", 2), ("a.jpg?x=1", 3), ("a%20b.jpg", 4), ("a b.jpg", 5)):
        (tmp_path / name).write_bytes(image(seed))
    names = [" a.jpg", "a.jpg?x=1", "a%20b.jpg", "a.jpg?x=2"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"image": name}) + "\n" for name in names))
    edit("shard", tmp_path / "in.jsonl", "-o", tmp_path / "out")
    packed = (tmp_path / "out/00000.tar").read_bytes()
    assert [packed.count(image(seed)) for seed in range(1, 6)] == [1, 1, 1, 1, 0]


def test_a_missing_file_is_named_as_the_list_has_it(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"image": " gone.jpg?x=1 "}\n')
    edit("shard", tmp_path / "in.jsonl", "-o", tmp_path / "out", check=3)
    (reject,) = rejects_of(tmp_path / "out")
    assert (reject["reason"], reject["value"]) == ("missing file", " gone.jpg?x=1 ")


# ---------------------------------------------------------------- ids that come twice


def test_equal_rows_that_meet_in_a_shard_are_told_apart(edit: Runner, tmp_path: Path) -> None:
    """Two streams of one list, as `(edit cat a; edit cat a) | edit shard` sends them."""
    (tmp_path / "1.jpg").write_bytes(image(1))
    (tmp_path / "in.jsonl").write_text('{"image": "1.jpg", "number": 1}\n{"image": "1.jpg", "number": 2}\n')
    one = edit("cat", tmp_path / "in.jsonl").stdout
    alone = rows_of(_sharded(edit, tmp_path / "alone", one))
    ran = edit("shard", "-o", tmp_path / "out", stdin=one * 3)
    rows = rows_of(tmp_path / "out")
    ids = [row["id"] for row in alone]
    assert [row["id"] for row in rows] == [*ids, *(f"{name}#2" for name in ids), *(f"{name}#3" for name in ids)]
    assert [row["number"] for row in rows] == [1, 2] * 3 and not rejects_of(tmp_path / "out")
    assert "4 rows had the id of another row of their shard" in ran.stderr
    edit("cat", "--check", tmp_path / "out")
    edit("shard", "-o", tmp_path / "out", stdin=one * 3)  # the same again: nothing to do
    parts = rows_of(_sharded(edit, tmp_path / "parts", one * 3, "--rows", 2))
    assert [row["id"] for row in parts] == ids * 3, "of several shards an id is each one's own"


def test_an_id_that_looks_like_a_second_one_stays_apart(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(image(1))
    names = ["x", "x", "x#2", "x", "x#2"]
    lines = "".join(json.dumps({"name": name, "target": "1.jpg"}) + "\n" for name in names)
    (tmp_path / "in.jsonl").write_text(lines)
    edit("shard", tmp_path / "in.jsonl", "--map", "id=name", "-o", tmp_path / "out")
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["x", "x#2", "x#2#2", "x#3", "x#2#3"]


def test_sets_with_equal_ids_that_are_joined_keep_all_rows(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(3):
        (tmp_path / f"in/{k}.jpg").write_bytes(image(k))
    for name in ("a", "b"):
        edit("shard", tmp_path / "in", "-o", tmp_path / name)
    edit("shard", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "both")
    ids = [row["id"] for row in rows_of(tmp_path / "a")]
    assert [row["id"] for row in rows_of(tmp_path / "both")] == [*ids, *(f"{name}#2" for name in ids)]


def _sharded(edit: Runner, out: Path, stream: bytes, *extra: object) -> Path:
    edit("shard", *extra, "-o", out, stdin=stream)
    return out


# ---------------------------------------------------------------- two columns of one name


def test_two_columns_of_one_name_are_an_error_whose_hint_helps(edit: Runner, tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    columns = [pa.array([image(1)]), pa.array(["cat"]), pa.array(["dog"])]
    pq.write_table(pa.table(columns, names=["target", "label", "label"]), path)
    ran = edit("shard", path, "-o", tmp_path / "out", check=1)
    assert "two columns are called `label`: which is meant?" in ran.stderr
    words = shlex.split(ran.stderr.partition("`label_1`: ")[2].strip())
    assert words[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
    edit("shard", tmp_path / "new.parquet", "-o", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert (row["label"], row["label_1"]) == ("cat", "dog")


@pytest.mark.parametrize("head", ["image,image,label", " image , image , label", "image, image,label "])
def test_columns_of_one_name_of_a_table_are_both_kept(edit: Runner, tmp_path: Path, head: str) -> None:
    for k in range(2):
        (tmp_path / f"{k}.jpg").write_bytes(image(k))
    (tmp_path / "in.csv").write_text(f"{head}\n 0.jpg ,1.jpg,cat\n")
    edit("shard", tmp_path / "in.csv", "-o", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert (row["user_image"], row["label"]) == ("1.jpg", "cat") and row["target"] is not None


HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HOLLOW: dict[str, Any] = {"bytes": None, "path": None}


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl"])
def test_an_image_of_datasets_with_nothing_in_it_is_none(
    edit: Runner, tmp_path: Path, ending: str, statistics: bool
) -> None:
    """{"bytes": null, "path": null}, as some writers have a missing image: a sketch that is not there costs nothing,
    a source or a target that is not there costs its row; over several row groups, beside nulls and images."""
    sketches = [None, HOLLOW, {"bytes": image(50), "path": "s.png"}, {"bytes": None, "path": ""}, HOLLOW, None, HOLLOW]
    sources = [{"bytes": image(k), "path": None} for k in range(5)] + [HOLLOW, {"bytes": image(6), "path": None}]
    targets = [{"bytes": image(20 + k), "path": None} for k in range(6)] + [HOLLOW]
    held = {
        "image_file": sources,
        "edited_file": targets,
        "visual_input": sketches,
        "edit_instruction": [f"number {k}" for k in range(7)],
        "edit_type": ["add"] * 7,
    }
    table = pa.table({n: pa.array(v, HF if isinstance(v[0] or v[1], dict) else None) for n, v in held.items()})
    path = tmp_path / f"x.{ending}"
    if ending == "parquet":
        pq.write_table(table, path, row_group_size=2, write_statistics=statistics)
    elif ending == "arrow":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:  # JSON holds no bytes: the images are files

        def said(value: Any) -> Any:
            if not value or not value["bytes"]:
                return value
            name = f"{hash(value['bytes'])}.png"
            (tmp_path / name).write_bytes(value["bytes"])
            return {"bytes": None, "path": name}

        path.write_text("".join(json.dumps({n: said(v[k]) if isinstance(v[k], dict) else v[k] for n, v in held.items()})
                                + "\n" for k in range(7)))  # fmt: skip
    edit("shard", path, "--from", "anyedit", "-o", tmp_path / "out", "--max-errors", "100%")
    rows = {row["instruction"]["en"]: row for row in rows_of(tmp_path / "out")}
    assert [rows[f"number {k}"]["source"] for k in range(5)] == [
        [image(0)], [image(1)], [image(2), image(50)], [image(3)], [image(4)],
    ]  # fmt: skip
    assert [reject["reason"] for reject in rejects_of(tmp_path / "out")] == ["no source", "no target"] and len(
        rows
    ) == 5


def test_empty_images_where_nobody_names_the_set(edit: Runner, tmp_path: Path) -> None:
    """By --map, and inside of lists: the place is empty."""
    rows = [{"bytes": image(1), "path": None}, HOLLOW, None]
    listed = [[{"bytes": image(2), "path": None}, HOLLOW], [HOLLOW], [{"bytes": image(3), "path": None}]]
    table = pa.table({"a": pa.array(rows, HF), "source": pa.array(listed, pa.list_(HF)), "n": [0, 1, 2]})
    pq.write_table(table, tmp_path / "x.parquet")
    edit("shard", tmp_path / "x.parquet", "--map", "target=a", "-o", tmp_path / "out", "--max-errors", "100%")
    found = {row["n"]: row for row in rows_of(tmp_path / "out")}
    assert found[0]["target"] == image(1) and found[2]["target"] is None
    assert [reject["reason"] for reject in rejects_of(tmp_path / "out")] == ["no picture"]
