"""Zero-shot tags: what an image shows, of a list of names, by a model of images and texts (Radford et al. 2021, 3.1).

A name is written into each prompt; its vector is the mean of the prompts' vectors, of unit length again. Its score is
the model's probability: CLIP's softmax over all names, SigLIP's sigmoid of each.
"""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.caption.grammar import without_article
from edittools.caption.targets import read_things
from edittools.encoders.embedders import load_embedder, normalised
from edittools.errors import RowError, UsageError
from edittools.rounding import significant

# The comments behind the fields are their descriptions in docs/DATA-MODEL.md.
TAG = pa.struct(
    [
        ("name", pa.string()),
        ("score", pa.float64()),  # the model's probability: of CLIP among all names, of SigLIP of this one
        ("category", pa.string()),  # of the vocabulary, where it has any
    ]
)
TAGS = pa.list_(TAG)
PROMPT = "This is a photo of {}."  # as transformers' own pipeline
PEOPLE = ("person", "man", "woman", "boy", "girl", "baby")  # the inventory has things alone
_MOST_KEPT = 65_536  # vectors of the rows' own names

Vocabulary = Mapping[str, str | None]
"""Names, each with its category where there are any."""


def read_vocabulary(given: Sequence[str] = ()) -> Vocabulary:
    """The names that are told, those of a file that is named alone, or the shipped ones: the inventory and people.

    A file is TOML with lists by category, also in tables as the lexicon of `edit synth --targets` has them, or text
    with a name a line; its name has an ending or a slash. Articles are left out everywhere. Raises UsageError.
    """
    if not given:
        return _by_category({"people": PEOPLE, **read_things()})
    path = Path(given[0])
    file = path.suffix in (".toml", ".txt") or ((path.suffix or "/" in given[0]) and path.is_file())
    if len(given) > 1 or not file:
        return _by_category({None: given})
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".toml":
            return _by_category({None: [line.strip() for line in text.splitlines() if line.strip()]})
        return _by_category(dict(_lists(tomllib.loads(text))))
    except (OSError, ValueError) as error:
        raise UsageError(f"--vocabulary {path}: {getattr(error, 'strerror', None) or error}") from error


def _lists(table: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The lists of a table by their keys, and those of the tables in it. Raises ValueError for what is neither."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _lists(value)
        elif isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value):
            yield name, value
        else:
            raise ValueError(f"`{name}` is no list of names")


def _by_category(lists: Mapping[Any, Sequence[str]]) -> Vocabulary:
    """A name of two categories is of the first. Raises ValueError where there is none."""
    found: dict[str, str | None] = {}
    for category, names in lists.items():
        for name in names:
            found.setdefault(without_article(name.strip()), category)
    if not found:
        raise ValueError("it has no names")
    return found


class Tagger:
    """The best names of images. Safe in threads."""

    def __init__(self, weights: str, vocabulary: Vocabulary, prompts: Sequence[str] = (PROMPT,), **placed: str) -> None:
        """Raises EditError, of a model that knows images alone UsageError."""
        self.model = load_embedder(weights, **placed)
        if not hasattr(self.model, "probabilities"):
            raise UsageError(
                f"--tags {weights}: it does not compare images with texts", hint="a CLIP or SigLIP checkpoint"
            )
        self.vocabulary, self.prompts = vocabulary, prompts
        self._kept: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()
        self._shared = self._made(list(vocabulary)) if vocabulary else None

    def tag(
        self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str] | None], most: int, least: float
    ) -> list[list[dict[str, Any]] | RowError]:
        """Of every image (uint8 HxWx3) the `most` likeliest of its own names (None: of the vocabulary) that reach the
        score `least`; the likeliest first, of equal ones in their order. A RowError where the model gives no number."""
        seen = self.model.images(list(pixels))
        made: list[list[dict[str, Any]] | RowError] = []
        for vector, own in zip(seen, names):
            wanted = list(self.vocabulary) if own is None else list(own)
            if not wanted:
                made.append([])
                continue
            texts = self._shared if own is None else self._vectors(wanted)
            scores = self.model.probabilities(vector[None], texts)[0]
            if not np.isfinite(scores).all():
                made.append(RowError("the tagging model gives no numbers"))
                continue
            order = np.argsort(-scores, kind="stable")[:most]
            made.append([
                {"name": wanted[k], "score": significant(float(scores[k])), "category": self.vocabulary.get(wanted[k])}
                for k in order
                if scores[k] >= least
            ])  # fmt: skip
        return made

    def _vectors(self, names: list[str]) -> np.ndarray:
        """Vectors of names (n, dim), each computed once, as long as there are not too many to keep."""
        with self._lock:
            new = [name for name in names if name not in self._kept]
            if len(self._kept) + len(new) > _MOST_KEPT:
                self._kept, new = {}, names
            self._kept.update(zip(new, self._made(new) if new else ()))
            return np.stack([self._kept[name] for name in names])

    def _made(self, names: list[str]) -> np.ndarray:
        vectors = [self.model.texts([prompt.replace("{}", name) for name in names]) for prompt in self.prompts]
        return normalised(np.mean(vectors, axis=0))
