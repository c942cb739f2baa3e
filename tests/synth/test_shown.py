"""Tasks whose painter is shown an image: the word that is to stand there, and the object of a second image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encode
from test_painted import disc, pixels, planted
from test_painted_tasks import Stub

import edittools
from edittools.errors import RowError, UsageError
from edittools.painters import PAINTERS, PaintRequest
from edittools.registry import Registry
from edittools.synth.fonts import latin_fonts
from edittools.synth.painted.glyphs import drawn

cv2 = pytest.importorskip("cv2")


class Copyist(Stub):
    """Paints its reference, white as ink and black as the ground that it is on."""

    wants = frozenset({"prompt", "reference"})

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        self.asked += requests
        return [255 - np.resize(one.references[0], one.image.shape) // 2 for one in requests]


@pytest.fixture
def copyist(monkeypatch: pytest.MonkeyPatch) -> Copyist:
    made, load = Copyist(), Registry.load
    monkeypatch.setattr(Registry, "load", lambda self, name: made if self is PAINTERS else load(self, name))
    return made


def rows_of(source: str | Path, **told: Any) -> list[dict[str, Any]]:
    return list(edittools.read(str(source), jobs=1).synth(painter="in_context", **told).rows())


def test_a_word_is_shown_where_it_is_to_stand(copyist: Copyist, tmp_path: Path) -> None:
    """And reads there as it is said, by OCR; what is about it stays."""
    pytest.importorskip("rapidocr")
    from test_retext import sign

    image, corners = sign("GARDEN")
    pq.write_table(
        pa.table({"id": ["s"], "target": [{"bytes": encode(image, "PNG"), "path": None}]}), tmp_path / "in.parquet"
    )
    row, back = rows_of(tmp_path / "in.parquet", painted="glyphs", check="outside,text", inverse=True)
    made = pixels(row["target"]["bytes"])
    assert row["task"] == back["task"] == "text" and '"GARDEN"' in row["instruction"]["en"]
    assert row["scores"]["check_text"] == 1.0
    (asked,) = copyist.asked
    assert asked.references[0].shape == asked.image.shape and '"GARDEN"' not in asked.prompt
    mask = pixels(row["mask"]["bytes"])
    mask = mask if mask.ndim == 2 else mask[..., 0]
    assert (made[mask == 0] == image[mask == 0]).all()
    left, top, right, bottom = (*corners.min(0), *corners.max(0))
    inside = np.zeros(mask.shape, bool)
    inside[round(top) : round(bottom), round(left) : round(right)] = True
    assert (mask[inside] > 0).mean() > 0.85 and (mask > 0).sum() < 3 * inside.sum()


@pytest.mark.skipif(not latin_fonts(), reason="no fonts here")
def test_glyphs_fill_their_box() -> None:
    """In perspective too: mapped back they are the word as it is drawn flat."""
    corners = np.array([[30, 40], [250, 20], [240, 110], [40, 90]], float)
    guide, inside = drawn("HOTEL", latin_fonts()[0], corners, (130, 300))
    wanted = np.zeros((130, 300), np.uint8)
    cv2.fillConvexPoly(wanted, corners.astype(np.int32), 1)
    assert (inside == (wanted > 0)).mean() > 0.98 and not guide[~inside].max(initial=0) > 128
    flat = np.array([[0, 0], [220, 0], [220, 70], [0, 70]], np.float32)
    back = cv2.getPerspectiveTransform(corners.astype(np.float32), flat)
    upright = cv2.warpPerspective(guide[..., 0], back, (220, 70))
    plain, _ = drawn("HOTEL", latin_fonts()[0], flat, (70, 220))
    assert np.abs(upright.astype(int) - plain[..., 0]).mean() < 20 < plain.mean()


def test_the_object_of_a_second_image_is_shown(copyist: Copyist, tmp_path: Path) -> None:
    source, images, _ = planted(tmp_path, [[("car", disc(60, 60, 20))]] * 2)
    second = np.full((50, 30, 3), (200, 10, 10), np.uint8)
    table = pq.read_table(source)
    pairs = [
        [{"bytes": encode(image, "PNG"), "path": None} for image in some]
        for some in ((images[0], second), (images[1],))
    ]
    pq.write_table(table.append_column("source", [pairs]), source)
    edittools.read(source, jobs=1).synth(painter="in_context", painted="like").write(str(tmp_path / "out"))
    (row,) = pq.read_table(tmp_path / "out/00000.parquet").to_pylist()
    assert row["task"] == "visual" and len(row["source"]) == 2
    assert any(said in row["instruction"]["en"] for said in ("Figure 2", "second image"))
    (asked,) = copyist.asked
    assert (asked.references[0] == second).all()


def test_a_painter_is_shown_what_it_wants_and_nothing_else(copyist: Copyist, tmp_path: Path) -> None:
    source, _, _ = planted(tmp_path, [[("car", disc(60, 60, 20))]])
    with pytest.raises(UsageError, match="--painted replace: shows no image to --painter in_context"):
        rows_of(source, painted="replace")
    copyist.wants = frozenset({"prompt"})  # type: ignore[misc]
    with pytest.raises(UsageError, match="--painted like: shows an image to --painter in_context"):
        rows_of(source, painted="like")
