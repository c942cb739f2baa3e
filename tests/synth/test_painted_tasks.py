"""The painted tasks, each through the stage with a painter that keeps what it was asked; faults of released pipelines
that must not come back; presets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Runner, rejects_of, rows_of
from test_painted import disc, pixels, planted

import edittools
from edittools.caption.targets import read_targets, targets
from edittools.cli.synth import _PRESETS
from edittools.errors import RowError, UsageError
from edittools.ground.maps import canny
from edittools.ground.people import Face
from edittools.painters import PAINTERS, PaintRequest, Sampling
from edittools.painters.canvas import Brush
from edittools.registry import Registry
from edittools.seeded import stream
from edittools.synth.config import PaintConfig
from edittools.synth.paint_stage import PaintStage
from edittools.synth.painted import expression, motion
from edittools.synth.painting import Region, Scene
from edittools.synth.registry import PAINTED
from edittools.synth.tuning import read_tuning

pytest.importorskip("cv2")


class Stub:
    """Inverts what it is to paint, and keeps what it was asked."""

    batch_size, multiple, area = 4, 1, None
    wants = frozenset({"prompt", "control"})

    def __init__(self) -> None:
        self.asked: list[PaintRequest] = []

    def load(self, weights: str, **placed: str) -> Stub:
        return self

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        return None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        self.asked += requests
        return [255 - one.image for one in requests]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made, load = Stub(), Registry.load
    monkeypatch.setattr(Registry, "load", lambda self, name: made if self is PAINTERS else load(self, name))
    return made


def rows(source: str, **told: object) -> list[dict[str, Any]]:
    return list(edittools.read(source).synth(painter="inpaint", **told).rows())


def of(image: dict[str, Any]) -> np.ndarray:
    return pixels(image["bytes"])


def test_looks_are_painted_along_the_edges_of_the_source(stub: Stub, tmp_path: Path) -> None:
    source, images, _ = planted(tmp_path, [[("car", disc(60, 60, 20))]])
    for task, said in (("color", "color"), ("material", "material"), ("adjust", "alter")):
        (row,) = rows(source, painted=said, tune=f"{said}.steps=15,{said}.guidance=3.5,{said}.canny_low=20")
        asked, word = stub.asked[-1], json.loads(row["provenance"]["slots"])[task]
        assert row["task"] == task and word in targets()[task] and word in row["instruction"]["en"]
        assert word in asked.prompt and "car" in asked.prompt
        assert asked.sampling == Sampling(steps=15, guidance=3.5)
        drawer = canny.load()
        drawer.low = 20
        assert asked.control is not None and asked.control.shape == asked.image.shape
        assert asked.control.sum() == 3 * drawer.draw(images[0]).astype(int).sum(), "all edges are the disc's"
        mask, target = of(row["mask"]), of(row["target"])
        assert mask[disc(60, 60, 20)].all() and (target[mask == 0] == images[0][mask == 0]).all()
    assert row["scores"] == {"check_outside": 0.0}


def test_nobody_is_painted_white_or_made_of_wood(stub: Stub, tmp_path: Path) -> None:
    source, _, _ = planted(tmp_path, [[("old man", disc(60, 60, 20)), ("face", disc(130, 60, 15))]])
    for painted in ("color", "material", "alter"):
        edittools.read(source).synth(painter="inpaint", painted=painted).write(str(tmp_path / painted))
        assert not rows_of(tmp_path / painted)
        assert [one["reason"] for one in rejects_of(tmp_path / painted)] == ["no object fits"]
    assert len(rows(source, painted="portrait", per_row=2)) == 2


def test_instructions_are_english(stub: Stub) -> None:
    """Every wording of a task with every word: no "replace ... for", no "make ... into", no "them" that is "it"."""
    trousers, image = disc(60, 60, 20), np.zeros((120, 160, 3), np.uint8)
    box = (0.2, 0.3, 0.5, 0.6)
    scene = Scene(image, (Region("trousers", trousers, box), Region("dog", disc(130, 60, 15), (0.7, 0.4, 0.9, 0.6))),
                  read_targets(), references=(image,))  # fmt: skip
    wrong = re.compile(
        r"[Rr]eplace [^,;]* for |[Ss]wap (?!.* for ).* with |[Mm]ake [^,;]* into |[Tt]urn [^,;]* out of |"
        r"[Tt]urn the color|[Hh]ave the (trousers|dog) |trousers (is|it)\b|"
        r"\b(make|paint|color|replace|turn|change|remove|take) it\b"
    )
    said = []
    for task in ("alter", "color", "material", "replace", "style", "like", "visual", "dialogue"):
        for seed in range(40):
            for plan in PAINTED.load(task).plans(scene, stream(seed, task)):
                told = [plan.instruction, plan.inverse or "", *(turn.instruction for turn in plan.turns)]
                said += [text for text in told if "trousers" in plan.instruction or task == "style"]
    assert len(said) > 500 and not [text for text in said if wrong.search(text)]


def test_a_style_and_its_way_back(stub: Stub, tmp_path: Path) -> None:
    source, images, _ = planted(tmp_path, [[]])
    table = pq.read_table(source)
    captioned = table.append_column("caption", [[{"en": "A green hill.", "zh": None}]])
    pq.write_table(captioned, source)
    there, back = rows(source, painted="style", inverse=True)
    style = json.loads(there["provenance"]["slots"])["style"]
    assert stub.asked[0].prompt.endswith(f"{style} of A green hill") and stub.asked[0].mask.all()
    assert there["task"] == back["task"] == "style" and (of(there["target"]) == 255 - images[0]).all()
    assert back["target"] == there["source"][0] and back["source"] == [there["target"]], "the target is the photograph"
    assert style in there["instruction"]["en"] and "photo" in back["instruction"]["en"]

    (none,) = [edittools.read(source).synth(painter="inpaint", painted="photo")]
    none.write(str(tmp_path / "none"))
    assert [one["reason"] for one in rejects_of(tmp_path / "none")] == ["no object fits"], "it is a photograph"
    pq.write_table(captioned.append_column("caption_structured", [[{"style": "ink drawing"}]]), source)
    photo, drawing = rows(source, painted="photo", inverse=True)
    assert stub.asked[-1].prompt == "a photograph of A green hill" and stub.asked[-1].negative == "ink drawing"
    assert "ink drawing" in photo["instruction"]["en"] and "an ink drawing" in drawing["instruction"]["en"]
    assert drawing["target"] == photo["source"][0]
    assert not rows(source, painted="style"), "and another style of it would be a style of a style"


def test_extract_is_exact_and_visual_is_made_of_a_removal(stub: Stub, tmp_path: Path) -> None:
    ring = disc(60, 60, 25) & ~disc(60, 60, 10)
    source, images, _ = planted(tmp_path, [[("ring", ring), ("dot", disc(130, 20, 3))]])
    (alone,) = rows(source, painted="extract")
    assert not stub.asked, "no painter is asked"
    target = of(alone["target"])
    assert alone["task"] == "extract" and "ring" in alone["instruction"]["en"], "and not the object of another task"
    inner = disc(60, 60, 23) & ~disc(60, 60, 12)
    assert (target[inner] == images[0][inner]).all() and (target[~disc(60, 60, 27)] == 255).all()
    assert (target[disc(60, 60, 8)] == 255).all(), "what is seen through it is not part of it"

    (visual,) = rows(source, painted="visual", inverse=True, seed=1)
    assert visual["task"] == "visual" and visual["id"] == "r0-painted_visual-0" and len(visual["source"]) == 2
    assert visual["target"]["file"] == source and visual["target"]["row"] == 0, "the photograph itself, by reference"
    scene, thing = map(of, visual["source"])
    mask = of(visual["mask"])
    assert (scene[mask == 0] == images[0][mask == 0]).all() and (scene[mask > 0] != images[0][mask > 0]).any()
    assert (thing[0] == 255).all() and (thing == (30, 200, 60)).all(axis=2).sum() == ring.sum()
    assert "ring" in visual["instruction"]["en"] and "2" in visual["instruction"]["en"].replace("second", "2")


def test_a_thing_gives_way_to_one_of_its_kind(stub: Stub, tmp_path: Path) -> None:
    source, _, _ = planted(tmp_path, [[("dog", disc(60, 60, 20))], [("sputnik", disc(60, 60, 20))]])
    first, second = rows(source, painted="replace")
    animals = read_targets()["replace"]["animals"]
    things = [json.loads(row["provenance"]["slots"])["thing"] for row in (first, second)]
    assert things[0] in animals and "dog" not in things[0] and things[1] in targets()["replace"]


def test_what_one_task_lacks_costs_no_other(stub: Stub, tmp_path: Path) -> None:
    """A released pipeline ends an image at its first kind of edit without a candidate."""
    source, _, _ = planted(tmp_path, [[("dot", disc(60, 60, 5))], [("car", disc(60, 60, 20))]])
    told = {"painter": "inpaint", "painted": "color,replace,background,remove,extract", "per_row": 5}
    edittools.read(source).synth(**told).write(str(tmp_path / "out"))
    made = sorted(row["id"].removeprefix("r") for row in rows_of(tmp_path / "out"))
    assert made[:2] == ["0-painted_remove-0", "1-painted_background-0"], made
    assert {one["id"] for one in rejects_of(tmp_path / "out")} >= {"r0-painted_color", "r0-painted_extract"}
    assert len(made) == 6


def test_crops_keep_their_ratio_and_numbers_grow_with_the_image(stub: Stub, tmp_path: Path) -> None:
    """A released pipeline works at 512 x 512 whatever the picture's ratio; another fixes its pixels."""
    source, _, _ = planted(tmp_path, [[("car", disc(60, 60, 20))]])
    (row,) = rows(source, painted="remove", tune="remove.grow=85.4,remove.feather=0,remove.context=2")
    grown = of(row["mask"]) > 0
    assert np.abs(grown.sum() - disc(60, 60, 30).sum()) < 0.05 * grown.sum(), "10 pixels of 120, as 85 of 1024"
    height, width = stub.asked[0].image.shape[:2]
    assert abs(height - width) <= 1 or max(height, width) >= 120, "the crop about a disc"
    (row,) = rows(source, painted="background", tune="background.grow=85.4", scenes="a beach")
    assert not (of(row["mask"]) > 0)[disc(60, 60, 5)].any() and (of(row["mask"]) > 0)[~disc(60, 60, 12)].all()


