"""ImgEdit_recap_mask (Ye et al. 2025): LAION's images with new captions, objects, boxes and masks; JSON in tars.

Fields as its card lists them: `jsons/part*.tar` hold a JSON file for every image of `laion-aes/*.tar`. Masks are run
lengths as COCO's API packs them, boxes x0, y0, x1, y1 in pixels.
"""

from typing import Any

import numpy as np

from edittools.errors import RowError
from edittools.ingest.dataset import PublishedDataset
from edittools.metrics import rle
from edittools.stream.codec import encode_png
from edittools.stream.layouts import Layout

_MOST_PIXELS = 1 << 26  # of one mask


def seen(record: dict[str, Any]) -> dict[str, Any]:
    """The objects, and what is in the background, with boxes as shares of the image and masks as images."""
    size = record.get("resolution") or {}
    width, height = int(size.get("width") or 0), int(size.get("height") or 0)
    found = record.get("segmentation") or {}
    made = []
    for kind in ("object", "background"):
        for one in found.get(kind) or []:
            corners = [float(value) for value in one.get("bbox") or []]
            sides = (width, height, width, height)
            box = [value / side for value, side in zip(corners, sides)] if len(corners) == 4 and all(sides) else None
            mask = one.get("mask")
            made.append(
                {
                    "name": one.get("class_name"),
                    "box": box,
                    "score": one.get("score"),
                    "mask": {"bytes": drawn(mask, height, width)} if mask else None,
                }
            )
    return {"seen": made}


def drawn(mask: Any, height: int, width: int) -> bytes:
    """A mask, of packed counts or {"size": [h, w], "counts": ...}, as PNG. Raises RowError."""
    if isinstance(mask, dict):
        height, width = mask["size"]
        mask = mask["counts"]
    if not 0 < height * width <= _MOST_PIXELS:
        raise RowError("no size of a mask", f"{width}x{height}")
    try:
        inside = rle.decode(mask, height, width)
    except ValueError as error:
        raise RowError("damaged mask", str(error)) from None
    return encode_png(np.repeat(inside.astype(np.uint8)[:, :, None] * 255, 3, axis=2))


DATASET = PublishedDataset(
    title="ImgEdit_recap_mask",
    home="huggingface.co/datasets/sysuyy/ImgEdit_recap_mask",
    license="not verified",
    size="as fetched",
    tables=("jsons/*.tar", "part*.tar", "jsons/*.json", "jsons/*/*.json", "*.jsonl"),
    layouts=(
        Layout(
            has=("path", "cap", "segmentation"),
            columns={"target": "path", "caption": "cap[0]", "objects": "seen", "scores.imgedit_aesthetic": "aes"},
            derive=seen,
            reads=("segmentation", "resolution"),
            task="t2i",
            needs=("target",),
        ),
    ),
    unverified="the license; that run lengths are packed as COCO's API does; how the JSON lies in its tars",
)
