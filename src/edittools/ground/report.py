"""`--report`: images with the boxes and masks of their objects, by which a person judges a threshold. One HTML file
without neighbours."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterable
from importlib import resources
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from edittools import __version__
from edittools.errors import RowError, UsageError
from edittools.report import thumbnails
from edittools.report.markup import text
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.row_images import row_images
from edittools.stream.rows import column_values, row_paths

MOST = 200  # images
_RASTER = codec.Raster(short_side=320)
_LONGEST = 380  # pixels


def write_report(path: str, batches: Iterable[Batch], *, image: str, title: str, max_pixels: int) -> None:
    """Write the report of the first rows. Raises UsageError where they have neither `objects` nor `tags`."""
    from edittools.stream import files

    fetcher = Fetcher()
    figures: list[str] = []
    objects: list[tuple[int, dict[str, Any]]] = []  # with the number of their image
    for batch in batches:
        rows = batch.rows.slice(0, MOST - len(figures))
        if not {"objects", "tags"} & set(rows.schema.names):
            raise UsageError("the rows have no `objects` to report on", hint="--detector finds some")
        for item in _rows(rows, image, fetcher, max_pixels):
            objects += [(len(figures), one) for one in item["objects"]]
            figures.append(_figure(item))
        if len(figures) >= MOST:
            break
    names = sorted({one["name"] or "" for _, one in objects})
    page = resources.files("edittools.ground").joinpath("report.html").read_text(encoding="utf-8")
    made = Template(page).substitute(
        title=text(title),
        options="".join(f'<option value="{text(name)}">{text(name)}</option>' for name in names),
        names="".join(_line(name, objects) for name in names),
        images="".join(figures) or '<p class="note">There is no image.</p>',
        version=text(__version__),
    )
    files.write_bytes(path, made.encode())


def _rows(rows: pa.RecordBatch, image: str, fetcher: Fetcher, max_pixels: int) -> Iterable[dict[str, Any]]:
    """What is shown of every row whose image can be read."""
    ids, paths, objects = column_values(rows, "id"), row_paths(rows), column_values(rows, "objects")
    tags = column_values(rows, "tags")
    for k, reference in enumerate(image_references(row_images(rows, image))):
        if reference is None:
            continue
        try:
            pixels = codec.decode(fetcher.get(reference), _RASTER, max_pixels)
        except RowError:
            continue
        shown = Image.fromarray(pixels)
        shown.thumbnail((_LONGEST, _LONGEST))
        found = [one for one in objects[k] or [] if one]
        masks = [_mask(one.get("mask"), shown.size, fetcher, max_pixels) for one in found]
        made = {"id": ids[k], "path": paths[k] or "", "image": np.asarray(shown), "objects": found, "masks": masks}
        yield made | {"tags": [one for one in tags[k] or [] if isinstance(one, dict) and one.get("name")]}


def _mask(reference: dict[str, Any] | None, size: tuple[int, int], fetcher: Fetcher, most: int) -> np.ndarray | None:
    if reference is None:
        return None
    try:
        mask = codec.decode(fetcher.get(reference), codec.Raster(gray=True), most)
    except RowError:
        return None
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)) >= 128


def _figure(item: dict[str, Any]) -> str:
    height, width = item["image"].shape[:2]
    masks, marks = [], []
    for one, mask in zip(item["objects"], item["masks"]):
        name = one.get("name") or ""
        colour = _colour(name)
        said = f'data-score="{_score(one):.6f}" data-name="{text(name)}"'
        if mask is not None:
            masks.append(f'<img class="mask" alt="" {said} src="{_overlay(mask, colour)}">')
        box = one.get("box")
        if box is None or len(box) != 4 or None in box:
            continue
        x0, y0, x1, y1 = (side * length for side, length in zip(box, (width, height, width, height)))
        score = "" if one.get("score") is None else f" {one['score']:.2f}"
        label = name + (f" “{one['text']}”" if one.get("text") else "") + score
        marks.append(
            f'<g {said}><rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" '
            f'stroke="rgb{colour}"/><text x="{x0 + 3:.1f}" y="{min(max(y0 + 13, 13), height - 3):.1f}">{text(label)}'
            "</text></g>"
        )
    return (
        f'<figure><span class="image" style="width:{width}px;height:{height}px">'
        f'<img alt="" width="{width}" height="{height}" src="{thumbnails.data_uri(item["image"], _LONGEST)}">'
        f'{"".join(masks)}<svg viewBox="0 0 {width} {height}">{"".join(marks)}</svg></span>'
        f'<figcaption class="mono" title="{text(item["path"])}">{text(item["id"])}{_tags(item["tags"])}</figcaption>'
        "</figure>"
    )


def _tags(tags: list[dict[str, Any]]) -> str:
    said = ", ".join(
        f"{one['name']} {one['score']:.2f}" if one.get("score") is not None else one["name"] for one in tags
    )
    return f"<br>{text(said)}" if said else ""


def _score(one: dict[str, Any]) -> float:
    """Objects without a score are sure."""
    return 1.0 if one.get("score") is None else float(one["score"])


def _colour(name: str) -> tuple[int, int, int]:
    """The same for a name in every report."""
    import colorsys

    hue = zlib.crc32(name.encode("utf-8", "replace")) % 360 / 360
    r, g, b = colorsys.hsv_to_rgb(hue, 0.75, 1)
    return round(255 * r), round(255 * g), round(255 * b)


def _overlay(mask: np.ndarray, colour: tuple[int, int, int]) -> str:
    """The mask as a transparent image of one colour, of two palette entries."""
    made = Image.fromarray(mask.astype(np.uint8)).convert("P")
    made.putpalette([0, 0, 0, *colour])
    buffer = io.BytesIO()
    made.save(buffer, "PNG", bits=1, transparency=bytes([0, 120]), optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _line(name: str, objects: list[tuple[int, dict[str, Any]]]) -> str:
    """A row of the table of names."""
    same = [(row, one) for row, one in objects if (one["name"] or "") == name]
    scores = [one["score"] for _, one in same if one.get("score") is not None]
    areas = [one["area"] for _, one in same if one.get("area") is not None]
    cells = [name, f"{len(same):,}", f"{len({row for row, _ in same}):,}"]
    cells += [f"{value:.2f}" for value in (min(scores), np.median(scores), max(scores))] if scores else [""] * 3
    cells.append(f"{100 * float(np.median(areas)):.1f}%" if areas else "")
    return "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>"
