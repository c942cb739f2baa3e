"""People by MediaPipe's networks (Bazarevsky et al. 2019, "BlazeFace"; Kartynnik et al. 2019; Bazarevsky et al. 2020,
"BlazePose"): faces, their landmarks, and bodies."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from edittools.ground.tflite import TfliteNetwork, TurnedSquare, sigmoid
from edittools.metrics.boxes import centred, iou, suppressed

WHEEL = "mediapipe"
# Of the 468 landmarks of a face: the corners of the eyes, the tip of the nose, the corners of the mouth. The viewer's
# left is first.
_EYES, _NOSE, _MOUTH = ((33, 133), (362, 263)), 1, (61, 291)
_OVERLAP = 0.3  # of two detections of one face
_SURE = 0.5  # that a face or a body is in the window that its landmarks are read from


@dataclass(frozen=True)
class Face:
    score: float  # of the detector, 0 to 1
    landmarks: np.ndarray  # (468, 2) pixels

    @property
    def five(self) -> np.ndarray:
        """(5, 2): eyes, nose, corners of the mouth."""
        eyes = [self.landmarks[list(corners)].mean(axis=0) for corners in _EYES]
        return np.stack([*eyes, self.landmarks[_NOSE], *self.landmarks[list(_MOUTH)]])


@dataclass(frozen=True)
class Body:
    score: float  # that there is one, 0 to 1
    joints: np.ndarray  # (33, 2) pixels
    visible: np.ndarray  # (33,) that each can be seen, 0 to 1
    mask: np.ndarray  # float32 HxW, 0 to 1


@functools.cache
def anchors(size: int, layers: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Centres (n, 2) as shares: of every cell of grids of these strides, so many times."""
    found = []
    for stride, times in layers:
        cells = (np.arange(size // stride) + 0.5) / (size // stride)
        x, y = np.meshgrid(cells, cells)
        found.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), times, axis=0))
    return np.concatenate(found)


