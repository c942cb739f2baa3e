"""What a captioner tells right of edits that are exactly known: rows of `edit synth` with its captions -> figures.

The slots of a row say what was edited: what has to be told is read out of them (edittools.caption.telling), and of
every text it is counted whether it is told. Nobody is asked, and no image is looked at.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edittools.bench.rejects import stored_rejects
from edittools.bench.report import fill, history_list
from edittools.bench.terminal import ReportListing
from edittools.caption.telling import ASPECTS, Part, Verdict, claimable, judge, judge_claims, parts_of
from edittools.errors import EditError, RowError, UsageError
from edittools.metrics import intervals
from edittools.record import TEXT
from edittools.report import thumbnails
from edittools.report.markup import text as escaped
from edittools.rounding import rounded
from edittools.stream import codec
from edittools.stream.fetch import Fetcher, image_references, kept_reference
from edittools.stream.row_images import source_references
from edittools.stream.rows import column_values
from edittools.stream.source import Source
from edittools.synth.synthesis import task_of

MEASURES = ("right", "task", *ASPECTS, "not missed", "not invented")
LEGEND = (
    "right: texts in which everything is right. task: the canonical task that was named. operation ... amount: texts "
    "that tell this of the edit, of those whose edit has it. not missed: every atomic edit is told. not invented: "
    "nothing is named that is no part of it. Which of two shapes has a colour is read where both stand together (a red "
    "star), which has a size is not."
)
_NOT_TOLD = ("instruction_negative", "instruction_evolved")  # are to say something else
_KEPT, _SHOWN = 3, 60  # failures that are kept of a kind in one column and language, and that the page shows


@dataclass
class Failure:
    """A text with what is wrong in it."""

    id: str
    kind: str
    column: str
    language: str
    text: str
    problems: list[str]
    images: tuple[Any, ...] = ()  # references of source and target


class _Count:
    """Texts, and how many of them are right, by measure."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.right: Counter[str] = Counter()

    def add(self, found: Mapping[str, bool | None]) -> None:
        for measure, right in found.items():
            if right is not None:
                self.asked[measure] += 1
                self.right[measure] += right

    def result(self) -> dict[str, Any]:
        return {
            measure: rounded({
                "n": (count := self.asked[measure]),
                "mean": self.right[measure] / count,
                "interval": intervals.interval(intervals.proportion_limits(self.right[measure], count), count),
            })
            for measure in MEASURES
            if self.asked[measure]
        }  # fmt: skip


