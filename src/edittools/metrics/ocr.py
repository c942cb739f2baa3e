"""Does the writing in a result read as asked? Scores from what an OCR engine reads (FireRed, table 7).

The published table says Levenshtein, completion rate, word accuracy and a weighted mean, and neither definitions nor
weights nor target texts: these definitions and weights are ours, and the numbers are not comparable with it.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from edittools.errors import EditError, missing_extra
from edittools.metrics.text_layout import Letter, in_reading_order, signs, text_reward, without_layout
from edittools.rounding import rounded
from edittools.tables import read_table

WEIGHTS = {"ocr_similarity": 0.5, "ocr_completion": 0.25, "ocr_words": 0.25}
NAMES = (*WEIGHTS, "ocr")
LAYOUT_NAMES = ("ocr_exact", "ocr_layout", "ocr_reward")

# In quotation marks, as instructions name a text; the last one is what it is to become ("from 'A' to 'B'").
_QUOTED = re.compile(r"“([^”]+)”|「([^」]+)」|『([^』]+)』|《([^》]+)》|\"([^\"]+)\"|‘([^’]+)’|(?<!\w)'([^']+)'(?!\w)")
_WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+(?:['’-][^\W_]+)*")  # a Chinese sign is a word
_own = threading.local()
# The engine remembers what it was told last: every call says all of it.
_LINES = {"return_word_box": False, "return_single_char_box": False}
_WORDS = {"return_word_box": True, "return_single_char_box": False}
_LETTERS = {"return_word_box": True, "return_single_char_box": True}


def target_text(instruction: str) -> str | None:
    """The text that an instruction asks for: the last one in quotation marks; None where there is none."""
    quotes = [next(filter(None, groups)) for groups in _QUOTED.findall(instruction)]
    return quotes[-1].strip() or None if quotes else None


@dataclass(frozen=True)
class Line:
    """A line of writing in an image."""

    text: str
    score: float  # how sure the engine is of it, 0 to 1
    corners: np.ndarray  # (4, 2) pixels, from the upper left in the direction of reading


def read_lines(pixels: np.ndarray, use: str = "--detector text") -> list[Line]:
    """What RapidOCR reads in uint8 RGB, in reading order. Raises EditError where it is not installed; `use` is the
    option that needs it."""
    shown, scale = _bgr(pixels)
    return [line for line in _lines(_engine(use)(shown, **_LINES), pixels, scale) if line is not None]


def read_text(pixels: np.ndarray) -> str:
    """What RapidOCR reads in uint8 RGB, its lines in reading order. Raises EditError where it is not installed."""
    return "\n".join(line.text for line in read_lines(pixels, "--ocr"))


def read_letters(pixels: np.ndarray) -> tuple[str, list[Letter]]:
    """The same, and every character with its box; the height is that of its line. Raises EditError likewise."""
    shown, scale = _bgr(pixels)
    result = _engine("--ocr")(shown, **_LETTERS)
    lines = _lines(result, pixels, scale)
    letters = []
    for sign, _, corners in (part for line, parts in zip(lines, result.word_results or ()) if line for part in parts):
        if corners is not None:  # an image without writing has one result without a place
            box = _within(corners, pixels, scale)  # four corners, clockwise from the upper left one
            width, height = np.linalg.norm(box[1] - box[0]), np.linalg.norm(box[3] - box[0])
            x, y = box.mean(axis=0).tolist()
            letters.append(Letter(sign, x, y, float(width), float(height)))
    return "\n".join(line.text for line in lines if line is not None), letters


def read_words(pixels: np.ndarray, use: str = "--detector text") -> list[tuple[Line, list[Line]]]:
    """Every line, and its words (of scripts with spaces) with their places. Raises EditError likewise."""
    shown, scale = _bgr(pixels)
    result = _engine(use)(shown, **_WORDS)
    found = []
    # An image without writing has a result of another shape there: without lines it is not looked at.
    for line, words in zip(_lines(result, pixels, scale), result.word_results or ()):
        parts = [Line(text, float(score), _within(corners, pixels, scale)) for text, score, corners in words if corners]
        if line is not None and parts:
            found.append((line, parts))
    return found


def _lines(result: Any, pixels: np.ndarray, scale: tuple[float, float]) -> list[Line | None]:
    """The lines of a result, by their places in the image; None for one in the padding."""
    if result.txts is None or result.boxes is None:
        return []
    height, width = pixels.shape[:2]
    found: list[Line | None] = []
    for text, score, corners in zip(result.txts, result.scores, result.boxes):
        x, y = (np.asarray(corners, np.float64) * scale).min(axis=0)
        inside = x < width and y < height
        found.append(Line(text, float(score), _within(corners, pixels, scale)) if inside else None)
    return found


def _within(corners: Any, pixels: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Corners (4, 2) in pixels of the image, none outside of it."""
    height, width = pixels.shape[:2]
    return np.clip(np.asarray(corners, np.float64) * scale, 0, (width, height))


