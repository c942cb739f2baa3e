"""What a data set consists of, in the terms of ImgEdit's table 1."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edittools.metrics.reference import TINY_RATIO
from edittools.rounding import significant

DETECTED = 0.5
"""From this probability on a classifier has detected its class: the share of edited images taken for generated ones
is ImgEdit's fake score."""

MEGAPIXELS = (0, 0.01, 0.0625, 0.25, 0.5, 1, 2, 4, 8, 16)
"""Lower edges of the size histogram; 0.0625 is 250 x 250 and 0.25 is 500 x 500. The last bin is open."""

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def is_probability(score: str) -> bool:
    """Whether a score is a class's probability by `edit filter --classifier`."""
    return "probability" in score


class DatasetStatistics:
    """Counts over rows, added one at a time; keeps the distinct words and image sizes, never the rows.

    Uses the columns `task`, `source` (an image or a list), `target`, `instruction` ({"en", "zh"}), `turns`
    and `scores`; an image is a dict with `width`, `height`, `format`. What a row lacks is not counted.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._multi_turn = 0
        self._tasks: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._words: set[str] = set()
        self._characters: set[str] = set()
        self._scores: dict[str, list[float]] = {}  # name -> [count, sum, lowest, highest]
        self._tiny = 0
        self._images = 0
        self._detected: Counter[str] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows += 1
        self._tasks[row.get("task") or "unknown"] += 1
        turns = row.get("turns") or []
        self._multi_turn += len(turns) > 1
        for part in (row, *turns):
            self._add_images(part)
            self._add_words(part.get("instruction") or {})
        self._add_scores(row.get("scores") or {})

    def result(self) -> dict[str, Any]:
        """Everything counted, as plain JSON values; null where no row had the column."""
        rated = self._scores.get("edit_ratio")
        return {
            "rows": self._rows,
            "images": self._images,
            "tasks": dict(self._tasks.most_common()),
            "formats": dict(self._formats.most_common()),
            "size": self._size(),
            "tiny_region_share": self._tiny / rated[0] if rated else None,
            "detected": {name: hits / self._scores[name][0] for name, hits in sorted(self._detected.items())},
            "words": len(self._words),
            "characters": len(self._characters),
            "multi_turn": self._multi_turn,
            "scores": {
                name: {"n": int(count), "mean": significant(total / count), "min": low, "max": high}
                for name, (count, total, low, high) in sorted(self._scores.items())
            },
        }

    def _add_images(self, part: Mapping[str, Any]) -> None:
        source = part.get("source") or []
        for image in [*(source if isinstance(source, list) else [source]), part.get("target"), part.get("rejected")]:
            if not image:
                continue
            self._images += 1
            self._formats[image.get("format") or "unknown"] += 1
            if image.get("width") and image.get("height"):  # loose files are measured when `edit shard` reads them
                self._sizes[image["width"], image["height"]] += 1

    def _add_words(self, instruction: Any) -> None:
        if isinstance(instruction, str):
            instruction = {"en": instruction}
        for text in _texts(instruction.get("en")):
            self._words.update(WORD.findall(text.casefold()))
        for text in _texts(instruction.get("zh")):
            self._characters.update(CHINESE.findall(text))

    def _add_scores(self, scores: Mapping[str, Any]) -> None:
        for name, value in scores.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            count, total, low, high = self._scores.get(name, (0, 0.0, value, value))
            self._scores[name] = [count + 1, total + value, min(low, value), max(high, value)]
            self._tiny += name == "edit_ratio" and value < TINY_RATIO
            if is_probability(name):
                self._detected[name] += value >= DETECTED

    def _size(self) -> dict[str, Any] | None:
        if not self._sizes:
            return None
        measures: dict[str, Callable[[tuple[int, int]], float]] = {
            "width": lambda size: size[0],
            "height": lambda size: size[1],
            "short_side": min,
            "megapixels": lambda size: size[0] * size[1] / 1e6,
        }
        summary: dict[str, Any] = {}
        for name, measure in measures.items():
            values = sorted((measure(size), count) for size, count in self._sizes.items())
            summary[name] = {"min": values[0][0], "median": _median(values), "max": values[-1][0]}
        summary["histogram"] = [
            {"from": low, "to": high, "count": sum(
                count for (width, height), count in self._sizes.items()
                if low <= width * height / 1e6 < (high or math.inf)
            )}
            for low, high in zip(MEGAPIXELS, (*MEGAPIXELS[1:], None))
        ]  # fmt: skip
        return summary


def _median(values: list[tuple[float, int]]) -> float:
    """The lower median of (value, count) in ascending order: always a size that occurs."""
    half = (sum(count for _, count in values) + 1) // 2
    for value, count in values:
        half -= count
        if half <= 0:
            return value
    raise ValueError("the median of nothing")


def _texts(value: Any) -> Iterator[str]:
    """The strings in an instruction: one text, or several (detailed, concise, user-like)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
