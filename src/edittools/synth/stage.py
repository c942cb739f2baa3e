"""The stage that makes edit pairs of pictures."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from edittools.errors import RowError
from edittools.record import COLUMNS, PROVENANCE
from edittools.stream import images
from edittools.stream.batch import Batch, Reject
from edittools.stream.fetch import Fetcher
from edittools.stream.pictures import (
    check_any_pictures,
    check_columns,
    picture_value,
    source_references,
    target_references,
)
from edittools.stream.rows import column_values, map_chunks, row_paths
from edittools.synth import Fonts, Sample, Tools, invert, synthesize

_MADE = ("id", "task", "source", "target", "mask", "instruction", "turns", "provenance")


class _Values:
    """IMAGE values of the pictures of one row, each encoded once."""

    def __init__(self) -> None:
        self.known: dict[int, dict[str, Any]] = {}
        self.kept: list[np.ndarray] = []  # so that no id is given to another picture

    def of(self, pixels: np.ndarray) -> dict[str, Any]:
        if id(pixels) not in self.known:
            self.known[id(pixels)] = picture_value(pixels)
            self.kept.append(pixels)
        return self.known[id(pixels)]


class SynthStage:
    """Stage: a row with a picture becomes `per_row` edit rows, named PARENT-TEMPLATE-K.

    The picture is the target of a one-image row, or the first source. Columns that a pair does not replace are
    carried along; `scores` describe the picture and not the pair, so they become `source_scores`.
    """

    name = "synth"
    version = images.VERSION

    def __init__(
        self,
        *,
        kinds: list[str],
        per_row: int,
        seed: int,
        fonts: Fonts,
        size: int | None,
        inverse: bool,
        max_pixels: int,
        jobs: int,
    ) -> None:
        self.kinds, self.per_row, self.seed, self.fonts = kinds, per_row, seed, fonts
        self.size, self.inverse, self.max_pixels, self.jobs = size, inverse, max_pixels, jobs
        self.fetcher = Fetcher()
        self.local = threading.local()

    def schema(self, schema: pa.Schema) -> pa.Schema:
        check_columns(schema, "source", "target", "provenance")
        check_any_pictures(schema)
        gone = (*_MADE, "scores", "source_scores") if "scores" in schema.names else _MADE
        carried = [(c.name, c.type) for c in schema if c.name not in gone]
        if "scores" in schema.names:
            carried.append(("source_scores", schema.field("scores").type))
        return pa.schema([(name, COLUMNS[name]) for name in _MADE] + carried)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs)

    def _tools(self) -> Tools:
        # Fonts are opened once per thread: a font object keeps state while it draws.
        if not hasattr(self.local, "tools"):
            self.local.tools = Tools(self.fonts)
        return self.local.tools

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        ids, paths = column_values(rows, "id"), row_paths(rows)
        origins = column_values(rows, "provenance")
        made: list[dict[str, Any]] = []
        parents: list[int] = []
        rejects: list[Reject] = []
        for row, picture in enumerate(_row_pictures(rows)):
            try:
                if picture is None:
                    raise RowError("no picture")
                pixels = images.decode(self.fetcher.get(picture), images.FULL, self.max_pixels)
            except RowError as error:
                rejects.append(Reject(str(ids[row]), self.name, error.reason, error.value, True, paths[row]))
                continue
            # An inverse shares its pictures with the edit it undoes, and a row's edits their source.
            values = _Values()
            kept: dict[str, Any] | None = picture
            if self.size is not None:
                pixels, kept = centre_square(pixels, self.size), None
            samples, skipped = synthesize(
                pixels, ids[row], seed=self.seed, kinds=self.kinds, per_row=self.per_row, tools=self._tools()
            )
            rejects += [Reject(f"{ids[row]}-{kind}", self.name, why, kind, False, paths[row]) for kind, why in skipped]
            if self.inverse:
                turned = [invert(sample, ids[row], seed=self.seed) for sample in samples]
                samples = samples + [sample for sample in turned if sample is not None]
            seen: dict[str, int] = {}
            for sample in samples:
                number = seen[sample.template] = seen.get(sample.template, -1) + 1
                identity = f"{ids[row]}-{sample.template}-{number}"
                own = kept if kept is not None and sample.source is pixels else values.of(sample.source)
                made.append(self._row(identity, sample, own, values, ids[row], origins[row] or {}))
                parents.append(row)
        return batch.replace(_with_carried(made, parents, rows, schema), rejects)

    def _row(
        self,
        identity: str,
        sample: Sample,
        source: dict[str, Any],
        values: _Values,
        parent: str,
        origin: dict[str, Any],
    ) -> dict[str, Any]:
        provenance: dict[str, Any] = {field.name: origin.get(field.name) for field in PROVENANCE}
        provenance.update(
            sha256=None,  # of the parent's bytes, not of this row's pictures
            template=sample.template,
            slots=json.dumps(sample.slots, ensure_ascii=False, sort_keys=True),
            seed=self.seed,
            parents=[parent],
        )
        turns = None
        if sample.turns is not None:
            turns = [
                {
                    "parent": turn.parent,
                    "kind": turn.kind,
                    "task": turn.task,
                    "template": turn.template,
                    "instruction": turn.instruction,
                    "slots": json.dumps(turn.slots, ensure_ascii=False, sort_keys=True),
                    "target": values.of(turn.target),
                    "mask": values.of(turn.mask),
                }
                for turn in sample.turns
            ]
        return {
            "id": identity,
            "task": sample.task,
            "source": [source],
            "target": values.of(sample.target),
            "mask": values.of(sample.mask),
            "instruction": sample.instruction,
            "turns": turns,
            "provenance": provenance,
        }


def centre_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The largest centred square of HxWx3, resized to size × size (area average when shrinking)."""
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    method = Image.Resampling.BOX if side >= size else Image.Resampling.BICUBIC
    return np.asarray(square.resize((size, size), method))


def _row_pictures(rows: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The picture of every row: its first source, or, where it has none, its target."""
    pairs = zip(source_references(rows), target_references(rows))
    return [sources[0] if sources else target for sources, target in pairs]


def _with_carried(
    made: list[dict[str, Any]], parents: list[int], rows: pa.RecordBatch, schema: pa.Schema
) -> pa.RecordBatch:
    """The made columns beside the ones that the parents bring along."""
    taken = rows.take(pa.array(parents, pa.int64()))
    columns = []
    for column in schema:
        if column.name in _MADE:
            columns.append(pa.array([row[column.name] for row in made], type=column.type))
        else:
            # A pair that is edited again: its own scores describe the picture, not those it was made from.
            old = "scores" if column.name == "source_scores" and "scores" in rows.schema.names else column.name
            columns.append(taken.column(old))
    return pa.record_batch(columns, schema=schema)
