"""What people said, as scores of rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Runner

import edittools

# a and b are rated by two, c by one; d by nobody
SAID = [
    {"id": "a", "rater": "x", "score": 4},
    {"id": "a", "rater": "y", "score": 5},
    {"id": "b", "rater": "x", "score": 1},
    {"id": "b", "rater": "y", "score": 2},
    {"id": "c", "rater": "x", "score": 3},
    {"id": "elsewhere", "rater": "x", "score": 3},
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = [{"id": name, "instruction": {"en": "x"}, "scores": {"psnr": 20.5}} for name in "abcd"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    edittools.read(str(tmp_path / "rows.jsonl")).write(str(tmp_path / "rows"))
    return tmp_path / "rows"


def written(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_ratings_become_scores(rows: Path, tmp_path: Path, edit: Runner) -> None:
    said = edit("judge", rows, "--ratings", written(tmp_path / "r.jsonl", SAID), "-o", tmp_path / "rated")
    assert {row["id"]: row["scores"] for row in edittools.read(str(tmp_path / "rated")).rows()} == {
        "a": {"psnr": 20.5, "human": 4.5},
        "b": {"psnr": 20.5, "human": 1.5},
        "c": {"psnr": 20.5, "human": 3},
        "d": {"psnr": 20.5, "human": None},
    }
    assert "3 of 4 rated rows" in said.stderr
    (tmp_path / "c.toml").write_text('[judge]\nmodel = "gpt-4.1"\n')  # whom --rubric asks
    words = ("--ratings", written(tmp_path / "n.jsonl", [{**SAID[0], "id": 7, "dimension": "质量"}]))
    said = edit("judge", rows, *words, "--config", tmp_path / "c.toml", "-o", tmp_path / "other")
    assert "0 of 1 rated rows: are the ids those of the rows?" in said.stderr
    assert [row["scores"]["human_质量"] for row in edittools.read(str(tmp_path / "other")).rows()] == [None] * 4


def test_of_several_models_one_is_said(rows: Path, tmp_path: Path, edit: Runner) -> None:
    """As `edit eval study score --export` writes those of a study of models."""
    lines = [
        {**line, "model": model, "dimension": "Prompt following", "score": line["score"] * times}
        for model, times in (("m", 1), ("n", 10))
        for line in SAID
    ]
    votes = written(tmp_path / "votes.jsonl", lines)
    edit("judge", rows, "--ratings", votes, "--model", "n", "-o", tmp_path / "rated")
    found = [row["scores"]["human_prompt_following"] for row in edittools.read(str(tmp_path / "rated")).rows()]
    assert found == [45, 15, 30, None]
    assert "--model" in edit("judge", rows, "--ratings", votes, check=1).stderr
    said = edit("judge", rows, "--ratings", votes, "--model", "other", check=1).stderr
    assert "no ratings of `other`" in said and "of: m, n" in said


def test_ratings_that_cannot_be_used(rows: Path, tmp_path: Path, edit: Runner) -> None:
    ratings = written(tmp_path / "r.jsonl", SAID)
    both = written(tmp_path / "both.jsonl", [{**SAID[0], "dimension": name} for name in ("a b", "A-b")])
    assert "would both be `human_a_b`" in edit("judge", rows, "--ratings", both, check=1).stderr
    assert "comes twice" in edit("judge", rows, rows, "--ratings", ratings, check=1).stderr
    nothing = written(tmp_path / "none.jsonl", [{**SAID[0], "score": None}])
    assert "there are none" in edit("judge", rows, "--ratings", nothing, check=1).stderr
    (tmp_path / "odd.jsonl").write_text(json.dumps(SAID[0]) + "\n5\n")
    assert "line 2 is no JSON object" in edit("judge", rows, "--ratings", tmp_path / "odd.jsonl", check=1).stderr
    others = [{**SAID[0], "model": "m"}, {**SAID[1], "model": "n"}]  # nobody has rated both
    said = edit("judge", rows, "--ratings", written(tmp_path / "two.jsonl", others), check=1).stderr
    assert "row a is rated for `m` and for `n`" in said and "--model" in said
    for more in (
        ["--device", "cpu"],
        ["--rubric", "rating"],
        ["--judge", "a"],
        ["--soft"],
        ["--calibrate", ratings],
        ["--ensemble"],
    ):
        assert "changes nothing beside" in edit("judge", rows, "--ratings", ratings, *more, check=2).stderr
