"""What is kept of every row of an input: its memory, and that it is the same rows as plain dictionaries would give."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edittools.stream import packed
from edittools.stream.listing import Listing, walk
from edittools.stream.mapping import Mapping
from edittools.stream.opening import open_readers
from edittools.stream.packed import NameSet, Packed
from edittools.stream.readers.folder import folder_groups
from edittools.stream.readers.tar import TarFileReader

ROWS = 6_000


def tar_of(path: Path, names: list[str], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for k, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = k % 7
            tar.addfile(member, io.BytesIO(b"\xff\xd8\xff1234"[: member.size]))
    return path


def many_tar_rows(folder: Path) -> Path:
    names = [f"folder/{k:09d}.{ending}" for k in range(ROWS) for ending in ("jpg", "txt")]
    return tar_of(folder / "in.tar", names)


def many_files(folder: Path) -> Path:
    for k in range(ROWS):
        place = folder / "in" / f"{k // 1000:03d}"
        if k % 1000 == 0:
            place.mkdir(parents=True)
        os.close(os.open(place / f"{k:09d}.jpg", os.O_CREAT | os.O_WRONLY))
    return folder / "in"


def many_lines(folder: Path) -> Path:
    path = many_files(folder)
    named = (json.dumps({"file_name": f"{k // 1000:03d}/{k:09d}.jpg", "caption": "a cat"}) for k in range(ROWS))
    (path / "metadata.jsonl").write_text("\n".join(named))
    return path


def many_paths(folder: Path) -> Path:
    path = many_files(folder)
    named = [f"in/{k // 1000:03d}/{k:09d}.jpg" for k in range(ROWS)]
    pq.write_table(pa.table({"image": named}), path.parent / "in.parquet")
    return path.parent / "in.parquet"


@pytest.mark.parametrize("make", [many_tar_rows, many_files, many_lines, many_paths])
def test_a_row_is_kept_in_less_than_100_bytes(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    small = tmp_path / "one"
    small.mkdir()
    (small / "1.jpg").write_bytes(b"")
    (small / "metadata.jsonl").write_text('{"file_name": "1.jpg", "caption": "a cat"}')
    open_readers(str(small), False, "", Mapping(), None)  # what is loaded once is no row's
    tracemalloc.start()
    try:
        readers = open_readers(str(path), False, "", Mapping(), None)
        assert sum(reader.rows for reader in readers if reader is not None) == ROWS
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100 * ROWS, f"{held / ROWS:.0f} bytes a row"


def test_packed_pieces_come_back_in_any_order_from_memory_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    for limit in (1, 50, 1 << 20):
        monkeypatch.setattr(packed, "_IN_MEMORY", limit)
        pieces = [draw.randbytes(draw.randrange(40)) for _ in range(300)]
        held, other = Packed(), Packed()
        for piece in pieces:  # two at once share a file
            held.append(piece)
            other.append(piece[::-1])
        for k in draw.sample(range(300), 300):
            assert (held[k], other[k]) == (pieces[k], pieces[k][::-1])


def test_packed_pieces_stay_in_memory_where_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed, "_IN_MEMORY", 10)
    monkeypatch.setattr(os, "pwrite", full)
    held = Packed()
    for k in range(100):
        held.append(str(k).encode())
    assert [held[k] for k in range(100)] == [str(k).encode() for k in range(100)]


def test_names_that_are_asked_for() -> None:
    some = NameSet(["a", "b", "ü\ud800"])
    assert "a" in some and "c" not in some and "ü\ud800" in some
    some.add("c")
    other = NameSet(["d", "c"])
    assert "c" in some and some.among(other.hashes()).sum() == 1 and not some.among(NameSet(["d"]).hashes()).any()
    assert not NameSet() and not NameSet().among(other.hashes()).any()


def test_samples_of_tars_are_those_of_a_dictionary(tmp_path: Path) -> None:
    draw = random.Random(1)
    for round_ in range(40):
        names = [
            draw.choice(["", "x/", "x.y/"]) + draw.choice("abc") + draw.choice(["", ".jpg", ".txt", ".source.jpg", "."])
            for _ in range(draw.randrange(1, 25))
        ]
        groups: dict[str, list[dict[str, int]]] = {}
        order: list[tuple[str, dict[str, int]]] = []
        for k, name in enumerate(names):
            folder, slash, base = name.rpartition("/")
            key, _, ending = base.partition(".")
            key = folder + slash + key
            mine = groups.setdefault(key, [])
            if not mine or ending in mine[-1]:
                mine.append({})
                order.append((key if len(mine) == 1 else f"{key}#{len(mine)}", mine[-1]))
            mine[-1][ending] = k % 7
        reader = TarFileReader(str(tar_of(tmp_path / f"{round_}.tar", names)))
        found = [(sample.key, {ending: member.size for ending, member in sample.files}) for sample in reader.index]
        assert found == order, names
        assert len(set(reader.row_keys(0, reader.rows).tolist())) == reader.rows


def test_files_of_folders_come_in_the_order_of_their_paths_and_each_in_one_row(tmp_path: Path) -> None:
    draw = random.Random(2)
    for round_ in range(30):
        root = tmp_path / str(round_)
        for _ in range(draw.randrange(1, 30)):
            folder = root / draw.choice(["", "a", "a.c", "a-b", "ab/c", "B"])
            folder.mkdir(parents=True, exist_ok=True)
            stem, ending = (
                draw.choice(["f", "f.b", "f-", "F", "x.source", "x.target", "x.source.0"]),
                draw.choice([".jpg", ".png", ".txt", ".json", ".caption", "", ".bin"]),
            )
            if not (folder / f"{stem}{ending}").is_dir():
                (folder / f"{stem}{ending}").write_bytes(b"")
        listing = walk(str(root))
        paths = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
        assert [file.inside for file in listing] == sorted(paths)
        rows = [[file.inside for _, file in group.members] for group in folder_groups(listing)]
        of_images = [inside for row in rows for inside in row if not inside.endswith((".txt", ".json", ".caption"))]
        assert sorted(of_images) == sorted(p for p in paths if not p.endswith((".txt", ".json", ".caption")))
        assert {inside for row in rows for inside in row} == set(paths), "no sidecar is lost"
        for group in folder_groups(listing):
            stems = {file.inside.rpartition(".")[0] for _, file in group.members}
            assert len(stems) == 1 or group.key.rpartition("/")[2] == "x"


def test_facts_of_files_come_back_as_they_were() -> None:
    listing = Listing("s3://x/")
    facts = [
        ("a", 5, "5-17"),
        ("ä/b", 5, "5-017"),
        ("c", 0, "!missing file"),
        ("d", 1 << 40, '7-"etag"'),
        ("e", 9, "9--5"),
    ]
    for inside, size, tag in facts:
        listing.add(inside, size, tag)
    assert [(file.inside, file.size, file.etag) for file in listing] == facts
    assert [file.path for file in listing[:2]] == ["s3://x/a", "s3://x/ä/b"] and not listing[2].readable
