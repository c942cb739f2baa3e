"""`edit shard --halves`: images of before and after in one, put together by the tests, are cut at the known seam."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Runner, encode, rejects_of, rows_of, tar_bytes
from PIL import Image, ImageDraw, ImageFont

from edittools.errors import RowError, UsageError
from edittools.ingest.config import ShardConfig
from edittools.ingest.datasets.before_after import pair
from edittools.ingest.halves import Split, split
from edittools.record import IMAGE
from edittools.stream.batch import Batch, Shard


def scene(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Something with structure at every scale."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (4, 9, 20, 45):
        coarse = rng.integers(0, 256, (cells, cells * 4 // 3, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(total / 4 * 1.6 - 60, 0, 255).astype(np.uint8)


def edited(image: np.ndarray, seed: int) -> np.ndarray:
    """A retouch: other tones, and something painted over."""
    rng = np.random.default_rng(seed)
    made = np.clip(image * rng.uniform(0.7, 1.2) + rng.integers(-20, 21, 3), 0, 255).astype(np.uint8)
    height, width = image.shape[:2]
    y, x = int(rng.integers(height // 2)), int(rng.integers(width // 2))
    made[y : y + height // 4, x : x + width // 4] = rng.integers(0, 256, 3)
    return made


def together(before: np.ndarray, after: np.ndarray, gutter: int, frame: int, colour: int, way: str) -> np.ndarray:
    if way == "stacked":
        return together(
            *(one.transpose(1, 0, 2) for one in (before, after)), gutter, frame, colour, "beside"
        ).transpose(1, 0, 2)
    line = np.full((len(before), gutter, 3), colour, np.uint8)
    made = np.concatenate([before, line, after], axis=1)
    return np.pad(made, ((frame, frame), (frame, frame), (0, 0)), constant_values=colour)


def labelled(image: np.ndarray, text: str) -> np.ndarray:
    shown = Image.fromarray(image)
    ImageDraw.Draw(shown).text((6, 4), text, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0),
                               font=ImageFont.load_default(14))  # fmt: skip
    return np.asarray(shown)


@pytest.mark.parametrize("way", ["beside", "stacked"])
@pytest.mark.parametrize("width", [160, 161])
@pytest.mark.parametrize(
    ("gutter", "frame"), [(0, 0), (1, 0), (2, 0), (7, 0), (24, 0), (6, 6), (10, 3), (5, 12), (8, 4)]
)
def test_planted_halves_come_back_bit_by_bit(way: str, width: int, gutter: int, frame: int) -> None:
    for seed in range(2):
        before = scene(seed, 120, width)
        after = edited(before, seed)
        if seed:
            before, after = labelled(before, "BEFORE"), labelled(after, "AFTER")
        whole = together(before, after, gutter, frame, (255, 0)[seed], way)
        for asked in (way, "either"):
            found = split(whole, asked)
            assert found.way == way
            assert np.array_equal(found.before, before) and np.array_equal(found.after, after)
            for (x, y, w, h), half in zip(found.boxes, (before, after)):
                assert np.array_equal(whole[y : y + h, x : x + w], half)


def test_halves_of_unlike_width_lose_the_odd_column() -> None:
    before = scene(3)
    after = edited(before, 3)
    for wide in (0, 1):
        parts = [before, after]
        parts[wide] = np.concatenate([parts[wide], parts[wide][:, -1:]], axis=1)
        found = split(np.concatenate(parts, axis=1), "beside")
        assert np.array_equal(found.before, before) and np.array_equal(found.after, after)


def test_white_margins_are_no_gutter() -> None:
    """Of a thing on white the middle is white; the halves are whole all the same."""
    before = np.full((120, 160, 3), 255, np.uint8)
    before[20:100, 50:130] = scene(4, 80, 80)
    after = before.copy()
    after[20:100, 50:130] = edited(before[20:100, 50:130], 4)
    found = split(np.concatenate([before, after], axis=1), "beside")
    assert np.array_equal(found.before, before) and np.array_equal(found.after, after)


@pytest.mark.parametrize("quality", [60, 90])
def test_after_jpeg_the_seam_is_found_to_a_pixel(quality: int) -> None:
    for seed, gutter in ((5, 0), (6, 8), (7, 16)):
        before = scene(seed)
        whole = together(before, edited(before, seed), gutter, 0, 255, "beside")
        data = io.BytesIO()
        Image.fromarray(whole).save(data, "JPEG", quality=quality)
        found = split(np.asarray(Image.open(data).convert("RGB")), "either")
        first, second = found.boxes
        assert abs(first[2] - 160) <= 1 and abs(second[0] - (160 + gutter)) <= 1 and found.shift < 0.5


def test_no_photograph_is_cut() -> None:
    """scikit-image's photographs, whole and at other sizes, by all ways: nothing is found in any."""
    data = pytest.importorskip("skimage.data")
    names = (
        "astronaut camera cat coffee coins page rocket moon grass gravel brick clock hubble_deep_field retina text "
        "immunohistochemistry colorwheel horse logo"
    )
    seen = 0
    for name in names.split():
        try:
            pixels = np.asarray(getattr(data, name)())
        except Exception:  # one that this wheel does not have: it would be downloaded
            continue
        pixels = pixels.astype(np.uint8) * (255 if pixels.dtype == bool else 1)
        pixels = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
        shown = Image.fromarray(np.ascontiguousarray(pixels))
        shown.thumbnail((260, 260))
        with pytest.raises(RowError, match=r"do not show the same|are not aligned"):
            split(np.asarray(shown), "either")
        seen += 1
    assert seen >= 8


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.concatenate([scene(8), scene(9)], axis=1), "halves do not show the same"),
        (np.concatenate([scene(8), scene(8)], axis=1), "halves do not differ"),
        (np.zeros((100, 200, 3), np.uint8), "halves do not differ"),
        (scene(8, 100, 60), "too small to be cut in two"),
        (np.concatenate([scene(8), np.roll(edited(scene(8), 1), 9, axis=1)], axis=1), "halves are not aligned"),
    ],
)  # fmt: skip
def test_what_is_none_is_refused(pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        split(pixels, "beside")
    assert caught.value.reason == reason
    assert caught.value.value is not None or reason == "halves do not differ"


def test_four_of_one_scene_fit_both_ways() -> None:
    before = scene(10)
    grid = [np.concatenate([edited(before, k), edited(before, k + 1)], axis=1) for k in (1, 3)]
    with pytest.raises(RowError, match="halves fit both ways"):
        split(np.concatenate(grid, axis=0), "either")


def test_a_folder_of_them(edit: Runner, tmp_path: Path) -> None:
    """Every image is one; what is none is a reject, and pairs stay."""
    before = scene(1)
    after = edited(before, 1)
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts/a.png").write_bytes(encode(np.concatenate([before, after], axis=1), "PNG"))
    (tmp_path / "posts/a.txt").write_text("a house")
    (tmp_path / "posts/b.png").write_bytes(encode(np.concatenate([scene(8), scene(9)], axis=1), "PNG"))
    (tmp_path / "posts/c.png").write_bytes(b"none")
    edit("shard", "posts/", "--halves", "either", "--max-errors", "90%", "-o", "pairs/", cwd=tmp_path)
    (row,) = rows_of(tmp_path / "pairs")
    shown = [np.asarray(Image.open(io.BytesIO(data))) for data in (*row["source"], row["target"])]
    assert np.array_equal(shown[0], before) and np.array_equal(shown[1], after)
    assert (row["pairing"], row["provenance"]["path"], row["caption"]["en"]) == ("halves", "a.png", "a house")
    assert json.loads(row["provenance"]["slots"]) == {
        "way": "beside", "before": [0, 0, 160, 120], "after": [160, 0, 160, 120],
    }  # fmt: skip
    rejects = {one["value"] if one["reason"] == "x" else one["reason"] for one in rejects_of(tmp_path / "pairs")}
    assert rejects == {"halves do not show the same", "not an image"}
    edit("shard", "posts/a.png", "-o", "whole/", cwd=tmp_path)
    assert rows_of(tmp_path / "whole")[0].get("source") is None, "nobody asked"


def test_found_pairs_and_images_of_both(edit: Runner, tmp_path: Path) -> None:
    before = scene(2)
    after = edited(before, 2)
    both = encode(together(before, after, 4, 0, 255, "stacked"), "PNG")
    one, other = encode(before, "PNG"), encode(after, "PNG")
    files = [("x_before_after.png", both), ("before_after/7.png", both), ("y_before.png", one), ("y_after.png", other)]
    (tmp_path / "found.tar").write_bytes(tar_bytes([*files, ("z.png", one)]))
    asked = ("--from", "before_after", "--max-errors", "90%", "-o")
    edit("shard", "found.tar", *asked, "plain/", cwd=tmp_path)
    assert [row["pairing"] for row in rows_of(tmp_path / "plain")] == ["words"]
    assert {one["reason"] for one in rejects_of(tmp_path / "plain")} == {"before and after in one name", "no partner"}
    edit("shard", "found.tar", "--halves", "either", *asked, "cut/", cwd=tmp_path)
    rows = rows_of(tmp_path / "cut")
    assert sorted((row["pairing"], row["provenance"]["path"]) for row in rows) == [
        ("halves", "found.tar/before_after/7.png"), ("halves", "found.tar/x_before_after.png"),
        ("words", "found.tar/y_after.png"),
    ]  # fmt: skip
    for row in rows:
        shown = [np.asarray(Image.open(io.BytesIO(data))) for data in (*row["source"], row["target"])]
        assert np.array_equal(shown[0], before) and np.array_equal(shown[1], after)
    assert [(one["reason"], one["value"]) for one in rejects_of(tmp_path / "cut")] == [
        ("no partner", "found.tar/z.png")
    ]


def test_a_row_with_a_mask_is_not_cut() -> None:
    before = scene(2)
    data = encode(together(before, edited(before, 2), 4, 0, 255, "beside"), "PNG")
    image = {field.name: None for field in IMAGE} | {"bytes": data}
    schema = pa.schema({"id": pa.string(), "target": IMAGE, "mask": IMAGE})
    rows = [{"id": "a", "target": image, "mask": image}, {"id": "b", "target": image, "mask": None}]
    (batch,) = Split("beside", 10**6)(iter([Batch(pa.RecordBatch.from_pylist(rows, schema), Shard(0, 1, ""))]))
    assert batch.rows["id"].to_pylist() == ["b"]
    assert [(one.id, one.reason) for one in batch.rejects] == [("a", "has a mask, which is not cut in halves")]


def test_only_where_it_is_asked_for() -> None:
    names = ["a_before_after.jpg", "before_after/1.jpg", "before_after/2.jpg", "before and after/x_src.jpg",
             "before and after/x_tgt.jpg"]  # fmt: skip
    plain = {one["path"]: (one["before"], one["after"], one.get("pairing")) for one in pair(names)}
    assert plain["a_before_after.jpg"] == (None, None, None)
    assert plain["before_after/2.jpg"] == ("before_after/1.jpg", "before_after/2.jpg", "numbers")
    cut = {one["path"]: (one.get("before"), one.get("after"), one["pairing"]) for one in pair(names, halves=True)}
    assert cut == {
        **dict.fromkeys(names[:3], (None, None, "halves")),
        "before and after/x_tgt.jpg": (names[3], names[4], "words"),
    }
    with pytest.raises(UsageError, match="are pairs already"):
        ShardConfig(dataset="omniedit", halves="beside")
    with pytest.raises(UsageError, match="--halves and --frames"):
        ShardConfig(frames=True, halves="beside")
