"""Scores of a judge on the scale of people's ratings: against scikit-learn, by hand, and as a command."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner
from sklearn.isotonic import IsotonicRegression

from edittools.judge.calibration import calibrate, folds_of, isotonic

RAW, DONE = "judge_viescore_overall", "judge_viescore_overall_calibrated"


@pytest.mark.parametrize("seed", range(8))
def test_the_curve_is_that_of_scikit_learn(seed: int) -> None:
    """Ties, weights, scores between and beyond those of the fit; few levels and many."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 6, 40).astype(float) if seed % 2 else generator.normal(size=40)
    y = np.clip(x + generator.normal(size=40) * 3, -2, 5)
    weights = generator.integers(1, 5, 40).astype(float)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(x, y, sample_weight=weights)
    asked = np.concatenate([x, np.linspace(-9, 9, 50)])
    assert isotonic(x, y, weights)(asked) == pytest.approx(theirs.predict(asked), abs=1e-9)


def test_pools_by_hand() -> None:
    """3, 2 and 1 after 1 are one pool of mean 2; the last 4 counts thrice, and pools with the 6 before it: 4.5."""
    x = np.array([1.0, 2, 3, 4, 5, 6])
    curve = isotonic(x, np.array([1.0, 3, 2, 1, 6, 4]), np.array([1.0, 1, 1, 1, 1, 3]))
    assert curve(x).tolist() == [1, 2, 2, 2, 4.5, 4.5]
    assert curve(np.array([0.0, 1.5, 7])).tolist() == [1, 1.5, 4.5]
    flat = isotonic(np.array([1.0, 2]), np.array([5.0, 3]), np.array([1.0, 3]))
    assert flat(np.array([1.0, 2])).tolist() == [3.5, 3.5]


def test_folds_are_even_and_know_nothing_of_the_order() -> None:
    ids = [f"row {k}" for k in range(23)]
    made = folds_of(ids, 5)
    assert sorted(np.bincount(list(made.values()))) == [4, 4, 5, 5, 5]
    assert folds_of(reversed(ids), 5) == made


def test_cross_validation_by_hand() -> None:
    """Four rows in two folds: each pair is read from the line through the other pair's two points."""
    ids = ["a", "b", "c", "d"]
    ranked = sorted(ids, key=lambda one: hashlib.sha256(one.encode()).hexdigest())
    even, odd = ranked[::2], ranked[1::2]
    scores = dict(zip([*even, *odd], [1.0, 3.0, 2.0, 4.0]))
    people = dict(zip([*even, *odd], [10.0, 30.0, 60.0, 20.0]))  # the odd ones fall: their mean is 40
    made = calibrate(ids, np.array([scores[one] for one in ids]), np.array([people[one] for one in ids]), np.ones(4), 2)
    found = dict(zip(ids, made(ids, np.array([scores[one] for one in ids]))))
    assert [found[one] for one in even] == [40, 40]
    assert [found[one] for one in odd] == [20, 30]  # half way between 10 and 30, and beyond the last
    # All four together: 10, then 60, 30 and 20 pooled.
    assert made(["x"], np.array([1.0]))[0] == 10 and made(["x"], np.array([9.0]))[0] == pytest.approx(110 / 3)


def test_no_row_is_calibrated_by_its_own_rating() -> None:
    generator = np.random.default_rng(0)
    ids = [str(k) for k in range(30)]
    scores, people, raters = generator.normal(size=30), generator.normal(size=30), np.ones(30)
    before = calibrate(ids, scores, people, raters, 5)
    fold = folds_of(ids, 5)
    for row in (0, 7, 29):
        other = people.copy()
        other[row] += 1000
        after = calibrate(ids, scores, other, raters, 5)(ids, scores)
        mine = np.array([fold[one] == fold[ids[row]] for one in ids])
        assert (after == before(ids, scores))[mine].all() and not (after == before(ids, scores))[~mine].all()


