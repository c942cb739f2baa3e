"""The page to judge a threshold by: what it shows, of which rows, and that data cannot break it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import encode, pixels
from PIL import Image

from edittools.cli.ground import command
from edittools.errors import EditError, UsageError

KIND = pa.list_(
    pa.struct([("name", pa.string()), ("box", pa.list_(pa.float64())), ("score", pa.float64()), ("area", pa.float64()),
               ("text", pa.string()), ("mask", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
)  # fmt: skip


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.marks: list[dict[str, Any]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.marks.append({"tag": tag, **dict(attrs)})

    def of(self, tag: str, **wanted: str) -> list[dict[str, Any]]:
        return [one for one in self.marks if one["tag"] == tag and all(one.get(k) == v for k, v in wanted.items())]


@pytest.fixture
def grounded(tmp_path: Path) -> Path:
    """Three images: of two objects, one with a mask; of none; of none that can be read."""
    mask = np.zeros((60, 80), np.uint8)
    mask[15:45, 20:60] = 255
    objects = [
        [
            {"name": "<b>cat", "box": [0.25, 0.25, 0.75, 0.75], "score": 0.9, "area": 0.25, "text": None,
             "mask": {"bytes": encode(mask, "PNG"), "path": None}},
            {"name": "text", "box": [0, 0, 0.5, 0.1], "score": 0.4, "area": 0.05, "text": 'a "sign"', "mask": None},
        ],
        [],
        [{"name": "lost", "box": [0, 0, 1, 1], "score": 1.0, "area": 1.0, "text": None, "mask": None}],
    ]  # fmt: skip
    data = [encode(pixels(0, 60, 80), "PNG"), encode(pixels(1, 600, 300), "PNG"), b"damaged"]
    images = [{"bytes": one, "path": "x.png"} for one in data]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": ["a", "b", "c"], "target": images, "objects": pa.array(objects, KIND)}), path)
    return path


def run(*words: Any) -> Any:
    return CliRunner().invoke(command, [str(word) for word in words])


def test_boxes_and_masks_are_drawn_to_the_images_scale(grounded: Path, tmp_path: Path) -> None:
    done = run(grounded, "--report", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert len(page.of("figure")) == 2, "the damaged image is left out"
    first, second = page.of("rect")
    assert [first[side] for side in ("x", "y", "width", "height")] == ["20.0", "15.0", "40.0", "30.0"]
    assert [second[side] for side in ("x", "y", "width", "height")] == ["0.0", "0.0", "40.0", "6.0"]
    assert [one["data-score"] for one in page.of("g")] == ["0.900000", "0.400000"]
    (overlay,) = page.of("img", **{"class": "mask"})
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(overlay["src"].partition(",")[2]))).convert("RGBA"))
    alpha = shown[..., 3]
    assert alpha.shape == (60, 80) and set(np.unique(alpha)) == {0, 120}
    assert (alpha[15:45, 20:60] == 120).all() and (alpha > 0).sum() == 1200
    colour = tuple(int(part) for part in re.findall(r"\d+", first["stroke"]))
    assert tuple(shown[30, 40, :3]) == colour, "box and mask of one object have one colour"
    tall = page.of("svg")[1]["viewbox"].split()
    assert int(tall[3]) <= 380 and abs(int(tall[2]) / int(tall[3]) - 0.5) < 0.01


def test_words_of_the_data_are_text(grounded: Path, tmp_path: Path) -> None:
    run(grounded, "--report", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "&lt;b&gt;cat 0.90" in text and "<b>cat" not in text
    assert "text “a &quot;sign&quot;” 0.40" in text
    assert "<td>&lt;b&gt;cat</td><td>1</td><td>1</td><td>0.90</td><td>0.90</td><td>0.90</td><td>25.0%</td>" in text


def test_it_is_made_of_what_a_run_writes(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": ["a"], "target": [{"bytes": encode(pixels(0), "PNG"), "path": "a.png"}]}), path)
    with pytest.raises(UsageError, match="no `objects`"):
        raise run(path, "--report", tmp_path / "r.html").exception
    told = (path, "--detector", "text", "--report", tmp_path / "r.html", "-q")
    assert isinstance(run(*told).exception, UsageError), "into a pipe there is nothing left to read"
    assert run(*told, "-o", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out/_end.json").is_file() and "<figure>" in (tmp_path / "r.html").read_text()
    refused = run(*told, "-o", tmp_path / "other").exception
    assert isinstance(refused, EditError) and "r.html" in str(refused) and not (tmp_path / "other").exists()
