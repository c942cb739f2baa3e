"""`edit ground`: what goes into the columns, whichever detector it is; rows that fail; wrong settings."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_grounding as tiny
from conftest import encode, pixels, rejects_of, rows_of
from PIL import Image, ImageDraw, ImageFont
from tiny_models import save_clip

import edittools
from edittools.errors import UsageError
from edittools.ground import DETECTORS, SEGMENTERS, Found
from edittools.ground.config import GroundConfig
from edittools.metrics import rle
from edittools.metrics.boxes import iou
from edittools.stream import codec

Scripted = dict[int, list[Found]]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A detector `text` that says what the test writes down, by the image's width."""
    said: Scripted = {}

    class Module:
        @staticmethod
        def load(weights: str, **placed: str) -> Any:
            return Module

        @staticmethod
        def detect(images: list[np.ndarray], names: list[list[str]]) -> list[list[Found]]:
            return [said.get(image.shape[1], []) for image in images]

    monkeypatch.setattr(DETECTORS, "load", lambda name: Module)
    return said


def table(folder: Path, widths: list[int], **columns: list[Any]) -> str:
    """Rows of one image each; a width of 0 is a file that is none."""
    data = [encode(pixels(k, 30, width), "PNG") if width else b"no image" for k, width in enumerate(widths)]
    images = [{"bytes": one, "path": f"{k}.png"} for k, one in enumerate(data)]
    path = folder / "in.parquet"
    pq.write_table(pa.table({"id": [f"r{k}" for k in range(len(widths))], "target": images, **columns}), path)
    return str(path)


def mask_of(item: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(item["mask"])))


def test_objects_are_clipped_bounded_distinct_and_in_order(scripted: Scripted, tmp_path: Path) -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:20, 10:30] = True
    scripted[40] = [
        Found("cat", (0.1, 0.1, 0.5, 0.5), 0.6),
        Found("cat", (0.1, 0.1, 0.52, 0.5), 0.9),  # the same cat
        Found("dog", (0.1, 0.1, 0.5, 0.5), 0.7),  # another name may lie in the same place
        Found("hat", (-0.5, 0.2, 0.5, 1.7), 0.95, mask=mask),
        Found("far", (1.1, 0.2, 1.5, 0.7), 0.99),
        Found("nil", (0.5, 0.5, 0.5, 0.9), 0.99),
        Found("odd", (float("nan"), 0.5, 0.6, 0.9), 0.99),
        Found("dim", (0.1, 0.1, 0.5, 0.5), 0.4),
    ]
    source = table(tmp_path, [40, 41, 0])
    counts = edittools.read(source).ground(detector="text").write(str(tmp_path / "out"), max_errors="1")
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == ["r0", "r1"] and counts.failed == 1
    (reject,) = rejects_of(tmp_path / "out")
    assert (reject["id"], reject["reason"], reject["failed"]) == ("r2", "not an image", True)
    objects = rows[0]["objects"]
    assert [(one["name"], one["score"]) for one in objects] == [("hat", 0.95), ("cat", 0.9), ("dog", 0.7)]
    assert objects[0]["box"] == [0, 0.2, 0.5, 1] and objects[1]["box"] == [0.1, 0.1, 0.52, 0.5]
    assert (mask_of(objects[0]) == mask * 255).all() and objects[1]["mask"] is None
    assert objects[0]["area"] == pytest.approx(mask.mean(), abs=1e-6)
    assert objects[1]["area"] == pytest.approx(0.42 * 0.4), "of the box, where there is no mask"
    assert {one["detector"] for one in objects} == {"text"} and rows[1]["objects"] == []


