"""Candidates of a row: each is what the row is with the candidate's seed, also of array tasks and continued runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import training
from conftest import encode, pixels, rejects_of, rows_of, tree

import edittools
from edittools.errors import RowError, UsageError
from edittools.nets.editor import EditRequest
from edittools.sample.config import SampleConfig
from edittools.sample.stage import SampleStage
from edittools.stream import codec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.random_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards: a plain row, a dialogue, a row whose source is damaged, and a row of another size."""
    folder = tmp_path_factory.mktemp("rows")
    turns = [{"parent": -1, "instruction": {"en": "invert"}}, {"parent": 0, "instruction": {"en": "leave it alone"}}]
    made = [
        {"id": "a", "source": ["a.png"], "instruction": {"en": "invert the colors"}, "turns": []},
        {"id": "talk", "source": ["b.png"], "instruction": {"en": "both"}, "turns": turns},
        {"id": "bad", "source": ["bad.png"], "instruction": {"en": "invert"}, "turns": []},
        {"id": "z", "source": ["c.png"], "instruction": {"en": "leave it alone"}, "turns": []},
    ]
    for k, name in enumerate(("a.png", "b.png", "c.png")):
        (folder / name).write_bytes(encode(pixels(k, 20, 30 + 10 * k), "PNG"))
    (folder / "bad.png").write_bytes(encode(pixels(9), "PNG")[:90])
    for shard, few in enumerate((made[:2], made[2:])):
        lines = "".join(json.dumps({**row, "provenance": {"origin": "here", "seed": 77}}) + "\n" for row in few)
        (folder / f"{shard}.jsonl").write_text(lines)
    edittools.read(str(folder / "0.jsonl"), str(folder / "1.jsonl")).write(str(folder / "set"))
    return folder / "set"


def sample(rows: Path, model: Path, out: Path, **settings: object) -> list[dict]:
    made = edittools.read(str(rows)).sample(str(model), steps=2, **settings)
    made.write(str(out), max_errors="50%")
    return rows_of(out)


def decoded(data: bytes) -> np.ndarray:
    return codec.decode(data).astype(int)


class Refusing:
    """An editor that gives sources back, and does not take those of one shape."""

    at_once, batch_size, from_text = 1, 2, False

    def __init__(self, width: int) -> None:
        self.width = width

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray | RowError]:
        return [RowError("no") if each.sources[0].shape[1] == self.width else each.sources[0] for each in requests]


def same(a: bytes, b: bytes) -> bool:
    """To a level of rounding: in a batch of another size kernels add in another order."""
    return np.abs(decoded(a) - decoded(b)).max() <= 1


def test_candidate_is_the_row_with_that_seed(rows: Path, model: Path, tmp_path: Path) -> None:
    found = sample(rows, model, tmp_path / "candidates", candidates=3, seed=5)
    assert [row["id"] for row in found] == [f"{name}-c{k}" for name in ("a", "talk", "z") for k in range(3)]
    assert [row["group"] for row in found] == ["a"] * 3 + ["talk"] * 3 + ["z"] * 3
    assert [row["seed"] for row in found] == [5, 6, 7] * 3
    for k in range(3):
        alone = {row["id"]: row for row in sample(rows, model, tmp_path / str(k), seed=5 + k)}
        for row in found[k::3]:
            single = alone[row["group"]]
            assert same(row["result"], single["result"])
            assert len(row["result_turns"] or []) == (2 if row["group"] == "talk" else 0)
            for a, b in zip(row["result_turns"] or [], single["result_turns"] or []):
                assert same(a, b)
            assert row["source"] == single["source"] and row["instruction"] == single["instruction"]
    for group in range(0, 9, 3):  # seeds matter
        assert np.abs(decoded(found[group]["result"]) - decoded(found[group + 1]["result"])).max() > 10


def test_provenance_names_row_model_and_seed(rows: Path, model: Path, tmp_path: Path) -> None:
    (first, second, *_) = sample(rows, model, tmp_path / "out", candidates=2, seed=-4)
    assert first["provenance"]["parents"] == ["a"] and first["provenance"]["origin"] == "here"
    assert (first["provenance"]["seed"], second["provenance"]["seed"]) == (-4, -3)
    assert first["provenance"]["model"].startswith("run@")


def test_row_that_fails_is_one_reject(rows: Path, model: Path, tmp_path: Path) -> None:
    sample(rows, model, tmp_path / "out", candidates=4)
    (reject,) = rejects_of(tmp_path / "out")
    assert reject["id"] == "bad" and reject["failed"]


