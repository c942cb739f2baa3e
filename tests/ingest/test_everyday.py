"""Inputs as they really lie about: no row stops a run, and none is lost without a word."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import struct
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import EDIT, Runner, image, put, rejects_of, rows_of, tar_bytes

from edittools.record import COLUMNS, IMAGE
from edittools.stream.batch import Reject
from edittools.stream.columns import language
from edittools.stream.opening import open_source
from edittools.stream.text import Guesses, decode

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE_FIELDS = {field.name for field in IMAGE}
ANY = ("--max-errors", "100%")


def shard(edit: Runner, *inputs: Any, out: Path, options: tuple = (), check: int = 0) -> tuple[list[dict], list[dict]]:
    """Rows and rejects of `edit shard`, however many of them fail."""
    edit("shard", *inputs, "-o", f"{out}/", *ANY, *options, check=check)
    return rows_of(out), rejects_of(out)


def lines(path: Path, *records: Any) -> Path:
    return put(path, "".join(json.dumps(record) + "\n" for record in records))


def images(folder: Path, count: int) -> list[bytes]:
    """0.jpg, 1.jpg ... in a folder."""
    made = [image(k) for k in range(count)]
    for k, data in enumerate(made):
        put(folder / f"{k}.jpg", data)
    return made


def words(value: Any) -> str:
    """Everything a row holds but images, as text to look for values in."""
    return json.dumps(value, default=lambda data: f"<{len(data)} bytes>", ensure_ascii=False)


# ---------------------------------------------------------------- text


def test_half_of_a_surrogate_pair_anywhere(edit: Runner, tmp_path: Path) -> None:
    images(tmp_path, 4)
    half = "\\ud83d"
    put(
        tmp_path / "x.jsonl",
        "\n".join(
            [
                '{"image": "0.jpg", "note": "half ' + half + ' emoji", "whole": "\\ud83d\\ude00"}',
                '{"image": "1.jpg", "tags": ["' + half + '"], "n' + half + '": {"k' + half + '": 1}}',
                '{"image": "2.jpg", "caption": "' + half + '", "id": "i' + half + '", "task": "t' + half + '"}',
                '{"image": "' + half + '.jpg"}',
            ]
        ),
    )
    put(tmp_path / "crawl/a.jpg", image(9))
    put(tmp_path / "crawl/a.json", '{"note": "' + half + '"}')
    rows, rejects = shard(edit, tmp_path / "x.jsonl", out=tmp_path / "out")
    assert [row["note"] for row in rows] == ["half \ufffd emoji", None, None] and rows[0]["whole"] == "😀"
    assert rows[1]["tags"] == ["\ufffd"] and rows[1]["n\ufffd"] == {"k\ufffd": 1}
    assert rows[2]["caption"]["en"] == "\ufffd" and rows[2]["user_id"] == "i\ufffd" and rows[2]["task"] == "t\ufffd"
    assert [(reject["reason"], reject["path"]) for reject in rejects] == [("missing file", "x.jsonl/3")]
    assert shard(edit, tmp_path / "crawl", out=tmp_path / "side")[0][0]["note"] == "\ufffd"


def test_words_of_the_command_line_that_are_not_utf8(edit: Runner, tmp_path: Path) -> None:
    images(tmp_path / "in", 1)
    lines(tmp_path / "x.jsonl", {"image": "in/0.jpg"})
    odd = os.fsdecode(b"caf\xe9")
    edit("shard", tmp_path / "in", "--origin", odd, "--license", odd, "-o", tmp_path / "out")
    assert rows_of(tmp_path / "out")[0]["provenance"]["origin"] == "café"
    edit("shard", tmp_path / "x.jsonl", "--map", f"{odd}=image", "--image", "image", "-o", tmp_path / "named")
    assert rows_of(tmp_path / "named")[0]["café"] == image(0)
    (tmp_path / odd).mkdir()
    (tmp_path / "in/0.jpg").rename(tmp_path / odd / "0.jpg")
    assert "not UTF-8" in edit("shard", tmp_path / odd, "-o", tmp_path / "no", check=1).stderr


ENCODED = {
    "gbk": ("猫在睡觉，狗在叫".encode("gbk"), "猫在睡觉，狗在叫"),
    "mixed": ("一只 cat 和一只 dog".encode("gbk"), "一只 cat 和一只 dog"),
    "rare": ("朱镕基的照片".encode("gbk"), "朱镕基的照片"),
    "windows": (b"the dog\x92s hat \x96 caf\xe9", "the dog\u2019s hat \u2013 café"),
    "french": ("créée l'été, déjà".encode("latin-1"), "créée l'été, déjà"),
    "german": ("Größe und Süße".encode("cp1252"), "Größe und Süße"),
    "utf-16": ("a cat, 一只猫".encode("utf-16"), "a cat, 一只猫"),
    "utf-16-be": (b"\xfe\xff" + "a cat".encode("utf-16-be"), "a cat"),
    "no mark": ("a cat".encode("utf-16-le"), "a cat"),
    "utf-32": ("a cat".encode("utf-32"), "a cat"),
    "mark": (b"\xef\xbb\xbfa cat\r\n", "a cat"),
    "old mac": (b"one\rtwo\r", "one\ntwo"),
    "cut": ("猫在睡觉".encode()[:-1], "猫在睡\ufffd"),
}


def test_captions_are_read_in_their_encoding_and_guesses_are_told(edit: Runner, tmp_path: Path) -> None:
    guessed = {"gbk", "mixed", "rare", "windows", "french", "german", "cut"}
    for k, (name, (data, _)) in enumerate(ENCODED.items()):
        put(tmp_path / f"in/{name}.jpg", image(k))
        put(tmp_path / f"in/{name}.txt", data)
    (tmp_path / "in.tar").write_bytes(
        tar_bytes([(p.name, p.read_bytes()) for p in sorted((tmp_path / "in").iterdir())])
    )
    for given in ("in", "in.tar"):
        done = edit("shard", tmp_path / given, "-o", f"{tmp_path}/{given}-out/")
        for row in rows_of(tmp_path / f"{given}-out"):
            name = Path(row["provenance"]["path"]).name.removesuffix(".jpg")
            assert next(text for text in row["caption"].values() if text) == ENCODED[name][1], name
        assert f"{len(guessed)} texts are not UTF-8" in done.stderr and "3 as GBK" in done.stderr
    for name, (data, text) in ENCODED.items():
        guesses = Guesses()
        assert decode(data, guesses).strip("\r\n").replace("\r", "\n") == text and bool(guesses) == (name in guessed)


def test_other_encodings_of_json(edit: Runner, tmp_path: Path) -> None:
    images(tmp_path, 2)
    text = '{"image": "0.jpg", "note": "café"}\n{"image": "1.jpg", "note": "über"}\n'
    for name, data in {
        "mark": b"\xef\xbb\xbf" + text.encode(),
        "utf-16": text.encode("utf-16"),
        "latin": text.encode("latin-1"),
        "cr": text.replace("\n", "\r\n").encode(),
    }.items():
        put(tmp_path / f"{name}.jsonl", data)
        rows, rejects = shard(edit, tmp_path / f"{name}.jsonl", out=tmp_path / name)
        assert [row["note"] for row in rows] == ["café", "über"] and not rejects, name


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('Change the sign to "你好" in red', "en"),
        ("Remove the watermark 版权所有 from the lower right corner", "en"),
        ("Replace 你好 with Hello", "en"),
        ("Write 欢迎光临本店请随便看看 on the wall", "en"),
        ("The sign says 你好，欢迎来到我的家 in red", "en"),
        ('把标志改成 "Hello World, welcome to our store"', "zh"),
        ("把 Nike logo 换成 Adidas logo", "zh"),
        ("变成红色", "zh"),
        ("“你好”", "zh"),
        ("Turn it red", "en"),
        ('"Hello"', "en"),
        ("", "en"),
    ],
)
def test_a_text_has_the_language_of_its_sentence(text: str, wanted: str) -> None:
    assert language(text) == wanted


# ---------------------------------------------------------------- tars


def test_links_of_a_tar_are_the_files_they_lead_to(edit: Runner, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def link(name: str, kind: bytes, target: str) -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, 0
            tar.addfile(entry)

        link("d/early.jpg", tarfile.SYMTYPE, "../a.jpg")
        entry = tarfile.TarInfo("a.jpg")
        entry.size = len(image(0))
        tar.addfile(entry, io.BytesIO(image(0)))
        link("b.jpg", tarfile.LNKTYPE, "a.jpg")
        link("c.jpg", tarfile.SYMTYPE, "b.jpg")
        link("./" + "long" * 60 + ".jpg", tarfile.LNKTYPE, "./a.jpg")
        link("gone.jpg", tarfile.SYMTYPE, "/elsewhere.jpg")
        link("one.jpg", tarfile.SYMTYPE, "two.jpg")
        link("two.jpg", tarfile.SYMTYPE, "one.jpg")
        link("pipe.jpg", tarfile.FIFOTYPE, "")
        link("device.jpg", tarfile.CHRTYPE, "")
        link("folder", tarfile.DIRTYPE, "")
    put(tmp_path / "x.tar", buffer.getvalue())
    rows, rejects = shard(edit, tmp_path / "x.tar", out=tmp_path / "out")
    assert len(rows) == 5 and {row["target"] for row in rows} == {image(0)} and len({row["id"] for row in rows}) == 5
    assert {reject["path"]: reject["reason"] for reject in rejects} == {
        "x.tar/gone.jpg": "link to nothing in the tar",
        "x.tar/one.jpg": "link to nothing in the tar",
        "x.tar/two.jpg": "link to nothing in the tar",
        "x.tar/pipe.jpg": "not a regular file",
        "x.tar/device.jpg": "not a regular file",
    }


def test_gnu_tars_own_links_and_sparse_files(edit: Runner, tmp_path: Path) -> None:
    put(tmp_path / "in/a.jpg", image(0))
    os.link(tmp_path / "in/a.jpg", tmp_path / "in/b.jpg")
    with open(tmp_path / "in/c.jpg", "wb") as file:
        for k in range(40):  # so many holes that their map goes on after the header
            file.seek(k << 16)
            file.write(b"x" * 4096)
        file.truncate(41 << 16)
    put(tmp_path / "in/d.jpg", image(1))
    for kind in ("gnu", "posix"):
        subprocess.run(
            ["tar", "-cSf", tmp_path / f"{kind}.tar", f"--format={kind}", "--sort=name", "-C", tmp_path / "in", "."],
            check=True,
        )
        rows, rejects = shard(edit, tmp_path / f"{kind}.tar", out=tmp_path / kind)
        assert [row["target"] for row in rows] == [image(0), image(0), image(1)]
        assert [(reject["path"], reject["reason"]) for reject in rejects] == [(f"{kind}.tar/c.jpg", "sparse file")]


def test_every_file_of_a_tar_is_in_a_row(edit: Runner, tmp_path: Path) -> None:
    """Names twice, images of one stem, captions behind all images, no ending, upper case, bytes and text."""
    data = tar_bytes(
        [
            ("a.jpg", image(0)),
            ("a.jpg", image(1)),
            ("a.png", image(2, "PNG")),
            ("a.depth.png", image(3, "PNG")),
            ("b.JPG", image(4)),
            ("c", b"no ending"),
            ("c.jpg", image(5)),
            ("d.jpg", image(6)),
            ("d.target.jpg", image(7)),
            ("d.target.png", image(8, "PNG")),
            ("d.source.jpg", image(9)),
            ("b.TXT", b"the caption of b"),
            ("a.txt", b"the caption of a"),
            ("b.json", b'{"caption": "another", "n": 1}'),
            ("d.json", b'{"source": "flickr", "target": "x", "txt": 3}'),
            ("d.bin", b"\xff\x00"),
            ("c.bin", b"ascii"),
        ]
    )
    put(tmp_path / "x.tar", data)
    rows, rejects = shard(edit, tmp_path / "x.tar", out=tmp_path / "out")
    assert not rejects and [row["provenance"]["path"] for row in rows] == [
        f"x.tar/{k}" for k in ("a", "a#2", "b", "c", "d")
    ]
    one, two, b, c, d = rows
    assert one["target"] == image(0) and one["caption"] is None
    assert two["target"] == image(1) and two["png"] == image(2, "PNG") and two["depth"] == image(3, "PNG")
    assert two["caption"]["en"] == "the caption of a"
    assert b["target"] == image(4) and b["caption"]["en"] == "the caption of b" and b["user_caption"] == "another"
    assert c["data"] == "no ending" and c["target"] == image(5) and c["bin"] == b"ascii"
    assert (
        d["source"] == [image(9)] and d["user_source"] == "flickr" and d["user_target"] == "x" and d["bin"] == b"\xff\0"
    )
    assert {d["target"], d["target_jpg"], d["target_png"]} >= {image(6), image(7), image(8, "PNG")}


def test_what_macos_adds_to_a_tar(edit: Runner, tmp_path: Path) -> None:
    double = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(82)
    members = []
    for name, data in (("a.jpg", image(0)), ("a.txt", b"one"), ("b.jpg", image(1)), ("b.txt", b"two")):
        members += [(f"./._{name}", double), (f"./{name}", data)]
    put(tmp_path / "x.tar", tar_bytes([*members, ("./.DS_Store", b"\0\0\0\1Bud1"), ("./._c.jpg", image(2))]))
    rows, rejects = shard(edit, tmp_path / "x.tar", out=tmp_path / "out")
    assert [(row["target"], row["caption"]["en"]) for row in rows] == [(image(0), "one"), (image(1), "two")]
    found = [(reject["path"], reject["reason"], reject["failed"]) for reject in rejects]
    assert found == [(f"x.tar/{name}", "hidden file", False) for name in (".DS_Store", "._c.jpg")]


def test_names_of_a_tar_in_other_encodings(edit: Runner, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name, data in (
            ("café.jpg", image(0)),
            ("cafè.jpg", image(0)),
            ("x.größe", b"7"),
            ("é_" * 60 + ".jpg", image(1)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    put(tmp_path / "x.tar", buffer.getvalue())
    rows, rejects = shard(edit, tmp_path / "x.tar", out=tmp_path / "out")
    assert [row["provenance"]["path"] for row in rows] == ["x.tar/café", "x.tar/cafè", f"x.tar/{'é_' * 60}"]
    assert [reject["reason"] for reject in rejects] == ["no picture"]


def test_large_sidecars_are_whole(edit: Runner, tmp_path: Path) -> None:
    array, note = b"\x93NUMPY" + bytes(range(256)) * 80000, "n" * (17 << 20)
    put(
        tmp_path / "x.tar",
        tar_bytes(
            [
                ("a.jpg", image(0)),
                ("a.npy", array),
                ("b.jpg", image(1)),
                ("b.json", json.dumps({"note": note}).encode()),
            ]
        ),
    )
    rows, rejects = shard(edit, tmp_path / "x.tar", out=tmp_path / "out")
    assert not rejects and rows[0]["npy"] == array and rows[1]["note"] == note
    put(tmp_path / "in/a.jpg", image(0))
    put(tmp_path / "in/a.txt", note)
    lines(tmp_path / "x.jsonl", {"image": "in/a.jpg", "note": note})
    assert shard(edit, tmp_path / "in", out=tmp_path / "out2")[0][0]["caption"]["en"] == note
    assert shard(edit, tmp_path / "x.jsonl", out=tmp_path / "out3")[0][0]["note"] == note


def test_only_stubs_of_our_own_are_images(edit: Runner, tmp_path: Path) -> None:
    author = {"member": "since 2019"}
    pass_card = {"member": "gold", "width": 3, "height": 4, "format": "A4"}
    sidecar = json.dumps({"author": author, "pass": pass_card}).encode()
    for given in (put(tmp_path / "x.tar", tar_bytes([("a.jpg", image(0)), ("a.json", sidecar)])), tmp_path / "in"):
        put(tmp_path / "in/a.jpg", image(0))
        put(tmp_path / "in/a.json", sidecar)
        rows, rejects = shard(edit, given, out=tmp_path / f"{given.name}-out/")
        assert not rejects and (rows[0]["author"], rows[0]["pass"]) == (author, pass_card)


# ---------------------------------------------------------------- columns


def test_no_key_of_a_record_is_dropped(edit: Runner, tmp_path: Path) -> None:
    images(tmp_path, 6)
    lines(
        tmp_path / "x.jsonl",
        {"image": "0.jpg", "objects": [{"name": "cat", "bbox": [101, 102], "category_id": 777}, {"name": "dog"}]},
        {
            "source": "0.jpg",
            "target": "1.jpg",
            "caption": {"en": "a", "fr": "un"},
            "user_caption": "mine",
            "turns": [
                {"instruction": "Paint it red", "target": "2.jpg", "speaker": "user", "parent": -1},
                {"instruction": "改成蓝色", "target": "3.jpg", "parent": 0},
            ],
        },
        {"image": "4.jpg", "objects": ["a", "b"], "provenance": {"origin": "web", "crawler": 9}, "task": {"kind": "x"}},
        {
            "image": "5.jpg",
            "empty": {},
            "nested": {"a": {}, "b": [{}]},
            "instruction": ["x", "y"],
            "mixed": [1, "a", None],
        },
        {"image": "5.jpg", "empty": {"x": 1}, "mixed": {"deep": [1.5, True]}},
    )
    rows, rejects = shard(edit, tmp_path / "x.jsonl", out=tmp_path / "out")
    assert not rejects
    assert rows[0]["objects"][0]["name"] == "cat"
    assert "[101, 102]" in words(rows[0]["user_objects"]) and "777" in words(rows[0]["user_objects"])
    turns = rows[1]["turns"]
    assert [turn["target"] for turn in turns] == [image(2), image(3)]
    assert [turn["instruction"] for turn in turns] == [
        {"en": "Paint it red", "zh": None},
        {"en": None, "zh": "改成蓝色"},
    ]
    assert rows[1]["user_turns"][0] == {"speaker": "user"} and rows[1]["user_caption"] == "mine"
    assert rows[1]["caption"]["en"] == "a" and rows[1]["user_user_caption"] == {"fr": "un"}
    assert rows[2]["provenance"]["origin"] == "web" and rows[2]["user_provenance"] == {"crawler": 9}
    for row, kept in ((2, ('"b"', "kind")), (3, ("y", "a")), (4, ("1.5", "deep"))):
        assert all(word in words(rows[row]) for word in kept), (row, words(rows[row]))


def test_a_column_of_images_and_other_things(edit: Runner, tmp_path: Path) -> None:
    put(
        tmp_path / "x.tar",
        tar_bytes(
            [
                ("a.jpg", image(0)),
                ("a.thumb.jpg", image(1)),
                ("b.jpg", image(2)),
                ("b.json", b'{"thumb": "none"}'),
                ("c.jpg", image(3)),
                ("c.thumb", b"\xff"),
            ]
        ),
    )
    rows, rejects = shard(edit, tmp_path / "x.tar", out=tmp_path / "out")
    assert not rejects and [row["thumb"] for row in rows] == [image(1), None, None]
    assert [row["user_thumb"] for row in rows] == [None, b"none", b"\xff"]


def test_words_that_stand_where_paths_may(edit: Runner, tmp_path: Path) -> None:
    made = images(tmp_path / "p", 3)
    (tmp_path / "flickr").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    lines(
        tmp_path / "x.jsonl",
        {"image": "p/0.jpg", "source": "flickr", "caption": "c"},
        {"image": "p/1.jpg", "source": "https://example.org/photos/17", "mask": "none", "target": ""},
        {"source": "p/0.jpg", "target": "p/2.jpg", "mask": "", "rejected": "p/1.jpg"},
        {"image": ""},
        {"image": "p"},
        {"image": "pipe.jpg"},
        {"image": "p/0.jpg/1.jpg"},
        {"image": "nul\0.jpg"},
        {"image": "x" * 5000 + ".jpg"},
        {"image": "nosuchstore://a/b.jpg"},
        {"image": 7, "file_name": "p/0.jpg"},
    )
    rows, rejects = shard(edit, tmp_path / "x.jsonl", out=tmp_path / "out")
    assert [row["target"] for row in rows] == [made[0], made[1], made[2], made[0]]
    assert [row["user_source"] for row in rows] == ["flickr", "https://example.org/photos/17", None, None]
    assert rows[1]["user_mask"] == "none" and rows[2]["source"] == [made[0]]
    assert rows[2]["rejected"] == made[1]
    reasons = {int(reject["path"].rpartition("/")[2]): reject["reason"] for reject in rejects}
    assert reasons == {
        3: "no picture",
        4: "cannot read",
        5: "cannot read",
        6: "missing file",
        7: "cannot read",
        8: "cannot read",
        9: "not fetched",  # no store that is known
    }
    rows, _ = shard(edit, tmp_path / "x.jsonl", out=tmp_path / "site", options=("--map", "site=source"))
    assert [row["site"] for row in rows] == ["flickr", "https://example.org/photos/17", "p/0.jpg", None]


def test_the_user_says_which_columns_are_images(edit: Runner, tmp_path: Path) -> None:
    made = images(tmp_path / "i", 5)
    records = [
        {
            "input_image": "i/0.jpg",
            "output_image": "i/1.jpg",
            "text": "Paint it red",
            "depth": "i/2.jpg",
            "refs": ["i/3.jpg"],
        },
        {
            "input_image": "i/1.jpg",
            "output_image": {"path": "i/2.jpg", "bytes": None},
            "text": "变红",
            "refs": ["i/3.jpg", "i/4.jpg"],
        },
        {"input_image": None, "output_image": "i/gone.jpg", "text": "x"},
    ]
    lines(tmp_path / "x.jsonl", *records)
    put(tmp_path / "x.json", json.dumps(records))
    flat = [{**record, "output_image": f"i/{k + 1}.jpg"} for k, record in enumerate(records[:2])]
    pq.write_table(pa.Table.from_pylist(flat), tmp_path / "x.parquet")
    put(
        tmp_path / "x.csv",
        "input_image,output_image,text,depth\ni/0.jpg,i/1.jpg,Paint it red,i/2.jpg\ni/1.jpg,i/2.jpg,变红,\n",
    )
    pair = ("--map", "source=input_image", "--map", "target=output_image", "--map", "instruction=text")
    for name in ("x.jsonl", "x.json", "x.parquet", "x.csv"):
        rows, rejects = shard(edit, tmp_path / name, out=tmp_path / f"{name}-out/", options=(*pair, "--image", "depth"))
        assert [row["source"] for row in rows] == [[made[0]], [made[1]]], name
        assert [row["target"] for row in rows] == [made[1], made[2]]
        assert [row["instruction"] for row in rows] == [{"en": "Paint it red", "zh": None}, {"en": None, "zh": "变红"}]
        assert [row["depth"] for row in rows] == [made[2], None]
        assert [reject["reason"] for reject in rejects] == ["missing file"] * name.startswith("x.js")
    for name in ("x.jsonl", "x.parquet"):
        options = ("--map", "source=refs", "--map", "target=output_image")
        rows, _ = shard(edit, tmp_path / name, out=tmp_path / f"{name}-refs/", options=options)
        assert [row["source"] for row in rows] == [[made[3]], [made[3], made[4]]], name
    swap = ("--map", "source=target", "--map", "target=source")
    lines(tmp_path / "pairs.jsonl", {"source": "i/0.jpg", "target": "i/1.jpg"})
    rows, _ = shard(edit, tmp_path / "pairs.jsonl", out=tmp_path / "swapped", options=swap)
    assert (rows[0]["source"], rows[0]["target"]) == ([made[1]], made[0])
    piped = edit("shard", *pair, "-f", "jsonl", stdin=(tmp_path / "x.csv").read_bytes(), cwd=tmp_path, check=1)
    assert "not an Arrow stream" in piped.stderr, "nothing tells a CSV without a name"
    piped = edit("shard", *pair, "-f", "jsonl", *ANY, stdin=(tmp_path / "x.json").read_bytes(), cwd=tmp_path)
    assert len(piped.lines) == 2


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.tar", "folder"])
def test_map_is_carried_out_or_refused(edit: Runner, tmp_path: Path, name: str) -> None:
    """Never a column of another name than the one that was asked for."""
    record = {"prompts": ["a", "b"], "number": 3, "text": "t", "note": "n"}
    sidecar = json.dumps(record).encode()
    put(tmp_path / "p.jpg", image(0))
    lines(tmp_path / "x.jsonl", {"image": "p.jpg", **record})
    pq.write_table(
        pa.Table.from_pylist([{"image": {"bytes": image(0), "path": None}, **record}]), tmp_path / "x.parquet"
    )
    put(tmp_path / "x.tar", tar_bytes([("p.jpg", image(0)), ("p.json", sidecar)]))
    put(tmp_path / "folder/p.jpg", image(0))
    put(tmp_path / "folder/p.json", sidecar)
    for pair, said in {
        "instruction=prompts": "instruction",
        "instruction=number": "instruction",
        "target=number": "target",
        "caption=prompts": "caption",
        "x=nothing": "nothing",
        "note=text": "note",
        "turns=text": "turns",
    }.items():
        refused = edit("shard", tmp_path / name, "-o", tmp_path / "no", "--map", pair, check=2).stderr
        assert f"--map {pair}" in refused and said in refused and not (tmp_path / "no").exists(), pair
    for pairs in (("a=text", "b=text"), ("a=text", "a=note")):
        options = [word for pair in pairs for word in ("--map", pair)]
        edit("shard", tmp_path / name, "-o", tmp_path / "no", *options, check=2)
    options = ("--map", "instruction=text", "--map", "id=note", "--map", "note=prompts")
    rows, _ = shard(edit, tmp_path / name, out=tmp_path / "out", options=options)
    assert rows[0]["instruction"]["en"] == "t" and rows[0]["id"] == "n" and rows[0]["note"] == ["a", "b"]
    assert not [column for column in rows[0] if column.startswith("user_") and column != "user_id"]


def test_sidecars_that_name_images(edit: Runner, tmp_path: Path) -> None:
    put(tmp_path / "in/a.jpg", image(0))
    put(tmp_path / "in/a.caption", "a caption")
    put(tmp_path / "maps/a.png", image(1, "PNG"))
    put(tmp_path / "in/a.json", '{"depth": "../maps/a.png", "more": ["../maps/a.png"]}')
    put(tmp_path / "x.tar", tar_bytes([("a.jpg", image(0)), ("a.json", b'{"depth": "a.png"}')]))
    (row,), rejects = shard(
        edit, tmp_path / "in", out=tmp_path / "out", options=("--image", "depth", "--image", "more")
    )
    assert (row["depth"], row["more"], row["caption"]["en"]) == (image(1, "PNG"), [image(1, "PNG")], "a caption")
    (row,), rejects = shard(edit, tmp_path / "in", out=tmp_path / "mask", options=("--map", "mask=depth"))
    assert row["mask"] == image(1, "PNG") and not rejects
    for options in (("--image", "depth"), ("--image", "nothing"), ("--map", "mask=depth")):
        edit("shard", tmp_path / "x.tar", "-o", tmp_path / "no", *options, check=2)


def test_tables_that_change_while_they_are_read(tmp_path: Path) -> None:
    """Their rows are not those that were counted: an end of the run that names the file, not a loss of rows. A sidecar
    has been read by then, once."""
    from edittools.errors import EditError

    images(tmp_path, 2)
    lines(tmp_path / "x.jsonl", {"image": "0.jpg"}, {"image": "1.jpg"})
    parquet(tmp_path / "x.parquet", ("target", [held(image(0))], HF))
    put(tmp_path / "x.tar", tar_bytes([("a.jpg", image(0))]))
    for name in ("x.jsonl", "x.parquet", "x.tar"):
        source = open_source([str(tmp_path / name)])
        os.utime(tmp_path / name, ns=(1, 1))
        with pytest.raises(EditError, match=name):
            list(source.batches(lambda shard: True))
    put(tmp_path / "in/a.jpg", image(0))
    put(tmp_path / "in/a.json", '{"x": 1}')
    source = open_source([str(tmp_path / "in")])
    put(tmp_path / "in/a.json", '{"x": 1, "y": 2}')
    (batch, _) = source.batches(lambda shard: True)
    assert not batch.rejects and batch.rows.column("x").to_pylist() == [1]


def test_a_value_that_map_cannot_place_costs_its_row(edit: Runner, tmp_path: Path) -> None:
    images(tmp_path, 2)
    lines(tmp_path / "x.jsonl", {"image": "0.jpg", "text": "fine"}, {"image": "1.jpg", "text": ["not", "one"]})
    rows, rejects = shard(edit, tmp_path / "x.jsonl", out=tmp_path / "out", options=("--map", "instruction=text"))
    assert [row["instruction"]["en"] for row in rows] == ["fine"]
    assert [(reject["reason"], reject["path"]) for reject in rejects] == [("does not fit `instruction`", "x.jsonl/1")]


# ---------------------------------------------------------------- JSON and CSV files


def test_json_that_is_no_lines(edit: Runner, tmp_path: Path) -> None:
    made = images(tmp_path, 3)
    records = [{"image": f"{k}.jpg", "n": k} for k in range(3)]
    by_name = {f"key{k}": record for k, record in enumerate(records)}
    for name, text in {
        "array": json.dumps(records),
        "indented": "\ufeff" + json.dumps(records, indent=2) + "\n",
        "by-name": json.dumps(by_name),
        "by-name-indented": json.dumps(by_name, indent=1),
    }.items():
        put(tmp_path / f"{name}.json", text)
        rows, rejects = shard(edit, tmp_path / f"{name}.json", out=tmp_path / name)
        assert not rejects and [(row["target"], row["n"]) for row in rows] == [(made[k], k) for k in range(3)], name
        assert ("key" in rows[0]) == name.startswith("by-name")
    put(tmp_path / "one.json", json.dumps({"source": {"file": "0.jpg"}, "target": {"file": "1.jpg"}}, indent=2))
    rows, _ = shard(edit, tmp_path / "one.json", out=tmp_path / "one")
    assert [(row["source"], row["target"]) for row in rows] == [([made[0]], made[1])]
    put(tmp_path / "odd.json", '[{"image": "0.jpg"}, 7, "a, ]", null, [1], {"image": "1.jpg"}]')
    rows, rejects = shard(edit, tmp_path / "odd.json", out=tmp_path / "odd")
    assert len(rows) == 2 and [reject["reason"] for reject in rejects] == ["not a JSON object"] * 4
    for name, end in (
        ("cut", ', {"image": "1.j'),
        ("cut2", ","),
        ("tail", '] {"image": "1.jpg"}'),
        ("bad", ', {"a": nope}]'),
    ):
        put(tmp_path / f"{name}.json", '[{"image": "0.jpg"}' + end)
        rows, rejects = shard(edit, tmp_path / f"{name}.json", out=tmp_path / name)
        assert len(rows) == 1 and [reject["reason"] for reject in rejects] == ["not JSON"], name


def test_other_shapes_of_json(edit: Runner, tmp_path: Path) -> None:
    """A name twice, lists of images, nothing at all, and an object of tables, which is nobody's row."""
    made = images(tmp_path, 2)
    put(tmp_path / "twice.jsonl", '{"image": "0.jpg", "note": "a", "note": "b", "in": {"x": 1, "x": 2}}')
    (row,), _ = shard(edit, tmp_path / "twice.jsonl", out=tmp_path / "twice")
    assert (row["note"], row["user_note"], row["in"]) == ("a", "b", {"x": 1, "user_x": 2})
    lines(tmp_path / "lists.jsonl", {"image": ["0.jpg"]}, {"image": ["0.jpg", "1.jpg"]})
    rows, rejects = shard(edit, tmp_path / "lists.jsonl", out=tmp_path / "lists")
    assert rows[0]["target"] == made[0] and rows[1]["image"] == made and not rejects
    for name, text in (("empty.json", "[]"), ("empty.jsonl", "")):
        put(tmp_path / name, text)
        assert "0 rows in; 0 out" in edit("shard", tmp_path / name, "-o", f"{tmp_path}/out-{name}/").stderr
    put(
        tmp_path / "coco.json", json.dumps({"images": [{"file_name": "0.jpg"}], "annotations": [{"id": 1}], "info": {}})
    )
    refused = edit("shard", tmp_path / "coco.json", "-o", tmp_path / "no", check=2).stderr
    assert "coco.json" in refused and "images" in refused and "annotations" in refused and "jq" in refused


