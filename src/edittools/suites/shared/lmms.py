"""The samples of lmms-eval (`--log_samples`): one JSON line per case, with what it scored under each metric's name; or
a folder that `datasets` wrote of them (`save_to_disk`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edittools.errors import EditError, UsageError
from edittools.suites.shared.scores import read_lines

LMMS_NOTE = (
    "of lmms-eval: its own averages are of samples, with 0 for what failed, and its protocol (smaller images, "
    "another judge) is not the benchmark's: no number here is comparable with a paper's"
)
LMMS_FAILED = "all zeros: what lmms-eval writes for a case that failed"


def lmms_samples(path: Path, metric: str) -> list[dict[str, Any]] | None:
    """The samples of a file, or of the one such file or saved data set below a folder, known by a metric that each of
    them has.

    None where there is none. Raises UsageError for a folder with several, EditError for lines that are no objects.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*samples*.jsonl"))
    found = [file for file in files if file.suffix == ".jsonl" and _has(file, metric)]
    saved = [] if path.is_file() else [file.parent for file in sorted(path.rglob(_STATE))]
    tables = {folder: table for folder in saved if (table := _saved_table(folder, metric)) is not None}
    if not found and not tables:
        return None
    if len(found) + len(tables) > 1:
        several = ", ".join(map(str, [*found, *tables]))
        raise UsageError(f"{path}: holds several samples of lmms-eval", hint=f"name one: {several}")
    if tables:
        return next(iter(tables.values()))
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


_STATE = "state.json"
"""The file of a `save_to_disk` folder that lists, in order, the files with its rows."""


def _saved_table(folder: Path, metric: str) -> list[dict[str, Any]] | None:
    """The rows of a saved data set, of the columns that belong to the metric's benchmark; None where it has no such
    metric. Raises EditError where files are missing or damaged."""
    import pyarrow as pa

    from edittools.json_file import read_json
    from edittools.stream.ipc import arrow_errors

    state = read_json(folder / _STATE)
    listed = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(listed, list):
        return None
    rows: list[dict[str, Any]] = []
    for entry in listed:
        file = folder / Path(str(entry.get("filename"))).name if isinstance(entry, dict) else folder
        if not file.is_file():
            raise EditError(f"{file}: no such file, which {folder / _STATE} lists")
        with arrow_errors(str(file)), pa.memory_map(str(file)) as data, pa.ipc.open_stream(data) as stream:
            names = [name for name in stream.schema.names if name.startswith(metric.partition("_")[0])]
            if metric not in names:
                return None
            rows += stream.read_all().select(names).to_pylist()
    return rows
