"""The stage that finds objects: their boxes, masks and names; the five points of faces; and structure maps."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.ground import DETECTORS, MAPS, SEGMENTERS, Found
from edittools.ground.config import GroundConfig, described, known, weights_of
from edittools.ground.tags import PROMPT, TAGS, Tagger, Vocabulary, read_vocabulary
from edittools.metrics import rle
from edittools.metrics.boxes import clipped, mask_shares, suppressed
from edittools.metrics.pixels import as_mask
from edittools.record import IMAGE, OBJECT
from edittools.registry import Registry
from edittools.rounding import significant
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.row_images import image_value, row_images
from edittools.stream.rows import RowPool, column_values, drop_failed

# The comments behind the fields are their descriptions in docs/DATA-MODEL.md.
GROUNDED = pa.struct(
    [
        *OBJECT,
        ("area", pa.float64()),  # the mask's share of the image; the box's, where there is no mask
        ("detector", pa.string()),  # which one found it
        ("text", pa.string()),  # what is written there, of a line of text
        ("rle", pa.string()),  # with --rle: the mask as COCO's packed run lengths, of the image's size
    ]
)
FACES = pa.list_(pa.list_(pa.list_(pa.float64())))
BATCH = 8
Objects = dict[int, list[tuple[dict[str, Any], Found]]]
"""Objects that count by row, each with what is known of it besides: its detector, or all that the row has."""
_DIGITS = 6  # of a box's sides: a thousandth of a pixel of any image


class GroundStage:
    """Stage: the columns `objects`, `faces` (with a detector of faces), `map_NAME` of every map, and `tags`.

    Detected objects replace those that a row had. Objects are in the order of their scores, of several detectors in
    the order of these; their boxes lie inside the image, and an object that none of it is left of is none.
    """

    name = "ground"
    VERSION = 1

    def __init__(self, config: GroundConfig, *, jobs: int = 1) -> None:
        self.config, self.jobs = config, jobs
        self.fetcher = Fetcher()
        self.thresholds = DETECTORS.declared("THRESHOLD", 0.0)
        self.open = DETECTORS.declared("OPEN", False)
        self.draws = MAPS.declared("DRAWS", "")
        self.faces = any(DETECTORS.declared("FACES", False)[_name(spec)] for spec in config.detector)
        self.counts: list[tuple[int, int]] = []  # images with objects, and objects, by pieces of batches
        self.tag_counts: list[tuple[int, int]] = []

    # ------------------------------------------------------------ what it is

    @property
    def objects(self) -> bool:
        """Whether it writes the column."""
        return bool(self.config.detector or self.config.segmenter or self.config.rle)

    @functools.cached_property
    def detectors(self) -> dict[str, Any]:
        return {_name(spec): self._load(DETECTORS, spec) for spec in self.config.detector}

    @functools.cached_property
    def segmenter(self) -> Any:
        return self._load(SEGMENTERS, self.config.segmenter) if self.config.segmenter else None

    @functools.cached_property
    def maps(self) -> dict[str, Any]:
        return {_name(spec): self._load(MAPS, spec) for spec in self.config.maps}

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        return {} if self.config.vocabulary_from is not None else read_vocabulary(self.config.vocabulary)

    @functools.cached_property
    def tagger(self) -> Tagger | None:
        if self.config.tags is None:
            return None
        return Tagger(self.config.tags, self.vocabulary, self.config.prompt or (PROMPT,), **self.config.placed)

    def _load(self, registry: Registry, spec: str) -> Any:
        name, weights = weights_of(registry, spec)
        return registry.load(name).load(weights, **self.config.placed)

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records. Raises EditError for weights that are not there."""
        config = self.config
        found = {
            "detector": [described(DETECTORS, spec) for spec in config.detector],
            "segmenter": described(SEGMENTERS, config.segmenter) if config.segmenter else None,
            "maps": [described(MAPS, spec) for spec in config.maps],
        }
        specs = [(DETECTORS, spec) for spec in config.detector] + [(MAPS, spec) for spec in config.maps]
        specs += [(SEGMENTERS, config.segmenter)] if config.segmenter else []
        placed = config.tags is not None or any(weights_of(registry, spec)[1] for registry, spec in specs)
        if config.tags is not None:
            words = None if config.vocabulary_from else digest(canonical_json(dict(self.vocabulary)))
            found |= {"tags": known(config.tags), "vocabulary": words, "prompt": list(config.prompt or (PROMPT,))}
        else:
            found["most_tags"] = None
        told = {**config.placed, "batch_size": config.batch_size or BATCH} if placed else config.without_models()
        return config.recorded(**{name: value or None for name, value in found.items()}, **told)

    def remark(self) -> str:
        """A remark for the summary line, beside the counts."""
        counts = {"objects": self.counts} if self.objects else {}
        counts |= {"tags": self.tag_counts} if self.config.tags is not None else {}
        sums = {what: [sum(each) for each in zip(*some)] or [0, 0] for what, some in counts.items()}
        return ", ".join(f"{n} {what} in {rows} images" for what, (rows, n) in sums.items())

    def schema(self, schema: pa.Schema) -> pa.Schema:
        row_images(_no_rows(schema), self.config.image)
        for column in (self.config.names_from, self.config.vocabulary_from):
            tagged = column == "tags" and column == self.config.names_from and self.config.tags is not None
            if column is not None and column not in schema.names and not tagged:
                raise UsageError(f"the input has no `{column}` column of names")
        if self.config.tags is not None and "tags" in schema.names and schema.field("tags").type != TAGS:
            raise UsageError("the input has a column `tags` of another kind", hint="edit shard --map gives it a name")
        if self.objects and not self.config.detector and "objects" not in schema.names:
            raise UsageError("the input has no `objects` to find the masks of", hint="--detector finds some")
        made: dict[str, pa.DataType] = {"objects": pa.list_(self._grounded(schema))} if self.objects else {}
        made |= {"faces": FACES} if self.faces else {}
        made |= {f"map_{_name(spec)}": IMAGE for spec in self.config.maps}
        made |= {"tags": TAGS} if self.config.tags is not None else {}
        kept = [(c.name, made.pop(c.name, c.type)) for c in schema]
        return pa.schema(kept + list(made.items()))

    def _grounded(self, schema: pa.Schema) -> pa.StructType:
        """The type of an object; objects that rows have keep what else is known of them."""
        if self.config.detector:
            return GROUNDED
        old = schema.field("objects").type
        kind = old.value_type if pa.types.is_list(old) or pa.types.is_large_list(old) else None
        return pa.struct([*GROUNDED, *(f for f in kind or () if f.name not in GROUNDED.names)])

    # ------------------------------------------------------------ rows

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        pool = RowPool(self.jobs)
        try:
            schema = None
            for batch in batches:
                if schema is None:
                    schema = self.schema(batch.rows.schema)
                    _ = self.detectors, self.segmenter, self.maps, self.tagger  # loaded before the threads ask for them
                work = functools.partial(self._work, schema=schema)
                yield from pool.run(batch, work, schema, self.config.batch_size or BATCH)
        finally:
            pool.close()

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        failed: dict[int, RowError] = {}
        pixels: dict[int, np.ndarray] = {}
        for row, reference in enumerate(image_references(row_images(rows, self.config.image))):
            try:
                if reference is None:
                    raise RowError(f"no {self.config.image} picture")
                pixels[row] = codec.decode(self.fetcher.get(reference), codec.FULL, self.config.max_pixels)
            except RowError as error:
                failed[row] = error
        made: dict[str, list[Any]] = {}
        seen: dict[str, dict[int, list[Found]]] = {}
        if self.tagger is not None:
            made["tags"] = self._tagged(self.tagger, rows, pixels, failed)
        if self.objects:
            if self.config.detector:
                seen = self._seen(rows, pixels, made.get("tags"))
                found = self._counting(pixels, seen)
            else:
                found = self._stored_objects(rows, pixels, failed)
            made["objects"] = [
                self._objects(pixels[k], found[k]) if k in pixels else None for k in range(rows.num_rows)
            ]
            if self.faces:
                made["faces"] = [
                    [one.face for _, one in found.get(k, []) if one.face is not None] for k in range(rows.num_rows)
                ]
            self.counts.append(_counted(made["objects"]))
        for name, drawer in self.maps.items():
            known = seen.get(self.draws[name])
            drawn = {k: drawer.draw(p) if known is None else drawer.drawn(p, known[k]) for k, p in pixels.items()}
            made[f"map_{name}"] = [image_value(drawn[k]) if k in drawn else None for k in range(rows.num_rows)]
        columns = [
            pa.array(_plain(made[c.name]), c.type) if c.name in made else rows.column(c.name) for c in schema
        ]  # fmt: skip
        return drop_failed(batch, pa.record_batch(columns, schema=schema), failed, self.name)

    def _tagged(
        self, tagger: Tagger, rows: pa.RecordBatch, pixels: dict[int, np.ndarray], failed: dict[int, RowError]
    ) -> list[Any]:
        """Values of the column `tags`; a row whose image the model gives no numbers for goes to `failed`."""
        column = self.config.vocabulary_from
        own = [_names_in(value) for value in column_values(rows, column)] if column is not None else None
        wanted = [None if own is None else list(dict.fromkeys(own[k])) for k in pixels]
        seen = tagger.tag(list(pixels.values()), wanted, self.config.most_tags, self.config.tag_threshold)
        found: dict[int, list[dict[str, Any]]] = {}
        for k, tags in zip(list(pixels), seen):
            if isinstance(tags, RowError):
                failed[k] = tags
                del pixels[k]
            else:
                found[k] = tags
        made = [found.get(k) for k in range(rows.num_rows)]
        self.tag_counts.append(_counted(made))
        return made

    def _seen(
        self, rows: pa.RecordBatch, pixels: dict[int, np.ndarray], tags: list[Any] | None
    ) -> dict[str, dict[int, list[Found]]]:
        """All that the detectors find, by their names and the row."""
        names = self._names(rows, tags)
        seen = {}
        for name, detector in self.detectors.items():
            wanted = [names[k] if self.open[name] else () for k in pixels]
            seen[name] = dict(zip(pixels, detector.detect(list(pixels.values()), wanted)))
        return seen

    def _counting(self, pixels: dict[int, np.ndarray], seen: dict[str, dict[int, list[Found]]]) -> Objects:
        """Objects that count by row, each with the name of its detector."""
        found: Objects = {k: [] for k in pixels}
        for name, by_row in seen.items():
            least = self.thresholds[name] if self.config.threshold is None else self.config.threshold
            for k, objects in by_row.items():
                kept = [one for one in map(_inside, objects) if one is not None and (one.score or 0) >= least]
                found[k] += [({"detector": name}, one) for one in self._distinct(kept)]
        return {k: objects[: self.config.most] for k, objects in found.items()}

    def _stored_objects(
        self, rows: pa.RecordBatch, pixels: dict[int, np.ndarray], failed: dict[int, RowError]
    ) -> Objects:
        """The objects that rows have, of those whose image can be read; what is wrong with a row goes to `failed`."""
        found: Objects = {}
        items = column_values(rows, "objects")
        for k in list(pixels):
            try:
                shape = (pixels[k].shape[0], pixels[k].shape[1])
                found[k] = [(one, _placed(one, self._stored_mask(one, shape))) for one in items[k] or [] if one]
            except RowError as error:
                failed[k] = error
                del pixels[k]
        return found

    def _stored_mask(self, item: dict[str, Any], shape: tuple[int, int]) -> np.ndarray | None:
        """The mask that an object has, as an image or as run lengths: bool HxW, None without. Raises RowError."""
        if item.get("mask"):
            mask = codec.decode(self.fetcher.get(item["mask"]), codec.Raster(gray=True), self.config.max_pixels)
            return as_mask(mask, *shape)
        if item.get("rle"):
            try:
                return rle.decode(item["rle"], *shape)
            except ValueError as error:
                raise RowError("an object's run lengths are none of this image", str(error)) from error
        return None

    def _distinct(self, objects: list[Found]) -> list[Found]:
        """Objects of one name once each, the surest first."""
        kept: list[Found] = []
        for name in dict.fromkeys(one.name for one in objects):
            same = [one for one in objects if one.name == name]
            boxes, scores = np.array([one.box for one in same]), np.array([one.score or 0 for one in same])
            kept += [same[k] for k in suppressed(boxes, scores, self.config.overlap)]
        return sorted(kept, key=lambda one: -(one.score or 0))

    def _names(self, rows: pa.RecordBatch, tags: list[Any] | None) -> list[list[str]]:
        """What to look for in every row."""
        column = self.config.names_from
        values = column_values(rows, column) if column is not None else [None] * rows.num_rows
        values = tags if column == "tags" and tags is not None else values
        return [list(dict.fromkeys([*self.config.names, *_names_in(value)])) for value in values]

    def _objects(self, pixels: np.ndarray, found: list[tuple[dict[str, Any], Found]]) -> list[dict[str, Any]]:
        """Values of the column `objects`."""
        without = [k for k, (_, one) in enumerate(found) if one.mask is None]
        masks: dict[int, np.ndarray | None] = {}
        if self.segmenter is not None and without:
            masks = dict(zip(without, self.segmenter.masks(pixels, [found[k][1] for k in without])))
        return [
            _value(besides, one, masks.get(k) if one.mask is None else one.mask, self.config.rle)
            for k, (besides, one) in enumerate(found)
        ]