def test_a_long_array_is_read_piece_by_piece(edit: Runner, tmp_path: Path) -> None:
    """Records and characters that lie across the pieces, and one that is longer than several of them."""
    images(tmp_path, 1)
    records = [{"image": "0.jpg", "n": k, "note": "é" * (5 << 20 if k == 700 else 900 + k)} for k in range(1500)]
    put(tmp_path / "x.json", json.dumps(records, ensure_ascii=False))
    rows = edit("cat", tmp_path / "x.json", "-f", "jsonl").lines
    assert [(row["n"], row["note"]) for row in rows] == [(record["n"], record["note"]) for record in records]


def test_tables_of_text(edit: Runner, tmp_path: Path) -> None:
    made = images(tmp_path, 3)
    put(tmp_path / "x.csv", '\ufefffile_name,caption\r\n0.jpg,"one, and\r\nmore"\r\n\r\n1.jpg,\r\n2.jpg,c,d\r\n')
    rows, rejects = shard(edit, tmp_path / "x.csv", out=tmp_path / "out")
    assert [row["target"] for row in rows] == made[:2] and [reject["reason"] for reject in rejects] == [
        "more cells than columns"
    ]
    assert [(row["caption"] or {}).get("en") for row in rows] == ["one, and\r\nmore", None]
    put(tmp_path / "x.tsv", "file_name\tn\n2.jpg\t5\n")
    assert shard(edit, tmp_path / "x.tsv", out=tmp_path / "tabs")[0][0]["n"] == "5"


