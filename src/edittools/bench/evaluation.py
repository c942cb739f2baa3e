"""A benchmark's judged rows, from scores to the report; and several models beside each other."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from edittools.bench.case_list import Case, expected_counts
from edittools.bench.compare import compare
from edittools.bench.judged import judge_facts, read_judged, score_row, shown_case
from edittools.bench.public import Benchmark, Rescored, known_task
from edittools.bench.rescoring import summary
from edittools.bench.score_report import JudgedCase
from edittools.bench.scores import Score
from edittools.errors import EditError
from edittools.stream.fetch import Fetcher
from edittools.stream.source import Source


class JudgedBenchmark:
    """The judged rows of one model on one benchmark."""

    def __init__(
        self,
        benchmark: Benchmark,
        source: Source,
        name: str,
        cases: list[Case] | None = None,
        language: str | None = None,
    ) -> None:
        """`cases` are all that the benchmark wants; without them the rows themselves are what is expected.

        Rows in another language than `language`, where that is given, do not count.
        """
        self.benchmark, self.name = benchmark, name
        self.history = source.history.nodes
        every = read_judged(source, benchmark.name)
        foreign = {row.case["benchmark"] for row in every} - {benchmark.name}
        if foreign:
            raise EditError(f"rows of {', '.join(sorted(map(str, foreign)))}, not of {benchmark.name}")
        for row in every:
            known_task(row.case["task"], benchmark.tasks, row.id)
        self.rows = [row for row in every if language in (None, row.case["language"])]
        if not self.rows:
            raise EditError("there are no rows to evaluate" + (f" in {language}" if every else ""))
        self.scores = [score_row(benchmark, row) for row in self.rows]
        self.expected = expected_counts(cases) if cases is not None else None
        self.facts = judge_facts([one for row in self.rows for said in row.passes for one in said.values()])

    def write(self, folder: Path) -> Rescored:
        """The official output files, and what the released scripts make of them beside our scores."""
        found = self.benchmark.rescore(self.benchmark.write(self.rows, folder, self.name))
        if found.scores.keys() == {""}:
            scores = {"": self.scores}
            counts = None if self.expected is None else sum(map(Counter, self.expected.values()), Counter())
            expected: dict[str, dict[str, int] | None] = {"": counts}
        else:
            spoken = dict.fromkeys(row.case["language"] for row in self.rows)
            scores = {
                language: [s for row, s in zip(self.rows, self.scores) if row.case["language"] == language]
                for language in spoken
            }
            expected = {language: None if self.expected is None else self.expected.get(language) for language in spoken}
        official = found.official
        if isinstance(official, dict) and found.scores.keys() != {""}:
            official = {language: official[language] for language in scores if language in official}
        return dataclasses.replace(found, official=official, scores=scores, expected=expected)

    def summary(self, outputs: Path | None, seed: int) -> dict[str, Any]:
        """As rescoring.summary; the official files stay in `outputs`, where that is given."""
        with tempfile.TemporaryDirectory() as folder:
            made = summary(self.benchmark, self.write(outputs or Path(folder)), seed)
        return {**made, "judge": self.facts}

    def judged_scores(self) -> dict[tuple[str, str], float | None]:
        """(row id, dimension) -> score over the passes; None where the judge gave none."""
        found: dict[tuple[str, str], float | None] = {}
        for row in self.rows:
            values = row.values()
            names = {name for one in row.passes for name in one}
            found.update({(row.id, name): values.get(name) for name in names})
        return found

    def shown(self, metric: str) -> list[JudgedCase]:
        """Every case for the gallery, with its pictures."""
        fetcher = Fetcher()
        return [shown_case(row, score, metric, fetcher) for row, score in zip(self.rows, self.scores)]


def compare_models(models: list[JudgedBenchmark], metric: str, seed: int) -> dict[str, Any]:
    """All models over the cases that each of them has (compare.compare); languages are told apart."""
    return compare({model.name: _by_language(model) for model in models}, metric, seed)


def _by_language(model: JudgedBenchmark) -> list[Score]:
    return [
        dataclasses.replace(score, key=f"{row.case['language']}/{score.key}")
        for row, score in zip(model.rows, model.scores)
    ]
