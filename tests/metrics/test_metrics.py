"""Reference metrics against scikit-image, brute force and numbers worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from edittools.metrics import pixels
from edittools.metrics.reference import judge_change, judge_pair, judge_result

skimage = pytest.importorskip("skimage")


def random_pair(height: int, width: int, seed: int = 0, noise: int = 25) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    a = generator.integers(0, 256, (height, width, 3))
    b = np.clip(a + generator.integers(-noise, noise + 1, a.shape), 0, 255)
    return a.astype(np.uint8), b.astype(np.uint8)


def photograph_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    from skimage import data

    cat, coffee = data.chelsea(), data.coffee()
    return [
        (cat, (cat * 0.8).astype(np.uint8)),
        (cat, np.roll(cat, 3, axis=1)),
        (coffee, 255 - coffee),
        (coffee[:97, :151], coffee[1:98, 2:153]),
        (cat[::9, ::9], cat[1::9, 1::9][: cat[::9].shape[0], : cat[:, ::9].shape[1]]),
    ]


SIZES = [(7, 7), (7, 50), (8, 9), (32, 32), (33, 64), (200, 131), (17, 20000)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_random_images_agree_with_scikit_image(size):
    a, b = random_pair(*size)
    assert_as_scikit_image(a, b)


@pytest.mark.parametrize("index", range(5))
def test_photographs_agree_with_scikit_image(index):
    a, b = photograph_pairs()[index]
    height, width = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
    assert_as_scikit_image(a[:height, :width], b[:height, :width])


def assert_as_scikit_image(a: np.ndarray, b: np.ndarray) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    assert pixels.ssim(a, b) == pytest.approx(structural_similarity(a, b, channel_axis=-1, data_range=255), abs=1e-9)
    assert pixels.psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)
    assert pixels.l1(a, b) == pytest.approx(np.abs(a / 255.0 - b / 255.0).mean(), abs=1e-12)


def test_ssim_does_not_depend_on_the_strip(monkeypatch):
    a, b = random_pair(90, 41)
    whole = pixels.ssim(a, b)
    for strip in (1, 41 * 7, 41 * 83):
        monkeypatch.setattr(pixels, "SSIM_STRIP", strip)
        assert pixels.ssim(a, b) == pytest.approx(whole, abs=1e-12)


def test_numbers_by_hand():
    black = np.zeros((10, 10, 3), np.uint8)
    white = np.full_like(black, 255)
    assert pixels.psnr(black, white) == 0
    assert pixels.l1(black, white) == 1
    one_tenth = black.copy()
    one_tenth[0] = 255  # a tenth of the pixels wrong by everything: MSE is 255^2 / 10
    assert pixels.psnr(black, one_tenth) == pytest.approx(10)
    assert pixels.l1(black, one_tenth) == pytest.approx(0.1)
    # Constant images: SSIM is its luminance term, (2xy + C1) / (x^2 + y^2 + C1), with C1 = 2.55^2.
    grey = np.full_like(black, 100)
    lighter = np.full_like(black, 150)
    expected = (2 * 100 * 150 + 2.55**2) / (100**2 + 150**2 + 2.55**2)
    assert pixels.ssim(grey, lighter) == pytest.approx(expected)


def test_identical_images_and_images_below_the_window():
    a, b = random_pair(6, 40)
    assert pixels.psnr(a, a) == pixels.PSNR_LIMIT
    assert pixels.l1(a, a) == 0
    assert pixels.ssim(a, b) is None
    big, _ = random_pair(20, 20)
    assert pixels.ssim(big, big) == pytest.approx(1)
    # One level in one channel of two megapixels is more than 100 dB: still no more than identical.
    large = np.zeros((1000, 2000, 3), np.uint8)
    almost = large.copy()
    almost[0, 0, 0] = 1
    assert pixels.psnr(large, almost) == pixels.PSNR_LIMIT


def test_inside_and_outside_add_up():
    a, b = random_pair(40, 30)
    inside = np.zeros((40, 30), bool)
    inside[5:20, 3:18] = True
    square = (a.astype(float) - b.astype(float)) ** 2
    for where in (inside, ~inside):
        assert pixels.psnr(a, b, where) == pytest.approx(10 * math.log10(255**2 / square[where].mean()))
    weighted = pixels.l1(a, b, inside) * inside.mean() + pixels.l1(a, b, ~inside) * (~inside).mean()
    assert weighted == pytest.approx(pixels.l1(a, b))
    assert pixels.psnr(a, b, np.zeros_like(inside)) is None


@pytest.mark.parametrize("threshold", [0, 8, 40])
def test_change_by_brute_force(threshold):
    a, b = random_pair(11, 13, noise=60)
    changed = pixels.changed(a, b, threshold)
    for y in range(11):
        for x in range(13):
            expected = any(abs(int(a[y, x, c]) - int(b[y, x, c])) > threshold for c in range(3))
            assert changed[y, x] == expected


def test_a_pair_with_a_square():
    source, _ = random_pair(50, 100)
    target = source.copy()
    target[10:20, 30:50] ^= 0xFF
    target[40, 90] += 1  # one level: below the threshold
    mask = np.zeros((50, 100), np.uint8)
    mask[10:20, 30:60] = 255
    scores = judge_pair(source, target, mask)
    changed = np.count_nonzero(np.abs(source.astype(int) - target)[10:20, 30:50].max(-1) > 8)
    assert scores["visible"] is True
    assert scores["edit_ratio"] == pytest.approx(changed / 5000)
    assert scores["edit_box"] == [0.3, 0.2, 0.5, 0.4]
    assert scores["mask_share"] == 1
    assert scores["mask_iou"] == pytest.approx(changed / 300, rel=1e-5)
    assert scores["resized"] is False
    json.dumps(scores, allow_nan=False)


def test_a_pair_without_an_edit():
    source, _ = random_pair(20, 20)
    scores = judge_pair(source, source, np.ones((20, 20), bool))
    assert scores["visible"] is False
    assert scores["edit_ratio"] == 0
    assert scores["edit_box"] is scores["mask_share"] is scores["mask_iou"] is None
    assert scores["psnr"] == pixels.PSNR_LIMIT


def test_a_result_against_truth_and_copy():
    source, _ = random_pair(32, 32)
    truth = source.copy()
    truth[:16] = 255 - truth[:16]
    mask = np.zeros((32, 32), bool)
    mask[:16] = True
    perfect = judge_result(truth, truth, source, mask)
    assert perfect["psnr"] == perfect["psnr_inside"] == pixels.PSNR_LIMIT
    assert perfect["copy_psnr_outside"] == pixels.PSNR_LIMIT
    assert perfect["copy_psnr"] == pytest.approx(pixels.psnr(source, truth), rel=1e-5)
    assert perfect["copy_l1_inside"] == pytest.approx(2 * perfect["copy_l1"], rel=1e-5)
    lazy = judge_result(source, truth, source, mask)
    for name in ("psnr", "ssim", "l1", "psnr_inside", "psnr_outside", "l1_inside", "l1_outside"):
        assert lazy[name] == lazy["copy_" + name]
    unmasked = judge_result(source, truth, source)
    assert unmasked["psnr_inside"] is unmasked["copy_l1_outside"] is None


def test_other_sizes_are_resized_and_said_so():
    grey = np.full((40, 60, 3), 90, np.uint8)
    small = np.full((20, 30, 3), 90, np.uint8)
    scores = judge_result(small, grey, grey, np.ones((10, 15), np.uint8) * 255)
    assert scores["resized"] is True and scores["copy_resized"] is False
    assert scores["psnr"] == scores["psnr_inside"] == pixels.PSNR_LIMIT
    assert scores["psnr_outside"] is None
    assert judge_pair(grey, small)["resized"] is True


def test_what_is_no_image_is_refused():
    a, b = random_pair(9, 9)
    with pytest.raises(ValueError, match="differ in size"):
        pixels.psnr(a, b[:8])
    with pytest.raises(ValueError, match="uint8"):
        pixels.ssim(a.astype(float), b)
    with pytest.raises(ValueError, match="uint8"):
        pixels.l1(a[..., 0], b[..., 0])
    with pytest.raises(ValueError, match="mask"):
        judge_pair(a, b, np.ones((9, 9, 3), bool))


def test_what_a_model_changed_by_itself() -> None:
    """A copy edits no region, a repaint of everything the whole image, a clean edit its mask."""
    source = np.full((10, 20, 3), 100, np.uint8)
    mask = np.zeros((10, 20), bool)
    mask[:5, :10] = True  # a quarter
    clean = np.where(mask[..., None], 200, source).astype(np.uint8)
    copied, cleanly, all_over = (judge_change(made, source, mask) for made in (source, clean, source + 50))
    assert copied == {"edit_ratio": 0, "mask_share": None, "mask_iou": 0}
    assert cleanly == {"edit_ratio": 0.25, "mask_share": 1, "mask_iou": 1}
    assert all_over == {"edit_ratio": 1, "mask_share": 0.25, "mask_iou": 0.25}
    assert judge_change(clean, source) == {"edit_ratio": 0.25, "mask_share": None, "mask_iou": None}
    assert judge_change(np.repeat(np.repeat(clean, 2, 0), 2, 1), source)["edit_ratio"] == pytest.approx(0.25, abs=0.05)
