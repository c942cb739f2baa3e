"""From judged rows to a summary and a report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.bench.cases import Case, pick_cases
from edittools.bench.checkpoints import TRAINING, curve_panels, training_curves
from edittools.bench.dataset import DatasetStatistics
from edittools.bench.heldout import kind_of, summarize
from edittools.bench.rejects import stored_rejects
from edittools.bench.report import render_report
from edittools.errors import EditError, RowError, UsageError
from edittools.record import IMAGE
from edittools.stream import images
from edittools.stream.batch import map_batch_images
from edittools.stream.fetch import Fetcher, kept_reference, leaf_references
from edittools.stream.pictures import source_references
from edittools.stream.rows import column_values
from edittools.stream.source import Source

_FACTS = pa.struct([("width", pa.int32()), ("height", pa.int32()), ("format", pa.string())])
_NEEDED = ("id", "task", "source", "target", "result", "instruction", "scores", "provenance")


def dataset_statistics(source: Source) -> dict[str, Any]:
    """What a data set consists of (SPEC E7)."""
    statistics = DatasetStatistics()
    for batch in source.batches(lambda shard: True):
        for row in _plain_rows(batch.rows):
            statistics.add(row)
    return statistics.result()


def _plain_rows(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as dictionaries, pictures as width, height and format."""

    def facts(path: tuple[str, ...], values: pa.StructArray) -> pa.StructArray:
        known = dict(zip([field.name for field in values.type], values.flatten()))
        mask = values.is_null() if values.null_count else None
        return pa.StructArray.from_arrays([known[f.name] for f in _FACTS], fields=list(_FACTS), mask=mask)

    return map_batch_images(rows, IMAGE, facts).to_pylist()


class Heldout:
    """Judged rows with ground truth: their summary, and the cases that a report shows."""

    def __init__(self, source: Source, data: Source | None) -> None:
        for name in ("scores", "result", "target", "source"):
            if name not in source.schema.names:
                hint = "edit sample ROWS --model RUN | edit judge -o JUDGED/"
                raise UsageError(f"the input has no `{name}` column", hint=hint)
        self.history = source.history.nodes
        self.rejects = Counter(reject.reason for reject in stored_rejects(source))
        self.fetcher = Fetcher()
        self.rows: list[dict[str, Any]] = []
        self.pictures: dict[str, dict[str, Any]] = {}
        statistics = DatasetStatistics()
        for batch in source.batches(lambda shard: True):
            for row in _plain_rows(batch.rows):
                statistics.add(row)
                self.rows.append({name: row.get(name) for name in ("id", "task", "scores", "provenance")})
                self.pictures[row["id"]] = {"instruction": row.get("instruction") or {}}
            self._keep_pictures(batch.rows)
            for reject in batch.rejects:
                self.rejects[reject.reason] += 1
        dataset = statistics.result() if data is None else dataset_statistics(data)
        try:
            self.summary = summarize(self.rows, failed=sum(self.rejects.values()), dataset=dataset)
        except ValueError as error:
            raise EditError(f"nothing to report: {error}", hint="`edit judge` writes the scores") from error

    def _keep_pictures(self, rows: pa.RecordBatch) -> None:
        ids = column_values(rows, "id")
        found = {name: list(leaf_references(rows.column(name))) for name in ("target", "result")}
        for k, sources in enumerate(source_references(rows)):
            known = self.pictures[ids[k]]
            for name, reference in (("source", sources[0] if sources else None), *((n, found[n][k]) for n in found)):
                known[name] = kept_reference(reference)

    def _decode(self, identity: str, name: str) -> np.ndarray:
        reference = self.pictures[identity][name]
        if reference is None:
            raise RowError(f"no {name} picture")
        return images.decode(self.fetcher.get(reference))

    def cases(self) -> list[Case]:
        """The worst and the best cases; only these are decoded."""
        by_id = {row["id"]: row for row in self.rows}
        scored = [
            (row["id"], kind_of(row), row["scores"]["psnr"] - row["scores"]["copy_psnr"])
            for row in self.rows
            if (row["scores"] or {}).get("psnr") is not None and row["scores"].get("copy_psnr") is not None
        ]
        found = []
        for identity in pick_cases(scored, worst=6, best=6, per_kind=1):
            row = by_id[identity]
            try:
                pictures = [self._decode(identity, name) for name in ("source", "result", "target")]
            except RowError:
                continue
            source, result, truth = pictures
            instruction = self.pictures[identity]["instruction"]
            found.append(Case(identity, row["task"], kind_of(row), instruction, source, result, truth, row["scores"]))
        return found

    def html(self, title: str, run: str | None) -> str:
        """The report as one self-contained page."""
        return render_report(
            self.summary,
            self.cases(),
            title=title,
            loss=training_loss(run) if run else None,
            history=list(self.history),
            rejects=dict(self.rejects),
            curves=curve_panels([curve for curve in training_curves(Path(run)) if curve[0] != TRAINING]) if run else "",
        )


def training_loss(run: str) -> list[tuple[int, float]]:
    """(step, loss) out of a run folder's log. Raises EditError where there is none."""
    path = Path(run) / "log.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return [(int(record["step"]), float(record["loss"])) for record in records if "loss" in record]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EditError(f"{path}: no log of a training run: {error}") from error
