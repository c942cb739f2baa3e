"""What a face does between two frames of a clip, measured along its landmarks: no model is asked."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, NotAsked, Row
from edittools.ground.people import Face, Faces
from edittools.record import TEXT
from edittools.stream import codec

_SURE = 0.7  # of a face
_MOST = 2  # changes that an instruction names
_LIPS, _LIDS = (13, 14), ((159, 145), (386, 374))  # landmarks that part


def _sides(verb: str, chinese: str) -> dict[str, tuple[str, str]]:
    """Something is done with the head to the right, or to the left."""
    said = [f"{verb} the head to the {side}" for side in ("right", "left")]
    return {"en": (said[0], said[1]), "zh": (f"把头{chinese}向右边", f"把头{chinese}向左边")}


# How much a measure (see `measured`) has to grow or fall, and what is said then; sides are the viewer's.
_SAID: Mapping[str, tuple[float, dict[str, tuple[str, str]]]] = {
    "mouth": (0.12, {"en": ("open the mouth", "close the mouth"), "zh": ("张开嘴", "合上嘴")}),
    "eyes": (0.06, {"en": ("open the eyes", "close the eyes"), "zh": ("睁开眼睛", "闭上眼睛")}),
    "turn": (0.18, _sides("turn", "转")),
    "tilt": (8.0, _sides("tilt", "歪")),
    "side": (0.4, _sides("move", "移")),
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    measure: str
    times: float  # its threshold, with its sign


def measured(face: Face) -> dict[str, float]:
    """Lengths in distances of the eyes, the tilt in degrees (positive: the viewer's right side is lower)."""
    left, right, nose = face.five[:3]
    unit = float(np.linalg.norm(right - left))
    along = (right - left) / unit
    eyes = (left + right) / 2
    lids = [np.linalg.norm(face.landmarks[a] - face.landmarks[b]) for a, b in _LIDS]
    return {
        "mouth": float(np.linalg.norm(face.landmarks[_LIPS[0]] - face.landmarks[_LIPS[1]])) / unit,
        "eyes": float(np.mean(lids)) / unit,
        "turn": float((nose - eyes) @ along) / unit,
        "tilt": float(np.degrees(np.arctan2(along[1], along[0]))),
        "side": float(eyes[0]) / unit,
    }


def changes(before: Face, after: Face) -> list[Change]:
    """What changed by more than its threshold, the most first. A head that turns or tilts moves as well, which is not
    said of it."""
    first, second = measured(before), measured(after)
    unit = np.linalg.norm(before.five[1] - before.five[0]) / np.linalg.norm(after.five[1] - after.five[0])
    second["side"] /= float(unit)  # both in distances of the first face's eyes
    found = [Change(name, (second[name] - first[name]) / least) for name, (least, _) in _SAID.items()]
    found = sorted((one for one in found if abs(one.times) >= 1), key=lambda one: -abs(one.times))
    turned = any(one.measure in ("turn", "tilt") for one in found)
    return [one for one in found if not (turned and one.measure == "side")][:_MOST]


def instruction(found: list[Change], language: str) -> str:
    parts = [_SAID[one.measure][1][language][one.times < 0] for one in found]
    if language == "zh":
        return f"让这个人{'，并'.join(parts)}。"
    return f"Have the person {' and '.join(parts)}."


@functools.cache
def _faces() -> Faces:
    return Faces()


def _converse(row: Row) -> Conversation:
    faces = []
    for look in row.pair()[:: len(row.pair()) - 1]:
        seen = _faces().find(codec.decode(row.data(look), codec.FULL, row.config.max_pixels), _SURE)
        if len(seen) != 1:
            raise NotAsked(f"{len(seen)} faces")
        faces.append(seen[0])
    found = changes(*faces)
    if not found:
        raise NotAsked("the face does not change much")
    said = {language: instruction(found, language) for language in row.languages}
    return {
        "instruction": {**dict(row.values.get("instruction") or {}), **said},
        "task": "motion",
        "scores": {"caption_face_motion": abs(found[0].times)},
    }
    yield  # a conversation without questions


KIND = Kind(
    summary="what the only face does between two frames (mouth, eyes, head), offline (`edit weights mediapipe`)",
    reads="pair",
    columns={"instruction": TEXT, "task": pa.string()},
    converse=_converse,
    needs=("source", "target"),
    scores=("caption_face_motion",),
    asks=False,
)
