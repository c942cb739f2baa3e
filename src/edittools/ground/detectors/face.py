"""Faces with their landmarks, by networks out of a wheel: offline, small ones too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edittools.ground import Found
from edittools.ground.people import Face, Faces

HELP = "faces, and the column `faces`, offline (BlazeFace; `edit weights mediapipe`)"
WEIGHTS = ""
OPEN = False
THRESHOLD = 0.7
FACES = True


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> FaceDetector:
    return FaceDetector()


class FaceDetector:
    def __init__(self) -> None:
        self.faces = Faces()

    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        return [[_found(face, *image.shape[:2]) for face in self.faces.find(image, 0.5)] for image in pixels]


def _found(face: Face, height: int, width: int) -> Found:
    points = face.landmarks / np.array([width, height])
    box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
    return Found("face", box, face.score, face=face.five / np.array([width, height]))
