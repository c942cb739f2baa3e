"""Alarms: signs that a reward is being cheated rather than earned.

Of every iteration's images a few numbers are followed: how near they are to the source, how much of it they change and
how far, how alike the images of one prompt are, how near the truth where there is one. An alarm rings where the mean of
the last iterations has left the range of the first ones by far: bounds are on what honest runs never do.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edittools.metrics import ocr, pixels

FIRST, LAST = 5, 5  # iterations that are compared: 16 prompts differ by 6 dB, and so their means by about one


@dataclass(frozen=True)
class Alarm:
    """Rings where a number leaves the range of low to high times what it was at first, or moves by more than `by`."""

    number: str
    means: str
    low: float = 0.0
    high: float | None = None
    by: float = float("inf")  # upwards where positive, downwards where negative
    nearer: float = float("inf")  # dB: it may leave it where images come this much nearer to the truth meanwhile


_NEARER = 1.0  # dB to the truth: by less, other prompts may have made the difference
_MEAN = 3.0  # dB that the mean of all images of a prompt is nearer than one of them (half the squared error)
ALARMS = (
    Alarm("copied", "ever more images are the source handed back", by=0.25),
    Alarm("change", "images are ever further from their source", high=1.6, nearer=_NEARER),
    Alarm("edit_ratio", "ever less of the source is changed", low=0.5, nearer=_NEARER),
    Alarm("diversity", "the images of a prompt are ever more alike", low=0.3, nearer=_MEAN + _NEARER),
    Alarm("psnr", "images are ever further from the truth", by=-3.5),
    Alarm("text_size", "writing becomes ever larger", high=1.4),
)
COPY = 40.0  # dB from the source, above which an image is a copy


def observe(
    result: np.ndarray, source: np.ndarray | None, target: np.ndarray | None, writing: bool = False
) -> dict[str, float]:
    """The numbers of one image, uint8 (h, w, 3), beside its source and the truth, where there are any.

    writing: read it; the size is the mean height of its characters, as a share of the image's.
    """
    found: dict[str, float] = {}
    if source is not None:
        source = _sized(source, result)
        found["copied"] = float((pixels.psnr(result, source) or 0.0) >= COPY)
        found["change"] = pixels.l1(result, source) or 0.0
        found["edit_ratio"] = float(pixels.changed(source, result).mean())
    if target is not None:
        found["psnr"] = pixels.psnr(result, _sized(target, result)) or 0.0
    if writing and (letters := ocr.read_letters(result)[1]):
        found["text_size"] = statistics.fmean(letter.height for letter in letters) / len(result)
    return found


def _sized(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    return image if image.shape == like.shape else pixels.resize(image, *like.shape[:2])


class Hacks:
    """Follows the numbers of a run, iteration by iteration."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, float]] = []
        self.ringing: set[str] = set()

    def heed(self, numbers: Mapping[str, float]) -> list[str]:
        """Take in the means of an iteration; returns the numbers whose alarms ring."""
        self.seen = [*self.seen[:FIRST], *self.seen[FIRST:][1 - LAST :], numbers]
        if len(self.seen) < FIRST + LAST:
            return []
        rings = [alarm.number for alarm in ALARMS if self._rings(alarm)]
        self.ringing = set(rings)
        return rings

    def _means(self, number: str) -> tuple[float, float] | None:
        """Of a number at first and at last; None where it is not known long enough."""
        values = [each[number] for each in self.seen if number in each]
        return (
            (statistics.fmean(values[:FIRST]), statistics.fmean(values[-LAST:]))
            if len(values) >= FIRST + LAST
            else None
        )

    def _rings(self, alarm: Alarm) -> bool:
        found, truth = self._means(alarm.number), self._means("psnr")
        if found is None or (truth is not None and truth[1] - truth[0] >= alarm.nearer):
            return False
        before, now = found
        moved = now - before
        far = moved > alarm.by if alarm.by > 0 else moved < alarm.by
        return far or now < before * alarm.low or (alarm.high is not None and now > before * alarm.high)


def said(ringing: list[str]) -> str:
    """What alarms that ring mean, in words."""
    return "; ".join(f"{alarm.means} ({alarm.number})" for alarm in ALARMS if alarm.number in ringing)