def test_a_threshold_and_a_number_may_be_asked_for(scripted: Scripted, tmp_path: Path) -> None:
    scripted[40] = [Found(f"n{k}", (0, 0, 1, 1), k / 10) for k in range(10)]
    source = edittools.read(table(tmp_path, [40]))
    (row,) = source.ground(detector="text", threshold=0.2, most=4).rows()
    assert [one["name"] for one in row["objects"]] == ["n9", "n8", "n7", "n6"]
    (row,) = source.ground(detector="text").rows()
    assert [one["name"] for one in row["objects"]] == ["n9", "n8", "n7"], "the detector's own is 0.7"


def test_faces_have_a_column_that_training_reads(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edittools.train.rows import landmarks

    points = np.array([[0.2, 0.3], [0.6, 0.3], [0.4, 0.5], [0.3, 0.7], [0.5, 0.7]])
    scripted[40] = [
        Found("face", (0.1, 0.1, 0.7, 0.8), 0.9, face=points),
        Found("face", (0, 0, 1, 1), 0.2, face=points),
    ]
    (row,) = edittools.read(table(tmp_path, [40])).ground(detector="face").rows()
    assert row["faces"] == [points.tolist()], "the one whose score counts"
    assert landmarks(row["faces"]) == [tuple(map(tuple, points.tolist()))]
    (row,) = edittools.read(table(tmp_path, [41])).ground(detector="face").rows()
    assert row["faces"] == []


def test_rows_bring_names_of_their_own(tmp_path: Path) -> None:
    folder = str(tiny.save_owlv2(tmp_path / "owl"))
    words = [["cat", "dog"], [], ["sign"]]
    source = edittools.read(table(tmp_path, [40, 40, 50], words=words))
    rows = list(source.ground(detector=f"owlv2={folder}", names_from="words", threshold=0.0, overlap=1.0).rows())
    assert [{one["name"] for one in row["objects"]} <= set(names) for row, names in zip(rows, words)] == [True] * 3
    assert [bool(row["objects"]) for row in rows] == [True, False, True]
    both = list(source.ground(detector=f"owlv2={folder}", names_from="words", names="car", threshold=0.0).rows())
    assert {one["name"] for one in both[1]["objects"]} == {"car"}
    with pytest.raises(UsageError, match="no `nouns` column"):
        list(source.ground(detector=f"owlv2={folder}", names_from="nouns").rows())


def test_images_are_decoded_once_and_models_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By two detectors, a segmenter and a map, in two threads, over three shards."""
    from transformers import PreTrainedModel

    crawl = tmp_path / "crawl"
    crawl.mkdir()
    for k in range(9):
        (crawl / f"{k}.png").write_bytes(encode(pixels(k, 30, 40), "PNG"))
    edittools.read(str(crawl)).write(str(tmp_path / "one"))
    sets = [str(tmp_path / "one" / "00000.parquet")] * 3
    folders = [tiny.save_owlv2(tmp_path / "owl"), tiny.save_groundingdino(tmp_path / "dino")]
    segmenter = tiny.save_sam2(tmp_path / "sam")
    decoded: list[bytes] = []
    loaded: list[type] = []
    decode, load = codec.decode, PreTrainedModel.from_pretrained.__func__

    def decoding(data: Any, *told: Any) -> np.ndarray:
        decoded.append(bytes(data))
        return decode(data, *told)

    def loading(kind: type, *told: Any, **more: Any) -> Any:
        loaded.append(kind)
        return load(kind, *told, **more)

    monkeypatch.setattr(codec, "decode", decoding)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(loading))
    found = edittools.read(*sets, jobs=2).ground(
        detector=f"owlv2={folders[0]},groundingdino={folders[1]}", names="cat,dog", threshold=0.0, most=2,
        segmenter=f"sam2={segmenter}", maps="canny", batch_size=2,
    )  # fmt: skip
    assert len(list(found.rows())) == 27
    assert len(decoded) == 27 and len(set(decoded)) == 9
    assert len(loaded) == len(set(loaded)) == 3


def test_boxes_that_rows_have_get_masks(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    image = np.full((60, 80, 3), 40, np.uint8)
    image[20:40, 30:60] = (220, 30, 30)
    objects = [[{"name": "block", "box": [0.3, 0.25, 0.8, 0.75]}], [{"name": "block", "box": [0.1]}], None]
    path = tmp_path / "in.parquet"
    images = [{"bytes": encode(image, "PNG"), "path": "a.png"}] * 3
    kind = pa.list_(pa.struct([("name", pa.string()), ("box", pa.list_(pa.float64()))]))
    pq.write_table(pa.table({"id": ["a", "b", "c"], "target": images, "objects": pa.array(objects, kind)}), path)
    edittools.read(str(path)).ground(segmenter="grabcut").write(str(tmp_path / "out"), max_errors="1")
    first, last = rows_of(tmp_path / "out")
    wanted = np.zeros((60, 80), bool)
    wanted[20:40, 30:60] = True
    made = mask_of(first["objects"][0]) > 127
    assert (made & wanted).sum() / (made | wanted).sum() > 0.97 and last["objects"] == []
    assert [reject["reason"] for reject in rejects_of(tmp_path / "out")] == ["an object has no box"]


def test_masks_that_rows_have_stay(scripted: Scripted, tmp_path: Path) -> None:
    """`--rle` alone writes them packed too, a segmenter is asked for those that are missing; none is lost."""
    pytest.importorskip("cv2")
    mask = np.zeros((30, 40), bool)
    mask[5:20, 10:30] = True
    mask[10:12, 15:18] = False
    png = {"bytes": encode((mask * 255).astype(np.uint8), "PNG"), "path": None}
    whole = [0.0, 0.0, 1.0, 1.0]
    objects = [[{"name": "ball", "box": whole, "mask": png}, {"name": "box", "box": whole, "mask": None},
                {"name": "placed by its mask", "box": None, "mask": png}]]  # fmt: skip
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("name", pa.string()), ("box", pa.list_(pa.float64())), ("mask", image), ("made_of", pa.string())]
    kind = pa.list_(pa.struct(fields))
    objects[0][0]["made_of"] = "leather"
    face = [[[0.1, 0.2], [0.3, 0.2], [0.2, 0.3], [0.1, 0.4], [0.3, 0.4]]]
    photo = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    table = {
        "id": ["a"],
        "target": [{"bytes": encode(photo, "PNG"), "path": "a.png"}],
        "objects": pa.array(objects, kind),
        "faces": [face],
    }
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    for told in ({"rle": True}, {"rle": True, "segmenter": "grabcut"}):
        edittools.read(str(tmp_path / "in.parquet")).ground(**told).write(str(tmp_path / f"out{len(told)}"))
        (row,) = rows_of(tmp_path / f"out{len(told)}")
        ball, box, placed = row["objects"]
        assert [one["made_of"] for one in row["objects"]] == ["leather", None, None] and row["faces"] == face
        for one in (ball, placed):
            assert ((mask_of(one) > 127) == mask).all() and one["rle"] == rle.encode(mask)
            assert one["area"] == pytest.approx(mask.mean(), abs=1e-5)
        assert ball["box"] == whole and placed["box"] == pytest.approx([0.25, 5 / 30, 0.75, 20 / 30], abs=1e-6)
        assert (box["mask"] is None) == ("segmenter" not in told)


def test_a_mask_with_nothing_in_it_is_none(scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted[40] = [Found("a", (0.0, 0.0, 0.5, 0.5), 0.9), Found("b", (0.5, 0.0, 1.0, 0.5), 0.8)]

    class Module:
        @staticmethod
        def load(weights: str, **placed: str) -> Any:
            return Module

        @staticmethod
        def masks(image: np.ndarray, objects: list[Found]) -> list[np.ndarray | None]:
            return [np.full(image.shape[:2], one.name == "b") for one in objects]

    monkeypatch.setattr(SEGMENTERS, "load", lambda name: Module)
    rows = edittools.read(table(tmp_path, [40])).ground(detector="text", segmenter="grabcut", rle=True)
    rows.write(str(tmp_path / "out"))
    (row,) = rows_of(tmp_path / "out")
    empty, full = row["objects"]
    assert (empty["mask"], empty["rle"], empty["area"]) == (None, None, 0.25), "the box's share, as without a segmenter"
    assert mask_of(full).all() and full["rle"] and full["area"] == 1.0


def test_writing_is_read_with_its_place(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    image = Image.new("RGB", (320, 120), "white")
    font = ImageFont.load_default(40)
    ImageDraw.Draw(image).text((60, 30), "BAKERY", fill="black", font=font)
    path = tmp_path / "in.parquet"
    data = io.BytesIO()
    image.save(data, "PNG")
    pq.write_table(pa.table({"id": ["a"], "target": [{"bytes": data.getvalue(), "path": "a.png"}]}), path)
    (row,) = edittools.read(str(path)).ground(detector="text").rows()
    (found,) = row["objects"]
    assert (found["name"], found["text"], found["detector"]) == ("text", "BAKERY", "text")
    x0, y0, x1, y1 = font.getbbox("BAKERY")
    wanted = np.array([60 + x0, 30 + y0, 60 + x1, 30 + y1]) / [320, 120, 320, 120]
    box = np.array(found["box"])
    assert (box[:2] < wanted[:2]).all() and (box[2:] > wanted[2:]).all(), "all of the ink is in it"
    assert iou(box, wanted)[0, 0] > 0.4, "a line's box is higher than its letters"


def test_filter_reads_what_ground_writes(scripted: Scripted, tmp_path: Path) -> None:
    scripted[40] = [Found("cat", (0, 0, 0.5, 0.5), 0.9), Found("fly", (0, 0, 0.05, 0.05), 0.9)]
    edittools.read(table(tmp_path, [40])).ground(detector="text").write(str(tmp_path / "out"))
    clip = str(save_clip(tmp_path / "clip"))
    grounded = edittools.read(str(tmp_path / "out"))
    (row,) = grounded.filter(region="box_area > 0.01 and clip > -2", clip=clip).rows()
    (kept,) = row["objects"]
    assert kept["name"] == "cat" and kept["box_area"] == pytest.approx(0.25) and -1 <= kept["clip"] <= 1


def test_the_history_knows_weights_by_their_content(tmp_path: Path) -> None:
    from edittools.ground.stage import GroundStage
    from edittools.stream.history import History

    one, other = tiny.save_owlv2(tmp_path / "a" / "owl"), tiny.save_owlv2(tmp_path / "b" / "owl", seed=1)
    said = []
    for folder in (one, other):
        config = GroundConfig(detector=f"owlv2={folder}", names="cat")
        said.append(GroundStage(config).settings(pa.schema([]), History()))
    assert said[0]["detector"] != said[1]["detector"] and str(tmp_path) not in str(said)
    plain = GroundStage(GroundConfig(detector="person")).settings(pa.schema([]), History())
    assert plain["detector"] == ["person"] and "device" not in plain


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"detector": "owl"}, "there is no such detector"),
        ({"detector": "owlv2"}, "--names or --names-from says what to look for"),
        ({"detector": "person", "names": "cat"}, "no detector looks for names"),
        ({}, "nothing is looked for"),
        ({"segmenter": "scissors"}, "there is no such segmenter"),
    ],
)  # fmt: skip
def test_settings_that_exclude_each_other(settings: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GroundConfig(**settings)  # type: ignore[arg-type]


def test_every_file_declares_what_is_read_of_it() -> None:
    for registry in (DETECTORS, SEGMENTERS):
        assert all(registry.declared("HELP").values()) and None not in registry.declared("WEIGHTS").values()
    assert None not in DETECTORS.declared("OPEN").values() and None not in DETECTORS.declared("THRESHOLD").values()