# ---------------------------------------------------------------- folders


def parquet(path: Path, *columns: tuple[str, list, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: pa.array(values, kind) for name, values, kind in columns}), path)
    return path


def held(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": "x.jpg"}


def test_a_repository_of_the_hub(edit: Runner, tmp_path: Path) -> None:
    put(tmp_path / "repo/README.md", "# card")
    put(tmp_path / "repo/.gitattributes", "x")
    put(tmp_path / "repo/data/stats.json", "{}")
    for s in range(2):
        parquet(tmp_path / f"repo/data/train-{s}.parquet", ("image", [held(image(3 * s + k)) for k in range(3)], HF))
    for s in range(2):  # of one name, in two folders
        put(tmp_path / f"tars/{s}/x.tar", tar_bytes([("a.jpg", image(50))]))
    rows, rejects = shard(edit, tmp_path / "repo", out=tmp_path / "out")
    assert [row["image"] for row in rows] == [image(k) for k in range(6)]
    assert rows[0]["provenance"]["path"] == "data/train-0.parquet/0"
    assert {(reject["path"], reject["failed"]) for reject in rejects} == {
        ("README.md", False),
        ("data/stats.json", False),
    }
    rows, rejects = shard(edit, tmp_path / "tars", out=tmp_path / "out2")
    assert [row["provenance"]["path"] for row in rows] == ["0/x.tar/a", "1/x.tar/a"] and not rejects
    both = edit("shard", tmp_path / "repo", tmp_path / "tars", "-o", tmp_path / "both")
    assert "rejected: 2 neither a picture nor a table" in both.stderr


def test_what_img2dataset_writes(edit: Runner, tmp_path: Path) -> None:
    for s in range(2):
        known, members = [], []
        for k in range(4):
            ok = k != 2
            meta = {
                "url": f"http://x/{k}",
                "key": f"{s}{k}",
                "status": "success" if ok else "failed_to_download",
                "error_message": None if ok else "HTTP Error 404",
                "width": 40 if ok else None,
            }
            known.append({**meta, "similarity": k / 8})
            if ok:
                members += [(f"{s}{k}.jpg", image(10 * s + k)), (f"{s}{k}.txt", f"photo {k}".encode())]
                members += [(f"{s}{k}.json", json.dumps(meta).encode())]
        put(tmp_path / f"crawl/{s:05d}.tar", tar_bytes(members))
        pq.write_table(pa.Table.from_pylist(known), tmp_path / f"crawl/{s:05d}.parquet")
        put(tmp_path / f"crawl/{s:05d}_stats.json", '{"count": 4}')
    edit("shard", tmp_path / "crawl", "-o", tmp_path / "out")
    rows, rejects = rows_of(tmp_path / "out"), rejects_of(tmp_path / "out")
    assert [row["target"] for row in rows] == [image(10 * s + k) for s in range(2) for k in (0, 1, 3)]
    assert [row["similarity"] for row in rows] == [0, 0.125, 0.375] * 2 and rows[1]["caption"]["en"] == "photo 1"
    told = [(reject["reason"], reject["value"], reject["failed"]) for reject in rejects if reject["value"]]
    assert told == [("failed_to_download", "HTTP Error 404", False)] * 2 and len(rejects) == 4


def test_what_img2dataset_writes_in_its_other_formats(edit: Runner, tmp_path: Path) -> None:
    """A folder of files beside the table, and a table with the images inside, the first of them not fetched."""
    known = [
        {
            "key": str(k),
            "caption": f"c{k}",
            "status": "success" if k else "failed",
            "error_message": None if k else "404",
        }
        for k in range(3)
    ]
    for k in (1, 2):
        put(tmp_path / f"files/00000/{k}.jpg", image(k))
        put(tmp_path / f"files/00000/{k}.txt", f"c{k}")
        put(tmp_path / f"files/00000/{k}.json", json.dumps(known[k]))
    pq.write_table(pa.Table.from_pylist(known), tmp_path / "files/00000.parquet")
    put(tmp_path / "files/00000_stats.json", "{}")
    inside = [{**record, "jpg": image(k) if k else None} for k, record in enumerate(known)]
    (tmp_path / "inside").mkdir()
    pq.write_table(pa.Table.from_pylist(inside), tmp_path / "inside/00000.parquet")
    put(tmp_path / "inside/00000_stats.json", "{}")
    for kind in ("files", "inside"):
        edit("shard", tmp_path / kind, "-o", tmp_path / f"{kind}-out")
        rows, rejects = rows_of(tmp_path / f"{kind}-out"), rejects_of(tmp_path / f"{kind}-out")
        assert [(row["target"], row["caption"]["en"]) for row in rows] == [(image(k), f"c{k}") for k in (1, 2)]
        assert len(rejects) == 2 and not any(reject["failed"] for reject in rejects)
    assert ("failed", "404") in {(reject["reason"], reject["value"]) for reject in rejects}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "json"])
