"""GrabCut (Rother et al. 2004) in the box, without a network; of people it starts from a matte (a network out of a
wheel, see `edit weights`)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from PIL import Image

from edittools.ground import Found
from edittools.ground.people import WHEEL
from edittools.ground.segmenters.foreground import inside
from edittools.ground.tflite import TfliteNetwork, TurnedSquare
from edittools.opencv import opencv

HELP = "GrabCut in the box; of people from a matte, offline"
WEIGHTS = ""
PEOPLE = frozenset("person people man woman boy girl child baby human face".split())
_SIDE = 384  # pixels of the longer side that the cut is made at
_CONTEXT = 0.25  # of the box's sides, on each: what the background is learnt from
_ROUNDS = 4
_LEAST = 0.1  # of the box: where less is cut out, it is cut again from the box's middle
_SURE = 0.9  # of the matte; below 1 - _SURE it is surely no person
_REACH = 0.02  # of the longer side: farther from where the matte is above a half nothing is taken for a person


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> GrabCut:
    return GrabCut()


class GrabCut:
    def __init__(self) -> None:
        self.cv2 = opencv("--segmenter grabcut", "vision")
        self._matte: TfliteNetwork | None = None
        self._lock = threading.Lock()

    def masks(self, pixels: np.ndarray, objects: Sequence[Found]) -> list[np.ndarray | None]:
        return [self._mask(pixels, one) for one in objects]

    def _mask(self, pixels: np.ndarray, one: Found) -> np.ndarray | None:
        height, width = pixels.shape[:2]
        x0, y0, x1, y1 = np.clip(one.box, 0, 1) * np.array([width, height, width, height])
        dx, dy = _CONTEXT * (x1 - x0), _CONTEXT * (y1 - y0)
        left, top = int(max(0, x0 - dx)), int(max(0, y0 - dy))
        right, bottom = int(min(width, np.ceil(x1 + dx))), int(min(height, np.ceil(y1 + dy)))
        if right - left < 3 or bottom - top < 3:
            return None
        matte = None
        if PEOPLE & set(one.name.lower().split()):
            matte = self._person(pixels, (x0, y0, x1, y1))[top:bottom, left:right]
        box = inside(one.box, height, width)[top:bottom, left:right]
        made = np.zeros((height, width), bool)
        made[top:bottom, left:right] = self._cut(pixels[top:bottom, left:right], box, matte)
        return made

    def _person(self, pixels: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
        """How surely every pixel is a person's, 0 to 1: the network sees the box and what is about it."""
        with self._lock:
            self._matte = self._matte or TfliteNetwork(WHEEL, "selfie_segmentation.tflite")
        x0, y0, x1, y1 = box
        window = TurnedSquare((x0 + x1) / 2, (y0 + y1) / 2, 1.25 * max(x1 - x0, y1 - y0))
        said = self._matte(window.look(pixels, 256) / 255)[256, 256, 1]
        return window.spread(said[..., 0], *pixels.shape[:2])

    def _cut(self, crop: np.ndarray, box: np.ndarray, matte: np.ndarray | None) -> np.ndarray:
        """The cut of a crop: bool of its size. Nothing outside the box is in it."""
        cv2 = self.cv2
        height, width = crop.shape[:2]
        share = min(1.0, _SIDE / max(height, width))
        size = max(3, round(width * share)), max(3, round(height * share))
        small = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BOX))
        within = np.asarray(Image.fromarray(box).resize(size, Image.Resampling.NEAREST))
        state = np.where(within, np.uint8(cv2.GC_PR_FGD), np.uint8(cv2.GC_BGD))
        if matte is not None:
            person = np.asarray(Image.fromarray(matte.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
            likely = np.where(person >= 0.5, np.uint8(cv2.GC_PR_FGD), np.uint8(cv2.GC_PR_BGD))
            likely[person >= _SURE] = cv2.GC_FGD
            likely[person <= 1 - _SURE] = cv2.GC_BGD
            far = cv2.distanceTransform((person < 0.5).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            likely[far > _REACH * max(size)] = cv2.GC_BGD
            state = np.where(within, likely, state)
        chosen = self._grown(small, state)
        if (
            matte is None and chosen.sum() < _LEAST * within.sum()
        ):  # the colours about it explain what is in the box, too
            chosen = self._grown(small, np.where(_middle(within), np.uint8(cv2.GC_FGD), state))
        smooth = cv2.GaussianBlur(chosen, (0, 0), 1.0)  # single pixels are noise
        whole = np.asarray(Image.fromarray(smooth).resize((width, height), Image.Resampling.BILINEAR))
        return (whole > 0.5) & box

    def _grown(self, small: np.ndarray, start: np.ndarray) -> np.ndarray:
        """What is cut out from a state of GrabCut's: 1 or 0 in float32."""
        cv2, state = self.cv2, start.copy()
        known = {int(value) for value in np.unique(state)}
        unsure = known & {cv2.GC_PR_FGD, cv2.GC_PR_BGD}
        if unsure and known & {cv2.GC_BGD, cv2.GC_PR_BGD} and known & {cv2.GC_FGD, cv2.GC_PR_FGD}:
            cv2.setRNGSeed(0)  # of this thread: its clusters start at random
            models = np.zeros((1, 65)), np.zeros((1, 65))
            cv2.grabCut(np.ascontiguousarray(small[..., ::-1]), state, None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
        return ((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)).astype(np.float32)


def _middle(within: np.ndarray) -> np.ndarray:
    """The middle of a box (bool HxW), half as wide and half as high."""
    rows, columns = np.flatnonzero(within.any(axis=1)), np.flatnonzero(within.any(axis=0))
    middle = np.zeros_like(within)
    middle[np.ix_(*(side[len(side) // 4 : len(side) - len(side) // 4] for side in (rows, columns)))] = True
    return middle
