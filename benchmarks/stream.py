"""The data plane against its peers and against the disk: one run, one table of figures against their bars.

    python benchmarks/stream.py [--photos DIR] [--json FILE] [--only NAME ...] [--repeats N]

Work is counted in CPU seconds of the process and its children (user and system), because wall time on a shared
machine measures the neighbours. The contenders take turns, and every figure is a median. Everything is made in
a temporary folder and removed again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import math
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from edittools.record import COLUMNS
from edittools.stream.batch import Batch, Shard
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.files import RangeReader, etag
from edittools.stream.history import History, digest
from edittools.stream.ipc import BATCH_ROWS as IPC_ROWS
from edittools.stream.ipc import Counts
from edittools.stream.opening import open_source
from edittools.stream.shards import read_footer, write_parquet
from edittools.stream.tar import TarReader, samples
from edittools.stream.writers.shards import ShardSetSink

EDIT = str(Path(sys.executable).with_name("edit"))
IMAGE_BYTES = (98_000, 394_000)
SHARD_ROWS = 1000
PIPE_SHARDS, PIPE_SHARD_ROWS = 100, 10_000
STORE_BYTES = 96_000_000


@dataclass
class Line:
    """One figure and its bar."""

    what: str
    value: float | None  # None: not measured, `note` says why
    bar: float | None  # None: for information
    unit: str
    least: bool = True  # whether the bar is a lower bound
    note: str = ""

    @property
    def met(self) -> bool:
        if self.value is None or self.bar is None:
            return False
        return self.value >= self.bar if self.least else self.value <= self.bar


@dataclass
class Report:
    lines: list[Line] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    deadline: float = math.inf  # of time.monotonic(): what has not begun by then is left out
    owed: list[str] = field(default_factory=list)  # what was left out or failed, and why

    def add(
        self, what: str, value: float | None, bar: float | None, unit: str, least: bool = True, note: str = ""
    ) -> None:
        line = Line(what, value, bar, unit, least, note)
        self.lines.append(line)
        print(_row(line), flush=True)

    def late(self, what: str) -> bool:
        """Is it too late to begin? Then it is said, and owed."""
        if time.monotonic() < self.deadline:
            return False
        self.owe(what, "the time is up")
        return True

    def owe(self, what: str, why: str) -> None:
        self.owed.append(f"{what}: {why}")
        self.add(what, None, None, "", note=why)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """What fails here is a line that says why, and ends nothing else."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.owe(what, f"{type(error).__name__}: {error}".splitlines()[0][:200])

    def write(self, path: Path | None) -> None:
        """All numbers so far, where there is a path."""
        if path is None:
            return
        machine = {"platform": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
        lines = [{**asdict(line), "met": line.met} for line in self.lines]
        record = {"machine": machine, "python": platform.python_version(), "lines": lines, "numbers": self.numbers,
                  "owed": self.owed}  # fmt: skip
        path.write_text(json.dumps(record, indent=1) + "\n")

    def end(self, path: Path | None) -> int:
        """Write all numbers to `path`, print how many bars were met, and return the exit status: 0 if all were."""
        self.write(path)
        barred = [line for line in self.lines if line.bar is not None]
        met, unmeasured = sum(line.met for line in barred), sum(line.value is None for line in barred)
        for what in self.owed:
            print(f"owed: {what}")
        print(f"{met} of {len(barred)} bars met" + (f", {unmeasured} not measured" if unmeasured else ""))
        return 0 if met == len(barred) else 1


def _row(line: Line) -> str:
    value = "-" if line.value is None else f"{line.value:,.4g}"
    bar = "" if line.bar is None else f"{'>=' if line.least else '<='} {line.bar:<10,g}"
    verdict = "NOT MEASURED" if line.value is None else "" if line.bar is None else "ok" if line.met else "MISSED"
    note = f" ({line.note})" if line.note else ""
    return f"{line.what:<66} {value:>12} {line.unit:<7} {bar:<13} {verdict}{note}".rstrip()


# ---------------------------------------------------------------- measuring


def cpu_seconds() -> float:
    """User and system time of this process and its finished children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def take_turns(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Run every contender `repeats` times, one after the other in turn: {name: {cpu, wall}}."""
    times: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            cpu, wall = cpu_seconds(), time.perf_counter()
            work()
            times[name]["cpu"].append(cpu_seconds() - cpu)
            times[name]["wall"].append(time.perf_counter() - wall)
    return times


def rates(times: dict[str, dict[str, list[float]]], rows: int) -> dict[str, float]:
    """Rows per CPU second."""
    return {name: rows / statistics.median(values["cpu"]) for name, values in times.items()}


def run_pipe(commands: list[list[str]], folder: Path) -> dict[str, Any]:
    """Wall time, and CPU time and peak memory of each command (see pipe.py)."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")  # compiled once, as in any installation
    script = str(Path(__file__).with_name("pipe.py"))
    done = subprocess.run(
        [sys.executable, script], input=json.dumps(commands), capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def repeat_pipe(commands: list[list[str]], folder: Path, repeats: int) -> dict[str, Any]:
    """Medians over several runs, after one that is not counted and warms the caches."""
    return pipes_in_turns([commands], folder, repeats)[0]


def pipes_in_turns(pipes: list[list[list[str]]], folder: Path, repeats: int) -> list[dict[str, Any]]:
    """The same for several pipes that take turns."""
    for commands in pipes:
        run_pipe(commands, folder)
    turns = [[run_pipe(commands, folder) for commands in pipes] for _ in range(repeats)]
    return [
        {
            "wall": statistics.median(run["wall"] for run in runs),
            "cpu": [statistics.median(cpu) for cpu in zip(*(run["cpu"] for run in runs))],
            "peak_mb": [max(peak) for peak in zip(*(run["peak_mb"] for run in runs))],
            "runs": list(runs),
        }
        for runs in zip(*turns)
    ]


# ---------------------------------------------------------------- data


@dataclass
class ImageArray:
    data: bytes
    width: int
    height: int


def sources(photos: Path | None) -> Iterator[Image.Image]:
    """Real photographs, or noise of several scales where there are none; endless."""
    paths = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")) if photos else []
    generator = np.random.default_rng(0)
    while True:
        for path in paths:
            with Image.open(path) as image:
                yield image.convert("RGB")
        if not paths:
            layers = [
                np.asarray(
                    Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize((512, 512))
                ).astype(np.float32)
                for side in (4, 16, 64, 256)
            ]
            yield Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


def make_images(photos: Path | None, size: int, count: int) -> list[ImageArray]:
    """JPEG files of about `size` bytes: images enlarged until their encoding is that long."""
    made = []
    for image, _ in zip(sources(photos), range(count)):
        scale = 1.0
        data = b""
        for _ in range(4):
            sides = [max(16, round(side * scale)) for side in image.size]
            buffer = io.BytesIO()
            image.resize((sides[0], sides[1])).save(buffer, "JPEG", quality=90)
            data = buffer.getvalue()
            if abs(len(data) / size - 1) < 0.05:
                break
            scale *= (size / len(data)) ** 0.5
        made.append(ImageArray(data, *sides))
    return made


def make_facts(count: int) -> list[dict[str, Any]]:
    """A small JSON object per row: what a captioned crawl says about an image."""
    return [
        {
            "id": f"{k:08d}",
            "task": "t2i",
            "caption": {"en": f"photograph {k} of a street with a red door, taken in the afternoon"},
            "provenance": {"origin": "benchmark", "path": f"folder/{k:08d}.jpg", "sha256": digest(str(k)) * 2},
        }
        for k in range(count)
    ]


def make_batch(facts: list[dict[str, Any]], images: list[ImageArray], files: list[str] | None) -> pa.RecordBatch:
    """Rows with their image inline, or as a reference to a loose file."""
    targets = []
    for k, _ in enumerate(facts):
        image = images[k % len(images)]
        value: dict[str, Any] = {"width": image.width, "height": image.height, "format": "jpeg"}
        if files is None:
            value["bytes"] = image.data
        else:
            path = files[k % len(files)]
            value.update(file=path, offset=0, length=len(image.data), etag=etag(path))
        targets.append(value)
    names = ("id", "task", "target", "caption", "provenance")
    schema = pa.schema([(name, COLUMNS[name]) for name in names])
    rows = [{**fact, "target": target} for fact, target in zip(facts, targets)]
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def write_set(folder: str, batches: list[pa.RecordBatch]) -> None:
    """A shard set of one shard."""
    sink = ShardSetSink(folder, overwrite=False)
    history = History().add("benchmark", 1, {})
    sink.open(batches[0].schema, history, None)
    shard = Shard(0, 1, "benchmark")
    for k, rows in enumerate(batches):
        sink.write(Batch(rows, shard, k == len(batches) - 1, rows.num_rows))
    sink.finish(Counts())


# ---------------------------------------------------------------- 1 and 2: bytes into shards and back


def bytes_in_and_out(report: Report, folder: Path, photos: Path | None, repeats: int) -> None:
    for size in IMAGE_BYTES:
        count = 2000 if size < 200_000 else 800
        images = make_images(photos, size, 64)
        shifted = [images[k % len(images)] for k in range(count)]
        label = f"{size // 1000} KB"
        bytes_in(report, folder, shifted, label, repeats)
        bytes_out(report, folder, shifted, label, repeats)
        for name in ("loose", "webdataset", "set"):
            shutil.rmtree(folder / name)


def bytes_in(report: Report, folder: Path, shifted: list[ImageArray], label: str, repeats: int) -> None:
    """Leaves the same rows behind as FOLDER/set, FOLDER/webdataset and FOLDER/raw."""
    import webdataset

    count, total = len(shifted), sum(len(image.data) for image in shifted)
    facts = make_facts(count)
    loose = folder / "loose"
    loose.mkdir()
    paths = []
    for k in range(count):
        path = loose / f"{k:08d}.jpg"
        path.write_bytes(shifted[k].data)
        paths.append(str(path))
    pieces = [slice(k, k + IPC_ROWS) for k in range(0, count, IPC_ROWS)]
    inline = [make_batch(facts[piece], shifted[piece], None) for piece in pieces]
    referring = [make_batch(facts[piece], shifted[piece], paths[piece]) for piece in pieces]

    webdataset_folder = folder / "webdataset"
    webdataset_folder.mkdir()

    def peer(load: Callable[[int], bytes]) -> None:
        with webdataset.ShardWriter(str(webdataset_folder / "%05d.tar"), maxcount=SHARD_ROWS, verbose=0) as writer:
            for k, fact in enumerate(facts):
                writer.write({"__key__": fact["id"], "target.jpg": load(k), "json": fact})

    def product(batches: list[pa.RecordBatch]) -> None:
        shutil.rmtree(folder / "set", ignore_errors=True)
        write_set(str(folder / "set"), batches)

    def tarfile_write() -> None:
        with tarfile.open(folder / "tarfile.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for image, fact in zip(shifted, facts):
                for ending, data in ((".target.jpg", image.data), (".json", json.dumps(fact).encode())):
                    member = tarfile.TarInfo(fact["id"] + ending)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

    def raw_write() -> None:
        with open(folder / "raw", "wb", buffering=0) as file:
            for image in shifted:
                file.write(image.data)

    def memory(k: int) -> bytes:
        return shifted[k].data

    def disk(k: int) -> bytes:
        with open(paths[k], "rb") as file:
            return file.read()

    written = take_turns(
        {
            "raw": raw_write,
            "webdataset": functools.partial(peer, memory),
            "edittools": functools.partial(product, inline),
            "webdataset, loose files": functools.partial(peer, disk),
            "edittools, loose files": functools.partial(product, referring),
            "tarfile": tarfile_write,
        },
        repeats,
    )
    write = rates(written, count)
    report.numbers[f"write {label}"] = {"rows": count, "bytes": total, "rows_per_cpu_s": write, "times": written}
    for way, name in (("", "inline"), (", loose files", "from loose files")):
        ratio = write["edittools" + way] / write["webdataset" + way]
        report.add(f"write {label} {name}: x webdataset ShardWriter", ratio, 1.5, "x")
    product(inline)


def bytes_out(report: Report, folder: Path, shifted: list[ImageArray], label: str, repeats: int) -> None:
    import webdataset

    count, total = len(shifted), sum(len(image.data) for image in shifted)
    tars = sorted(str(path) for path in (folder / "webdataset").glob("*.tar"))

    def read_webdataset() -> None:
        data = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
        assert sum(len(sample["target.jpg"]) for sample in data) == total

    def read_tarfile() -> None:
        found = 0
        for path in tars:
            with tarfile.open(path, "r|") as tar:
                for member in tar:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    data = stream.read()
                    found += len(data) if member.name.endswith("jpg") else 0
        assert found == total

    def read_references() -> None:
        fetcher = Fetcher()
        found = 0
        for batch in open_source([str(folder / "set")]).batches(lambda shard: True):
            for reference in image_references(batch.rows.column("target")):
                assert reference is not None
                found += len(fetcher.get(reference))
        assert found == total

    def read_tar() -> None:
        place = str(folder / "set" / "00000.tar")
        reader = RangeReader(place)
        found = 0
        for _, group in samples(TarReader(reader.read, place).members()):
            for ending, member in group:
                data = reader.read(member.offset, member.size)
                if ending == "json":
                    json.loads(data)
                else:
                    found += len(data)
        reader.close()
        assert found == total

    def raw_read() -> None:
        descriptor = os.open(folder / "raw", os.O_RDONLY)
        offset = 0
        for image in shifted:
            offset += len(os.pread(descriptor, len(image.data), offset))
        os.close(descriptor)

    readings = take_turns(
        {
            "raw": raw_read,
            "webdataset": read_webdataset,
            "edittools": read_references,
            "edittools, tar only": read_tar,
            "tarfile": read_tarfile,
        },
        repeats,
    )
    read = rates(readings, count)
    report.numbers[f"read {label}"] = {"rows": count, "bytes": total, "rows_per_cpu_s": read, "times": readings}
    for way, name in (("", "by reference"), (", tar only", "from the tar alone")):
        report.add(f"read {label} {name}: x webdataset", read["edittools" + way] / read["webdataset"], 1, "x")


# ---------------------------------------------------------------- 3 and 5: a million rows without pixels


# What a row of the pipes is; each has all columns of the one before it.
REFERENCES = ["id", "task", "target"]
SHARDED = [*REFERENCES, "provenance"]  # as `edit shard` leaves a crawl
CAPTIONED = [*SHARDED, "caption", "scores"]


def make_large_set(folder: Path, columns: list[str]) -> str:
    """A valid set of a million rows with tiny images: one shard is written, the others are copies of it."""
    place = folder / f"million-{len(columns)}"
    tiny = io.BytesIO()
    Image.new("RGB", (640, 480)).save(tiny, "JPEG", quality=1)
    images = [ImageArray(tiny.getvalue(), 640, 480)]
    generator = np.random.default_rng(0)
    batches = []
    facts = make_facts(PIPE_SHARD_ROWS)
    for start in range(0, PIPE_SHARD_ROWS, IPC_ROWS):
        rows = make_batch(facts[start : start + IPC_ROWS], images, None)
        values = generator.uniform(1, 1000, rows.num_rows).round(3)
        scores = pa.StructArray.from_arrays([pa.array(values)], names=["sharpness"])
        batches.append(rows.append_column("scores", scores))
    write_set(str(place), batches)
    first = place / "00000.parquet"
    table = pq.read_table(first)
    table = table.select(columns).replace_schema_metadata(table.schema.metadata)
    footer = read_footer(str(first))
    counts = Counts(0, 0, 0)
    for k in range(PIPE_SHARDS):
        notes = {**table.schema.metadata, b"edit.shard": json.dumps({"index": k, "count": PIPE_SHARDS}).encode()}
        with open(place / f"{k:05d}.parquet", "wb") as file:
            write_parquet(table.replace_schema_metadata(notes), file)
        if k:
            os.link(place / "00000.tar", place / f"{k:05d}.tar")
        counts.rows, counts.kept = counts.rows + footer.rows, counts.kept + footer.rows
    end = {"version": 1, "shards": PIPE_SHARDS, "hash": footer.hash, **counts.to_dict()}
    (place / "_end.json").write_text(json.dumps(end))
    return str(place)


# What Arrow alone takes on this machine for the same rows in batches of the same size: no checks, no filter, no end.
_BARE = """
import fcntl, glob, os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import pyarrow as pa, pyarrow.parquet as pq
try:
    fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
except OSError:
    pass
out, writer = pa.PythonFile(open(1, "wb", buffering=1 << 20)), None
"""
BARE_READ = f"""{_BARE}
for path in sorted(glob.glob(sys.argv[1] + "/*.parquet")):
    for batch in pq.ParquetFile(path).iter_batches(4096):
        writer = writer or pa.ipc.new_stream(out, batch.schema)
        for start in range(0, batch.num_rows, {IPC_ROWS}):
            writer.write_batch(batch.slice(start, {IPC_ROWS}))
writer.close()
out.close()
"""
BARE_PASS = f"""{_BARE}
stream = pa.ipc.open_stream(pa.PythonFile(open(0, "rb", buffering=1 << 20)))
writer = pa.ipc.new_stream(out, stream.schema)
for batch in stream:
    writer.write_batch(batch)
writer.close()
out.close()
"""


def pipes(report: Report, folder: Path, repeats: int) -> None:
    rows = PIPE_SHARDS * PIPE_SHARD_ROWS
    for kind, columns in (("references", REFERENCES), ("a crawl", SHARDED), ("captioned and scored", CAPTIONED)):
        place = make_large_set(folder, columns)
        three = [
            [EDIT, "cat", place],
            [EDIT, "filter", "--min-side", "64"],
            [EDIT, "cat", "-f", "arrows"],
        ]
        bare = [[sys.executable, "-c", BARE_READ, place], *[[sys.executable, "-c", BARE_PASS]] * 2]
        found, limit = pipes_in_turns([three, bare], folder, repeats)
        report.numbers[f"pipe of three, {kind}"] = {"rows": rows, **found}
        report.numbers[f"pipe of three, {kind}, bare pyarrow"] = {"rows": rows, **limit}
        name = f"pipe of three, a million rows ({kind})"
        # The bar is for references, of which a million rows are a hundred megabytes; longer rows are told beside it.
        bar = 2 if columns is REFERENCES else None
        report.add(f"{name}: wall", found["wall"], bar, "s", least=False)
        report.add(f"{name}: CPU of all three", sum(found["cpu"]), bar and 2 * bar, "s", least=False)
        report.add("  three bare pyarrow scripts: wall", limit["wall"], None, "s")
        report.add("  three bare pyarrow scripts: CPU", sum(limit["cpu"]), None, "s")
        report.add("  x the wall of bare pyarrow", found["wall"] / limit["wall"], None, "x")
        report.add("  peak memory of a process", max(found["peak_mb"]), 250, "MB", least=False)
    one_row = [[*three[0], "--limit", "1"], *three[1:]]
    report.numbers["pipe of three, one row"] = repeat_pipe(one_row, folder, repeats)
    scored = [[EDIT, "filter", place, "--sharpness", "1..", "-f", "arrows"]]
    found = repeat_pipe(scored, folder, repeats)
    report.numbers["filter by stored scores"] = {"rows": rows, **found}
    report.add("filter by stored scores: rows per CPU second", rows / sum(found["cpu"]), 500_000, "rows/s")
    report.add("filter by stored scores: rows per second", rows / found["wall"], 500_000, "rows/s")


# ---------------------------------------------------------------- 4: starting


def starting(report: Report, folder: Path, repeats: int) -> None:
    for words in (["--help"], ["cat", "--help"]):
        found = repeat_pipe([[EDIT, *words]], folder, max(7, repeats))
        name = "edit " + " ".join(words)
        report.numbers[name] = found
        report.add(f"{name}: wall", found["wall"], 0.2, "s", least=False)
        report.add(f"{name}: CPU", sum(found["cpu"]), 0.2, "s", least=False)


# ---------------------------------------------------------------- 5: what comes from a store


class Proxy:
    """A TCP proxy that counts what the server behind it sends."""

    def __init__(self, host: str, port: int) -> None:
        self.behind, self.sent = (host, port), 0
        self.lock = threading.Lock()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            server = socket.create_connection(self.behind)
            for source, target, counted in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._copy, args=(source, target, counted), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if counted:
                    with self.lock:
                        self.sent += len(data)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def noise_tar(path: Path, size: int) -> None:
    """A tar that others wrote: noise as PNG, with a caption each."""
    generator = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        while tar.offset < size:
            buffer = io.BytesIO()
            noise = generator.integers(0, 256, (400, 400, 3), dtype=np.uint8)
            Image.fromarray(noise).save(buffer, "PNG", compress_level=0)
            key = f"{tar.offset:012d}"
            for ending, data in (("png", buffer.getvalue()), ("txt", b"noise")):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def store(report: Report, folder: Path) -> None:
    """How many bytes commands move of a tar on S3 (moto's server), all answers of the server counted."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}", "no_proxy": "127.0.0.1"}
    noise_tar(folder / "a.tar", STORE_BYTES)
    size = (folder / "a.tar").stat().st_size
    client = boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], aws_access_key_id="x", aws_secret_access_key="x",
        region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="data")
    client.upload_file(str(folder / "a.tar"), "data", "a.tar")
    asked: list[tuple[str, list[str], float]] = [
        (f"{words[0]} -j {jobs}", [*words, "-j", str(jobs), "-o", str(folder / f"{words[0]}{jobs}/")], 110 / 96 * size)
        for words in (["filter", "--sharpness", ".."], ["dedup"])
        for jobs in (1, 4)
    ]
    asked.append(("cat --limit 1", ["cat", "--limit", "1", "-f", "jsonl", "-o", str(folder / "one.jsonl")], 2e6))
    for name, words, bar in asked:
        before = proxy.sent
        command = [EDIT, words[0], "s3://data/a.tar", *words[1:], "-q"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        moved = proxy.sent - before
        report.numbers[f"store, {name}"] = {"size": size, "moved": moved}
        what = f"{name} of a tar of {size / 1e6:.0f} MB on S3: moved"
        report.add(what, moved / 1e6, bar / 1e6, "MB", least=False)
    proxy.listening.close()
    server.stop()


# ---------------------------------------------------------------- 6: colours


def colours(report: Report) -> None:
    """Images with the profiles of the tests, decoded by us and converted by littleCMS on its own: mean error."""
    from PIL import ImageCms

    from edittools.stream import codec

    made, deep = of_tests("test_colour"), of_tests("test_depth")

    rgb = next(sources(None))
    inks = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    press = Image.fromarray(inks, "CMYK").resize((512, 512), Image.Resampling.BICUBIC)
    kinds = [("Display P3", rgb, made.P3), ("Adobe RGB", rgb, made.ADOBE), ("ProPhoto RGB", rgb, made.WIDE)]
    kinds += [("grey, gamma 1.8", rgb.convert("L"), made.of_grey(1.8)), ("CMYK", press, made.PRESS)]
    for name, image, profile in kinds:
        for kind in ("TIFF", "JPEG"):
            buffer = io.BytesIO()
            options = {"quality": 95} if kind == "JPEG" else {}
            image.save(buffer, kind, icc_profile=profile, **options)
            with Image.open(buffer) as stored:
                stored.load()
                truth = ImageCms.profileToProfile(
                    stored, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"),
                    renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
                )  # fmt: skip
            error = np.abs(codec.decode(buffer.getvalue()).astype(float) - np.asarray(truth)).mean()
            report.add(f"{name}, {kind}: mean error against littleCMS", float(error), 1, "levels", least=False)
    for name, profile in deep.PROFILES.items():
        array = deep.samples(grey=profile[16:20] == b"GRAY")
        error = np.abs(codec.decode(deep.png(array, profile)) - deep.converted(array, profile)).max()
        report.add(f"{name}, 16 bits: largest error against littleCMS", float(error), 1, "levels", least=False)


def walk(report: Report, folder: Path) -> None:
    """How often `edit shard` opens the images of a crawl, and the sidecars beside them."""
    crawl = folder / "crawl"
    made = of_tests("conftest").make_crawl(crawl, 120)
    for inside in list(made)[::4]:
        (crawl / inside).with_suffix(".json").write_text('{"number": 1}')
    times = of_tests("test_opened_once").opened(folder, crawl, "shard", crawl, "-o", folder / "out")
    for what, names in (("an image", set(made)), ("a sidecar", set(times) - set(made))):
        opens = statistics.mean(times[name] for name in names)
        report.add(f"edit shard of a crawl: opens of {what}", opens, 1, "times", least=False, note="0.1.0: 2")


def of_tests(name: str) -> Any:
    """A module of the tests, which makes what is measured here, too."""
    tests = Path(__file__).parents[1] / "tests"
    for place in (tests, tests / "stream", tests / "train"):
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))
    return importlib.import_module(name)


