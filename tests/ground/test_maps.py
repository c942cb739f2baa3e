"""Structure maps: against the library's own path, and against drawings whose structure is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_grounding as tiny
import torch
from conftest import encode
from PIL import Image, ImageDraw, ImageFont
from tiny_models import photo

from edittools.ground import MAPS
from edittools.ground.maps import canny, depth, pose, text

IMAGE = photo(5, 60, 84)


def test_canny_draws_the_outline_of_a_square() -> None:
    pytest.importorskip("cv2")
    image = np.zeros((40, 50, 3), np.uint8)
    image[10:30, 15:35] = 200
    made = canny.load().draw(image)
    assert made.shape == (40, 50) and set(np.unique(made)) == {0, 255}
    y, x = np.nonzero(made)
    near = np.minimum.reduce([abs(y - 9.5), abs(y - 29.5), abs(x - 14.5), abs(x - 34.5)])
    assert near.max() <= 1 and len(y) > 60, "edges, all round, and nothing else"


def test_depth_is_the_librarys_scaled_to_black_and_white(tmp_path: Path) -> None:
    from transformers import DepthAnythingForDepthEstimation, DPTImageProcessorPil

    folder = tiny.save_depth_anything(tmp_path)
    processor = DPTImageProcessorPil.from_pretrained(folder)
    network = DepthAnythingForDepthEstimation.from_pretrained(folder).eval()
    with torch.inference_mode():
        said = network(**processor(images=Image.fromarray(IMAGE), return_tensors="pt"))
    wanted = processor.post_process_depth_estimation(said, target_sizes=[(60, 84)])[0]["predicted_depth"].numpy()
    wanted = 255 * (wanted - wanted.min()) / np.ptp(wanted)
    made = depth.load(str(folder)).draw(IMAGE)
    assert (made.min(), made.max(), made.shape) == (0, 255, (60, 84))
    assert np.abs(made - wanted).max() <= 1


def test_near_is_bright_where_a_network_says_metres(tmp_path: Path) -> None:
    from transformers import DepthAnythingForDepthEstimation

    folder = tiny.save_depth_anything(tmp_path, "metric")
    made = depth.load(str(folder))
    shown = made.prepare(IMAGE)[None]
    with torch.inference_mode():
        metres = DepthAnythingForDepthEstimation.from_pretrained(folder).eval()(pixel_values=shown).predicted_depth
    metres = torch.nn.functional.interpolate(metres[:, None], (60, 84), mode="bicubic")[0, 0].numpy().ravel()
    order = np.argsort(metres)
    drawn = made.draw(IMAGE).ravel()[order].astype(int)
    assert np.ptp(metres) > 0.01 and drawn[0] == 255 and drawn[-1] == 0 and (np.diff(drawn) <= 0).all()


def test_a_flat_depth_is_drawn(tmp_path: Path) -> None:
    made = depth.load(str(tiny.save_depth_anything(tmp_path)))
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.zero_()
    assert not made.draw(IMAGE).any()


def test_joints_of_vitpose_are_the_librarys(tmp_path: Path) -> None:
    from transformers import VitPoseForPoseEstimation, VitPoseImageProcessorPil

    folder = tiny.save_vitpose(tmp_path)
    processor = VitPoseImageProcessorPil.from_pretrained(folder)
    boxes = [[[10.0, 5.0, 40.0, 50.0]]]
    with torch.inference_mode():
        said = VitPoseForPoseEstimation.from_pretrained(folder).eval()(
            **processor(images=[Image.fromarray(IMAGE)], boxes=boxes, return_tensors="pt")
        )
    wanted = processor.post_process_pose_estimation(said, boxes=boxes)[0][0]
    points, scores = pose.Joints(str(folder), "cpu", "float32").find(IMAGE, np.array([10.0, 5.0, 50.0, 55.0]))
    assert np.allclose(points, wanted["keypoints"].numpy(), atol=1e-3)
    assert np.allclose(scores, wanted["scores"].numpy(), atol=1e-5)


def test_skeletons_have_the_colours_and_places_of_openpose() -> None:
    assert pose.COLOURS[:3] == [(255, 0, 0), (255, 85, 0), (255, 170, 0)] and pose.COLOURS[17] == (255, 0, 85)
    points = np.arange(34, dtype=float).reshape(17, 2)  # COCO: nose, eyes, ears, shoulders, elbows, wrists, hips ...
    joints = pose.openpose(points, np.ones(17, bool), pose._COCO)
    nose, neck, right_shoulder, left_shoulder, left_ear = joints[0], joints[1], joints[2], joints[5], joints[17]
    assert nose == (0, 1) and right_shoulder == (12, 13) and left_shoulder == (10, 11) and left_ear == (6, 7)
    assert neck == (11, 12), "half way between the shoulders"
    seen = np.ones(17, bool)
    seen[5] = False
    assert pose.openpose(points, seen, pose._COCO)[1] is None, "no neck without a shoulder"
    drawn = pose.skeletons([[(100.0, 100.0), (100.0, 300.0), *[None] * 16]], 512, 512)
    assert tuple(drawn[100, 100]) == pose.COLOURS[0] and tuple(drawn[300, 100]) == pose.COLOURS[1]
    assert tuple(drawn[200, 100]) == tuple(round(0.6 * part) for part in pose.COLOURS[12]), "the limb from neck to nose"
    assert not drawn[:, 200:].any()


def test_text_is_drawn_where_it_stands() -> None:
    pytest.importorskip("rapidocr")
    image = Image.new("RGB", (320, 160), "white")
    font = ImageFont.load_default(40)
    ImageDraw.Draw(image).text((60, 50), "BAKERY", fill="black", font=font)
    made = text.load().draw(np.asarray(image)) > 0
    ink = np.asarray(image.convert("L")) < 128
    assert made[ink].all() and made.mean() < 0.3


def test_what_a_detector_has_read_is_not_read_again_for_the_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from conftest import rows_of

    import edittools
    from edittools.ground.detectors import text as detector
    from edittools.ground.maps import text as drawer

    pytest.importorskip("rapidocr")
    image = Image.new("RGB", (320, 160), "white")
    ImageDraw.Draw(image).text((60, 50), "BAKERY", fill="black", font=ImageFont.load_default(40))
    path, reads, plain = tmp_path / "in.parquet", [], detector.read_lines
    for module in (detector, drawer):
        monkeypatch.setattr(module, "read_lines", lambda *said: [reads.append(said[0].shape), plain(*said)][1])
    shown = {"bytes": encode(np.asarray(image), "PNG"), "path": "a.png"}
    pq.write_table(pa.table({"id": ["a", "b"], "target": [shown, shown]}), path)
    maps: dict[bool, list[bytes]] = {}
    for detects in (True, False):
        reads.clear()
        out = tmp_path / f"out{detects}"
        more = {"detector": "text", "threshold": 0.999} if detects else {}  # the map's own threshold counts
        edittools.read(str(path)).ground(maps="text", **more).write(str(out))
        maps[detects] = [row["map_text"] for row in rows_of(out)]
        assert reads.count((160, 320, 3)) == 2
    assert maps[True] == maps[False] and len(maps[True]) == 2


def test_maps_of_people_follow_the_face(wheel: None, astronaut: np.ndarray) -> None:
    from edittools.ground.maps import landmarks

    drawn = landmarks.load().draw(astronaut)
    y, x = np.nonzero(drawn)
    assert 170 < x.min() and x.max() < 280 and 60 < y.min() and y.max() < 190, "on the face alone"
    skeleton = pose.load().draw(astronaut)
    assert skeleton[100:150, 180:270].any() and skeleton.shape == astronaut.shape
    assert not pose.load().draw(np.zeros((50, 60, 3), np.uint8)).any()


def test_maps_become_columns_of_images(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from conftest import rows_of

    import edittools

    folder = tiny.save_depth_anything(tmp_path / "depth")
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": ["a"], "target": [{"bytes": encode(IMAGE, "PNG"), "path": "a.png"}]}), path)
    edittools.read(str(path)).ground(maps=f"canny,depth={folder}").write(str(tmp_path / "out"))
    (row,) = rows_of(tmp_path / "out")
    for name, drawer in (("map_canny", canny.load()), ("map_depth", depth.load(str(folder)))):
        assert (np.asarray(Image.open(io.BytesIO(row[name]))) == drawer.draw(IMAGE)).all()
    assert "objects" not in row and "faces" not in row


def test_every_map_declares_what_is_read_of_it() -> None:
    assert all(MAPS.declared("HELP").values()) and None not in MAPS.declared("WEIGHTS").values()
