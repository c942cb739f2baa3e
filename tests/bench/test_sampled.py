"""Rows at random on the page of a data set: all as likely, whatever their order, and what cannot be shown says why."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Runner

from edittools.bench.dataset import DatasetStatistics
from edittools.bench.dataset_report import render_dataset
from edittools.bench.sampled import RandomRows
from edittools.record import COLUMNS, IMAGE
from edittools.stream.input_reader import reference
from edittools.stream.row_images import image_value

RED = np.full((100, 200, 3), (200, 20, 20), np.uint8)


def batch(names: list[str], source: dict | None = None) -> pa.RecordBatch:
    image = image_value(RED)
    columns = {
        "id": pa.array(names),
        "task": pa.array(["add"] * len(names)),
        "source": pa.array([[source or image]] * len(names), COLUMNS["source"]),
        "target": pa.array([image] * len(names), IMAGE),
        "instruction": pa.array([{"en": f"Add <b>{name}</b>.", "zh": None} for name in names], COLUMNS["instruction"]),
        "scores": pa.array([{"edit_ratio": 0.25}] * len(names)),
    }
    return pa.record_batch(list(columns.values()), names=list(columns))


def chosen(most: int, seed: int, *batches: pa.RecordBatch) -> list[str]:
    rows = RandomRows(most, seed)
    for one in batches:
        rows.add(one)
    return [row.id for row in rows.rows()]


def test_every_row_is_as_likely_and_their_order_does_not_matter() -> None:
    names = [f"row{k}" for k in range(12)]
    whole = batch(names)
    times = Counter(name for seed in range(300) for name in chosen(3, seed, whole))
    # 75 on average, with a standard deviation of 7.5: a bound of 4 of these.
    assert len(times) == 12 and sum(times.values()) == 900 and all(45 <= count <= 105 for count in times.values())
    turned = [batch(names[6:][::-1]), batch(names[:6][::-1])]
    assert sorted(chosen(5, 0, whole)) == sorted(chosen(5, 0, *turned))
    assert chosen(20, 0, whole) == names, "there are no more"


def test_the_page_shows_images_and_says_what_is_missing() -> None:
    rows = RandomRows(1)
    rows.add(batch(["a&b"], reference(bytes=b"no image")))
    (row,) = rows.rows()
    (_, why), (_, shown) = row.images
    assert isinstance(why, str) and np.abs(shown.astype(int) - RED[0, 0]).max() <= 2  # type: ignore[union-attr]
    found = DatasetStatistics().result() | {"funnel": {"steps": [], "warnings": []}}
    page = render_dataset(found, title="t", history=[], sample=[row])
    assert "<h2>Rows at random</h2>" in page and "Add &lt;b&gt;a&amp;b&lt;/b&gt;." in page and "edit_ratio 0.25" in page
    assert page.count("data:image/jpeg") == 1 and f"source: {why}" in page


def test_what_judges_wrote_is_there_once() -> None:
    one = {"rubric": "text", "judge": None, "model": "m", "reply": "<i>Good</i>: 4"}
    said = [one | {"dimension": "style"}, one | {"dimension": "success"}, one | {"judge": "b", "reply": None}]
    rows = RandomRows(1)
    rows.add(batch(["a"]).append_column("judgements", pa.array([said])))
    (row,) = rows.rows()
    assert row.replies == [("m text", "<i>Good</i>: 4")]
    found = DatasetStatistics().result() | {"funnel": {"steps": [], "warnings": []}}
    page = render_dataset(found, title="t", history=[], sample=[row])
    assert page.count("&lt;i&gt;Good&lt;/i&gt;: 4") == 1 and "<summary>m text</summary>" in page


def test_the_option(edit: Runner, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.html"
    edit("eval", "dataset", shards, "-o", out, "--sample", "4", "-f", "json")
    page = out.read_text()
    assert page.count('<article class="row">') == 4 and page.count("<img") == 4
    assert "--sample" in edit("eval", "dataset", shards, "--sample", "4", check=2).stderr


@pytest.mark.parametrize("most", [1, 7])
def test_a_sample_of_nothing(most: int) -> None:
    assert RandomRows(most).rows() == []
