"""Images that show before and after side by side, or one above the other: cut in two where the seam is.

The seam is in the middle. How far the halves lie off each other (edittools.metrics.alignment) says how wide the gutter
between them is, which has to be of one plain colour; a plain frame about all may be there as well. What does not show
the same on both sides is no such image, and nor is one whose halves do not differ.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.metrics.alignment import Alignment, alignment
from edittools.metrics.pixels import ssim
from edittools.record import COLUMNS, PROVENANCE
from edittools.rounding import significant
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.row_images import column_references, image_value
from edittools.stream.rows import column_values, drop_failed, map_chunks
from edittools.stream.schemas import align_array

_LEAST = 32  # pixels of a half's shorter side
_APART = 0.02  # share of a half's shorter side that its content may lie off the other's
_ALIKE = 16  # levels: what JPEG does to a plain colour
_SHARE = 0.95  # of the pixels of a frame's rows and columns
_BLED, _MOST = 24, 0.85  # the same of a gutter, which has the halves on both sides
_LEAST_ALIKE = 0.35  # SSIM of the halves; retouched photographs have .4 to .97
_CLEARLY = 0.1  # of SSIM, more than by the other way
_ALIGNED = 0.75  # pixels across the seam
_WIDEST = 1 / 3  # share of the image that a gutter may have
_FRAME = 1 / 8  # and a frame, on every side


@dataclass(frozen=True)
class Halves:
    """An image cut in two; both parts are of one size."""

    before: np.ndarray  # the left one, or the upper one
    after: np.ndarray
    boxes: tuple[tuple[int, int, int, int], tuple[int, int, int, int]]  # x, y, width, height of both, in pixels
    shift: float  # pixels that the second lies off the first, in the mean
    way: str


def split(pixels: np.ndarray, way: str) -> Halves:
    """The halves of uint8 HxWx3, of which the left or upper one is `before`. `either` takes the way that fits.

    Raises RowError where no way fits, or both do as well.
    """
    ways = ("beside", "stacked") if way == "either" else (way,)
    found: list[tuple[float, Halves]] = []
    errors: list[RowError] = []
    for one in ways:
        try:
            found.append(_cut(pixels if one == "beside" else pixels.transpose(1, 0, 2), one))
        except RowError as error:
            errors.append(error)
    if not found:
        # Of two ways, the one that came farther says more.
        raise max(errors, key=lambda error: _REASONS.index(error.reason))
    found.sort(key=lambda one: -one[0])
    if len(found) > 1 and found[0][0] - found[1][0] < _CLEARLY:
        raise RowError("halves fit both ways", [significant(alike) for alike, _ in found])
    return found[0][1]


_SMALL, _OTHER, _OFF, _SAME = (
    "too small to be cut in two",
    "halves do not show the same",
    "halves are not aligned",
    "halves do not differ",
)
_REASONS = (_SMALL, _OTHER, _OFF, _SAME)


def _cut(pixels: np.ndarray, way: str) -> tuple[float, Halves]:
    """Left and right of an image whose axes are exchanged where the way is `stacked`, and how alike they are (SSIM).
    Raises RowError."""
    shortest = min(pixels.shape[0], pixels.shape[1] // 2)
    if shortest < _LEAST:
        raise RowError(_SMALL, shortest)
    seams = [
        (*_seam(pixels[top:bottom, left:right]), top, bottom, left) for top, bottom, left, right in _insides(pixels)
    ]
    # Within a frame only where that is clearly better: what is plain about a thing is its image's own.
    best = seams[0] if seams[0][0] > max(alike for alike, *_ in seams) - _CLEARLY else seams[-1]
    alike, (width, second), top, bottom, left = best
    cut = [pixels[top:bottom, start : start + width] for start in (left, left + second)]
    if (cut[0] == cut[1]).all():
        raise RowError(_SAME)
    found = alignment(*cut)
    if found is not None and found.shift > max(1.5, _APART * min(bottom - top, width)):
        raise RowError(_OFF, significant(found.shift))
    if found is None or alike < _LEAST_ALIKE:
        raise RowError(_OTHER, significant(alike))
    boxes = [(start, top, width, bottom - top) for start in (left, left + second)]
    if way == "stacked":
        cut = [one.transpose(1, 0, 2) for one in cut]
        boxes = [(y, x, height, width) for x, y, width, height in boxes]
    before, after = map(np.ascontiguousarray, cut)
    return alike, Halves(before, after, (boxes[0], boxes[1]), found.shift, way)


def _seam(pixels: np.ndarray) -> tuple[float, tuple[int, int]]:
    """How alike the halves are, the width of both, and where the second begins."""
    whole = pixels.shape[1]
    known: dict[tuple[int, int], float] = {}

    @functools.cache
    def aligned(width: int, second: int) -> Alignment | None:
        return alignment(pixels[:, :width], pixels[:, second : second + width])

    def add(width: int, second: int) -> None:
        if width >= _LEAST and (width, second) not in known:
            one, other = (np.ascontiguousarray(pixels[:, start : start + width]) for start in (0, second))
            known[width, second] = ssim(one, other) or 0.0

    odd = whole % 2
    half = whole // 2
    add(half, half + odd)
    if odd:  # the right half may be the wider one
        add(half, half)
    middle = _middle(pixels)
    for gutter in {middle, middle - 2}:  # JPEG may have made its edge columns plain
        if gutter > odd:
            add((whole - gutter) // 2, (whole + gutter) // 2)
    for _ in range(2):
        (width, second), _alike = max(known.items(), key=lambda one: one[1])
        found = aligned(width, second)
        # Both halves hold half of what the gutter is wider, at their inner sides.
        gutter = second - width + 2 * round(found.shift_x) if found is not None else 0
        if not odd < gutter <= whole * _WIDEST or (gutter - odd) % 2 or gutter == second - width:
            break
        if _plain(pixels[:, (whole - gutter) // 2 : (whole + gutter) // 2]):
            add((whole - gutter) // 2, (whole + gutter) // 2)
    best, alike = max(known.items(), key=lambda one: one[1])
    # Of those about as good, the narrowest gutter that leaves the halves aligned: a plain margin is none.
    for width, second in sorted(known, key=lambda place: place[1] - place[0]):
        if known[width, second] > alike - _CLEARLY:
            found = aligned(width, second)
            if found is not None and abs(found.shift_x) < _ALIGNED:
                return known[width, second], (width, second)
    return alike, best


def _middle(pixels: np.ndarray) -> int:
    """How many columns about the middle are of its plain colour, as many on either side."""
    whole = pixels.shape[1]
    colour = np.median(pixels[:, whole // 2], axis=0)
    most = int(whole * _WIDEST)
    steps = 0
    # A column at a time, since it ends soon: of most images the middle one is not plain.
    while 2 * steps - whole % 2 < most and all(
        _like(pixels[:, column], colour) for column in (whole // 2 + steps, whole - whole // 2 - 1 - steps)
    ):
        steps += 1
    return min(2 * steps - whole % 2, most) if steps else 0


def _insides(pixels: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """The whole image, and what is inside of a plain frame, where there is one: top, bottom, left, right. That alone
    where the frame is as wide on all sides."""
    height, width = pixels.shape[:2]
    colour = pixels[0, 0].astype(np.int16)
    top, bottom = _run(pixels, colour), height - _run(pixels[::-1], colour)
    columns = pixels.transpose(1, 0, 2)
    left, right = _run(columns, colour), width - _run(columns[::-1], colour)
    sides = (top, height - bottom, left, width - right)
    framed = any(sides) and min(bottom - top, (right - left) // 2) >= _LEAST
    if not framed or min(sides) == 0 or max(sides) - min(sides) > 1:
        yield 0, height, 0, width
    if framed:
        yield top, bottom, left, right


def _run(lines: np.ndarray, colour: np.ndarray) -> int:
    """How many of the first rows are of a plain colour, of as many as a frame may have."""
    most = int(len(lines) * _FRAME)
    return next((k for k in range(most) if not _like(lines[k], colour)), most)


def _like(line: np.ndarray, colour: np.ndarray) -> bool:
    """Whether a row or column (N, 3) is of a plain colour."""
    return bool((np.abs(line.astype(np.int16) - colour) <= _ALIKE).all(axis=1).mean() >= _SHARE)


def _plain(pixels: np.ndarray) -> bool:
    """Whether it is of one brightness, as far as JPEG leaves it so: colours bleed over sixteen pixels."""
    gray = pixels.mean(axis=2)
    return bool((np.abs(gray - np.median(gray)) <= _BLED).mean() >= _MOST)


class Split:
    """Stage: every row that has a `target` and no source is an image of both, and becomes a pair."""

    name = "halves"
    VERSION = 1

    def __init__(self, way: str, max_pixels: int, jobs: int = 1) -> None:
        self.way, self.max_pixels, self.jobs = way, max_pixels, jobs
        self.fetcher = Fetcher()

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        return {}  # the setting is Ingest's

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if "target" not in schema.names:
            raise UsageError("--halves: the input has no images", hint="--map target=COLUMN says which column has")
        made = {"source": COLUMNS["source"], "provenance": PROVENANCE, "pairing": pa.string()}
        kept = {field.name: field.type for field in schema}
        if "pairing" in kept and not pa.types.is_string(kept["pairing"]):
            raise UsageError("--halves: the input has a column `pairing` of another kind")
        return pa.schema([*(kept | made).items()])

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs)

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        failed: dict[int, RowError] = {}
        values = {name: column_values(rows, name) for name in ("source", "target", "provenance", "pairing")}
        masks = column_values(rows, "mask")
        for row, reference in enumerate(column_references(rows, "target")):
            if any(values["source"][row] or ()) or reference is None:
                continue  # a pair, or no image, which others find out
            try:
                if masks[row] is not None:
                    raise RowError("has a mask, which is not cut in halves")
                made = split(codec.decode(self.fetcher.get(reference), codec.FULL, self.max_pixels), self.way)
            except RowError as error:
                failed[row] = error
                continue
            values["source"][row] = [image_value(made.before)]
            values["target"][row] = image_value(made.after)
            values["pairing"][row] = "halves"
            said = {"way": made.way, "before": made.boxes[0], "after": made.boxes[1]}
            known = values["provenance"][row] or {}
            values["provenance"][row] = {field.name: known.get(field.name) for field in PROVENANCE} | {
                "slots": json.dumps(said)
            }
        columns = [
            align_array(pa.array(values[field.name], field.type), field.type)
            if field.name in values
            else rows.column(field.name)
            for field in schema
        ]
        return drop_failed(batch, pa.record_batch(columns, schema=schema), failed, self.name)
