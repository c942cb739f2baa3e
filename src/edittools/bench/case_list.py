"""A benchmark's cases as rows: what `edit sample` is to edit, and where the official layout wants the results."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from edittools.errors import EditError, RowError, UsageError
from edittools.record import COLUMNS, IMAGE
from edittools.stream import codec, files
from edittools.stream.batch import Batch, Shard
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.history import History, digest
from edittools.stream.row_images import list_references, row_images
from edittools.stream.source import Source
from edittools.suites import load_benchmark
from edittools.suites.shared.images import loose_image
from edittools.suites.shared.scores import count_tasks
from edittools.suites.shared.types import Case

# What a row keeps of its case.
CASE = pa.struct(
    [
        ("benchmark", pa.string()),  # the benchmark's name, as in `edit eval`
        ("suite", pa.string()),  # the suite of the benchmark
        ("key", pa.string()),  # what the benchmark calls the case
        ("task", pa.string()),  # what the benchmark calls the task
        ("language", pa.string()),  # of the instruction, as the benchmark spells it
        ("subset", pa.bool_()),  # whether the case belongs to the benchmark's own subset
        ("result_path", pa.string()),  # where the official layout has the result, below a folder of results
        ("source_path", pa.string()),  # where it has a copy of the source
        ("facts", pa.string()),  # JSON: what a judge is told besides the instruction
    ]
)
_ROWS = 256
_RESULT_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def _place(folder: Path, name: Any) -> Path:
    """A file of a folder of results. Raises EditError for a name that leads out of it: rows may be anybody's."""
    if not isinstance(name, str) or "\0" in name or not PurePath(name).name:
        raise EditError(f"{name!r} is no place of a result")
    if files.leads_out(name):
        raise EditError(f"`{name}` leads out of the folder of results")
    return folder / name


_BAGEL = "gen_image"
"""Where BAGEL's script puts the results of GEdit-Bench, beside the scores."""
_TOPS = ("fullset", "images")
"""The first folder of a layout, which BAGEL leaves out (RISEBench), and which may be the one that is given."""


def _found_result(folder: Path, case: Case) -> dict[str, Any] | None:
    """The image at a case's place, of whatever kind; None where there is none."""
    places = [_place(folder, case.result_path)]
    top, *below = PurePath(case.result_path).parts
    if below and top in _TOPS:
        places.append(_place(folder, str(PurePath(*below))))
    for place in places:
        bare = place.with_suffix("") if place.suffix.lower() in _RESULT_ENDINGS else place
        for path in (place, *(bare.with_name(bare.name + ending) for ending in _RESULT_ENDINGS)):
            if path.is_file():
                return loose_image(path)
    return None


def _found_turns(folder: Path, case: Case) -> list[dict[str, Any] | None]:
    """The image of each turn of a dialogue, ID.turn.1.png and so on."""
    places = [dataclasses.replace(case, result_path=f"{case.id}.turn.{n}.png") for n in range(1, len(case.turns) + 1)]
    return [_found_result(folder, place) for place in places]