def face(x: float, y: float, unit: float) -> Face:
    """Landmarks of an upright face with its eyes `unit` apart."""
    points = np.tile([x, y], (468, 1)).astype(float)
    for landmark, (across, down) in {
        33: (-0.7, 0), 133: (-0.3, 0), 362: (0.3, 0), 263: (0.7, 0), 1: (0, 0.5), 61: (-0.4, 0.9), 291: (0.4, 0.9),
        17: (0, 1.1), 145: (-0.5, 0.1), 374: (0.5, 0.1), 159: (-0.5, -0.1), 386: (0.5, -0.1), 10: (0, -1), 234: (-1, 0),
        454: (1, 0),
    }.items():  # fmt: skip
        points[landmark] = x + across * unit, y + down * unit
    return Face(0.9, points)


def test_a_smile_moves_the_corners_of_the_mouth(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = face(80, 50, 40)
    source, images, _ = planted(tmp_path, [[]])
    corner = np.hypot(*(np.mgrid[:120, :160] - one.landmarks[61][::-1, None, None])) < 2
    image = images[0].copy()
    image[corner] = (250, 0, 0)
    moved, mask = expression.bent(image, one, "smile")
    y, x = np.mgrid[:120, :160]
    weight = np.clip(moved[..., 0].astype(float) - moved[..., 2], 0, None) * (np.hypot(x - 64, y - 86) < 12)
    at = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    # By d outwards and up, where d = 4 exp(-(d² + d²) / (2 · 6.4²)): 0.1 of 40 pixels, which fall off over 0.16 of 40.
    d = 0.0
    for _ in range(60):
        d = 4 * np.exp(-(d**2) / 6.4**2)
    assert at == pytest.approx(one.landmarks[61] + (-d, -d), abs=0.3)
    assert (moved[~mask] == image[~mask]).mean() > 0.99 and mask.mean() < 0.4

    class Faces:
        def find(self, pixels: np.ndarray, threshold: float) -> list[Face]:
            turned = face(80, 50, 40)
            turned.landmarks[1, 0] += 20  # seen from the side
            return [one, turned]

    monkeypatch.setattr(expression, "_faces", Faces)
    bare = pq.read_table(source).drop_columns(["objects"])
    pq.write_table(bare, source)
    found = rows(source, painted="expression", per_row=9, inverse=True)
    assert len(found) == 6 and {row["task"] for row in found} == {"portrait"} and not stub.asked
    assert "the person at the" in found[0]["instruction"]["en"].casefold() or "in the middle" in str(found)
    for row in found[::2]:
        kept = of(row["mask"]) == 0
        assert (of(row["target"])[kept] == images[0][kept]).all()


def test_an_arm_is_raised_about_its_shoulder() -> None:
    joints: motion.Points = [None] * 18
    joints[2], joints[3], joints[4] = (50.0, 50.0), (45.0, 70.0), (48.0, 90.0)
    moved = motion.raised(joints, (2, 3, 4))
    assert moved is not None and moved[2] == joints[2]
    for a, b in ((2, 3), (3, 4)):
        before, after = (np.hypot(*np.subtract(some[b], some[a])) for some in (joints, moved))  # type: ignore[arg-type]
        assert after == pytest.approx(before), "bones keep their length"
    assert moved[4][1] < 50 and moved[4][0] < 50, "up, and outwards"  # type: ignore[index]
    assert motion.raised(moved, (2, 3, 4)) is None, "it is up already"
    assert motion.raised([None] * 18, (2, 3, 4)) is None


def test_maps_and_tasks_have_to_fit(stub: Stub) -> None:
    with pytest.raises(UsageError, match="wants a painter that follows a map `pose`"):
        _ = PaintStage(PaintConfig(painter="inpaint", painted="motion")).painter
    assert PaintStage(PaintConfig(painter="inpaint", painted="motion", control="pose")).map is None, "it draws its own"
    with pytest.raises(UsageError, match=r"not TASK\.NAME=NUMBER"):
        read_tuning(["remove.size=3"], ["remove"])
    with pytest.raises(UsageError, match="is not a number"):
        read_tuning(["remove.grow=wide"], ["remove"])
    with pytest.raises(UsageError, match=r"context cannot be 0\.5"):
        read_tuning(["remove.context=0.5"], ["remove"])
    with pytest.raises(UsageError, match="no such task"):
        read_tuning(["remvoe.grow=3"], ["remove"])


def test_presets_are_the_published_numbers() -> None:
    import tomllib

    tables = {path.stem: tomllib.loads(path.read_text())["synth"] for path in _PRESETS.glob("*.toml")}
    assert set(tables) == {"imgedit", "step1x", "firered"}
    for table in tables.values():
        config = PaintConfig(painter="inpaint", **{name.replace("-", "_"): value for name, value in table.items()})
        read_tuning(config.tune, config.painted)
    imgedit = read_tuning(PaintConfig(painter="inpaint", **tables["imgedit"]).tune, PAINTED.names)
    brush = imgedit["remove"].brush(Brush(1, 1, 2.0), 1024)
    assert (brush.grow, brush.feather, brush.context) == (64, 2, 2.0)
    assert imgedit["remove"].brush(Brush(), 512).grow == 32, "of a smaller picture as many less"
    assert imgedit["replace"].sampling == Sampling(steps=12, guidance=30) and imgedit["color"].edges == (50, 170)
    assert imgedit["style"].sampling == Sampling(steps=21, guidance=5, control_scale=0.8, control_end=0.7)


def test_a_lexicon_of_ones_own(stub: Stub, tmp_path: Path) -> None:
    source, _, _ = planted(tmp_path, [[("car", disc(60, 60, 20))]])
    (tmp_path / "own.toml").write_text('[color]\nreds = ["crimson"]\n')
    (row,) = rows(source, painted="color", targets=str(tmp_path / "own.toml"))
    assert "crimson" in row["instruction"]["en"].casefold()
    (tmp_path / "own.toml").write_text('color = ["crimson"]\n')
    read_targets.cache_clear()
    with pytest.raises(UsageError, match=r"\[color\] is no table"):
        PaintStage(PaintConfig(painter="inpaint", targets=str(tmp_path / "own.toml")))
    read_targets.cache_clear()


def test_every_painted_task_declares_what_is_read_of_it() -> None:
    from edittools.record import TASKS

    assert set(PAINTED.declared("TASK").values()) <= set(TASKS)
    assert all(PAINTED.declared("HELP").values()) and None not in PAINTED.declared("PROMPT").values()


def test_a_preset_is_for_painters(edit: Runner, tmp_path: Path) -> None:
    """Without one it would be passed over, and templates drawn."""
    refused = edit("synth", "none.parquet", "--preset", "imgedit", "-o", "out/", cwd=tmp_path, check=2)
    assert "--preset needs --painter" in refused.stderr
