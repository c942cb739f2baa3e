"""What `edit dedup --absent` looks into, and what it says of that which it could not."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edittools.dedup import searched
from edittools.dedup.absent import _in_file, files_below
from edittools.dedup.needles import Needles
from edittools.dedup.private_words import PrivateWords

SAID = "Take away Aunt Erna's fur coat, 把左边的小船涂成深蓝色"
LINE = json.dumps({"a": SAID}).encode()


def known(**columns: object) -> PrivateWords:
    row = {"id": "holiday-1", "user_id": None, "provenance": None, "instruction": {"en": SAID}} | columns
    words = PrivateWords()
    words.add(pa.RecordBatch.from_pylist([row]))
    words.finish(True)
    return words


def found(path: Path, words: PrivateWords | None = None, pieces: dict[bytes, str] | None = None) -> list[str]:
    words = words or known()
    needles = Needles(pieces or {}, words)
    return [line for file, name in files_below(str(path)) for line in _in_file(file, name, words, needles)]


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def tar(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def parquet(values: pa.Array) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": values}), sink, compression="zstd")
    return sink.getvalue()


def arrow(data: str) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"x": [data]})
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue()


HOLDERS = {
    "x.parquet": parquet(pa.array([SAID] * 9)),
    "map.parquet": parquet(pa.array([[("k", SAID)]], pa.map_(pa.string(), pa.string()))),
    "x.arrow": arrow(SAID),
    "x.jsonl.gz": gzip.compress(LINE),
    "x.txt.bz2": bz2.compress(SAID.encode()),
    "x.txt.xz": lzma.compress(SAID.encode()),
    "x.tar.zst": zstd(tar("a.json", LINE)),
    "in.zip": zipped("b.zip", zipped("c.tar.gz", gzip.compress(tar("a.json", LINE)))),
    "in.tar": tar("x.gz", gzip.compress(LINE)),
    "le.txt": SAID.encode("utf-16"),
    "be.txt": SAID.encode("utf-16-be"),
    "pretty.json": json.dumps({"a": SAID}, indent=1).encode() + b"!",
}


@pytest.mark.parametrize("name", HOLDERS)
def test_words_are_found_in(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(HOLDERS[name])
    assert any("the words of the private row holiday-1" in line for line in found(tmp_path))


def test_bytes_are_found_in_what_is_compressed(tmp_path: Path) -> None:
    piece = os.urandom(32)
    for name, data in {
        "a.zip": zipped("x", piece * 3),
        "a.gz": gzip.compress(piece * 2),
        "a.parquet": parquet(pa.array([b"ab" + piece])),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert any("bytes of the private P" in line for line in found(tmp_path / name, pieces={piece: "P"})), name


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    whole = zipped("a.txt", os.urandom(5000).hex().encode())
    locked = bytearray(zipped("a.txt", b"x" * 100))
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[locked.index(mark) + place] |= 1  # a password is needed
    packed = gzip.compress(tar("a.txt", os.urandom(5000).hex().encode()))
    long = tar("a.txt", b"x" * 600)
    for name, data in {
        "damaged.zip": whole[:200] + b"\xff" * 100 + whole[300:],
        "locked.zip": bytes(locked),
        "cut.tar.gz": packed[: len(packed) // 2],
        "damaged.tar.gz": packed[:300] + b"\xff" * 100 + packed[400:],
        "damaged.xz": lzma.compress(bytes(9999))[:-40] + b"x" * 40,
        "damaged.tar": long[: 512 + 1024] + b"y" * 512 + tar("b.json", LINE)[512:],
        "cut.tar": long[:800],
        "x.parquet": b"PAR1" + bytes(50),
        "x.7z": b"7z\xbc\xaf\x27\x1c" + bytes(50),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert any("could not be searched" in line for line in found(tmp_path / name)), name
    deep = LINE
    for _ in range(7):
        deep = gzip.compress(deep)
    (tmp_path / "deep.gz").write_bytes(deep)
    assert "too deep" in found(tmp_path / "deep.gz")[0]
    (tmp_path / "set").mkdir()
    (tmp_path / "set/link").symlink_to(tmp_path)
    assert ["could not be searched" in line for line in found(tmp_path / "set")] == [True]


def test_long_texts_are_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searched, "_MOST_TEXT", 1000)
    monkeypatch.setattr(searched, "_OVERLAP", 400)
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n' * 106 + LINE + b'\n{"n": 1}' * 300)  # cut at byte 1000
    assert 106 * 9 < 1000 < 106 * 9 + len(LINE)
    assert any("the words of" in line for line in found(tmp_path))
    assert not any("could not" in line for line in found(tmp_path))
    (tmp_path / "a.jsonl").write_bytes(b"x " * 2000)
    assert "could not be searched" in found(tmp_path)[0]


@pytest.mark.parametrize("length", range(20))
def test_short_files(length: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"z" * length)
    assert found(tmp_path) == []


def test_names_stand_alone(tmp_path: Path) -> None:
    words = known(id="portrait", user_id="image1", provenance={"path": "/home/erna/DCIM/source.jpg"})
    fine = ("portraits", "image12.png", "source.jpg", "aportrait")
    for name in fine:
        (tmp_path / name).write_bytes(name.encode() + b"\0" + name.encode() + b" " + name.encode())
    assert found(tmp_path, words) == []
    for text in ("portrait", "a portrait.", "image1.png", "x_image1_y", "的portrait的"):
        (tmp_path / "x.txt").write_text(text)
        assert len(found(tmp_path / "x.txt", words)) == 2, text  # as text and in the bytes
    (tmp_path / "x.txt").unlink()
    (tmp_path / "portrait").mkdir()
    (tmp_path / "portrait/set").mkdir()
    (tmp_path / "portrait/set/a.txt").write_text("a")
    assert found(tmp_path / "portrait/set", words) == []  # whoever keeps the set may call the folder so
    assert found(tmp_path / "portrait", words) == []
    assert len(found(tmp_path, words)) == 1


def test_names_at_the_edge_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edittools.dedup.needles._BLOCK", 100)
    needles = Needles({}, known(id="portrait", user_id="image1", instruction=None))
    for start in range(60, 130):
        for name in (b"portrait", b"image1"):
            for after, count in ((b"s", 0), (b".", 1), (b"", 1)):
                for before in (b".", b"x"):
                    data = b"." * start + before + name + after + (b"." * 120 if after else b"")
                    assert len(needles.find(io.BytesIO(data))) == (count if before == b"." else 0), (start, name, after)


def test_short_texts_say_little() -> None:
    structured = {
        "image_type": "photograph of a place",
        "visible_text": ["5", "Erna and Otto, married in Graz in May 1961"],
        "subjects": {"main": [{"name": "a woman", "clothing": "a white shirt and a long blue coat, as many have"}]},
    }
    words = known(caption="dog", caption_structured=structured, instruction={"en": "Crop"})
    for text in ("dog", "photograph of a place", "5", "Crop", "a white shirt and a long blue coat, as many have"):
        assert words.find([text]) == [], text
    assert words.find(["x"], ["crop!"]) == ["the words of the private row holiday-1"]
    assert words.find(["erna and otto married in graz in may 1961"])
