"""What a data set consists of, in the terms of ImgEdit's table 1 and of FireRed-Image-Edit 2.1."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edittools.metrics.reference import TINY_RATIO
from edittools.rounding import significant

UNKNOWN = "unknown"

DETECTED = 0.5
"""From this probability on a classifier has detected its class: the share of edited images taken for generated ones
is ImgEdit's fake score."""

MEGAPIXELS = (0, 0.01, 0.0625, 0.25, 0.5, 1, 2, 4, 8, 16)
"""Lower edges of the size histogram; 0.0625 is 250 x 250 and 0.25 is 500 x 500. The last bin is open."""

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


GROUPS = {
    "semantic": ("add", "remove", "replace", "background"),
    "stylistic": ("color", "style", "tone", "material"),
    "structural": ("viewpoint", "motion", "portrait", "text", "hybrid"),
}
"""The groups of edits of FireRed-Image-Edit 2.1 with the tasks that it names; all others are in none of them."""

OVERALL = re.compile(r"judge_.*_(overall|rating)(__\w+)?")
"""A judge's one number for a row."""


def is_probability(score: str) -> bool:
    """Whether a score is a class's probability by `edit filter --classifier`."""
    return "probability" in score


class RowTally:
    """Counts over some of the rows: sizes of images, distinct words, scores."""

    def __init__(self) -> None:
        self.rows = 0
        self.images = 0
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.words: set[str] = set()
        self.characters: set[str] = set()
        self.scores: dict[str, list[float]] = {}  # name -> [count, sum, lowest, highest]
        self.tiny = 0

    def add_images(self, images: list[Any]) -> None:
        for image in images:
            self.images += 1
            if image.get("width") and image.get("height"):  # loose files are measured when `edit shard` reads them
                self.sizes[image["width"], image["height"]] += 1

    def add_words(self, instruction: Any) -> None:
        if isinstance(instruction, str):
            instruction = {"en": instruction}
        for text in _texts(instruction.get("en")):
            self.words.update(WORD.findall(text.casefold()))
        for text in _texts(instruction.get("zh")):
            self.characters.update(CHINESE.findall(text))

    def add_scores(self, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            count, total, low, high = self.scores.get(name, (0, 0.0, value, value))
            self.scores[name] = [count + 1, total + value, min(low, value), max(high, value)]
            self.tiny += name == "edit_ratio" and value < TINY_RATIO

    def merge(self, other: RowTally) -> None:
        """Count what the other counted, too."""
        self.rows += other.rows
        self.images += other.images
        self.sizes.update(other.sizes)
        self.words |= other.words
        self.characters |= other.characters
        self.tiny += other.tiny
        for name, (count, total, low, high) in other.scores.items():
            known = self.scores.get(name, (0, 0.0, low, high))
            self.scores[name] = [known[0] + count, known[1] + total, min(known[2], low), max(known[3], high)]

    def result(self) -> dict[str, Any]:
        rated = self.scores.get("edit_ratio")
        return {
            "rows": self.rows,
            "images": self.images,
            "size": self._size(),
            "tiny_region_share": self.tiny / rated[0] if rated else None,
            "words": len(self.words),
            "characters": len(self.characters),
            "scores": {
                name: {"n": int(count), "mean": significant(total / count), "min": low, "max": high}
                for name, (count, total, low, high) in sorted(self.scores.items())
            },
        }

    def _size(self) -> dict[str, Any] | None:
        if not self.sizes:
            return None
        measures: dict[str, Callable[[tuple[int, int]], float]] = {
            "width": lambda size: size[0],
            "height": lambda size: size[1],
            "short_side": min,
            "megapixels": lambda size: size[0] * size[1] / 1e6,
        }
        summary: dict[str, Any] = {}
        for name, measure in measures.items():
            values = sorted((measure(size), count) for size, count in self.sizes.items())
            summary[name] = {"min": values[0][0], "median": _median(values), "max": values[-1][0]}
        return summary


class DatasetStatistics:
    """Counts over rows, added one at a time; keeps the distinct words and image sizes by task, never the rows.

    Uses the columns `task`, `source` (an image or a list), `target`, `instruction` ({"en", "zh"}), `turns`,
    `image_class`, `image_subclass` and `scores`; an image is a dict with `width`, `height`, `format`. What a row lacks
    is not counted.
    """

    def __init__(self) -> None:
        self._multi_turn = 0
        self._formats: Counter[str] = Counter()
        self._tasks: dict[str, RowTally] = {}
        self._detected: Counter[str] = Counter()
        self._classes: dict[str, Counter[str]] = {}  # of an image -> its subclasses

    def add(self, row: Mapping[str, Any]) -> None:
        tally = self._tasks.setdefault(row.get("task") or UNKNOWN, RowTally())
        tally.rows += 1
        turns = row.get("turns") or []
        self._multi_turn += len(turns) > 1
        for part in (row, *turns):
            images = _images(part)
            tally.add_images(images)
            self._formats.update(image.get("format") or UNKNOWN for image in images)
            tally.add_words(part.get("instruction") or {})
        scores = {
            name: value
            for name, value in (row.get("scores") or {}).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        }
        tally.add_scores(scores)
        self._detected.update({name: value >= DETECTED for name, value in scores.items() if is_probability(name)})
        if row.get("image_class"):
            self._classes.setdefault(row["image_class"], Counter())[row.get("image_subclass") or UNKNOWN] += 1

    def result(self) -> dict[str, Any]:
        """Everything counted, as plain JSON values; null where no row had the column."""
        whole = RowTally()
        ranked = sorted(self._tasks.items(), key=lambda item: -item[1].rows)
        for _, tally in ranked:
            whole.merge(tally)
        found = whole.result()
        if found["size"]:
            found["size"]["histogram"] = _histogram(whole.sizes)
        return {
            **found,
            "tasks": {task: tally.rows for task, tally in ranked},
            "by_task": {task: tally.result() for task, tally in ranked},
            "groups": self._groups(),
            "image_classes": {
                name: {"rows": known.total(), "subclasses": dict(known.most_common())}
                for name, known in sorted(self._classes.items(), key=lambda item: -item[1].total())
            },
            "formats": dict(self._formats.most_common()),
            "detected": {name: hits / whole.scores[name][0] for name, hits in sorted(self._detected.items())},
            "multi_turn": self._multi_turn,
        }

    def _groups(self) -> dict[str, int]:
        """How many rows are edits of each of GROUPS, or of none."""
        found = dict.fromkeys((*GROUPS, "other"), 0)
        for task, tally in self._tasks.items():
            if task not in ("t2i", UNKNOWN):
                found[next((group for group, tasks in GROUPS.items() if task in tasks), "other")] += tally.rows
        return found


def judge_score(found: Mapping[str, Any]) -> str | None:
    """The score that stands for quality where nobody names one: of a judge's overall ones that of the most rows."""
    rated = [(-score["n"], name) for name, score in found["scores"].items() if OVERALL.fullmatch(name)]
    return min(rated)[1] if rated else None


def _images(part: Mapping[str, Any]) -> list[Any]:
    source = part.get("source") or []
    sources = source if isinstance(source, list) else [source]
    return [image for image in (*sources, part.get("target"), part.get("rejected")) if image]


def _histogram(sizes: Mapping[tuple[int, int], int]) -> list[dict[str, Any]]:
    return [
        {"from": low, "to": high, "count": sum(
            count for (width, height), count in sizes.items()
            if low <= width * height / 1e6 < (high or math.inf)
        )}
        for low, high in zip(MEGAPIXELS, (*MEGAPIXELS[1:], None))
    ]  # fmt: skip


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
