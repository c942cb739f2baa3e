"""The stage that turns crooked images upright (FireRed-Image-Edit, section 2.2.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import UsageError
from edittools.filter.config import FilterSettings
from edittools.filter.filters import tilt
from edittools.filter.models import Models
from edittools.opencv import opencv
from edittools.record import IMAGE
from edittools.rounding import significant
from edittools.stream import codec
from edittools.stream.batch import Batch, image_positions, map_images
from edittools.stream.codec import Buffer
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.row_images import image_value
from edittools.stream.rows import drop_failed, map_chunks, visit_images
from edittools.stream.scores import add_scores, scores_schema

WIDTH, LEVEL = 0.5, 1.0  # degrees, of tilt.angle: finer than those of --tilt, so that 2 degrees can be sure
SURE = 7.0  # of upright photographs 0.4% are turned; benchmarks/rotation.py
TEXT_SURE = 8.0  # of the same photographs none
_STEPS = np.arange(-12, 12.25, 0.5)  # degrees
_APART = 2.0  # degrees: farther angles are others
LEAST, MOST = 2.0, 10.0  # degrees: less is not told from the detector's error, more is as often a slope as a tilt
SCORES = ("orientation", "rotation")


class StraightenStage:
    """Turn images whose lines surely are 2 to 10 degrees off level and upright, and cut them to their aspect ratio.

    It looks at rows of one image: of edit rows, dialogues, and rows with a mask, objects or a result, the parts would
    no longer fit one another, and they stay as they are. `scores.rotation` becomes the degrees that the image was
    turned counter-clockwise: 0 where it stays as it is, null in rows that are not examined. `scores.orientation`
    becomes the EXIF orientation of the file as it came, which is applied to what is turned. New pixels are PNG; other
    images keep their bytes. Other scores of an image that is turned become null, because the image changed. A row that
    has a `rotation` is not examined again.
    """

    name = "filter"
    VERSION = 1

    def __init__(self, config: FilterSettings, *, jobs: int = 1, models: Models | None = None) -> None:
        self.max_pixels, self.jobs = config.max_pixels, jobs
        self.models = models or Models(config)
        self.fetcher = Fetcher()

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        return self.models.settings(schema, history, self.VERSION)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if "target" not in schema.names or schema.field("target").type != IMAGE:
            raise UsageError("--fix-rotation: the input has no `target` image")
        return scores_schema(schema, SCORES)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs)

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        found = _scores(batch.rows)
        looked = _alone(batch.rows) & np.array([old.get("rotation") is None for old in found], bool)
        turned = np.zeros(len(found), bool)

        def visit(row: int, place: tuple[int, ...], image: dict[str, Any]) -> dict[str, Any]:
            if not looked[row]:
                return image
            data = self.fetcher.get(image)
            orientation = float(codec.probe(data, self.max_pixels).orientation)
            degrees = crooked(data, self.max_pixels)
            if degrees:
                image = image_value(straight(codec.decode(data, codec.FULL, self.max_pixels), degrees))
                turned[row] = True
            found[row] = {"orientation": orientation, "rotation": significant(degrees)}
            return image

        rows, failed = visit_images(batch.rows, visit)
        return drop_failed(batch, add_scores(_without_scores(rows, turned), schema, SCORES, found), failed, self.name)


def crooked(data: Buffer, max_pixels: int = codec.MAX_PIXELS) -> float:
    """Degrees that an image has to be turned counter-clockwise; 0 unless that is sure and within the range."""
    gray = codec.decode(data, tilt.RASTER, max_pixels)
    degrees, sure = text_lines(gray)
    if sure < TEXT_SURE:
        degrees, sure = tilt.angle(gray, WIDTH, LEVEL)
        sure *= TEXT_SURE / SURE
    return degrees if sure >= TEXT_SURE and LEAST <= abs(degrees) <= MOST else 0.0


def text_lines(gray: np.ndarray) -> tuple[float, float]:
    """Degrees that lines of text, or a horizon, are turned clockwise, and how sure that is (0 and more).

    Along text the mean brightness jumps from line to line: of all angles, the text's has the largest mean square
    difference between neighbouring lines of the sheared image (Postl 1986). Sureness is that over the largest at
    another angle. Letters are too small to be lines for tilt.angle.
    """
    cv2 = opencv("--fix-rotation")
    height, width = gray.shape
    # Columns are averaged by fours: what is looked at are rows.
    narrow = cv2.resize(gray, (max(1, width // 4), height), interpolation=cv2.INTER_AREA).astype(np.float32)
    middle, slope = (narrow.shape[1] - 1) / 2, np.tan(np.radians(_STEPS)) * width / narrow.shape[1]
    margin = math.ceil(slope[-1] * middle) + 1
    if height < 2 * margin + 16 or width < 32:
        return 0.0, 0.0
    jumps = []
    for step in slope:
        shear = np.array([[1, 0, 0], [step, 1, -step * middle]], np.float32)
        level = cv2.warpAffine(narrow, shear, narrow.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        jumps.append(float((np.diff(level[margin : height - margin].mean(axis=1)) ** 2).mean()))
    best = int(np.argmax(jumps))
    if best in (0, len(jumps) - 1):
        return 0.0, 0.0
    before, at, after = jumps[best - 1 : best + 2]
    bend = before - 2 * at + after
    # The top of the parabola through the three.
    degrees = _STEPS[best] + (0.25 * (before - after) / bend if bend < 0 else 0.0)
    others = max(jump for step, jump in zip(_STEPS, jumps) if abs(step - _STEPS[best]) > _APART)
    return float(degrees), at / (others + 0.05)


def straight(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """uint8 HxWx3 turned counter-clockwise by `degrees`, and the largest part of it that has the image's own aspect
    ratio and no corner from outside. 10 degrees leave 0.80 of the sides of a 3:2 image."""
    from PIL import Image

    height, width = pixels.shape[:2]
    turned = Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC)
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    # A w x h box fits into the turned image if w cos + h sin <= W and w sin + h cos <= H.
    share = 1 / max(cosine + sine * height / width, cosine + sine * width / height)
    # One pixel more on every side: bicubic looks beyond the edge.
    left, top = (math.ceil(side * (1 - share) / 2) + 1 for side in (width, height))
    return np.asarray(turned.crop((left, top, max(left + 1, width - left), max(top + 1, height - top))))


def _alone(rows: pa.RecordBatch) -> np.ndarray:
    """Mask of the rows that hold one image, the target, and no objects."""
    count = np.zeros(rows.num_rows, np.int64)
    for column in rows.columns:
        nested_columns: list[pa.StructArray] = []

        def collect(values: pa.StructArray, nested_columns: list[pa.StructArray] = nested_columns) -> pa.StructArray:
            nested_columns.append(values)
            return values

        map_images(column, IMAGE, collect)
        for places, values in zip(image_positions(column), nested_columns):
            for place, there in zip(places, values.is_valid().to_pylist()):
                if place is not None and there:
                    count[place[0]] += 1
    alone = (count == 1) & np.asarray(rows.column("target").is_valid())
    if "objects" in rows.schema.names and pa.types.is_list(rows.column("objects").type):
        alone &= np.asarray(rows.column("objects").value_lengths().fill_null(0)) == 0
    return alone


def _scores(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """The scores of this stage that the rows have already."""
    found: list[dict[str, Any]] = [{} for _ in range(rows.num_rows)]
    if "scores" in rows.schema.names:
        column = rows.column("scores")
        for field, values in zip(column.type, column.flatten()):
            if field.name in SCORES:
                for own, value in zip(found, values.to_pylist()):
                    own[field.name] = value
    return found


def _without_scores(rows: pa.RecordBatch, which: np.ndarray) -> pa.RecordBatch:
    """The rows with null for every score of some of them."""
    import pyarrow.compute as pc  # takes longer to import than all filters

    index = rows.schema.get_field_index("scores")
    if index < 0 or not which.any():
        return rows
    column = rows.column(index)
    gone = pa.array(which)
    children = [pc.if_else(gone, pa.scalar(None, child.type), child) for child in column.flatten()]
    return rows.set_column(index, "scores", pa.StructArray.from_arrays(children, fields=list(column.type)))
