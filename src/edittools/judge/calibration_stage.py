"""The stage that puts a judge's scores on the scale of human ratings."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import EditError, UsageError
from edittools.judge.agreement import Rating
from edittools.judge.calibration import Calibration, Curve, calibrate
from edittools.judge.judgements import beside, score_dimensions
from edittools.judge.rubrics import load_rubric, rubric_names
from edittools.rounding import significant
from edittools.rubric.names import ending_of
from edittools.stream import files
from edittools.stream.batch import Batch
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.rows import column_values
from edittools.stream.scores import add_scores, score_types, scores_schema

DECISIONS_VERSION = 1


class CalibrationStage:
    """Two-pass stage: of every score `judge_RUBRIC_DIMENSION` (of a named judge `__NAME`) that people rated too, a
    score `judge_RUBRIC_DIMENSION_calibrated` on their scale beside it. The first pass gathers the scores of the rated
    rows. A row without a score has none calibrated.
    """

    name = "judge"
    VERSION = 1
    first_step: tuple[str, ...] | None = None
    whole_hint = "run it without --task: it decodes no image"

    def __init__(
        self, ratings: Sequence[Rating], *, folds: int = 5, rubric: str | None = None, judge: str | None = None
    ) -> None:
        """`rubric` and `judge` narrow down whose scores are calibrated."""
        self.folds, self.rubric, self.judge = folds, rubric, judge
        self.people = sorted([rating.id, rating.rater, rating.dimension, rating.score] for rating in ratings)
        rated: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for rating in ratings:
            rated[rating.dimension][rating.id].append(rating.score)
        self.rated: dict[str, dict[str, list[float]]] = {name: dict(rows) for name, rows in rated.items()}
        self.decisions_digest: str | None = None
        self.seen: dict[str, dict[str, float | None]] = {}  # id -> column -> score, of rated rows
        self.columns: dict[str, str] = {}  # of scores -> the dimension
        self.calibrations: dict[str, Calibration] = {}
        self.said: list[str] = []

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records: the ratings, not where they lie."""
        told = {"calibrate": digest(canonical_json(self.people)), "folds": self.folds}
        told |= {"rubric": self.rubric, "judge": self.judge}
        return {name: value for name, value in told.items() if value is not None}

    # ------------------------------------------------------------ columns

    def schema(self, schema: pa.Schema) -> pa.Schema:
        types = score_types(schema)
        names = [self.rubric] if self.rubric else rubric_names()
        known = score_dimensions(types, {name: [one.name for one in load_rubric(name).dimensions] for name in names})
        mine = {
            column: dimension
            for column, (_, dimension, ending) in known.items()
            if self.judge is None or ending == ending_of(self.judge)
        }
        if not mine:
            who = " ".join(
                filter(None, (self.rubric and f"by rubric {self.rubric}", self.judge and f"by {self.judge}"))
            )
            raise UsageError(
                f"--calibrate: the input has no scores of a judge {who}".rstrip(),
                hint="edit judge ROWS --rubric R --model M | edit judge --calibrate FILE",
            )
        self.columns = {column: dimension for column, dimension in mine.items() if dimension in self.rated}
        if not self.columns:
            raise UsageError(
                f"--calibrate: people rated {', '.join(self.rated) or 'nothing'}, and the judge scored "
                f"{', '.join(dict.fromkeys(mine.values()))}",
                hint="a column `dimension` in the ratings says which of the scores they are about",
            )
        for column in self.columns:
            if not (pa.types.is_floating(kind := types[column]) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
                raise UsageError(f"--calibrate: score `{column}` holds {kind}, not numbers")
        return scores_schema(schema, self._added())

    def _added(self) -> list[str]:
        return [beside(column, "_calibrated") for column in self.columns]

    # ------------------------------------------------------------ the two passes

    def observe(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        wanted = {identity for dimension in self.columns.values() for identity in self.rated[dimension]}
        for batch in batches:
            rows = zip(column_values(batch.rows, "id"), column_values(batch.rows, "scores"))
            for identity, scores in rows:
                if identity not in wanted:
                    continue
                if identity in self.seen:
                    raise EditError(
                        f"row {identity} comes twice: the ratings do not say which of them they are about",
                        hint="calibrate the results of one model at a time",
                    )
                self.seen[identity] = {column: _number(scores, column) for column in self.columns}
            yield batch

    def gather(self, batches: Iterator[Batch]) -> None:
        for _ in self.observe(batches):
            pass

    def decide(self) -> None:
        for column, dimension in self.columns.items():
            known = {
                identity: score for identity, row in self.seen.items()
                if identity in self.rated[dimension] and (score := row[column]) is not None
            }  # fmt: skip
            if len(known) < 2 * self.folds:
                raise EditError(
                    f"--calibrate: {len(known)} of {len(self.rated[dimension])} rated rows have a score `{column}`; "
                    f"{self.folds} folds need {2 * self.folds}",
                    hint="are the ids those of the rows? otherwise more ratings, or fewer --folds",
                )
            ids = sorted(known)
            ratings = [self.rated[dimension][identity] for identity in ids]
            scores, means = np.array([known[identity] for identity in ids]), np.array([np.mean(one) for one in ratings])
            raters = np.array([len(one) for one in ratings], np.float64)
            calibration = self.calibrations[column] = calibrate(ids, scores, means, raters, self.folds)
            self.said.append(_told(column, calibration, ids, scores, means, len(self.rated[dimension])))
        self.decisions_digest = digest(canonical_json(self._decisions()))

    def _decisions(self) -> dict[str, Any]:
        columns = {
            column: {
                "fold": calibration.fold,
                "curves": [[c.x.tolist(), c.y.tolist()] for c in [*calibration.without, calibration.whole]],
            }
            for column, calibration in self.calibrations.items()
        }
        return {"version": DECISIONS_VERSION, "columns": columns}

    def save_decisions(self, path: str) -> None:
        files.write_bytes(path, (canonical_json(self._decisions()) + "\n").encode())

    def load_decisions(self, path: str) -> None:
        """Use the curves that an earlier run has fitted. Raises EditError."""
        try:
            for column, one in json.loads(files.read_bytes(path))["columns"].items():
                *without, whole = (Curve(np.array(x, np.float64), np.array(y, np.float64)) for x, y in one["curves"])
                self.calibrations[column] = Calibration(
                    whole, {name: int(fold) for name, fold in one["fold"].items()}, without
                )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EditError(f"{path}: not the curves of a calibration: {error!r}") from error
        self.decisions_digest = digest(canonical_json(self._decisions()))

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            schema = self.schema(batch.rows.schema)
            ids, scores = column_values(batch.rows, "id"), column_values(batch.rows, "scores")
            values: list[dict[str, float]] = [{} for _ in ids]
            for column, calibration in self.calibrations.items():
                raw = [_number(row, column) for row in scores]
                calibrated = calibration(
                    ids, np.array([np.nan if score is None else score for score in raw], np.float64)
                )
                for row, score, value in zip(values, raw, calibrated.tolist()):
                    if score is not None:
                        row[beside(column, "_calibrated")] = significant(value)
            yield batch.replace(add_scores(batch.rows, schema, self._added(), values))

    def remark(self) -> str:
        """Quality of the fits."""
        return "; ".join(self.said)


def _number(scores: Mapping[str, Any] | None, column: str) -> float | None:
    value = (scores or {}).get(column)
    return None if value is None or not np.isfinite(value) else float(value)


def _told(
    column: str, calibration: Calibration, ids: list[str], scores: np.ndarray, means: np.ndarray, rated: int
) -> str:
    """Mean absolute errors against the people's means: out of fold, as the scores were, and of one number for all."""
    errors = {
        "calibrated": np.abs(calibration(ids, scores) - means).mean(),
        "as it is": np.abs(scores - means).mean(),
        "of one value for all rows": np.abs(means - np.median(means)).mean(),
    }
    said = ", ".join(f"{error:.3g} {name}" for name, error in errors.items())
    flat = (
        "; the curve is flat: these scores say nothing of people's"
        if calibration.whole.y[0] == calibration.whole.y[-1]
        else ""
    )
    return f"{column}: {len(ids)} of {rated} rated rows; mean error against people {said}{flat}"
