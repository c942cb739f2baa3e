"""Faces whose landmarks are moved by hand say what was done."""

import numpy as np
import pytest

from edittools.caption.kinds.face_motion import changes, instruction
from edittools.ground.people import Face

# Landmarks of a face that looks at the viewer, in pixels; the distance of the eyes is 100.
POINTS = {
    33: (35, 100), 133: (65, 100), 362: (135, 100), 263: (165, 100), 1: (100, 150), 61: (75, 200), 291: (125, 200),
    13: (100, 199), 14: (100, 201), 159: (50, 92), 145: (50, 108), 386: (150, 92), 374: (150, 108),
}  # fmt: skip


def face(**moved: tuple[float, float]) -> Face:
    """`_14=(0, 20)` moves landmark 14 down by 20 pixels."""
    landmarks = np.zeros((468, 2))
    for number, place in POINTS.items():
        landmarks[number] = np.add(place, moved.get(f"_{number}", (0, 0)))
    return Face(0.9, landmarks)


def turned(degrees: float, by: tuple[float, float] = (0, 0), scale: float = 1.0) -> Face:
    """The face turned clockwise as one sees it, about its middle, then moved."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return Face(0.9, ((face().landmarks - 100) @ turn + 100) * scale + by)


def said(before: Face, after: Face, language: str = "en") -> str:
    return instruction(changes(before, after), language)


def test_every_change_and_its_way_back() -> None:
    open_, wide = face(_14=(0, 30)), face(_159=(0, -6), _386=(0, -6), _145=(0, 4), _374=(0, 4))
    assert said(face(), open_) == "Have the person open the mouth."
    assert said(open_, face()) == "Have the person close the mouth."
    assert said(face(), wide) == "Have the person open the eyes."
    assert said(wide, face(), "zh") == "让这个人闭上眼睛。"
    assert said(face(), face(_1=(25, 0))) == "Have the person turn the head to the right."
    assert said(face(_1=(25, 0)), face()) == "Have the person turn the head to the left."
    assert said(face(), turned(15)) == "Have the person tilt the head to the right."
    assert said(face(), turned(-15)) == "Have the person tilt the head to the left."
    assert said(face(), turned(0, (60, 0))) == "Have the person move the head to the right."


def test_what_is_no_change() -> None:
    assert changes(face(), face()) == []
    assert changes(face(), turned(3, (10, 40))) == []
    # Nearer to the camera, at the same side of the image: lengths are in distances of the eyes.
    assert changes(face(), turned(0, (-10, 0), 1.1)) == []


def test_two_changes_at_most_the_largest_first() -> None:
    found = changes(face(), face(_14=(0, 40), _1=(20, 0), _159=(0, -12), _386=(0, -12)))
    assert [one.measure for one in found] == ["mouth", "eyes"]
    assert found[0].times == pytest.approx(0.4 / 0.12)
    assert instruction(found, "zh") == "让这个人张开嘴，并睁开眼睛。"
    # A head that tilts is elsewhere as well, which nobody says.
    assert said(face(), turned(20, (80, 0))) == "Have the person tilt the head to the right."
