"""The samples of lmms-eval (`--log_samples`): one JSON line per case, with what it scored under each metric's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edittools.bench.scores import read_lines
from edittools.errors import EditError, UsageError

LMMS_NOTE = (
    "of lmms-eval: its own averages are of samples, with 0 for what failed, and its protocol (smaller pictures, "
    "another judge) is not the benchmark's: no number here is comparable with a paper's"
)
LMMS_FAILED = "all zeros: what lmms-eval writes for a case that failed"


def lmms_samples(path: Path, metric: str) -> list[dict[str, Any]] | None:
    """The samples of a file, or of the one such file below a folder, known by a metric that each of them has.

    None where there is none. Raises UsageError for a folder with several, EditError for lines that are no objects.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*samples*.jsonl"))
    found = [file for file in files if file.suffix == ".jsonl" and _has(file, metric)]
    if not found:
        return None
    if len(found) > 1:
        raise UsageError(f"{path}: holds several samples of lmms-eval", hint="name one: " + ", ".join(map(str, found)))
    samples = read_lines(found[0])
    if not all(isinstance(sample, dict) for sample in samples):
        raise EditError(f"{found[0]}: not the samples of lmms-eval")
    return samples


def _has(file: Path, metric: str) -> bool:
    try:
        with open(file, encoding="utf-8-sig") as lines:
            first = json.loads(next((line for line in lines if line.strip()), "null"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and metric in first
