"""`edit judge --rubric gedit` whole: decode, resize, encode, ask, store, against a server that answers in 0.2 s.

    python benchmarks/judging.py [--cases N] [--side N] [--format png|jpeg] [--seconds S] [--photos DIR] [--json FILE]

Two calls per case, 64 in flight; every case has images of its own, two of `--side` pixels. The share of the ideal
is taken at the server, from the first call to the last answer; start-up is told beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from vlm_requests import loopback, noise

IN_FLIGHT = 64
TASKS = ("background_change", "color_alter", "subject-add", "style_change")
PROMPTS = """_context_no_delimit = "You judge."
_prompts_0shot_two_image_edit_rule = "Two images."
_prompts_0shot_tie_rule_SC = "Semantics of <instruction>"
_prompts_0shot_rule_PQ = "Quality"
"""


def images(count: int, side: int, photos: str | None) -> list[Image.Image]:
    """Squares of photographs, or of coarse noise with fine noise over it."""
    rng = np.random.default_rng(0)
    found = []
    if photos:
        files = sorted(p for p in Path(photos).rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))[:count]
        for file in files:
            image = Image.open(file).convert("RGB")
            edge = min(image.size)
            found.append(image.crop((0, 0, edge, edge)).resize((side, side)))
    while not found or (not photos and len(found) < min(count, 64)):
        found.append(Image.fromarray(noise(rng, side)))
    return found


def write_cases(path: str, count: int, side: int, kind: str, photos: str | None) -> None:
    """A benchmark's Parquet file with a result beside every source; no two cases are alike."""
    shown = images(count, side, photos)
    rows = []
    for k in range(count):
        source = shown[k % len(shown)].copy()
        source.putpixel((k % side, k // side % side), (255, 0, 255))
        made = []
        for image in (source, source.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
            buffer = io.BytesIO()
            image.save(buffer, kind, quality=90)
            made.append({"bytes": buffer.getvalue(), "path": None})
        words = {"en": f"Change it, number {k}.", "zh": None}
        task = TASKS[k % len(TASKS)]
        rows.append({"id": f"case-{k}", "task": task, "source": made[:1], "result": made[1], "instruction": words})
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1212)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--format", choices=["png", "jpeg"], default="png")
    parser.add_argument("--seconds", type=float, default=0.2, help="until the server answers")
    parser.add_argument("--photos", help="photographs to cut the images from")
    parser.add_argument("--json", help="write the numbers here")
    options = parser.parse_args()

    reply = json.dumps({"score": [7, 8], "reasoning": "as asked"})
    with loopback(options.seconds, reply) as (address, ask), tempfile.TemporaryDirectory() as folder:
        write_cases(f"{folder}/cases.parquet", options.cases, options.side, options.format, options.photos)
        Path(folder, "vie_prompts.py").write_text(PROMPTS)
        edit = [sys.executable, "-m", "edittools"]
        subprocess.run([*edit, "cat", f"{folder}/cases.parquet", "-o", f"{folder}/results", "-q"], check=True)
        words = ["judge", f"{folder}/results", "--rubric", "gedit", "--prompts", f"{folder}/vie_prompts.py"]
        words += ["--model", "j", "--api-base", address, "--concurrency", str(IN_FLIGHT), "-o", f"{folder}/judged"]
        before, started = os.times(), time.perf_counter()
        done = subprocess.run([*edit, *words], check=True, stderr=subprocess.PIPE, text=True)
        ended, after = time.perf_counter(), os.times()
        seen = ask()
    waited = re.search(r"waited for images (\d+)%", done.stderr)
    span = seen.last - seen.first
    numbers: dict[str, Any] = {
        "calls": seen.calls,
        "share of the ideal, first call to last answer": round(seen.calls * options.seconds / IN_FLIGHT / span, 3),
        "seconds of the command": round(ended - started, 2),
        "of these before the first call": round(seen.first - started, 2),
        "CPU milliseconds per case": round(1000 * (sum(after[2:4]) - sum(before[2:4])) / options.cases, 2),
        "the command says it waited for images": f"{waited[1]}%" if waited else "no",
    }
    for name, value in numbers.items():
        print(f"{name:48} {value}")
    if options.json:
        Path(options.json).write_text(json.dumps(numbers, indent=1))
    assert seen.calls == 2 * options.cases
    return 0


if __name__ == "__main__":
    sys.exit(main())