class CaptionTest:
    """The rows of a captioner, counted. Raises UsageError for rows that have nothing to count."""

    def __init__(self, source: Source, columns: Sequence[str] = ()) -> None:
        names = source.schema.names
        if "provenance" not in names:
            raise UsageError("the input has no `provenance` column", hint="edit eval captions --cases CASES/")
        self.columns = list(columns) or [
            name
            for name in names
            if name.startswith("instruction_") and name not in _NOT_TOLD and source.schema.field(name).type == TEXT
        ]
        if missing := [name for name in self.columns if name not in names]:
            raise UsageError(f"the input has no `{missing[0]}` column")
        self.claims = "changes" in names and not columns
        if not self.columns and not self.claims:
            hint = "edit caption CASES/ --kinds detailed,concise --model NAME -o TOLD/"
            raise UsageError("the input has no column `instruction_...`", hint=hint)
        self.history = list(source.history.nodes)
        self.counts: dict[tuple[str, str, str, str], _Count] = defaultdict(_Count)  # column, language, group, name
        self.failures: list[Failure] = []
        self.kept: Counter[tuple[str, str, str]] = Counter()
        self.rows = self.unknown = 0
        rejects = {reject.id: reject for reject in stored_rejects(source)}
        for batch in source.batches(lambda shard: True):
            self._add(batch.rows)
            rejects |= {reject.id: reject for reject in batch.rejects}
        if not self.rows:
            raise EditError("no row was made by a template of `edit synth`", hint="edit eval captions --cases CASES/")
        self.rejects = Counter(reject.reason for reject in rejects.values())

    def _add(self, rows: Any) -> None:
        wanted = ["id", "provenance", *self.columns]
        wanted += [name for name in ("task", "changes", "annotations") if name in rows.schema.names]
        values = {name: column_values(rows, name) for name in dict.fromkeys(wanted)}
        targets = list(image_references(rows.column("target"))) if "target" in rows.schema.names else []
        sources = source_references(rows) if "source" in rows.schema.names else []
        for k, origin in enumerate(values["provenance"]):
            row = {name: column[k] for name, column in values.items()}
            template, slots = (origin or {}).get("template"), (origin or {}).get("slots")
            if not template or not slots:
                self.unknown += 1
                continue
            try:
                parts = {language: parts_of(template, json.loads(slots), language) for language in ("en", "zh")}
            except (KeyError, ValueError, TypeError) as error:
                raise EditError(f"row {row['id']}: no template knows these slots: {error}") from error
            self.rows += 1
            images = (sources[k][0] if sources and sources[k] else None, targets[k] if targets else None)
            self._judge(row, template, parts, tuple(map(kept_reference, images)))

    def _judge(
        self, row: Mapping[str, Any], template: str, parts: Mapping[str, list[Part]], images: tuple[Any, ...]
    ) -> None:
        for column in self.columns:
            for language, told in (row[column] or {}).items():
                if told:
                    verdict = judge(told, language, parts[language])
                    self._count(row["id"], template, column, language, told, verdict, images)
        if self.claims and row["changes"] and claimable(parts["en"]):
            verdict = judge_claims(row["changes"], parts["en"])
            self._count(row["id"], template, "changes", "en", _claimed(row["changes"]), verdict, images)
        kinds = {one["kind"] for one in row.get("annotations") or () if one["state"] == "ok"}
        if kinds & {"detailed", "classify"} and row.get("task"):
            verdict = Verdict({"task": row["task"] == task_of(template)}, problems=[f"it is `{task_of(template)}`"])
            self._count(row["id"], template, "task", "", row["task"], verdict, images)

    def _count(
        self, identity: str, template: str, column: str, language: str, told: str, verdict: Verdict,
        images: tuple[Any, ...],
    ) -> None:  # fmt: skip
        found = {"right": verdict.perfect, **verdict.right}
        if column != "task":
            found |= {"not missed": not verdict.missed, "not invented": not verdict.invented}
        for group, name in (("all", ""), ("tasks", task_of(template)), ("kinds", template)):
            self.counts[column, language, group, name].add(found)
        key = (column, language, template)
        if not verdict.perfect and self.kept[key] < _KEPT:
            self.kept[key] += 1
            self.failures.append(Failure(identity, template, column, language, told, verdict.problems, images))

    def summary(self) -> dict[str, Any]:
        """{"list", "rows", "expected", "rejects", "texts", "failures"}.

        `list` is the fixed list's name, null of other rows; `texts` are {column: {language: {"all", "tasks": {name},
        "kinds": {name}}}}: shares and intervals by measure.
        """
        made: Mapping[str, Any] = next(
            (node["settings"] for node in self.history if "list" in node.get("settings", {})), {}
        )
        texts: dict[str, Any] = {}
        for (column, language, group, name), count in sorted(self.counts.items()):
            found = texts.setdefault(column, {}).setdefault(language, {"all": {}, "tasks": {}, "kinds": {}})
            if group == "all":
                found["all"] = count.result()
            else:
                found[group][name] = count.result()
        warnings = []
        expected = made.get("rows") or self.rows + sum(self.rejects.values())
        if self.rows < expected:
            warnings.append(
                f"{expected - self.rows} of {expected} rows have no caption, or could not be made: no mean counts them"
            )
        return {
            "list": made.get("list"),
            "rows": self.rows,
            "expected": expected,
            "rejects": dict(self.rejects.most_common()),
            "texts": texts,
            "failures": [
                {"id": f.id, "kind": f.kind, "column": f.column, "language": f.language, "text": f.text,
                 "problems": f.problems}
                for f in self.failures
            ],
            "warnings": warnings,
        }  # fmt: skip

    def html(self, title: str) -> str:
        """The figures, and failures with their images, as one page."""
        found = self.summary()
        whose = f"the list “{found['list']}”" if found["list"] else "rows of your own"
        return fill(
            "captions.html",
            title=title,
            warnings="".join(f'<p class="warning"><b>Warning:</b> {escaped(said)}.</p>' for said in found["warnings"]),
            summary=f"{found['rows']:,} of {found['expected']:,} rows, {escaped(whose)}.",
            tables="".join(map(_table, listings(found))),
            legend=escaped(LEGEND),
            failures=self._gallery(),
            history=history_list(self.history),
        )

    def _gallery(self) -> str:
        fetcher = Fetcher()
        turns: dict[int, list[Failure]] = defaultdict(list)  # the first failure of every kind before the second of any
        seen: Counter[tuple[str, str, str]] = Counter()
        for failure in self.failures:
            key = (failure.column, failure.language, failure.kind)
            turns[seen[key]].append(failure)
            seen[key] += 1
        shown = [failure for turn in sorted(turns) for failure in turns[turn]][:_SHOWN]
        return "".join(_case(failure, fetcher) for failure in shown) or '<p class="note">None.</p>'


