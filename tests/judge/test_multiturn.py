"""Dialogues of several turns: a rubric of our own, from the list of cases to the means per kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner, encode, pixels, rows_of
from test_clients import Server, chat, response

from edittools.errors import RowError
from edittools.judge.rubrics import load_rubric
from edittools.rubric.calls import JudgedEdit, JudgedTurn
from edittools.vlm import EncodedImage
from edittools.vlm.images import Encoding

RUBRIC = load_rubric("multiturn")
IMAGES = [encode(pixels(k), "PNG") for k in range(4)]


def dialogue(kind: str, *parents: int) -> JudgedEdit:
    turns = tuple(JudgedTurn(f"do {k}", kind, parent, IMAGES[k + 1]) for k, parent in enumerate(parents))
    return JudgedEdit("visual", "do 0", (IMAGES[0],), IMAGES[-1], turns=turns)


def test_the_judge_sees_every_turn_and_what_it_edits() -> None:
    (call,) = RUBRIC.ask(dialogue("version_backtracking", -1, 0, -1), {}, Encoding("png", max_side=None))
    said = [part for part in call.parts if isinstance(part, str)]
    assert "edited in 3 turns" in said[0] and "goes back to an earlier version" in said[0]
    assert said[1:] == [
        "Original:", "Turn 1, which edits the original: do 0", "Turn 2, which edits turn 1: do 1",
        "Turn 3, which edits the original: do 2",
    ]  # fmt: skip
    assert sum(isinstance(part, EncodedImage) for part in call.parts) == 4
    (other,) = RUBRIC.ask(dialogue("content_memory", -1, 0), {}, Encoding())
    assert "still hold" in str(other.parts[0]) and "{" in str(other.parts[0])
    with pytest.raises(RowError, match="turns of a dialogue"):
        RUBRIC.ask(JudgedEdit("add", "x", (IMAGES[0],), IMAGES[1]), {}, Encoding())


def test_three_numbers_are_capped_by_the_first() -> None:
    numbers = {"judge": {"following": 3, "dialogue": 5, "preservation": 2, "quality": 4}}
    values = {one.name: one.value(numbers) for one in RUBRIC.dimensions}
    assert values == {"following": 3, "dialogue": 3, "preservation": 2, "quality": 3, "overall": 11 / 4}


def test_from_the_list_of_dialogues_to_means_per_kind(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "multiturn").mkdir()
    for kind, said in (("content_memory", ["Red.", "Add a hat."]), ("version_backtracking", ["Snow.", "Undo that."])):
        turns = {f"turn{k}": text for k, text in enumerate(said, 1)}
        listed = {"1": {"id": "1.jpg", **turns}, "2": {"id": "1.jpg", **turns}}
        (tmp_path / "multiturn" / f"{kind}.json").write_text(json.dumps(listed))
    (tmp_path / "multiturn" / "1.jpg").write_bytes(encode(pixels(9), "JPEG"))
    words = ["eval", "cases", "imgedit", tmp_path / "multiturn", "--suite", "multiturn"]
    ids = [row["id"] for row in edit(*words, "-f", "jsonl").lines]
    assert len(ids) == 4
    results = tmp_path / "results"
    results.mkdir()
    for number, identity in enumerate(ids[:-1]):  # the last has no results
        for turn in (1, 2):
            (results / f"{identity}.turn.{turn}.png").write_bytes(encode(pixels(number * 2 + turn), "PNG"))
    edit(*words, "--results", results, "-o", tmp_path / "rows")

    def answer(prompt: str, number: int) -> list[bytes]:
        assert "Turn 2, which edits turn 1" in prompt
        first = 4 if "Red." in prompt else 2
        said = {"rationale": "r", "following": first, "dialogue": 5, "preservation": 5, "quality": 5}
        return [response(200, chat(json.dumps(said)))]

    server = Server(answer)
    try:
        edit("judge", tmp_path / "rows", "--rubric", "multiturn", "--model", "j", "--api-base", server.url,
             "-o", tmp_path / "judged")  # fmt: skip
    finally:
        server.close()
    states = {row["id"]: row["judgements"][-1]["state"] for row in rows_of(tmp_path / "judged")}
    assert [states[identity] for identity in ids] == ["ok", "ok", "ok", "missing"]
    found: dict[str, Any] = json.loads(edit("eval", "report", "imgedit", tmp_path / "judged", "-f", "json").stdout)
    means = {task: entry["score"]["mean"] for task, entry in found["strict"]["tasks"].items()}
    assert means == {"content_memory": 4, "version_backtracking": 2} and found["macro"]["score"]["mean"] == 3
    assert found["coverage"]["total"] == {"expected": 4, "generated": 3, "judged": 3, "failed": 0, "missing": 1}
    assert found["official"] == {} and found["official_means"] == {}
    assert any("a rubric of ours" in note for note in found["notes"]) and found["judge"]["rubric"] == "multiturn"
    edit("eval", "report", "imgedit", tmp_path / "judged", "--name", "m", "-f", "json", "-o", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "m (here)" not in page  # no row beside a paper's numbers
    # Every turn is shown, with its image.
    assert page.count('<img alt="turn 1"') == page.count('<img alt="turn 2"') == 3 and "1. Red.\n2. Add a hat." in page
