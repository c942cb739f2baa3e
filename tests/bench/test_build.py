"""Making a benchmark: what becomes a case, and released layouts that are read back as suites."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import image
from test_study_rows import items_of

from edittools.bench.building import Candidate, spread
from edittools.bench.studies.build import build_items
from edittools.cli import eval_build
from edittools.errors import EditError, UsageError
from edittools.record import COLUMNS
from edittools.stream.fetch import Fetcher
from edittools.suites import load_benchmark

THINGS = ("cat", "tower", "bicycle", "lemon", "river")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    names = ("id", "task", "source", "instruction", "provenance")
    schema = pa.schema([*((name, COLUMNS[name]) for name in names), ("concept", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def pool() -> list[dict[str, Any]]:
    """Two tasks of ten rows: of `remove` eight are about a cat; and what cannot be a case."""
    rows = []
    for k in range(20):
        task = ("remove", "color")[k % 2]
        concept = THINGS[k // 2 % 5] if task == "color" or k < 4 else "cat"
        rows.append(
            {
                "id": f"r{k}",
                "task": task,
                "source": [{"bytes": image(k)}],
                "instruction": {
                    "en": f"{task} number{k} of the {concept} {'abcdefghijklmnopqrst'[k] * 5}",
                    "zh": f"改{chr(0x5000 + k)}",
                },
                "concept": concept,
                "provenance": {"native_task": "subject-remove" if task == "remove" else None},
            }
        )
    rows += [
        {**rows[0], "id": "again", "instruction": {"en": rows[0]["instruction"]["en"].upper() + ".", "zh": "x"}},
        {**rows[1], "id": "english", "instruction": {"en": "Only in English"}},
        {**rows[2], "id": "blind", "source": []},
        {**rows[3], "id": "other", "task": "viewpoint", "instruction": {"en": "From above", "zh": "从上面"}},
    ]
    return rows


def invoke(*words: Any) -> Any:
    ran = CliRunner().invoke(eval_build.command, [str(word) for word in words])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    assert ran.exit_code == 0, ran.output
    return ran


def test_what_becomes_a_case_and_why_the_rest_does_not(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.parquet", pool())
    invoke(rows, "--per-task", 5, "-o", f"{tmp_path}/pool/", "-q")
    kept = pq.read_table(tmp_path / "pool/00000.parquet").to_pylist()
    by_task = {task: Counter(row["concept"] for row in kept if row["task"] == task) for task in ("remove", "color")}
    assert by_task["color"] == dict.fromkeys(THINGS, 1)  # each once
    assert by_task["remove"] == {"cat": 4, "tower": 1}  # the one of another concept is in, the rest is what there is
    lines = [json.loads(line) for line in (tmp_path / "pool/_rejects/00000.jsonl").read_text().splitlines()]
    reasons = Counter(line["reason"] for line in lines)
    assert reasons == {
        "more than enough of the task": 10,
        "near-equal intent": 1,
        "no instruction in zh": 1,
        "not one source": 1,
    }
    (near,) = [line for line in lines if line["reason"] == "near-equal intent"]
    assert {near["id"], near["value"]["of"]} == {"again", "r0"} and near["value"]["cosine"] > 0.9
    invoke(rows, "--per-task", 5, "-o", f"{tmp_path}/twice/", "-q")  # the same draw
    assert [row["id"] for row in pq.read_table(tmp_path / "twice/00000.parquet").to_pylist()] == [
        row["id"] for row in kept
    ]


def test_a_draw_goes_round_the_concepts() -> None:
    ranked = [
        Candidate(f"{concept}{k}", "t", concept, "") for concept, n in (("a", 6), ("b", 1), ("c", 3)) for k in range(n)
    ]
    drawn = Counter(name[0] for name in spread(ranked, 7))
    assert drawn == {"a": 3, "b": 1, "c": 3} and len(spread(ranked, 99)) == 10


@pytest.mark.parametrize("layout", ["gedit", "imgedit", "rededit"])
def test_a_layout_is_read_back_as_a_suite(tmp_path: Path, layout: str) -> None:
    rows = [row for row in pool()[:6]] + [pool()[-1]]
    path = write(tmp_path / "rows.parquet", rows)
    said = invoke(path, "--layout", layout, "-o", tmp_path / "bench").stderr
    benchmark, fetcher = load_benchmark(layout), Fetcher()
    lacking = {"gedit": ["viewpoint"], "imgedit": ["color", "viewpoint"], "rededit": []}[layout]
    mine = [row for row in rows if row["task"] not in lacking]
    assert f"{len(mine)} cases" in said
    for language in ("cn", "en") if layout != "imgedit" else ("en",):
        cases = benchmark.cases(tmp_path / "bench", language if layout != "imgedit" else None, None, None)
        assert len(cases) == len(mine) == len({case.id for case in cases})
        found = {case.instruction: case for case in cases}
        for row in mine:
            case = found[row["instruction"]["zh" if language == "cn" else "en"]]
            assert benchmark.canonical_task(case.task) == row["task"]
            data = bytes(fetcher.get(case.sources[0]))
            assert data == row["source"][0]["bytes"] or (layout == "rededit" and data.startswith(b"\x89PNG"))
    with pytest.raises(EditError, match="not empty"):
        invoke(path, "--layout", layout, "-o", tmp_path / "bench")


@pytest.mark.parametrize("layout", ["gedit", "imgedit", "rededit"])
def test_words_that_people_corrected_reach_the_layout(tmp_path: Path, layout: str) -> None:
    """Of a pool that was reviewed the cases have what people agreed to; of a row that nobody reviewed its own words."""
    rows = [row for row in pool()[:6] if row["task"] == "remove"]
    corrected = {"en": "Take the tower away, and nothing else", "zh": "只把塔去掉"}
    reviewed = [rows[0]["instruction"], corrected, None]
    table = pq.read_table(write(tmp_path / "rows.parquet", rows))
    table = table.append_column("instruction_reviewed", pa.array(reviewed, COLUMNS["instruction"]))
    pq.write_table(table, tmp_path / "rows.parquet")
    invoke(tmp_path / "rows.parquet", "--layout", layout, "-o", tmp_path / "bench", "-q")
    wanted = [words or row["instruction"] for words, row in zip(reviewed, rows)]
    for language, name in (("cn", "zh"), ("en", "en")) if layout != "imgedit" else ((None, "en"),):
        cases = load_benchmark(layout).cases(tmp_path / "bench", language, None, None)
        assert sorted(case.instruction for case in cases) == sorted(words[name] for words in wanted)


def test_the_hub_s_library_reads_the_parquet_file(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    invoke(write(tmp_path / "rows.parquet", pool()[:2]), "--layout", "gedit", "-o", tmp_path / "bench", "-q")
    (path,) = (tmp_path / "bench").rglob("*.parquet")
    row = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))[0]
    assert row["input_image"].size == (40, 32) and row["task_type"] == "subject-remove"


def test_a_pool_is_reviewed_by_its_sources_and_words(tmp_path: Path) -> None:
    """Cases have no edited image: the page shows the source alone."""
    key = build_items(items_of(write(tmp_path / "rows.parquet", pool()[:2])), "review", str(tmp_path / "study"))
    assert [case["results"] for case in key["cases"]] == [{"a": "row"}] * 2
    assert '"source": null' in (tmp_path / "study/study.html").read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (("--languages", "fr", "-o", "x/"), "en, zh or en,zh"),
        (("--layout", "gedit"), "writes a folder"),
        (("--per-task", "0", "-o", "x/"), ""),
    ],
)
def test_what_cannot_be_built_is_said(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    ran = CliRunner().invoke(eval_build.command, [str(write(tmp_path / "rows.parquet", pool()[:2])), *words])
    assert isinstance(ran.exception, UsageError | SystemExit) and message in f"{ran.exception}{ran.output}"
