"""Painted tasks on photographs, through the real classes of pipelines with tiny random weights: whatever is painted, a
pair keeps all pixels beyond its mask, says what it edits, passes its checks, and is the same when it is made again.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_pipelines
from conftest import encode
from PIL import Image
from test_painted import OBJECTS, pixels

import edittools
from edittools.painters.backends import in_context, pipeline

pytest.importorskip("cv2")
skimage = pytest.importorskip("skimage.data")
Y, X = np.mgrid[:120, :160]
NAMES = ("cup", "vase")
# By the class that paints them; `extract` is drawn without.
TASKS = {
    "FluxFillPipeline": ("remove", "replace", "background", "visual", "hybrid", "dialogue", "extract"),
    "FluxInpaintPipeline": ("color", "material", "alter"),
    "FluxControlPipeline": ("style",),
    "in_context": ("like",),
}


def photographs(count: int) -> list[np.ndarray]:
    """Of scikit-image, uint8 (120, 160, 3), cut at other places where there are fewer."""
    files = sorted(p for p in Path(skimage.__file__).parent.glob("*") if p.suffix in (".png", ".jpg", ".jpeg"))
    found = []
    for k in range(count):
        image = Image.open(files[k % len(files)]).convert("RGB")
        width, height = (max(side, small) for side, small in zip(image.size, (160, 120)))
        image = image.resize((width, height))
        left, top = (width - 160) * (k // len(files) + 1) // 4, (height - 120) * (k // len(files) + 1) // 4
        found.append(np.asarray(image.crop((left, top, left + 160, top + 120))))
    return found


def grounded(folder: Path, images: list[np.ndarray]) -> str:
    """A file of the photographs, each with two regions of its own as objects."""
    rows = []
    for k, image in enumerate(images):
        masks = [(X - 40 - k % 5) ** 2 + (Y - 50) ** 2 < 18**2, (abs(X - 118) < 14) & (abs(Y - 70 + k % 7) < 20)]
        objects = []
        for name, mask in zip(NAMES, masks):
            y, x = np.nonzero(mask)
            box = [x.min() / 160, y.min() / 120, (x.max() + 1) / 160, (y.max() + 1) / 120]
            data = encode(mask.astype(np.uint8) * np.uint8(255), "PNG")
            objects.append({"name": name, "box": box, "mask": {"bytes": data, "path": None}})
        shown = [{"bytes": encode(each, "PNG"), "path": None} for each in (image, images[k - 1][:60, :60])]
        rows.append({"id": f"r{k}", "source": shown, "target": shown[0], "objects": objects})
    schema = pa.schema([
        ("id", pa.string()), ("source", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("target", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("objects", OBJECTS),
    ])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "in.parquet")
    return str(folder / "in.parquet")


@pytest.mark.parametrize("count", [pytest.param(2), pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", list(TASKS))
def test_photographs_become_pairs(kind: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for painter in (pipeline.Pipeline, in_context.InContext):
        monkeypatch.setattr(painter, "area", 48 * 48)
    images = photographs(count)
    source = grounded(tmp_path, images)
    name = "in_context" if kind == "in_context" else "pipeline"
    folder = tiny_pipelines.save_flux(tmp_path / "weights", "FluxFillPipeline" if name == "in_context" else kind)
    for task in TASKS[kind]:
        told: dict[str, Any] = {
            "painter": f"{name}={folder}", "painted": task, "inverse": True, "check": "outside,edit_ratio:0.001",
            "tune": ",".join(f"{one}.steps=1" for one in (task, "remove")),
        }  # fmt: skip
        made = [list(edittools.read(source, jobs=1).synth(**told).rows()) for _ in range(1 if count == 2 else 2)]
        assert made[0] == made[-1], "its noise is the row's"
        rows = made[0]
        parents = Counter(int(row["provenance"]["parents"][0][1:]) for row in rows)
        assert parents.keys() == set(range(count)), (task, parents)
        for row in rows:
            _check(task, row, images[int(row["provenance"]["parents"][0][1:])])


def _check(task: str, row: dict[str, Any], image: np.ndarray) -> None:
    """A pair, or the way back of one, on its photograph."""
    source, target, mask = (pixels(one["bytes"]) for one in (row["source"][0], row["target"], row["mask"]))
    assert source.shape == target.shape == image.shape and mask.shape[:2] == image.shape[:2]
    if task != "dialogue":
        assert (source == image).all() or (target == image).all(), "one of both is the photograph"
        outside = mask == 0 if mask.ndim == 2 else mask[..., 0] == 0
        if task != "style":  # whose mask is what visibly differs
            assert (source[outside] == target[outside]).all()
    assert (source != target).any() and row["instruction"]["en"]
    assert row["scores"]["check_outside"] is None or row["scores"]["check_outside"] == 0
    slots = json.loads(row["provenance"]["slots"])
    if task in ("remove", "replace", "color", "material", "alter", "extract", "like", "visual"):
        assert slots["object"] in NAMES and slots["object"] in row["instruction"]["en"]
    if task == "extract":
        away = ~((X - 40) ** 2 + (Y - 50) ** 2 < 26**2) & ~((abs(X - 118) < 20) & (abs(Y - 70) < 30))
        assert (target[away] == 255).all(), "it stands on white"
