"""The geometry about a painter, against brute force and another library, with painters that spoil what they can."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edittools.errors import RowError
from edittools.painters import PaintRequest
from edittools.painters.canvas import Brush, Canvas, canvas, crop_box, filled, painted_size, paste_alpha

pytest.importorskip("cv2")


class Spoiler:
    """A painter that changes every pixel of what it sees."""

    batch_size, multiple, wants = 4, 16, frozenset({"prompt"})

    def __init__(self, area: int | None = 4096) -> None:
        self.area = area

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        return None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        return [255 - request.image for request in requests]


def blobs(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A ragged mask with holes."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 5, width // 5)) < 0.3
    return coarse.repeat(5, 0).repeat(5, 1) & (rng.random((height, width)) < 0.9)


def distances(mask: np.ndarray) -> np.ndarray:
    """Of every pixel to the nearest of the mask, by trying all."""
    y, x = np.nonzero(mask)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return np.sqrt(((rows[..., None] - y) ** 2 + (columns[..., None] - x) ** 2).min(axis=-1))


@pytest.mark.parametrize("seed", range(4))
def test_holes_are_filled_as_scipy_fills_them(seed: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    mask = blobs(seed)
    assert (filled(mask) == ndimage.binary_fill_holes(mask)).all() and filled(mask).sum() > mask.sum()


@pytest.mark.parametrize(("grow", "feather"), [(0, 0), (3, 0), (0, 4), (5, 3)])
def test_the_paint_fades_out_over_the_feather(grow: int, feather: int) -> None:
    mask = blobs(1)
    far = distances(filled(mask))
    alpha = paste_alpha(mask, Brush(grow, feather))
    assert (alpha[far <= grow] == 1).all() and not alpha[far >= grow + feather + 1].any()
    between = (far > grow) & (far < grow + feather + 1)
    assert np.allclose(alpha[between], 1 - (far[between] - grow) / (feather + 1), atol=1e-3)
    assert paste_alpha(np.ones((5, 6), bool), Brush(2, 2)).min() == 1


@pytest.mark.parametrize("area", [None, 1024, 16384])
@pytest.mark.parametrize("seed", range(3))
def test_pixels_beyond_the_feather_are_the_sources(seed: int, area: int | None) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    mask = np.zeros((90, 130), bool)
    mask[20 + 9 * seed : 50 + 9 * seed, 10 * seed : 40 + 20 * seed] = True
    made = canvas(image, mask, Brush(grow=4, feather=6), Spoiler(area))
    (painted,) = Spoiler().paint([made.request(prompt="x")])
    assert isinstance(painted, np.ndarray)
    result = made.paste(painted)
    far = distances(mask)
    assert (result[far >= 11] == image[far >= 11]).all()
    assert ((made.mask > 0) == (far < 11)).all(), "the row's mask is where there is paint"
    assert (result[far <= 4] != image[far <= 4]).any(axis=-1).mean() > 0.9
    assert (image == np.random.default_rng(seed).integers(0, 256, (90, 130, 3), dtype=np.uint8)).all(), "not in place"


def test_at_its_own_size_the_paint_is_the_painters_bit_for_bit() -> None:
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    alpha = np.zeros((64, 64), np.float32)
    alpha[20:30, 20:30] = 1
    made = Canvas(image, alpha, (16, 16, 48, 48), (32, 32))
    request = made.request()
    assert (request.image == image[16:48, 16:48]).all() and (request.mask == (alpha[16:48, 16:48] > 0)).all()
    result = made.paste(255 - request.image)
    assert (result[20:30, 20:30] == 255 - image[20:30, 20:30]).all()
    assert (result[alpha == 0] == image[alpha == 0]).all()


def test_whatever_is_pasted_was_painted() -> None:
    """Shrunk to the painter's size, no pixel that has paint may fall out of the mask."""
    image = np.zeros((400, 600, 3), np.uint8)
    mask = np.zeros((400, 600), bool)
    mask[200, 300] = mask[120:280, 200] = True
    made = canvas(image, mask, Brush(grow=0, feather=1, context=3), Spoiler(32 * 32))
    request = made.request()
    left, top, right, bottom = made.box
    height, width = request.mask.shape
    for y, x in np.argwhere(made.alpha > 0):
        assert request.mask[
            int((y + 0.5 - top) / (bottom - top) * height), int((x + 0.5 - left) / (right - left) * width)
        ]


def test_crops_have_context_and_stay_in_the_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(20, 200, 2))
        y0, x0 = int(rng.integers(height)), int(rng.integers(width))
        y1, x1 = int(rng.integers(y0, height)) + 1, int(rng.integers(x0, width)) + 1
        region = np.zeros((height, width), bool)
        region[y0:y1, x0:x1] = True
        left, top, right, bottom = crop_box(region, 1.5)
        assert 0 <= left <= x0 < x1 <= right <= width and 0 <= top <= y0 < y1 <= bottom <= height
        assert right - left >= min(width, 1.5 * (x1 - x0)) and right - left >= width / 4
        assert bottom - top >= min(height, 1.5 * (y1 - y0)) and bottom - top >= height / 4


def test_sizes_are_multiples_of_about_the_area() -> None:
    for width, height in ((100, 100), (640, 200), (37, 411), (3000, 2000)):
        wide, high = painted_size(width, height, 2**20, 16)
        assert wide % 16 == high % 16 == 0 and 0.9 < wide * high / 2**20 < 1.1
        assert abs(np.log(wide / high * height / width)) < 0.05
    assert painted_size(101, 57, None, 1) == (101, 57)
    assert painted_size(3, 900, None, 16) == (16, 896)
