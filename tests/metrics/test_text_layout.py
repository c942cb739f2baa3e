"""The layout-aware reward for writing, against cases worked out by hand and brute force over all matchings."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from edittools.metrics.text_layout import Letter, in_reading_order, text_reward, without_layout


def row(text: str, centres: list[float], width: float = 100, height: float = 100, y: float = 50) -> list[Letter]:
    return [Letter(sign, x, y, width, height) for sign, x in zip(text, centres)]


PLACES = [50.0, 150.0, 250.0, 350.0]
CAFE = row("CAFE", PLACES)  # the box is 400 x 100, its diagonal 412.3106
DIAGONAL = math.hypot(400, 100)


def parts(read: list[Letter], wanted: list[Letter], **options: float) -> tuple[float, float, float]:
    """With the weights 1/2 in them, as the cases are written down."""
    found = text_reward(read, wanted, **options)
    assert found.layout is not None
    return found.text / 2, found.layout / 2, found.total


def is_near(*numbers: float) -> object:
    return pytest.approx(numbers, abs=1e-6)


def test_exact() -> None:
    assert parts(CAFE, CAFE) == (0.5, 0.5, 1)


def test_all_moved_by_a_tenth_of_the_diagonal() -> None:
    moved = row("CAFE", [x + 0.1 * DIAGONAL for x in PLACES])
    assert parts(moved, CAFE) == is_near(0.5, 0.452419, 0.952419)


def test_twice_as_high_costs_and_half_as_high_does_not() -> None:
    assert parts(row("CAFE", PLACES, height=200), CAFE) == is_near(0.5, 0.25, 0.75)
    assert parts(row("CAFE", PLACES, height=50), CAFE) == (0.5, 0.5, 1)


def test_too_long_is_no_better_than_exact() -> None:
    assert parts([*CAFE, *row("E", [450])], CAFE) == (0.375, 0.5, 0.875)
    assert parts([*CAFE, *row("CAFE", [450, 550, 650, 750])], CAFE) == (0, 0, 0)  # four too many: the gate is shut


def test_letters_are_matched_as_well_as_they_can_be() -> None:
    read = row("BOOOK", [40, 120, 200, 280, 360], width=80)
    kept = 2 * math.exp(-10 / DIAGONAL) + 2 * math.exp(-30 / DIAGONAL)
    assert kept == pytest.approx(3.811723, abs=1e-6)
    assert parts(read, row("BOOK", PLACES)) == is_near(0.375, 0.476465, 0.851465)


def test_nothing_read_and_nothing_wanted() -> None:
    assert parts([], CAFE) == (0, 0, 0)
    assert parts([], []) == (0.5, 0.5, 1)
    assert parts(CAFE, [])[1] == 0


def test_the_gate() -> None:
    assert parts(row("CATS", PLACES), CAFE) == (0.25, 0.25, 0.5)
    assert parts(row("CATS", PLACES), CAFE, gate=0.8) == (0.25, 0, 0.25)
    assert parts(row("XXXXXXXX", [*PLACES, *PLACES]), CAFE) == (0, 0, 0)  # eight errors of four letters are not -1


def test_lines_that_the_engine_gives_in_another_order() -> None:
    wanted = row("AB", [50, 150]) + row("CD", [50, 150], y=200)
    assert parts(wanted[2:] + wanted[:2], wanted) == (0.5, 0.5, 1)
    slanted = [Letter(sign, 100 * k, 50 + 5 * k, 90, 100) for k, sign in enumerate("ABCDEFG")]
    assert "".join(letter.sign for letter in in_reading_order(slanted[::-1])) == "ABCDEFG"


def test_compatible_forms_are_one_and_spaces_none() -> None:
    wide = row("Ｃ Ａﬁ", [50, 100, 150, 250])
    assert "".join(letter.sign for letter in in_reading_order(wide)) == "CAfi"
    assert without_layout(row("CAFÉ", PLACES), "C A F E").text == 0.75  # an accent is another letter


def test_without_places_the_text_alone_counts() -> None:
    found = without_layout(row("CATS", PLACES), "CAFE")
    assert (found.text, found.layout, found.total) == (0.5, None, 0.5)


def brute(read: list[Letter], wanted: list[Letter]) -> float:
    """The best matching by trying all: every wanted letter gets one that was read, or none."""
    best = 0.0
    xs = [(w.x - w.width / 2, w.x + w.width / 2, w.y - w.height / 2, w.y + w.height / 2) for w in wanted]
    low, high = min(x[0] for x in xs), max(x[1] for x in xs)
    top, bottom = min(x[2] for x in xs), max(x[3] for x in xs)
    diagonal = math.hypot(high - low, bottom - top)
    places = [*range(len(read)), *[None] * len(wanted)]
    for chosen in set(itertools.permutations(places, len(wanted))):
        total = 0.0
        for k, other in zip(chosen, wanted):
            if k is not None and read[k].sign == other.sign:
                grown = max(0.0, math.log(read[k].height / other.height))
                total += math.exp(-math.dist((read[k].x, read[k].y), (other.x, other.y)) / diagonal) * math.exp(-grown)
        best = max(best, total)
    return best / len(wanted)


def test_matching_against_brute_force() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        read, wanted = (
            [
                Letter(str(rng.choice(list("ab"))), *rng.uniform(0, 300, 2), rng.uniform(10, 60), rng.uniform(10, 60))
                for _ in range(rng.integers(1, 5))
            ]
            for _ in range(2)
        )
        assert text_reward(read, wanted, gate=-1).layout == pytest.approx(brute(read, wanted), abs=1e-12)
