"""Other words in a photograph's writing, without a model: the strokes are painted over with their ground, and the new
word is drawn in the ink's colour, in the font, size, perspective and blur of the old one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from edittools.opencv import opencv
from edittools.synth.core import Inapplicable
from edittools.synth.fonts import covers, load_font

HEIGHT = 64  # pixels that a line is measured at
_PAD = 0.15, 0.1  # of a line's height: what is looked at beside and above it; OCR's boxes have a margin themselves
_LEAST = 10  # pixels of a line's height
_CONTRAST = 60.0  # levels between the colours of ink and ground
_EVEN = 16.0  # levels: standard deviation of the ground
_ALIKE = 0.72  # of the old word and its drawing in the best font
_SOFT = (0.0, 1.5, 3.0, 4.5, 6.0)  # pixels at HEIGHT: standard deviations of a blur
_TOUCHING = 0.02  # share of an edge of what is looked at that strokes may lie on
_SEEN = 0.004  # of the ink: less is not seen
_WIDER = 0.25  # by which the new word may be wider or narrower
_PALE = 0.75  # of the old word's contrast
_DILATE = 5  # pixels at HEIGHT, about a stroke


@dataclass(frozen=True)
class Rewritten:
    """A photograph with another word in it."""

    image: np.ndarray  # uint8 HxWx3
    mask: np.ndarray  # bool HxW: all that may have changed
    font: str  # the file that is most like the old one


@dataclass(frozen=True)
class _Ink:
    """What a word is like at HEIGHT."""

    flat: np.ndarray  # uint8 (h, w, 3)
    base: np.ndarray  # float (h, w, 3): the ground
    coverage: np.ndarray  # float32 (h, w), 0 to 1: of the strokes
    box: tuple[int, int, int, int]  # of the strokes: left, top, right, bottom


@dataclass(frozen=True)
class _Hand:
    """How a word is drawn: font, size, squeezed across, and how soft its edges are."""

    font: str
    points: int
    squeeze: float
    soft: float


def rewrite(image: np.ndarray, corners: np.ndarray, old: str, new: str, fonts: Sequence[str]) -> Rewritten:
    """Write `new` in place of the word `old` that stands in `corners` (4, 2), from the upper left in the direction of
    reading. Raises Inapplicable where the result would be seen to be one."""
    cv2 = opencv("--painted text", "vision")
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    height, width = (sides[1] + sides[3]) / 2, (sides[0] + sides[2]) / 2
    if height < _LEAST or width < height / 2:
        raise Inapplicable("the writing is too small")
    across, down = round(_PAD[0] * HEIGHT), round(_PAD[1] * HEIGHT)
    size = round(width / height * HEIGHT) + 2 * across, HEIGHT + 2 * down
    right, bottom = size[0] - across, size[1] - down
    place = np.array([[across, down], [right, down], [right, bottom], [across, bottom]], np.float32)
    there = cv2.getPerspectiveTransform(corners.astype(np.float32), place)
    flat = cv2.warpPerspective(image, there, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    found = _ink(cv2, flat)
    hand = _hand(cv2, found, old, fonts)
    if not covers(hand.font, "".join(dict.fromkeys(new))):
        raise Inapplicable("the font lacks a letter")
    before, after = (_length(hand, text) for text in (old, new))
    if not 1 - _WIDER <= after / before <= 1 + _WIDER:
        raise Inapplicable("the new word is wider or narrower")
    drawn, ink = _drawn(cv2, found, hand, old, new), _colour(found, _drawn(cv2, found, hand, old, old))
    back, shape = np.linalg.inv(there), (image.shape[1], image.shape[0])
    near = cv2.dilate((found.coverage > 0.15).astype(np.uint8), np.ones((2 * _DILATE + 1,) * 2, np.uint8))
    erased = cv2.warpPerspective(near * np.uint8(255), back, shape, flags=cv2.INTER_LINEAR) > 0
    alpha = cv2.warpPerspective(drawn, back, shape, flags=cv2.INTER_AREA)[..., None]
    base = cv2.warpPerspective(found.base.astype(np.float32), back, shape, flags=cv2.INTER_LINEAR)
    bare = _erased(cv2, image, erased, base)
    made = np.rint(np.where(alpha > _SEEN, bare * (1 - alpha) + ink * alpha, bare)).clip(0, 255).astype(np.uint8)
    mask = erased | (alpha[..., 0] > _SEEN)
    if _contrast(made, mask) < _PALE * _contrast(image, mask):
        raise Inapplicable("the new word is paler")
    return Rewritten(made, mask, hand.font)


def _contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """Levels between what is bright and what is dark in a region: ink and ground."""
    gray = image[mask].astype(np.float32).mean(axis=1)
    return float(np.ptp(np.quantile(gray, (0.05, 0.95))))


def _ink(cv2: Any, flat: np.ndarray) -> _Ink:
    """Two colours: the ground is the larger one, which may change evenly across the word (light), the ink the other."""
    pixels = flat.reshape(-1, 3).astype(np.float32)
    cv2.setRNGSeed(0)
    ends = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    _, labels, centres = cv2.kmeans(pixels, 2, None, ends, 2, cv2.KMEANS_PP_CENTERS)
    labels = labels.reshape(flat.shape[:2])
    ground = int(labels.mean() > 0.5)
    ink = centres[1 - ground]
    if np.linalg.norm(ink - centres[ground]) < _CONTRAST:
        raise Inapplicable("ink and ground are alike")
    base, spread = _plane(flat, labels == ground)
    if spread > _EVEN:
        raise Inapplicable("the ground is not plain")
    # The mean of the ink's pixels is mixed with the ground at their edges: the ink itself is what is farthest from it.
    reach = ((flat - base) * (ink - base)).sum(axis=2)
    ink = flat[reach >= np.quantile(reach[labels != ground], 0.9)].astype(np.float32).mean(axis=0)
    axis = ink - base
    coverage = np.clip(((flat - base) * axis).sum(axis=2) / np.maximum((axis**2).sum(axis=2), 1), 0, 1)
    strokes = coverage > 0.5
    edges = (strokes[:2], strokes[-2:], strokes[:, :2], strokes[:, -2:])
    if max(float(edge.mean()) for edge in edges) > _TOUCHING:
        raise Inapplicable("something lies about the writing")
    rows, columns = np.flatnonzero(strokes.mean(axis=1) > 0.01), np.flatnonzero(strokes.any(axis=0))
    if not len(rows) or not len(columns):
        raise Inapplicable("no strokes")
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return _Ink(flat, base, coverage.astype(np.float32), box)


def _plane(flat: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, float]:
    """The plane through the colours of some pixels, at every pixel, and the largest standard deviation from it."""
    y, x = np.mgrid[: flat.shape[0], : flat.shape[1]].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y], axis=-1)
    known = flat[where].astype(np.float32)
    fit = np.linalg.lstsq(terms[where], known, rcond=None)[0]
    return terms @ fit, float((known - terms[where] @ fit).std(axis=0).max())


def _hand(cv2: Any, found: _Ink, old: str, fonts: Sequence[str]) -> _Hand:
    """How the old word is drawn most alike: 1 - Σ|a - b| / Σ(a + b) of both coverages."""
    left, top, right, bottom = found.box
    best: tuple[float, _Hand | None] = (0.0, None)
    for font in fonts:
        _, y0, _, y1 = load_font(font, HEIGHT).getbbox(old)
        points = max(4, round(HEIGHT * (bottom - top) / max(1, y1 - y0)))
        squeeze = (right - left) / _length(_Hand(font, points, 1.0, 0.0), old)
        if not 0.6 <= squeeze <= 1.6:
            continue
        for soft in _SOFT:
            hand = _Hand(font, points, squeeze, soft)
            drawn = _drawn(cv2, found, hand, old, old)
            # Thin strokes that are blurred have no place that is all ink: as in the photograph the most is all.
            drawn = np.clip(drawn / np.quantile(drawn[drawn > drawn.max() / 2], 0.9), 0, 1)
            alike = 1 - float(np.abs(drawn - found.coverage).sum() / (drawn + found.coverage).sum())
            if alike > best[0]:
                best = alike, hand
    if best[1] is None or best[0] < _ALIKE:
        raise Inapplicable("no font is like it")
    return best[1]


def _drawn(cv2: Any, found: _Ink, hand: _Hand, old: str, new: str) -> np.ndarray:
    """A word with the old one's baseline and middle, float32 of the coverage's size."""
    height, width = found.coverage.shape
    left, top, right, _ = found.box
    face = load_font(hand.font, hand.points)
    n0, _, n1, _ = face.getbbox(new)
    # Drawn at its own width first, then squeezed about the middle of the old strokes.
    middle = (left + right) / 2 / hand.squeeze
    canvas = Image.new("L", (round(width / hand.squeeze), height))
    ImageDraw.Draw(canvas).text((middle - (n0 + n1) / 2, top - face.getbbox(old)[1]), new, font=face, fill=255)
    sharp = np.asarray(canvas.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    return np.asarray(cv2.GaussianBlur(sharp, (0, 0), hand.soft)) if hand.soft else sharp


def _colour(found: _Ink, drawn: np.ndarray) -> np.ndarray:
    """The ink's colour (3,): what it has to be for the drawing of the old word to hold as much ink as the word does,
    which does not depend on how well the one lies on the other."""
    word = found.coverage > 0.05
    offset = (found.flat - found.base)[word].sum(axis=0) / drawn.sum()
    return np.asarray((found.base.mean(axis=(0, 1)) + offset).clip(0, 255), np.float32)


def _length(hand: _Hand, text: str) -> float:
    x0, _, x1, _ = load_font(hand.font, hand.points).getbbox(text)
    return float(max(1, x1 - x0))


def _erased(cv2: Any, image: np.ndarray, mask: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The ground where the strokes were: its colour, and what of its grain is next to them, mirrored there."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    reach = 12
    top, bottom = max(0, rows[0] - reach), min(len(image), rows[-1] + reach + 1)
    left, right = max(0, columns[0] - reach), min(image.shape[1], columns[-1] + reach + 1)
    part, hole = image[top:bottom, left:right], mask[top:bottom, left:right]
    filled = cv2.inpaint(np.ascontiguousarray(part), hole.astype(np.uint8), 5, cv2.INPAINT_TELEA).astype(np.float32)
    fine = part - cv2.GaussianBlur(part, (0, 0), 1.5).astype(np.float32)
    grain = 1.48 * float(np.median(np.abs(fine[~hole]))) if (~hole).any() else 0.0
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, grain, hole.shape)[..., None]
    # In-painting carries smears of the strokes in; where the ground is known to be a plane, half of it is that.
    known = base[top:bottom, left:right]
    filled = np.where(known.any(axis=2, keepdims=True), (filled + known) / 2, filled)
    filled[hole] += np.broadcast_to(noise, part.shape)[hole]
    made = image.astype(np.float32)
    made[top:bottom, left:right][hole] = filled[hole]
    return made
