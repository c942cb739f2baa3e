"""The models that filters ask: which they are, what they are told about a row, and what their scores are called."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import UsageError
from edittools.filters import Filter, Input
from edittools.models import aesthetic
from edittools.models.describe import folder_digest
from edittools.models.embedders import RELEASES
from edittools.models.weights import find_weights
from edittools.stream.rows import column_values

DEFAULTS = {
    "clip": "openai/clip-vit-large-patch14",
    "dino": "facebook/dinov2-base",
    "aesthetic": aesthetic.NAME,
    "classifier": None,
    "raft": None,  # optional, as is the next
    "foreground": None,
}
_OPTIONAL = ("raft", "foreground")
TEXT, SOURCE_TEXT, LANGUAGE = "caption", "source_caption", "en"


class Models:
    """Loaded when they are first asked for: `models["clip"]`."""

    def __init__(
        self,
        *,
        clip: str | None = None,
        dino: str | None = None,
        aesthetic: str | None = None,
        classifier: str | None = None,
        label: str | None = None,
        raft: str | None = None,
        foreground: str | None = None,
        foreground_label: str | None = None,
        text: str | None = None,
        source_text: str | None = None,
        language: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        given = {"clip": clip, "dino": dino, "aesthetic": aesthetic, "classifier": classifier}
        given |= {"raft": raft, "foreground": foreground}
        self.names = {role: name or DEFAULTS[role] for role, name in given.items()}
        self.label, self.language = label, language or LANGUAGE
        self.foreground_labels = foreground_label.split(",") if foreground_label else []
        self.columns = {"text": text or TEXT, "source_text": source_text or SOURCE_TEXT}
        self.device, self.dtype, self.batch_size = device or "cpu", dtype or "float32", batch_size or 32
        self._loaded: dict[str, Any] = {}
        self._lock = threading.Lock()

    # ------------------------------------------------------------ which they are

    def __getitem__(self, role: str) -> Any:
        with self._lock:
            if role not in self._loaded:
                self._loaded[role] = self._load(role)
            return self._loaded[role]

    def _load(self, role: str) -> Any:
        from edittools.models.aesthetic import load_aesthetic
        from edittools.models.classifier import load_classifier
        from edittools.models.embedders import load_embedder

        name = self._name(role)
        if role == "aesthetic":
            return load_aesthetic(name)
        if role == "raft":
            from edittools.models.raft import load_raft

            return load_raft(name, device=self.device, dtype=self.dtype)
        if role == "foreground":
            from edittools.models.segmenter import load_segmenter

            return load_segmenter(name, self.foreground_labels, device=self.device, dtype=self.dtype)
        load = load_classifier if role == "classifier" else load_embedder
        model = load(name, device=self.device, dtype=self.dtype)
        if role == "classifier":
            model.column(str(self.label))
        if role == "clip" and not hasattr(model, "texts"):
            raise UsageError(f"--clip {name}: the model has no texts")
        return model

    def _name(self, role: str) -> str:
        name = self.names[role]
        if name is None or (role == "classifier" and self.label is None):
            raise UsageError("--max bounds what a classifier says: name it with --classifier and --label")
        return name

    def roles(self, item: Filter) -> list[str]:
        """The models that a filter asks: those it needs, and those that were given for what it measures."""
        given = [role for role in _OPTIONAL if self.names[role] is not None]
        return item.roles + (given if item.measure_flow is not None else [])

    def settings(self, roles: Iterable[str], stored: Iterable[str] = ()) -> dict[str, Any]:
        """What decides the scores of these models, for the history: the content of the weights, not where they lie.

        Models whose scores are `stored` with the rows are only named: nobody needs their weights any more. Raises
        EditError for weights that are not there.
        """
        found = {role: Path(self._name(role)).name for role in stored}
        for role in dict.fromkeys(roles):
            name = self._name(role)
            folder = find_weights(name, release=_release(role, name))
            found[role] = f"{Path(name).name}@{folder_digest(folder)}"
        if not found:
            return dict.fromkeys(("device", "dtype", "batch_size"))  # given or not, they change nothing
        return {"models": found, "device": self.device, "dtype": self.dtype, "batch_size": self.batch_size}

    def key(self, item: Filter) -> str:
        """What the score is called: the filter's name, and whatever is not the default, so that scores of two models
        or of two texts do not pass for one another."""
        parts = [item.name]
        for role in self.roles(item):
            name = self._name(role)
            if role == "classifier":
                parts.append(str(self.label))
            if Path(name).name != Path(DEFAULTS[role] or "").name:
                parts.append(Path(name).name)
            if role == "foreground":
                parts += self.foreground_labels
        asked = {one.of for one in item.inputs}
        parts += [
            self.columns[of] for of, usual in (("text", TEXT), ("source_text", SOURCE_TEXT))
            if of in asked and self.columns[of] != usual
        ]  # fmt: skip
        if asked & self.columns.keys() and self.language != LANGUAGE:
            parts.append(self.language)
        return "_".join(re.sub(r"\W+", "_", part).strip("_") for part in parts)

    # ------------------------------------------------------------ what they are told

    def check_columns(self, schema: pa.Schema, items: Iterable[Filter]) -> None:
        """Raises UsageError where the rows have no such text."""
        for of in dict.fromkeys(one.of for item in items for one in item.inputs):
            if of in self.columns:
                name, option = self.columns[of], "--" + of.replace("_", "-")
                kind = schema.field(name).type if name in schema.names else None
                if kind is None or not (pa.types.is_struct(kind) or is_text(kind) or pa.types.is_null(kind)):
                    raise UsageError(
                        f"the input has no text in a column `{name}`", hint=f"{option} names the column of the text"
                    )

    def texts(self, rows: pa.RecordBatch, of: str) -> list[str | None]:
        """The texts of the rows: a column of strings, or of one string per language."""
        values = column_values(rows, self.columns[of])
        texts = [value.get(self.language) if isinstance(value, dict) else value for value in values]
        return [text if isinstance(text, str) and text.strip() else None for text in texts]

    def infer(self, asked: Input, given: list[Any]) -> np.ndarray:
        """One batch: prepared pictures, or texts."""
        model = self[asked.model]
        return model.texts(given) if asked.of in self.columns else model.infer(given)


def _release(role: str, name: str) -> str | None:
    """Where the weights are published that are on no hub."""
    if role == "raft":
        from edittools.models.raft import RELEASE

        return RELEASE
    return aesthetic.RELEASE if role == "aesthetic" else RELEASES.get(name)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