class CaseSource:
    """The cases of a benchmark as a source of rows: one shard, in the benchmark's own order."""

    replayable = True

    def __init__(self, benchmark: str, suite: str, cases: list[Case], results: Path | None = None) -> None:
        """`results` is a folder of images in the official layout, which become the column `result`: null where it
        has none. Raises EditError where it has none at all.
        """
        self.benchmark, self.suite, self.cases = benchmark, suite, cases
        doubles = [identity for identity, count in Counter(case.id for case in cases).items() if count > 1]
        if doubles:
            raise EditError(f"{benchmark}: two cases are called {doubles[0]}")
        names: tuple[str, ...] = ("id", "task", "source", "instruction", "provenance")
        if any(case.turns for case in cases):
            names = (*names, "turns")
        columns = [*((name, COLUMNS[name]) for name in names), ("case", CASE)]
        self.results: list[dict[str, Any] | None] | None = None
        self.spoken: list[list[dict[str, Any] | None]] = []  # images of the turns of dialogues
        if results is not None:
            if (results / _BAGEL).is_dir():
                results = results / _BAGEL
            self.results = [_found_result(results, case) for case in cases]
            if cases and not any(self.results):
                wanted = cases[0].result_path
                raise EditError(f"{results}: no result of a case, such as {wanted}", hint="name the model's own folder")
            columns.append(("result", IMAGE))
            if any(case.turns for case in cases):
                self.spoken = [_found_turns(results, case) for case in cases]
                columns.append(("result_turns", pa.list_(IMAGE)))
        self.schema = pa.schema(columns)
        self.history = History()
        self.rows: int | None = len(cases)
        tags = [str(image and image["etag"]) for image in self.results or ()]
        made = digest("cases", benchmark, suite, *(f"{case.id}\0{case.instruction}" for case in cases), *tags)
        self.shards: list[Shard] | None = [Shard(0, 1, made)]

    def batches(self, select: Callable[[Shard], bool]) -> Iterator[Batch]:
        assert self.shards is not None
        shard = self.shards[0]
        if not select(shard):
            return
        for start in range(0, len(self.cases), _ROWS):
            part = self.cases[start : start + _ROWS]
            made = [self._row(case) for case in part]
            for row, image in zip(made, (self.results or [])[start:]):
                row["result"] = image
            for row, images in zip(made, self.spoken[start:]):
                row["result_turns"] = images
            rows = pa.RecordBatch.from_pylist(made, schema=self.schema)
            yield Batch(rows, shard, False, len(part))
        yield Batch(pa.RecordBatch.from_pylist([], schema=self.schema), shard, last=True)

    def _row(self, case: Case) -> dict[str, Any]:
        task = load_benchmark(self.benchmark).canonical[case.task]
        return {
            "id": case.id,
            "task": task,
            "source": case.sources,
            "instruction": {"zh" if case.language == "cn" else "en": case.instruction},
            "provenance": {"origin": self.benchmark, "native_task": case.task},
            "turns": [
                {"parent": number - 1, "kind": case.task, "task": task, "instruction": {"en": said}}
                for number, said in enumerate(case.turns)
            ],
            "case": {
                "benchmark": self.benchmark,
                "suite": self.suite,
                "key": case.key,
                "task": case.task,
                "language": case.language,
                "subset": case.subset,
                "result_path": case.result_path,
                "source_path": case.source_path,
                "facts": json.dumps(case.facts, ensure_ascii=False),
            },
        }


def expected_counts(cases: list[Case]) -> dict[str, dict[str, int]]:
    """Language -> task -> number of cases."""
    languages = dict.fromkeys(case.language for case in cases)
    return {name: count_tasks(case.task for case in cases if case.language == name) for name in languages}


def listed_counts(history: Iterable[Mapping[str, Any]], benchmark: str) -> dict[str, dict[str, int]] | None:
    """expected_counts of the cases that a set of rows began with, as its history has them (`edit eval cases`).

    Several lists, such as one per language, add up. None where the history tells of none.
    """
    found: dict[str, Counter[str]] = {}
    for node in history:
        settings = node.get("settings") or {}
        if node.get("command") == "eval" and settings.get("bench") == benchmark:
            for language, counts in (settings.get("cases") or {}).items():
                found.setdefault(language, Counter()).update(counts)
    return {language: dict(counts) for language, counts in found.items()} or None


def export_results(source: Source, folder: Path, overwrite: bool) -> tuple[int, list[str]]:
    """Write the results of cases into the official layout, so that the released judge script finds them.

    Images become PNG, where they are not already; sources go beside the results where the layout has them. Of a
    dialogue there is an image per turn, ID.turn.1.png, ID.turn.2.png, ..., as `edit eval study` reads them.
    Returns how many were written and the ids of the rows without a readable result.
    """
    for name in ("case", "result"):
        if name not in source.schema.names:
            raise UsageError(f"the input has no `{name}` column", hint="edit eval cases BENCH ... | edit sample ...")
    fetcher = Fetcher()
    written, missing = 0, []
    for batch in source.batches(lambda shard: True):
        rows = batch.rows
        facts = rows.column("case").to_pylist()
        results = image_references(row_images(rows, "result"))
        first = image_references(row_images(rows, "source"))
        dialogues = list_references(rows, "result_turns")
        ids = rows.column("id").to_pylist()
        for identity, case, result, turns, source_image in zip(ids, facts, results, dialogues, first):
            try:
                if result is None:
                    raise RowError("no result")
                for number, image in enumerate(turns, 1):
                    name = f"{identity}.turn.{number}.png" if len(turns) > 1 else f"{identity}.png"
                    _write(_place(folder, name), _as_png(fetcher.get(image)), overwrite)
                if not turns:
                    _write(_place(folder, case["result_path"]), _as_png(fetcher.get(result)), overwrite)
                if case["source_path"] and source_image is not None:
                    _write(_place(folder, case["source_path"]), _as_png(fetcher.get(source_image)), overwrite)
                written += 1
            except RowError:
                missing.append(identity)
    return written, missing


def _as_png(data: bytes | memoryview) -> bytes:
    return bytes(data) if codec.sniff(data) == "png" else codec.encode_png(codec.decode(data))


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    files.refuse_existing(str(path), overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(str(path), data)
