"""Faces of a pair: whether those of the source are in the target, where they were, and looking the same way.

By landmarks, offline: it tells another photograph from a retouched one, not one person from another (`edit score
--identity` does that). Of the faces of photographs that were made brighter, softer, gray, smaller, or stored as JPEG of
quality 40, 99% keep their landmarks if they are 60 pixels wide or more, and 90% of the smaller ones; of two other faces
laid over each other 9% agree so far.
"""

from __future__ import annotations

import functools

import numpy as np

from edittools.filter import Filter
from edittools.ground.people import Face, Faces
from edittools.metrics.boxes import iou
from edittools.stream.codec import Raster

_SURE, _LIKELY = 0.7, 0.5  # of the detector: a face that has to have a partner, and one that may be it
_OVERLAP = 0.5  # of the boxes of partners
_MISFIT = 0.07  # of their landmarks, in distances of the eyes


@functools.cache
def _network() -> Faces:
    return Faces()


def misfit(landmarks: np.ndarray, others: np.ndarray, eyes: float) -> float:
    """How far landmarks (n, 2) lie off others after the turn, scale and shift that take them nearest: the root of the
    mean square, in distances of the others' `eyes`."""
    p, q = (points - points.mean(axis=0) for points in (landmarks, others))
    # As complex numbers a turn and scale is one factor a = <p, q> / <p, p>, and what is left |q|^2 - |a|^2 |p|^2.
    p, q = p @ (1, 1j), q @ (1, 1j)
    if not eyes or not np.vdot(p, p).real:  # landmarks in one place
        return np.inf
    left = np.vdot(q, q).real - abs(np.vdot(p, q)) ** 2 / np.vdot(p, p).real
    return float(np.sqrt(max(left, 0.0) / len(q)) / eyes)


def _partners(face: Face, box: np.ndarray, other: Face, other_box: np.ndarray) -> bool:
    left, right = other.five[:2]
    eyes = float(np.linalg.norm(left - right))
    return (
        bool(iou(box[None], other_box[None])[0, 0] >= _OVERLAP)
        and misfit(face.landmarks, other.landmarks, eyes) <= _MISFIT
    )


def measure(source: np.ndarray, edited: np.ndarray) -> float:
    """The share of the faces of both images that have a partner in the other one: 1 where all have, 0 where none has,
    or where there are no faces."""
    found = []
    for image in (source, edited):
        faces, size = _network().find(image, _LIKELY), np.array([*image.shape[1::-1], *image.shape[1::-1]])
        found.append([(face, np.concatenate([face.landmarks.min(0), face.landmarks.max(0)]) / size) for face in faces])
    sure = [
        any(_partners(*face, *other) for other in others)
        for faces, others in (found, found[::-1])
        for face in faces
        if face[0].score >= _SURE
    ]
    return sum(sure) / len(sure) if sure else 0.0


FILTER = Filter(
    name="faces_matched",
    help="Share of the faces that source and target have in common, at the same place and in the same pose, at least "
    "this; 0 without faces.",
    unit="share of the faces, 0 to 1",
    group="Pairs",
    cost=206,
    source="Step1X-Edit 3.1.1 (beautification pairs); BlazeFace and its landmarks (`edit weights mediapipe`)",
    raster=Raster(short_side=768),
    measure_pair=measure,
)
