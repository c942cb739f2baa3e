"""The geometry about a painter, which knows of no model: holes filled, the region grown, a crop with context at the
painter's size, painted, resized back, pasted with a feather.

Pixels farther than the feather from the grown region are those of the source, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edittools.opencv import opencv
from edittools.painters import Painter, PaintRequest

_LEAST = 0.25  # share of each side of the image that the crop has at least


@dataclass(frozen=True)
class Brush:
    """How a region becomes what is painted."""

    grow: int = 0  # pixels that the region is widened by
    feather: int = 4  # pixels over which the paint fades out beyond it
    context: float = 1.5  # sides of the crop over those of the region
    holes: bool = False  # holes of the region stay, as things do that it is the background of


@dataclass(frozen=True)
class Canvas:
    """One region of one image, ready to be painted and pasted."""

    source: np.ndarray  # uint8 HxWx3
    alpha: np.ndarray  # float32 HxW, 0 to 1: how much of the paint is laid over each pixel
    box: tuple[int, int, int, int]  # of the crop: left, top, right, bottom in pixels
    size: tuple[int, int]  # that the painter sees it at: width, height

    @property
    def mask(self) -> np.ndarray:
        """uint8 HxW, 255 where there is any paint."""
        return (self.alpha > 0).astype(np.uint8) * np.uint8(255)

    def request(self, **told: object) -> PaintRequest:
        """What the painter is asked; the mask is all that the paste takes anything of."""
        left, top, right, bottom = self.box
        image = Image.fromarray(self.source[top:bottom, left:right]).resize(self.size, Image.Resampling.LANCZOS)
        covered = Image.fromarray((self.alpha[top:bottom, left:right] > 0).astype(np.float32))
        mask = np.asarray(covered.resize(self.size, Image.Resampling.BOX)) > 0  # a pixel that is touched is painted
        return PaintRequest(np.asarray(image), mask, **told)  # type: ignore[arg-type]

    def cropped(self, map_: np.ndarray) -> np.ndarray:
        """What the painter is to see of a map of the whole image (uint8 HxWx3)."""
        left, top, right, bottom = self.box
        return np.asarray(Image.fromarray(map_[top:bottom, left:right]).resize(self.size, Image.Resampling.BILINEAR))

    def laid(self, made: np.ndarray) -> np.ndarray:
        """The source with what was made without a painter (uint8 HxWx3, of the source's size) laid on it."""
        left, top, right, bottom = self.box
        return self.paste(made[top:bottom, left:right])

    def paste(self, painted: np.ndarray) -> np.ndarray:
        """The source with the paint on it, uint8 HxWx3."""
        left, top, right, bottom = self.box
        crop = Image.fromarray(painted).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        alpha = self.alpha[top:bottom, left:right, None]
        under = self.source[top:bottom, left:right]
        mixed = np.rint(under * (1 - alpha) + np.asarray(crop, np.float32) * alpha).astype(np.uint8)
        made = self.source.copy()
        made[top:bottom, left:right] = np.where(alpha > 0, mixed, under)
        return made


def canvas(image: np.ndarray, mask: np.ndarray, brush: Brush, painter: Painter) -> Canvas:
    """A canvas for a region (bool HxW) that is not empty."""
    alpha = paste_alpha(mask, brush)
    box = crop_box(alpha > 0, max(brush.context, getattr(painter, "context", 1.0)))
    return Canvas(image, alpha, box, painted_size(box[2] - box[0], box[3] - box[1], painter.area, painter.multiple))


def filled(mask: np.ndarray) -> np.ndarray:
    """The mask (bool HxW) without holes: what no path along sides leads out of to the edge is inside."""
    cv2 = opencv("--painter", "vision")
    ground = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(ground, connectivity=4)
    return np.asarray((labels != labels[0, 0])[1:-1, 1:-1])


def depth(mask: np.ndarray) -> float:
    """How far the middle of a region (bool HxW) lies from its border at most, in longer sides of the image: little of
    what is long and thin, however much of the image it takes."""
    cv2 = opencv("--painter", "vision")
    inside = np.pad(mask, 1).astype(np.uint8)
    return float(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max() / max(mask.shape))


def paste_alpha(mask: np.ndarray, brush: Brush) -> np.ndarray:
    """1 within `grow` pixels of the filled region, falling linearly to 0 beyond `feather` pixels more; float32 HxW."""
    cv2 = opencv("--painter", "vision")
    alpha = np.zeros(mask.shape, np.float32)
    window = _about(mask, brush.grow + brush.feather + 2)
    inside = mask[window] if brush.holes else filled(mask[window])
    if inside.all():
        alpha[window] = 1  # it is the whole image, or empty
        return alpha
    # OpenCV's distance is to the nearest zero; its exact one is Euclidean, between the centres of pixels.
    far = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    beyond = np.maximum(far - brush.grow, 0)
    alpha[window] = np.clip(1 - beyond / (brush.feather + 1), 0, 1)
    return alpha


def _about(mask: np.ndarray, reach: int) -> tuple[slice, slice]:
    """The rows and columns of a region, and so many pixels about it as far as the image goes; nothing of an empty
    one."""
    seen = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    if not len(seen[0]):
        return slice(0, 0), slice(0, 0)
    rows, columns = (slice(max(0, int(one[0]) - reach), int(one[-1]) + 1 + reach) for one in seen)
    return rows, columns


def crop_box(region: np.ndarray, context: float) -> tuple[int, int, int, int]:
    """A box about a region (bool HxW) with context on all sides as far as the image goes."""
    edges = []
    for along in (0, 1):
        seen, length = np.flatnonzero(region.any(axis=along)), region.shape[1 - along]
        low, high = int(seen[0]), int(seen[-1]) + 1
        side = min(length, max(math.ceil((high - low) * context), math.ceil(length * _LEAST), high - low + 2))
        start = min(max(0, round((low + high - side) / 2)), length - side)
        edges.append((start, start + side))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def painted_size(width: int, height: int, area: int | None, multiple: int) -> tuple[int, int]:
    """Width and height that are multiples, of about the area that a painter is best at and about this ratio."""
    scale = 1.0 if area is None else math.sqrt(area / (width * height))
    return tuple(max(multiple, round(side * scale / multiple) * multiple) for side in (width, height))  # type: ignore[return-value]
