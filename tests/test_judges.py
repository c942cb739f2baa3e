"""Several judges of one rubric: their columns, which of them is evaluated, all of them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_vlm_judge import Judge, batches, row, stage, three

from edittools.errors import UsageError
from edittools.judges.judgements import judge_names, passes_of, score_dimensions, score_name
from edittools.judges.rubrics import load_rubric, rubric_names
from edittools.judges.vlm_stage import COLUMN, JUDGEMENT
from edittools.models.writers import Reply
from edittools.stream.batch import Batch, Shard
from edittools.stream.source import align, unify

OVERALL = "judge_dimensions_overall"


def judged(given: list[Batch], value: int, **settings: Any) -> list[Batch]:
    return list(stage(Judge(lambda request: three(value, value, value)), **settings)(iter(given)))


def rows_in(given: list[Batch]) -> list[dict[str, Any]]:
    for batch in given:
        batch.rows.validate(full=True)
    return [one for batch in given for one in batch.rows.to_pylist()]


def test_score_columns_of_judges_cannot_be_confused() -> None:
    """Whatever rubric, dimension, ending and name: every column says one of each, also to SQL without capitals."""
    rubrics = {name: [one.name for one in load_rubric(name).dimensions] for name in rubric_names()}
    names = [None, "qwen", "low", "overall", "a__b", "sc", "_low", "gpt-4.1"]
    made = [
        score_name(rubric, dimension, judge, ending).casefold()
        for rubric, dimensions in rubrics.items()
        for dimension in dimensions
        for judge in names
        for ending in ("", "_low", "_high", "_soft", "_calibrated")
    ]
    assert len(set(made)) == len(made)
    wanted = {score_name("gedit", "sc", name): ("gedit", "sc", "" if name is None else f"__{name}") for name in
              (None, "qwen", "low")}  # fmt: skip
    others = ["visible", "judge_gedit_sc_low", "judge_gedit_sc_low__qwen", "judge_gedit_sc_calibrated"]
    assert score_dimensions([*wanted, *others], rubrics) == wanted


def test_a_named_judge_stands_beside_the_one_without_a_name() -> None:
    once = judged(batches([row("a"), row("b")]), 2)
    twice = judged(once, 4, judge="gpt-4.1", passes=2)
    for one in rows_in(twice):
        scores = one["scores"]
        assert scores[OVERALL] == 2 and scores["judge_dimensions_overall__gpt_4_1"] == 4
        assert scores["judge_dimensions_overall_low__gpt_4_1"] == 4 and "judge_dimensions_overall_low" not in scores
        assert [(said["judge"], said["pass"]) for said in one[COLUMN]] == (
            [(None, 0)] * 4 + [("gpt-4.1", 0)] * 4 + [("gpt-4.1", 1)] * 4
        )
        assert judge_names([one[COLUMN]], "dimensions") == ["plain", "gpt-4.1"]
        assert [said["overall"]["score"] for said in passes_of(one[COLUMN], "dimensions", "gpt-4.1")] == [4, 4]
    # Their spelling needs no quotation marks.
    found = duckdb.from_arrow(pa.Table.from_batches([batch.rows for batch in twice]))
    assert found.select("scores.judge_dimensions_overall__gpt_4_1").fetchall() == [(4,), (4,)]


def test_judging_again_replaces_what_the_same_judge_said() -> None:
    """With several passes and then with one: no column, no entry of the first run is left, and none of others goes."""
    first = judged(judged(batches([row("a")]), 2, judge="b", passes=3), 3)
    maker = stage(Judge(lambda request: three(5, 5, 5)), judge="b")
    (one,) = rows_in(list(maker(iter(first))))
    assert "1 rows were judged by `dimensions` and `b` before: replaced" in maker.remark()
    assert [(said["judge"], said["score"]) for said in one[COLUMN]] == [(None, 3)] * 4 + [("b", 5)] * 4
    names = [f"judge_dimensions_{name}" for name in ("compliance", "naturalness", "coherence", "overall")]
    assert one["scores"] == {"visible": 1, **dict.fromkeys(names, 3), **{f"{name}__b": 5 for name in names}}
    fresh = stage(Judge(lambda request: three(1, 1, 1)), judge="c")
    assert len(rows_in(list(fresh(iter(first))))[0][COLUMN]) == 20 and fresh.remark() == ""


@pytest.mark.parametrize("other", ["gpt-4_1", "GPT-4.1"])
def test_names_that_make_the_same_columns_are_refused_before_anything_is_asked(other: str) -> None:
    once = judged(batches([row("a")]), 2, judge="gpt-4.1")
    asked = Judge(lambda request: three(1, 1, 1))
    with pytest.raises(UsageError, match=r"`gpt-4\.1` has judged these rows"):
        list(stage(asked, judge=other)(iter(once)))
    assert not asked.requests
    list(stage(asked, "viescore", judge=other)(iter(once)))  # of another rubric they are other columns


def old(batch: Batch) -> Batch:
    """The batch as versions wrote it whose judges had no names."""
    kind = pa.struct([field for field in JUDGEMENT if field.name != "judge"])
    schema = pa.schema([pa.field(c.name, pa.list_(kind) if c.name == COLUMN else c.type) for c in batch.rows.schema])
    lists = [[{k: v for k, v in one.items() if k != "judge"} for one in said] for said in
             batch.rows.column(COLUMN).to_pylist()]  # fmt: skip
    columns = [pa.array(lists, pa.list_(kind)) if c.name == COLUMN else batch.rows.column(c.name) for c in schema]
    return Batch(pa.record_batch(columns, schema=schema), Shard(0, 1, ""), True, batch.rows.num_rows)


def test_judgements_from_before_judges_had_names() -> None:
    once = [old(batch) for batch in judged(batches([row("a")]), 2)]
    (one,) = rows_in(judged(once, 4, judge="b"))
    assert [said["judge"] for said in one[COLUMN]] == [None] * 4 + ["b"] * 4 and one["scores"][OVERALL] == 2
    (again,) = rows_in(judged(once, 3))
    assert [said["score"] for said in again[COLUMN]] == [3] * 4
    # Mixed: old rows and new ones of one input.
    new = judged(batches([row("b")]), 3, judge="b")
    schema = unify([once[0].rows.schema, new[0].rows.schema])
    mixed = [Batch(align(batch.rows, schema), Shard(0, 1, ""), True, 1) for batch in (once[0], new[0])]
    made = rows_in(judged(mixed, 5, judge="c"))
    assert [judge_names([one[COLUMN]], "dimensions") for one in made] == [["plain", "c"], ["b", "c"]]


def test_a_second_run_of_an_earlier_version_is_not_counted_with_the_first() -> None:
    """They put its judgements behind those of the first run, three passes then two: the columns hold the last."""
    def entry(turn: int, score: float) -> dict[str, Any]:
        return {"rubric": "dimensions", "dimension": "overall", "pass": turn, "score": score}

    said = [entry(turn, 1) for turn in range(3)] + [entry(turn, 4) for turn in range(2)]
    assert [one["overall"]["score"] for one in passes_of(said, "dimensions", "plain")] == [4, 4]
    assert passes_of(None, "dimensions", "plain") == passes_of(said, "viescore", "plain") == []


def test_states_are_of_the_judge_that_is_asked(tmp_path: Path) -> None:
    once = list(stage(Judge(lambda request: Reply("failed", error="x")), judge="b")(iter(batches([row("a")]))))
    twice = judged(once, 4)
    pq.write_table(pa.Table.from_batches([batch.rows for batch in twice]), tmp_path / "00000.parquet")
    path = str(tmp_path / "00000.parquet")
    states = frozenset({"failed"})
    assert stage(Judge(lambda r: three(1, 1, 1)), judge="b").has_state(path, states)
    assert not stage(Judge(lambda r: three(1, 1, 1))).has_state(path, states)
    assert not stage(Judge(lambda r: three(1, 1, 1)), judge="c").has_state(path, states)