def test_metadata_and_what_it_does_not_name(edit: Runner, tmp_path: Path, kind: str) -> None:
    made = images(tmp_path / "in/train", 4)
    put(tmp_path / "in/train/0.txt", "a sidecar")
    records = [{"file_name": f"{k}.jpg", "text": f"t{k}"} for k in (0, 2)] + [{"file_name": "gone.jpg", "text": "x"}]
    path = tmp_path / f"in/train/metadata.{kind}"
    if kind == "jsonl":
        lines(path, *records)
    elif kind == "csv":
        put(path, "file_name,text\n" + "".join(f"{r['file_name']},{r['text']}\n" for r in records))
    elif kind == "json":
        put(path, json.dumps(records))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    rows, rejects = shard(edit, tmp_path / "in", out=tmp_path / "out")
    assert [(row["target"], row["text"]) for row in rows] == [
        (made[0], "t0"),
        (made[2], "t2"),
        (made[1], None),
        (made[3], None),
    ]
    assert sorted((reject["reason"], reject["failed"]) for reject in rejects) == [
        ("missing file", True),
        ("neither a picture nor a table", False),
    ]


def test_lines_beside_images_are_read_where_they_name_them(edit: Runner, tmp_path: Path) -> None:
    made = images(tmp_path / "in/images", 3)
    lines(tmp_path / "in/train.jsonl", {"source": "images/0.jpg", "target": "images/1.jpg", "instruction": "Go"})
    rows, rejects = shard(edit, tmp_path / "in", out=tmp_path / "out")
    assert [(row["source"], row["target"]) for row in rows] == [([made[0]], made[1]), (None, made[2])] and not rejects


