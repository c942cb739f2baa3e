"""Where a plan writes: does it read as asked in its place, and as before everywhere else (Step1X-Edit: valid edits)?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edittools.metrics.ocr import Line, read_lines
from edittools.metrics.text_layout import Letter, in_reading_order, signs, text_part
from edittools.synth.checking import Painted

HELP = "of text edits: how far it reads as asked in the place (1 - edit distance / length); 0 if it changed elsewhere"
LEAST = 1.0
_SURE = 0.7  # of a line that has to be there again


def load(told: str = "", device: str = "cpu", dtype: str = "float32") -> TextCheck:
    read_lines(np.zeros((32, 32, 3), np.uint8), "--check text")  # what is missing shows before the first row
    return TextCheck()


class TextCheck:
    def measure(self, edits: Sequence[Painted]) -> list[float | None]:
        before: dict[int, list[Line]] = {}  # several edits have one source
        found: list[float | None] = []
        for one in edits:
            if one.plan.text is None:
                found.append(None)
                continue
            if id(one.source) not in before:
                before[id(one.source)] = read_lines(one.source, "--check text")
            found.append(self._one(one, one.plan.text, before[id(one.source)]))
        return found

    def _one(self, edit: Painted, wanted: str, before: list[Line]) -> float:
        after = read_lines(edit.target, "--check text")
        place = _place(edit)
        corners = np.array([place[:2], [place[2], place[1]], place[2:], [place[0], place[3]]])
        kept = [one for one in _beyond(before, edit) if one.score >= _SURE]
        # Where OCR parts a line in two, or joins two, all of it is compared.
        if _read([*kept, Line(wanted, 1.0, corners)]) == _read([one for one in after if one.score >= _SURE]):
            return 1.0
        elsewhere = [sorted(_plain(one.text) for one in _beyond(lines, edit) if one.score >= _SURE) for lines in
                     (before, after)]  # fmt: skip
        if elsewhere[0] != elsewhere[1]:
            return 0.0
        return text_part(_read([one for one in after if _within(one, edit)]), signs(wanted))


def _read(lines: list[Line]) -> list[str]:
    """The signs of lines in reading order, a line in pieces as one."""
    boxes = [(one.text, *one.corners.mean(axis=0), *np.ptp(one.corners, axis=0)) for one in lines]
    return [one.sign for one in in_reading_order([Letter(*box) for box in boxes])]


def _plain(text: str) -> str:
    return "".join(signs(text))


def _within(line: Line, edit: Painted) -> bool:
    """Whether the middle of a line lies in the plan's place, or in the box of the paint."""
    left, top, right, bottom = _place(edit)
    x, y = line.corners.mean(axis=0)
    return bool(left <= x <= right and top <= y <= bottom)


def _place(edit: Painted) -> np.ndarray:
    """Where it is to read as asked: left, top, right, bottom in pixels."""
    height, width = edit.paint.shape
    return np.array(edit.box if edit.plan.place is None else edit.plan.place * np.array([width, height, width, height]))


def _beyond(lines: list[Line], edit: Painted) -> list[Line]:
    return [one for one in lines if not _within(one, edit)]
