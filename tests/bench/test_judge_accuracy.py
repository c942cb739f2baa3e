"""`edit eval judges`: accuracy of a judge on pairs that people compared, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner
from sklearn.metrics import cohen_kappa_score

from edittools.bench.judges import JudgedPair, judges, measure, tied_accuracy


def pair(people: float, margin: float | None, group: str = "", **parts: str) -> JudgedPair:
    return JudgedPair(people, margin, group, tuple(parts.items()))


def test_numbers_by_hand() -> None:
    pairs = [
        pair(1, 2), pair(1, -1), pair(0, -3), pair(1, 0),  # two of four, one of them even
        pair(0.5, 0.5), pair(0, None),  # people are even; no score
    ]  # fmt: skip
    found = measure(pairs)
    assert (found["pairs"], found["unscored"], found["decided"]) == (6, 1, 5)
    assert (found["accuracy"], found["strict"], found["judge_ties"]) == (0.5, 0.4, 0.25)
    # thresholds: never 2/5 (+2, -3 right), 0: 2/5, .5: 3/5 (the even one as well), 1: 3/5, 2: 2/5, 3: 1/5
    assert (found["with_ties"], found["threshold"]) == (0.6, 0.5)
    assert found["kappa"] == pytest.approx(cohen_kappa_score([2, 2, 0, 2, 1], [2, 0, 0, 1, 2]), abs=1e-5)
    assert found["interval"] is None  # four pairs bound nothing


def test_ties_against_all_thresholds() -> None:
    def share(people: list[float], margins: list[float], threshold: float) -> float:
        said = [0.5 if abs(m) <= threshold else None if m == 0 else float(m > 0) for m in margins]
        return sum(a == b for a, b in zip(said, people)) / len(people)

    rng = np.random.default_rng(0)
    for _ in range(20):
        people = rng.choice([0, 0.5, 1], 30).tolist()
        margins = (rng.integers(-4, 5, 30) / 4).tolist()
        best = max(share(people, margins, threshold) for threshold in (-1, 0, 0.25, 0.5, 0.75, 1))
        assert tied_accuracy(people, margins)[0] == pytest.approx(best)


def test_groups_are_right_as_a_whole_and_parts_are_counted() -> None:
    """A ranking of three, all right; one with a pair wrong; one with a pair without a score; one pair alone."""
    margins = {"x": [1, 1, 2], "y": [1, -1, 2], "z": [1, 1, None], "w": [1]}
    pairs = [
        pair(1, margin, group, task="add" if group == "x" else "style")
        for group, each in margins.items()
        for margin in each
    ]
    found = judges(pairs)
    assert (found["all"]["groups"], found["all"]["group_accuracy"]) == (3, pytest.approx(1 / 3, abs=1e-5))
    assert found["by"]["task"]["add"]["accuracy"] == 1 and found["by"]["task"]["style"]["accuracy"] == pytest.approx(
        5 / 6, abs=1e-5
    )
    assert found["mean_over"]["task"] == pytest.approx((1 + 5 / 6) / 2, abs=1e-5)


def test_of_rows(edit: Runner, tmp_path: Path) -> None:
    scores = [
        (1.0, 4.0, 3.0, 1.0),
        (0.0, 2.0, 5.0, 0.5),
        (1.0, 3.0, 3.0, 0.0),
        (None, 1.0, 2.0, 1.0),
        (0.5, 1.0, 1.0, 0.5),
    ]
    names = ("human", "judge_rating_rating__a", "judge_rating_rating__b", "judge_pairwise_preference")
    table = pa.table({
        "id": [f"r{k}" for k in range(5)],
        "task": ["add", "add", "style", "style", "add"],
        "kind": ["swap", "swap", "slot", "slot", None],
        "group": ["g", "g", None, None, None],
        "changed": pa.array([{"operator": "color"}] * 4 + [None], pa.struct([("operator", pa.string())])),
        "scores": pa.array([dict(zip(names, each)) for each in scores], pa.struct([(n, pa.float64()) for n in names])),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = tmp_path / "rows.parquet"

    def figures(*more: str) -> dict:
        return json.loads(edit("eval", "judges", rows, "--people", "human", *more).stdout)

    found = figures("--first", names[1], "--second", names[2], "--by", "task", "--by", "kind")
    assert found["all"]["pairs"] == 4 and found["all"]["accuracy"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["all"]["with_ties"] == 0.75 and found["all"]["group_accuracy"] == 1
    assert {kind: part["accuracy"] for kind, part in found["by"]["kind"].items()} == {"swap": 1, "slot": 0}
    compared = figures("--score", names[3])
    assert compared["all"]["accuracy"] == pytest.approx(1 / 3, abs=1e-5) and set(compared["by"]) == {"task"}
    # hard negatives: the first is better in every row, by a field of what was changed
    alone = json.loads(
        edit("eval", "judges", rows, "--first", names[1], "--second", names[2], "--by", "changed.operator").stdout
    )
    assert alone["all"]["decided"] == 5 and alone["all"]["accuracy"] == 0.2
    assert {kind: part["accuracy"] for kind, part in alone["by"]["changed.operator"].items()} == {"color": 0.25}
    called = ("dataset_preference", *names[1:])
    said = pa.array([dict(zip(called, each)) for each in scores], pa.struct([(n, pa.float64()) for n in called]))
    pq.write_table(table.drop(["scores"]).append_column("scores", said), tmp_path / "voted.parquet")
    forgotten = edit("eval", "judges", tmp_path / "voted.parquet", "--score", names[3], check=2).stderr
    assert "--people" in forgotten and "dataset_preference" in forgotten
    for options, words in (
        (("--by", "changed", "--people", "human", "--score", names[3]), "changed.FIELD, one of operator"),
        (("--by", "changed.by", "--people", "human", "--score", names[3]), "no such column"),
        (("--people", "nobody", "--score", names[3]), "it has: human"),
        (("--people", "nobody", "--score", names[3]), "no score `nobody`"),
        (("--people", "human", "--first", names[1]), "--first and --second"),
        (("--people", names[1], "--score", names[3]), "1, 0.5 or 0"),
    ):
        assert words in edit("eval", "judges", rows, *options, check=2).stderr
