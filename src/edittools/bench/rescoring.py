"""`edit eval BENCH --rescore`: the official numbers, and ours beside them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from edittools.bench.public import Benchmark, Outputs, Rescored
from edittools.bench.scores import plain, summarize


def rescore(benchmark: Benchmark, outputs: Outputs, seed: int) -> dict[str, Any]:
    """The released scripts' outputs scored again (see `summary`)."""
    return summary(benchmark, benchmark.rescore(outputs), seed)


def summary(benchmark: Benchmark, found: Rescored, seed: int) -> dict[str, Any]:
    """One JSON object: `official`, and `strict`, `macro`, `micro` and `coverage`, by language where there are several.

    `strict` has the means of each task; where a benchmark has a subset of its own, `intersection` repeats it all for
    that. `official_means` are the official means by task, for tables. Every mean carries its 95% bootstrap interval
    and every task its coverage. Raises EditError.
    """
    parts: dict[str, dict[str, Any]] = {}
    for language, scores in found.scores.items():
        made = summarize(scores, found.expected[language], benchmark.metrics, seed)
        strict = {"tasks": made["tasks"]}
        if any(score.subset for score in scores):
            subset = [score for score in scores if score.subset]
            inside = summarize(subset, None, benchmark.metrics, seed)
            strict["intersection"] = {name: inside[name] for name in ("tasks", "macro", "micro", "coverage")}
        strict["reasons"] = dict(Counter(score.reason for score in scores if score.reason).most_common(20))
        parts[language] = {"strict": strict, **{name: made[name] for name in ("macro", "micro", "coverage")}}
    result: dict[str, Any] = {"benchmark": benchmark.name, "official": found.official}
    for name in ("strict", "macro", "micro", "coverage"):
        by_language = {language: part[name] for language, part in parts.items()}
        result[name] = by_language[""] if list(by_language) == [""] else by_language
    means = found.official_means
    result["official_means"] = means[""] if list(means) == [""] else means
    result["notes"] = [*found.notes, *(f"the released script ends with {name}" for name in _raised(found.official))]
    return plain(result)


def _raised(official: dict[str, Any]) -> list[str]:
    """The exceptions that the released scripts end with, in any language."""
    parts = [part for part in (official, *official.values()) if isinstance(part, dict)]
    return list(dict.fromkeys(part["raises"] for part in parts if isinstance(part.get("raises"), str)))
