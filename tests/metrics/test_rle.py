"""Run lengths of masks, against texts that pycocotools 2.0 wrote of the same masks, and worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edittools.metrics import rle

RING = np.zeros((40, 60), bool)
RING[10:30, 5:50] = True
RING[15:20, 20:30] = False
BOX = np.zeros((5, 7), bool)
BOX[1:4, 2:6] = True
NOISE = """
11001111011 01000100110 11001010110 01010010000 10010111010 10101100001 01000000111 11011100010 01010000011
"""
PACKED = {
    "<": np.zeros((3, 4), bool),
    "0<": np.ones((3, 4), bool),
    ";32000004": BOX,
    "b6d0d00000000000000000000000000000AA5?KA5?KA5?KA5?KA5?KA5?KA5?KA5?KA5?KA5?"
    ":00000000000000000000000000000000000000V<": RING,
    "0110010O031O3N11L1ON10O00110OO00023NO021NOO2ON033NMO": np.array([[*map(int, row)] for row in NOISE.split()], bool),
}


@pytest.mark.parametrize("text", PACKED)
def test_texts_of_cocos_own_api(text: str) -> None:
    mask = PACKED[text]
    assert rle.encode(mask) == text
    for given in (text, text.encode(), rle.unpacked(text)):
        assert np.array_equal(rle.decode(given, *mask.shape), mask)


def test_counts_by_hand() -> None:
    """Of a box of 3 x 4 in 5 x 7: two empty columns and a row, then three inside and two outside, four times."""
    assert rle.unpacked(rle.encode(BOX)) == [11, 3, 2, 3, 2, 3, 2, 3, 6]
    assert np.array_equal(rle.decode([0, 2, 2], 2, 2), [[True, False], [True, False]])


def test_any_mask_comes_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.random((rng.integers(1, 50), rng.integers(1, 50))) < rng.choice([0, 0.02, 0.5, 0.98, 1])
        assert np.array_equal(rle.decode(rle.encode(mask), *mask.shape), mask)


@pytest.mark.parametrize("counts", ["", ";3200000", "\n", "ÿ", "o" * 40, "0=", [1, 2], [13], [-1, 13], [6.0, 6.0], "é"])
def test_what_is_no_mask_of_this_size(counts: object) -> None:
    with pytest.raises(ValueError):
        rle.decode(counts, 3, 4)  # type: ignore[arg-type]
