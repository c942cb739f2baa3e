"""Windows and anchors by hand, and the real networks on photographs, where the wheel can be had."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edittools.ground.people import anchors, decode, windows
from edittools.ground.tflite import TurnedSquare

# ---------------------------------------------------------------- windows


def test_a_window_that_is_not_turned_is_a_slice() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert (TurnedSquare(20, 16, 16).look(image, 16) == image[8:24, 12:28]).all()
    outside = TurnedSquare(0, 0, 16).look(image, 16)
    assert (outside[8:, 8:] == image[:8, :8]).all() and not outside[:8].any() and not outside[:, :8].any()


def test_a_quarter_turn_is_numpys() -> None:
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    # Turned by a quarter (y points down): what was on the right of the image is at the bottom of the window's left.
    assert np.allclose(TurnedSquare(16, 16, 32, np.pi / 2).look(image, 32), np.rot90(image, 1), atol=1)


def test_points_and_spread_lead_back() -> None:
    window = TurnedSquare(30.0, 22.0, 24.0, 0.4)
    image = np.zeros((60, 70, 3), np.uint8)
    image[25:28, 33:36] = 255
    seen = window.look(image, 96)[..., 0]
    y, x = np.average(np.argwhere(seen > 0), axis=0, weights=seen[seen > 0])
    assert np.allclose(window.points(np.array([[(x + 0.5) / 96, (y + 0.5) / 96]])), [[34.5, 26.5]], atol=0.1)
    back = window.spread(seen, 60, 70)
    y, x = np.average(np.argwhere(back > 0), axis=0, weights=back[back > 0])
    assert np.allclose([x, y], [34, 26], atol=0.1)


def test_what_is_shrunk_much_is_averaged() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(TurnedSquare.around(256, 256).look(stripes, 32) - 100).max() <= 1, (
        "two pixels of four would be stripes"
    )


def test_windows_cover_the_image_with_overlap() -> None:
    seen = np.zeros((3, 300, 500), int)
    sides: list[float] = []
    for window in windows(500, 300):
        if window.side not in sides:
            sides.append(window.side)
        left, top = round(window.x - window.side / 2), round(window.y - window.side / 2)
        seen[
            sides.index(window.side), max(0, top) : top + round(window.side), max(0, left) : left + round(window.side)
        ] += 1
    assert sides == [500, 300, 150] and (seen > 0).all()
    assert len(windows(64, 64)) == 1, "nothing small can be seen in a small image"
    assert len(windows(20000, 100)) < 20


def test_anchors_are_cell_centres() -> None:
    found = anchors(128, ((8, 2), (16, 6)))
    assert found.shape == (896, 2)
    assert found[0].tolist() == found[1].tolist() == [1 / 32, 1 / 32] and found[2].tolist() == [3 / 32, 1 / 32]
    assert found[512].tolist() == found[517].tolist() == [1 / 16, 1 / 16]
    assert len(anchors(224, ((8, 2), (16, 2), (32, 6)))) == 2254


def test_detections_are_offsets_from_their_anchor() -> None:
    regressors, logits = np.zeros((896, 16), np.float32), np.full((896, 1), -9, np.float32)
    regressors[2] = [12.8, 0, 25.6, 12.8, *[6.4, 12.8] * 6]
    logits[2] = 3
    ((score, *box, x, y),) = decode(regressors, logits, 128, ((8, 2), (16, 6)))[:, :7].tolist()
    centre = np.array([3 / 32 + 0.1, 1 / 32])
    assert score == pytest.approx(1 / (1 + np.exp(-3)))
    half = np.array([0.1, 0.05])
    assert box == pytest.approx([*(centre - half), *(centre + half)])
    assert (x, y) == pytest.approx((3 / 32 + 0.05, 1 / 32 + 0.1))
    assert decode(regressors, np.full((896, 1), -9), 128, ((8, 2), (16, 6))).shape == (0, 17)


# ---------------------------------------------------------------- real weights


def test_the_astronauts_face_is_where_another_detector_sees_it(wheel: None, astronaut: np.ndarray) -> None:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    from edittools.ground.detectors import face

    (found,) = face.load().detect([astronaut], [()])[0]
    seen = Cascade(lbp_frontal_face_cascade_filename()).detect_multi_scale(astronaut, 1.2, 1, (60, 60), (200, 200))
    x = np.mean([box["c"] + box["width"] / 2 for box in seen]) / 512
    y = np.mean([box["r"] + box["height"] / 2 for box in seen]) / 512
    assert found.box[0] < x < found.box[2] and found.box[1] < y < found.box[3]
    assert found.face is not None
    eyes, nose, mouth = found.face[:2], found.face[2], found.face[3:]
    assert eyes[0, 0] < nose[0] < eyes[1, 0] and mouth[0, 0] < mouth[1, 0]
    assert eyes[:, 1].max() < nose[1] < mouth[:, 1].min()


@pytest.mark.parametrize("turn", [-35, 20])
def test_landmarks_follow_a_face_that_is_moved_and_turned(wheel: None, astronaut: np.ndarray, turn: int) -> None:
    from edittools.ground.people import Faces

    faces = Faces()
    (plain,) = faces.find(astronaut, 0.5)
    turned = np.asarray(Image.fromarray(astronaut).rotate(turn, Image.Resampling.BICUBIC, center=(224, 122)))
    (found,) = faces.find(np.pad(turned, ((40, 0), (60, 0), (0, 0)), mode="edge"), 0.5)
    angle = np.radians(turn)  # counter-clockwise as seen: with y down (x, y) -> (x cos + y sin, y cos - x sin)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wanted = (plain.five - [224, 122]) @ matrix + [224 + 60, 122 + 40]
    assert np.abs(found.five - wanted).max() < 6, "of a face 70 pixels wide"


def test_a_small_face_is_found_in_a_large_image(wheel: None, astronaut: np.ndarray) -> None:
    from edittools.ground.people import Faces

    scene = np.full((720, 1280, 3), 128, np.uint8)
    scene[400:720, 900:1220] = np.asarray(Image.fromarray(astronaut).resize((320, 320), Image.Resampling.BOX))
    (found,) = Faces().find(scene, 0.6)
    assert np.allclose(found.five.mean(axis=0), [900 + 224 * 320 / 512, 400 + 124 * 320 / 512], atol=5)


def test_nobody_is_found_where_nobody_is(wheel: None) -> None:
    from edittools.ground.detectors import face, person

    data = pytest.importorskip("skimage.data")
    images = [
        data.coffee(),
        np.zeros((64, 64, 3), np.uint8),
        np.full((1, 1, 3), 9, np.uint8),
        np.zeros((3, 900, 3), np.uint8),
    ]
    for module in (face, person):
        found = module.load().detect(images, [()] * len(images))
        assert [[one for one in objects if (one.score or 0) >= module.THRESHOLD] for objects in found] == [[]] * 4


def test_the_astronaut_is_cut_out(wheel: None, astronaut: np.ndarray) -> None:
    """Places whose side of the outline anybody can tell: face, arms and suit; flag, wall, shuttle and dark."""
    from edittools.ground.detectors import person
    from edittools.ground.segmenters import grabcut

    (found,) = person.load().detect([astronaut], [()])[0]
    assert found.score is not None and found.score > 0.9
    masks = [found.mask, *grabcut.load().masks(astronaut, [found])]
    inside, outside = (
        [(224, 120), (220, 60), (150, 260), (150, 400), (300, 270)],
        [(60, 60), (340, 40), (400, 180), (330, 150), (480, 250)],
    )
    for mask in masks:
        assert mask is not None
        assert all(mask[y, x] for x, y in inside), [(x, y) for x, y in inside if not mask[y, x]]
        assert not any(mask[y, x] for x, y in outside), [(x, y) for x, y in outside if mask[y, x]]


def test_threads_have_interpreters_of_their_own(wheel: None, astronaut: np.ndarray) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from edittools.ground.people import Faces

    faces = Faces()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: faces.find(astronaut, 0.5)[0].five, range(8)))
    assert all((one == found[0]).all() for one in found)