def test_tasks_and_a_run_that_goes_on_write_the_same(model_edit, rows: Path, model: Path, tmp_path: Path) -> None:
    given = ["sample", rows, "--model", model, "--steps", 2, "--candidates", 3, "--max-errors", "50%"]
    model_edit(*given, "-o", tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    for task in ("1/2", "0/2"):
        model_edit(*given, "--task", task, "-o", tmp_path / "tasks")
    assert tree(tmp_path / "tasks") == whole
    (tmp_path / "tasks" / "00000.parquet").unlink()  # as a run leaves it that died between the two files
    (tmp_path / "tasks" / "_end.json").unlink()
    model_edit(*given, "-o", tmp_path / "tasks")
    assert tree(tmp_path / "tasks") == whole
    said = model_edit(*given[:6], "--candidates", 4, "-o", tmp_path / "tasks", check=None)
    assert said.code != 0 and "candidates" in said.stderr


def test_several_models_make_one_set(rows: Path, model: Path, tmp_path: Path) -> None:
    """Each adds to the groups; the numbers and seeds go on; what is there passes unchanged."""
    other = training.random_run(tmp_path / "other", seed=1)
    first = sample(rows, model, tmp_path / "first", candidates=2, seed=5)
    found = sample(tmp_path / "first", other, tmp_path / "mixed", candidates=3, add=True, seed=5)
    assert [row["id"] for row in found] == [f"{name}-c{k}" for name in ("a", "talk", "z") for k in range(5)]
    assert [row["seed"] for row in found] == [5, 6, 7, 8, 9] * 3
    by_other = sample(rows, other, tmp_path / "five", candidates=5, seed=5)
    for k, row in enumerate(found):
        of_first = k % 5 < 2
        like = first[k // 5 * 2 + k % 5] if of_first else by_other[k]
        assert row["group"] == like["group"] and row["provenance"] == like["provenance"]
        assert (row["result"] == like["result"]) if of_first else same(row["result"], like["result"])
        assert len(row["result_turns"] or []) == len(like["result_turns"] or [])
        assert row["instruction"] == like["instruction"] and row["source"] == like["source"]
    assert len({row["provenance"]["model"] for row in found}) == 2
    assert np.abs(decoded(found[0]["result"]) - decoded(by_other[0]["result"])).max() > 10
    for settings, said in (
        ({"candidates": 2, "add": True}, "no column `group`"),
        ({"add": True}, "--candidates K"),
        ({"add": True, "candidates": 2, "shuffle": True}, "not with --shuffle"),
    ):
        with pytest.raises(UsageError, match=said):
            sample(rows, other, tmp_path / "none", **settings)


def test_added_candidates_of_groups_in_several_batches_and_of_one_that_fails(
    rows: Path, model: Path, tmp_path: Path
) -> None:
    """A group to which nothing could be added is passed on, and that is said. What is added has no scores."""
    first = sample(rows, model, tmp_path / "first", candidates=3)
    other = training.random_run(tmp_path / "other", seed=1)
    stage = SampleStage(SampleConfig(model=str(other), candidates=2, add=True), Refusing(40))
    source = edittools.read(str(tmp_path / "first")).source
    halves, kind = [], pa.struct([("psnr", pa.float64())])
    for batch in source.batches(lambda shard: True):
        scored = [{"psnr": 20.0}] * batch.rows.num_rows
        batch = batch.replace(batch.rows.append_column("scores", pa.array(scored, kind)))
        halves += [batch.slice(0, 2), batch.slice(2, 99)]
    kept = stage.schema(halves[0].rows.schema)
    made = list(stage(iter(halves)))
    assert all(batch.rows.schema == kept for batch in made), "the columns stand as they stood"
    ids = [name for batch in made for name in batch.rows["id"].to_pylist()]
    assert ids == [f"{n}-c{k}" for n in ("a", "talk", "z") for k in range(3 if n == "talk" else 5)]
    assert [(reject.id, reject.reason) for batch in made for reject in batch.rejects] == [("talk", "no")]
    scored = [row for batch in made for row in batch.rows.select(["id", "scores"]).to_pylist()]
    assert {row["id"] for row in scored if row["scores"] == {"psnr": 20.0}} == {row["id"] for row in first}
    assert {row["scores"] and row["scores"]["psnr"] for row in scored} == {20.0, None}


def test_numbers_and_seeds_of_what_is_added_are_new_where_some_were_lost(
    rows: Path, model: Path, tmp_path: Path
) -> None:
    sample(rows, model, tmp_path / "first", candidates=4, seed=50)
    where = "id NOT IN ('a-c1', 'a-c2', 'z-c3')"
    edittools.read(str(tmp_path / "first")).filter(where=where).write(str(tmp_path / "some"), max_errors="100%")
    found = sample(tmp_path / "some", model, tmp_path / "more", candidates=2, add=True)
    numbers = {group: [row["id"].removeprefix(f"{group}-c") for row in found if row["group"] == group]
               for group in ("a", "talk", "z")}  # fmt: skip
    assert numbers == {"a": list("0345"), "talk": list("012345"), "z": list("01234")}
    seeds = {group: [row["seed"] - 50 for row in found if row["group"] == group] for group in ("a", "talk", "z")}
    assert seeds == {"a": [0, 3, 4, 5], "talk": [0, 1, 2, 3, 4, 5], "z": [0, 1, 2, 3, 4]}


def test_candidates_of_candidates_are_refused(rows: Path, model: Path, tmp_path: Path) -> None:
    sample(rows, model, tmp_path / "out", candidates=2)
    with pytest.raises(UsageError, match="`group`"):
        edittools.read(str(tmp_path / "out")).sample(str(model), candidates=2, column="result_b").write(
            str(tmp_path / "more")
        )
    with pytest.raises(UsageError, match="64 bits"):
        edittools.read(str(rows)).sample(str(model), candidates=3, seed=(1 << 63) - 2)


def test_one_model_makes_a_set(rows: Path, tmp_path: Path) -> None:
    """Of two the last one would have made all of it, in silence."""
    from click.testing import CliRunner

    from edittools.cli.main import group

    given = ["sample", str(rows), "--model", "a", "--candidates", "2", "--model", "b", "-o", str(tmp_path / "out")]
    with pytest.raises(UsageError, match="--model is given twice"):
        CliRunner().invoke(group, given, catch_exceptions=False, standalone_mode=False)