def _claimed(changes: Sequence[Mapping[str, str]]) -> str:
    return "; ".join(f"{c['action']} {c['object']} ({c['where']}): {c['before']} → {c['after']}" for c in changes)


def _case(failure: Failure, fetcher: Fetcher) -> str:
    figures = ""
    for name, reference in zip(("source", "target"), failure.images):
        try:
            uri = thumbnails.data_uri(codec.decode(fetcher.get(reference))) if reference else None
        except RowError:
            uri = None
        shown = f'<img alt="{name}" src="{uri}">' if uri else '<p class="note">no image</p>'
        figures += f"<figure>{shown}<figcaption>{name}</figcaption></figure>"
    wrong = "".join(f"<p>{escaped(problem)}</p>" for problem in failure.problems)
    return (
        f'<article class="case judged" style="--images: 2"><div class="images">{figures}</div><div class="about">'
        f'<div class="tag"><b>{escaped(failure.kind)}</b> · {escaped(failure.column)} {escaped(failure.language)}</div>'
        f'<div class="said"><p dir="auto">{escaped(failure.text)}</p></div><div class="words">{wrong}</div>'
        f'<div class="id mono">{escaped(failure.id)}</div></div></article>'
    )


def listings(found: Mapping[str, Any]) -> list[ReportListing]:
    """Of every column and language the shares in per cent, by measure; then what is right of all of them, by task."""
    texts = {
        f"{column.removeprefix('instruction_')} {language}".strip(): groups
        for column, languages in found["texts"].items()
        for language, groups in languages.items()
    }
    made = []
    for name, groups in texts.items():
        rows = [[measure, str(entry["n"]), _share(entry), _bounds(entry)] for measure, entry in groups["all"].items()]
        made.append(ReportListing(name, ["told", "n", "per cent", "95% interval"], rows))
    tasks = sorted({task for groups in texts.values() for task in groups["tasks"]})
    by_task = [
        [task, *(_share(groups["tasks"].get(task, {}).get("right")) for groups in texts.values())] for task in tasks
    ]
    made.append(ReportListing("Right, by task", ["task", *texts], by_task, [LEGEND]))
    return made


def _share(entry: Mapping[str, Any] | None) -> str:
    return f"{100 * entry['mean']:.1f}" if entry else "–"


def _bounds(entry: Mapping[str, Any]) -> str:
    bounds = entry["interval"]
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else intervals.TOO_FEW


def _table(made: ReportListing) -> str:
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in made.columns)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in made.rows)
    return (
        f'<h2>{escaped(made.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
