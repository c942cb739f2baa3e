"""Shift, zoom and rotation, against motions made by splines of another library."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from edittools.metrics.alignment import alignment

ndimage = pytest.importorskip("scipy.ndimage")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A photograph, gray, 400 x 512, as float64."""
    return np.asarray(Image.fromarray(pytest.importorskip("skimage.data").astronaut()).convert("L"), float)[:400]


def moved(scene: np.ndarray, x: float = 0, y: float = 0, zoom: float = 1, degrees: float = 0) -> np.ndarray:
    """What lies at p about the centre lies at zoom R p + (x, y) then; R turns clockwise as it is seen."""
    turn = np.radians(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])  # of (row, column)
    back, centre = np.linalg.inv(matrix) / zoom, (np.array(scene.shape) - 1) / 2
    return ndimage.affine_transform(scene, back, centre - back @ (centre + np.array([y, x])), order=5, mode="reflect")


def eight(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("part", [0, 0.1, 0.25, 0.5, 0.7])
def test_shifts_are_found_to_a_fiftieth_of_a_pixel(scene: np.ndarray, part: float) -> None:
    found = alignment(eight(scene), eight(moved(scene, 3 + part, -1 - part)))
    assert found is not None
    assert (found.shift_x, found.shift_y) == pytest.approx((3 + part, -1 - part), abs=0.02)
    assert found.zoom == pytest.approx(1, abs=1e-4) and found.rotation == pytest.approx(0, abs=0.01)
    assert found.shift == pytest.approx(np.hypot(3 + part, 1 + part), abs=0.03)


@pytest.mark.parametrize(
    "told",
    [{"zoom": 1.02}, {"zoom": 0.97, "x": 4.3}, {"degrees": 1.0}, {"degrees": -3, "y": 6.6, "zoom": 1.03}, {"x": 41.2}],
)  # fmt: skip
def test_zoom_and_rotation_are_found(scene: np.ndarray, told: dict[str, float]) -> None:
    found = alignment(eight(scene), eight(moved(scene, **told)))
    assert found is not None
    assert (found.shift_x, found.shift_y) == pytest.approx((told.get("x", 0), told.get("y", 0)), abs=0.05)
    assert found.zoom == pytest.approx(told.get("zoom", 1), abs=3e-4)
    assert found.rotation == pytest.approx(told.get("degrees", 0), abs=0.02)


def test_the_mean_motion_of_a_zoom_is_the_mean_distance_times_it(scene: np.ndarray) -> None:
    found = alignment(eight(scene), eight(moved(scene, zoom=1.02)))
    y, x = np.mgrid[:400, :512]
    assert found is not None
    assert found.shift == pytest.approx(0.02 * np.hypot(y - 199.5, x - 255.5).mean(), rel=0.05)


def test_an_edit_a_change_of_tone_and_jpeg_are_no_shift(scene: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    edited = moved(scene, 1.3, 0.6)
    patch = np.asarray(Image.fromarray(eight(rng.uniform(0, 255, (9, 9)))).resize((260, 180), Image.Resampling.BICUBIC))
    edited[120:300, 150:410] = patch  # 23% of the image is something else
    toned = 255 * (edited.clip(0, 255) / 255) ** 0.6 * 0.8 + 20
    buffer = io.BytesIO()
    Image.fromarray(eight(toned)).save(buffer, "JPEG", quality=75)
    found = alignment(eight(scene), np.asarray(Image.open(buffer)))
    assert found is not None
    assert (found.shift_x, found.shift_y) == pytest.approx((1.3, 0.6), abs=0.1)
    assert found.zoom == pytest.approx(1, abs=1e-3)


def test_a_result_of_another_size_is_measured_in_pixels_of_the_first(scene: np.ndarray) -> None:
    large = Image.fromarray(eight(moved(scene, 2.4, -1.2))).resize((1024, 800), Image.Resampling.LANCZOS)
    found = alignment(eight(scene), np.asarray(large))
    assert found is not None
    assert (found.shift_x, found.shift_y, found.zoom) == pytest.approx((2.4, -1.2, 1), abs=0.1)


def test_large_images_are_measured_in_their_own_pixels(scene: np.ndarray) -> None:
    large = np.asarray(Image.fromarray(eight(scene)).resize((1536, 1200), Image.Resampling.BICUBIC), float)
    found = alignment(eight(large), eight(moved(large, 5.5, -7.3)))
    assert found is not None
    assert (found.shift_x, found.shift_y) == pytest.approx((5.5, -7.3), abs=0.1)


def test_nothing_is_said_of_images_that_do_not_show_the_same(scene: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    flat = np.full((400, 512), 90, np.uint8)
    noise = rng.integers(0, 256, (400, 512), dtype=np.uint8)
    assert alignment(eight(scene), flat) is None and alignment(flat, eight(scene)) is None
    assert alignment(eight(scene), noise) is None
    assert alignment(eight(scene), eight(scene[::-1])) is None
    assert alignment(flat[:5, :5], flat[:5, :5]) is None


def test_an_image_lies_on_itself(scene: np.ndarray) -> None:
    for image in (eight(scene), eight(scene)[:33, :47]):
        found = alignment(image, image)
        assert found is not None and found.scores() == {
            "shift": 0, "shift_x": 0, "shift_y": 0, "zoom": 1, "rotation": 0
        }  # fmt: skip
