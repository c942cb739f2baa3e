"""Several judges of one rubric: their names, their score columns, and what each of them said of a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edittools.errors import UsageError
from edittools.rubric.names import ALL, ENSEMBLE, MARK, PLAIN, ending_of

NOT_JUDGED = "not judged by this rubric"

ENDINGS = ("", "_low", "_high", "_soft", "_calibrated", "_spread")
"""Endings of a score's column and of the columns beside it."""

Judgements = Iterable[Mapping[str, Any]]
"""The entries of a row's column `judgements`."""


def score_name(rubric: str, dimension: str, judge: str | None = None, ending: str = "") -> str:
    """`judge_RUBRIC_DIMENSION`, an ending of ENDINGS, and of a named judge `__NAME`: a field of `scores`."""
    return f"judge_{rubric}_{dimension}{ending}{ending_of(judge)}"


def beside(column: str, ending: str) -> str:
    """The column with an ending that stands beside a column of scores."""
    plain, mark, judge = column.partition(MARK)
    return plain + ending + mark + judge


def score_dimensions(names: Iterable[str], rubrics: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, str, str]]:
    """Score column -> (rubric, dimension, what it ends with) of those columns that hold a judge's scores themselves.

    `rubrics` are the dimensions of each rubric.
    """
    known = {score_name(rubric, name): (rubric, name) for rubric, names in rubrics.items() for name in names}
    found = {}
    for column in names:
        plain, mark, judge = column.partition(MARK)
        if plain in known:
            found[column] = (*known[plain], mark + judge)
    return found


def called(judgement: Mapping[str, Any]) -> str:
    """The judge's name; files from before judges had any hold no field for it."""
    return judgement.get("judge") or PLAIN


def judge_names(rows: Iterable[Judgements | None], rubric: str) -> list[str]:
    """Who judged any row by a rubric; the judge without a name first, the others by name."""
    return in_order({called(one) for judgements in rows for one in judgements or () if one["rubric"] == rubric})


def in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != PLAIN, name))


def passes_of(judgements: Judgements | None, rubric: str, judge: str) -> list[dict[str, Mapping[str, Any]]]:
    """What a judge said of a row by a rubric, pass by pass: dimension -> judgement.

    Earlier versions put the judgements of a second run behind those of the first: the last run counts, as it does in
    the columns of scores.
    """
    found = _runs(judgements, rubric, judge)[-1]
    turns = sorted({turn for turn, _ in found})
    return [{name: one for (place, name), one in found.items() if place == turn} for turn in turns]


def earlier_models(judgements: Judgements | None, rubric: str, judge: str) -> set[str]:
    """The models of the runs that do not count (see passes_of)."""
    return {one["model"] for run in _runs(judgements, rubric, judge)[:-1] for one in run.values() if one["model"]}


def _runs(judgements: Judgements | None, rubric: str, judge: str) -> list[dict[tuple[int, str], Mapping[str, Any]]]:
    """(pass, dimension) -> judgement, of each run; one that holds nothing where there is none."""
    runs: list[dict[tuple[int, str], Mapping[str, Any]]] = [{}]
    for one in judgements or ():
        if one["rubric"] == rubric and called(one) == judge:
            place = one["pass"], one["dimension"]
            if place in runs[-1]:  # a further run begins
                runs.append({})
            runs[-1][place] = one
    return runs


def chosen_judges(names: list[str], asked: str | None, otherwise: str | None = None) -> list[str]:
    """Which of those who judged are to be used: the one that is asked for, or ALL of them; where none is asked for, the
    only one, or else the one that is called as `otherwise` says. Raises UsageError where none is meant."""
    if asked is None and len(names) > 1 and otherwise in names:
        return [name for name in names if name == otherwise]
    if asked is None and len(names) > 1:
        raise UsageError(
            f"several judges have judged these rows: {', '.join(names)}",
            hint=f"--judge NAME takes one of them, --judge {ALL} their mean",
        )
    if asked in (None, ALL):
        return [name for name in names if name != ENSEMBLE] or names or [PLAIN]
    if asked not in names:
        by = f"these rows were judged by: {', '.join(names)}" if names else "nobody has judged these rows"
        raise UsageError(f"--judge {asked}: has judged none of these rows by this rubric", hint=by)
    return [asked]
