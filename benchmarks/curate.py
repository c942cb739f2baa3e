"""`edit dedup` and `edit filter` against their peers: one run, one table of figures against their bars.

    python benchmarks/curate.py [--photos DIR] [--peers PYTHON] [--json FILE] [--only PART ...] [--rounds N]

Parts: hash, dedup, sizes, photometric, cores, recall, fault. The photographs are scaled to 0.15, 1.5 and 12 megapixels
in a temporary folder. PYTHON is the interpreter of an environment with the peers (see peers.txt); without it, or
where a peer cannot be loaded, its rows say so and are not met.

Ratios are of images per CPU second (user and system, with children) on one core; the contenders take turns, and
every figure is a median over the rounds. Exit status 0 only if every bar is met.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from stream import Report, run_pipe, sources

from edittools.dedup.hamming import distance

EDIT = [sys.executable, "-m", "edittools"]
SIZES = {"0.15": 4, "1.5": 2, "12": 0.08}  # megapixels: images, as a multiple of --images
DISTANCE = 8  # bits
FIVE = ("brightness", "saturation", "entropy", "sharpness", "texture")
PHOTOMETRIC = [word for name in FIVE for word in (f"--{name}", "..")]
ENDINGS = (".jpg", ".jpeg", ".png")
MISSING = "no peer"


@dataclass
class Bench:
    """What every part is given."""

    report: Report
    folder: Path  # temporary
    photos: Path | None
    peers: str | None
    rounds: int
    images: int
    rows: int
    made: dict[str, list[str]] = field(default_factory=dict)

    def crawl(self, megapixels: str) -> list[str]:
        """JPEG files of a size, made when first asked for."""
        if megapixels not in self.made:
            count = max(2, round(self.images * SIZES[megapixels]))
            self.made[megapixels] = make_images(self.photos, self.folder / megapixels, float(megapixels), count)
        return self.made[megapixels]

    def peer(self, name: str, paths: list[str]) -> Worker:
        return Worker(self.peers, name, paths)

    def command(self, words: list[str]) -> dict[str, Any]:
        """Wall and CPU seconds of one command."""
        found = run_pipe([words], self.folder)
        return {"wall": found["wall"], "cpu": found["cpu"][0]}

    def ratio(self, what: str, own: float, peer: float | None, bar: float | None, note: str = MISSING) -> None:
        """A line: so many times the peer's rate."""
        if peer is None:
            self.report.add(what, None, bar, "x", note=note)
        else:
            self.report.add(what, own / peer, bar, "x")


class Worker:
    """A process of contenders.py. `missing` says why there is none."""

    def __init__(self, python: str | None, name: str, paths: list[str]) -> None:
        self.missing = "" if python else f"{MISSING}: --peers is not given"
        self.count = len(paths)
        self.spent: list[float] = []
        self.found: Any = None
        if not python:
            return
        self.errors = tempfile.TemporaryFile("w+")
        self.list = tempfile.NamedTemporaryFile("w", suffix=".json")
        json.dump(paths, self.list)
        self.list.flush()
        script = str(Path(__file__).with_name("contenders.py"))
        self.process = subprocess.Popen(
            [python, script, name, self.list.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH" or python == sys.executable},
        )
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self.missing = f"{MISSING}: {self._last_words()}"

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1][:160] if lines else "it ended at once"

    def go(self) -> None:
        """Once over the images."""
        if self.missing:
            return
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.missing = f"{MISSING}: {self._last_words()}"
            return
        answer = json.loads(line)
        self.spent.append(answer["cpu"])
        self.found = answer["found"]

    @property
    def rate(self) -> float | None:
        """Images per CPU second."""
        return None if self.missing else self.count / statistics.median(self.spent)

    def close(self) -> None:
        if hasattr(self, "process"):
            self.process.communicate()
            self.list.close()
            self.errors.close()


# ---------------------------------------------------------------- data


def make_images(photos: Path | None, folder: Path, megapixels: float, count: int) -> list[str]:
    """JPEG files of a size in pixels. What is enlarged gets grain, so that bytes per pixel are those of a camera."""
    folder.mkdir()
    pick, grain = random.Random(0), np.random.default_rng(0)
    paths = []
    for k, (image, _) in enumerate(zip(sources(photos), range(count))):
        scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        sides = round(image.width * scale), round(image.height * scale)
        pixels = np.asarray(image.resize(sides, Image.Resampling.LANCZOS)).astype(np.int16)
        if scale > 1:
            pixels += grain.normal(0, 3, (*pixels.shape[:2], 1)).round().astype(np.int16)
        path = folder / f"{k:05d}.jpg"
        made = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        made.save(path, quality=pick.choice([85, 90, 92, 95]), subsampling=2)
        paths.append(str(path))
    return paths


