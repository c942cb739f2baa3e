"""From judged rows to a summary and a report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.bench.cases import CaseRow, pick_cases
from edittools.bench.checkpoints import TRAINING, curve_panels, training_curves
from edittools.bench.dataset import DatasetStatistics
from edittools.bench.funnel import Why, retention, why, written_sets
from edittools.bench.heldout import Counts, kind_of, summarize
from edittools.bench.rejects import stored_rejects
from edittools.bench.report import render_report
from edittools.bench.sampled import RandomRows
from edittools.errors import EditError, RowError, UsageError
from edittools.record import IMAGE
from edittools.stream import codec
from edittools.stream.batch import Reject, map_batch_images
from edittools.stream.fetch import Fetcher, image_references, kept_reference
from edittools.stream.row_images import source_references
from edittools.stream.rows import column_values
from edittools.stream.source import Source

_FACTS = pa.struct([("width", pa.int32()), ("height", pa.int32()), ("format", pa.string())])
UNKNOWN = "unknown"  # kind of a row that fell out before anybody wrote it down


def _wanted(source: Source) -> tuple[dict[str, str], list[Reject]]:
    """The kind of each row that was to be edited, by id, and what had fallen out of them before."""
    kinds, rejects = {}, list(stored_rejects(source))
    for batch in source.batches(lambda shard: True):
        names = [name for name in ("id", "task", "provenance", "template") if name in batch.rows.schema.names]
        kinds.update({row["id"]: kind_of(row) for row in batch.rows.select(names).to_pylist()})
        rejects += batch.rejects
    return kinds, rejects


def dataset_statistics(
    source: Source, sample: RandomRows | None = None, earlier: Iterable[Source] = ()
) -> dict[str, Any]:
    """What a data set consists of, as in ImgEdit's table 1, and what became of the rows on the way to it, as far as it
    and `earlier` sets know (funnel.retention); `sample` is shown its rows, too."""
    statistics, rejects, read, written = DatasetStatistics(), Counter[Why](), 0, 0
    for batch in source.batches(lambda shard: True):
        read, written = read + batch.seen, written + batch.rows.num_rows
        rejects.update(map(why, batch.rejects))
        for row in _plain_rows(batch.rows):
            statistics.add(row)
        if sample is not None:
            sample.add(batch.rows)
    return statistics.result() | {"funnel": retention(written_sets(source, read, written, rejects), earlier)}


def _plain_rows(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as dictionaries, images as width, height and format."""

    def facts(path: tuple[str, ...], values: pa.StructArray) -> pa.StructArray:
        known = dict(zip([field.name for field in values.type], values.flatten()))
        mask = values.is_null() if values.null_count else None
        return pa.StructArray.from_arrays([known[f.name] for f in _FACTS], fields=list(_FACTS), mask=mask)

    return map_batch_images(rows, IMAGE, facts).to_pylist()


class Heldout:
    """Judged rows with ground truth: their summary, and the cases that a report shows."""

    def __init__(self, source: Source, data: Source | None, wanted: Source | None = None) -> None:
        """`data` are the rows whose statistics the report shows, the judged ones unless given; `wanted` those that were
        to be edited: of an earlier set what fell out on the way is there, and not in the judged one."""
        for name in ("scores", "result", "target", "source"):
            if name not in source.schema.names:
                hint = "edit sample ROWS --model RUN | edit score -o JUDGED/"
                raise UsageError(f"the input has no `{name}` column", hint=hint)
        self.history = source.history.nodes
        rejects = list(stored_rejects(source))
        self.fetcher = Fetcher()
        self.rows: list[dict[str, Any]] = []
        self.images: dict[str, dict[str, Any]] = {}
        statistics = DatasetStatistics()
        for batch in source.batches(lambda shard: True):
            for row in _plain_rows(batch.rows):
                statistics.add(row)
                self.rows.append({name: row.get(name) for name in ("id", "task", "scores", "provenance")})
                self.images[row["id"]] = {"instruction": row.get("instruction") or {}}
            self._keep_images(batch.rows)
            rejects += batch.rejects
        dataset = statistics.result() if data is None else dataset_statistics(data)
        kinds, earlier = ({}, []) if wanted is None else _wanted(wanted)
        lost = {reject.id: reject for reject in (*earlier, *rejects) if reject.id not in self.images}
        self.rejects = Counter(reject.reason for reject in lost.values())
        expected: Counts | None = None
        failed: Counts = len(lost)
        if wanted is not None:
            every = (
                kinds
                | {row["id"]: kind_of(row) for row in self.rows}
                | {name: kinds.get(name, UNKNOWN) for name in lost}
            )
            expected, failed = Counter(every.values()), Counter(every[name] for name in lost)
        try:
            self.summary = summarize(self.rows, expected=expected, failed=failed, dataset=dataset)
        except ValueError as error:
            raise EditError(f"nothing to report: {error}", hint="`edit score` writes the scores") from error

    def _keep_images(self, rows: pa.RecordBatch) -> None:
        ids = column_values(rows, "id")
        found = {name: list(image_references(rows.column(name))) for name in ("target", "result")}
        for k, sources in enumerate(source_references(rows)):
            known = self.images[ids[k]]
            for name, reference in (("source", sources[0] if sources else None), *((n, found[n][k]) for n in found)):
                known[name] = kept_reference(reference)

    def _decode(self, identity: str, name: str) -> np.ndarray:
        reference = self.images[identity][name]
        if reference is None:
            raise RowError(f"no {name} picture")
        return codec.decode(self.fetcher.get(reference))

    def cases(self) -> list[CaseRow]:
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
                images = [self._decode(identity, name) for name in ("source", "result", "target")]
            except RowError:
                continue
            source, result, truth = images
            instruction = self.images[identity]["instruction"]
            found.append(
                CaseRow(identity, row["task"], kind_of(row), instruction, source, result, truth, row["scores"])
            )
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