def test_a_folder_of_lists(edit: Runner, tmp_path: Path) -> None:
    """Nothing in it but tables of another kind, whose images are elsewhere; and tables in folders, by a pattern."""
    made = images(tmp_path / "p", 2)
    put(tmp_path / "in/data/a.csv", "image\n../../p/0.jpg\n")
    put(tmp_path / "in/data/b.json", json.dumps([{"image": "../../p/1.jpg"}]))
    put(tmp_path / "in/README.md", "# card")
    rows, rejects = shard(edit, tmp_path / "in", out=tmp_path / "out")
    assert [row["target"] for row in rows] == made and [reject["path"] for reject in rejects] == ["README.md"]
    for k in range(2):
        put(tmp_path / f"deep/{k}/x/{k}.tar", tar_bytes([("a.jpg", image(k))]))
    rows, _ = shard(edit, f"{tmp_path}/deep/**/*.tar", out=tmp_path / "deep-out")
    assert [row["target"] for row in rows] == made


def test_a_folder_that_can_be_read_in_two_ways(edit: Runner, tmp_path: Path) -> None:
    images(tmp_path / "in", 1)
    parquet(tmp_path / "in/data/x.parquet", ("image", [held(image(5))], HF))
    refused = edit("shard", tmp_path / "in", "-o", tmp_path / "no", check=2).stderr
    assert "0.jpg" in refused and "data/x.parquet" in refused
    put(tmp_path / "bare/0a1b2c", image(1))  # an image all the same
    lines(tmp_path / "bare/log.jsonl", {"message": "fetched"})
    assert len(shard(edit, tmp_path / "bare", out=tmp_path / "bare-out")[0]) == 1
    edit("shard", tmp_path / "in/data", "-o", tmp_path / "work/raw")
    edit("shard", tmp_path / "in/data", "-o", tmp_path / "work/clean")
    assert "holds the shard set" in edit("cat", tmp_path / "work", "-f", "jsonl", check=2).stderr


def test_a_tar_and_a_table_in_one_folder(edit: Runner, tmp_path: Path) -> None:
    put(tmp_path / "in/a.tar", tar_bytes([("0.jpg", image(0)), ("0.txt", b"one")]))
    parquet(tmp_path / "in/b.parquet", ("target", [held(image(1))], HF), ("caption", ["two"], pa.string()))
    lines(tmp_path / "in/c.jsonl", {"target": "nothing", "caption": "three"})
    rows, rejects = shard(edit, tmp_path / "in", out=tmp_path / "out")
    assert [row["caption"]["en"] for row in rows] == ["one", "two"] and len(rejects) == 1


