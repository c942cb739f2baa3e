"""Several judges of one rubric: their columns, which of them is evaluated, all of them together."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, pixels
from test_clients import Server, chat, response
from test_public_eval import ANYWAY, VIE, answer, sampled
from test_vlm_judge import Judge, batches, row, stage, three

from edittools.bench.checkpoints import score_columns
from edittools.errors import UsageError
from edittools.judge.ensemble import EnsembleStage
from edittools.judge.judgements import ENDINGS, judge_names, passes_of, score_dimensions, score_name
from edittools.judge.rubrics import load_rubric, rubric_names
from edittools.judge.rubrics.text import KEYS
from edittools.judge.stage import COLUMN, JUDGEMENT
from edittools.stream.batch import Batch, Shard
from edittools.stream.schemas import align, unify
from edittools.vlm import Reply

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
        for ending in ENDINGS
    ]
    assert len(set(made)) == len(made)
    wanted = {score_name("gedit", "sc", name): ("gedit", "sc", "" if name is None else f"__{name}") for name in
              (None, "qwen", "low")}  # fmt: skip
    others = ["visible", "judge_gedit_sc_low", "judge_gedit_sc_low__qwen", "judge_gedit_sc_calibrated"]
    assert score_dimensions([*wanted, *others], rubrics) == wanted
    summary = {"checkpoints": [{"scores": dict.fromkeys([*wanted, *others])}]}  # a table has the scores alone
    assert score_columns(summary) == sorted(wanted)


def test_a_named_judge_stands_beside_the_one_without_a_name() -> None:
    once = judged(batches([row("a"), row("b")]), 2)
    twice = judged(once, 4, judge="gpt-4.1", passes=2)
    for one in rows_in(twice):
        scores = one["scores"]
        assert scores[OVERALL] == 2 and scores["judge_dimensions_overall__gpt_4_1"] == 4
        # Two passes are too few for an interval.
        assert scores["judge_dimensions_overall_low__gpt_4_1"] is None and "judge_dimensions_overall_low" not in scores
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


# What the strict judge says of each case by its instruction: SC's two numbers; quality is always [2, 9].
STRICT = {"en 0": [6, 8], "cn 0": [4, 5], "en 1": [1, 1], "cn 1": [3, 3], "en 2": [5, 5], "cn 2": None}


def strict(prompt: str, number: int) -> list[bytes]:
    if prompt.endswith("Quality"):
        return [response(200, chat(json.dumps({"reasoning": "so", "score": [2, 9]})))]
    score = STRICT[prompt.split("Semantics of ")[1]]
    if score is None:
        return [response(200, chat("", finish="content_filter"))]
    return [response(200, chat(json.dumps({"reasoning": "strictly", "score": score})))]


@pytest.fixture(scope="module")
def judged_twice(session_edit: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GEdit's six cases, judged by one without a name and by `strict-1`, each of which fails of a case or two."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "vie_prompts.py").write_text(VIE)
    rows = sampled(session_edit, folder)
    for name, script, out in ((None, answer, "one"), ("strict-1", strict, "two")):
        server = Server(script)
        try:
            words = ["judge", rows, "--rubric", "gedit", "--prompts", folder / "vie_prompts.py", *ANYWAY]
            words += ["--model", name or "mild", "--api-base", server.url, "-o", folder / out]
            session_edit(*words, *(["--judge", name] if name else []))
        finally:
            server.close()
        rows = folder / out
    return folder


@pytest.fixture
def panel(tmp_path: Path, judged_twice: Path) -> Path:
    """A copy of it: `one` by the first judge, `two` by both."""
    shutil.copytree(judged_twice, tmp_path, dirs_exist_ok=True)
    return tmp_path / "two"


def figures(edit: Runner, *words: Any) -> dict[str, Any]:
    return json.loads(edit("eval", "report", "gedit", *words, "-f", "json").stdout)


def test_eval_uses_the_judge_that_is_named(edit: Runner, tmp_path: Path, panel: Path) -> None:
    refused = edit("eval", "report", "gedit", panel, "-f", "json", check=2).stderr
    assert "plain, strict-1" in refused and "hint: --judge NAME" in refused
    mild, harsh = (figures(edit, panel, "--judge", name) for name in ("plain", "strict-1"))
    assert mild["macro"] == figures(edit, tmp_path / "one")["macro"]
    assert "judge name" not in figures(edit, tmp_path / "one")["judge"]
    assert mild["judge"]["judge name"] == "plain" and any("called plain" in note for note in mild["notes"])
    assert harsh["judge"]["judge name"] == "strict-1"
    assert any("called strict-1" in note for note in harsh["notes"])
    # By hand, English: sqrt(6 x 2), sqrt(1 x 2), sqrt(5 x 2), each task with one case.
    wanted = (math.sqrt(12) + math.sqrt(2) + math.sqrt(10)) / 3
    assert harsh["macro"]["en"]["overall"]["mean"] == pytest.approx(wanted, abs=1e-4)
    assert harsh["official"]["en"]["quality"]["background_change"] == 2
    assert "plain, strict-1" in edit("eval", "report", "gedit", panel, "--judge", "x", check=2).stderr
    assert "--judge" in edit("eval", "report", "heldout", panel, "--judge", "x", check=2).stderr
    # Rows of a plain run and of a named one in one input: who judged only some of them is one to choose from too.
    edit("cat", tmp_path / "one", "--limit", 2, "-o", tmp_path / "part")
    assert "plain" in edit("eval", "report", "gedit", tmp_path / "part", "--judge", "strict-1", check=2).stderr
    assert "plain, strict-1" in edit("eval", "report", "gedit", tmp_path / "part", panel, check=2).stderr
    (one, *_) = edit("filter", panel, "--where", "scores.judge_gedit_sc__strict_1 = 6", "-f", "jsonl").lines
    assert one["scores"]["judge_gedit_sc"] == 4


def test_a_panel_is_the_mean_over_its_judges(edit: Runner, tmp_path: Path, panel: Path) -> None:
    found = figures(edit, panel, "--judge", "all", "-o", tmp_path / "r.html")
    # English: case 0 has 4 and 6 of SC, 8 and 2 of PQ; case 1 has 2 and 1; of case 2 the first judge gave no SC.
    first = (math.sqrt(32) + math.sqrt(12)) / 2
    second = (4 + math.sqrt(2)) / 2
    english = found["strict"]["en"]["tasks"]
    assert english["background_change"]["semantics"]["mean"] == english["background_change"]["quality"]["mean"] == 5
    assert english["background_change"]["overall"]["mean"] == pytest.approx(first, abs=1e-4)
    assert found["macro"]["en"]["overall"]["mean"] == pytest.approx((first + second) / 2, abs=1e-4)
    assert found["coverage"]["en"]["total"]["judged"] == 2 and found["coverage"]["en"]["total"]["failed"] == 1
    assert any(why.startswith("plain: ") for why in found["strict"]["en"]["reasons"])
    assert any(why.startswith("strict-1: ") for why in found["strict"]["cn"]["reasons"])
    # Each by itself, with its official numbers; the mean has none.
    assert found["official"] == {} and found["judge"]["mean over"] == "2 judges"
    for name in ("plain", "strict-1"):
        alone = figures(edit, panel, "--judge", name)
        for part in ("official", "macro"):
            assert found["judges"][name][part] == alone[part]
    # SC of the cases that both scored: 4, 10, 2 against 6, 4, 1: one of three within 1; PQ: 8 against 2 six times.
    between = found["between_judges"]
    assert between["sc"]["cases"] == 3 and between["sc"]["within_one"] == pytest.approx(1 / 3)
    assert between["sc"]["means"] == {"plain": pytest.approx(16 / 3), "strict-1": pytest.approx(11 / 3)}
    assert between["sc"]["spearman"] == pytest.approx(0.5)  # ranks 2, 3, 1 and 3, 2, 1
    assert between["pq"]["within_one"] == 0 and between["pq"]["means"] == {"plain": 8, "strict-1": 2}
    # Beside people a panel is its mean: 5, 7 and 1.5 of SC.
    said = {"background_change_en_key_0": 5, "background_change_cn_key_0": 9, "subject-add_en_same": 2}
    (tmp_path / "people.csv").write_text("id,dimension,score\n" + "".join(f"{k},sc,{v}\n" for k, v in said.items()))
    people = figures(edit, panel, "--judge", "all", "--humans", tmp_path / "people.csv")["agreement"]["sc"]
    assert people["rows"] == 3 and people["within_one"] == pytest.approx(2 / 3)
    page = (tmp_path / "r.html").read_text()
    assert "The judges beside each other" in page and "Each judge alone" in page and "sc, strict-1" in page
    shown = edit("eval", "report", "gedit", panel, "--judge", "all", "-f", "markdown").stdout.decode()
    assert "strict-1" in shown and "mean over 2 judges" in shown
    for official in (["--scoring", "official"], ["--outputs", tmp_path / "o"]):
        assert "--judge NAME" in edit("eval", "report", "gedit", panel, "--judge", "all", *official, check=2).stderr


def test_an_ensemble_stands_in_columns_of_its_own_and_is_a_judge_to_eval(
    edit: Runner, tmp_path: Path, panel: Path
) -> None:
    done = edit("judge", panel, "--ensemble", "-o", tmp_path / "three")
    assert "gedit: the mean over plain, strict_1; 3 of 6 rows lack one, the first: " in done.stderr
    rows = edit("cat", tmp_path / "three", "-f", "jsonl").lines
    assert sum(one["scores"]["judge_gedit_sc__ensemble"] is not None for one in rows) == 3
    for one, before in zip(rows, edit("cat", panel, "-f", "jsonl").lines):
        for dimension in ("sc", "pq", "overall"):
            name = f"judge_gedit_{dimension}"
            given = [one["scores"][name], one["scores"][f"{name}__strict_1"]]
            mean, spread = (one["scores"][f"{name}{ending}__ensemble"] for ending in ("", "_spread"))
            if None in given:
                assert mean is None and spread is None
            else:
                assert mean == pytest.approx(np.mean(given), rel=1e-5)
                assert spread == pytest.approx(np.std(given, ddof=1), rel=1e-5, abs=1e-6)
        assert one["judgements"][: len(before["judgements"])] == before["judgements"]
        mine = one["judgements"][len(before["judgements"]) :]
        assert [(said["judge"], said["dimension"], said["reply"]) for said in mine] == [
            ("ensemble", name, None) for name in ("sc", "pq", "overall")
        ]
        assert {said["model"] for said in mine if said["state"] == "ok"} <= {"snapshot-2026-01-01"}
    # It is what eval makes of all judges, and neither of them.
    alone, all_of = (figures(edit, tmp_path / "three", "--judge", name) for name in ("ensemble", "all"))
    for part in ("macro", "coverage"):
        assert alone[part] == all_of[part] == figures(edit, panel, "--judge", "all")[part]
    assert list(all_of["judges"]) == ["plain", "strict-1"]
    assert figures(edit, tmp_path / "three", "--judge", "plain")["macro"] == figures(edit, tmp_path / "one")["macro"]
    # Once more, into JSON lines and through a pipe: the same, and nothing twice.
    assert edit("judge", tmp_path / "three", "--ensemble", "--rubric", "gedit", "-f", "jsonl").lines == rows
    piped = edit.pipe(["cat", panel], ["judge", "--ensemble", "-f", "jsonl"])[-1]
    assert [json.loads(line)["scores"] for line in piped.stdout.splitlines()] == [one["scores"] for one in rows]


def test_eval_takes_calibrated_scores_and_says_so(edit: Runner, tmp_path: Path, panel: Path) -> None:
    rows = edit("cat", panel, "-f", "jsonl").lines
    people = "id,dimension,score\n" + "".join(f"{row['id']},overall,{k + 2}\n" for k, row in enumerate(rows))
    (tmp_path / "people.csv").write_text(people)
    words = ["--calibrate", tmp_path / "people.csv", "--folds", 2]
    edit("judge", panel, *words, "--judge", "strict-1", "-o", tmp_path / "scaled")
    chosen = [tmp_path / "scaled", "--judge", "strict-1"]
    raw, found = figures(edit, *chosen), figures(edit, *chosen, "--calibrated")
    by_id = {row["id"]: row for row in edit("cat", tmp_path / "scaled", "-f", "jsonl").lines}
    english = [row for row in by_id.values() if row["case"]["language"] == "en"]
    wanted = [row["scores"]["judge_gedit_overall_calibrated__strict_1"] for row in english]  # a task each
    assert found["macro"]["en"]["overall"]["mean"] == pytest.approx(np.mean(wanted), rel=1e-5)
    assert found["macro"]["en"]["overall"]["mean"] != raw["macro"]["en"]["overall"]["mean"]
    assert found["macro"]["en"]["semantics"] == raw["macro"]["en"]["semantics"]  # nobody rated it
    assert found["coverage"] == raw["coverage"] and found["official"] == {} and raw["official"] != {}
    assert found["judge"]["scores"] == "calibrated to people's ratings: overall"
    assert any(said.startswith("judge: ") and "strict-1; calibrated to people" in said for said in found["notes"])
    page = tmp_path / "r.html"
    edit("eval", "report", "gedit", *chosen, "--calibrated", "-o", page, "-f", "json")
    assert "calibrated to people" in page.read_text()
    for refused in (["--scoring", "official"], ["--outputs", tmp_path / "o"]):
        assert "--judge NAME" in edit("eval", "report", "gedit", *chosen, "--calibrated", *refused, check=2).stderr
    said = edit("eval", "report", "gedit", tmp_path / "scaled", "--judge", "plain", "--calibrated", check=2).stderr
    assert "no score of judge plain by rubric gedit is calibrated" in said and "hint: edit judge" in said
    # The ensemble, as it is and calibrated; and people who rated on another scale.
    edit("judge", panel, "--ensemble", "-o", tmp_path / "three")
    both = figures(edit, tmp_path / "three", "--judge", "ensemble")
    assert both["judge"]["judge name"] == "ensemble" and both["official"] == {}
    assert "--judge NAME" in edit("eval", "report", "gedit", tmp_path / "three", "--judge", "ensemble", "--scoring",
                                    "official",
                                  check=2).stderr  # fmt: skip
    (tmp_path / "people.csv").write_text(people.replace("\n", "0\n").replace("score0", "score"))
    edit("judge", panel, *words, "--judge", "strict-1", "-o", tmp_path / "tens")
    said = edit("eval", "report", "gedit", tmp_path / "tens", "--judge", "strict-1", "--calibrated", check=1).stderr
    assert "outside 0 to 10" in said and "another scale" in said


def test_an_ensemble_is_gone_when_one_of_its_judges_judges_again() -> None:
    once = judged(judged(batches([row("a"), row("b")]), 2), 5, judge="b")
    both = list(EnsembleStage()(iter(once)))
    (one, _) = rows_in(both)
    assert one["scores"][f"{OVERALL}__ensemble"] == 3.5
    assert one["scores"]["judge_dimensions_overall_spread__ensemble"] == pytest.approx(4.5**0.5, rel=1e-5)
    again = stage(Judge(lambda request: three(1, 1, 1)), judge="c")
    for one in rows_in(list(again(iter(both)))):
        assert not any(name.endswith("__ensemble") for name in one["scores"])
        assert {said["judge"] for said in one[COLUMN]} == {None, "b", "c"}
    assert again.remark() == ""
    (one, _) = rows_in(list(stage(Judge(lambda request: three(1, 1, 1)), "viescore")(iter(both))))
    assert one["scores"][f"{OVERALL}__ensemble"] == 3.5, "another rubric's stays"


def test_what_no_ensemble_can_be_made_of(edit: Runner, tmp_path: Path) -> None:
    once = judged(batches([row("a")]), 2)
    for given, rubric in ((once, None), (batches([row("a")]), None), (judged(once, 3, judge="b"), "gedit")):
        with pytest.raises(UsageError, match="no scores of two judges by one rubric"):
            list(EnsembleStage(rubric)(iter(given)))
    scores = {OVERALL: 1.0, f"{OVERALL}__b": 2.0}  # nobody's words
    table = pa.Table.from_pylist([{"id": "1", "scores": scores}, {"id": "2", "scores": {**scores, OVERALL: None}}])
    pq.write_table(table, tmp_path / "bare.parquet")
    first, second = edit("judge", tmp_path / "bare.parquet", "--ensemble", "-f", "jsonl").lines
    assert first["scores"][f"{OVERALL}__ensemble"] == 1.5 and second["scores"][f"{OVERALL}__ensemble"] is None
    said = {one["dimension"]: one for one in second["judgements"]}
    assert (said["overall"]["state"], said["overall"]["error"]) == ("failed", "plain: not judged by this rubric")
    for words in (["--model", "m"], ["--judge", "b"], ["--folds", "3"]):
        done = edit("judge", tmp_path / "bare.parquet", "--ensemble", *words, check=2)
        assert "changes nothing beside --ensemble" in done.stderr


def test_judges_one_after_the_other_in_a_pipe_and_over_json_lines(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(pixels(1), "PNG"))
    row = {"id": "1", "source": "a.png", "target": "a.png", "instruction": "Blue.", "task": "add"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    rated = json.dumps({"rationale": "r", "compliance": 4, "naturalness": 4, "coherence": 4})
    server = Server(lambda prompt, number: [response(200, chat(rated))])
    words = ["judge", "--rubric", "dimensions", "--model", "m", "--api-base", server.url]
    words += ["--cache-dir", tmp_path / "store"]
    try:
        edit(*words, tmp_path / "rows.jsonl", "-o", tmp_path / "one.jsonl")
        (again,) = edit(*words, tmp_path / "one.jsonl", "--judge", "b", "-f", "jsonl").lines
        piped = edit.pipe([*words, tmp_path / "rows.jsonl"], [*words, "--judge", "b", "-f", "jsonl"])[-1]
        twice = edit(*words, tmp_path / "one.jsonl", "-f", "jsonl")
    finally:
        server.close()
    assert [one["judge"] for one in again["judgements"]] == [None] * 4 + ["b"] * 4
    assert again["scores"][OVERALL] == again["scores"][f"{OVERALL}__b"] == 4
    assert json.loads(piped.stdout)["scores"] == again["scores"]
    assert sum(server.calls.values()) == 1  # a name asks nothing new
    assert len(twice.lines[0]["judgements"]) == 4 and "1 rows were judged by `dimensions`" in twice.stderr


def test_names_of_judges(edit: Runner, tmp_path: Path) -> None:
    for name in ("all", "plain", "ensemble", "a b", "", "ä"):
        words = ["judge", tmp_path, "--rubric", "viescore", "--model", "x", "--judge", name]
        assert "--judge" in edit(*words, check=2).stderr
    assert "--rubric NAME" in edit("judge", tmp_path, "--judge", "a", check=2).stderr


def test_an_earlier_run_under_the_same_name_is_told(edit: Runner, tmp_path: Path, panel: Path) -> None:
    """Earlier versions appended a second judge's run to the first one's, without a word of it in the report."""
    table = pq.read_table(panel / "00000.parquet")
    lists = [[{k: v for k, v in one.items() if k != "judge"} | {"model": f"m-{one['judge']}"} for one in said]
             for said in table["judgements"].to_pylist()]  # fmt: skip
    kind = pa.list_(pa.struct([one for one in JUDGEMENT if one.name != "judge"]))
    results = pq.read_table(tmp_path / "results0.parquet")
    assert results["id"].equals(table["id"])
    pq.write_table(results.append_column("judgements", pa.array(lists, kind)), tmp_path / "old.parquet")
    found = figures(edit, tmp_path / "old.parquet")
    assert found["judge"]["judge"] == "m-strict-1" and any("earlier run of m-None" in note for note in found["notes"])
    alone = figures(edit, panel, "--judge", "strict-1")
    assert found["strict"]["en"]["tasks"] == alone["strict"]["en"]["tasks"] and "earlier" not in str(alone["notes"])


def test_a_run_of_another_judge_in_the_same_set(edit: Runner, panel: Path) -> None:
    """The run's name says which of the set's judges it is: else a judge would be compared with itself."""
    found = figures(edit, panel, "--judge", "plain", "--judge-run", f"strict-1={panel}")["judge_runs"]["strict-1"]
    # Both have scored all but three of the six cases, and none alike.
    assert found["cases"] == found["moves"] == 3 and found["same"] == 0
    assert (
        "--judge NAME"
        in edit("eval", "report", "gedit", panel, "--judge", "plain", "--judge-run", f"x={panel}", check=2).stderr
    )


def test_pairs_by_several_judges(edit: Runner, tmp_path: Path) -> None:
    """Four comparisons: one judge without a name says A wins all, `b` ties twice, loses one and fails of the last."""

    def entry(name: str | None, score: float | None) -> dict[str, Any]:
        blank = {child.name: None for child in JUDGEMENT}
        state = {"state": "failed", "error": "503"} if score is None else {"state": "ok"}
        return {**blank, **state, "rubric": "pairwise", "dimension": "preference", "judge": name, "score": score,
                "pass": 0, "model": f"m-{name}"}  # fmt: skip

    said = [[entry(None, 1.0), entry("b", score)] for score in (0.5, 0.5, 0.0, None)]
    table = {"id": list("abcd"), "judgements": pa.array(said, pa.list_(JUDGEMENT))}
    pq.write_table(pa.table(table), tmp_path / "pairs.parquet")
    words = ["eval", "report", "pairwise", tmp_path / "pairs.parquet", "--models", "A,B", "-f"]
    assert "plain, b" in edit(*words, "json", check=2).stderr
    found = {name: json.loads(edit(*words, "json", "--judge", name).stdout) for name in ("plain", "b", "all")}
    rates = {name: one["models"]["A"]["win_rate"] for name, one in found.items()}
    assert rates == {"plain": 1, "b": pytest.approx(1 / 3), "all": pytest.approx((0.75 + 0.75 + 0.5) / 3)}
    assert [one["comparisons"] for one in found.values()] == [4, 3, 3]
    assert found["all"]["reasons"] == {"b: 503": 1} and found["b"]["judges"] == {"b": ["m-b"]}
    assert found["all"]["models"]["A"]["wins"] == 1.5 and found["all"]["models"]["A"]["losses"] == 0.5
    assert found["all"]["between_judges"]["preference"]["means"] == {"plain": 1, "b": pytest.approx(1 / 3)}
    shown = edit(*words, "markdown", "--judge", "all").stdout.decode()
    assert "The judges beside each other" in shown and "plain (m-None); b (m-b), the mean over them" in shown


def test_the_text_subset_by_several_judges(edit: Runner, tmp_path: Path) -> None:
    """Three cases, by a judge in two passes and by another; a judge counts once, and a case needs both."""

    def said(name: str | None, turn: int, score: float | None) -> list[dict[str, Any]]:
        blank = {child.name: None for child in JUDGEMENT}
        state = {"state": "filtered", "error": "no"} if score is None else {"state": "ok"}
        return [{**blank, **state, "rubric": "text", "dimension": key, "judge": name, "score": score, "pass": turn,
                 "reply": f"{name} says {key}", "model": f"m-{name}"} for key in KEYS]  # fmt: skip

    # The first judge's means are 3, 5 and 1; the second one says 5, 4 and nothing.
    judgements = [
        [*said(None, 0, first), *said(None, 1, second), *said("b", 0, other)]
        for first, second, other in ((2.0, 4.0, 5.0), (5.0, 5.0, 4.0), (1.0, 1.0, None))
    ]
    image = {"bytes": encode(pixels(1), "PNG"), "path": None}
    case = {"benchmark": "rededit", "task": "text", "language": "cn", "key": "1", "subset": False, "suite": ""}
    rows = [
        {"id": str(k), "case": case, "instruction": {"zh": "改"}, "source": [image], "result": image} for k in range(3)
    ]
    table = pa.Table.from_pylist(rows).append_column("judgements", pa.array(judgements, pa.list_(JUDGEMENT)))
    pq.write_table(table, tmp_path / "text.parquet")
    words = ["eval", "report", "rededit", tmp_path / "text.parquet", "--suite", "text", "-f"]
    assert "plain, b" in edit(*words, "json", check=2).stderr
    found = {name: json.loads(edit(*words, "json", "--judge", name, "-o", tmp_path / f"{name}.html").stdout)
             for name in ("plain", "b", "all")}  # fmt: skip
    means = {name: (one["metrics"]["style"]["n"], one["metrics"]["style"]["mean"]) for name, one in found.items()}
    assert means == {"plain": (3, 3), "b": (2, 4.5), "all": (2, 4.25)}
    assert found["all"]["reasons"]["style"] == {"b: no": 1} and found["b"]["judge"]["judge name"] == "b"
    assert found["all"]["between_judges"]["style"]["means"] == {"plain": 4, "b": 4.5}
    page = (tmp_path / "all.html").read_text()
    assert "None says style" in page and "b says style" in page and "The judges beside each other" in page
    assert "b says style" not in (tmp_path / "plain.html").read_text()


def test_judges_that_judged_apart_are_joined_by_case(edit: Runner, tmp_path: Path, panel: Path) -> None:
    """Two runs over the same results, each into its own set, are as good as one after the other."""
    server = Server(strict)
    words = ["--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py", *ANYWAY, "--model", "x", "--judge"]
    try:
        edit("judge", tmp_path / "results0.parquet", *words, "strict-1", "--api-base", server.url, "-o", tmp_path / "b")
        other = sampled(edit, tmp_path, 10)
        edit("judge", other, *words, "strict-1", "--api-base", server.url, "-o", tmp_path / "c")
    finally:
        server.close()
    for name in ("all", "strict-1"):
        together, apart = (
            figures(edit, *sets, "--judge", name) for sets in ([panel], [tmp_path / "one", tmp_path / "b"])
        )
        assert apart["macro"] == together["macro"] and apart["coverage"] == together["coverage"]
    # Of another model's results nothing is joined: no case has two judges.
    found = figures(edit, tmp_path / "one", tmp_path / "c", "--judge", "strict-1")
    assert found["coverage"]["en"]["total"]["failed"] == 3
