"""The stage that makes scores of what people said."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from edittools.errors import EditError
from edittools.judge.agreement import Rating
from edittools.rounding import significant
from edittools.stream.batch import Batch
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.rows import column_values
from edittools.stream.scores import add_scores, scores_schema

SCORE = "human"


class RatingsStage:
    """Stage: the mean of what people gave a row into the column `scores`: `human_DIMENSION`, or `human` where no
    dimension is named, or `overall`. A row that nobody rated has null.
    """

    name = "judge"
    VERSION = 1

    def __init__(self, ratings: Sequence[Rating], *, model: str | None = None) -> None:
        """`model` is for the history. Raises EditError without ratings, and of two dimensions of one score."""
        if not ratings:
            raise EditError("--ratings: there are none in the file")
        self.people = sorted([rating.id, rating.rater, rating.dimension, rating.score] for rating in ratings)
        self.model = model
        given: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        named: dict[str, str] = {}
        for rating in ratings:
            score = score_of(rating.dimension)
            if named.setdefault(score, rating.dimension) != rating.dimension:
                raise EditError(f"--ratings: `{named[score]}` and `{rating.dimension}` would both be `{score}`")
            given[rating.id][score].append(rating.score)
        self.names = sorted(named)
        self.means: dict[str, dict[str, float]] = {
            row: {score: significant(math.fsum(values) / len(values)) for score, values in scores.items()}
            for row, scores in given.items()
        }
        self.rows, self.found = 0, set[str]()

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records: the ratings, not where they lie."""
        told = {"ratings": digest(canonical_json(self.people))}
        return told if self.model is None else told | {"model": self.model}

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return scores_schema(schema, self.names)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        self.rows, self.found = 0, set()
        for batch in batches:
            made = []
            self.rows += batch.rows.num_rows
            for identity in column_values(batch.rows, "id"):
                if identity in self.means and identity in self.found:
                    raise EditError(
                        f"row {identity} comes twice: the ratings do not say which of them they are about",
                        hint="rate the results of one model at a time; --model says whose the ratings are",
                    )
                if identity in self.means:
                    self.found.add(identity)
                made.append(self.means.get(identity, {}))
            yield batch.replace(add_scores(batch.rows, self.schema(batch.rows.schema), self.names, made))

    def remark(self) -> str:
        """How many of the rated rows came by in this run."""
        if not self.rows:
            return ""
        asked = "" if self.found else ": are the ids those of the rows?"
        return f"{len(self.found)} of {len(self.means)} rated rows{asked}"


def score_of(dimension: str) -> str:
    """The score that a dimension is called: words, with _ between them."""
    if dimension == "overall":
        return SCORE
    return "_".join([SCORE, *re.findall(r"\w+", dimension.casefold())])