def _name(spec: str) -> str:
    return spec.partition("=")[0]


def _inside(one: Found) -> Found | None:
    """The part of an object that lies in the image."""
    box = clipped(np.array([one.box]))[0]
    if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        return None
    return Found(one.name, tuple(box.tolist()), one.score, one.mask, one.text, one.face)


def _placed(item: dict[str, Any], mask: np.ndarray | None) -> Found:
    """An object that a row has, with its mask. Raises RowError where it has neither box nor mask."""
    box = item.get("box")
    if box is None and mask is not None:
        box = mask_shares(mask)
    if not isinstance(box, list) or len(box) != 4 or any(side is None for side in box):
        raise RowError("an object has no box", item.get("name"))
    return Found(item.get("name") or "", tuple(box), item.get("score"), mask, item.get("text"))


def _names_in(value: Any) -> list[str]:
    """The names in a value: a list of texts, or of what has a name; a text with commas, or the English one of a text in
    two languages; or all lists of a struct (`names` of `edit caption`)."""
    if isinstance(value, dict):
        lists = [part for part in value.values() if isinstance(part, list)]
        value = [name for some in lists for name in some] if lists else value.get("en")
    parts = value.split(",") if isinstance(value, str) else value or []
    names = [part.get("name") if isinstance(part, dict) else part for part in parts]
    return [name.strip() for name in names if isinstance(name, str) and name.strip()]


def _counted(lists: list[Any]) -> tuple[int, int]:
    """Images that something was found in, and how many things."""
    return sum(bool(one) for one in lists), sum(len(one or ()) for one in lists)


def _value(besides: dict[str, Any], one: Found, mask: np.ndarray | None, packed: bool) -> dict[str, Any]:
    x0, y0, x1, y1 = one.box
    if mask is not None and not mask.any():  # the segmenter has found nothing in the box
        mask = None
    area = (x1 - x0) * (y1 - y0) if mask is None else float(mask.mean())
    return besides | {
        "name": one.name,
        "box": [round(float(side), _DIGITS) for side in one.box],
        "score": None if one.score is None else significant(one.score),
        "mask": None if mask is None else image_value(mask.astype(np.uint8) * np.uint8(255)),
        "area": significant(area),
        "detector": besides.get("detector"),
        "text": one.text,
        "rle": rle.encode(mask) if packed and mask is not None else None,
    }


def _plain(values: list[Any]) -> list[Any]:
    """Points as lists."""
    return [
        [one.tolist() if isinstance(one, np.ndarray) else one for one in v] if isinstance(v, list) else v
        for v in values
    ]


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    from edittools.stream.batch import empty_batch

    return empty_batch(schema)
