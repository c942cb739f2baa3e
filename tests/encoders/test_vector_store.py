"""Vectors that are kept by the content of images: what is found again, by which facts, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stub_embedder import StubEmbedder

from edittools.encoders import vector_store
from edittools.encoders.vector_store import VectorStore, of_embedder
from edittools.errors import EditError, UsageError
from edittools.stream import codec


def contents(first: int, last: int) -> list[bytes]:
    return [hashlib.sha256(str(k).encode()).digest() for k in range(first, last)]


def test_what_was_added_is_found_by_whoever_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_store, "_FILE_ROWS", 8)
    values = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    store = VectorStore(f"{tmp_path}/v", {"model": "a"}, 5)
    for start in range(0, 20, 3):
        store.add(contents(start, min(start + 3, 20)), values[start : start + 3])
    assert contents(17, 18)[0] in store and contents(19, 20)[0] not in store  # what is not committed is not found
    store.flush()
    store.add(contents(0, 4), values[:4])  # another run was faster
    store.flush()
    assert len(list((tmp_path / "v").iterdir())) == 3
    again = VectorStore(f"{tmp_path}/v", {"model": "a"}, 5)
    assert all((again[one] == value).all() for one, value in zip(contents(0, 20), values))
    with pytest.raises(KeyError):
        again[contents(20, 21)[0]]
    for facts, length, kind in (({"model": "b"}, 5, np.float32), ({"model": "a"}, 4, np.float32)):
        assert contents(0, 1)[0] not in VectorStore(f"{tmp_path}/v", facts, length, kind)
    words = VectorStore(f"{tmp_path}/v", {"model": "a"}, 8, np.uint64)
    words.add(contents(0, 1), np.full((1, 8), 2**63 + 1, np.uint64))
    words.flush()
    assert VectorStore(f"{tmp_path}/v", {"model": "a"}, 8, np.uint64)[contents(0, 1)[0]].tolist() == [2**63 + 1] * 8


def test_the_facts_name_all_that_decides_a_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    raster = codec.Raster(short_side=512)

    def facts(revision: str = "1", device: str = "cpu", dtype: str = "float32", to: codec.Raster = raster) -> str:
        model = StubEmbedder("clip", 4)
        model.revision = revision
        return str(sorted(of_embedder(model, device, dtype, to).items()))

    seen = [facts(), facts("2"), facts(device="cuda"), facts(dtype="bfloat16"), facts(to=codec.Raster(short_side=256))]
    monkeypatch.setattr(StubEmbedder, "VERSION", 2, raising=False)
    seen.append(facts())
    monkeypatch.setattr(codec, "VERSION", codec.VERSION + 1)
    seen.append(facts())
    monkeypatch.setattr(vector_store, "_version", lambda name: "0")
    seen.append(facts())
    assert len(set(seen)) == 8 and facts(device="cuda:0") == facts(device="cuda:1")


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_text("x")
    for folder, why in (("file", "not a folder"), ("photos", "it has a.jpg"), ("s3://x/y", "local folder")):
        with pytest.raises(UsageError, match=why):
            VectorStore(folder if "://" in folder else f"{tmp_path}/{folder}", {}, 5)
    store = VectorStore(f"{tmp_path}/v", {}, 5)
    store.add(contents(0, 3), np.ones((3, 5)))
    store.flush()
    (path,) = (tmp_path / "v").iterdir()
    whole = path.read_bytes()
    other = pa.table({"x": [1]})
    with pa.ipc.new_file(tmp_path / "other.arrow", other.schema) as writer:
        writer.write_table(other)
    strange = VectorStore(f"{tmp_path}/w", {"model": "b"}, 5)
    strange.add(contents(0, 3), np.ones((3, 5)))
    strange.flush()
    (renamed,) = (tmp_path / "w").iterdir()  # vectors of another model by the name of these
    for data in (whole[:-40], b"", (tmp_path / "other.arrow").read_bytes(), renamed.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(EditError) as raised:
            VectorStore(f"{tmp_path}/v", {}, 5)
        assert str(path) in str(raised.value) and "delete the file" in str(raised.value.hint)
