"""`edit filter` by groups of candidates: best of N, and groups by mean, spread and worst, against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import rejects_of, rows_of
from test_pair import candidates, level, members

import edittools
from edittools.cli.main import group
from edittools.errors import EditError, UsageError


def chosen(rows: Path, out: Path, **settings: Any) -> tuple[list[dict], dict[str, tuple[str, Any]]]:
    edittools.read(str(rows)).filter(**settings).write(str(out))
    return rows_of(out), {reject["id"]: (reject["reason"], reject["value"]) for reject in rejects_of(out)}


def test_best_of_n_keeps_whole_rows_in_their_order(tmp_path: Path) -> None:
    rows = candidates(tmp_path, [members(3, 9, 1), members(None, 5, 5), members(None)])
    found, rejects = chosen(rows, tmp_path / "one", by="q", best=1)
    assert [(row["id"], level(row["result"]), row["scores"]["q"]) for row in found] == [
        ("g0-c1", 30, 9),
        ("g1-c1", 30, 5),  # of equal ones the first
    ]
    assert rejects["g0-c0"] == ("not among the best", 3) and rejects["g1-c0"] == ("no score", None)
    assert rejects["g2-c0"] == ("no score", None) and len(rejects) == 5
    found, _ = chosen(rows, tmp_path / "two", by="q", best=2)
    assert [row["id"] for row in found] == ["g0-c0", "g0-c1", "g1-c1", "g1-c2"]


def test_best_by_a_distance_is_the_lowest(tmp_path: Path) -> None:
    rows = candidates(tmp_path, [[{"level": 0, "l1": 0.2}, {"level": 9, "l1": 0.1}]])
    (row,), rejects = chosen(rows, tmp_path / "out", by="l1", best=1)
    assert row["scores"]["l1"] == 0.1 and rejects["g0-c0"][1] == 0.2


def test_best_by_two_scores(tmp_path: Path) -> None:
    """Scores -1.22, 0, 1.22 and 1.41, -.71, -.71 in standard deviations: sums 0.19, -0.71, 0.52."""
    levels = [{"level": k, "a": 10.0 * k, "b": float(k == 0)} for k in range(3)]
    rows = candidates(tmp_path, [levels])
    (row,), rejects = chosen(rows, tmp_path / "out", by="a,b", best=1)
    assert row["id"] == "g0-c2" and rejects["g0-c0"][1] == pytest.approx(-np.sqrt(1.5) + np.sqrt(2), abs=1e-5)
    (row,), _ = chosen(rows, tmp_path / "floor", by="a,b", floor="a:5,b:-1", best=1)
    assert row["id"] == "g0-c2"
    (row,), _ = chosen(rows, tmp_path / "other", by="a,b:2", best=1)
    assert row["id"] == "g0-c0"


def test_groups_become_rows_with_their_scores(tmp_path: Path) -> None:
    scores = [[1, 2, 3], [5, 5, 5], [9, 1, None], [None, None]]
    rows = candidates(tmp_path, [members(*few) for few in scores])
    found, rejects = chosen(rows, tmp_path / "out", by="q", group_mean="2..", group_spread="0.5..")
    assert [row["id"] for row in found] == ["g0", "g2"]
    assert found[0]["scores"] == {"group_mean": 2, "group_spread": 0.816497, "group_worst": 1, "group_n": 3}
    assert found[1]["scores"] == {"group_mean": 5, "group_spread": 4, "group_worst": 1, "group_n": 2}
    assert not {"result", "group", "seed", "judgements"} & found[0].keys()
    assert found[0]["source"] and found[0]["target"] and found[0]["note"] == "set 0"
    assert found[0]["provenance"]["model"] is None and found[0]["provenance"]["parents"] is None
    assert rejects["g1-c0"] == ("group_spread", 0) and rejects["g3-c1"] == ("no score", None) and len(rejects) == 5
    _, rejects = chosen(rows, tmp_path / "worst", by="q", group_worst="2")
    assert {reason for reason, _ in rejects.values()} == {"group_worst", "no score"}
    kept, _ = chosen(rows, tmp_path / "both", by="q", group_worst="..1", best=1)
    assert [row["id"] for row in kept] == ["g0-c2", "g2-c0"]  # groups by the bound, of these the best


def test_what_is_below_a_floor_is_the_worst_of_a_groups_scores_too(tmp_path: Path) -> None:
    """A copy of the source with the best score makes no group look good, or uneven."""
    copied = [{"level": 0, "q": 2.0, "e": 0.5}, {"level": 9, "q": 1.0, "e": 0.5}, {"level": 20, "q": 9.0, "e": 0.0}]
    rows = candidates(tmp_path, [copied])
    (row,), _ = chosen(rows, tmp_path / "plain", by="q", group_mean="3..")
    assert row["scores"]["group_mean"] == 4
    (row,), _ = chosen(rows, tmp_path / "floor", by="q", floor="e:0.1", group_mean="..")
    assert row["scores"] == {"group_mean": 1.33333, "group_spread": 0.471405, "group_worst": 1, "group_n": 3}


def test_quantiles_of_groups_by_files_pipes_and_tasks(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(31, 4)).round(3)
    rows = candidates(tmp_path, [members(*few.tolist()) for few in scores], shard=8)
    median = float(np.quantile([float(f"{few.std():.6g}") for few in scores], 0.5))
    wanted = [f"g{k}" for k, few in enumerate(scores) if float(f"{few.std():.6g}") >= float(f"{median:.6g}")]
    assert 10 < len(wanted) < 20
    found, _ = chosen(rows, tmp_path / "files", by="q", group_spread="q50..")
    assert [row["id"] for row in found] == wanted
    run = ["filter", str(rows), "--by", "q", "--group-spread", "q50..", "-q"]

    def invoke(*more: str) -> int:
        return CliRunner().invoke(group, [*run, *more], catch_exceptions=False).exit_code

    assert invoke("--phase", "decide", "-o", str(tmp_path / "v.json")) == 0
    for task in ("0/2", "1/2"):
        given = ("--decisions", str(tmp_path / "v.json"), "--task", task)
        assert invoke(*given, "-o", str(tmp_path / "tasks")) == 0
    assert [row["id"] for row in rows_of(tmp_path / "tasks")] == wanted
    with pytest.raises(UsageError, match="own part"):
        invoke("--task", "0/2", "-o", str(tmp_path / "alone"))
    with pytest.raises(EditError, match="other bounds"):
        invoke("--decisions", str(tmp_path / "v.json"), "--floor", "q:0", "-o", str(tmp_path / "floor"))
    run[4:6] = "--group-mean", "q50.."  # type: ignore[assignment]
    with pytest.raises(Exception, match=r"no decisions|other bounds"):
        invoke("--decisions", str(tmp_path / "v.json"), "-o", str(tmp_path / "wrong"))


@pytest.mark.parametrize(
    ("match", "settings"),
    [
        ("nothing is chosen", {"by": "q"}),
        ("which score", {"best": 1}),
        ("which score", {"group_mean": "1.."}),
        ("on one score", {"by": "q,r", "group_mean": "1.."}),
        ("--mark", {"by": "q", "best": 1, "mark": "why"}),
        ("other bounds drop some", {"by": "q", "group_mean": "q10..", "where": "scores.q > 1"}),
        ("no score `z`", {"by": "z", "best": 1}),
        ("--group-mean x", {"by": "q", "group_mean": "x"}),
        ("`group`", {"by": "visible", "best": 1}),
    ],
)
def test_settings_that_cannot_be_carried_out(tmp_path: Path, match: str, settings: dict[str, Any]) -> None:
    rows = candidates(tmp_path, [members(1, 2)])
    if match == "`group`":  # rows that are no candidates
        rows = tmp_path / "plain.jsonl"
        rows.write_text('{"id": "a", "scores": {"visible": 1.0}}\n')
    with pytest.raises(UsageError, match=match):
        edittools.read(str(rows)).filter(**settings).write(str(tmp_path / "never"))
