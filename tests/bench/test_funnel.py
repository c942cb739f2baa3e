"""The funnel: counted by hand through single commands, pipes, commands that make rows, and sets that are not one's
own."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner, put, rows_of
from test_bench import Page

from edittools.bench import published
from edittools.bench.dataset import GROUPS, DatasetStatistics, judge_score
from edittools.bench.dataset_tables import composition, dataset_listings, published_row, task_listing
from edittools.bench.funnel import WrittenSet, retention
from edittools.record import TASKS
from edittools.stream.history import History

COUNTED = ("command", "read", "dropped", "failed", "written")


def steps_of(edit: Runner, *words: Any) -> list[dict[str, Any]]:
    return json.loads(edit("eval", "dataset", *words, "-f", "json").stdout)["funnel"]["steps"]


def facts(steps: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(step[name] for name in COUNTED) for step in steps]


@pytest.fixture(scope="module")
def sets(session_edit: Runner, crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw: 24 images, two copies of one of them and one that is cut off; clean: by a pipe, without copies and 5 named
    rows; pairs: two edits each; scored."""
    folder = tmp_path_factory.mktemp("funnel")
    shutil.copytree(crawl, folder / "crawl")
    first = sorted((folder / "crawl").rglob("*.jpg"))[0]
    shutil.copy(first, folder / "crawl" / "zz1.jpg")
    shutil.copy(first, folder / "crawl" / "zz2.jpg")
    put(folder / "crawl" / "zz3.jpg", first.read_bytes()[:200])
    edit = session_edit
    edit("shard", folder / "crawl", "-o", folder / "raw", "--rows", 10, "--max-errors", "10%")
    edit("dedup", folder / "raw", "-o", folder / "unique")
    ids = sorted(row["id"] for row in rows_of(folder / "unique"))
    out = ", ".join(f"'{name}'" for name in ids[:5])
    edit("dedup", folder / "raw", "-o", folder / "dedup.arrows")
    edit("filter", folder / "dedup.arrows", "--where", f"id NOT IN ({out})", "-o", folder / "clean")
    edit("synth", folder / "clean", "--per-row", 2, "--templates", "gray,invert", "-o", folder / "pairs")
    edit("score", folder / "pairs", "-o", folder / "scored")
    return folder


def test_every_command_is_counted(edit: Runner, sets: Path) -> None:
    earlier = [word for name in ("pairs", "raw", "clean") for word in ("--earlier", sets / name)]  # in any order
    steps = steps_of(edit, sets / "scored", *earlier)
    assert facts(steps) == [
        ("shard", 27, 0, 1, 26),
        ("dedup", 26, 2, 0, 24),  # of one pipe with the filter: that set knows what both dropped
        ("filter", 24, 5, 0, 19),
        ("synth", 19, 0, 0, 38),
        ("score", 38, 0, 0, 38),
    ]
    assert [step["reasons"] for step in steps[:2]] == [{"damaged image": 1}, {"duplicate": 2}]
    assert list(steps[2]["reasons"].values()) == [5] and next(iter(steps[2]["reasons"])).startswith("not id NOT IN")


def test_what_no_set_wrote_down_is_not_made_up(edit: Runner, sets: Path) -> None:
    assert facts(steps_of(edit, sets / "scored")) == [("score", 38, 0, 0, 38)]
    # Of a pipe that read a set one knows the first command that dropped something.
    assert facts(steps_of(edit, sets / "clean")) == [("dedup", 26, 2, 0, 24), ("filter", 24, 5, 0, 19)]
    edit("cat", sets / "clean", "-o", sets / "clean.parquet")
    (step,) = steps_of(edit, sets / "clean.parquet")
    assert step["read"] is None and step["written"] == 19


def test_a_stream_says_what_fell_out_on_its_way(edit: Runner, sets: Path) -> None:
    assert facts(steps_of(edit, sets / "dedup.arrows")) == [("dedup", 26, 2, 0, 24)]


def test_a_set_of_another_history_is_refused(edit: Runner, sets: Path) -> None:
    for name in ("pairs", "scored"):
        refused = edit("eval", "dataset", sets / "clean", "--earlier", sets / name, check=2).stderr
        assert "--earlier" in refused and "not a set that the input was made of" in refused
    assert "same commands" in edit("eval", "dataset", sets / "raw", "--earlier", sets / "raw", check=2).stderr


