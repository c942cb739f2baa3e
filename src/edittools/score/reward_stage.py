"""The stage that asks a trained reward model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.rounding import rounded
from edittools.rubric.names import ending_of
from edittools.score.config import ScoreConfig
from edittools.score.reward_models import RewardModel, Triplet, load_reward_model, reward_scores
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.row_images import check_columns, check_instructions, edited_column, row_images
from edittools.stream.rows import drop_failed, instructions, map_chunks
from edittools.stream.scores import add_scores, scores_schema


class RewardStage:
    """Stage: the scores of a reward model into the column `scores`, of every `result` (else `target`).

    A row that the model gives no number has null, and one without images or instruction is rejected.
    """

    name = "score"
    VERSION = 1

    def __init__(self, config: ScoreConfig) -> None:
        assert config.reward_model and config.reward_weights and config.prompts
        self.config, self.max_pixels = config, config.max_pixels
        self.ending = ending_of(config.judge)
        self.instruction = config.instruction or "instruction"
        self.names = [name + self.ending for name in reward_scores(config.reward_model)]
        self.model: RewardModel = load_reward_model(
            config.reward_model, config.reward_weights, config.prompts, **config.placed
        )
        self.fetcher = Fetcher()

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records: which weights and texts they are, not where they lie."""
        texts = digest(canonical_json(list(self.model.texts)))
        return self.config.recorded(reward_weights=self.model.revision, prompts=texts, **self.config.placed)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        for name in ("source", edited_column(schema, self.config.column), self.instruction):
            if name not in schema.names:
                raise UsageError(f"the input has no `{name}` column: nothing to score")
        check_columns(schema, "source", edited_column(schema, self.config.column))
        check_instructions(schema, self.instruction)
        return scores_schema(schema, self.names)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, 1)  # the model is one

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        results = image_references(row_images(rows, edited_column(rows.schema, self.config.column)))
        sources = image_references(row_images(rows, "source"))
        made: list[Mapping[str, float | None]] = []
        failed: dict[int, RowError] = {}
        for row, found in enumerate(zip(sources, results, instructions(rows, self.config.language, self.instruction))):
            made.append({})
            try:
                scores = self.model.score([self._case(*found)])[0]
            except RowError as error:
                failed[row] = error
                continue
            if scores is not None and all(math.isfinite(value) for value in scores.values()):
                made[-1] = rounded({name + self.ending: value for name, value in scores.items()})
        return drop_failed(batch, add_scores(rows, schema, self.names, made), failed, self.name)

    def _case(self, source: dict[str, Any] | None, result: dict[str, Any] | None, text: str | None) -> Triplet:
        """Raises RowError."""
        if source is None or result is None:
            raise RowError("no source image" if source is None else "no image to score")
        if not text:
            raise RowError("no instruction")
        decoded = [codec.decode(self.fetcher.get(one), codec.FULL, self.max_pixels) for one in (source, result)]
        return Triplet(decoded[0], decoded[1], text)
