"""Does a judge agree with people (ImgEdit 4.3): human ratings from a file, joined to judged rows by id."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edittools.errors import EditError
from edittools.judge.judgements import score_dimensions
from edittools.judge.rubrics import load_rubric
from edittools.tables import read_table


@dataclass(frozen=True)
class Rating:
    """What one person gave one row on one dimension. Without a name the rater is `-`, the dimension `overall`."""

    id: str
    rater: str
    dimension: str
    score: float


def read_ratings(
    path: str,
    *,
    id: str = "id",
    score: str = "score",
    rater: str = "rater",
    dimension: str = "dimension",
    model: str | None = None,
) -> list[Rating]:
    """Human ratings from a CSV, Parquet or JSON lines file with one rating per line; the arguments name its columns.

    `rater` and `dimension` may be missing. A line without a score is a row that somebody did not rate and is left out.
    `model`: of a file of several models' ratings (column `model`) those of this one. Raises EditError for a missing
    column, a score that is no number, a rater who rated a row twice, a model that nobody rated, or several models.
    """
    lines = read_table(path, "ratings")
    if model is not None:
        known = sorted({str(line["model"]) for line in lines if line.get("model") is not None})
        if model not in known:
            raise EditError(
                f"{path}: no ratings of `{model}`", hint=f"of: {', '.join(known) or 'no model by its name'}"
            )
        lines = [line for line in lines if str(line.get("model")) == model]
    else:
        _check_one_model(lines, path, id)
    return ratings_in(lines, path, id=id, score=score, rater=rater, dimension=dimension)


def _check_one_model(lines: Iterable[Mapping[str, Any]], path: str, id: str) -> None:
    """Raises EditError where a row has the ratings of two models' results."""
    models: dict[str, str] = {}
    for line in lines:
        if line.get("model") is not None:
            one = str(line["model"])
            if models.setdefault(str(line.get(id)), one) != one:
                raise EditError(
                    f"{path}: row {line.get(id)} is rated for `{models[str(line.get(id))]}` and for `{one}`",
                    hint="`edit judge --ratings FILE --model NAME` takes one model's ratings",
                )


def ratings_in(
    rows: Iterable[Mapping[str, Any]],
    path: str,
    *,
    id: str = "id",
    score: str = "score",
    rater: str = "rater",
    dimension: str = "dimension",
) -> list[Rating]:
    """The same of rows; `path` is what errors call them."""
    ratings: list[Rating] = []
    seen: set[tuple[str, str, str]] = set()
    for line, row in enumerate(rows, 1):
        for column in (id, score):
            if column not in row:
                raise EditError(f"{path}: no column `{column}`", hint="it has: " + ", ".join(map(str, row)))
        value = row[score]
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise EditError(f"{path}: rating {line}: `{value}` is not a number") from None
        if not math.isfinite(number):
            continue
        who = (str(row[id]), str(row.get(rater) or "-"), str(row.get(dimension) or "overall"))
        if who in seen:
            raise EditError(f"{path}: rating {line}: row {who[0]} is rated twice by `{who[1]}` on `{who[2]}`")
        seen.add(who)
        ratings.append(Rating(*who, number))
    return ratings


def judged_scores(rows: Iterable[Mapping[str, Any]], rubric: str) -> dict[tuple[str, str], float | None]:
    """{(id, dimension): score} of a rubric and the judge without a name, from judged rows, which hold `id` and the
    record `scores`.

    A score that the judge did not give is None.
    """
    dimensions = {rubric: [one.name for one in load_rubric(rubric).dimensions]}
    result: dict[tuple[str, str], float | None] = {}
    for row in rows:
        scores = row.get("scores") or {}
        for name, (_, dimension, judge) in score_dimensions(scores, dimensions).items():
            if not judge:
                result[str(row["id"]), dimension] = scores[name]
    return result


def agreement(
    judged: Mapping[tuple[str, str], float | None], ratings: Iterable[Rating], level: str = "ordinal"
) -> dict[str, dict[str, Any]]:
    """Per dimension that both know: how near the judge comes to the people.

    `within_one` is the share of rows whose score is at most 1 from the mean human rating (ImgEdit 4.3), `spearman` the
    rank correlation with it, `alpha` Krippendorff's over all raters with the judge as one more, and `alpha_humans`
    over the people alone: the ceiling. `rows` were compared; `unjudged` rows have ratings and no score, `unrated` a
    score and no rating.
    """
    from edittools.metrics.agreement import krippendorff_alpha, share_within, spearman

    by_dimension: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_dimension.setdefault(rating.dimension, []).append(rating)
    result = {}
    for dimension, mine in by_dimension.items():
        machine = {row: score for (row, name), score in judged.items() if name == dimension}
        if not machine:
            continue
        given: dict[str, dict[str, float]] = {}
        for rating in mine:
            given.setdefault(rating.id, {})[rating.rater] = rating.score
        present = {row: score for row, score in machine.items() if score is not None}
        rows = [row for row in given if row in present]
        raters = sorted({rating.rater for rating in mine})
        people = [[given[row].get(rater) for row in rows] for rater in raters]
        means = [math.fsum(given[row].values()) / len(given[row]) for row in rows]
        scores = [present[row] for row in rows]
        result[dimension] = {
            "rows": len(rows),
            "raters": len(raters),
            "within_one": share_within(scores, means, 1),
            "spearman": spearman(scores, means),
            "alpha": krippendorff_alpha([*people, scores], level),
            "alpha_humans": krippendorff_alpha(people, level) if len(raters) > 1 else None,
            "unjudged": len(given) - len(rows),
            "unrated": len(present) - len(rows),
        }
    if not result:
        raise EditError("the ratings and the judged rows have no dimension in common")
    return result
