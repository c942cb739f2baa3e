"""Ratings of single edits by people (ImgEdit E.3): consensus, items balanced over the scores, a judge beside them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edittools.bench.studies.answers import given_answers
from edittools.bench.studies.design import Design, design_of
from edittools.bench.studies.score import agreement_of, aligned
from edittools.metrics import intervals
from edittools.rounding import rounded
from edittools.seeded import digest

Given = dict[int, dict[str, float]]
"""Case -> rater -> score, of one dimension."""


def ratings_of(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], asked: Design) -> dict[str, Given]:
    """Dimension -> case -> rater -> score, of complete answers."""
    found: dict[str, Given] = {dimension.name: defaultdict(dict) for dimension in asked.dimensions}
    for rater, number, _, values in given_answers(key, answers, asked):
        for (_, dimension), value in (values or {}).items():
            found[dimension][number][rater] = value
    return found


def consensus(scores: Sequence[float]) -> float | None:
    """The score that two or more gave, and more than gave any other; None where there is none (ImgEdit E.3)."""
    (score, count), *others = Counter(scores).most_common(2) or [(0.0, 0)]
    return score if count >= 2 and not (others and others[0][1] == count) else None


def score(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Per dimension: mean, agreement, and how many items have a consensus at each score. Nothing is drawn: no `seed`.

    Raises EditError for answers that the design has not.
    """
    asked = design_of(key)
    given = ratings_of(key, answers, asked)
    raters = [str(one.get("rater")) for one in answers]
    first = next(iter(given.values()))
    dimensions = {}
    for name, rated in given.items():
        agreed = [consensus(list(by_rater.values())) for by_rater in rated.values()]
        dimensions[name] = {
            "mean": intervals.mean(float(np.mean(list(by_rater.values()))) for by_rater in rated.values()),
            "consensus": {level: agreed.count(value) for level, value in zip(asked.levels, asked.values)},
            "without": agreed.count(None),
            "agreement": agreement_of({(n, "-"): by_rater for n, by_rater in rated.items()}, raters, asked),
        }
    return rounded(
        {
            "study": key["study"],
            "design": key["design"],
            "raters": {rater: sum(rater in by_rater for by_rater in first.values()) for rater in raters},
            "cases": {"asked": len(key["cases"]), "rated": len(first), "dropped": len(key["dropped"])},
            "dimensions": dimensions,
        }
    )


def export(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], per_score: int | None = None) -> str:
    """Every rating as a line of JSON (id, rater, dimension, score), which `edit judge --calibrate` reads.

    With `per_score` what people agree on alone, as the rater `consensus`: of each score so many items, drawn by the
    study's name (ImgEdit E.3: 12 of each).
    """
    asked, lines = design_of(key), []
    for name, rated in ratings_of(key, answers, asked).items():
        for number, rater, value in _all(rated) if per_score is None else _agreed(rated, per_score, key["study"]):
            line = {"id": key["cases"][number]["id"], "rater": rater, "dimension": name, "score": value}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def _all(rated: Given) -> Iterator[tuple[int, str, float]]:
    for number in sorted(rated):
        yield from ((number, rater, value) for rater, value in sorted(rated[number].items()))


def _agreed(rated: Given, per_score: int, study: str) -> Iterator[tuple[int, str, float]]:
    by_score: dict[float, list[int]] = defaultdict(list)
    for number in sorted(rated, key=lambda number: digest(study, number)):
        value = consensus(list(rated[number].values()))
        if value is not None and len(by_score[value]) < per_score:
            by_score[value].append(number)
    for value in sorted(by_score):
        yield from ((number, "consensus", value) for number in by_score[value])


def as_text(found: Mapping[str, Any], markdown: bool = False) -> str:
    """Per dimension the mean, the items with a consensus at each score, and agreement."""
    levels = list(next(iter(found["dimensions"].values()))["consensus"])
    rows = [["dimension", "mean", *(f"agreed on {level}" for level in levels), "no consensus"]]
    lines = []
    for name, entry in found["dimensions"].items():
        mean = "–" if entry["mean"] is None else f"{entry['mean']:.2f}"
        rows.append([name, mean, *(str(entry["consensus"][level]) for level in levels), str(entry["without"])])
        labels = (("Krippendorff's alpha", "alpha"), ("within one level", "within_one"), ("Spearman", "spearman"))
        numbers = [
            f"{label} {value:.3f}"
            for label, measure in labels
            if (value := entry["agreement"].get(measure)) is not None
        ]
        lines += [f"Agreement on {name}: {', '.join(numbers)}.", ""] if numbers else []
    for name, entry in (found.get("judge") or {}).items():
        spearman = "–" if entry["spearman"] is None else f"{entry['spearman']:.3f}"
        alpha = "–" if entry["alpha"] is None else f"{entry['alpha']:.3f}"
        lines += [
            f"The judge on {name}: {entry['rows']} items, {entry['within_one']:.1%} within one point of people's mean, "
            f"Spearman {spearman}, alpha with the judge as one more rater {alpha}.",
            "",
        ]
    cases = found["cases"]
    lines.append(
        f"Raters: {len(found['raters'])}; items rated: {cases['rated']} of {cases['asked']}, "
        f"dropped before: {cases['dropped']}."
    )
    return "\n".join([*aligned(rows, markdown), "", *lines, ""])