def linked(paths: list[str], folder: Path, count: int) -> str:
    """A folder of `count` files: the images again and again, under other names."""
    folder.mkdir()
    for k in range(count):
        os.link(paths[k % len(paths)], folder / f"{k:06d}.jpg")
    return str(folder)


def versions(image: Image.Image) -> Iterator[tuple[str, Image.Image, int]]:
    """The image and its copies: kind, pixels, JPEG quality."""
    width, height = image.size
    captioned = image.copy()
    draw = ImageDraw.Draw(captioned)
    draw.rectangle((0, int(height * 0.82), width, height), fill="white")
    draw.text((10, int(height * 0.86)), "a caption laid over the image", fill="black")
    yield "original", image, 92
    yield "resize50", image.resize((width // 2, height // 2), Image.Resampling.LANCZOS), 92
    yield "q20", image, 20
    yield "bright", image.point(lambda v: min(255, int(v * 1.3 + 10))), 92
    yield "flip", ImageOps.mirror(image), 92
    yield "rot90", image.rotate(90, expand=True), 92
    yield "caption", captioned, 92
    yield "crop10", image.crop((width // 20, height // 20, width - width // 20, height - height // 20)), 92
    yield "crop25", image.crop((width // 8, height // 8, width - width // 8, height - height // 8)), 92


# ---------------------------------------------------------------- the parts


def take_turns(rounds: int, *contenders: Callable[[], Any]) -> None:
    for _ in range(rounds):
        for work in contenders:
            work()


def hashes(bench: Bench) -> None:
    """Reading, decoding and hashing, function against function."""
    bars = {"0.15": (3.5, 4), "1.5": (4.5, 7), "12": (5, None)}
    for megapixels, (imagededup_bar, data_juicer_bar) in bars.items():
        paths = bench.crawl(megapixels)
        own = Worker(sys.executable, "edittools_phash", paths)
        peers = {"imagededup": bench.peer("imagededup_phash", paths)}
        if data_juicer_bar:
            peers["data-juicer's op"] = bench.peer("data_juicer_phash", paths)
        take_turns(bench.rounds, own.go, *(peer.go for peer in peers.values()))
        assert own.rate is not None, own.missing
        for (name, peer), bar in zip(peers.items(), (imagededup_bar, data_juicer_bar)):
            bench.ratio(f"perceptual hash, {megapixels} MP: x {name}", own.rate, peer.rate, bar, peer.missing)
        found = {"edittools": own.rate, **{name: peer.rate for name, peer in peers.items()}}
        bench.report.numbers[f"hash {megapixels} MP"] = {"images": len(paths), "per_cpu_s": found}
        for worker in (own, *peers.values()):
            worker.close()


class DataJuicer:
    """`dj-process` on a list of images, on one core."""

    def __init__(self, bench: Bench, name: str, process: list[Any], paths: list[str]) -> None:
        self.bench, self.spent, self.missing = bench, [], ""
        script = Path(bench.peers).with_name("dj-process") if bench.peers else None
        if script is None or not script.exists():
            self.missing = f"{MISSING}: --peers is not given" if script is None else f"{MISSING}: {script} is not there"
            return
        self.folder = bench.folder / name
        self.folder.mkdir()
        self.words = [str(script), "--config", str(self.folder / "config.yaml")]
        self.rows, self.export = self.folder / "in.jsonl", self.folder / "out" / "out.jsonl"
        config = {
            "project_name": "benchmark",
            "dataset_path": str(self.rows),
            "export_path": str(self.export),
            "np": 1,
            "auto_op_parallelism": False,
            "use_cache": False,
            "process": process,
        }
        (self.folder / "config.yaml").write_text(json.dumps(config))  # which is YAML too
        self._write(paths[:2])
        try:
            bench.command(self.words)  # compiles
        except SystemExit as failure:
            self.missing = f"{MISSING}: {str(failure).strip().splitlines()[-1][:160]}"
        self._write(paths)

    def _write(self, paths: list[str]) -> None:
        self.rows.write_text("".join(json.dumps({"text": "", "images": [path]}) + "\n" for path in paths))

    def go(self) -> None:
        if not self.missing:
            self.spent.append(self.bench.command(self.words)["cpu"])

    @property
    def cpu(self) -> float | None:
        return statistics.median(self.spent) if self.spent else None

    def rows_out(self) -> int | None:
        return len(self.export.read_text().splitlines()) if self.spent else None


def whole_dedup(bench: Bench) -> None:
    """Commands from start to end, with references written as JSON lines: what dj-process writes."""
    for megapixels, bar in (("0.15", 6), ("1.5", 7)):
        paths = bench.crawl(megapixels)
        out = ["-o", str(bench.folder / "unique.jsonl"), "--overwrite"]
        own = [*EDIT, "dedup", str(Path(paths[0]).parent), "-j", "1", "--quiet", *out]
        bench.command(own)
        spent: list[float] = []
        peer = DataJuicer(bench, f"dj-{megapixels}", [{"image_deduplicator": {"method": "phash"}}], paths)
        take_turns(bench.rounds, lambda own=own, spent=spent: spent.append(bench.command(own)["cpu"]), peer.go)
        rate = len(paths) / statistics.median(spent)
        other = None if peer.cpu is None else len(paths) / peer.cpu
        bench.ratio(f"whole edit dedup, {megapixels} MP: x dj-process", rate, other, bar, peer.missing)
        found = {"images": len(paths), "edit_cpu_s": spent, "dj_process_cpu_s": peer.spent}
        bench.report.numbers[f"dedup {megapixels} MP"] = found


def beyond_start(bench: Bench, words: list[str], folder: str, few: str, rows: int) -> tuple[float, float]:
    """Rows per CPU second of a command less what it takes for one row, and its CPU seconds altogether."""
    whole, start = ([*EDIT, "filter", place, *words, "-j", "1", "--quiet", "--overwrite"] for place in (folder, few))
    out = ["-o", str(bench.folder / "filtered.jsonl")]
    total, first = bench.command(whole + out)["cpu"], bench.command(start + out)["cpu"]
    return (rows - 1) / (total - first), total


def header_sizes(bench: Bench) -> None:
    paths = bench.crawl("1.5")
    folder, few = linked(paths, bench.folder / "many", bench.rows), linked(paths, bench.folder / "one", 1)
    words = ["--min-side", "64", "--max-aspect", "3"]
    peer = bench.peer("data_juicer_sizes", paths)
    rates: list[tuple[float, float]] = []
    beyond_start(bench, words, folder, few, bench.rows)
    take_turns(bench.rounds, lambda: rates.append(beyond_start(bench, words, folder, few, bench.rows)), peer.go)
    rate = statistics.median(rate for rate, _ in rates)
    what = "--min-side --max-aspect from headers, 1.5 MP: x data-juicer's three"
    bench.ratio(what, rate, peer.rate, 100, peer.missing)
    found = {"edittools": rate, "data-juicer": peer.rate}
    bench.report.numbers["sizes"] = {"rows": bench.rows, "per_cpu_s": found, "whole_cpu_s": [cpu for _, cpu in rates]}
    peer.close()


def photometric(bench: Bench) -> None:
    paths = bench.crawl("1.5")
    few = linked(paths, bench.folder / "first", 1)
    own: list[tuple[float, float]] = []
    libjpeg = Worker(sys.executable, "libjpeg_turbo", paths)
    peer = bench.peer("cleanvision_checks", paths)
    again = functools.partial(beyond_start, bench, PHOTOMETRIC, str(Path(paths[0]).parent), few, len(paths))
    again()
    take_turns(bench.rounds, lambda: own.append(again()), libjpeg.go, peer.go)
    rate = statistics.median(rate for rate, _ in own)
    assert libjpeg.rate is not None, libjpeg.missing
    share = 100 * rate / libjpeg.rate
    bench.report.add("five photometric filters, 1.5 MP: of libjpeg-turbo's scaled decode", share, 65, "%")
    what = "five photometric filters, 1.5 MP: x cleanvision's nine checks"
    bench.ratio(what, rate, peer.rate, 12, peer.missing)
    found = {"edittools": rate, "libjpeg-turbo": libjpeg.rate, "cleanvision": peer.rate}
    bench.report.numbers["photometric"] = {"images": len(paths), "per_cpu_s": found, "of_whole_cpu_s": own}
    libjpeg.close()
    peer.close()


def two_cores(bench: Bench) -> None:
    """One run with -j 2 against two runs with -j 1 beside each other, each over half of the rows: wall time."""
    paths = bench.crawl("1.5")
    rows = 3 * len(paths) // 2 * 2
    folders = [linked(paths, bench.folder / name, count) for name, count in (("all", rows), ("half", rows // 2))]
    for name, words in (("dedup", ["dedup"]), ("filter", ["filter", *PHOTOMETRIC])):

        def run(folder: str, jobs: int, out: str, words: list[str] = words) -> subprocess.Popen[bytes]:
            command = [*EDIT, *words, folder, "-j", str(jobs), "--quiet", "--overwrite", "-o", str(bench.folder / out)]
            return subprocess.Popen(command)

        walls: dict[str, list[float]] = {"together": [], "apart": []}
        for _ in range(bench.rounds):
            for kind, work in (
                ("together", [(folders[0], 2, "a.jsonl")]),
                ("apart", [(folders[1], 1, "b.jsonl"), (folders[1], 1, "c.jsonl")]),
            ):
                started = time.perf_counter()
                if any([process.wait() for process in [run(*item) for item in work]]):
                    raise SystemExit(f"edit {name} failed")
                walls[kind].append(time.perf_counter() - started)
        bar = 0.9 if (os.cpu_count() or 1) > 1 else None
        value = statistics.median(walls["apart"]) / statistics.median(walls["together"])
        bench.report.add(f"edit {name} on two cores: x two runs on one each", value, bar, "x")
        bench.report.numbers[f"cores {name}"] = {"rows": rows, "wall_s": walls}


def recall(bench: Bench) -> None:
    """Copies found at equal distance, kind by kind, and pairs of different photographs taken for copies."""
    folder = bench.folder / "copies"
    folder.mkdir()
    count = min(2 * bench.images, 300)
    kinds: list[str] = []
    paths, truth = [], []
    if bench.photos is not None:
        found = sorted(path for path in bench.photos.rglob("*") if path.suffix.lower() in ENDINGS)
        chosen = random.Random(0).sample(found, min(count, len(found)))
        originals: Iterator[Image.Image] = (Image.open(path).convert("RGB") for path in chosen)
    else:
        originals = (image for image, _ in zip(sources(None), range(count)))
    for k, image in enumerate(originals):
        for kind, copy, quality in versions(image):
            path = folder / f"{k:03d}_{kind}.jpg"
            copy.save(path, quality=quality)
            paths.append(str(path))
            truth.append(k)
            kinds.append(kind)
    owner, named = np.array(truth), np.array(kinds)
    own, peer = Worker(sys.executable, "edittools_phash", paths), bench.peer("imagededup_phash", paths)
    own.go()
    peer.go()
    turned = np.array([[int(word, 16) for word in words] for words in own.found], np.uint64)
    columns = {
        "edittools": near(turned[:, 0], turned),
        "without rotations": near(turned[:, 0], turned[:, :1]),
    }
    if not peer.missing:
        plain = np.array([int(word, 16) for word in peer.found], np.uint64)
        columns["imagededup"] = near(plain, plain[:, None])
    own.close()
    peer.close()
    table: dict[str, dict[str, float]] = {}
    first = np.flatnonzero(named == "original")
    for kind in dict.fromkeys(kinds[1:]):
        if kind != "original":
            copies = np.flatnonzero(named == kind)
            table[kind] = {name: float(found[copies, first].mean()) for name, found in columns.items()}
    apart = np.triu(owner[:, None] != owner[None, :])
    wrong = f"false pairs of {apart.sum():,}"
    table[wrong] = {name: int((found & apart).sum()) for name, found in columns.items()}
    print(f"\nrecall at {DISTANCE} of 64 bits: {len(first)} photographs in {len(paths)} files")
    print(f"{'kind of copy':<30}" + "".join(f"{name:>20}" for name in columns))
    for kind, values in table.items():
        shown = (f"{value:.3f}" if kind in kinds else f"{value:,}" for value in values.values())
        print(f"{kind:<30}" + "".join(f"{value:>20}" for value in shown))
    print()
    for kind in ("flip", "rot90"):
        bench.report.add(f"recall of {kind}, perceptual", table[kind]["edittools"], 0.99, "")
    bench.report.numbers["recall"] = {"distance": DISTANCE, "photographs": len(first), "table": table}

    # The command's clusters, which are what a user gets.
    marked = bench.folder / "marked.jsonl"
    bench.command([*EDIT, "dedup", str(folder), "--mark", "copy_of", "-o", str(marked), "--quiet", "--overwrite"])
    rows = [json.loads(line) for line in marked.read_text().splitlines()]
    places = {Path(row["provenance"]["path"]).name: row["copy_of"] or row["id"] for row in rows}
    clusters = [places[Path(path).name] for path in paths]
    for kind in ("flip", "rot90"):
        joined = [clusters[k] == clusters[j] for k, j in zip(np.flatnonzero(named == kind), first)]
        bench.report.add(f"recall of {kind}, edit dedup's clusters", statistics.mean(joined), 0.99, "")
    owners: dict[str, set[int]] = {}
    for cluster, k in zip(clusters, truth):
        owners.setdefault(cluster, set()).add(k)
    mixed = sum(len(found) > 1 for found in owners.values())
    bench.report.add("clusters of several photographs, edit dedup", mixed, None, "")
    bench.report.numbers["clusters"] = {"clusters": len(owners), "of several photographs": mixed}


def near(plain: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """Which signatures (n) are near which (n, orientations): n x n."""
    found = np.zeros((len(plain), len(plain)), bool)
    for column in turned.T:
        found |= distance(plain[:, None], column[None, :]) <= DISTANCE
    return found


def fault(bench: Bench) -> None:
    """1,500 good images and a page of HTML with an image's name: what is left of them?"""
    folder = bench.folder / "crawl"
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = [folder / f"{k:05d}.jpg" for k in range(1501)]
    for k, path in enumerate(paths):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((96, 96), Image.Resampling.BICUBIC).save(path)
        if k == 200:
            path.write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
    good = len(paths) - 1
    out, rejects = bench.folder / "good.jsonl", bench.folder / "rejects.jsonl"
    for name, words in (("dedup", []), ("filter", ["--min-side", "16", *PHOTOMETRIC])):
        end = ["-o", str(out), "--rejects", str(rejects), "--overwrite", "--quiet"]
        done = subprocess.run([*EDIT, name, str(folder), *words, *end], stderr=subprocess.PIPE, text=True)
        said = [json.loads(line) for line in rejects.read_text().splitlines()]
        right = done.returncode == 0 and [item["reason"] for item in said] == ["not an image"] and said[0]["failed"]
        left = len(out.read_text().splitlines())
        note = "" if right else f"exit {done.returncode}, rejects {said}"
        bench.report.add(
            f"edit {name}, one of {good + 1:,} files is HTML: rows", left if right else 0, good, "", note=note
        )
        bench.report.numbers[f"fault {name}"] = {"exit": done.returncode, "rows": left, "rejects": said}
    peer = DataJuicer(bench, "dj-fault", [{"image_shape_filter": {}}], [str(path) for path in paths])
    peer.go()
    bench.report.add("dj-process, the same: rows", peer.rows_out(), None, "", note=peer.missing)


PARTS: dict[str, Callable[[Bench], None]] = {
    "hash": hashes,
    "dedup": whole_dedup,
    "sizes": header_sizes,
    "photometric": photometric,
    "cores": two_cores,
    "recall": recall,
    "fault": fault,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs; without it, noise")
    parser.add_argument("--peers", help="Python of the environment with the peers")
    parser.add_argument("--json", type=Path, help="write every measured number there")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="a part of the benchmark")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--images", type=int, default=150, help="half the images of 1.5 MP (default 150)")
    parser.add_argument("--rows", type=int, default=6000, help="loose files of the sizes part (default 6000)")
    parser.add_argument("--tmp", type=Path, help="where to make the temporary folder")
    given = parser.parse_args()
    for folder in (given.photos, given.tmp):
        if folder is not None and not folder.is_dir():
            parser.error(f"{folder}: no such folder")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="edittools-benchmark-", dir=given.tmp) as folder:
        bench = Bench(report, Path(folder), given.photos, given.peers, given.rounds, given.images, given.rows)
        for name, part in PARTS.items():
            if not given.only or name in given.only:
                part(bench)
    return report.end(given.json)


if __name__ == "__main__":
    sys.exit(main())
