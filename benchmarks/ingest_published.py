"""A published Parquet set, imitated with small images, as `edit shard --from` and `datasets` read it; and a list of
addresses, as `edit shard --fetch` and img2dataset fetch it from a server on this machine.

    python benchmarks/ingest_published.py [--rows N] [--addresses N] [--peers PYTHON] [--json FILE] [--tmp DIR]

Every contender is a process of its own, whose wall time and CPU seconds are taken with those of its children, and the
most memory that all of them had at the same time (shared pages once, looked at five times a second).
`--rows 1000000` is the size of the published sets; the smaller runs before it show what grows. The server of the
addresses is one more process, whose CPU time is nobody's: it is told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

EDIT = str(Path(sys.executable).with_name("edit"))
FILE_ROWS, GROUP_ROWS, DIFFERENT = 10_000, 100, 256
HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TASKS = ("addition", "removal", "object_swap", "env", "style")

DATASETS = """
import sys
from datasets import Image, load_dataset
source, target, cache = sys.argv[1:]
rows = load_dataset("parquet", data_dir=source, cache_dir=cache, split="train")
rows = rows.cast_column("src_img", Image(decode=False)).cast_column("edited_img", Image(decode=False))
names = {"src_img": "source", "edited_img": "target", "omni_edit_id": "id"}
rows = rows.rename_columns(names)
texts = "edited_prompt_list"
rows = rows.map(lambda row: {"instruction": (row[texts] or [None])[0]}, remove_columns=[texts])
rows.to_parquet(target)
"""
# As much as `edit shard --fetch` does: images as they came, their SHA-256, texts, in tars; robots' headers obeyed.
IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    source, target, processes, threads, per_shard = sys.argv[1:]
    download(url_list=source, input_format="parquet", url_col="URL", caption_col="TEXT", output_folder=target,
             output_format="webdataset", resize_mode="no", disable_all_reencoding=True, extract_exif=False,
             processes_count=int(processes), thread_count=int(threads), number_sample_per_shard=int(per_shard),
             retries=2)
"""
# Images by their number, on a port that it says first: one write for each request, so that it is not what is measured.
SERVER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from ingest_published import images
answers = [b"HTTP/1.1 200 OK\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(data) + data
           for data in images(2)]

