"""A published Parquet set, imitated with small images, as `edit shard --from` and `datasets` read it; and a list of
addresses, as `edit shard --fetch` and img2dataset fetch it from a server on this machine.

    python benchmarks/ingest_published.py [--rows N] [--addresses N] [--peers PYTHON] [--json FILE] [--tmp DIR]

Every contender is a process of its own, whose wall time, CPU seconds and peak memory are taken, with those of its
children. `--rows 1000000` is the size of the published sets; the smaller runs before it show what grows.
"""

from __future__ import annotations

import argparse
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
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
IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    source, target, threads = sys.argv[1:]
    download(url_list=source, input_format="parquet", url_col="URL", caption_col="TEXT", output_folder=target,
             output_format="webdataset", resize_mode="no", processes_count=1, thread_count=int(threads),
             number_sample_per_shard=1000, disallowed_header_directives=["noai"], retries=0)
"""


@dataclass
class Run:
    """One process from start to end."""

    what: str
    rows: int
    seconds: float
    cpu: float
    peak: int  # bytes
    failed: str = ""

    def line(self) -> str:
        if self.failed:
            return f"{self.what:34} {self.rows:>9}  NOT MEASURED ({self.failed})"
        speed = f"{self.rows / self.seconds:9.0f} rows/s {self.rows / self.cpu:9.0f} rows/CPU s"
        return f"{self.what:34} {self.rows:>9}  {speed}  {self.peak / 1e6:6.0f} MB"


# A process whose memory is looked at is the child of a small one: a child's high-water mark begins at its parent's.
MEASURE = """
import json, os, sys
child = os.fork()
if not child:
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, used = os.wait4(child, 0)
found = {"cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss << 10}
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


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one of the images, by its number."""

    held: list[bytes]
    protocol_version = "HTTP/1.1"

    def log_message(self, *said: object) -> None:
        pass

    def do_GET(self) -> None:
        data = self.held[int(self.path.rpartition("/")[2].partition(".")[0]) % DIFFERENT]
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


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


def addresses(count: int, peers: str | None, folder: Path) -> list[Run]:
    Handler.held = images(2)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}/{k}.jpg" for k in range(count)]
    pq.write_table(pa.table({"URL": urls, "TEXT": [f"text {k}" for k in range(count)]}), folder / "list.parquet")
    command = [EDIT, "shard", "list.parquet", "--from", "laion_list", "--fetch", "store", "--fetch-private"]
    runs = [measured("edit shard --fetch", count, [*command, "--fetch-rate", "1000000", "-o", "ours/"], folder)]
    again = [*command, "-o", "again/"]
    runs.append(measured("edit shard --fetch, all there", count, again, folder))
    if peers is None:
        runs.append(Run("img2dataset", count, 0, 0, 0, "--peers is not given"))
        print(runs[-1].line(), flush=True)
    else:
        (folder / "peer.py").write_text(IMG2DATASET)
        runs.append(measured("img2dataset", count, [peers, "peer.py", "list.parquet", "theirs", "32"], folder))
    server.shutdown()
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the set, after runs of 1% and 10% of them")
    parser.add_argument("--addresses", type=int, default=1000, help="images to fetch")
    parser.add_argument("--peers", help="a Python that has img2dataset")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tmp", help="where the data goes: 8 KB a row")
    asked = parser.parse_args()
    print(f"{'':34} {'rows':>9}  {'wall':>16} {'CPU':>18}  {'peak':>8}", flush=True)
    with tempfile.TemporaryDirectory(dir=asked.tmp) as name:
        folder = Path(name)
        runs = published([n for n in (asked.rows // 100, asked.rows // 10, asked.rows) if n], folder)
        runs += addresses(asked.addresses, asked.peers, folder)
    if asked.json:
        asked.json.write_text(json.dumps({"runs": [asdict(run) for run in runs]}, indent=1))
    return 0 if not any(run.failed for run in runs if run.what.startswith("edit")) else 1


if __name__ == "__main__":
    sys.exit(main())