def _bgr(pixels: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """As the engine takes it, and how many pixels one of it is, across and down.

    What is more than four times as long as wide is reduced to the longest side that the engine looks at, and padded on
    the right or below with its middle colour: the engine blows up the short side to 736 pixels, and the long one with
    it (one of 1x800 pixels takes 20 GB), and often reads nothing in a line that is 5 to 9 times as long as high.
    """
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if min(height, width) * _MOST_ASPECT >= longest:
        return np.ascontiguousarray(pixels[..., ::-1]), (1.0, 1.0)
    if longest > _MOST_SIDE:
        size = [max(1, round(side * _MOST_SIDE / longest)) for side in (width, height)]
        pixels = np.asarray(Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.BOX))
    scale = width / pixels.shape[1], height / pixels.shape[0]
    least = -(-max(pixels.shape[:2]) // _MOST_ASPECT)
    padded = np.empty((max(least, pixels.shape[0]), max(least, pixels.shape[1]), 3), np.uint8)
    padded[:] = np.median(pixels.reshape(-1, 3), axis=0)[::-1]  # letters at the edge would be drawn out into streaks
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels[..., ::-1]
    return padded, scale


_MOST_ASPECT, _MOST_SIDE = 4, 2000


def open_engine(use: str, **params: Any) -> Any:
    """RapidOCR with some settings by their names there. Raises EditError where it is not installed.

    On one thread: images are read side by side, and threads of one image would wait for each other, busily.
    """
    try:
        import onnxruntime  # noqa: F401
        from rapidocr import RapidOCR
    except ImportError:
        raise missing_extra("rapidocr", "ocr", use) from None
    alone = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    return RapidOCR(params={"Global.log_level": "critical", **alone, **params})


def _engine(use: str) -> Any:
    if not hasattr(_own, "engine"):
        _own.engine = open_engine(use)
    return _own.engine


def text_scores(read: str, target: str) -> dict[str, float]:
    """How far `read` is `target`, 0 to 1 each; case, punctuation and spacing do not count.

    `ocr_similarity`: 1 - Levenshtein distance / length of the target, of the best matching passage of what was read, at
    least 0 (other writing in the image costs nothing). `ocr_completion`: share of the target's characters found in
    order. `ocr_words`: share of its words read exactly. `ocr`: their mean with WEIGHTS.
    """
    wanted, seen = _words(target), _words(read)
    needle, hay = "".join(wanted), "".join(seen)
    if not needle:
        return dict.fromkeys(NAMES, 0.0)
    left = list(seen)
    hits = 0
    for word in wanted:
        if word in left:
            left.remove(word)
            hits += 1
    scores = {
        "ocr_similarity": max(0.0, 1 - passage_distance(needle, hay) / len(needle)),
        "ocr_completion": common_length(needle, hay) / len(needle),
        "ocr_words": hits / len(wanted),
    }
    scores["ocr"] = sum(WEIGHTS[name] * value for name, value in scores.items())
    return rounded(scores)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def passage_distance(needle: str, hay: str) -> int:
    """Levenshtein distance of `needle` to the passage of `hay` that is nearest to it (Sellers 1980)."""
    row = [0] * (len(hay) + 1)  # a passage may begin anywhere
    for k, letter in enumerate(needle, 1):
        last, row[0] = row[0], k
        for j, other in enumerate(hay, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (letter != other))
    return min(row)  # and end anywhere


def common_length(a: str, b: str) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for letter in a:
        last = 0
        for j, other in enumerate(b, 1):
            last, row[j] = row[j], last + 1 if letter == other else max(row[j], row[j - 1])
    return row[-1]


def ocr_scores(pixels: np.ndarray, target: str | None) -> dict[str, Any]:
    """The scores of a result; null where no text is wanted."""
    return dict.fromkeys(NAMES) if target is None else text_scores(read_text(pixels), target)


def layout_scores(pixels: np.ndarray, target: str | None, truth: np.ndarray | None) -> dict[str, Any]:
    """`ocr_scores`, and the reward of metrics.text_layout: `ocr_exact` (its text), `ocr_layout` and `ocr_reward`.

    All writing in the truth is wanted where it stands there, if what is read of the truth has the text that is asked
    for. Otherwise nobody knows where that is to stand, and `ocr_layout` is null and without weight.
    """
    if target is None:
        return dict.fromkeys((*NAMES, *LAYOUT_NAMES))
    text, letters = read_letters(pixels)
    reward = without_layout(letters, target)
    if truth is not None:
        down, across = (there / here for there, here in zip(truth.shape, pixels.shape[:2]))
        placed = [
            Letter(one.sign, one.x * across, one.y * down, one.width * across, one.height * down) for one in letters
        ]
        wanted = read_letters(truth)[1]
        if "".join(signs(target)) in "".join(one.sign for one in in_reading_order(wanted)):
            reward = text_reward(placed, wanted)
    return text_scores(text, target) | rounded(dict(zip(LAYOUT_NAMES, (reward.text, reward.layout, reward.total))))


def read_targets(path: str) -> dict[str, str]:
    """Wanted texts by row: a CSV, Parquet or JSON lines file with `id` and `text`. Raises EditError."""
    targets: dict[str, str] = {}
    for row in read_table(path, "wanted texts"):
        for column in ("id", "text"):
            if column not in row:
                raise EditError(f"{path}: no column `{column}`", hint="it has: " + ", ".join(map(str, row)))
        name, text = str(row["id"]), str(row["text"] or "").strip()
        if text and targets.setdefault(name, text) != text:
            raise EditError(f"{path}: row {name} has two texts")
    return targets
