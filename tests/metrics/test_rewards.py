"""Several rewards as one, against numbers worked out by hand and numpy."""

import numpy as np
import pytest

from edittools.metrics.rewards import Reward, combined, normalised


def test_normalised_is_numpys_standard_score() -> None:
    values = [1.0, 4.0, 2.5, -3.0]
    assert normalised(values) == pytest.approx((np.array(values) - np.mean(values)) / np.std(values))
    assert normalised([0.1 + 0.2, 0.3, 0.3]) == [0, 0, 0]  # a difference of rounding is none
    assert normalised([7.0]) == [0]


def test_one_reward_stays_as_it_is_and_what_failed_is_none() -> None:
    assert combined({"a": [3.0, None, 1.0]}, [Reward("a", 0.5)]) == [3.0, None, 1.0]
    assert combined({"a": [None, None]}, [Reward("a")]) == [None, None]
    assert combined({"a": []}, [Reward("a")]) == []


def test_large_scale_does_not_drown_the_other_reward() -> None:
    """Both have the standard scores -1 and 1; `big` has the weight of a third."""
    values = {"big": [0.0, 1000.0], "small": [0.02, 0.01]}
    assert combined(values, [Reward("big", 1), Reward("small", 3)]) == pytest.approx([2, -2])


def test_member_without_one_of_several_takes_no_part_in_the_normalisation() -> None:
    values = {"a": [1.0, 3.0, 1e9], "b": [5.0, 5.0, None]}
    assert combined(values, [Reward("a"), Reward("b")]) == [pytest.approx(-1), pytest.approx(1), None]


def test_below_a_floor_is_as_bad_as_the_worst() -> None:
    values = {"nice": [1.0, 2.0, 3.0], "true": [0.9, 0.8, 0.1]}
    free = combined(values, [Reward("nice", 10), Reward("true")])
    assert free.index(max(free)) == 2
    held = combined(values, [Reward("nice", 10), Reward("true", floor=0.5)])
    assert held[:2] == free[:2] and held[2] == min(free)


@pytest.mark.parametrize("text", ["a:0", "a:-1", "a:x", ":1", "", "a:nan"])
def test_what_is_no_reward(text: str) -> None:
    with pytest.raises(ValueError):
        Reward.parse(text)


def test_spelling() -> None:
    assert Reward.parse("psnr") == Reward("psnr", 1.0) and Reward.parse("a:0.25") == Reward("a", 0.25)