def test_inputs_of_one_name(edit: Runner, tmp_path: Path) -> None:
    for folder in ("short", "long"):
        images(tmp_path / folder, 2)
        put(tmp_path / f"{folder}/x.tar", tar_bytes([("a.jpg", image(0)), ("a.txt", folder.encode())]))
        parquet(tmp_path / f"{folder}/x.parquet", ("target", [held(image(0))], HF), ("caption", [folder], pa.string()))
        lines(tmp_path / f"{folder}/x.jsonl", {"image": "0.jpg", "caption": folder})
        put(tmp_path / f"{folder}/0.txt", folder)
    for name in ("x.tar", "x.parquet", "x.jsonl", "0.jpg"):
        given = [tmp_path / folder / name for folder in ("short", "long")]
        rows, rejects = shard(edit, *given, out=tmp_path / f"{name}-out/")
        assert len(rows) == 2 and len({row["id"] for row in rows}) == 2 and not rejects, name
    twice = [tmp_path / "short/x.jsonl"] * 2
    assert len(shard(edit, *twice, out=tmp_path / "twice")[0]) == 2
    edit("cat", tmp_path / "short/x.jsonl", tmp_path / "long/x.jsonl", "-o", tmp_path / "both.tar", "--max-errors", 0)


# ---------------------------------------------------------------- Parquet


def test_first_cells_that_are_empty(edit: Runner, tmp_path: Path) -> None:
    many = [None] * 100 + [b""] + [image(k) for k in range(3)]
    table = pa.table({"target": pa.array(many, pa.binary()), "mask": pa.array([None] * 104, pa.binary())})
    for size in (104, 10):
        pq.write_table(table, tmp_path / f"{size}.parquet", row_group_size=size)
        rows, rejects = shard(edit, tmp_path / f"{size}.parquet", out=tmp_path / f"{size}")
        assert [row["target"] for row in rows] == [image(k) for k in range(3)] and len(rejects) == 101
    parquet(tmp_path / "hf.parquet", ("target", [None, None, held(image(1))], HF), ("mask", [None] * 3, HF))
    assert [row["target"] for row in shard(edit, tmp_path / "hf.parquet", out=tmp_path / "hf")[0]] == [image(1)]


def test_parquet_that_names_files(edit: Runner, tmp_path: Path) -> None:
    made = images(tmp_path / "p", 4)
    whole = str(tmp_path / "p/0.jpg")
    targets = [
        {"bytes": None, "path": whole},
        {"bytes": None, "path": "p/1.jpg"},
        held(image(9)),
        None,
        {"bytes": None, "path": "p/gone.jpg"},
    ]
    views = [[{"bytes": None, "path": "p/2.jpg"}, held(image(8))], [], None, None, None]
    parquet(tmp_path / "x.parquet", ("target", targets, HF), ("views", views, pa.list_(HF)))
    rows, rejects = shard(edit, tmp_path / "x.parquet", out=tmp_path / "out")
    assert [row["target"] for row in rows] == [made[0], made[1], image(9)]
    assert rows[0]["views"] == [made[2], image(8)]
    assert sorted(reject["reason"] for reject in rejects) == ["missing file", "no picture"]
    parquet(
        tmp_path / "y.parquet", ("image", ["p/0.jpg", "p/1.jpg"], pa.string()), ("source", ["web", "web"], pa.string())
    )
    rows, _ = shard(edit, tmp_path / "y.parquet", out=tmp_path / "named")
    assert [row["target"] for row in rows] == made[:2] and [row["user_source"] for row in rows] == ["web", "web"]
    # The rows stay, an image does not: what is there was made of another one.
    put(tmp_path / "p/1.jpg", image(7))
    assert "--overwrite" in edit("shard", tmp_path / "y.parquet", "-o", tmp_path / "named", check=1).stderr


