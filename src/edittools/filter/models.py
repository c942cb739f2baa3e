"""Models used by filters: default checkpoints, loading, texts of a row, names of scores."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import UsageError
from edittools.filter import Filter, Input, all_models
from edittools.filter.config import LANGUAGE, SOURCE_TEXT, TEXT, FilterConfig, FilterSettings
from edittools.filter.expression import Expression
from edittools.filter.outdated import outdated
from edittools.stream.history import History
from edittools.stream.rows import column_values
from edittools.stream.scores import score_types
from edittools.weights.digest import folder_digest
from edittools.weights.lookup import find_weights

SEEN = ("clip", "match", "aesthetic")  # of an object, in its crop, by a model


class Models:
    """Loaded when they are first asked for: `models["clip"]`."""

    def __init__(self, config: FilterSettings | None = None) -> None:
        self.config = config = config or FilterConfig()
        self.names = {role: getattr(config, one.setting) or one.default for role, one in all_models().items()}
        self.language = config.language or LANGUAGE
        self.columns = {"text": config.text or TEXT, "source_text": config.source_text or SOURCE_TEXT}
        self.batch_size = config.batch_size or 32
        self.outdated: frozenset[str] = frozenset()  # scores that are measured although rows have them
        self._described: dict[str, str] = {}  # the weights of a model: what they are called, and their digest
        self._loaded: dict[str, Any] = {}
        self._lock = threading.Lock()

    # ------------------------------------------------------------ which they are

    def __getitem__(self, role: str) -> Any:
        with self._lock:
            if role not in self._loaded:
                self._loaded[role] = all_models()[role].load(self._name(role), self.config)
            return self._loaded[role]

    def _name(self, role: str) -> str:
        """The weights. Raises UsageError where neither they nor a default are named, or what they have to be told."""
        name, one = self.names[role], all_models()[role]
        if name is None or (one.missing and any(getattr(self.config, told) is None for told in one.told)):
            raise UsageError(one.missing or f"--{one.setting.replace('_', '-')} names the weights, and is not given")
        return name

    def roles(self, item: Filter) -> list[str]:
        """The models that a filter asks: those it needs, and those that were given for what it measures."""
        given = [one for one in item.optional if self.names[one.name] is not None]
        return [one.name for one in (*item.models, *given)]

    def described(self, role: str) -> str:
        """What a model is called, and the content of its weights. Raises EditError for weights that are not there."""
        if role not in self._described:  # the stages of a command share this, and each says its settings
            name = self._name(role)
            folder = find_weights(name, release=all_models()[role].release(name))
            self._described[role] = f"{Path(name).name}@{folder_digest(folder)}"
        return self._described[role]

    def settings(self, schema: pa.Schema, history: History, version: int) -> dict[str, Any]:
        """What the history records, for rows of these columns: of models the content of their weights.

        version  of the stage that measures

        Models whose scores are stored with the rows are only named: nobody needs their weights any more. What an
        earlier release measured of other pixels counts as not stored. Raises EditError for weights that are not there.
        """
        image, names = self.config.image, score_types(schema)
        stored = [item for item, _ in self.config.bounds if item.stored and self.score(item) in names]
        self.outdated = frozenset(self.score(item) for item in stored if outdated(history, item.name, image, version))
        found = {role: Path(self._name(role)).name for role in self.asked(schema, stored=True)}
        needed = self.asked(schema, stored=False)
        if self.config.region is not None:
            needed += region_roles(self.config.region)
        if self.config.nearest is not None:
            needed.append("clip")
        found |= {role: self.described(role) for role in dict.fromkeys(needed)}
        if not found:
            return self.config.recorded(**self.config.without_models())
        return self.config.recorded(models=found, **self.config.placed, batch_size=self.batch_size)

    def asked(self, schema: pa.Schema, stored: bool) -> list[str]:
        """The models of the scores that the rows have already (`stored`), or have not."""
        names = score_types(schema).keys() - self.outdated
        measured = [item for item, _ in self.config.bounds if item.stored]
        return [role for item in measured for role in self.roles(item) if (self.score(item) in names) == stored]

    def score(self, item: Filter) -> str:
        """The name of a filter's score. A row has scores of its target and of its source side by side."""
        name, image = self.key(item), self.config.image
        of_one = item.measure is not None or any(asked.of == "image" for asked in item.inputs)
        of_one = of_one or item.from_size is not None or item.from_header is not None or item.measure_pair is not None
        return f"{image}_{name}" if of_one and image != "target" else name

    def key(self, item: Filter) -> str:
        """What the score is called: the filter's name, and whatever is not the default, so that scores of two models
        or of two texts do not pass for one another."""
        parts = [item.name]
        for role in self.roles(item):
            name, one = Path(self._name(role)).name, all_models()[role]
            weights = [name] if name != Path(one.default or "").name else []
            told = [getattr(self.config, key) for key in one.told if getattr(self.config, key) is not None]
            parts += one.parts(weights, self.config) if one.parts is not None else [*weights, *told]
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
        """One batch: prepared images, or texts."""
        model = self[asked.model.name]
        return model.texts(given) if asked.of in self.columns else model.infer(given)


def region_roles(expression: str) -> list[str]:
    """The models that an expression over objects needs."""
    named = Expression(expression, "--region").columns()
    crops = any(name in named for name in SEEN)
    return (["clip"] if crops else []) + (["aesthetic"] if "aesthetic" in named else [])


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
