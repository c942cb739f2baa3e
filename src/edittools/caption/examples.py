"""Examples of the wording wanted, out of the user's file: a few for every row, drawn by its seed or nearest to its text
(style-aligned context examples, Step1X-Edit 3.1.2).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edittools.caption.config import CaptionConfig
from edittools.caption.kind import Row
from edittools.errors import EditError

SHOWN = 3  # examples in a prompt
_TEXTS = ("instruction", "instruction_detailed", "caption")  # what a row is compared by


@dataclass(frozen=True)
class Example:
    """What a kind should answer: `output`, perhaps to an `input`; of one kind or task, or of any."""

    output: Any
    kind: str | None = None
    task: str | None = None
    input: str | None = None

    @cached_property
    def grams(self) -> Counter[str]:
        return _grams(self.input or json.dumps(self.output, ensure_ascii=False))


@dataclass
class Examples:
    """The examples of a file; called with a kind and a row it gives those that the row is shown, as text."""

    config: CaptionConfig
    read: list[Example] = field(default_factory=list)
    digest: str | None = None

    def __post_init__(self) -> None:
        if self.config.examples is not None:
            self.read, self.digest = _read(self.config.examples)

    def __call__(self, kind: str, row: Row) -> str:
        chosen = self._chosen(kind, row)
        if not chosen:
            return ""
        lines = [
            (f"for: {example.input}\n" if example.input else "") + json.dumps(example.output, ensure_ascii=False)
            for example in chosen
        ]
        return "\n\nExamples of the wording that is wanted:\n" + "\n".join(lines)

    def _chosen(self, kind: str, row: Row) -> list[Example]:
        task = row.values.get("task")
        fit = [e for e in self.read if e.kind in (None, kind) and e.task in (None, task)]
        if self.config.examples_by == "drawn":
            places = row.rng("examples", kind).permutation(len(fit))[:SHOWN]
            return [fit[k] for k in sorted(places)]
        text = next((text for name in _TEXTS if (text := row.text(name))), None)
        if text is None:
            return fit[:SHOWN]
        grams = _grams(text)
        return sorted(fit, key=lambda example: -_cosine(grams, example.grams))[:SHOWN]


def _grams(text: str) -> Counter[str]:
    """Runs of three characters, which need no words and so no language."""
    text = f" {' '.join(text.lower().split())} "
    return Counter(text[k : k + 3] for k in range(len(text) - 2))


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    dot = sum(count * other[gram] for gram, count in one.items())
    norms = math.sqrt(sum(n * n for n in one.values()) * sum(n * n for n in other.values()))
    return dot / norms if norms else 0.0


def _read(path: str) -> tuple[list[Example], str]:
    """The examples of JSON lines, and the digest of the file. Raises EditError that names the line."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise EditError(f"--examples {path}: {error.strerror or error}") from error
    examples = []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise EditError(f"--examples {path}, line {number}: not JSON: {error}") from None
        if not isinstance(item, dict) or "output" not in item or set(item) - {"output", "kind", "task", "input"}:
            raise EditError(
                f"--examples {path}, line {number}: an example has `output`, and may have kind, task and input"
            )
        examples.append(Example(**item))
    if not examples:
        raise EditError(f"--examples {path}: is empty")
    return examples, hashlib.sha256(data).hexdigest()[:16]
