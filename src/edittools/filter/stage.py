"""The stage that measures, bounds and drops."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import EditError, RowError, UsageError
from edittools.filter import Bounds, Filter, Input, flow
from edittools.filter.config import FilterSettings
from edittools.filter.expression import Expression
from edittools.filter.models import Models
from edittools.rounding import significant
from edittools.stream import codec, files
from edittools.stream.batch import Batch, Reject, Shard, Stage, empty_batch
from edittools.stream.codec import Buffer, Raster
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.row_images import row_images
from edittools.stream.rows import CHUNK_ROWS, RowPool, column_values, drop_failed, row_paths
from edittools.stream.scores import score_types

DECISIONS_VERSION = 1

Decoded = dict[tuple[str, Raster], np.ndarray]  # the images of one row: which one, at what raster


def filter_stages(config: FilterSettings, jobs: int = 1) -> list[Stage]:
    """The stages of one `edit filter`: reviews, upright, bounds, regions, groups; or the nearest. Raises UsageError."""
    alone = not config.bounds and config.where is config.region is config.review is None and not config.fix_rotation
    if config.nearest is None and config.neighbours is not None:
        raise UsageError("--neighbours is for --nearest")
    if config.nearest is not None and (not alone or config.of_groups or config.mark is not None):
        raise UsageError(
            "--nearest chooses among all rows that come in, and makes other rows of them",
            hint="two commands: edit filter with the other options, then edit filter --nearest",
        )
    if alone and not config.of_groups and config.nearest is None:
        raise UsageError("no filter given", hint="see `edit filter --help` for what can be bounded")
    models = Models(config)
    if config.nearest is not None:
        from edittools.filter.base_images import BaseImagesStage

        return [BaseImagesStage(config, jobs=jobs, models=models)]
    stage = FilterStage(config, jobs=jobs, models=models)
    stages: list[Stage] = [stage]
    if config.fix_rotation:
        from edittools.filter.straighten import StraightenStage

        if stage.decisions_digest is None:
            raise UsageError(
                "--fix-rotation makes other images than those whose quantiles would be found",
                hint="two commands: edit filter --fix-rotation, then edit filter with the quantiles",
            )
        if config.image != "target":
            raise UsageError(f"--fix-rotation turns rows of one image, their target; --image says {config.image}")
        stages.insert(0, StraightenStage(config, jobs=jobs, models=models))
    if config.review is not None:
        from edittools.filter.review import ReviewStage

        stages.insert(0, ReviewStage(config))
    if config.region is not None:
        from edittools.filter.regions import RegionStage

        stages.append(RegionStage(config, jobs=jobs, models=models))
    if config.of_groups:
        from edittools.filter.groups import GroupStage

        stages.append(GroupStage(config))
    return stages


class FilterStage:
    """Measure images, store the scores, drop the rows outside the bounds.

    Bounds on quantiles make it a two-pass stage: `observe` measures and keeps 8 bytes per score on disk, `decide`
    finds the quantiles, and the second pass reads the scores instead of decoding again.
    """

    name = "filter"
    VERSION = 1
    first_step: tuple[str, ...] | None = None  # the quantiles of a whole set are found by one process

    def __init__(self, config: FilterSettings, *, jobs: int = 1, models: Models | None = None) -> None:
        self.config, self.jobs = config, jobs
        self.wanted = wanted = config.bounds
        self.where = None if config.where is None else Expression(config.where, "--where")
        self.image, self.mark, self.max_pixels = config.image, config.mark, config.max_pixels
        self.edited = "target" if config.image == "source" else config.image  # what a pair's measure compares
        self.models = models or Models(config)
        self.keys = {item.name: self.models.score(item) for item, _ in wanted}
        self.sized = [item for item in wanted if item[0].from_size is not None]
        self.measured = [item for item in wanted if item[0].stored]
        self.fetcher = Fetcher()
        empirical = any(bounds.empirical for _, bounds in wanted)
        # A stage without quantiles has decided before it starts.
        self.decisions_digest: str | None = None if empirical else digest("fixed")
        self.kept_scores: _ScoreFile | None = None
        self.asked = {self._key(item): str(bounds) for item, bounds in wanted}

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        return self.models.settings(schema, history, self.VERSION)

    def remark(self) -> str:
        again = ", ".join(sorted(self.models.outdated))
        return f"measured again, as an earlier release did it of other colours: {again}" if again else ""

    def _key(self, item: Filter) -> str:
        """The name of the score."""
        return self.keys[item.name]

    # ------------------------------------------------------------ columns

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if self.mark is not None and self.mark in schema.names:
            raise UsageError(f"--mark {self.mark}: the input has such a column already")
        if self.mark == "scores":
            raise UsageError("--mark scores: the column of the measured values has this name")
        if self.where is not None:
            self.where.true_for(empty_batch(schema))  # a wrong expression is found before anything is written
        scores = score_types(schema)
        self.models.check_columns(schema, [item for item, _ in self.measured])
        fields = [(c.name, c.type) for c in schema if c.name != "scores" or not self.measured]
        if self.measured:
            for item, _ in self.measured:
                scores[self._key(item)] = pa.float64()
            fields.append(("scores", pa.struct(list(scores.items()))))
        if self.mark is not None:
            fields.append((self.mark, pa.string()))
        return pa.schema(fields)

    # ------------------------------------------------------------ the two passes

    def observe(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on as they are; remember what was measured."""
        self.kept_scores = _ScoreFile(len(self.wanted))
        pool = RowPool(self.jobs)
        try:
            for batch in batches:
                for piece in self._scored(self._current(batch), pool, drop=False):
                    self.kept_scores.add(piece.shard.index, self._matrix(piece.rows))
                yield batch
        finally:
            pool.close()

    def gather(self, batches: Iterator[Batch]) -> None:
        """Measure without passing anything on."""
        for _ in self.observe(batches):
            pass

    def decide(self) -> None:
        """Turn quantiles into numbers. Rows that could not be measured do not count."""
        assert self.kept_scores is not None
        resolved = []
        for column, (item, bounds) in enumerate(self.wanted):
            values = self.kept_scores.values()[:, column]
            resolved.append((item, bounds.resolve(values[~np.isnan(values)])))
        self._set_bounds(resolved)

    def _set_bounds(self, resolved: list[tuple[Filter, Bounds]]) -> None:
        self.wanted = resolved
        self.sized = [item for item in resolved if item[0].from_size is not None]
        self.measured = [item for item in resolved if item[0].stored]
        self.decisions_digest = digest(self.decisions_text())

    def decisions_text(self) -> str:
        """The resolved bounds as JSON."""
        bounds = {self._key(item): [b.low, b.high] for item, b in self.wanted}
        return canonical_json({"version": DECISIONS_VERSION, "bounds": bounds})

    def save_decisions(self, path: str) -> None:
        decisions = {**json.loads(self.decisions_text()), "asked": self.asked}
        files.write_bytes(path, (canonical_json(decisions) + "\n").encode())

    def load_decisions(self, path: str) -> None:
        """Use bounds that an earlier run found. Raises EditError where they are not for these filters."""
        try:
            decisions = json.loads(files.read_bytes(path))
            bounds = decisions["bounds"]
            asked = decisions.get("asked", self.asked)  # older decisions do not say
            resolved = []
            for item, _ in self.wanted:
                low, high = bounds[self._key(item)]
                resolved.append((item, Bounds(*(None if b is None else float(b) for b in (low, high)))))
                theirs, wanted = asked[self._key(item)], self.asked[self._key(item)]
                if theirs != wanted:
                    raise EditError(
                        f"{path}: decisions made with {item.flag} {theirs}, not {wanted}",
                        hint="give the options that --phase decide had",
                    )
        except (ValueError, KeyError, TypeError) as error:
            raise EditError(f"{path}: no decisions for these filters: {error!r}") from error
        self._set_bounds(resolved)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        pool = RowPool(self.jobs)
        try:
            for batch in batches:
                batch = self._current(batch)
                if self.kept_scores is not None and self.measured:
                    batch = self._with_kept(batch, self.kept_scores)
                batch = self._by_size(self._by_expression(batch))
                for piece in self._scored(batch, pool):
                    yield self._by_score(piece)
        finally:
            pool.close()

    # ------------------------------------------------------------ the steps of one batch

    def _current(self, batch: Batch) -> Batch:
        """The batch without scores that are outdated."""
        if not self.models.outdated:
            return batch
        nothing = np.full(batch.rows.num_rows, np.nan)
        return batch.replace(self._with_scores(batch.rows, dict.fromkeys(self.models.outdated, nothing)))

    def _drop(self, batch: Batch, keep: np.ndarray, reason: str, values: Any = None) -> Batch:
        """Keep these rows; the others are rejected, or only marked."""
        if keep.all():
            return batch
        if self.mark is not None:
            marks = self._marks(batch.rows)
            for row in np.flatnonzero(~keep):
                value = values[row] if values is not None else None
                unknown = value is None or np.isnan(value)
                marks[row] = marks[row] or (reason if unknown else f"{reason} {value:.6g}")
            return batch.replace(self._set_marks(batch.rows, marks))
        dropped = batch.rows.filter(pa.array(~keep))
        measured = [None] * dropped.num_rows if values is None else values[~keep].astype(np.float64).tolist()
        rejects = [
            Reject(str(identity), self.name, reason, value, False, path)
            for identity, value, path in zip(column_values(dropped, "id"), measured, row_paths(dropped))
        ]
        return batch.replace(batch.rows.filter(pa.array(keep)), rejects)

    def _marks(self, rows: pa.RecordBatch) -> list[str | None]:
        assert self.mark is not None
        return column_values(rows, self.mark)

    def _set_marks(self, rows: pa.RecordBatch, marks: list[str | None]) -> pa.RecordBatch:
        assert self.mark is not None
        index = rows.schema.get_field_index(self.mark)
        column = pa.array(marks, pa.string())
        if index < 0:
            return rows.append_column(self.mark, column)
        return rows.set_column(index, self.mark, column)

    def _by_expression(self, batch: Batch) -> Batch:
        if self.where is None or not batch.rows.num_rows:
            return batch
        return self._drop(batch, self.where.true_for(batch.rows), f"not {self.where.text}")

    def _by_size(self, batch: Batch) -> Batch:
        if not self.sized or not batch.rows.num_rows:
            return batch
        width, height, batch = self._sizes(batch)
        for item, bounds in self.sized:
            assert item.from_size is not None
            values = _significant(item.from_size(width, height))
            keep = bounds.passes(values)
            if keep.all():
                continue
            batch = self._drop(batch, keep, self._key(item), values)
            if self.mark is None:
                width, height = width[keep], height[keep]
        return batch

    def _sizes(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, Batch]:
        """Width and height of every image, from the columns where they are known, else from its header."""
        images = row_images(batch.rows, self.image)
        if not images.null_count:
            sides = [images.field("width"), images.field("height")]
            if not any(side.null_count for side in sides):  # as in every shard set
                return sides[0].to_numpy().astype(np.int64), sides[1].to_numpy().astype(np.int64), batch
        children = dict(zip([f.name for f in images.type], images.flatten()))
        unknown = np.asarray(children["width"].is_null()) | np.asarray(children["height"].is_null())
        width = children["width"].fill_null(0).to_numpy().astype(np.int64)
        height = children["height"].fill_null(0).to_numpy().astype(np.int64)
        failed: dict[int, RowError] = {}
        if unknown.any():
            for row, reference in enumerate(image_references(images)):
                if not unknown[row]:
                    continue
                try:
                    if reference is None:
                        raise RowError(f"no {self.image} picture")
                    header = self._header(reference)
                    width[row], height[row] = header.width, header.height
                except RowError as error:
                    failed[row] = error
        batch = self._drop_failed(batch, failed)
        keep = np.array([row not in failed for row in range(len(width))], bool)
        return width[keep], height[keep], batch

    def _header(self, reference: dict[str, Any]) -> codec.Header:
        """What an image's header says. Of a JPEG file, whose header stands in front, only that much is read."""
        head = self.fetcher.get(reference, codec.HEAD_BYTES)
        if codec.sniff(head) == "jpeg":
            try:
                return codec.probe(head, self.max_pixels)
            except RowError:
                pass  # the whole file decides
        return codec.probe(self.fetcher.get(reference), self.max_pixels)

    def _drop_failed(self, batch: Batch, failed: dict[int, RowError]) -> Batch:
        return drop_failed(batch, batch.rows, failed, self.name)

    def _scored(self, batch: Batch, pool: RowPool, drop: bool = True) -> Iterator[Batch]:
        """The batch with a score for every measured filter; decodes only what has none yet.

        A row that cannot be decoded is rejected, or stays with NaN where `drop` is off.
        """
        if not self.measured:
            yield batch
            return
        names = [self._key(item) for item, _ in self.measured]
        known = self._known(batch.rows)
        if all(name in known and not np.isnan(known[name]).any() for name in names):
            yield batch.replace(self._with_scores(batch.rows, {}))
            return
        schema = self._with_scores(batch.rows.slice(0, 0), {n: np.zeros(0) for n in names}).schema
        asked = [role for item, _ in self.measured for role in self.models.roles(item)]
        for role in dict.fromkeys(asked):
            self.models[role]  # loaded before the threads ask for it
        rows = self.models.batch_size if asked else CHUNK_ROWS
        yield from pool.run(batch, lambda piece: self._measure(piece, drop), schema, rows)

    def _known(self, rows: pa.RecordBatch) -> dict[str, np.ndarray]:
        """Scores the rows have already, NaN where they have none."""
        index = rows.schema.get_field_index("scores")
        if index < 0 or not pa.types.is_struct(rows.schema.field(index).type):
            return {}
        column = rows.column(index)
        known = {}
        for item, _ in self.measured:
            k = column.type.get_field_index(self._key(item))
            if k >= 0:
                score = column.flatten()[k] if column.null_count else column.field(k)
                known[self._key(item)] = _as_float(score).to_numpy(zero_copy_only=False)
        return known

    def _measure(self, batch: Batch, drop: bool) -> Batch:
        """Decode every image once per raster and measure what is missing; the models see the whole piece at once."""
        rows = batch.rows
        known = self._known(rows)
        keys = [self._key(item) for item, _ in self.measured]
        values = {key: known.get(key, np.full(rows.num_rows, np.nan)).copy() for key in keys}
        failed: dict[int, RowError] = {}
        lacking = {key: np.flatnonzero(np.isnan(values[key])).tolist() for key in keys}
        by_row: dict[int, list[Filter]] = {}
        for (item, _), key in zip(self.measured, keys):
            for row in lacking[key]:
                by_row.setdefault(row, []).append(item)
        view = _View(self, rows, [item for item, _ in self.measured])
        by_input: dict[Input, dict[int, Any]] = {}
        for row, missing in sorted(by_row.items()):
            images: Decoded = {}
            try:
                for item in missing:
                    if item.score is None:
                        key = self._key(item)
                        values[key][row] = finite(key, self._measured(item, view, row, images))
                inputs = {asked: view.given(row, asked, images) for item in missing for asked in self._inputs(item)}
            except RowError as error:
                failed[row] = error
                continue
            for asked, prepared in inputs.items():
                by_input.setdefault(asked, {})[row] = prepared
        vectors = {asked: dict(zip(of, self.models.infer(asked, list(of.values())))) for asked, of in by_input.items()}
        for (item, _), key in zip(self.measured, keys):
            asking = [row for row in lacking[key] if row not in failed]
            if item.score is not None and asking:
                arrays = [np.stack([vectors[asked][row] for row in asking]) for asked in self._inputs(item)]
                for row, value in zip(asking, item.score(self.models, *arrays).tolist()):
                    try:
                        values[key][row] = finite(key, value)
                    except RowError as error:
                        failed[row] = error
        if self.mark is not None:  # what did not fail is marked, as it has no score within the bounds
            failed = {row: error for row, error in failed.items() if error.failed}
        return self._drop_failed(batch.replace(self._with_scores(rows, values)), failed if drop else {})

    def _measured(self, item: Filter, view: _View, row: int, images: Decoded) -> float:
        """What a filter without a model says of a row. Raises RowError."""
        if item.from_header is not None:
            return item.from_header(view.header(row, self.image))
        if item.measure_flow is not None:
            return item.measure_flow(*view.motion(row, images))
        assert item.raster is not None
        if item.measure_pair is not None:
            return item.measure_pair(
                *(view.image(row, which, item.raster, images) for which in ("source", self.edited))
            )
        assert item.measure is not None
        return item.measure(view.image(row, self.image, item.raster, images))

    def _inputs(self, item: Filter) -> list[Input]:
        """The filter's model inputs, with "image" replaced by the column that --image names."""
        return [Input(asked.model, self.image if asked.of == "image" else asked.of) for asked in item.inputs]

    def _with_scores(self, rows: pa.RecordBatch, values: dict[str, np.ndarray]) -> pa.RecordBatch:
        """The rows with these scores in their `scores` column, other scores untouched, marks last."""
        index = rows.schema.get_field_index("scores")
        marks = self.mark is not None and self.mark in rows.schema.names
        scores: dict[str, pa.Array] = {}
        if index >= 0:
            column = rows.column(index)
            in_place = index == rows.num_columns - (2 if marks else 1) and not column.null_count
            if in_place and not values and self._has_declared_types(column.type):
                return rows
            scores = dict(zip([f.name for f in column.type], column.flatten()))
            rows = rows.remove_column(index)
        for name, new in values.items():
            scores[name] = pa.array(new, pa.float64(), from_pandas=True)
        for item, _ in self.measured:
            if self._key(item) in scores:
                scores[self._key(item)] = _as_float(scores[self._key(item)])
        struct = pa.StructArray.from_arrays(list(scores.values()), names=list(scores))
        at = rows.num_columns - 1 if marks else rows.num_columns
        return rows.add_column(at, "scores", struct)

    def _has_declared_types(self, scores: pa.StructType) -> bool:
        """Whether the measured scores have the type that `schema` gives them."""
        indices = [scores.get_field_index(self._key(item)) for item, _ in self.measured]
        return all(scores.field(k).type == pa.float64() for k in indices if k >= 0)

    def _by_score(self, batch: Batch) -> Batch:
        if batch.rows.num_rows:
            for item, bounds in self.measured:
                values = self._known(batch.rows)[self._key(item)]
                batch = self._drop(batch, bounds.passes(values), self._key(item), values)
                if not batch.rows.num_rows:
                    break
        if self.mark is not None and self.mark not in batch.rows.schema.names:
            batch = batch.replace(self._set_marks(batch.rows, [None] * batch.rows.num_rows))
        return batch

    # ------------------------------------------------------------ scores between the passes

    def _matrix(self, rows: pa.RecordBatch) -> np.ndarray:
        """Everything that is bounded, a column per filter, NaN where a row has no such value."""
        known = self._known(rows)
        result = np.full((rows.num_rows, len(self.wanted)), np.nan)
        if self.sized:
            width, height = self._stated_sizes(rows)
        for column, (item, _) in enumerate(self.wanted):
            if item.from_size is not None:
                result[:, column] = _significant(item.from_size(width, height))
            elif self._key(item) in known:
                result[:, column] = known[self._key(item)]
        return result

    def _stated_sizes(self, rows: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
        """Width and height for the quantiles; a header that cannot be read gives NaN here."""
        everything = Batch(rows, Shard(0, None, ""))
        width, height, rest = self._sizes(everything)
        if rest.rows.num_rows == rows.num_rows:
            return width, height
        ids = set(column_values(rest.rows, "id"))
        present = np.array([identity in ids for identity in column_values(rows, "id")], bool)
        full = np.full((2, rows.num_rows), np.nan)
        full[:, present] = width, height
        return full[0], full[1]

    def _with_kept(self, batch: Batch, score_file: _ScoreFile) -> Batch:
        """The batch with the scores of the first pass, so that nothing is decoded twice."""
        matrix = score_file.next_rows(batch.shard.index, batch.rows.num_rows)
        columns = {self._key(item): k for k, (item, _) in enumerate(self.wanted) if item.stored}
        known = self._known(batch.rows)
        values = {}
        for name, k in columns.items():
            old = known.get(name, np.full(batch.rows.num_rows, np.nan))
            values[name] = np.where(np.isnan(old), matrix[:, k], old)
        return batch.replace(self._with_scores(batch.rows, values))


def _significant(values: np.ndarray) -> np.ndarray:
    """Rounded as every score is, so that a value equals the quantile that it is."""
    # Whole numbers of six digits, as sizes are, need no rounding.
    if values.dtype.kind == "i" and values.max(initial=0) < 1e6:
        return values
    uneven = (values != np.trunc(values)) | (np.abs(values) >= 1e6)
    if not uneven.any():
        return values
    rounded = values.astype(np.float64)
    for row in np.flatnonzero(uneven):
        rounded[row] = significant(values[row])
    return rounded


def _as_float(array: pa.Array) -> pa.Array:
    try:
        return array if array.type == pa.float64() else array.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise EditError(f"column `scores`: a score of type {array.type} is not a number") from None


def finite(name: str, value: Any) -> float:
    """A measured value, rounded as scores are. Raises RowError where it is none, EditError where it is no number."""
    try:
        number = float("nan" if value is None else value)
    except (TypeError, ValueError):
        raise EditError(f"filter `{name}` measured {value!r:.60}, which is no number") from None
    if not np.isfinite(number):
        raise RowError(f"{name} is not a number")
    return significant(number)


class _View:
    """The images and texts of a few rows, as the filters ask for them."""

    def __init__(self, stage: FilterStage, rows: pa.RecordBatch, items: list[Filter]) -> None:
        self.stage = stage
        asked = dict.fromkeys(of for item in items for _, of in stage._inputs(item))
        which = {of for of in asked if of in ("source", "target", stage.image)}
        if any(item.measure is not None or item.from_header is not None for item in items):
            which.add(stage.image)
        if any(item.measure_pair is not None for item in items):
            which |= {"source", stage.edited}
        if any(item.measure_flow is not None for item in items):
            which |= {"source", "target", *(["mask"] if "mask" in rows.schema.names else [])}
        self.references = {name: list(image_references(row_images(rows, name))) for name in which}
        self.texts = {of: stage.models.texts(rows, of) for of in asked if of not in which}
        self.fetched: tuple[tuple[int, str], Buffer] | None = None
        self.moved: tuple[int, np.ndarray, np.ndarray] | None = None  # of the last row: two filters ask for it

    def image(self, row: int, which: str, raster: Raster, decoded: Decoded) -> np.ndarray:
        """The raster of an image, from those that were decoded for this row or by decoding it."""
        if (which, raster) not in decoded:
            decoded[which, raster] = codec.decode(self._fetch(row, which), raster, self.stage.max_pixels)
        return decoded[which, raster]

    def header(self, row: int, which: str) -> codec.Header:
        return codec.probe(self._fetch(row, which), self.stage.max_pixels)

    def _fetch(self, row: int, which: str) -> Buffer:
        reference = self.references[which][row]
        if reference is None:
            raise RowError(f"no {which} picture")
        if self.fetched is None or self.fetched[0] != (row, which):
            self.fetched = (row, which), self.stage.fetcher.get(reference)
        return self.fetched[1]

    def motion(self, row: int, decoded: Decoded) -> tuple[np.ndarray, np.ndarray]:
        """The motion from source to target (HxWx2, per cent of the diagonal) and the source's foreground (bool HxW)."""
        if self.moved is None or self.moved[0] != row:
            models = self.stage.models
            by_model = models.names["raft"] is not None
            raster = flow.COLOUR if by_model else flow.RASTER
            source, target = (self.image(row, name, raster, decoded) for name in ("source", "target"))
            foreground = self._foreground(row, source, decoded)
            flow.same_size(source, target, "target")
            field = models["raft"].flow(source, target) if by_model else flow.dis(source, target)
            self.moved = row, flow.per_cent(field), foreground
        return self.moved[1], self.moved[2]

    def _foreground(self, row: int, source: np.ndarray, decoded: Decoded) -> np.ndarray:
        """Where the row's mask is white; of a row without one, what the model says."""
        if "mask" in self.references and self.references["mask"][row] is not None:
            mask = self.image(row, "mask", flow.RASTER, decoded)
            flow.same_size(source, mask, "mask")
            return mask > 127
        if self.stage.models.names["foreground"] is None:
            raise RowError("no mask picture")
        return self.stage.models["foreground"].foreground(self.image(row, "source", flow.COLOUR, decoded))

    def given(self, row: int, asked: Input, decoded: Decoded) -> Any:
        """The input of a model: a text, or an image after the model's preprocessing."""
        if asked.of in self.texts:
            text = self.texts[asked.of][row]
            if text is None:
                raise RowError(f"no text in `{self.stage.models.columns[asked.of]}`")
            return text
        return self.stage.models[asked.model.name].prepare(self.image(row, asked.of, codec.FULL, decoded))


class _ScoreFile:
    """Scores of every row on disk, 8 bytes each, in the order they came; found again by shard."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.file = tempfile.TemporaryFile(prefix="edittools-")
        self.rows = 0
        self.starts: dict[int, int] = {}
        self.shard, self.cursor = -1, 0

    def add(self, shard: int, matrix: np.ndarray) -> None:
        self.starts.setdefault(shard, self.rows)
        self.file.write(np.ascontiguousarray(matrix, dtype=np.float64).tobytes())
        self.rows += len(matrix)

    def values(self) -> np.ndarray:
        """All rows, mapped into memory."""
        if not self.rows:
            return np.zeros((0, self.width))
        self.file.flush()
        return np.memmap(self.file, np.float64, "r", shape=(self.rows, self.width))

    def next_rows(self, shard: int, count: int) -> np.ndarray:
        """The next `count` rows of a shard; shards come in any order, rows of a shard in theirs."""
        if shard != self.shard:
            self.shard, self.cursor = shard, self.starts.get(shard, 0)
        start, self.cursor = self.cursor, self.cursor + count
        return self.values()[start : self.cursor]