def test_text_of_parquet_that_is_not_utf8(edit: Runner, tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9", "猫在睡觉".encode("gbk"), b"fine"]).view(pa.string())
    tags = pa.ListArray.from_arrays(
        pa.array([0, 1, 1, 3], pa.int32()), pa.array([b"\xff", b"a", b"b"]).view(pa.string())
    )
    table = pa.table(
        {
            "target": [image(k) for k in range(3)],
            "caption": bad,
            "tags": tags,
            "more": pa.StructArray.from_arrays([bad], names=["x"]),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    rows, rejects = shard(edit, tmp_path / "x.parquet", out=tmp_path / "out")
    assert not rejects
    assert [row["more"]["x"] for row in rows] == ["café", "猫在睡觉", "fine"] and rows[1]["caption"]["zh"] == "猫在睡觉"
    assert [row["tags"] for row in rows] == [["ÿ"], [], ["a", "b"]]


# ---------------------------------------------------------------- while it runs


def test_files_that_go_while_a_crawl_is_read(edit: Runner, tmp_path: Path) -> None:
    """Deleted, rewritten, a folder in its place, a pipe in its place: each costs its own row; a sidecar was read."""
    count = 2500
    for k in range(count):
        put(tmp_path / f"in/{k:04d}.jpg", image(k % 8) + struct.pack(">I", k))
    for k in range(2490, 2496):
        put(tmp_path / f"in/{k:04d}.txt", "a caption")
    with open(tmp_path / "log", "wb") as log, open(os.devnull, "rb") as nothing:
        child = edit.start(
            "shard",
            tmp_path / "in",
            "-q",
            "-j",
            1,
            "-o",
            tmp_path / "out",
            *ANY,
            stdin=nothing.fileno(),
            stdout=log.fileno(),
            stderr=log.fileno(),
        )
    while not (tmp_path / "out/00000.parquet").exists():
        time.sleep(0.005)
    (tmp_path / "in/2490.jpg").unlink()
    (tmp_path / "in/2491.txt").unlink()
    put(tmp_path / "in/2492.jpg", b"another file")
    for name, make in (("2493.jpg", os.mkdir), ("2494.jpg", os.mkfifo)):
        (tmp_path / "in" / name).unlink()
        make(tmp_path / "in" / name)
    put(tmp_path / "in/2495.jpg", image(3) + struct.pack(">I", 2495))
    assert child.wait() == 0, (tmp_path / "log").read_text()
    reasons = {reject["path"]: reject["reason"] for reject in rejects_of(tmp_path / "out")}
    assert reasons == {
        "2490.jpg": "missing file",
        "2492.jpg": "file changed while it was read",
        "2493.jpg": "cannot read",
        "2494.jpg": "cannot read",
        "2495.jpg": "file changed while it was read",
    }
    assert len(rows_of(tmp_path / "out")) == count - 5


def test_two_equal_runs_at_once(edit: Runner, tmp_path: Path) -> None:
    """Neither takes the other's unfinished files for those of a dead run; these are removed."""
    for k in range(60):
        put(tmp_path / f"in/{k:04d}.jpg", image(k % 8) + struct.pack(">I", k))
    command = ["shard", tmp_path / "in", "-q", "-j", 1, "--rows", 5]
    edit(*command, "-o", tmp_path / "alone")
    (tmp_path / "out").mkdir()
    put(tmp_path / "out/.tmp-00003.tar-0a0b0c0d", b"of a run that was killed")
    with open(tmp_path / "log", "wb") as log, open(os.devnull, "rb") as nothing:
        children = [
            edit.start(
                *command, "-o", tmp_path / "out", stdin=nothing.fileno(), stdout=log.fileno(), stderr=log.fileno()
            )
            for _ in range(3)
        ]
    assert [child.wait() for child in children] == [0, 0, 0], (tmp_path / "log").read_text()
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert all(
        (tmp_path / "out" / n).read_bytes() == (tmp_path / "alone" / n).read_bytes() for n in names if n[0] == "0"
    )


@pytest.mark.parametrize("kind", ["folder", "tars", "parquets", "lines"])
def test_few_open_files(tmp_path: Path, kind: str) -> None:
    """macOS allows a process 256."""
    for k in range(200 if kind == "folder" else 150):
        data = image(k % 8) + struct.pack(">I", k)
        name = f"in/{k:04d}"
        if kind == "folder":
            put(tmp_path / f"{name}.jpg", data)
        elif kind == "tars":
            put(tmp_path / f"{name}.tar", tar_bytes([(f"{k}.jpg", data)]))
        elif kind == "parquets":
            parquet(tmp_path / f"{name}.parquet", ("target", [held(data)], HF))
        else:
            put(tmp_path / f"p/{k}.jpg", data)
            lines(tmp_path / f"{name}.jsonl", {"image": f"../p/{k}.jpg"})
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))  # noqa: E731
    words = [EDIT, "shard", tmp_path / "in", "-q", "-o", tmp_path / "out"]
    done = subprocess.run(words, preexec_fn=few, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(rows_of(tmp_path / "out")) == (200 if kind == "folder" else 150)


def test_a_file_that_cannot_be_written_is_named(edit: Runner, tmp_path: Path) -> None:
    noise = os.urandom(200_000)
    for k in range(3):
        put(tmp_path / f"in/{k}.jpg", image(k) + noise)
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # noqa: E731
    for out, named in (
        ("set/", "set/00000.tar"),
        ("x.tar", "x.tar"),
        ("x.parquet", "x.parquet"),
        ("x.arrows", "x.arrows"),
    ):
        words = [EDIT, "shard", "in", "-q", "-o", out, *(["--inline"] if out == "x.arrows" else [])]
        done = subprocess.run(words, preexec_fn=small, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1 and f"{named}: cannot be written: File too large" in done.stderr, done.stderr
        assert not list(tmp_path.rglob(".tmp-*"))
    edit("shard", "in", "-o", "set/", cwd=tmp_path)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"ID": 4, "MIN": 0, "MAX": 6, "STEP": 2, "COUNT": 4}, (2, 4)),
        ({"ID": 11, "MIN": 5, "MAX": 11, "STEP": 3, "COUNT": 3}, (2, 3)),
        ({"ID": 5, "MIN": 5, "COUNT": 4}, (0, 4)),
        ({"ID": 3, "MIN": 1, "MAX": 7, "STEP": 1, "COUNT": 3}, None),  # --array=1,3,7
        ({"ID": 2, "MIN": 0, "MAX": 2, "STEP": 1, "COUNT": 2}, None),  # --array=0,2: the other one would do half
        ({"ID": 0, "MIN": 0, "MAX": 2, "STEP": 1, "COUNT": 2}, None),
    ],
)
def test_the_tasks_of_slurm(monkeypatch: pytest.MonkeyPatch, variables: dict, wanted: tuple | None) -> None:
    from edittools.errors import UsageError
    from edittools.stream.tasks import parse_task

    for name in ("ID", "MIN", "MAX", "STEP", "COUNT"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    if wanted is not None:
        assert parse_task("auto") == wanted
        return
    with pytest.raises(UsageError, match="gaps") as refused:
        parse_task("auto")
    assert "EDITTOOLS_TASKS" in str(refused.value.hint)
    monkeypatch.setenv("EDITTOOLS_TASKS", "9")
    assert parse_task("auto") == (variables["ID"], 9)


def test_commands_that_wrote_nothing_say_so(edit: Runner, tmp_path: Path) -> None:
    for k in range(2):
        put(tmp_path / f"in/{k}.source.jpg", image(k))
        put(tmp_path / f"in/{k}.target.jpg", image(k + 5))
        put(tmp_path / f"in/{k}.json", '{"instruction": "make it red"}')
    edit("shard", tmp_path / "in", "-o", tmp_path / "raw")
    assert "nothing written for 2 rows" in edit("caption", tmp_path / "raw", "-o", tmp_path / "c").stderr
    assert "nothing" not in edit("caption", tmp_path / "raw", "-q", "-o", tmp_path / "quiet").stderr


WRITERS = {
    "cat": (),
    "filter": ("--min-side", 1),
    "dedup": (),
    "caption": (),
    "synth": (),
    "score": (),
}


def test_every_command_says_when_it_wrote_nothing(edit: Runner, tmp_path: Path) -> None:
    images(tmp_path, 3)
    pair = {"source": "0.jpg", "target": "1.jpg", "instruction": "make it red", "task": "color_alter"}
    path = lines(tmp_path / "in.jsonl", {**pair, "result": {"file": "2.jpg"}})
    put(tmp_path / "bad/no.jpg", "no picture")
    said = edit("shard", tmp_path / "bad", "-o", tmp_path / "none", *ANY).stderr
    assert "shard: nothing written: none of 1 rows came through" in said
    edit("shard", path, "-o", tmp_path / "raw")
    said = edit("filter", tmp_path / "raw", "--min-side", 9999, "-o", tmp_path / "empty").stderr
    assert "filter: nothing written: none of 1 rows came through" in said
    for name, options in WRITERS.items():
        for end in ("", ".tar", ".jsonl"):
            said = edit(name, tmp_path / "empty", *options, "-o", tmp_path / f"{name}{end}").stderr
            assert f"{name}: nothing written: no row came in" in said, said
        assert "nothing" not in edit(name, tmp_path / "empty", *options, "-q", "-o", tmp_path / f"{name}-q").stderr
        if name not in ("caption", "synth"):  # of which this pair has nothing
            said = edit(name, tmp_path / "raw", *options, "-o", tmp_path / f"{name}-1").stderr
            assert "nothing written" not in said


def test_a_growing_crawl_gets_further_shards(edit: Runner, tmp_path: Path) -> None:
    crawl, out = tmp_path / "crawl", tmp_path / "out"
    for k in range(10):
        put(crawl / f"{k}.jpg", image(k))
    put(crawl / "3.txt", "a caption")
    put(crawl / "no.jpg", "not an image")
    words = ["shard", crawl, "--rows", 4, "-o", out, *ANY]
    edit(*words)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("0*")}
    ids = [row["id"] for row in rows_of(out)]
    for name in ("2b", "9b", "aa", "zz", "0b", "0c"):  # before, between and behind what is there
        put(crawl / f"{name}.jpg", image(ord(name[0]) + 20 * ord(name[1])))
    edit(*words, "--task", "1/2")
    cut = rows_of(out)
    edit(*words)
    assert {name: ((out / name).stat().st_mtime_ns, (out / name).read_bytes()) for name in before} == before
    rows = rows_of(out)
    assert [row["id"] for row in rows[:10]] == ids and len(cut) < len(rows) == 16
    assert {row["provenance"]["path"] for row in rows[10:]} == {
        f"{n}.jpg" for n in ("2b", "9b", "aa", "zz", "0b", "0c")
    }
    end = json.loads((out / "_end.json").read_text())
    assert (end["shards"], end["rows"], end["kept"]) == (5, 17, 16)
    again = edit(*words)  # nothing new: nothing done
    assert "17 rows in shards finished before" in again.stderr
    edit("filter", out, "--min-side", 8, "-o", tmp_path / "clean")
    edit("cat", "--check", out)
    # What is there was made of files that are others by now.
    put(crawl / "3.jpg", image(99))
    assert "--overwrite" in edit(*words, check=1).stderr
    edit(*words, "--overwrite")
    assert len(rows_of(out)) == 16


def test_a_growing_folder_of_tars_gets_further_shards(edit: Runner, tmp_path: Path) -> None:
    for k in (1, 3):
        put(tmp_path / f"in/{k}.tar", tar_bytes([(f"{k}{j}.jpg", image(10 * k + j)) for j in range(3)]))
    words = ["shard", tmp_path / "in", "--rows", 2, "-o", tmp_path / "out"]
    edit(*words)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("0*")}
    put(tmp_path / "in/2.tar", tar_bytes([(f"2{j}.jpg", image(20 + j)) for j in range(3)]))
    edit(*words)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before} == before
    assert [row["target"] for row in rows_of(tmp_path / "out")][6:] == [image(20 + j) for j in range(3)]


def test_growing_lines_get_further_shards(edit: Runner, tmp_path: Path) -> None:
    images(tmp_path, 8)
    path, words = tmp_path / "x.jsonl", ["shard", tmp_path / "x.jsonl", "--rows", 2, "-o", tmp_path / "out"]
    lines(path, *({"image": f"{k}.jpg", "n": k} for k in range(5)))
    edit(*words)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("0*")}
    lines(path, *({"image": f"{k}.jpg", "n": k} for k in range(8)))
    edit(*words)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before} == before
    assert [row["n"] for row in rows_of(tmp_path / "out")] == list(range(8))
    lines(path, *({"image": f"{k}.jpg", "n": k + (k == 3)} for k in range(8)))
    assert "--overwrite" in edit(*words, check=1).stderr, "a row that is there is another one"


def grown_tar(path: Path, count: int, changed: int | None = None) -> None:
    put(path, tar_bytes([(f"{k}.jpg", image(k + 90 * (k == changed))) for k in range(count)]))