# ---------------------------------------------------------------- the run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of real photographs to make the images from")
    parser.add_argument("--json", type=Path, help="write every measured number there")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contender (default 5)")
    parts_of = ["bytes", "colours", "pipes", "start", "store", "walk"]
    parser.add_argument("--only", nargs="*", choices=parts_of, help="a part of the benchmark")
    parser.add_argument("--tmp", type=Path, help="where to make the temporary folder")
    given = parser.parse_args()
    if given.photos is not None and not given.photos.is_dir():
        parser.error(f"{given.photos}: no such folder")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is measured has been started before, as a user's has
    report = Report()
    parts: dict[str, Callable[[Path], None]] = {
        "start": functools.partial(starting, report, repeats=given.repeats),
        "bytes": functools.partial(bytes_in_and_out, report, photos=given.photos, repeats=given.repeats),
        "pipes": functools.partial(pipes, report, repeats=given.repeats),
        "store": functools.partial(store, report),
        "colours": lambda folder: colours(report),
        "walk": functools.partial(walk, report),
    }
    for name, part in parts.items():
        if not given.only or name in given.only:
            with tempfile.TemporaryDirectory(prefix="edittools-benchmark-", dir=given.tmp) as folder:
                part(Path(folder))
    sys.exit(report.end(given.json))


if __name__ == "__main__":
    main()