class Connection(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.read = transport, b""

    def data_received(self, data):
        self.read += data
        while (end := self.read.find(b"\\r\\n\\r\\n")) >= 0:
            head, self.read = self.read[:end].lower(), self.read[end + 4:]
            number = int(head.split(b" ", 2)[1].rpartition(b"/")[2].partition(b".")[0])
            self.transport.write(answers[number % len(answers)])
            if b"connection: close" in head:
                self.transport.close()

async def serve():
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(serve())
"""


@dataclass
class Run:
    """One process from start to end."""

    what: str
    rows: int
    seconds: float
    cpu: float
    peak: int  # bytes, of all its processes together
    failed: str = ""

    def line(self) -> str:
        if self.failed:
            return f"{self.what:34} {self.rows:>9}  NOT MEASURED ({self.failed})"
        speed = f"{self.rows / self.seconds:9.0f} rows/s {self.rows / self.cpu:9.0f} rows/CPU s"
        return f"{self.what:34} {self.rows:>9}  {speed}  {self.peak / 1e6:6.0f} MB"


MEASURE = """
import json, os, sys, time

def below(root):
    \"\"\"The processes of a tree.\"\"\"
    parents = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            parents[int(name)] = int(open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found = {root}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found

def memory(process):
    \"\"\"Its proportional set size in bytes: of pages that several have, its share.\"\"\"
    try:
        lines = open(f"/proc/{process}/smaps_rollup").read().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    except OSError:
        return 0

child = os.fork()
if not child:
    os.execvp(sys.argv[2], sys.argv[2:])
peak = 0
while True:
    ended, status, used = os.wait4(child, os.WNOHANG)
    if ended:
        break
    peak = max(peak, sum(map(memory, below(child))))
    time.sleep(0.2)
found = {"cpu": used.ru_utime + used.ru_stime, "peak": peak}
open(sys.argv[1], "w").write(json.dumps({"status": os.waitstatus_to_exitcode(status), **found}))
"""


def measured(what: str, rows: int, command: list[str], folder: Path) -> Run:
    """Run a command, with its output in a file, and what it and its children took."""
    began = time.perf_counter()
    with open(folder / "log.txt", "wb") as log:
        whole = [sys.executable, "-S", "-c", MEASURE, "used.json", *command]
        subprocess.run(whole, stdout=log, stderr=log, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True)
    seconds = time.perf_counter() - began
    used = json.loads((folder / "used.json").read_text())
    said = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    failed = "" if used["status"] == 0 else f"exit {used['status']}: {said[-1] if said else ''}"[:200]
    run = Run(what, rows, seconds, used["cpu"], used["peak"], failed)
    print(run.line(), flush=True)  # the last one may take an hour
    return run


def images(seed: int) -> list[bytes]:
    """Small JPEG files, as of thumbnails."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((96, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        made.append(buffer.getvalue())
    return made


def make_set(folder: Path, rows: int) -> None:
    """Parquet files with the columns of OmniEdit."""
    folder.mkdir()
    sources, targets = images(0), images(1)
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        which = range(first, min(first + FILE_ROWS, rows))
        table = pa.table(
            {
                "omni_edit_id": [f"task_{k}" for k in which],
                "task": [TASKS[k % len(TASKS)] for k in which],
                "src_img": pa.array([{"bytes": sources[k % DIFFERENT], "path": None} for k in which], HF),
                "edited_img": pa.array([{"bytes": targets[(k * 7) % DIFFERENT], "path": None} for k in which], HF),
                "edited_prompt_list": [[f"change thing {k}", f"another wording of {k}"] for k in which],
                "o_score": [7.0 + k % 3 for k in which],
            }
        )
        pq.write_table(table, folder / f"train-{number:05d}.parquet", row_group_size=GROUP_ROWS, compression="none")


def published(sizes: list[int], folder: Path) -> list[Run]:
    runs = []
    for rows in sizes:
        make_set(folder / "set", rows)
        command = [EDIT, "shard", "set", "--from", "omniedit", "-o", "ours/"]
        runs.append(measured("edit shard --from omniedit", rows, command, folder))
        peer = [sys.executable, "-c", DATASETS, "set", "theirs.parquet", "cache"]
        runs.append(measured("datasets: load, rename, to_parquet", rows, peer, folder))
        for name in ("set", "ours", "cache"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "theirs.parquet").unlink(missing_ok=True)
    return runs


@contextlib.contextmanager
def serving() -> Iterator[tuple[int, int]]:
    """The server's port and process."""
    command = [sys.executable, "-c", SERVER, str(Path(__file__).parent)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline()), server.pid
    finally:
        server.terminate()
        server.wait()


def cpu_seconds(process: int) -> float:
    """Of a process that lives."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def addresses(count: int, peers: str | None, workers: tuple[int, int], folder: Path) -> list[Run]:
    with serving() as (port, server):
        urls = [f"http://127.0.0.1:{port}/{k}.jpg" for k in range(count)]
        pq.write_table(pa.table({"URL": urls, "TEXT": [f"text {k}" for k in range(count)]}), folder / "list.parquet")
        del urls  # it is in nobody's memory but the server's
        command = [EDIT, "shard", "list.parquet", "--from", "laion_list", "--fetch", "store", "--fetch-private"]
        rate = ["--fetch-rate", "1000000"]
        runs = [measured("edit shard --fetch", count, [*command, *rate, "-o", "ours/"], folder)]
        served = cpu_seconds(server)
        again = [*command, "-o", "again/"]
        runs.append(measured("edit shard --fetch, all there", count, again, folder))
        if peers is None:
            runs.append(Run("img2dataset", count, 0, 0, 0, "--peers is not given"))
            print(runs[-1].line(), flush=True)
        else:
            (folder / "peer.py").write_text(IMG2DATASET)
            processes, threads = workers
            settings = [str(processes), str(threads), str(min(10_000, -(-count // processes)))]
            what = f"img2dataset, {processes} x {threads} threads"
            runs.append(measured(what, count, [peers, "peer.py", "list.parquet", "theirs", *settings], folder))
            check_fetched(runs[-1], folder / "theirs")
        print(f"{'(the server)':34} {count:>9}  {served:.1f} CPU s for the first, {cpu_seconds(server) - served:.1f} "
              "for the last", flush=True)  # fmt: skip
    for name in ("store", "ours", "again", "theirs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return runs


def check_fetched(run: Run, folder: Path) -> None:
    """img2dataset ends well when it fetched nothing."""
    there = sum(json.loads(path.read_text())["successes"] for path in folder.glob("*_stats.json"))
    if there != run.rows and not run.failed:
        run.failed = f"{there} of {run.rows} were fetched"
        print(run.line(), flush=True)


def growing(most: int) -> list[int]:
    return [count for count in (most // 100, most // 10, most) if count]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the set, after runs of 1% and 10% of them")
    parser.add_argument("--addresses", type=int, default=1000, help="images to fetch, after runs of 1% and 10%")
    parser.add_argument("--only", choices=("set", "addresses"), help="one half of it")
    parser.add_argument("--peer-workers", type=int, nargs=2, default=(2, 16), metavar="N", help="img2dataset: "
                        "processes, and threads of each")  # fmt: skip
    parser.add_argument("--peers", help="a Python that has img2dataset")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tmp", help="where the data goes: 8 KB a row")
    asked = parser.parse_args()
    print(f"{'':34} {'rows':>9}  {'wall':>16} {'CPU':>18}  {'peak':>8}", flush=True)
    with tempfile.TemporaryDirectory(dir=asked.tmp) as name:
        folder = Path(name)
        runs = published(growing(asked.rows), folder) if asked.only != "addresses" else []
        for count in growing(asked.addresses) if asked.only != "set" else []:
            runs += addresses(count, asked.peers, tuple(asked.peer_workers), folder)
    if asked.json:
        asked.json.write_text(json.dumps({"runs": [asdict(run) for run in runs]}, indent=1))
    return 0 if not any(run.failed for run in runs if run.what.startswith("edit")) else 1


if __name__ == "__main__":
    sys.exit(main())
