"""Masks of others as ours: white where the edit changed the image."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from edittools.errors import RowError
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.row_images import image_value
from edittools.stream.rows import drop_failed, map_chunks, visit_images

_EDGE = 128  # from this luma, or alpha, on


def edited_region(data: bytes | memoryview, edited: str, max_pixels: int = codec.MAX_PIXELS) -> np.ndarray:
    """Of a mask whose edited region is white, black or transparent: uint8 (h, w), 255 where it is.

    One that is to be transparent there and is not transparent anywhere is taken for a black one with a white region.
    Raises RowError for a damaged image.
    """
    codec.probe(data, max_pixels)
    if edited == "transparent":
        with Image.open(io.BytesIO(data)) as opened:
            if opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info:
                alpha = np.asarray(ImageOps.exif_transpose(opened).convert("RGBA").getchannel("A"))
                if alpha.min() < 255:
                    return np.where(alpha < _EDGE, 255, 0).astype(np.uint8)
    white = codec.decode(data, max_pixels=max_pixels).mean(axis=2) >= _EDGE
    return np.where(white != (edited == "black"), 255, 0).astype(np.uint8)


class Masks:
    """Stage: make the masks anew of a data set whose edited region is black or transparent."""

    name = "masks"
    VERSION = 1

    def __init__(self, edited: str, max_pixels: int, jobs: int = 1) -> None:
        self.edited, self.max_pixels, self.jobs = edited, max_pixels, jobs
        self.fetcher = Fetcher()

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        return {}  # the setting is Ingest's

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return schema

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs)

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        at = batch.rows.schema.get_field_index("mask")
        if at < 0:
            return batch

        def visit(row: int, place: tuple[int, ...], reference: dict[str, Any]) -> dict[str, Any]:
            try:
                region = edited_region(self.fetcher.get(reference), self.edited, self.max_pixels)
            except RowError as error:
                raise RowError(f"{error.reason} (mask)", error.value) from None
            return image_value(np.repeat(region[:, :, None], 3, axis=2))

        made, failed = visit_images(batch.rows.select([at]), visit)
        rows = batch.rows.set_column(at, batch.rows.schema.field(at), made.column(0))
        return drop_failed(batch, rows, failed, self.name)
