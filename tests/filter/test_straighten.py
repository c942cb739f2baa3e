"""`edit filter --fix-rotation` and `--orientation`: crooked images are turned upright, and nothing else is."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Runner, encode, image, rejects_of, rows_of, tree
from PIL import Image, ImageDraw, ImageFont
from test_content_filters import house, scene

from edittools.filter import all_filters
from edittools.filter.config import FilterConfig
from edittools.filter.filters import tilt
from edittools.filter.straighten import LEAST, MOST, StraightenStage, crooked, straight
from edittools.record import COLUMNS
from edittools.stream import codec
from edittools.stream.batch import Batch, Shard
from edittools.stream.input_reader import reference

pytest.importorskip("cv2")


def jpeg(array: np.ndarray, orientation: int = 1) -> bytes:
    """The array as a viewer shows it: stored turned the other way, with the EXIF tag that undoes that."""
    stored = Image.fromarray(array)
    undo = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = undo[orientation]
    stored = stored if turn is None else stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def page(degrees: float) -> np.ndarray:
    """Lines of text on paper, turned clockwise."""
    sheet = Image.new("RGB", (1000, 900), "white")
    draw = ImageDraw.Draw(sheet)
    face = ImageFont.load_default(22)
    words = "the quick brown fox jumps over the lazy dog and reads a newspaper about flat horizons ".split()
    for k, y in enumerate(range(20, 880, 34)):
        draw.text((20, y), " ".join(words[(k + j) % len(words)] for j in range(15)), "black", font=face)
    turned = sheet.rotate(-degrees, Image.Resampling.BICUBIC, fillcolor="white")
    return np.asarray(turned.crop((150, 150, 850, 750)))


def horizon(degrees: float) -> np.ndarray:
    """Sky above sea, turned clockwise."""
    view = np.concatenate([scene(3, 400, 900) // 6 + 180, scene(4, 300, 900) // 6 + 40])
    return np.asarray(Image.fromarray(view).rotate(-degrees, Image.Resampling.BICUBIC).crop((150, 130, 750, 530)))


# ---------------------------------------------------------------- the angle and the turn


@pytest.mark.parametrize(
    "degrees", [-9.3, *(pytest.param(d, marks=pytest.mark.long) for d in (-4.1, -2.6, 9.3)), 2.6, 5.7]
)
@pytest.mark.parametrize("kind", ["house", "page", "horizon"])
def test_planted_turns_are_found(kind: str, degrees: float) -> None:
    made = {"house": lambda: house(1, degrees), "page": lambda: page(degrees), "horizon": lambda: horizon(degrees)}
    assert crooked(encode(made[kind](), "JPEG", quality=90)) == pytest.approx(degrees, abs=0.4)


def test_what_is_not_crooked_or_not_sure_stays() -> None:
    for array in (house(1), page(0), horizon(0), house(1, 1), house(1, 14), page(-13), *map(scene, range(8))):
        assert crooked(encode(array, "JPEG", quality=90)) == 0
    ramp = np.linspace(0, 255, 300, dtype=np.uint8)
    for array in (
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((20000, 2, 3), np.uint8),
        np.stack([np.stack([ramp] * 3, 1)]),
    ):
        assert crooked(encode(array, "PNG")) == 0


@pytest.mark.parametrize("make", [lambda degrees: house(2, degrees), page, horizon])
def test_the_range(make: Callable[[float], np.ndarray]) -> None:
    for degrees in (-MOST - 0.7, -LEAST + 0.7, LEAST - 0.7, MOST + 0.7):
        assert crooked(encode(make(degrees), "JPEG", quality=92)) == 0, degrees
    for degrees in (-MOST + 0.6, -LEAST - 0.6, LEAST + 0.6, MOST - 0.6):
        assert crooked(encode(make(degrees), "JPEG", quality=92)) == pytest.approx(degrees, abs=0.4)


@pytest.mark.parametrize("degrees", [-10, -3.3, 2, 6.6, 10])
@pytest.mark.parametrize("size", [(300, 450), (450, 300), (64, 400), (33, 35)])
def test_a_turn_shows_no_corner_and_keeps_the_aspect(degrees: float, size: tuple[int, int]) -> None:
    white = straight(np.full((*size, 3), 255, np.uint8), degrees)
    assert white.min() == 255  # the corners that a turn brings in are black
    height, width = white.shape[:2]
    assert height / width == pytest.approx(size[0] / size[1], rel=4 / min(height, width))
    if size == (300, 450) and degrees == 10:
        assert width / 450 == pytest.approx(0.80, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (3, 3)])
def test_tiny_images_can_be_turned(size: tuple[int, int]) -> None:
    assert min(straight(np.full((*size, 3), 7, np.uint8), 10).shape) >= 1


@pytest.mark.parametrize("degrees", [-8, 3, 7.5])
def test_a_turn_undoes_the_one_that_was_planted(degrees: float) -> None:
    smooth = np.asarray(Image.fromarray(scene(5, 500, 700, falloff=2.5)))
    planted = np.asarray(Image.fromarray(smooth).rotate(-degrees, Image.Resampling.BICUBIC))
    back = straight(planted, degrees).astype(int)
    top, left = ((side - own) // 2 for side, own in zip(smooth.shape[:2], back.shape[:2]))
    inside = smooth[top : top + back.shape[0], left : left + back.shape[1]].astype(int)
    right = np.abs(back - inside)[8:-8, 8:-8].mean()
    wrong = np.abs(straight(planted, -degrees).astype(int) - inside)[8:-8, 8:-8].mean()
    assert right < 1.5 and wrong > 5 * right


# ---------------------------------------------------------------- on the command line


CROWD: dict[str, bytes] = {
    "crooked.jpg": jpeg(house(0, 5)),
    "leftward.jpg": jpeg(house(3, -6)),
    "phone.jpg": jpeg(house(1, 4), 6),
    "phone_upright.jpg": jpeg(house(1), 8),
    "page.png": encode(page(3), "PNG"),
    "steep.jpg": jpeg(house(2, 14)),
    "upright.jpg": jpeg(house(4)),
    "nature.webp": encode(scene(6), "WEBP", quality=90),
}
TURNS = {"crooked": 5, "leftward": -6, "phone": 4, "page": 3}


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    folder = tmp_path / "crowd"
    folder.mkdir()
    for name, data in CROWD.items():
        (folder / name).write_bytes(data)
    return folder


def by_name(folder: Path) -> dict[str, dict[str, Any]]:
    return {Path(row["provenance"]["path"]).stem: row for row in rows_of(folder)}


def test_crooked_images_are_turned_and_the_rest_keeps_its_bytes(edit: Runner, crowd: Path, tmp_path: Path) -> None:
    edit("filter", crowd, "--fix-rotation", "-o", tmp_path / "out")
    rows = by_name(tmp_path / "out")
    assert len(rows) == len(CROWD) and not rejects_of(tmp_path / "out")
    for name, data in CROWD.items():
        row = rows[Path(name).stem]
        rotation = row["scores"]["rotation"]
        assert rotation == pytest.approx(TURNS.get(Path(name).stem, 0), abs=0.4), name
        assert row["scores"]["orientation"] == {"phone": 6, "phone_upright": 8}.get(Path(name).stem, 1)
        if rotation:
            header = codec.probe(row["target"])
            shown = codec.probe(data)
            assert (header.format, header.orientation) == ("png", 1)
            # Of the EXIF quarter turn and the crop: a 600x400 house stands as wide as it was shown.
            assert header.width / header.height == pytest.approx(shown.width / shown.height, rel=0.02)
            assert header.width < shown.width
            angle, _ = tilt.angle(codec.decode(row["target"], tilt.RASTER))
            assert abs(angle) < 0.8
            assert not crooked(row["target"])
        else:
            assert row["target"] == data and rotation == 0
    expected = straight(codec.decode(CROWD["phone.jpg"]), crooked(CROWD["phone.jpg"]))
    assert np.array_equal(codec.decode(rows["phone"]["target"]), expected)


def test_sizes_columns_and_scores_are_those_of_the_new_image(edit: Runner, crowd: Path, tmp_path: Path) -> None:
    edit("filter", crowd, "--brightness", "..", "--tilt", "..", "-o", tmp_path / "before")
    edit("filter", tmp_path / "before", "--fix-rotation", "--tilt", "..", "-o", tmp_path / "after")
    before, after = by_name(tmp_path / "before"), by_name(tmp_path / "after")
    for name, row in after.items():
        if name in TURNS:
            assert (before[name]["scores"]["tilt"] > 2.5) == (name != "page")  # letters are no lines for --tilt
            assert row["scores"]["tilt"] == pytest.approx(0, abs=0.8)
            assert row["scores"]["brightness"] is None
        else:
            assert row["scores"]["brightness"] == before[name]["scores"]["brightness"]
        assert row["id"] == before[name]["id"]
    # A bound on the size holds for what is kept: a house that was turned is smaller than 400 pixels.
    edit("filter", crowd, "--fix-rotation", "--min-side", "400", "-o", tmp_path / "large")
    assert set(by_name(tmp_path / "large")) == {"page", "phone_upright", "steep", "upright"}
    widths = [codec.probe(row["target"]).width for row in rows_of(tmp_path / "large")]
    assert [line["target"]["width"] for line in edit("cat", tmp_path / "large", "-f", "jsonl").lines] == widths


def test_again_turns_nothing_and_threads_change_nothing(edit: Runner, crowd: Path, tmp_path: Path) -> None:
    edit("shard", crowd, "-o", tmp_path / "in", "--rows", 3)
    for jobs in (1, 3):
        edit("filter", tmp_path / "in", "--fix-rotation", "-j", jobs, "-o", tmp_path / f"j{jobs}")
    assert tree(tmp_path / "j1") == tree(tmp_path / "j3")
    edit("filter", tmp_path / "j1", "--fix-rotation", "-o", tmp_path / "again")
    assert by_name(tmp_path / "again") == by_name(tmp_path / "j1")
    piped = edit.pipe(["filter", tmp_path / "in", "--fix-rotation"], ["cat", "-o", tmp_path / "piped"])
    assert piped[0].code == 0 and by_name(tmp_path / "piped") == by_name(tmp_path / "j1")
    for task in range(3):
        edit("filter", tmp_path / "in", "--fix-rotation", "--task", f"{task}/3", "-o", tmp_path / "tasks")
    assert by_name(tmp_path / "tasks") == by_name(tmp_path / "j1")


def test_rows_with_other_parts_stay(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    data = jpeg(house(0, 5))
    parts = {"pair": ("source", "target"), "masked": ("target", "mask"), "alone": ("target",), "bare": ("source",)}
    for key, names in parts.items():
        for name in names:
            (folder / f"{key}.{name}.jpg").write_bytes(data)
        (folder / f"{key}.json").write_text(json.dumps({"caption": "a house"}))
    (folder / "boxed.target.jpg").write_bytes(data)
    (folder / "boxed.json").write_text(json.dumps({"objects": [{"name": "house", "box": [0.1, 0.1, 0.9, 0.9]}]}))
    edit("filter", folder, "--fix-rotation", "-o", tmp_path / "out")
    rows = {Path(row["provenance"]["path"]).name.split(".")[0]: row for row in rows_of(tmp_path / "out")}
    assert rows.keys() == {*parts, "boxed"}
    for key, row in rows.items():
        if key == "alone":
            assert row["scores"]["rotation"] == pytest.approx(5, abs=0.4) and row["target"] != data
        else:
            assert row["scores"]["rotation"] is None and row["scores"]["orientation"] is None
            assert row["target"] == (None if key == "bare" else data)


def test_dialogues_and_results_stay() -> None:
    data = jpeg(house(0, 5))
    turn = {"kind": "content_memory", "target": reference(bytes=data)}
    rows = pa.record_batch(
        {
            "id": ["dialogue", "sampled", "null"],
            "target": pa.array([reference(bytes=data)] * 2 + [None], COLUMNS["target"]),
            "turns": pa.array([[turn], None, []], COLUMNS["turns"]),
            "result": pa.array([None, reference(bytes=data), None], COLUMNS["target"]),
        }
    )
    (done,) = StraightenStage(FilterConfig())(iter([Batch(rows, Shard(0, 1, ""), True, 3)]))
    assert done.rows.select(rows.schema.names).equals(rows) and not done.rejects
    assert done.rows.column("scores").to_pylist() == [{"orientation": None, "rotation": None}] * 3
    assert done.last and done.seen == 3


def test_scores_of_any_kind_survive_where_nothing_is_turned() -> None:
    rows = pa.record_batch(
        {
            "id": ["crooked", "upright", "done", "blank"],
            "target": pa.array([reference(bytes=jpeg(house(0, k))) for k in (5, 0, 5, 0)], COLUMNS["target"]),
            "scores": pa.array(
                [
                    {"sharpness": 7.0, "notes": ["a"], "rotation": None},
                    {"sharpness": 8.0, "notes": ["b"], "rotation": None},
                    {"sharpness": 9.0, "notes": None, "rotation": 1.5},
                    None,
                ],
                pa.struct([("sharpness", pa.float64()), ("notes", pa.list_(pa.string())), ("rotation", pa.float64())]),
            ),
        }
    )
    (done,) = StraightenStage(FilterConfig())(iter([Batch(rows.slice(0), Shard(0, 1, ""))]))
    first, second, third, fourth = done.rows.column("scores").to_pylist()
    assert first["sharpness"] is None and first["notes"] is None and first["rotation"] == pytest.approx(5, abs=0.4)
    assert second == {"sharpness": 8.0, "notes": ["b"], "rotation": 0, "orientation": 1}
    assert third == {"sharpness": 9.0, "notes": None, "rotation": 1.5, "orientation": None}
    assert fourth == {"sharpness": None, "notes": None, "rotation": 0, "orientation": 1}
    assert done.rows.column("target")[2].as_py()["bytes"] == jpeg(house(0, 5))


def test_damaged_images_fail_their_row_alone(edit: Runner, crowd: Path, tmp_path: Path) -> None:
    bad = {
        "page.jpg": b"<html><body>404</body></html>",
        "empty.jpg": b"",
        "cut.jpg": jpeg(house(0, 5))[:3000],
        "huge.png": encode(np.zeros((900, 1200, 3), np.uint8), "PNG"),
    }
    for name, data in bad.items():
        (crowd / f"bad_{name}").write_bytes(data)
    edit("filter", crowd, "--fix-rotation", "--max-pixels", 1_000_000, "--max-errors", 4, "-o", tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == len(CROWD)
    reasons = {reject["path"]: reject["reason"] for reject in rejects_of(tmp_path / "out")}
    assert reasons == {
        "bad_page.jpg": "not an image",
        "bad_empty.jpg": "empty file",
        "bad_cut.jpg": "damaged image",
        "bad_huge.png": "too many pixels",
    }


def test_usage(edit: Runner, crowd: Path, tmp_path: Path) -> None:
    asked: list[tuple[list[Any], str]] = [
        (["--sharpness", "q05"], "--fix-rotation makes other images"),
        (["--phase", "decide", "--sharpness", "q05"], "--fix-rotation makes other images"),
        (["--image", "source"], "--image says source"),
    ]
    for options, message in asked:
        refused = edit("filter", crowd, "--fix-rotation", *options, "-o", tmp_path / "out", check=2)
        assert message in refused.stderr
        assert not (tmp_path / "out").exists()
    (tmp_path / "text.jsonl").write_text('{"id": "a", "caption": "no picture"}\n')
    refused = edit("filter", tmp_path / "text.jsonl", "--fix-rotation", "-o", tmp_path / "out", check=2)
    assert "no `target` image" in refused.stderr


def test_a_run_without_the_option_is_another_run(edit: Runner, crowd: Path, tmp_path: Path) -> None:
    edit("filter", crowd, "--min-side", "1", "-o", tmp_path / "out")
    refused = edit("filter", crowd, "--min-side", "1", "--fix-rotation", "-o", tmp_path / "out", check=None)
    assert refused.code in (1, 2) and "--overwrite" in refused.stderr


# ---------------------------------------------------------------- EXIF


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_recorded_from_the_header(kind: str, edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(scene(1, 60, 90)).save(folder / f"{orientation}.{kind.lower()}", kind, exif=exif)
    edit("filter", folder, "--orientation", "..", "-o", tmp_path / "out")
    found = {int(name): row["scores"]["orientation"] for name, row in by_name(tmp_path / "out").items()}
    assert found == {orientation: orientation for orientation in range(1, 9)}
    edit("filter", tmp_path / "out", "--orientation", "1", "-o", tmp_path / "plain")
    assert list(by_name(tmp_path / "plain")) == ["1"]
    reasons = {reject["value"] for reject in rejects_of(tmp_path / "plain") if reject["reason"] == "orientation"}
    assert reasons == set(range(2, 9))


def test_orientation_decodes_nothing(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "cut.jpg").write_bytes(jpeg(house(0), 6)[:4000])  # nobody who decodes it lets it pass
    (folder / "page.jpg").write_bytes(b"<html>")
    edit("filter", folder, "--orientation", "..", "--max-errors", 1, "-o", tmp_path / "out")
    assert [row["scores"] for row in rows_of(tmp_path / "out")] == [{"orientation": 6}]
    assert [reject["reason"] for reject in rejects_of(tmp_path / "out")] == ["not an image"]
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "a.source.jpg").write_bytes(jpeg(house(0), 3))
    (pairs / "a.target.jpg").write_bytes(image(1))
    edit("filter", pairs, "--orientation", "..", "--image", "source", "-o", tmp_path / "of_source")
    assert rows_of(tmp_path / "of_source")[0]["scores"] == {"source_orientation": 3}
    assert all_filters()["orientation"].stored


def test_the_hash_of_the_file_as_it_came_stays(edit: Runner, crowd: Path, tmp_path: Path) -> None:
    edit("shard", crowd, "-o", tmp_path / "in")
    edit("filter", tmp_path / "in", "--fix-rotation", "-o", tmp_path / "out")
    row = by_name(tmp_path / "out")["crooked"]
    assert row["provenance"]["sha256"] == hashlib.sha256(CROWD["crooked.jpg"]).hexdigest()
    assert edit("cat", tmp_path / "out", "--check").code == 0
