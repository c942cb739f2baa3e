"""Agreement between raters: published worked examples, and the packages that compute the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edittools.metrics.agreement import krippendorff_alpha, ranks, share_within, spearman

N = None
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]


@pytest.mark.parametrize("level, alpha", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level: str, alpha: float) -> None:
    assert krippendorff_alpha(OBSERVERS, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_by_hand() -> None:
    """Two raters, two values: coincidences 11: 2, 22: 2, 12: 1, 21: 1; 1 - 5 * 2 / (2 * 9) = 4/9."""
    assert krippendorff_alpha([[1, 2, 1], [1, 2, 2]], "nominal") == pytest.approx(4 / 9)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_equals_the_package(level: str) -> None:
    package = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(5)
    for raters, items in [(2, 6), (3, 40), (10, 25)]:
        table = rng.integers(1, 6, (raters, items)).astype(float)
        table[rng.random(table.shape) < 0.3] = math.nan
        expected = package.alpha(reliability_data=table, level_of_measurement=level)
        assert krippendorff_alpha(table, level) == pytest.approx(expected, abs=1e-12)


def test_alpha_says_nothing_where_there_is_nothing_to_agree_on() -> None:
    assert krippendorff_alpha([[1, 1], [1, 1]]) is None
    assert krippendorff_alpha([[1, 2, N], [N, N, 3]]) is None
    assert krippendorff_alpha([[1, 2, 3]]) is None
    assert krippendorff_alpha([]) is None
    with pytest.raises(ValueError, match="ratio"):
        krippendorff_alpha([[1], [2]], "ratio")


def test_share_within_one_point() -> None:
    assert share_within([1, 2, 3, N], [2, 4, 3, 5]) == pytest.approx(2 / 3)
    assert share_within([3.3], [2.3]) == 1
    assert share_within([1, 5], [1, 1], tolerance=0) == 0.5
    assert share_within([N], [1]) is None
    with pytest.raises(ValueError, match="against"):
        share_within([1], [1, 2])


def test_spearman_equals_scipy_with_ties() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    for items in (5, 30, 200):
        a, b = rng.integers(1, 6, (2, items))
        assert spearman(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-12)
        assert ranks(a).tolist() == scipy_stats.rankdata(a).tolist()
    assert spearman([1, 2, 3], [1, 1, 1]) is None
    assert spearman([1, N, 3], [2, 9, 8]) == pytest.approx(1)