def test_the_page(edit: Runner, sets: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.html"
    edit("eval", "dataset", sets / "scored", "--earlier", sets / "clean", "-o", out, "-f", "json")
    page = Page(out.read_text())
    assert "What became of the rows" in page.words and "duplicate 2" in page.cells and "79.2%" in page.cells
    cells = page.cells[page.cells.index("this one") :]
    assert cells[1:3] == ["38", "2"] and cells[11:13] == ["MagicBrush", "10K"]


def made(*commands: str) -> History:
    history = History()
    for command in commands:
        history = history.add(command, 1, {})
    return history


def known(history: History, read: int, written: int, **dropped: int) -> WrittenSet:
    return WrittenSet("s", history, read, written, Counter({(stage, "x", False): n for stage, n in dropped.items()}))


def test_a_maker_in_the_middle_of_a_pipe() -> None:
    one = known(made("filter", "synth", "score", "judge"), 100, 150, filter=20, synth=3, score=7, judge=5)
    steps = retention([one])["steps"]
    assert facts(steps) == [
        ("filter", 100, 20, 0, 80), ("synth", 80, 3, 0, 162), ("score", 162, 7, 0, 155), ("judge", 155, 5, 0, 150),
    ]  # fmt: skip
    two = known(made("filter", "synth", "sample", "judge"), 100, 900, filter=20, judge=5)
    assert [step["written"] for step in retention([two])["steps"]] == [80, None, 905, 900]
    frames = known(made("shard", "caption", "filter"), 2, 4, filter=32)  # of clips, and no set is known before it
    assert facts(retention([frames])["steps"]) == [
        ("shard", 2, 0, 0, 36), ("caption", 36, 0, 0, 36), ("filter", 36, 32, 0, 4),
    ]  # fmt: skip
    # Groups that became one row, and a command that was there twice: only the whole is known.
    groups = known(made("score", "filter", "judge"), 100, 20, score=10, judge=2)
    again = known(made("filter", "score", "filter"), 100, 70, filter=30)
    for one in (groups, again):
        steps = retention([one])["steps"]
        assert steps[0]["read"] == 100 and steps[-1]["written"] == one.written and steps[0]["written"] is None


def test_two_branches_and_a_limit_are_told() -> None:
    left, right = known(made("shard", "filter"), 60, 50, shard=1, filter=9), known(made("shard", "score"), 40, 40)
    merged = left.history.merge(right.history).add("judge", 1, {})
    assert retention([known(merged, 90, 90), left, right])["warnings"] == []
    (said,) = retention([known(merged, 80, 80), left, right])["warnings"]
    assert "80" in said and "90" in said
    one_alone = retention([known(merged, 90, 90), left])  # the other may have dropped any number
    assert [step["command"] for step in one_alone["steps"]] == ["shard", "filter", "judge"]
    assert len(one_alone["warnings"]) == 1


def test_by_task_in_groups_and_classes_beside_the_papers() -> None:
    assert {task for tasks in GROUPS.values() for task in tasks} <= {*TASKS}
    counted = DatasetStatistics()
    small, large = {"width": 300, "height": 200, "format": "png"}, {"width": 1000, "height": 2000, "format": "png"}
    rated = {"judge_imgedit_overall": 4.0, "judge_text_overall": 1.0, "edit_ratio": 0.001, "probability_fake": 0.9}
    rows = [
        {"task": "add", "source": [small], "target": small, "scores": rated, "instruction": {"en": "Add a red hat"}},
        {"task": "add", "target": large, "scores": {"judge_imgedit_overall": 2.0, "edit_ratio": 0.5}},
        {"task": "tone", "target": large, "instruction": {"en": "make it red", "zh": "变红"}},
        {"task": "beauty", "target": large}, {"target": large},
        *({"task": "t2i", "target": large, "image_class": name, "image_subclass": sub}
          for name, sub in (("nature", "food"), ("nature", "city"), ("people", "group"), ("synthetic", None))),
    ]  # fmt: skip
    for row in rows:
        counted.add(row)
    found = counted.result() | {"funnel": {"steps": [], "warnings": []}}
    add = found["by_task"]["add"]
    assert add["rows"] == 2 and add["size"]["short_side"] == {"min": 200, "median": 200, "max": 1000}
    assert add["tiny_region_share"] == 0.5 and add["words"] == 4 and found["words"] == 6
    assert add["scores"]["judge_imgedit_overall"] == {"n": 2, "mean": 3.0, "min": 2.0, "max": 4.0}
    assert found["scores"]["edit_ratio"] == {"n": 2, "mean": 0.2505, "min": 0.001, "max": 0.5}
    assert judge_score(found) == "judge_imgedit_overall"
    assert found["groups"] == {"semantic": 2, "stylistic": 1, "structural": 0, "other": 1}
    groups, classes = composition(found)
    assert groups.rows[0][2:] == ["2", "50.0%", "26.2%"] and groups.rows[3][2:] == ["1", "25.0%", "–"]
    assert classes.rows[0] == ["nature", "food 1, city 1", "2", "50.0%", "57.7%"] and classes.rows[2][-1] == "–"
    shares = [float(str(row.scores["Share"]).rstrip("%")) for row in published.load("firered-composition").rows]
    assert sum(shares[:3]) == pytest.approx(100) and sum(shares[3:]) == pytest.approx(100)
    shown = {row[0]: row for row in task_listing(found).rows}
    assert shown["add"][1:9] == ["2", "22.2%", "200", "200", "0.06", "3.00", "2", "50.0%"]
    assert shown["tone"][6:9] == ["–", "0", "–"]
    assert "mean of edit_ratio" in task_listing(found, "edit_ratio").notes[-1]
    row = published_row(found).rows[0]
    assert row == ["this one", "9", "3", "1,000", "3.00", "1.000", "50.0%", "6", "no", "no", "no"]
    assert dataset_listings(found)[-1].rows[1][0] == "MagicBrush"