def grown_parquet(path: Path, count: int, changed: int | None = None) -> None:
    """Row groups of three: a file grows by whole ones."""
    schema = pa.schema([("image", HF), ("n", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, count, 3):
            numbers = list(range(first, min(first + 3, count)))
            made = [{"bytes": image(k + 90 * (k == changed)), "path": None} for k in numbers]
            writer.write_table(pa.table({"image": made, "n": numbers}, schema=schema))


@pytest.mark.parametrize("name", ["x.tar", "x.parquet"])
def test_a_growing_file_gets_further_shards(edit: Runner, tmp_path: Path, name: str) -> None:
    make, path = (grown_tar if name == "x.tar" else grown_parquet), tmp_path / name
    words = ["shard", path, "--rows", 2, "-o", tmp_path / "out"]
    make(path, 6)
    edit(*words)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("0*")}
    make(path, 11)
    edit(*words)
    assert {file: (tmp_path / "out" / file).stat().st_mtime_ns for file in before} == before
    column = "target" if name == "x.tar" else "image"
    assert [row[column] for row in rows_of(tmp_path / "out")] == [image(k) for k in range(11)]
    assert "11 rows in shards finished before" in edit(*words).stderr
    make(path, 12, changed=4)
    said = edit(*words, check=1).stderr
    assert "rows are gone or changed, row" in said and "--overwrite" in said
    if name == "x.tar":
        assert "1 of its 11 rows are gone or changed, row 0 of shard 2 is the first" in said
    edit(*words, "--overwrite")
    assert [row[column] for row in rows_of(tmp_path / "out")][4] == image(94)


# ---------------------------------------------------------------- anything at all


def everything(path: Path) -> tuple[str, set[bytes], list[Reject]]:
    """What a source gives: all text of its rows and rejects, the images it refers to, and the rejects."""
    rejects: list[Reject] = []
    texts: list[str] = []
    found: set[bytes] = set()

    def look(value: Any) -> None:
        if isinstance(value, dict) and value.keys() == IMAGE_FIELDS:
            if value["file"] is not None and not value["etag"].startswith("!"):
                with open(value["file"], "rb") as file:
                    file.seek(value["offset"])
                    found.add(file.read(value["length"]))
        elif isinstance(value, (dict, list)):
            for item in value.values() if isinstance(value, dict) else value:
                look(item)
        elif value is not None:
            texts.append(value.decode("latin-1") if isinstance(value, bytes) else str(value))

    for batch in open_source([str(path)]).batches(lambda shard: True):
        look(batch.rows.to_pylist())
        look([reject.to_dict() for reject in batch.rejects])
        assert batch.seen == batch.rows.num_rows + len(batch.rejects)
        rejects += batch.rejects
    return " ".join(texts), found, rejects


def test_no_value_of_any_record_is_lost(tmp_path: Path) -> None:
    """Random objects under the record's names and others: every number and word of them is in a row, or in a reject."""
    names = [*COLUMNS, "image", "file_name", "result", "result_x", "a", "user_a", "user_source", "", "x.y"]
    inner = ["parent", "kind", "instruction", "target", "mask", "slots", "name", "box", "score", "more", "en"]
    for seed in range(150):
        draw = random.Random(seed)
        made: list[str] = []

        def value(depth: int, draw: random.Random = draw, made: list[str] = made) -> Any:
            kind = draw.randrange(8) if depth else draw.randrange(3)
            if kind == 0:
                return draw.choice([None, True, False, {}, [], ""])
            if kind < 3:
                number = 100_000 + len(made)
                made.append(str(number))
                return draw.choice([number, number + 0.5, f"w{number}", f"猫{number}\ud83d", number * 10**20])
            size = draw.randrange(3)
            if kind < 6:
                return {draw.choice(inner): value(depth - 1) for _ in range(size)}
            return [value(depth - 1) for _ in range(size)]

        records = [
            {name: value(3) for name in draw.sample(names, draw.randrange(1, 6))} for _ in range(draw.randrange(1, 5))
        ]
        text, _, rejects = everything(lines(tmp_path / "x.jsonl", *records))
        assert {reject.reason for reject in rejects} <= {"missing file"}, rejects
        gone = {int(str(reject.path).rpartition("/")[2]) for reject in rejects}
        kept = json.dumps([record for k, record in enumerate(records) if k not in gone])
        assert not [number for number in made if number in kept and number not in text], (seed, records)


def test_no_file_of_any_sample_is_lost(tmp_path: Path) -> None:
    endings = (
        "jpg JPG png target.jpg source.jpg source.1.jpg source.0.png mask.png depth.png turn.0.target.png txt TXT "
        "caption.txt json JSON x.json npy cls a.b.c a_b.c caption target source depth instruction id provenance objects"
    ).split()
    for seed in range(150):
        draw = random.Random(seed)
        members: list[tuple[str, bytes]] = []
        shown: set[bytes] = set()
        made: list[str] = []
        for number in range(100, draw.randrange(102, 109)):
            ending = draw.choice([*endings, ""])
            name = draw.choice(["a", "b", "d/a", "é"]) + (f".{ending}" if ending else "")
            word = f"w{number}q"
            if ending.lower().endswith(("jpg", "png")):
                data = image(0) + word.encode()
                shown.add(data)
            elif ending.lower() == "json":
                field = draw.choice(["caption", "target", "source", "id", "objects", "provenance", "mask", "x"])
                data = json.dumps({field: draw.choice([word, [word], {"a": word}])}).encode()
            else:
                data = draw.choice([b"", b"\xff\x00"]) + word.encode()
            if not data.startswith(image(0)):
                made.append(word)
            members.append((name, data))
        text, found, _ = everything(put(tmp_path / "x.tar", tar_bytes(members)))
        assert shown <= found and not [word for word in made if word not in text], (seed, [name for name, _ in members])


def test_paths_as_other_systems_spell_them(edit: Runner, tmp_path: Path) -> None:
    """Backslashes, accents in two signs, addresses: where a file is there by that name as it stands, it is that one."""
    import unicodedata

    two = unicodedata.normalize("NFD", "é ü.jpg")
    names = ["sub/0.jpg", two, "my image.jpg", "100%25.jpg", "100%.jpg"]
    for k, name in enumerate(names):
        put(tmp_path / "in" / name, image(k))
    said = ["sub\\0.jpg", unicodedata.normalize("NFC", two), "my%20image.jpg", "100%25.jpg", "no\\such.jpg"]
    lines(tmp_path / "in/metadata.jsonl", *({"file_name": name, "number": k} for k, name in enumerate(said)))
    edit("shard", tmp_path / "in", "-o", tmp_path / "out", *ANY)
    found = {row["number"]: row["target"] for row in rows_of(tmp_path / "out") if row["number"] is not None}
    assert found == {k: image(k) for k in range(4)}
    (reject,) = rejects_of(tmp_path / "out")
    assert (reject["reason"], reject["value"]) == ("missing file", "no\\such.jpg")
    assert len(rows_of(tmp_path / "out")) == 5, "and the image that nobody names"


def test_tables_of_spreadsheets(edit: Runner, tmp_path: Path) -> None:
    for k in range(2):
        put(tmp_path / f"{k}.jpg", image(k))
    for name, sign in (("in.csv", ";"), ("in.csv", "\t"), ("in.tsv", ",")):
        text = f'\ufefffile_name{sign}text\r\n0.jpg{sign}"a{sign} b\nc"\r\n1.jpg{sign}1,5\r\n'
        (tmp_path / name).write_text(text if sign != "," else text.replace("1,5", "15"))
        edit("shard", tmp_path / name, "-o", tmp_path / "out", "--overwrite")
        rows = rows_of(tmp_path / "out")
        assert [row["target"] for row in rows] == [image(0), image(1)]
        assert [row["text"] for row in rows] == [f"a{sign} b\nc", "15" if sign == "," else "1,5"]


@pytest.mark.parametrize("array", [True, False])
def test_json_that_is_nested_deep(edit: Runner, tmp_path: Path, array: bool) -> None:
    """Up to 200 levels it is a value, though Arrow's streams hold less; beyond them it costs its row, never the run."""
    put(tmp_path / "0.jpg", image(0))
    depths = [1, 20, 60, 150, 400, 900, 5000, 2]
    nested = [f'{{"image": "0.jpg", "number": {d}, "deep": {"[" * d}1{"]" * d}}}' for d in depths]
    path = tmp_path / ("in.json" if array else "in.jsonl")
    path.write_text("[" + ",".join(nested) + "]" if array else "\n".join(nested))
    edit("shard", path, "-o", tmp_path / "out", *ANY)
    rows = edit("cat", tmp_path / "out", "-f", "jsonl").lines
    kept = [depth for depth in depths if depth < 200]
    if array:  # of which what follows a value that cannot be decoded cannot be found
        kept = kept[:-1]
    assert [row["number"] for row in rows] == kept
    for row in rows:
        assert json.dumps(row["deep"]).count("[") == row["number"]
    assert {reject["reason"] for reject in rejects_of(tmp_path / "out")} == {"not JSON"}