def decode(regressors: np.ndarray, logits: np.ndarray, size: int, layers: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Detections (n, 5 + 2 k) of one look: score, box by its corners, k points, as shares of the window; n scores of
    at least a half."""
    scores = sigmoid(logits).reshape(-1)
    chosen = np.flatnonzero(scores >= 0.5)
    places = regressors[chosen].astype(np.float64) / size
    places[:, :2] += anchors(size, layers)[chosen]
    places[:, 4:] += np.tile(anchors(size, layers)[chosen], places.shape[1] // 2 - 2)
    return np.concatenate([scores[chosen, None], centred(places), places[:, 4:]], axis=1)


def windows(width: int, height: int) -> list[TurnedSquare]:
    """Where faces are looked for: in the whole image, and, as small ones are missed there, in overlapping squares of
    its short side and of half of it."""
    short = min(width, height)
    found = [TurnedSquare.around(width, height)]
    for side in (short, short / 2):
        counts = [1 if side >= length else int(np.ceil((length - side) / (side / 2))) + 1 for length in (width, height)]
        if side < 128 or (max(counts) == 1) or max(counts) > 16:
            continue
        x, y = (np.linspace(side / 2, length - side / 2, n) for length, n in zip((width, height), counts))
        found += [TurnedSquare(float(one), float(other), side) for other in y for one in x]
    return found


class Faces:
    """Faces with their landmarks. Safe in threads."""

    _LAYERS = ((8, 2), (16, 6))

    def __init__(self) -> None:
        self.detector = TfliteNetwork(WHEEL, "face_detection_short_range.tflite")
        self.landmarks = TfliteNetwork(WHEEL, "face_landmark.tflite")

    def find(self, pixels: np.ndarray, threshold: float) -> list[Face]:
        """The faces of uint8 HxWx3, the surest first."""
        height, width = pixels.shape[:2]
        seen = [self._detect(pixels, window) for window in windows(width, height)]
        every = np.concatenate(seen)
        every = every[every[:, 0] >= threshold]
        found: list[Face] = []
        boxes: list[np.ndarray] = []
        for k in suppressed(every[:, 1:5], every[:, 0], _OVERLAP):
            face = self._mesh(pixels, every[k])
            box = None if face is None else np.concatenate([face.landmarks.min(axis=0), face.landmarks.max(axis=0)])
            # Two squares may have cut one face differently: its landmarks are in the same place.
            if (
                face is not None
                and box is not None
                and not (boxes and iou(box[None], np.stack(boxes)).max() > _OVERLAP)
            ):
                found.append(face)
                boxes.append(box)
        return found

    def _detect(self, pixels: np.ndarray, window: TurnedSquare) -> np.ndarray:
        """As `decode`, in pixels of the image."""
        said = self.detector(window.look(pixels, 128) / 127.5 - 1)
        found = decode(said[896, 16], said[896, 1], 128, self._LAYERS)
        found[:, 1:] = window.points(found[:, 1:].reshape(-1, 2)).reshape(found[:, 1:].shape)
        return found

    def _mesh(self, pixels: np.ndarray, detection: np.ndarray) -> Face | None:
        """The landmarks of a detection, from a window half as large again that stands as the eyes do."""
        (x0, y0, x1, y1), points = detection[1:5], detection[5:].reshape(-1, 2)
        (dx, dy), side = points[1] - points[0], 1.5 * max(x1 - x0, y1 - y0)
        window = TurnedSquare((x0 + x1) / 2, (y0 + y1) / 2, side, float(np.arctan2(dy, dx)))
        said = self.landmarks(window.look(pixels, 192) / 255)
        if sigmoid(said[1, 1, 1])[0, 0, 0] < _SURE:
            return None
        return Face(float(detection[0]), window.points(said[1, 1, 1404].reshape(468, 3)[:, :2].astype(float) / 192))


class Bodies:
    """People with their joints and masks. Safe in threads."""

    _LAYERS = ((8, 2), (16, 2), (32, 6))

    def __init__(self) -> None:
        self.detector = TfliteNetwork(WHEEL, "pose_detection.tflite")
        self.landmarks = TfliteNetwork(WHEEL, "pose_landmark_full.tflite")

    def find(self, pixels: np.ndarray, threshold: float) -> list[Body]:
        """The people of uint8 HxWx3, the surest first."""
        height, width = pixels.shape[:2]
        window = TurnedSquare.around(width, height)
        said = self.detector(window.look(pixels, 224) / 127.5 - 1)
        seen = decode(said[2254, 12], said[2254, 1], 224, self._LAYERS)
        seen[:, 1:] = window.points(seen[:, 1:].reshape(-1, 2)).reshape(seen[:, 1:].shape)
        found: list[Body] = []
        for k in suppressed(seen[:, 1:5], seen[:, 0], _OVERLAP):
            body = self._body(pixels, seen[k])
            if body.score >= max(threshold, _SURE):
                found.append(body)
        return sorted(found, key=lambda body: -body.score)

    def _body(self, pixels: np.ndarray, detection: np.ndarray) -> Body:
        """The joints of a detection, from a window about its hips that stands as the body does: the detector's first
        point is the middle of the hips, the distance to the second the radius of a circle about the body."""
        (x, y), top = detection[5:7].tolist(), detection[7:9].tolist()
        dx, dy = top[0] - x, top[1] - y
        window = TurnedSquare(x, y, 2 * 1.25 * float(np.hypot(dx, dy)), float(np.arctan2(dx, -dy)))
        said = self.landmarks(window.look(pixels, 256) / 255)
        joints = said[(195,)].reshape(39, 5)[:33].astype(np.float64)
        mask = window.spread(sigmoid(said[256, 256, 1][..., 0]).astype(np.float32), *pixels.shape[:2])
        return Body(float(said[(1,)][0]), window.points(joints[:, :2] / 256), sigmoid(joints[:, 3]), mask)