def judged_set(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def ratings_file(path: Path, lines: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """60 rows with scores of two judges, one of which gave none of row 5; 40 of them rated by one to three people."""
    generator = np.random.default_rng(3)
    rows, lines, people = [], [], {}
    for k in range(60):
        score = float(generator.integers(0, 11))
        scores = {"visible": 1.0, RAW: None if k == 5 else score, f"{RAW}__b": float(generator.integers(0, 11)),
                  "judge_viescore_sc": score, f"{RAW}_low": 0.0}  # fmt: skip
        rows.append({"id": f"r{k}", "instruction": {"en": "do", "zh": None}, "scores": scores})
        if k < 40:
            said = [int(np.clip(score / 2 + generator.normal(), 1, 5)) for _ in range(1 + k % 3)]
            people[f"r{k}"] = said
            lines += [{"id": f"r{k}", "score": one, "rater": f"p{n}"} for n, one in enumerate(said)]
    return judged_set(tmp_path / "judged.parquet", rows), ratings_file(tmp_path / "people.csv", lines), people


def expected(rows: list[dict[str, Any]], column: str, people: dict[str, Any], folds: int) -> dict[str, float]:
    """By scikit-learn, fitted to every single rating."""
    score = {row["id"]: row["scores"][column] for row in rows if row["scores"][column] is not None}
    rated = sorted(people.keys() & score.keys(), key=lambda one: hashlib.sha256(one.encode()).digest())

    def value(identity: str, skipped: int | None) -> float:
        used = [one for rank, one in enumerate(rated) if rank % folds != skipped]
        x = [score[one] for one in used for _ in people[one]]
        y = [float(said) for one in used for said in people[one]]
        return float(IsotonicRegression(out_of_bounds="clip").fit(x, y).predict([score[identity]])[0])

    return {one: value(one, rated.index(one) % folds if one in rated else None) for one in score}


def test_every_judge_gets_a_column_of_its_own(edit: Runner, tmp_path: Path, study: Any) -> None:
    judged, ratings, people = study
    words = ["judge", judged, "--calibrate", ratings]
    done = edit(*words, "-o", tmp_path / "out")
    assert f"{RAW}: 39 of 40 rated rows; mean error against people" in done.stderr
    rows = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    for column, made in ((RAW, DONE), (f"{RAW}__b", f"{DONE}__b")):
        found = {row["id"]: row["scores"][made] for row in rows if row["scores"][made] is not None}
        assert found == pytest.approx(expected(rows, column, people, 5), abs=1e-4)
    assert rows[5]["scores"][DONE] is None and rows[5]["scores"][f"{DONE}__b"] is not None
    assert "judge_viescore_sc_calibrated" not in rows[0]["scores"] and rows[0]["scores"][f"{RAW}_low"] == 0
    # Out of a pipe, and once more into the same set: the same.
    piped = edit.pipe(["cat", judged], [*words[:1], *words[2:], "-f", "jsonl"])[-1]
    assert [json.loads(line)["scores"] for line in piped.stdout.splitlines()] == [row["scores"] for row in rows]
    edit(*words, "-o", tmp_path / "out")
    again = edit("judge", tmp_path / "out", "--calibrate", ratings, "--folds", 4, "--judge", "b", "-f", "jsonl").lines
    assert [row["scores"][DONE] for row in again] == [row["scores"][DONE] for row in rows]
    found = {row["id"]: row["scores"][f"{DONE}__b"] for row in again}
    assert found == pytest.approx(expected(rows, f"{RAW}__b", people, 4), abs=1e-4)
    # The mean of both is a judge like any other.
    edit("judge", judged, "--ensemble", "-o", tmp_path / "panel")
    rows = edit("judge", tmp_path / "panel", "--calibrate", ratings, "--judge", "ensemble", "-f", "jsonl").lines
    found = {row["id"]: value for row in rows if (value := row["scores"][f"{DONE}__ensemble"]) is not None}
    assert found == pytest.approx(expected(rows, f"{RAW}__ensemble", people, 5), abs=1e-4)
    assert DONE not in rows[0]["scores"]
    assert len(edit("filter", tmp_path / "out", "--where", f"scores.{DONE}__b > 0", "-f", "jsonl").lines) == 60


def test_what_cannot_be_calibrated(edit: Runner, tmp_path: Path, study: Any) -> None:
    judged, ratings, _ = study
    few = ratings_file(tmp_path / "few.csv", [{"id": f"r{k}", "score": 3} for k in range(9)])
    said = edit("judge", judged, "--calibrate", few, "-o", tmp_path / "x", check=1).stderr
    assert "8 of 9 rated rows have a score `judge_viescore_overall`; 5 folds need 10" in said and "hint: " in said
    edit("judge", judged, "--calibrate", few, "--folds", 4, "-o", tmp_path / "x")
    other = ratings_file(tmp_path / "other.csv", [{"id": "r1", "score": 3, "dimension": "beauty"}])
    said = edit("judge", judged, "--calibrate", other, "-o", tmp_path / "y", check=2).stderr
    assert "people rated beauty, and the judge scored overall, sc" in said
    twice = edit("judge", judged, judged, "--calibrate", ratings, "-o", tmp_path / "y", check=1).stderr
    assert "comes twice" in twice
    plain = judged_set(tmp_path / "plain.parquet", [{"id": "a", "scores": {"visible": 1.0}}])
    assert "no scores of a judge" in edit("judge", plain, "--calibrate", ratings, check=2).stderr
    for extra, says in (
        (["--model", "m"], "judge first"),
        (["--rubric", "viescore", "--judge", "nobody"], "no scores of a judge by rubric viescore by nobody"),
        (["--rubric", "gedit"], "no scores of a judge by rubric gedit"),
    ):
        assert says in edit("judge", judged, "--calibrate", ratings, *extra, check=2).stderr, extra
    task = edit("judge", judged, "--calibrate", ratings, "-o", tmp_path / "y", "--task", "0/1", check=2).stderr
    assert "without --task" in task
    assert "needs --calibrate" in edit("judge", judged, "--folds", 3, check=2).stderr
    assert "cannot be read as ratings" in edit("judge", judged, "--calibrate", tmp_path / "no", check=1).stderr


def test_a_flat_curve_is_told(edit: Runner, tmp_path: Path) -> None:
    """People say the opposite of the judge: nothing but their mean can be made of its scores."""
    judged = judged_set(tmp_path / "j.parquet", [{"id": f"r{k}", "scores": {RAW: float(k)}} for k in range(12)])
    ratings = ratings_file(tmp_path / "r.csv", [{"id": f"r{k}", "score": 12 - k} for k in range(12)])
    done = edit("judge", judged, "--calibrate", ratings, "-o", tmp_path / "out")
    assert "the curve is flat" in done.stderr
