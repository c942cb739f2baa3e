"""`edit eval rescore`: the official numbers, and ours beside them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from edittools.errors import UsageError
from edittools.suites.shared.scores import MUCH, by_ability, plain, summarize
from edittools.suites.shared.types import Benchmark, Outputs, Rescored


def rescore(benchmark: Benchmark, outputs: Outputs, seed: int) -> dict[str, Any]:
    """The released scripts' outputs scored again (see `summary`). Raises UsageError where there is no script."""
    if benchmark.rescore is None:
        raise UsageError(
            f"{benchmark.title} has no script of its own, whose outputs could be scored",
            hint=f"edit eval report {benchmark.name} scores judged rows",
        )
    return summary(benchmark, benchmark.rescore(outputs), seed)


def summary(benchmark: Benchmark, rescored: Rescored, seed: int) -> dict[str, Any]:
    """One JSON object: `official`, and `strict`, `macro`, `micro` and `coverage`, by language where there are several.

    `strict` has the means of each task; where a benchmark has a subset of its own, `intersection` repeats it all for
    that. `official_means` are the official means by task, for tables, and `official_without_failed` the same of the
    cases that have not failed, where the released script ends with an exception or in NaN for those that have. Every
    mean carries its 95% interval (null for too few cases) and every task its coverage; `warnings` say what must not
    be overlooked. Raises EditError.
    """
    parts: dict[str, dict[str, Any]] = {}
    warnings: list[str] = []
    abilities: dict[str, dict[str, Any]] = {}
    for language, scores in rescored.scores.items():
        figures = summarize(scores, rescored.expected[language], benchmark.metrics, seed)
        strict = {"tasks": figures["tasks"]}
        if any(score.subset for score in scores):
            subset = [score for score in scores if score.subset]
            inside = summarize(subset, None, benchmark.metrics, seed)
            strict["intersection"] = {name: inside[name] for name in ("tasks", "macro", "micro", "coverage")}
        strict["reasons"] = dict(Counter(score.reason for score in scores if score.reason).most_common(20))
        parts[language] = {"strict": strict, **{name: figures[name] for name in ("macro", "micro", "coverage")}}
        if found_abilities := by_ability(scores):
            inside = summarize(found_abilities, None, benchmark.metrics, seed)
            abilities[language] = {"tasks": inside["tasks"], "coverage": inside["coverage"]["tasks"]}
        warnings += coverage_warnings(figures["coverage"], language)
    result: dict[str, Any] = {"benchmark": benchmark.name, "official": rescored.official}
    for name in ("strict", "macro", "micro", "coverage"):
        result[name] = _by_language({language: part[name] for language, part in parts.items()})
    result["official_means"] = _by_language(rescored.official_means)
    result["official_without_failed"] = _by_language(rescored.without_failed)
    if abilities:
        result["abilities"] = _by_language(abilities)
    result["notes"] = [
        *rescored.notes,
        *(f"the released script ends with {name}" for name in raised(rescored.official)),
    ]
    result["warnings"] = warnings
    return plain(result)


def _by_language(parts: dict[str, Any]) -> Any:
    return parts[""] if list(parts) == [""] else parts


def coverage_warnings(coverage: dict[str, Any], language: str = "") -> list[str]:
    """What a reader of the means must know first: cases and whole tasks that are not in them."""
    counts, where = coverage["total"], f"{language}: " if language else ""
    lost = counts["failed"] + (counts["missing"] or 0)
    cases = counts["judged"] + lost
    warnings = []
    if cases and lost >= MUCH * cases:
        missing = "unknown" if counts["missing"] is None else counts["missing"]
        rest = f"the means speak of the other {counts['judged']} only" if counts["judged"] else "there are no means"
        warnings.append(
            f"{where}{lost / cases:.0%} of the cases have no score ({lost} of {cases}; {counts['failed']} failed, "
            f"{missing} missing): {rest}"
        )
    empty = [task for task, one in coverage["tasks"].items() if not one["judged"]]
    if empty and counts["judged"]:
        tasks = len(coverage["tasks"])
        warnings.append(
            f"{where}no case of {', '.join(empty)} has a score: the means over tasks are of {tasks - len(empty)} of "
            f"{tasks} tasks"
        )
    return warnings


def raised(official: dict[str, Any]) -> list[str]:
    """The exceptions that the released scripts end with, in any language."""
    parts = [part for part in (official, *official.values()) if isinstance(part, dict)]
    return list(dict.fromkeys(part["raises"] for part in parts if isinstance(part.get("raises"), str)))
