"""What a retoucher does with a clone stamp, without a network: the piece of the image whose surroundings are most like
those of the region is laid there, its colours fitted at the border (Perez et al. 2003, "Poisson image editing")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from edittools.errors import RowError
from edittools.opencv import opencv
from edittools.painters import PaintRequest
from edittools.painters.canvas import depth

HELP = "a piece of the image itself is laid over the region (clone stamp), offline: things on grass, sand, walls, water"
WEIGHTS = ""
_DEEP = 0.1  # of the image's longer side: larger pieces are seen to be there twice
_MOST = 0.15  # share of the image
_SIDE = 384  # pixels of the longer side that pieces are looked for at
_RING = 0.04  # of the longer side: how far about the region the surroundings go
_LIKE = 18.0  # levels: root mean square by which the surroundings may differ


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> Clone:
    return Clone(opencv("--painter clone", "vision"))


class Clone:
    batch_size, multiple, area = 16, 1, None
    wants: frozenset[str] = frozenset()
    context = 6.0  # it needs to see more than the region's border

    def __init__(self, cv2: Any) -> None:
        self.cv2 = cv2

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        if mask.mean() > _MOST or depth(mask) > _DEEP:
            return "too large for this painter"
        found = self._donor(image, mask)
        return "nothing like its surroundings is there" if found is None or found[1] > _LIKE else None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        return [self._one(request) for request in requests]

    def _one(self, request: PaintRequest) -> np.ndarray | RowError:
        found = self._donor(request.image, request.mask)
        if found is None:
            return RowError("nothing like its surroundings is there")
        (dy, dx), _ = found
        height, width = request.mask.shape
        # What the piece would bring from beyond the edge is the edge's.
        y = np.clip(np.arange(height) + dy, 0, height - 1)
        x = np.clip(np.arange(width) + dx, 0, width - 1)
        piece = request.image[y][:, x]
        return self._fitted(request.image, piece, request.mask)

    def _donor(self, image: np.ndarray, mask: np.ndarray) -> tuple[tuple[int, int], float] | None:
        """Down and across from the region to the piece, and how much their surroundings differ; None without any."""
        cv2 = self.cv2
        shrink = max(1.0, max(mask.shape) / _SIDE)
        size = max(1, round(mask.shape[1] / shrink)), max(1, round(mask.shape[0] / shrink))
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        hole = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0
        reach = max(3, round(_RING * max(size)))
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        if not len(rows):
            return None
        top, left = max(0, rows[0] - reach), max(0, columns[0] - reach)
        bottom, right = min(size[1], rows[-1] + 1 + reach), min(size[0], columns[-1] + 1 + reach)
        part = np.s_[top:bottom, left:right]
        far = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        ring = ((far > 1) & (far <= reach))[part]
        if not ring.any():
            return None
        weight = np.repeat(ring[..., None].astype(np.float32), 3, axis=2)
        scores = cv2.matchTemplate(small.astype(np.float32), small[part].astype(np.float32), cv2.TM_SQDIFF, mask=weight)
        # A piece may not hold anything of the region itself: neither in its own region nor in its surroundings.
        taken = cv2.filter2D(
            hole.astype(np.float32), -1, (hole[part] | ring).astype(np.float32), anchor=(0, 0),
            borderType=cv2.BORDER_CONSTANT,
        )  # fmt: skip
        scores[taken[: scores.shape[0], : scores.shape[1]] > 0.5] = np.inf
        best = np.unravel_index(int(np.argmin(scores)), scores.shape)
        if not np.isfinite(scores[best]):
            return None
        error = float(np.sqrt(max(0.0, float(scores[best])) / (3 * ring.sum())))
        down, across = (int(best[0]) - top, int(best[1]) - left)
        return (round(down * mask.shape[0] / size[1]), round(across * mask.shape[1] / size[0])), error

    def _fitted(self, image: np.ndarray, piece: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The piece with its colours moved so that they meet the image's at the region's border: the difference that
        there is, spread smoothly over the region."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = max(0, rows[0] - 8), max(0, columns[0] - 8)
        part = np.s_[top : rows[-1] + 9, left : columns[-1] + 9]
        hole = mask[part]
        off = np.where(hole[..., None], 0, image[part].astype(np.float32) - piece[part])
        known = (~hole).astype(np.float32)
        smooth, weight = np.zeros_like(off), np.zeros_like(known)
        for sigma in (2.0, 4.0, 8.0, 16.0, 32.0, 64.0):  # from the border inwards, as far as it is needed
            one = self.cv2.GaussianBlur(off * known[..., None], (0, 0), sigma)
            share = self.cv2.GaussianBlur(known, (0, 0), sigma)
            more = (1 - weight) * np.clip(share * 4, 0, 1)
            smooth += more[..., None] * one / np.maximum(share, 1e-6)[..., None]
            weight += more
        smooth /= np.maximum(weight, 1e-6)[..., None]
        made = image.copy()
        made[part][hole] = np.rint((piece[part] + smooth).clip(0, 255))[hole].astype(np.uint8)
        return made
