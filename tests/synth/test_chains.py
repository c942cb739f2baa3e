"""Edits of several steps: hybrids, dialogues, compound instructions split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import rejects_of, rows_of
from test_painted import disc, pixels, planted
from test_painted_tasks import Stub

import edittools
from edittools.errors import RowError
from edittools.painters import PAINTERS, PaintRequest
from edittools.record import DIALOGUE_KINDS
from edittools.registry import Registry
from edittools.synth.experts import experts
from edittools.synth.painted import split
from edittools.synth.painting import Region, Scene, apart

pytest.importorskip("cv2")
THREE = [("ball", disc(25, 60, 8)), ("cup", disc(80, 30, 8)), ("hat", disc(135, 90, 8))]


class Levels(Stub):
    """Paints the k-th step that it is asked in level 200 + k."""

    wants = frozenset({"prompt", "instruction"})
    failing = False

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        made: list[np.ndarray | RowError] = []
        for one in requests:
            self.asked.append(one)
            late = self.failing and len(self.asked) > 1
            made.append(RowError("cannot paint it") if late else np.full_like(one.image, 150 + len(self.asked) % 100))
        return made


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> Levels:
    made, load = Levels(), Registry.load
    monkeypatch.setattr(Registry, "load", lambda self, name: made if self is PAINTERS else load(self, name))
    return made


def of(image: dict[str, Any]) -> np.ndarray:
    return pixels(image["bytes"] if isinstance(image, dict) else image)


def test_a_hybrid_is_two_edits_of_different_objects(painter: Levels, tmp_path: Path) -> None:
    source, images, _ = planted(tmp_path, [THREE])
    edittools.read(source).synth(painter="inpaint", painted="hybrid", steps=True).write(str(tmp_path / "out"))
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert sorted(rows) == ["r0-painted_hybrid-0", "r0-painted_hybrid_step1-0", "r0-painted_hybrid_step2-0"]
    whole, first, second = (rows[name] for name in sorted(rows))
    parts = json.loads(whole["provenance"]["slots"])["parts"]
    assert len({part["object"] for part in parts}) == 2 and whole["task"] == "hybrid"
    assert [row["task"] for row in (first, second)] == [part["task"] for part in parts]
    for part in parts:
        assert part["object"] in whole["instruction"]["en"]
    # Lossless: the first edit's target is the second's source, byte for byte, and nothing else changes.
    assert first["target"] == second["source"][0] and second["target"] == whole["target"]
    assert first["provenance"]["parents"] == ["r0"] and second["provenance"]["parents"] == [first["id"]]
    masks = [of(row["mask"]) > 0 for row in (first, second, whole)]
    assert (masks[2] == (masks[0] | masks[1])).all() and not (masks[0] & masks[1]).any()
    assert (of(whole["target"])[~masks[2]] == images[0][~masks[2]]).all()
    assert (of(second["target"])[masks[0]] == of(first["target"])[masks[0]]).all(), "the first edit is still there"


def test_what_cannot_be_finished_is_a_reject(painter: Levels, tmp_path: Path) -> None:
    source, _, _ = planted(tmp_path, [THREE, THREE[:1], [("ball", disc(60, 60, 8)), ("cup", disc(79, 60, 8))]])
    painter.failing = True
    edittools.read(source, jobs=1).synth(painter="inpaint", painted="hybrid").write(str(tmp_path / "o"), max_errors="9")
    assert not rows_of(tmp_path / "o")
    found = {(one["id"], one["reason"]) for one in rejects_of(tmp_path / "o")}
    assert found == {
        ("r0-painted_hybrid-0", "cannot paint it"), ("r1-painted_hybrid", "no object fits"),
        ("r2-painted_hybrid", "no object fits"),  # they touch: a released rule wants a hundred pixels between boxes
    }  # fmt: skip
    near, far = (Region("x", np.ones((1, 1), bool), (x, 0, x + 0.1, 0.1)) for x in (0.1, 0.5))
    assert apart(near, far, (1024, 1024)) and not apart(near, near, (1024, 1024))
    assert not apart(near, Region("y", near.mask, (0.29, 0, 0.3, 0.1)), (1024, 1024)), "92 pixels"


def test_dialogues_begin_with_the_photograph(painter: Levels, tmp_path: Path) -> None:
    source, images, _ = planted(tmp_path, [THREE] * 4)
    rows = list(edittools.read(source).synth(painter="inpaint", painted="dialogue", per_row=9).rows())
    assert {row["turns"][0]["kind"] for row in rows} == set(DIALOGUE_KINDS)
    for row in rows:
        image, turns = images[int(row["id"][1])], row["turns"]
        assert len(turns) == 3 and turns[0]["task"] == "add" and [t["parent"] for t in turns][:2] == [-1, 0]
        assert turns[0]["target"]["file"] == source, "what is added is what the photograph has"
        shown = [of(row["source"][0]), image, of(turns[1]["target"]), of(turns[2]["target"])]
        for number, turn in enumerate(turns):
            before, after, mask = shown[turn["parent"] + 1], shown[number + 1], of(turn["mask"])
            assert (before[mask == 0] == after[mask == 0]).all() and (before != after).any(), (row["id"], number)
        kind = turns[0]["kind"]
        said = [turn["instruction"]["en"] for turn in turns]
        assert turns[2]["parent"] == (0 if kind == "version_backtracking" else 1)
        if kind == "content_understanding":
            name = json.loads(row["provenance"]["slots"])["object"]
            assert name in said[0] and name not in said[1] + said[2] and " it " in said[1]
        if kind == "content_memory":
            rule = json.loads(row["provenance"]["slots"])["rule"]
            assert rule in said[0] and rule not in said[1] + said[2], "the premise is not repeated"
        assert row["target"] == turns[2]["target"]


def test_a_dialogue_of_a_painter_without_prompts(tmp_path: Path) -> None:
    source, _, _ = planted(tmp_path, [[(name, mask) for name, mask in THREE]])
    (row,) = edittools.read(source).synth(painter="inpaint", painted="dialogue").rows()
    assert [turn["task"] for turn in row["turns"]] == ["add", "remove", "remove"]
    assert row["turns"][2]["parent"] == 0


def test_a_compound_instruction_is_split_and_carried_out(painter: Levels, tmp_path: Path) -> None:
    library = experts()
    scene = Scene(np.zeros((4, 4, 3), np.uint8), experts=library)
    for said, expected in (
        ("Remove the dog and make the car red.", ["Remove the dog", "make the car red"]),
        ("Remove the dog and the cat.", ["Remove the dog and the cat"]),
        ("add a hat, then let it snow; also blur the background", ["add a hat", "let it snow", "blur the background"]),
        ("Make it night. Then add a moon.", ["Make it night", "add a moon"]),
        ("Make the car red, white and blue.", ["Make the car red, white and blue"]),
        ("Give him a beard and glasses, and remove the cup", ["Give him a beard and glasses", "remove the cup"]),
        ("Remove the dog and draw a cat, and rotate the chair", ["Remove the dog", "draw a cat", "rotate the chair"]),
        ("Add a table and set of chairs.", ["Add a table and set of chairs"]),
        ("Add a bench and plant.", ["Add a bench and plant"]),
        ('Change "salt, and remove" to "a; b", and add a dog.', ['Change "salt, and remove" to "a; b"', "add a dog"]),
    ):
        assert split.parted(said, scene) == expected
    source, _, _ = planted(tmp_path, [[], [], [], []])
    texts = ["Remove the dog and make the car red.", "Remove the dog.", "Sing and remove the dog.", "Tidy up"]
    edits = [None, None, None, [
        {"action": "remove", "object": "bottle", "change": "gone"},
        {"action": "replace", "object": "cup", "change": "a vase"},
    ]]  # fmt: skip
    table = pq.read_table(source).append_column("instruction", [[{"en": text, "zh": None} for text in texts]])
    kind = pa.list_(pa.struct([(name, pa.string()) for name in ("action", "object", "change")]))
    pq.write_table(table.append_column("atomic_edits", pa.array(edits, kind)), source)
    edittools.read(source).synth(painter="inpaint", painted="split", steps=True).write(str(tmp_path / "out"))
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert len(rows) == 6
    assert rows["r0-painted_split_step2-0"]["source"] == [rows["r0-painted_split_step1-0"]["target"]]
    assert rows["r0-painted_split-0"]["instruction"]["en"] == texts[0]
    assert [rows[f"r0-painted_split_step{k}-0"]["task"] for k in (1, 2)] == ["remove", "color"]
    assert rows["r3-painted_split_step2-0"]["instruction"]["en"] == "Replace the cup with a vase."
    assert (of(rows["r0-painted_split-0"]["target"]) == of(rows["r0-painted_split_step2-0"]["target"])).all()
    refused = {one["id"]: one["reason"] for one in rejects_of(tmp_path / "out")}
    assert refused == {"r1-painted_split": "no compound instruction", "r2-painted_split": "no expert can do it"}
