"""Archives that were cut into parts for a hub, as inputs."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import zipfile
from pathlib import Path

import pytest
from conftest import Runner, image, rows_of, tar_bytes

from edittools.errors import EditError
from edittools.stream import opening
from edittools.stream.readers import archive, reader_for_file


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
def test_an_archive_in_parts_is_the_archive(edit: Runner, tmp_path: Path, kind: str) -> None:
    """Named by one of its parts or by all of them, or in a folder; images may lie across two parts."""
    members = [(f"{k}.{role}.png", image(10 * k + n)) for k in range(6) for n, role in enumerate(("source", "target"))]
    members += [(f"{k}.txt", f"number {k}".encode()) for k in range(6)]
    whole = zip_of(members) if kind == "zip" else tar_bytes(members)
    whole = {"tar.gz": gzip.compress, "tar.xz": lzma.compress}.get(kind, bytes)(whole)
    size = len(whole) // 4 + 1
    (tmp_path / "in").mkdir()
    names = [f"in/x.{kind}.{f'split.{n:03d}' if kind == 'tar' else f'part-a{chr(97 + n)}'}" for n in range(4)]
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(whole[n * size : (n + 1) * size])
    paths = [tmp_path / name for name in names]
    wanted = [(f"number {k}", [image(10 * k)], image(10 * k + 1)) for k in range(6)]
    (tmp_path / f"x.{kind}").write_bytes(whole)
    edit("shard", tmp_path / f"x.{kind}", "-o", tmp_path / "whole")
    inputs: dict[str, list[Path]] = {
        "first": paths[:1],
        "other": paths[2:3],
        "all": paths[::-1],
        "folder": [tmp_path / "in"],
    }
    for name, given in inputs.items():
        edit("shard", *given, "-o", tmp_path / name)
        rows = rows_of(tmp_path / name)
        assert sorted((row["instruction"]["en"], row["source"], row["target"]) for row in rows) == wanted, name
        assert [row["id"] for row in rows] == [row["id"] for row in rows_of(tmp_path / "whole")], name
    paths[1].unlink()
    for given in (paths[:1], [tmp_path / "in"]):
        assert "number 1 is missing" in edit("shard", *given, "-o", tmp_path / "gap", check=1).stderr


def test_the_tag_of_an_archive_in_parts_is_that_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = zip_of([("0.png", image(1)), ("0.txt", b"a")])
    paths = [str(tmp_path / f"x.zip.part-a{sign}") for sign in "abcdefgh"]
    size = len(whole) // len(paths) + 1
    for k, path in enumerate(paths):
        Path(path).write_bytes(whole[k * size : (k + 1) * size])
    before = reader_for_file(paths[0])
    digest = before.digest
    Path(paths[5]).write_bytes(whole[5 * size : 6 * size] + b" ")
    archive._unpacked().held = None  # as after other archives
    with pytest.raises(EditError, match="changed while it was read"):
        list(before.read(0, 1, 1))
    Path(paths[5]).write_bytes(whole[5 * size : 6 * size])
    os.utime(paths[5], (1, 1))
    assert reader_for_file(paths[0]).digest != digest
    listed: list[str] = []

    def listdir(folder: str) -> list[str]:
        listed.append(folder)
        return os.listdir(folder)

    monkeypatch.setattr("edittools.stream.files.listdir", listdir)
    assert opening._wholes([*paths, *paths, "y.tar", "y.tar"]) == [paths[0], "y.tar", "y.tar"]
    assert len(listed) == 1


def zip_of(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, data in members:
            zipped.writestr(name, data)
    return buffer.getvalue()
