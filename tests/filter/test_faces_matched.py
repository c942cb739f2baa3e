"""Faces of pairs: the misfit of landmarks by another solver, and the real networks on a photograph."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from edittools.filter.filters.faces_matched import FILTER, measure, misfit


def test_misfit_is_what_the_nearest_turn_scale_and_shift_leave() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    ours, others = rng.normal(size=(2, 12, 2))

    def left(given: np.ndarray) -> float:
        a, b, x, y = given
        return float(np.sqrt(((ours @ [[a, b], [-b, a]] + [x, y] - others) ** 2).sum(axis=1).mean()))

    assert misfit(ours, others, 2.0) == pytest.approx(minimize(left, [1, 0, 0, 0], tol=1e-9).fun / 2, abs=1e-5)
    angle = 0.7
    moved = 3 * ours @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]] + [5, -2]
    assert misfit(ours, moved, 1.0) < 1e-6 < 0.07 < misfit(ours * [1, -1], ours, 1.0)  # a mirrored face is another


def test_a_retouched_face_has_its_partner(wheel: None, astronaut: np.ndarray) -> None:
    photo = Image.fromarray(astronaut)
    bright = ImageEnhance.Brightness(photo.filter(ImageFilter.MedianFilter(3))).enhance(1.2)
    for edited in (photo, bright, ImageEnhance.Color(photo).enhance(0), photo.resize((320, 320))):
        assert measure(astronaut, np.asarray(edited)) == 1
    two = np.concatenate([astronaut, astronaut], axis=1)
    one = two.copy()
    one[:, 512:] = 120
    assert measure(two, two) == 1 and measure(two, one) == pytest.approx(
        2 / 3
    )  # three faces, of which two are partners


def test_another_place_or_pose_is_no_partner(wheel: None, astronaut: np.ndarray) -> None:
    gray = np.full_like(astronaut, 120)
    for edited in (np.roll(astronaut, 80, axis=1), astronaut[:, ::-1], gray):
        assert measure(astronaut, edited) == 0
    assert measure(gray, gray) == 0


def test_it_is_a_filter_of_pairs() -> None:
    assert FILTER.flag == "--faces-matched" and FILTER.bare == "min" and FILTER.measure_pair is measure
