"""The stage that judges regions: the objects of an image, by their masks or boxes (ImgEdit 3.2)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.filter import Input
from edittools.filter.config import FilterSettings
from edittools.filter.expression import Expression
from edittools.filter.models import SEEN, Models, is_text, region_roles
from edittools.filter.shared import CLIP
from edittools.metrics.boxes import mask_box, mask_shares
from edittools.metrics.pixels import as_mask
from edittools.rounding import significant
from edittools.stream import codec
from edittools.stream.batch import Batch, Reject, empty_batch
from edittools.stream.codec import Raster
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.history import History
from edittools.stream.row_images import row_images
from edittools.stream.rows import CHUNK_ROWS, RowPool, column_values, drop_failed, row_paths

SIZES = ("area", "box_area")
TEMPERATURE = 100.0  # of `match`, as in ImgEdit's released code


class RegionStage:
    """Keep the objects that an expression is true for; drop the rows that have none left.

    The measures that the expression names are stored with the objects: `area` is the mask's share of the image (the
    box's, where there is no mask), `box_area` the box's. The crop is the mask's bounding box, white outside the mask,
    or the box. `clip` is the cosine of crop and name, `match` the softmax at temperature 100 of the cosines to NAME and
    to "not NAME", `aesthetic` the crop's score. An object without the measure (no box, an empty mask) has null.
    """

    name = "filter"
    VERSION = 1

    def __init__(self, config: FilterSettings, *, jobs: int = 1, models: Models | None = None) -> None:
        assert config.region is not None
        self.expression = Expression(config.region, "--region")
        self.image, self.mark, self.max_pixels, self.jobs = config.image, config.mark, config.max_pixels, jobs
        self.models = models or Models(config)
        self.fetcher = Fetcher()
        named = self.expression.columns()
        self.measures = [name for name in (*SIZES, *SEEN) if name in named]
        self.crops = any(name in named for name in SEEN)
        self.roles = region_roles(config.region)

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        return self.models.settings(schema, history, self.VERSION)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        kind = schema.field("objects").type if "objects" in schema.names else None
        if kind is None or not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
            raise UsageError("the input has no `objects`", hint="each has a name, and a box or a mask")
        fields = {field.name: field.type for field in kind.value_type}
        if self.crops and not is_text(fields.get("name", pa.null())):
            raise UsageError("the `objects` have no name")
        fields.update({name: pa.float64() for name in self.measures})
        made = pa.list_(pa.struct(list(fields.items())))
        self.expression.true_for(empty_batch(pa.schema(_plain(made.value_type))))
        row_images(empty_batch(schema), self.image)
        return pa.schema([(c.name, made if c.name == "objects" else c.type) for c in schema])

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        pool = RowPool(self.jobs)
        try:
            schema = None
            for batch in batches:
                if schema is None:
                    schema = self.schema(batch.rows.schema)
                    for role in self.roles:
                        self.models[role]  # loaded before the threads ask for it
                rows = self.models.batch_size if self.crops else CHUNK_ROWS
                yield from pool.run(batch, functools.partial(self._judge, schema=schema), schema, rows)
        finally:
            pool.close()

    # ------------------------------------------------------------ one batch

    def _judge(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        column = rows.column(rows.schema.get_field_index("objects"))
        kind = schema.field("objects").type
        owners = [row for row, n in enumerate(column.value_lengths().fill_null(0).to_pylist()) for _ in range(n)]
        flat = column.flatten()
        measured, failed = self._measure(rows, flat, owners)
        children = dict(zip([field.name for field in flat.type], flat.flatten()))
        children.update({name: pa.array(measured[name], pa.float64()) for name in self.measures})
        objects = pa.StructArray.from_arrays(list(children.values()), fields=list(kind.value_type))
        shown = pa.schema(_plain(kind.value_type))
        plain = pa.record_batch([children[name] for name in shown.names], schema=shown)
        passes = self.expression.true_for(plain) if len(objects) else np.zeros(0, bool)
        left = np.bincount(np.array(owners, np.int64)[passes], minlength=rows.num_rows)
        if self.mark is not None:
            passes = np.ones(len(objects), bool)  # every row stays as it is
        counts = np.bincount(np.array(owners, np.int64)[passes], minlength=rows.num_rows)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        nulls = column.is_null() if column.null_count else None
        kept = pa.ListArray.from_arrays(offsets, objects.filter(pa.array(passes)), type=kind, mask=nulls)
        index = rows.schema.get_field_index("objects")
        rows = pa.record_batch([kept if k == index else c for k, c in enumerate(rows.columns)], schema=schema)
        return self._drop(batch, rows, left > 0, failed, _described(plain, owners, self.measures))

    def _drop(
        self, batch: Batch, rows: pa.RecordBatch, keep: np.ndarray, failed: dict[int, RowError], values: dict[int, Any]
    ) -> Batch:
        if self.mark is not None:
            marks = column_values(rows, self.mark)
            marks = [mark if mark or keep[k] or k in failed else "region" for k, mark in enumerate(marks)]
            rows = rows.set_column(rows.schema.get_field_index(self.mark), self.mark, pa.array(marks, pa.string()))
            return drop_failed(batch, rows, failed, self.name)
        ids, paths = column_values(rows, "id"), row_paths(rows)
        rejects = [
            Reject(str(ids[row]), self.name, failed[row].reason, failed[row].value, True, paths[row])
            if row in failed
            else Reject(str(ids[row]), self.name, "region", values.get(row, []), False, paths[row])
            for row in range(rows.num_rows)
            if row in failed or not keep[row]
        ]
        stays = [bool(keep[row]) and row not in failed for row in range(rows.num_rows)]
        return batch.replace(rows.filter(pa.array(stays, pa.bool_())), rejects)

    def _measure(
        self, rows: pa.RecordBatch, flat: pa.StructArray, owners: list[int]
    ) -> tuple[dict[str, list[float | None]], dict[int, RowError]]:
        """The measures of every object; a row whose image or mask is damaged fails."""
        measured: dict[str, list[float | None]] = {name: [None] * len(owners) for name in self.measures}
        failed: dict[int, RowError] = {}
        children = dict(zip([field.name for field in flat.type], flat.flatten()))
        boxes = children["box"].to_pylist() if "box" in children else [None] * len(owners)
        names = children["name"].to_pylist() if "name" in children else [None] * len(owners)
        masks: list[Any] = list(image_references(children["mask"])) if "mask" in children else [None] * len(owners)
        images = list(image_references(row_images(rows, self.image))) if self.crops else []
        crops: dict[int, Any] = {}
        pixels, decoded = np.zeros((0, 0, 3), np.uint8), -1
        for k, row in enumerate(owners):
            if row in failed or not self.measures:
                continue
            try:
                mask = None if masks[k] is None else self._mask(masks[k])
                box = _box(boxes[k])
                if box is None and mask is not None:
                    box = mask_shares(mask)
                sizes = {"box_area": None if box is None else (box[2] - box[0]) * (box[3] - box[1])}
                sizes["area"] = sizes["box_area"] if mask is None else float(mask.mean())
                for name in SIZES:
                    if name in measured and sizes[name] is not None:
                        measured[name][k] = significant(float(sizes[name] or 0))
                if self.crops and names[k]:
                    if decoded != row:
                        reference = images[row]
                        if reference is None:
                            raise RowError(f"no {self.image} picture")
                        pixels, decoded = codec.decode(self.fetcher.get(reference), codec.FULL, self.max_pixels), row
                    crop = cut(pixels, box, mask)
                    if crop is not None:
                        crops[k] = self.models["clip"].prepare(crop)
            except RowError as error:
                failed[row] = error
        crops = {k: crop for k, crop in crops.items() if owners[k] not in failed}
        for start in range(0, len(crops), self.models.batch_size):
            some = list(crops)[start : start + self.models.batch_size]
            self._look(some, [crops[k] for k in some], [str(names[k]) for k in some], measured)
        return measured, failed

    def _look(self, some: list[int], crops: list[Any], names: list[str], measured: dict[str, list[Any]]) -> None:
        """Fill in what the models say about a batch of crops."""
        seen = self.models.infer(Input(CLIP, "image"), crops)
        found: dict[str, np.ndarray] = {}
        if "aesthetic" in measured:
            found["aesthetic"] = self.models["aesthetic"](seen)
        if "clip" in measured or "match" in measured:
            found["clip"] = (seen * self.models["clip"].texts(names)).sum(axis=1)
        if "match" in measured:
            other = (seen * self.models["clip"].texts([f"not {name}" for name in names])).sum(axis=1)
            found["match"] = 1 / (1 + np.exp(-TEMPERATURE * (found["clip"] - other).astype(np.float64)))
        for name in set(found) & set(measured):
            for k, value in zip(some, found[name].tolist()):
                measured[name][k] = significant(value) if math.isfinite(value) else None

    def _mask(self, reference: dict[str, Any]) -> np.ndarray:
        """The mask as bool in its own raster: 128 and above is inside."""
        return codec.decode(self.fetcher.get(reference), Raster(gray=True), self.max_pixels) >= 128


def cut(pixels: np.ndarray, box: list[float] | None, mask: np.ndarray | None) -> np.ndarray | None:
    """The crop of an object: the mask's bounding box, white outside the mask; or the box (shares of the image), out
    to whole pixels. None where there is nothing of it inside the image."""
    height, width = pixels.shape[:2]
    if mask is not None:
        mask = as_mask(mask, height, width)
        around = mask_box(mask)
        if around is None:
            return None
        left, top, right, bottom = around.astype(int)
        place = np.s_[top:bottom, left:right]
        return np.where(mask[place][..., None], pixels[place], np.uint8(255))
    if box is None:
        return None
    left, top = math.floor(box[0] * width + 1e-6), math.floor(box[1] * height + 1e-6)
    right, bottom = math.ceil(box[2] * width - 1e-6), math.ceil(box[3] * height - 1e-6)
    return pixels[top:bottom, left:right] if right > left and bottom > top else None


def _box(value: Any) -> list[float] | None:
    """A box inside the image, or None for what is none."""
    if not isinstance(value, list) or len(value) != 4 or any(v is None or not math.isfinite(v) for v in value):
        return None
    x0, y0, x1, y1 = (min(1.0, max(0.0, float(v))) for v in value)
    return [x0, y0, x1, y1] if x1 > x0 and y1 > y0 else None


def _plain(kind: pa.StructType) -> list[tuple[str, pa.DataType]]:
    """The fields of an object that an expression can name: not its mask."""
    return [(field.name, field.type) for field in kind if not pa.types.is_struct(field.type)]


def _described(plain: pa.RecordBatch, owners: list[int], measures: list[str]) -> dict[int, list[dict[str, Any]]]:
    """Per row, what was measured of each object: the value of a reject."""
    shown = [name for name in ("name", "score", *measures) if name in plain.schema.names]
    values: dict[int, list[dict[str, Any]]] = {}
    for row, one in zip(owners, plain.select(shown).to_pylist()):
        values.setdefault(row, []).append(one)
    return values
