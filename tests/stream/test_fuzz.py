"""Damaged input of every format: never a traceback, a hang, a crash of the interpreter, or rows lost without a word."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TESTS, Runner, image, make_crawl, tar_bytes

WORKER = str(TESTS / "fuzz_worker.py")
DEFAULT, LONG = 200, 20_000
PATIENCE = 120  # seconds without a word from a worker


def make_seeds(edit: Runner, folder: Path, base: Path) -> None:
    folder.mkdir()
    make_crawl(base / "crawl", 9)
    edit("shard", base / "crawl", "-o", folder / "set", "--rows", 3)
    edit("cat", folder / "set", "-o", folder / "own.tar")
    edit("cat", folder / "set", "-o", folder / "own.parquet")
    edit("cat", folder / "set", "-o", folder / "inline.arrows", "--inline")
    edit("cat", folder / "set", "-o", folder / "references.arrows")
    members = []
    for k in range(5):
        fields = json.dumps({"a": k, "b": [1, None]}).encode()
        members += [(f"k{k}.jpg", image(k)), (f"k{k}.txt", b"text"), (f"k{k}.json", fields)]
    (folder / "foreign.tar").write_bytes(tar_bytes(members))
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": image(k, "PNG"), "path": f"{k}.png"} for k in range(5)]
    table = pa.table(
        {
            "target": pa.array(images, struct),
            "more": pa.array([images[:k] for k in range(5)], pa.list_(struct)),
            "label": pa.array(list("ababa")).dictionary_encode(),
            "n": pa.array([1, None, 3, 4, 5]),
        }
    )
    pq.write_table(table, folder / "foreign.parquet", row_group_size=2)
    target = folder.parent / "loose.png"
    target.write_bytes(image(3, "PNG"))
    lines = [
        json.dumps({"target": str(target), "text": "名", "n": k, "deep": {"a": [k, {"b": 0.5}]}}) for k in range(8)
    ]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    (folder / "images").mkdir()
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        (folder / "images" / f"x.{kind.lower()}").write_bytes(image(4, kind))
    (folder / "images" / "y.jpg").write_bytes(image(5, "JPEG", 100, 90))
    (folder / "images" / "y.json").write_text('{"caption": "a", "k": [1, 2.5, {"z": null}]}')


class Worker:
    """A process that works through a range of inputs; a new one continues after the input that killed one."""

    def __init__(self, seeds: Path, work: Path, first: int, last: int) -> None:
        self.seeds, self.work, self.last = seeds, work, last
        self.problems: list[str] = []
        self.codes: dict[int, int] = {}
        while first < last:
            first = self._work(first)

    def _work(self, first: int) -> int:
        process = subprocess.Popen(
            [sys.executable, WORKER, str(self.seeds), str(self.work), str(first), str(self.last)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines: queue.Queue[str] = queue.Queue()
        stdout, stderr = process.stdout, process.stderr
        assert stdout is not None and stderr is not None
        errors: list[str] = []

        def read() -> None:
            for line in stdout:
                lines.put(line)
            lines.put("")

        threads = [threading.Thread(target=read), threading.Thread(target=lambda: errors.append(stderr.read()))]
        for thread in threads:
            thread.start()
        number = first
        while True:
            try:
                line = lines.get(timeout=PATIENCE)
            except queue.Empty:
                process.kill()
                self.problems.append(f"input {number}: no answer in {PATIENCE} s")
                break
            if not line:
                break
            answer: dict[str, Any] = json.loads(line)
            number = answer["number"]
            if "code" in answer:
                self.codes[answer["code"]] = self.codes.get(answer["code"], 0) + 1
                if answer["problem"]:
                    self.problems.append(f"input {number}: {answer['what']}: {answer['problem']}")
        code = process.wait()
        for thread in threads:
            thread.join()
        if code and not (self.problems and "no answer" in self.problems[-1]):
            last_words = errors[-1][-2000:] if errors else ""
            self.problems.append(f"input {number}: the process died with {code}: {last_words}")
        return number + 1 if code else self.last


def judge(workers: list[Worker], expected: int) -> None:
    problems = [problem for worker in workers for problem in worker.problems]
    codes: dict[int, int] = {}
    for worker in workers:
        for code, number in worker.codes.items():
            codes[code] = codes.get(code, 0) + number
    print(codes)
    assert not problems, f"{len(problems)} of {expected} inputs:\n" + "\n".join(problems[:40])
    assert sum(codes.values()) == expected
    # The damage must be of all sorts: noticed by the command, by its end, and not at all.
    assert min(codes.get(0, 0), codes.get(1, 0), codes.get(4, 0)) > expected // 50


@pytest.fixture(scope="module")
def seeds(session_edit: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("fuzz")
    make_seeds(session_edit, base / "seeds", base)
    return base / "seeds"


@pytest.mark.parametrize("part", range(2))
def test_damaged_inputs(seeds: Path, tmp_path: Path, part: int) -> None:
    size = DEFAULT // 2
    judge([Worker(seeds, tmp_path / "work", part * size, (part + 1) * size)], size)


@pytest.mark.long
def test_many_damaged_inputs(seeds: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    total = int(os.environ.get("FUZZ_INPUTS", LONG))
    size = 500
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(Worker, seeds, tmp_path / f"work{k}", DEFAULT + k, min(DEFAULT + k + size, DEFAULT + total))
            for k in range(0, total, size)
        ]
        judge([job.result() for job in jobs], total)
