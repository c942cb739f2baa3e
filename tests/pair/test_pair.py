"""Pairs of candidates: who wins, what is dropped and why, and joins with sets of winners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encode, pixels, rejects_of, rows_of

import edittools
from edittools.errors import EditError, UsageError
from edittools.stream import codec
from edittools.stream.opening import open_source
from edittools.train.rows import ShardRows


def shaded(level: int) -> bytes:
    """A flat image, whose level says which one it is."""
    return encode(np.full((16, 16, 3), level, np.uint8), "PNG")


def level(data: bytes) -> int:
    return int(codec.decode(data)[0, 0, 0])


def candidates(folder: Path, groups: list[list[dict[str, Any]]], name: str = "set", shard: int = 2) -> Path:
    """A set of `shard` groups a shard: each candidate has a level, a score q and perhaps others."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for g, members in enumerate(groups):
        for k, member in enumerate(members):
            file = f"{name}-{g}-{k}.png"
            (folder / file).write_bytes(shaded(member["level"]))
            truth, source = f"truth-{g}.png", f"source-{g}.png"
            (folder / truth).write_bytes(shaded(250 - g))
            (folder / source).write_bytes(encode(pixels(g, 16, 16), "PNG"))
            scores = {key: value for key, value in member.items() if key not in ("level", "turns")}
            rows.append(
                {
                    "id": f"g{g}-c{k}", "group": f"g{g}", "seed": k, "task": "tone", "source": [source],
                    "instruction": {"en": f"edit {g}"}, "target": truth, "result": file, "scores": scores,
                    "provenance": {"model": name, "seed": k}, "turns": member.get("turns"), "note": f"{name} {g}",
                }
            )  # fmt: skip
    files = []
    for start in range(0, len(groups), shard):
        wanted = {f"g{g}" for g in range(start, start + shard)}
        files.append(folder / f"{name}-{start}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows if row["group"] in wanted))
    edittools.read(*map(str, files)).write(str(folder / name))
    return folder / name


def pair(rows: Path, out: Path, **settings: Any) -> tuple[list[dict], dict[str, tuple[str, Any]]]:
    edittools.read(str(rows)).pair(**settings).write(str(out))
    return rows_of(out), {reject["id"]: (reject["reason"], reject["value"]) for reject in rejects_of(out)}


def members(*scores: float | None, first: int = 0) -> list[dict[str, Any]]:
    return [{"level": first + 30 * k, "q": score} for k, score in enumerate(scores)]


def test_best_beats_worst_and_the_rest_is_between(tmp_path: Path) -> None:
    rows = candidates(tmp_path, [members(3, 9, 1, 5), members(2, 2.5)])
    found, rejects = pair(rows, tmp_path / "out", by="q")
    first, second = found
    assert (first["id"], first["group"]) == ("g0-p0", "g0")
    assert (level(first["target"]), level(first["rejected"])) == (30, 60)
    assert (first["scores"]["winner"], first["scores"]["loser"], first["scores"]["margin"]) == (9, 1, 8)
    # 30 levels apart: 10 log10(255² / 30²)
    assert first["scores"]["rejected_psnr"] == pytest.approx(18.5884, abs=1e-4)
    assert first["source"] and first["instruction"]["en"] == "edit 0" and first["note"] == "set 0"
    assert first["provenance"]["seed"] == 1 and first["provenance"]["parents"] == ["g0-c1", "g0-c2"]
    assert first["rejected_provenance"]["seed"] == 2 and first["rejected_provenance"]["model"] == "set"
    assert not {"result", "seed", "judgements"} & first.keys()
    assert (level(second["target"]), level(second["rejected"])) == (30, 0)
    assert rejects == {"g0-c0": ("between", 3), "g0-c3": ("between", 5)}


def test_ties_are_pairs_that_nobody_decided(tmp_path: Path) -> None:
    rows = candidates(tmp_path, [members(4, 4), members(4, 4.5), members(3, 4), members(5, 1)])
    found, rejects = pair(rows, tmp_path / "out", by="q", margin=1, ties=True)
    told = {row["group"]: (row["scores"]["margin"], row["scores"]["preference"]) for row in found}
    assert told == {"g0": (0, 0.5), "g1": (0.5, 0.5), "g2": (1, 1), "g3": (4, 1)} and not rejects
    # what a floor has put down is no tie
    guarded = candidates(tmp_path / "g", [[{"level": 9, "q": 5, "e": 0}, {"level": 90, "q": 2, "e": 1}]], "guarded")
    found, rejects = pair(guarded, tmp_path / "floor", by="q", ties=True, floor="e:0.5")
    assert not found and rejects == {"g0-c0": ("tie", 0), "g0-c1": ("tie", 0)}
    # of two sets a loser that is better by less than the margin is a tie, one that is better by it no pair
    losers = candidates(tmp_path / "l", [[{"level": 7, "q": q}] for q in (4, 4.5, 5, 1)], "losers")
    winners = candidates(tmp_path / "w", [[{"level": 200, "q": 4}] for _ in range(4)], "winners")
    found, rejects = pair(losers, tmp_path / "two", by="q", margin=1, ties=True, winners=(str(winners),))
    told = {row["group"]: (row["scores"]["margin"], row["scores"]["preference"]) for row in found}
    assert told == {"g0": (0, 0.5), "g1": (-0.5, 0.5), "g3": (3, 1)} and rejects == {"g2-c0": ("margin", -1)}
    # preference optimisation has no use for them
    opened = open_source([str(tmp_path / "out")])
    learned = ShardRows(opened, {"instruction": "instruction"}, ("en",), "", 10**6, pairs=True)
    assert sorted(learned[k].id for k in range(len(learned))) == ["g2-p0", "g3-p0"]
    assert learned.left_out == {"that are ties": 2}


def test_several_pairs_of_a_group_share_no_candidate(tmp_path: Path) -> None:
    rows = candidates(tmp_path, [members(3, 9, 1, 5, 4)])
    found, rejects = pair(rows, tmp_path / "out", by="q", per_group=9)
    assert [row["id"] for row in found] == ["g0-p0", "g0-p1"]
    assert [(row["scores"]["winner"], row["scores"]["loser"]) for row in found] == [(9, 1), (5, 3)]
    assert rejects == {"g0-c4": ("between", 4)}


def test_lower_is_better_where_the_score_says_so(tmp_path: Path) -> None:
    group = [
        {"level": 30 * k, "l1": v, "niqe": v, "result_brisque": v, "sharpness": v} for k, v in enumerate((2, 1, 3))
    ]
    rows = candidates(tmp_path, [group])
    for name, best in (("l1", 1), ("niqe", 1), ("result_brisque", 1), ("sharpness", 3)):
        (row,), _ = pair(rows, tmp_path / name, by=name)
        assert (row["scores"]["winner"], row["scores"]["loser"]) == (best, 4 - best), name
        assert row["scores"]["margin"] == 2


def test_what_makes_no_pair_says_why(tmp_path: Path) -> None:
    turns = [{"parent": -1, "instruction": {"en": "a"}}]
    same = [{"level": 90, "q": 1}, {"level": 90, "q": 5}]
    near = [{"level": 90, "q": 1}, {"level": 91, "q": 5}]  # 48.1 dB
    talk = [{**member, "turns": turns} for member in members(1, 5)]
    groups = [members(4, 4, 4), members(4, 4.5), members(None, 3), members(None, None), same, near, talk]
    rows = candidates(tmp_path, groups)
    found, rejects = pair(rows, tmp_path / "out", by="q", margin=1)
    assert not found
    reasons = {name: reason for name, (reason, _) in rejects.items()}
    assert reasons == {
        "g0-c0": "tie", "g0-c1": "between", "g0-c2": "tie", "g1-c0": "margin", "g1-c1": "margin",
        "g2-c0": "no score", "g2-c1": "no second score", "g3-c0": "no score", "g3-c1": "no score",
        "g4-c0": "near-equal", "g4-c1": "near-equal", "g5-c0": "near-equal", "g5-c1": "near-equal",
        "g6-c0": "dialogue", "g6-c1": "dialogue",
    }  # fmt: skip
    assert rejects["g1-c0"][1] == 0.5 and rejects["g4-c0"][1] == 100
    found, _ = pair(rows, tmp_path / "wide", by="q", near_equal=1000)
    assert [row["group"] for row in found] == ["g1", "g5"]  # equal images never make a pair


def test_damaged_image_fails_its_pair(tmp_path: Path) -> None:
    rows = candidates(tmp_path, [members(1, 5), members(1, 5)])
    tar = (rows / "00000.tar").read_bytes()
    bad = rows_of(rows)[1]["result"]
    (rows / "00000.tar").write_bytes(tar.replace(bad, bad[:50] + bytes(len(bad) - 50), 1))
    made = edittools.read(str(rows)).pair("q")
    made.write(str(tmp_path / "out"), max_errors="60%")
    assert [row["group"] for row in rows_of(tmp_path / "out")] == ["g1"]
    assert [(r["id"], r["failed"]) for r in rejects_of(tmp_path / "out")] == [("g0-c0", True), ("g0-c1", True)]


def test_truth_wins_against_the_worst(tmp_path: Path) -> None:
    rows = candidates(tmp_path, [members(3, 9, 1), [{"level": 249, "q": 1}]])
    found, rejects = pair(rows, tmp_path / "out", by="q", winners=("target",), per_group=2)
    assert [(level(row["target"]), level(row["rejected"])) for row in found] == [(250, 60), (250, 0)]
    assert [row["scores"]["winner"] for row in found] == [None, None]
    assert found[0]["provenance"]["model"] is None and found[0]["rejected_provenance"]["seed"] == 2
    assert rejects == {"g0-c1": ("between", 9), "g1-c0": ("near-equal", 100)}  # the candidate is the truth


def test_winners_of_experts_and_losers_of_the_model(tmp_path: Path) -> None:
    base = candidates(tmp_path, [members(3, 2), members(3, 2), members(8, 9)], "base")
    one = candidates(tmp_path, [members(4, 9, first=100), members(1, 1, first=100), members(7, 7, first=100)], "one")
    two = candidates(tmp_path, [members(5, 8, first=160), members(6, 1, first=160)], "two")
    found, rejects = pair(base, tmp_path / "out", by="q", winners=(str(one),))
    assert [(level(row["target"]), level(row["rejected"])) for row in found] == [(130, 30)]
    assert found[0]["provenance"]["model"] == "one" and found[0]["rejected_provenance"]["model"] == "base"
    assert rejects["g1-c1"] == ("margin", -1) and rejects["g2-c0"] == ("margin", -1)
    with pytest.raises(UsageError, match="shards"):
        pair(base, tmp_path / "cut", by="q", winners=(str(one), str(two)))
    three = candidates(tmp_path, [members(5, 8, first=160), members(6, 1, first=160)], "three")
    four = candidates(tmp_path, [members(3, 2), members(3, 2)], "four")
    found, _ = pair(four, tmp_path / "both", by="q", winners=(str(three), str(tmp_path / "four")), per_group=2)
    # 8 and 5 of the expert against 2 and 3; then 6, and the base's own 3 that is no better than 3
    assert [(row["scores"]["winner"], row["scores"]["loser"]) for row in found] == [(8, 2), (5, 3), (6, 2)]


def test_winners_that_changed_are_another_run(tmp_path: Path) -> None:
    base = candidates(tmp_path, [members(3, 2)], "base")
    one = candidates(tmp_path, [members(9, first=100)], "one")
    pair(base, tmp_path / "out", by="q", winners=(str(one),))
    other = candidates(tmp_path, [members(9, first=130)], "other")
    with pytest.raises(EditError, match="winners"):
        pair(base, tmp_path / "out", by="q", winners=(str(other),))


def test_two_scores_are_normalised_within_their_group(tmp_path: Path) -> None:
    """`big` alone would have the last win; with three times the weight on `small` the first does."""
    group = [{"level": 0, "big": 0, "small": 0.02}, {"level": 60, "big": 1000, "small": 0.01}]
    rows = candidates(tmp_path, [group])
    (row,), _ = pair(rows, tmp_path / "out", by="big,small:3")
    assert level(row["target"]) == 0 and row["scores"]["margin"] == pytest.approx(4)
    (row,), _ = pair(rows, tmp_path / "floor", by="big", floor="big:10")
    assert level(row["target"]) == 60
    _, rejects = pair(rows, tmp_path / "none", by="big", floor="big:5000")
    assert {reason for reason, _ in rejects.values()} == {"tie"}


def test_copies_of_the_source_lose_by_a_floor_on_another_score(tmp_path: Path) -> None:
    """The copy has the best score, and no edit; a floor on a distance bounds it from above."""
    group = [{"level": 30 * k, "q": q, "result_edit_ratio": r, "l1": d} for k, (q, r, d) in enumerate(
        ((9, 0.0, 0.5), (5, 0.2, 0.1), (7, 0.3, 0.2))
    )]  # fmt: skip
    rows = candidates(tmp_path, [group])
    for floor, winner in (("", 0), ("result_edit_ratio:0.001", 60), ("result_edit_ratio:0.001,l1:0.15", 30)):
        found, _ = pair(rows, tmp_path / f"out{winner}", by="q", floor=floor)
        assert [level(row["target"]) for row in found] == ([winner] if winner != 30 else [])


def test_groups_split_by_batches_and_tasks_make_the_same_pairs(tmp_path: Path) -> None:
    """300 candidates in one shard: the stream between commands cuts it into batches within a group."""
    from click.testing import CliRunner

    from edittools.cli.main import group

    rng = np.random.default_rng(0)
    groups = [members(*rng.permutation(7).tolist()) for _ in range(44)]
    rows = candidates(tmp_path, groups, shard=22)
    found, _ = pair(rows, tmp_path / "out", by="q")
    assert len(found) == 44 and all(row["scores"]["margin"] == 6 for row in found)
    edittools.read(str(rows)).write(str(tmp_path / "stream.arrows"))
    piped, _ = pair(tmp_path / "stream.arrows", tmp_path / "piped", by="q")
    assert [row["target"] for row in piped] == [row["target"] for row in found]
    for task in ("1/2", "0/2"):
        words = ["pair", str(rows), "--by", "q", "--task", task, "-o", str(tmp_path / "tasks"), "-q"]
        assert CliRunner().invoke(group, words, catch_exceptions=False).exit_code == 0
    assert [row["target"] for row in rows_of(tmp_path / "tasks")] == [row["target"] for row in found]


def test_settings_that_contradict_are_refused(tmp_path: Path) -> None:
    rows = candidates(tmp_path, [members(3, 2)])
    opened = edittools.read(str(rows))
    for match, settings in {
        "no score `z`": {"by": "z"},
        "no score `y`": {"by": "q", "floor": "y:1"},
        "--margin": {"by": "q", "winners": ("target",), "margin": 1.0},
        "--ties": {"by": "q", "winners": ("target",), "ties": True},
        "only winner": {"by": "q", "winners": ("target", "x")},
        "nothing is left": {"by": ""},
        "weight": {"by": "q:-1"},
        "no single image": {"by": "q", "column": "source"},
    }.items():
        with pytest.raises(UsageError, match=match):
            opened.pair(**settings).write(str(tmp_path / "never"))
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("".join(json.dumps({"id": i, "group": g}) + "\n" for i, g in (("a", "x"), ("b", "y"), ("c", "x"))))
    from edittools.stream.groups import whole_groups

    with pytest.raises(EditError, match="side by side"):
        list(whole_groups(edittools.read(str(mixed)).batches()))
