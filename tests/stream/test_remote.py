"""Objects of stores: every byte comes once, whoever reads it, and what comes is what is there."""

from __future__ import annotations

import http.server
import io
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, rows_of

from edittools.stream import files, remote
from edittools.stream.process import PerProcess
from edittools.stream.remote import BLOCK


class Store:
    """A store that counts what it sends; `ranges` is whether it knows parts."""

    async_impl = True

    def __init__(self, data: bytes, ranges: bool = True) -> None:
        self.data, self.ranges = data, ranges
        self.sent: list[tuple[int, int]] = []
        self.fails = 0

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        if self.fails:
            self.fails -= 1
            raise OSError("the connection was reset")
        self.sent.append((start, end))
        return self.data[start:end] if self.ranges else self.data

    def bytes(self) -> int:
        return sum(end - start for start, end in self.sent)


def opened(store: Store) -> remote.Object:
    return remote.Object(store, "x", f"s3://x/{id(store)}", {"size": len(store.data)}, "tag")


@pytest.fixture(autouse=True)
def own_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "shared", PerProcess(remote._Blocks))


def test_threads_that_read_anywhere_fetch_every_byte_once() -> None:
    data = np.random.default_rng(0).bytes(40 * BLOCK + 1234)
    store = Store(data)
    readers = [opened(store), opened(store)]
    places = np.random.default_rng(1).integers(0, len(data), 400).tolist()
    lengths = np.random.default_rng(2).integers(0, 3 * BLOCK, 400).tolist()

    def read(k: int) -> bool:
        return readers[k % 2].read(places[k], lengths[k]) == data[places[k] : places[k] + lengths[k]]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(400)))
    assert store.bytes() <= len(data)


def test_reading_on_takes_ever_larger_parts_and_a_look_takes_one() -> None:
    store = Store(bytes(400 * BLOCK))
    source = opened(store)
    source.read(300 * BLOCK, 100)
    assert store.sent == [(300 * BLOCK, 301 * BLOCK)]
    for k in range(0, 200 * BLOCK, 10_000):
        source.read(k, 512)
    assert len(store.sent) < 12 and store.bytes() <= 280 * BLOCK
    assert max(end - start for start, end in store.sent) == 64 * BLOCK


def test_what_does_not_fit_on_disk_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_LEAST_KEPT", 4)
    monkeypatch.setattr(remote, "_MOST_KEPT", 4 * BLOCK)
    data = np.random.default_rng(0).bytes(30 * BLOCK)
    source = opened(Store(data))
    for _ in range(2):
        for k in range(0, len(data), BLOCK // 2):
            assert source.read(k, BLOCK) == data[k : k + BLOCK]
    blocks = remote.shared()
    assert os.fstat(blocks.file.fileno()).st_size <= 4 * BLOCK

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(remote, "shared", PerProcess(remote._Blocks))
    assert opened(Store(data)).read(5, len(data)) == data[5:]


def test_a_store_without_ranges_and_one_that_fails() -> None:
    data = np.random.default_rng(0).bytes(3 * BLOCK + 5)
    assert opened(Store(data, ranges=False)).read(BLOCK, BLOCK + 9) == data[BLOCK : 2 * BLOCK + 9]
    store = Store(data)
    store.fails = 1
    source = opened(store)
    with pytest.raises(OSError, match="connection was reset"):
        source.read(0, 10)
    assert source.read(0, len(data) + 99) == data, "and after it the same reading goes well"
    with pytest.raises(OSError, match="does not say how large"):
        remote.Object(store, "x", "http://x/y", {"size": None}, "tag")


def test_as_a_file() -> None:
    data = np.random.default_rng(0).bytes(2 * BLOCK + 77)
    file = io.BufferedReader(remote.ObjectFile(opened(Store(data))))
    assert file.read() == data and file.read(1) == b""
    file.seek(-7, os.SEEK_END)
    assert file.read(100) == data[-7:] and file.tell() == len(data)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET(head=True)

    def do_GET(self, head: bool = False) -> None:
        data = self.server.files.get(self.path)  # type: ignore[attr-defined]
        if data is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        start, stop = (int(part[1]), min(int(part[2]) + 1, len(data))) if part else (0, len(data))
        self.send_response(206 if part else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if not head:
            self.server.sent[self.path] = self.server.sent.get(self.path, 0) + stop - start  # type: ignore[attr-defined]
            self.wfile.write(data[start:stop])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files, server.sent = {}, {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def big_tar(rows: int = 24) -> bytes:
    """A tar that others wrote: noise as PNG, half a megabyte each."""
    noise = [
        encode(np.random.default_rng(k).integers(0, 256, (400, 400, 3), dtype=np.uint8), "PNG", compress_level=0)
        for k in range(2)
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for k in range(rows):
            for name, data in ((f"{k:04d}.png", noise[k % 2] + b"%d" % k), (f"{k:04d}.txt", b"noise %d" % k)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("words", [("filter", "--sharpness", ".."), ("dedup",), ("shard",)])
def test_a_tar_at_an_address_comes_once(web: Any, edit: Runner, tmp_path: Path, words: tuple[str, ...]) -> None:
    data = web.files["/a.tar"] = big_tar()
    env = {**os.environ, "no_proxy": "127.0.0.1"}
    command, *options = words
    edit(command, f"http://127.0.0.1:{web.server_port}/a.tar", *options, "-j", 3, "-o", tmp_path / "out", env=env)
    assert len(rows_of(tmp_path / "out")) == (2 if command == "dedup" else 24)
    assert web.sent["/a.tar"] <= 1.02 * len(data)


def test_a_parquet_file_at_an_address_comes_once(web: Any, edit: Runner, tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rng = np.random.default_rng(0)
    images = [
        {"bytes": encode(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8), "PNG"), "path": None} for _ in range(20)
    ]
    pq.write_table(pa.table({"image": pa.array(images, kind)}), tmp_path / "in.parquet", row_group_size=5)
    data = web.files["/in.parquet"] = (tmp_path / "in.parquet").read_bytes()
    address = f"http://127.0.0.1:{web.server_port}/in.parquet"
    edit("shard", address, "-j", 2, "-o", tmp_path / "out", env={**os.environ, "no_proxy": "127.0.0.1"})
    assert len(rows_of(tmp_path / "out")) == 20
    assert web.sent["/in.parquet"] <= 1.02 * len(data)
    assert not files.exists(f"http://127.0.0.1:{web.server_port}/other.tar")


def test_the_first_row_of_a_large_tar_takes_little_of_it(web: Any, edit: Runner, tmp_path: Path) -> None:
    web.files["/a.tar"] = big_tar(40)
    address, env = f"http://127.0.0.1:{web.server_port}/a.tar", {**os.environ, "no_proxy": "127.0.0.1"}
    shown = edit("cat", address, "--limit", 1, "-f", "jsonl", env=env).stdout
    assert shown.count(b"\n") == 1 and web.sent["/a.tar"] <= 2 << 20
    edit("cat", address, "-o", tmp_path / "own.tar", env=env)
    web.files["/own.tar"] = (tmp_path / "own.tar").read_bytes()
    shown = edit("cat", address.replace("a.tar", "own.tar"), "--limit", 1, "-f", "jsonl", env=env).stdout
    assert shown.count(b"\n") == 1 and web.sent["/own.tar"] <= 2 << 20
