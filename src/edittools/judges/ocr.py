"""Does the writing in a result read as asked? Scores from what an OCR engine reads [SPEC E3, FireRed's table 7].

The published table says Levenshtein, completion rate, word accuracy and a weighted mean, and neither definitions nor
weights nor target texts: these definitions and weights are ours, and the numbers are not comparable with it.
"""

from __future__ import annotations

import re
import threading
from typing import Any

import numpy as np

from edittools.errors import EditError, missing_extra
from edittools.judges.tables import read_table
from edittools.rounding import rounded

WEIGHTS = {"ocr_similarity": 0.5, "ocr_completion": 0.25, "ocr_words": 0.25}
NAMES = (*WEIGHTS, "ocr")

# In quotation marks, as instructions name a text; the last one is what it is to become ("from 'A' to 'B'").
_QUOTED = re.compile(r"“([^”]+)”|「([^」]+)」|『([^』]+)』|《([^》]+)》|\"([^\"]+)\"|‘([^’]+)’|(?<!\w)'([^']+)'(?!\w)")
_WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+(?:['’-][^\W_]+)*")  # a Chinese sign is a word
_own = threading.local()


def target_text(instruction: str) -> str | None:
    """The text that an instruction asks for: the last one in quotation marks; None where there is none."""
    found = [next(filter(None, groups)) for groups in _QUOTED.findall(instruction)]
    return found[-1].strip() or None if found else None


def read_text(pixels: np.ndarray) -> str:
    """What RapidOCR reads in uint8 RGB, its lines in reading order. Raises EditError where it is not installed."""
    if not hasattr(_own, "engine"):
        try:
            import onnxruntime  # noqa: F401
            from rapidocr import RapidOCR
        except ImportError:
            raise missing_extra("rapidocr", "ocr", "--ocr") from None
        _own.engine = RapidOCR(params={"Global.log_level": "critical"})
    found = _own.engine(np.ascontiguousarray(pixels[..., ::-1]))
    return "\n".join(found.txts or ())


def text_scores(read: str, target: str) -> dict[str, float]:
    """How far `read` is `target`, 0 to 1 each; case, punctuation and spacing do not count.

    `ocr_similarity`: 1 - Levenshtein distance / length of the target, of the best matching passage of what was read, at
    least 0 (other writing in the picture costs nothing). `ocr_completion`: share of the target's characters found in
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
