"""The expression of a face changes: pixels are moved with its landmarks; no painter is asked."""

from __future__ import annotations

import functools

import numpy as np

from edittools.ground.people import Face, Faces
from edittools.opencv import opencv
from edittools.painters.canvas import Brush
from edittools.synth.painting import Plan, Scene, place, worded

TASK = "portrait"
HELP = "a face smiles, looks sad, opens its eyes: it is bent along its landmarks, offline, without the painter"
PROMPT = False
INVERSE = "portrait"
BARE = True
_LEAST = 60  # pixels between the outer edges of a face
_SURE = 0.8
_TURNED = 0.25  # how far the nose may be off the middle of the eyes, in distances of these
# What moves, in distances of the eyes: landmark, along the eyes (the viewer's right), down, and how far about it.
_MOVES = {
    "smile": ((61, -0.10, -0.10, 0.16), (291, 0.10, -0.10, 0.16), (17, 0, 0.03, 0.15), (145, 0, -0.02, 0.1),
              (374, 0, -0.02, 0.1)),
    "sad": ((61, 0.02, 0.10, 0.14), (291, -0.02, 0.10, 0.14), (107, 0, -0.06, 0.14), (336, 0, -0.06, 0.14)),
    "eyes": ((159, 0, -0.07, 0.1), (386, 0, -0.07, 0.1), (145, 0, 0.05, 0.1), (374, 0, 0.05, 0.1)),
}  # fmt: skip
_SAID = {
    "smile": ["{make|have} <who> smile {a little more|more|a bit wider}", "give <who> a {warmer|wider} smile"],
    "sad": ["{make|have} <who> look {a little sad|sadder|less happy}", "turn down the corners of the mouth of <who>"],
    "eyes": ["{make|have} <who> open the eyes wider", "{enlarge|open} the eyes of <who> {a little|a bit}"],
}
_BACK = {
    "smile": ["{make|have} <who> smile {a little less|less}"],
    "sad": ["{make|have} <who> look {less sad|happier}"],
    "eyes": ["{make|have} <who> open the eyes {less|less wide}"],
}


@functools.cache
def _faces() -> Faces:
    return Faces()


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    faces = [face for face in _faces().find(scene.image, _SURE) if np.ptp(face.landmarks[:, 0]) >= _LEAST]
    height, width = scene.image.shape[:2]
    found = []
    for face in filter(_frontal, faces):
        middle = face.landmarks.mean(axis=0) / (width, height)
        who = "the person" if len(faces) == 1 else f"the person {place((*middle, *middle))}"
        for kind in _MOVES:
            if kind == "sad" and not _turns_down(face):
                continue
            moved, mask = bent(scene.image, face, kind)
            said, back = (worded(words[kind], rng, who=who) for words in (_SAID, _BACK))
            slots = {"object": f"{who}: {kind}", "expression": kind}
            found.append(Plan(mask, Brush(0, 2, 1.0), said, slots, made=moved, inverse=back))
    return found


def _frontal(face: Face) -> bool:
    """Whether a face looks at the viewer."""
    left, right, nose = face.five[:3]
    along = (right - left) / np.linalg.norm(right - left)
    return bool(abs((nose - (left + right) / 2) @ along) <= _TURNED * np.linalg.norm(right - left))


def _turns_down(face: Face) -> bool:
    """Whether the corners of the mouth come to lie below its middle: of a broad smile they do not, however sad."""
    left, right = face.five[:2]
    across = (right - left) / np.linalg.norm(right - left)
    down = np.array([-across[1], across[0]])
    middle = face.landmarks[[13, 14]].mean(axis=0)  # of the lips, where they meet
    corners = face.landmarks[[61, 291]].mean(axis=0)
    return bool((corners - middle) @ down / np.linalg.norm(right - left) + _MOVES["sad"][0][2] >= 0)


def bent(image: np.ndarray, face: Face, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The image with a face of another expression, and where anything moved by a tenth of a pixel (bool HxW). The
    displacement is a sum of Gaussians about landmarks."""
    cv2 = opencv("--painted expression", "vision")
    left, right = face.five[:2]
    unit = float(np.linalg.norm(right - left))
    across = (right - left) / unit
    down = np.array([-across[1], across[0]])
    # Beyond a distance of the eyes about the face nothing moves.
    height, width = image.shape[:2]
    left_edge, top = np.maximum(np.floor(face.landmarks.min(axis=0) - unit), 0).astype(int)
    right_edge, bottom = np.minimum(np.ceil(face.landmarks.max(axis=0) + unit), (width, height)).astype(int)
    window = np.s_[top:bottom, left_edge:right_edge]
    y, x = np.mgrid[window].astype(np.float32)
    shift = np.zeros((2, *x.shape), np.float32)
    for landmark, right_by, down_by, reach in _MOVES[kind]:
        centre, sigma = face.landmarks[landmark], reach * unit
        weight = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))
        by = (right_by * across + down_by * down) * unit
        shift += weight * by[:, None, None].astype(np.float32)
    moved, mask = image.copy(), np.zeros((height, width), bool)
    moved[window] = cv2.remap(image, x - shift[0], y - shift[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    mask[window] = np.hypot(*shift) > 0.1
    return moved, mask
