"""The library of experts: its files, what can be asked of an image, what is refused; through the stage."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import encode, rejects_of, rows_of
from test_painted import disc, pixels, planted
from test_painted_tasks import Stub
from tiny_models import photo

import edittools
from edittools.caption.targets import read_things
from edittools.errors import RowError, UsageError
from edittools.painters import PAINTERS
from edittools.record import TASKS
from edittools.registry import Registry
from edittools.seeded import stream
from edittools.synth.config import PaintConfig
from edittools.synth.experts import POOLS, SLOTS, asked_of, experts, slots_in, who_can
from edittools.synth.paint_stage import PaintStage
from edittools.synth.painting import Region, Scene

pytest.importorskip("cv2")
RED = np.full((4, 4, 3), (200, 60, 10), np.uint8)


def region(name: str, x: float) -> Region:
    return Region(name, np.ones((4, 4), bool), (x, 0.4, x + 0.1, 0.6))


def test_every_task_has_an_expert_with_primitives_of_its_own() -> None:
    library = experts()
    assert set(library) == set(TASKS) - {"t2i"} and len(library) == 20
    for task, expert in library.items():
        assert len(expert.primitives) >= 8, task
        assert all(one.triggers for one in expert.primitives.values())
        assert len({one.say for one in expert.primitives.values()}) == len(expert.primitives)
        used = {slot for one in expert.primitives.values() for slot in slots_in(one.say)}
        assert {slot for slot in (expert.gone, *expert.there) if slot} <= used, task
    assert {one.images for one in library["tryon"].primitives.values()} == {1, 2}


def test_the_inventory_has_five_hundred_things_once_each() -> None:
    counts = Counter(name for names in read_things().values() for name in names)
    assert len(counts) >= 500
    assert {name for name, times in counts.items() if times > 1} <= {"kite", "hot air balloon", "airplane"}
    assert not [name for name in counts if name.split()[0] in ("a", "an", "the")]


def test_slots_are_filled_from_the_image_and_the_lexicon() -> None:
    library = experts()
    scene = Scene(np.zeros((4, 4, 3), np.uint8), (region("dog", 0.1), region("dog", 0.8), region("woman", 0.4)))
    found = {
        (task, one.primitive): one
        for task, expert in library.items()
        for seed in range(6)
        for one in asked_of(scene, task, expert, stream(seed, task))
    }
    for (task, name), one in found.items():
        assert "<" not in one.instruction and "{" not in one.instruction and one.instruction.endswith("."), one
        assert library[task].primitives[name].images == 1
        for slot, value in one.slots.items():
            pool = SLOTS[slot](scene)
            assert value in pool if pool else value.split(" on ")[0].split(" in ")[0] in ("dog", "woman")
        if "person" in one.slots:
            assert one.slots["person"] == "woman", "of people only"
        if "other" in one.slots:
            assert one.slots["other"] not in (one.slots.get("object"), one.slots.get("item"))
        assert "woman" not in one.slots.get("item", ""), "nobody is painted blue"
    assert {one.slots["object"] for one in found.values() if "object" in one.slots} >= {"dog on the left"}
    assert ("text", "change") not in found and ("tryon", "named") in found
    assert {task for task, _ in found} == set(library) - {"visual"}, "which needs a second picture"
    two = Scene(scene.image, scene.regions, references=(scene.image,), texts=("OPEN",))
    kinds = {(task, one.primitive) for task in library for one in asked_of(two, task, library[task], stream(1))}
    assert ("tryon", "wear") in kinds and ("visual", "into") in kinds and ("tryon", "named") not in kinds
    written = Scene(scene.image, texts=("OPEN",))
    assert "change" in {one.primitive for one in asked_of(written, "text", library["text"], stream(1))}


def asked(task: str, *names: str, seeds: int = 8, image: np.ndarray = RED, **told: Any) -> dict[str, set[str]]:
    """What is asked of an image of these things: instructions by primitive."""
    scene = Scene(image, tuple(region(name, 0.3 * k) for k, name in enumerate(names)), **told)
    found: dict[str, set[str]] = {}
    for seed in range(seeds):
        for one in asked_of(scene, task, experts()[task], stream(seed, task)):
            found.setdefault(one.primitive, set()).add(one.instruction)
    return found


def test_nothing_is_asked_that_makes_no_sense() -> None:
    for task, names, absent in (
        ("adjust", ("man", "dog"), {"open", "full"}),
        ("adjust", ("man",), {"state", "pattern", "older", "newer"}),
        ("color", ("woman",), {"object", "change", "two", "lighter", "metallic"}),
        ("material", ("boy",), {"object", "change", "cover", "ice"}),
        ("motion", ("chair",), {"animal"}),
        ("lowlevel", (), {"haze", "rain", "snow", "dark", "scratches", "colorize"}),
        ("remove", ("cat",), {"people", "writing", "watermark", "wires", "litter", "worn"}),
        ("style", (), {"photo"}),
        ("text", (), {"say", "change"}),
        ("background", (), {"sky"}),
    ):
        assert not absent & asked(task, *names).keys(), (task, names)
    assert asked("adjust", "garden gate", "coffee cup")["open"] == {"Open the garden gate.", "Close the garden gate."}
    assert asked("adjust", "coffee cup")["full"] == {"Fill the coffee cup.", "Empty the coffee cup."}
    assert all(" dog " in said for said in asked("motion", "chair", "dog")["animal"])
    worn = asked("remove", "man", caption="A man with a hat.")["worn"]
    assert worn == {"Take off the hat of the man.", "Remove the hat of the man."}
    assert asked("text", tags={"billboard": "street"})["say"] and asked("remove", texts=("OPEN",))["writing"]
    assert "photo" in asked("style", style="oil painting") and "sky" in asked("background", tags={"sky": None})
    for task, name, caption in (
        ("lowlevel", "colorize", "A black-and-white dog on a lawn."),
        ("lowlevel", "dark", "A woman with dark eyes."),
        ("lowlevel", "rain", "A girl in rain boots."),
        ("lowlevel", "scratches", "A man in torn jeans."),
        ("style", "photo", "A room with a painting on the wall."),
    ):
        assert name not in asked(task, "woman", caption=caption), caption
    assert "worn" not in asked("remove", "woman", caption="A woman and two wine glasses.")
    assert "dark" in asked("lowlevel", image=np.full((8, 8, 3), 20, np.uint8))
    gray = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 3, axis=2)
    assert "colorize" in asked("lowlevel", image=gray) and "colorize" not in asked("lowlevel")
    for said in asked("color", "car", seeds=30)["two"]:
        first, second = said.rstrip(".").split(" and ")
        assert not first.endswith(f" {second}"), said


@pytest.mark.parametrize("name, person, creature", [
    ("bride", True, False), ("old man in a red coat", True, False), ("group of people", True, False),
    ("police officer", True, False), ("baby carriage", False, False), ("woman's face", False, False),
    ("bird", False, True), ("puppies", False, True), ("dogs", False, True), ("butterfly", False, True),
    ("hot dog", False, False), ("teddy bear", False, False), ("group of chairs", False, False),
])  # fmt: skip
def test_who_is_a_person_and_what_is_alive(name: str, person: bool, creature: bool) -> None:
    assert (POOLS["person"](name), POOLS["creature"](name)) == (person, creature)
    assert POOLS["item"](name) is not (person or name.endswith("face"))


def test_requests_to_restore_are_not_refused() -> None:
    assert who_can("make it sharp", experts(), "lowlevel") == ("lowlevel", "blur")
    assert who_can("remove the noise and make it brighter", experts(), "lowlevel")[0] == "lowlevel"


def test_what_few_objects_will_do_for_is_chosen_first() -> None:
    """Of a man and a car it is the car that changes its colour, whichever the other one would have been."""
    found = asked("hybrid", "man", "car", seeds=12)
    assert found["remove_recolor"] and all(" man and make the car " in said for said in found["remove_recolor"])
    assert "recolor_two" not in found and "recolor_two" in asked("hybrid", "cup", "car")


def test_the_region_is_that_of_the_object(tmp_path: Path) -> None:
    line = 'wash = { say = "have <person> wash the <object>", triggers = ["wash"] }'
    (tmp_path / "adjust.toml").write_text(f'can = "x"\ncannot = []\n[primitive]\n{line}\n')
    scene = Scene(np.zeros((4, 4, 3), np.uint8), (region("woman", 0.1), region("car", 0.6)))
    for seed in range(4):
        (one,) = asked_of(scene, "adjust", experts(str(tmp_path))["adjust"], stream(seed))
        assert one.slots["person"] == "woman" and one.slots["object"] == "car"
        assert one.region is scene.regions[1]


def test_requests_find_their_primitive_or_are_refused() -> None:
    library = experts()
    for said, expected in (
        ("Please get rid of the watermark", ("remove", "watermark")),
        ("let the teapot melt", ("creative", "melt")),
        ("Put a dog next to the bench", ("add", "beside")),
        ("show the street from above", ("viewpoint", "above")),
        ("whiten the teeth of the man", ("beauty", "teeth")),
        ("colorize this photo of my grandmother", ("lowlevel", "colorize")),
        ("let it snow", ("tone", "snow")),
        ("Let it rain heavily.", ("tone", "rain")),
        ("remove the falling snow", ("lowlevel", "snow")),
    ):
        assert who_can(said, library) == expected, said
    assert who_can("make the car red", library, "color") == ("color", "object")
    for said, task in (("play a song", None), ("remove the dog", "add"), ("undress the woman", "tryon")):
        with pytest.raises(RowError, match="no expert can do it"):
            who_can(said, library, task)
    with pytest.raises(RowError):
        who_can("the remover", {"remove": library["remove"]})  # words, not parts of words


def test_a_library_of_ones_own(tmp_path: Path) -> None:
    line = 'say = "wash the <object>", triggers = ["wash"]'
    (tmp_path / "adjust.toml").write_text(f'can = "x"\ncannot = []\n[primitive]\nwash = {{ {line} }}\n')
    config = PaintConfig(painter="editor=x", painted="expert", library=str(tmp_path))
    assert list(PaintStage(config).experts) == ["adjust"]
    for bad, words in (
        (f'can = "x"\ncannot = []\n[primitive]\nwash = {{ {line.replace("object", "obj")} }}', "no slot <obj>"),
        (f'can = "x"\n[primitive]\nwash = {{ {line} }}', "`cannot` is missing"),
        (f'can = "x"\ncannot = []\n[primitive]\nwash = {{ {line.replace("wash the", "{wash the")} }}', "pattern"),
        (f'can = "x"\ncannot = []\n[primitive]\nwash = {{ {line.replace("object", "needed")} }}', "without `needs`"),
    ):
        (tmp_path / "adjust.toml").write_text(bad)
        experts.cache_clear()
        with pytest.raises(UsageError, match=words):
            experts(str(tmp_path))
    experts.cache_clear()
    with pytest.raises(UsageError, match="no TOML file"):
        experts(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="no such expert"):
        PaintStage(PaintConfig(painter="editor=x", painted="expert", experts="wash"))


class Editing(Stub):
    wants = frozenset({"prompt", "instruction"})


def test_an_editor_is_asked_by_the_library_and_by_requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, load = Editing(), Registry.load
    monkeypatch.setattr(Registry, "load", lambda self, name: made if self is PAINTERS else load(self, name))
    source, images, _ = planted(tmp_path, [[("car", disc(60, 60, 20))]] * 2)
    told = {"painter": "inpaint", "painted": "expert", "experts": "remove,color,tryon", "per_row": 3}
    rows = list(edittools.read(source).synth(**told).rows())
    assert len(rows) == 6 and {row["task"] for row in rows} <= {"remove", "color"}, "there is no person"
    for row, asked in zip(rows, made.asked):
        assert asked.instruction == row["instruction"]["en"] and asked.mask.all()
        assert (pixels(row["target"]["bytes"]) == 255 - images[int(row["id"][1])]).all()
        assert json.loads(row["provenance"]["slots"])["primitive"] in experts()[row["task"]].primitives
    assert len({asked.seed for asked in made.asked}) == 6

    table = pq.read_table(source).drop_columns(["objects"])
    texts = [{"en": "Make the car red.", "zh": None}, {"en": "Play a song.", "zh": None}]
    pair = [[{"bytes": encode(photo(k, 120, 160), "PNG"), "path": None} for k in (1, 2)]] * 2
    table = table.append_column("instruction", [texts]).append_column("source", [pair])
    pq.write_table(table, source)
    made.asked.clear()
    edittools.read(source).synth(painter="inpaint", painted="request").write(str(tmp_path / "out"))
    (row,) = rows_of(tmp_path / "out")
    assert row["task"] == "color" and row["instruction"]["en"] == "Make the car red." and len(row["source"]) == 2
    assert len(made.asked) == 1 and (made.asked[0].references[0] == photo(2, 120, 160)).all()
    assert [(one["reason"], one["value"]) for one in rejects_of(tmp_path / "out")] == [
        ("no expert can do it", "Play a song.")
    ]


def test_a_painter_of_regions_follows_no_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="takes no prompt"):
        _ = PaintStage(PaintConfig(painter="inpaint", painted="expert")).painter
    made, load = Stub(), Registry.load
    monkeypatch.setattr(Registry, "load", lambda self, name: made if self is PAINTERS else load(self, name))
    with pytest.raises(UsageError, match="follows no instruction"):
        _ = PaintStage(PaintConfig(painter="inpaint", painted="expert")).painter
