"""A benchmark's judged rows, from scores to the report; and several models beside each other."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edittools.bench.case_list import expected_counts, listed_counts
from edittools.bench.compare import compare
from edittools.bench.dataset import DETECTED
from edittools.bench.judged import judge_facts, judge_note, read_judged, score_row, shown_case
from edittools.bench.panel import between_judges, mean_row
from edittools.bench.rescoring import summary as scored_summary
from edittools.errors import EditError
from edittools.rubric.names import ENSEMBLE
from edittools.stream.batch import Reject
from edittools.stream.fetch import Fetcher
from edittools.stream.source import Source
from edittools.suites.shared.scores import Score, State, plain, summarize
from edittools.suites.shared.types import (
    LANGUAGES,
    Benchmark,
    Case,
    JudgedCase,
    JudgedRow,
    Rescored,
    case_id,
    known_task,
)


class JudgedBenchmark:
    """The judged rows of one model on one benchmark.

    `rows` are what the judge said of the cases, and where several judges are asked for, what their means are.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        source: Source,
        name: str,
        cases: list[Case] | None = None,
        language: str | None = None,
        limited: bool = False,
        judge: str | None = None,
        otherwise: str | None = None,
        calibrated: bool = False,
    ) -> None:
        """`cases` are all that the benchmark wants. Without them it is what the rows' history says was listed, unless
        the rows are `limited` to some of those; without that, the number of cases is unknown.

        Rows in another language than `language`, where that is given, do not count. Rows that fell out on the way are
        cases without a score. `judge`, `otherwise` and `calibrated` are read_judged's. Raises EditError where
        calibrated scores lie outside the benchmark's scale.
        """
        self.benchmark, self.name, self.judge, self.calibrated = benchmark, name, judge, calibrated
        self.history = source.history.nodes
        by_judge, rejects = read_judged(source, benchmark.name, judge, otherwise, calibrated)
        every = next(iter(by_judge.values()))
        foreign = {row.case["benchmark"] for row in every} - {benchmark.name}
        if foreign:
            raise EditError(f"rows of {', '.join(sorted(map(str, foreign)))}, not of {benchmark.name}")
        for row in every:
            known_task(row.case["task"], benchmark.tasks, row.id)
        self._take(
            {who: [row for row in rows if language in (None, row.case["language"])] for who, rows in by_judge.items()}
        )
        if not self.rows:
            raise EditError("there are no rows to evaluate" + (f" in {language}" if every else ""))
        self.notes = []
        if earlier := sorted(set().union(*(row.earlier for rows in self.by_judge.values() for row in rows))):
            self.notes.append(f"rows hold an earlier run of {', '.join(earlier)} under the same name: the last counts")
        if other := len(every) - len(self.rows):
            self.notes.append(f"{other} rows in another language than {language} do not count here")
        self.lost: list[tuple[str, Score]] = []  # language and score
        if not limited:
            self._add_rejects(rejects, cases or [], language)
            if cases is not None:
                self._add_absent(cases, language)
        self.expected = expected_counts(cases) if cases is not None else None
        if self.expected is None and not limited:
            self.expected = listed_counts(self.history, benchmark.name)
        if self.expected is not None and language is not None:
            self.expected = {language: self.expected.get(language, {})}

    def _take(self, by_judge: dict[str, list[JudgedRow]]) -> None:
        self.by_judge = by_judge
        self.panel = len(by_judge) > 1
        self.rows = [mean_row(rows) if self.panel else next(iter(rows.values())) for rows in self._side_by_side()]
        self.scores = [score_row(self.benchmark, row) for row in self.rows]
        judged = [row for rows in by_judge.values() for row in rows]
        self.facts = judge_facts([one for row in judged for said in row.passes for one in said.values()])
        if self.judge is not None:  # also where it is called `plain`, for there are others
            self.facts["judge name"] = ", ".join(by_judge)
        if self.calibrated:
            self.facts["scores"] = "calibrated to people's ratings: " + "; ".join(
                ", ".join(rows[0].calibrated) + (f" of {judge}" if self.panel else "")
                for judge, rows in by_judge.items()
                if rows
            )
            self._check_scale()

    def _check_scale(self) -> None:
        """Raises EditError: an interval is made of the benchmark's scale, and a mean compared with others on it."""
        for score in self.scores:
            for name, value in score.values.items():
                low, high = self.benchmark.metrics[name]
                if not low <= value <= high:
                    raise EditError(
                        f"--calibrated: {name} {value:g} of {score.key} is outside {low:g} to {high:g}",
                        hint="people have rated on another scale than the benchmark's",
                    )

    @property
    def by_itself(self) -> bool:
        """Whether the scores are one judge's replies: only of these are there official numbers."""
        return not self.panel and not self.calibrated and list(self.by_judge) != [ENSEMBLE]

    def _side_by_side(self) -> list[dict[str, JudgedRow]]:
        """Rows by case, then by judge."""
        return [dict(zip(self.by_judge, rows)) for rows in zip(*self.by_judge.values())]

    def _of_one(self, judge: str) -> JudgedBenchmark:
        """The same cases by one of the judges alone."""
        one = copy.copy(self)
        one._take({judge: self.by_judge[judge]})
        return one

    def _add_rejects(self, rejects: list[Reject], cases: list[Case], language: str | None) -> None:
        """Rows that fell out are cases by their ids; one whose id is no case's is of a task that nobody knows."""
        known = {case.id: (case.task, case.language, case.key) for case in cases}
        spoken = Counter(row.case["language"] for row in self.rows)
        usual = language or spoken.most_common(1)[0][0]
        for reject in rejects:
            location = known.get(reject.id) or self._place(reject.id) or ("unknown", usual, reject.id)
            if language in (None, location[1]):
                state: State = "failed" if reject.failed and reject.stage != "sample" else "missing"
                why = f"rejected by {reject.stage}: {reject.reason}"
                self.lost.append((location[1], Score(location[2], location[0], {}, state, why)))

    def _add_absent(self, cases: list[Case], language: str | None) -> None:
        """Listed cases without a row, one by one: rows of other cases, and two of one, would hide them in a count."""
        listed = {(case.task, case.language, case.key) for case in cases if language in (None, case.language)}
        rows = [(row.case["task"], row.case["language"], row.case["key"]) for row in self.rows]
        present = {*rows, *((score.task, said, score.key) for said, score in self.lost)}
        self.lost += [(said, Score(key, task, {}, "missing", "no row")) for task, said, key in sorted(listed - present)]
        if strange := len(set(rows) - listed):
            self.notes.append(f"{strange} rows are of cases that the list does not have")
        if double := len(rows) - len(set(rows)):
            self.notes.append(f"{double} rows repeat a case, and each of them counts")

    def _place(self, identity: str) -> tuple[str, str, str] | None:
        """Task, language and key that a case's id begins with; None if it is no case's."""
        for task in sorted(self.benchmark.tasks, key=len, reverse=True):
            for language in dict.fromkeys(LANGUAGES.values()):
                if identity.startswith(start := case_id(task, language, "") + "_"):
                    return task, language, identity.removeprefix(start)
        return None

    def write(self, folder: Path) -> Rescored:
        """The official output files, and what the released scripts make of them beside our scores."""
        return self._beside(self._rescored(self.rows, folder))

    def _rescored(self, rows: list[JudgedRow], folder: Path) -> Rescored:
        """What the released script makes of its files; without a script, our scores alone."""
        if self.benchmark.write is not None and self.benchmark.rescore is not None:
            return self.benchmark.rescore(self.benchmark.write(rows, folder, self.name))
        spoken = {row.case["language"] for row in rows}
        scores: dict[str, list[Score]] = {language: [] for language in (spoken if len(spoken) > 1 else {""})}
        return Rescored(official={}, official_means={}, scores=scores, expected={}, notes=[])

    def _beside(self, rescored: Rescored) -> Rescored:
        scored = [*((row.case["language"], score) for row, score in zip(self.rows, self.scores)), *self.lost]
        listed = self.expected
        scores: dict[str, list[Score]] = {"": [score for _, score in scored]}
        expected: dict[str, Mapping[str, int | None] | None] = {}
        official, means, clean = rescored.official, rescored.official_means, rescored.without_failed
        if rescored.scores.keys() == {""}:
            expected[""] = None if listed is None else sum(map(Counter, listed.values()), Counter())
        else:
            spoken = list(dict.fromkeys([*(listed or ()), *(language for language, _ in scored)]))
            scores = {language: [score for said, score in scored if said == language] for language in spoken}
            expected = {language: None if listed is None else listed.get(language, {}) for language in spoken}
            official, means, clean = (
                {language: part[language] for language in spoken if language in part}
                for part in (official, means, clean)
            )
        for language, mine in scores.items():
            expected[language] = expected[language] or self.benchmark.wanted(mine) or None
        return dataclasses.replace(
            rescored,
            official=official,
            official_means=means,
            without_failed=clean,
            scores=scores,
            expected=expected,
            notes=[*rescored.notes, *self.notes],
        )

    def summary(self, outputs: Path | None, seed: int) -> dict[str, Any]:
        """As rescoring.summary; the official files stay in `outputs`, where that is given."""
        if self.panel:
            return self._panel_summary(seed)
        if self.by_itself:
            with tempfile.TemporaryDirectory() as folder:
                report = scored_summary(self.benchmark, self.write(outputs or Path(folder)), seed)
        else:
            report = scored_summary(self.benchmark, self._without_official(), seed)
            report["notes"].append("of replies alone, and so not of these scores, there are official numbers")
        report["notes"].append(judge_note(self.facts))
        detected = self._detected(seed)
        return {**report, "judge": self.facts, **({"detected": detected} if detected else {})}

    def _detected(self, seed: int) -> dict[str, Any]:
        """How often a classifier takes a result for its class, per task and in the mean: where that is "made by a
        model", ImgEdit's fake score."""
        detected = {}
        for name in sorted({name for row in self.rows for name in row.detected}):
            scores = [
                Score(row.id, row.case["task"], {"share": float(value >= DETECTED), "probability": value})
                for row in self.rows
                if (value := row.detected.get(name)) is not None
            ]
            figures = summarize(scores, None, {"share": (0, 1), "probability": (0, 1)}, seed)
            detected[name] = {part: figures[part] for part in ("tasks", "macro", "micro")}
        return detected

    def _without_official(self) -> Rescored:
        """Our scores alone, by language where the benchmark has several."""
        rows = next(iter(self.by_judge.values()))  # replies are one judge's
        with tempfile.TemporaryDirectory() as folder:
            languages = self._rescored(rows, Path(folder)).scores
        return self._beside(Rescored(official={}, official_means={}, scores=languages, expected={}, notes=[]))

    def _panel_summary(self, seed: int) -> dict[str, Any]:
        """The mean over the judges; each by itself in `judges`, with its official numbers, of which a mean has none;
        and in `between_judges` how far they agree."""
        alone = {judge: self._of_one(judge).summary(None, seed) for judge in self.by_judge}
        report = scored_summary(self.benchmark, self._without_official(), seed)
        report["notes"] += [
            judge_note(self.facts),
            "a case counts where every judge has given a score; the official numbers are each judge's own",
        ]
        values = {judge: [row.values() for row in rows] for judge, rows in self.by_judge.items()}
        between = plain(between_judges(values))
        return {**report, "judge": self.facts, "judges": alone, "between_judges": between}

    def judged_scores(self) -> dict[tuple[str, str], float | None]:
        """(row id, dimension) -> score over the passes; None where the judge gave none."""
        scores: dict[tuple[str, str], float | None] = {}
        for row in self.rows:
            values = row.values()
            names = {name for one in row.passes for name in one}
            scores.update({(row.id, name): values.get(name) for name in names})
        return scores

    def shown(self, metric: str) -> list[JudgedCase]:
        """Every case for the gallery, with its images."""
        fetcher = Fetcher()
        return [shown_case(rows, score, metric, fetcher) for rows, score in zip(self._side_by_side(), self.scores)]


def compare_models(models: list[JudgedBenchmark], metric: str, seed: int) -> dict[str, Any]:
    """All models over the cases that each of them has (compare.compare); languages are told apart."""
    scale = models[0].benchmark.metrics[metric]
    return compare({model.name: _by_language(model) for model in models}, metric, scale, seed)


def _by_language(model: JudgedBenchmark) -> list[Score]:
    return [
        dataclasses.replace(score, key=f"{row.case['language']}/{score.key}")
        for row, score in zip(model.rows, model.scores)
    ]
