"""The stage that makes edit pairs of images."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from edittools.errors import RowError, UsageError
from edittools.record import COLUMNS, PROVENANCE
from edittools.stream import codec
from edittools.stream.batch import Batch, Reject
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.row_images import (
    check_any_images,
    check_columns,
    image_value,
    source_references,
    target_references,
)
from edittools.stream.rows import column_values, map_chunks, row_paths
from edittools.synth.config import SynthConfig
from edittools.synth.fonts import find_fonts
from edittools.synth.meshes import find_meshes, meshes_digest
from edittools.synth.registry import rendered_names
from edittools.synth.synthesis import SynthSample, Tools, invert, synthesize, template_names

_MADE = ("id", "task", "source", "target", "mask", "instruction", "turns", "provenance")


class _Values:
    """IMAGE values of the images of one row, each encoded once."""

    def __init__(self) -> None:
        self.known: dict[int, dict[str, Any]] = {}
        self.kept: list[np.ndarray] = []  # so that no id is given to another image

    def of(self, pixels: np.ndarray) -> dict[str, Any]:
        if id(pixels) not in self.known:
            self.known[id(pixels)] = image_value(pixels)
            self.kept.append(pixels)
        return self.known[id(pixels)]


class SynthStage:
    """Stage: a row with an image becomes `per_row` edit rows, named PARENT-TEMPLATE-K.

    The image is the target of a one-image row, or the first source. Columns that a pair does not replace are
    carried along; `scores` describe the image and not the pair, so they become `source_scores`.
    """

    name = "synth"
    VERSION = 1

    def __init__(self, config: SynthConfig, *, jobs: int = 1) -> None:
        self.config, self.jobs = config, jobs
        self.templates = choose_templates(config.templates)
        # Which fonts draw the letters changes the pixels, so their names belong to the settings.
        self.fonts = find_fonts(config.fonts)
        if config.fonts and not self.fonts.names():
            raise UsageError(
                f"--fonts {config.fonts}: no font there", hint="name a font file, or a folder of .ttf, .otf or .ttc"
            )
        self.meshes = find_meshes(config.meshes)
        self.fetcher = Fetcher()
        self.local = threading.local()

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        folder = self.config.meshes
        meshes = None if folder is None else f"{len(self.meshes)} @{meshes_digest(folder)}"
        return self.config.recorded(templates=self.templates, fonts=self.fonts.names(), meshes=meshes)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return carried_schema(schema)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs)

    def _tools(self) -> Tools:
        # Fonts are opened once per thread: a font object keeps state while it draws.
        if not hasattr(self.local, "tools"):
            self.local.tools = Tools(self.fonts, self.meshes)
        return self.local.tools

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        ids, paths = column_values(rows, "id"), row_paths(rows)
        origins = column_values(rows, "provenance")
        made: list[dict[str, Any]] = []
        parents: list[int] = []
        rejects: list[Reject] = []
        for row, image in enumerate(row_images_of(rows)):
            try:
                if image is None:
                    raise RowError("no picture")
                pixels = codec.decode(self.fetcher.get(image), codec.FULL, self.config.max_pixels)
            except RowError as error:
                rejects.append(Reject(str(ids[row]), self.name, error.reason, error.value, True, paths[row]))
                continue
            # An inverse shares its images with the edit it undoes, and a row's edits their source.
            values = _Values()
            kept: dict[str, Any] | None = image
            if self.config.crop is not None:
                pixels, kept = centre_square(pixels, self.config.crop), None
            seed = self.config.seed
            samples, skipped = synthesize(
                pixels, ids[row], seed=seed, templates=self.templates, per_row=self.config.per_row, tools=self._tools()
            )
            rejects += [Reject(f"{ids[row]}-{kind}", self.name, why, kind, False, paths[row]) for kind, why in skipped]
            if self.config.inverse:
                turned = [invert(sample, ids[row], seed=seed) for sample in samples]
                samples = samples + [sample for sample in turned if sample is not None]
            seen: dict[str, int] = {}
            for sample in samples:
                number = seen[sample.template] = seen.get(sample.template, -1) + 1
                identity = f"{ids[row]}-{sample.template}-{number}"
                own = kept if kept is not None and sample.source is pixels else values.of(sample.source)
                made.append(self._row(identity, sample, own, values, ids[row], origins[row] or {}))
                parents.append(row)
        return batch.replace(with_carried(made, parents, rows, schema), rejects)

    def _row(
        self,
        identity: str,
        sample: SynthSample,
        source: dict[str, Any],
        values: _Values,
        parent: str,
        origin: dict[str, Any],
    ) -> dict[str, Any]:
        provenance: dict[str, Any] = {field.name: origin.get(field.name) for field in PROVENANCE}
        provenance.update(
            sha256=None,  # of the parent's bytes, not of this row's images
            template=sample.template,
            slots=json.dumps(sample.slots, ensure_ascii=False, sort_keys=True),
            seed=self.config.seed,
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


def choose_templates(names: Sequence[str]) -> list[str]:
    """The templates that a list names. Raises UsageError for one that does not exist."""
    known = template_names()
    without = [name[1:] for name in names if name.startswith("-")]
    wanted = [name for name in names if not name.startswith("-")]
    if "all" in wanted or (without and not wanted):
        wanted = [*known, *(name for name in wanted if name != "all")]
    for name in (*wanted, *without):
        if name not in (*known, *rendered_names()):
            raise UsageError(f"--templates: there is no `{name}`", hint="`edit synth --list` shows them")
    chosen = [name for name in dict.fromkeys(wanted) if name not in without]
    if not chosen:
        raise UsageError("--templates: nothing is left")
    return chosen


def centre_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The largest centred square of HxWx3, resized to size × size (area average when shrinking)."""
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    method = Image.Resampling.BOX if side >= size else Image.Resampling.BICUBIC
    return np.asarray(square.resize((size, size), method))


def carried_schema(schema: pa.Schema, more: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """The columns of pairs made of such rows: their own, with `more` of them, and what the rows bring along. Raises
    UsageError."""
    check_columns(schema, "source", "target", "provenance")
    check_any_images(schema)
    gone = {*_MADE, *(more or ()), *(("scores", "source_scores") if "scores" in schema.names else ())}
    carried = [(c.name, c.type) for c in schema if c.name not in gone]
    if "scores" in schema.names:
        carried.append(("source_scores", schema.field("scores").type))
    return pa.schema([(name, COLUMNS[name]) for name in _MADE] + list((more or {}).items()) + carried)


def row_images_of(rows: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The image of every row: its first source, or, where it has none, its target."""
    pairs = zip(source_references(rows), target_references(rows))
    return [sources[0] if sources else target for sources, target in pairs]


def with_carried(
    made: list[dict[str, Any]],
    parents: list[int],
    rows: pa.RecordBatch,
    schema: pa.Schema,
    more: Iterable[str] = (),
) -> pa.RecordBatch:
    """The made columns, and `more` of them, beside the ones that the parents bring along."""
    own = {*_MADE, *more}
    taken = rows.take(pa.array(parents, pa.int64()))
    columns = []
    for column in schema:
        if column.name in own:
            columns.append(pa.array([row[column.name] for row in made], type=column.type))
        else:
            # A pair that is edited again: its own scores describe the image, not those it was made from.
            old = "scores" if column.name == "source_scores" and "scores" in rows.schema.names else column.name
            columns.append(taken.column(old))
    return pa.record_batch(columns, schema=schema)
