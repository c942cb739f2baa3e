"""`edit synth --painter`: pairs out of grounded images, whose truth is known because the objects were planted."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encode, rejects_of, rows_of
from PIL import Image

import edittools
from edittools.errors import RowError, UsageError
from edittools.painters import PAINTERS, PaintRequest
from edittools.seeded import stream
from edittools.stream.batch import empty_batch
from edittools.synth.config import PaintConfig
from edittools.synth.paint_stage import PaintStage
from edittools.synth.painting import place, with_article, worded

pytest.importorskip("cv2")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
OBJECTS = pa.list_(pa.struct([("name", pa.string()), ("box", pa.list_(pa.float64())), ("mask", IMAGE)]))
Y, X = np.mgrid[:120, :160]


def disc(x: int, y: int, radius: int = 9) -> np.ndarray:
    return (X - x) ** 2 + (Y - y) ** 2 < radius**2


def planted(folder: Path, scenes: list[list[tuple[str, np.ndarray]]]) -> tuple[str, list[np.ndarray], list[np.ndarray]]:
    """A file of grounded rows; the images, and the grounds without their objects."""
    images, grounds, objects = [], [], []
    for k, scene in enumerate(scenes):
        ground = np.stack([100 + 0.2 * X, 130 + 0.1 * Y, 160 - 0.1 * X + k], axis=-1).astype(np.uint8)
        image = ground.copy()
        items = []
        for name, mask in scene:
            image[mask] = (30, 200, 60)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [columns[0] / 160, rows[0] / 120, (columns[-1] + 1) / 160, (rows[-1] + 1) / 120]
            data = encode(mask.astype(np.uint8) * np.uint8(255), "PNG")
            items.append({"name": name, "box": box, "mask": {"bytes": data, "path": None}})
        images.append(image)
        grounds.append(ground)
        objects.append(items)
    path = folder / "in.parquet"
    table = pa.table({
        "id": [f"r{k}" for k in range(len(scenes))],
        "target": [{"bytes": encode(image, "PNG"), "path": "x.png"} for image in images],
        "objects": pa.array(objects, OBJECTS),
    })  # fmt: skip
    pq.write_table(table, path)
    return str(path), images, grounds


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_removed_object_is_gone_and_all_else_is_the_source(tmp_path: Path) -> None:
    source, images, grounds = planted(tmp_path, [[("ball", disc(40 + 9 * k, 60))] for k in range(4)])
    edittools.read(source).synth(painter="inpaint", inverse=True).write(str(tmp_path / "out"))
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert sorted(rows) == sorted(f"r{k}-painted_remove{kind}-0" for k in range(4) for kind in ("", "_inverse"))
    for k, (image, ground) in enumerate(zip(images, grounds)):
        row, back = rows[f"r{k}-painted_remove-0"], rows[f"r{k}-painted_remove_inverse-0"]
        target, mask = pixels(row["target"]), pixels(row["mask"])
        assert (pixels(row["source"][0]) == image).all() and set(np.unique(mask)) == {0, 255}
        assert (target[mask == 0] == image[mask == 0]).all() and mask[disc(40 + 9 * k, 60)].all()
        assert np.abs(target[mask > 0].astype(int) - ground[mask > 0]).mean() < 2, "what was behind it is known"
        assert row["task"] == "remove" and "ball" in row["instruction"]["en"] and row["instruction"]["zh"] is None
        assert back["task"] == "add" and "a ball" in back["instruction"]["en"]
        assert back["target"] == row["source"][0] and back["source"] == [row["target"]] and back["mask"] == row["mask"]
        origin = row["provenance"]
        assert (origin["model"], origin["template"], origin["parents"]) == ("inpaint", None, [f"r{k}"])
        assert json.loads(origin["slots"])["object"] == "ball"


def test_what_cannot_be_said_or_painted_is_counted(tmp_path: Path) -> None:
    scenes = [
        [("ball", disc(40, 60)), ("Ball", disc(90, 60))],  # which one?
        [("ball", disc(80, 60, 40))],
        [],
        [("ball", disc(40, 60)), ("ball", disc(90, 60)), ("cup", disc(130, 30))],
    ]
    source, _, _ = planted(tmp_path, scenes)
    edittools.read(source).synth(painter="inpaint", per_row=3).write(str(tmp_path / "out"))
    (row,) = rows_of(tmp_path / "out")
    assert row["id"] == "r3-painted_remove-0" and "cup" in row["instruction"]["en"]
    rejects = {(one["id"], one["reason"]): one["failed"] for one in rejects_of(tmp_path / "out")}
    assert rejects == {
        ("r0-painted_remove", "no object fits"): False,
        ("r1-painted_remove", "too large for this painter"): False,
        ("r2-painted_remove", "no object fits"): False,
    }


class Stub:
    """Paints one colour, keeps what it was asked, and fails where it is told to."""

    batch_size, multiple, area, wants = 4, 16, 64 * 64, frozenset({"prompt"})
    asked: list[PaintRequest]
    failing = False

    def __init__(self) -> None:
        self.asked = []

    def load(self, weights: str, **placed: str) -> Stub:
        return self

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        return None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        self.asked += requests
        if self.failing:
            return [RowError("cannot paint it", "of itself")] * len(requests)
        return [np.full_like(one.image, 77) for one in requests]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    monkeypatch.setattr(PAINTERS, "load", lambda name: made)
    return made


def test_a_thing_takes_the_box_of_another(stub: Stub, tmp_path: Path) -> None:
    source, images, _ = planted(tmp_path, [[("ball", disc(60, 60, 20))]])
    told = {"painter": "inpaint", "painted": "replace", "things": "a red vase,a ball of wool"}
    (row,) = edittools.read(source).synth(**told).rows()
    assert row["task"] == "replace" and "a red vase" in row["instruction"]["en"], "a ball is no other thing"
    (asked,) = stub.asked
    assert (asked.prompt, asked.negative) == ("a red vase", "ball")
    assert asked.image.shape[0] % 16 == asked.image.shape[1] % 16 == 0
    mask, target = pixels(row["mask"]["bytes"]), pixels(row["target"]["bytes"])
    assert (mask[40:80, 40:80] == 255).all() and (target[41:79, 41:79] == 77).all(), "the box, and not the disc"
    assert (target[mask == 0] == images[0][mask == 0]).all()


def test_a_background_changes_about_the_objects(stub: Stub, tmp_path: Path) -> None:
    ring = disc(70, 60, 30) & ~disc(70, 60, 10)
    source, images, _ = planted(tmp_path, [[("ring", ring)]])
    (row,) = edittools.read(source).synth(painter="inpaint", painted="background", scenes="a beach").rows()
    target = pixels(row["target"]["bytes"])
    assert row["task"] == "background" and "a beach" in row["instruction"]["en"]
    inner = disc(70, 60, 28) & ~disc(70, 60, 13)
    assert (target[inner] == images[0][inner]).all(), "what lies a feather inside stays"
    assert (target[~ring & ~disc(70, 60, 33)] == 77).all()
    assert (target[disc(70, 60, 9)] == 77).all(), "what is seen through a hole is background too"


def test_a_row_is_the_same_whatever_is_beside_it(stub: Stub, tmp_path: Path) -> None:
    scenes = [[("ball", disc(40, 60)), ("cup", disc(90, 30)), ("hat", disc(120, 90))]] * 6
    source, _, _ = planted(tmp_path, scenes)
    every = list(edittools.read(source, jobs=2).synth(painter="inpaint", seed=3, inverse=True).rows())
    alone = list(edittools.read(source, limit=2, jobs=1).synth(painter="inpaint", seed=3, inverse=True).rows())
    assert [(row["id"], row["instruction"], row["provenance"]) for row in alone] == [
        (row["id"], row["instruction"], row["provenance"]) for row in every[:4]
    ]
    seeds = {json.loads(row["provenance"]["slots"])["noise"] for row in every}
    assert len(seeds) == 6, "no two images have one seed"
    other = list(edittools.read(source).synth(painter="inpaint", seed=4).rows())
    assert [row["instruction"] for row in other] != [row["instruction"] for row in every[::2]]


def test_what_fails_or_changes_nothing_is_a_reject(stub: Stub, tmp_path: Path) -> None:
    source, _, _ = planted(tmp_path, [[("ball", disc(40, 60))]])
    stub.failing = True
    edittools.read(source).synth(painter="inpaint").write(str(tmp_path / "out"), max_errors="1")
    (reject,) = rejects_of(tmp_path / "out")
    assert (reject["reason"], reject["failed"], reject["id"]) == ("cannot paint it", True, "r0-painted_remove-0")
    stub.failing = False
    stub.paint = lambda requests: [one.image for one in requests]  # type: ignore[method-assign]
    stub.area = None  # type: ignore[assignment]
    stub.multiple = 1
    edittools.read(source).synth(painter="inpaint").write(str(tmp_path / "same"))
    (reject,) = rejects_of(tmp_path / "same")
    assert (reject["reason"], reject["failed"]) == ("no visible change", False)


def test_settings_that_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--control edges: there is no such map"):
        PaintConfig(painter="inpaint", control="edges")
    with pytest.raises(UsageError, match="there is no such task"):
        PaintConfig(painter="inpaint", painted="vanish")  # type: ignore[arg-type]
    stage = PaintStage(PaintConfig(painter="inpaint", painted="replace", things="a cup"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="takes no prompt"):
        _ = stage.painter
    with pytest.raises(UsageError, match="no `objects`"):
        stage.schema(empty_batch(pa.schema([("id", pa.string())])).schema)


def test_a_box_that_is_none_is_that_of_the_mask(tmp_path: Path) -> None:
    """Rows of others have boxes in pixels, of two numbers, with holes, or none at all."""
    source, _, _ = planted(tmp_path, [[("dot", disc(140, 20, 5))]] * 5)
    table = pq.read_table(source)
    rows, objects = table["objects"].to_pylist(), table.schema.field("objects").type
    for row, box in zip(rows, (None, [None, 0.1, 0.2, 0.3], [0.1, 0.2], [130, 10, 150, 30], [0.9, 0.1, 0.8, 0.2])):
        row[0]["box"] = box
    column = table.schema.get_field_index("objects")
    pq.write_table(table.set_column(column, "objects", pa.array(rows, objects)), source)
    made = list(edittools.read(source).synth(painter="inpaint", inverse=True).rows())
    assert len(made) == 10
    assert all(row["instruction"]["en"].endswith("at the top on the right.") for row in made if row["task"] == "add")


def test_what_is_quoted_stands_as_it_is_in_a_sentence() -> None:
    text = "Class A exit ,  a unicorn"
    assert worded(['remove a "<old>" on a <thing>'], stream(0), old=text, thing="umbrella") == (
        f'Remove a "{text}" on an umbrella.'
    )


def test_places_and_articles() -> None:
    counted = ("bus", "octopus", "lens", "unicorn", "one-way sign", "hourglass", "umbrella", "European flag", "skis")
    assert [with_article(noun) for noun in counted] == [
        "a bus", "an octopus", "a lens", "a unicorn", "a one-way sign", "an hourglass", "an umbrella",
        "a European flag", "skis",
    ]  # fmt: skip
    assert place((0, 0, 0.2, 0.2)) == "at the top on the left" and place((0.8, 0.4, 1, 0.6)) == "on the right"
    assert place((0.4, 0.4, 0.6, 0.6)) == "in the middle" and place((0.4, 0.8, 0.6, 1)) == "at the bottom"
    assert [with_article(noun) for noun in ("dog", "owl", "the sun", "glasses", "glass")] == [
        "a dog", "an owl", "the sun", "glasses", "a glass"
    ]  # fmt: skip
