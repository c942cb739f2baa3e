"""Templates of a renderer, against what geometry says, and the tests' own projection."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import Runner, encode
from test_synth import TOOLS, make_image

from edittools.caption.wording import instruct
from edittools.seeded import stream
from edittools.synth import scene3d
from edittools.synth.core import SynthSample
from edittools.synth.registry import atomic_names, load, rendered_names
from edittools.synth.scene3d import View, render
from edittools.synth.stage import choose_templates
from edittools.synth.synthesis import invert, synthesize, template_names

pytest.importorskip("mitsuba")
PHOTO = make_image(4, 96, 128)
VIEW = View("red", "blue")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene3d, "SIDE", 96)


def one(name: str, row: str = "r") -> SynthSample:
    (sample,), skipped = synthesize(PHOTO, row, templates=[name], tools=TOOLS)
    assert not skipped
    return sample


def redness(image: np.ndarray) -> np.ndarray:
    return image[..., 0].astype(int) - image[..., 1:].max(axis=2)


def test_the_figure_stands_where_the_camera_sees_it() -> None:
    """Pixels by the pinhole formula: 34 degrees over the shorter side, 4.6 m away, 1.7 m high, aimed at .95 m."""
    drawn = render(VIEW, np.full((96, 128, 3), 90, np.uint8))
    assert drawn.shape == (96, 128, 3)
    eye, aim = np.array([0, -4.6, 1.7]), np.array([0, 0, 0.95])
    ahead = (aim - eye) / np.linalg.norm(aim - eye)
    up = np.array([0, 0, 1]) - ahead[2] * ahead
    up /= np.linalg.norm(up)
    right = np.cross(ahead, up)

    def pixel(place: tuple[float, float, float]) -> tuple[int, int]:
        x, y, depth = ((np.array(place) - eye) @ axis for axis in (right, up, ahead))
        scale = 48 / np.tan(np.radians(17)) / depth
        return int(48 - scale * y), int(64 + scale * x)

    chest, knee = drawn[pixel((0, -0.2, 1.1))].astype(int), drawn[pixel((0.11, -0.09, 0.5))].astype(int)
    assert chest[0] > 2 * chest[1:].max() and knee[2] > 2 * knee[:2].max()
    skin = drawn[pixel((-0.24 - 0.5 * np.sin(np.radians(10)), 0, 1.32 - 0.5 * np.cos(np.radians(10))))].astype(int)
    assert skin[0] > skin[1] > skin[2]  # the hand on the left
    assert np.ptp(drawn[pixel((2.0, 0.5, 0.0))].astype(int)) < 12  # the floor is gray
    assert np.array_equal(drawn, render(VIEW, np.full((96, 128, 3), 90, np.uint8)))


def test_the_photograph_stands_upright_behind() -> None:
    photo = np.zeros((96, 128, 3), np.uint8)
    photo[:48, :64], photo[:48, 64:] = (200, 30, 30), (30, 30, 200)  # red at the top left, blue at the top right
    photo[48:] = (30, 200, 30)
    drawn = render(View("white", "black"), photo)
    assert redness(drawn)[3, 20] > 50 and drawn[3, 110].argmax() == 2 and drawn[50, 5].argmax() == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_raised_arm_changes_itself_and_its_shadow(side: str) -> None:
    sample = next(s for s in (one("arm_raise", f"r{k}") for k in range(9)) if s.slots["side"] == side)
    y, x = np.nonzero(sample.mask)
    figure = (
        (x > 28) & (x < 100) & (y < 60)
    )  # what moved; the light comes from the left, so that shadows are on the right
    assert (x[figure & (y < 26)] < 64).mean() == (1 if side == "left" else 0), "the arm is raised on the other side"
    assert 0.005 < sample.mask.mean() / 255 < 0.08
    assert np.array_equal(sample.source[sample.mask == 0], sample.target[sample.mask == 0])
    back = invert(sample, "r")
    assert back is not None and back.template == "arm_lower"
    pair = load("arm_lower").pair(PHOTO, back.slots, TOOLS)
    assert np.array_equal(pair.source, sample.target) and np.array_equal(pair.target, sample.source)


def test_light_from_the_other_side_throws_the_shadow_over_there() -> None:
    plain = np.full((96, 128, 3), 120, np.uint8)
    left, right = (render(replace(VIEW, light=angle), plain)[66:90].astype(int).sum(axis=2) for angle in (-60, 60))
    bright = np.median(left)
    dark = [(image < 0.8 * bright).nonzero()[1] for image in (left, right)]
    beside = [(columns[(columns < 50) | (columns > 78)]) for columns in dark]  # the legs are dark as well
    assert beside[0].mean() > 64 > beside[1].mean()


def test_the_camera_goes_to_the_side_that_is_said() -> None:
    photo = np.full((96, 128, 3), 120, np.uint8)
    photo[:, 60:68] = (220, 20, 20)  # a stripe on the wall behind
    view = View("white", "white")
    before, after = (redness(render(replace(view, camera=angle), photo))[4] > 60 for angle in (0, 20))
    # from further right what is behind the figure moves to the right of it
    assert np.nonzero(after)[0].mean() > np.nonzero(before)[0].mean() + 5
    sample = one("camera")
    back = load("camera").pair(PHOTO, load("camera").invert_slots(sample.slots), TOOLS)
    assert np.array_equal(back.source, sample.target) and np.array_equal(back.target, sample.source)


def test_words_and_places_of_rendered_templates() -> None:
    of_meshes = {"mesh_turn", "mesh_camera", "mesh_light"}
    assert set(rendered_names()) == {"arm_raise", "arm_lower", "camera", "light"} | of_meshes
    assert not {*rendered_names()} & {*atomic_names(), *template_names()}
    assert choose_templates(["all", "camera"]) == [*template_names(), "camera"]
    slots = {"shirt_color": "red", "trousers_color": "blue", "side": "left", "degrees": "30"}
    for name in rendered_names():
        texts = [instruct(name, slots, {k: stream(i, k) for k in ("en", "zh")}) for i in range(300)]
        for lang, word in (("en", "left"), ("zh", "左")):
            said = {text[lang] for text in texts}
            assert len(said) >= 15 and all(word in text and not re.search(r"[<>{}\[\]|]", text) for text in said), name


def test_rendered_pairs_are_made_where_they_are_named(edit: Runner, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(encode(PHOTO, "PNG"))
    asked = ("synth", "a.png", "--templates", "arm_raise,light", "--per-row", 2, "--inverse", "-f", "jsonl")
    rows = [json.loads(line) for line in edit(*asked, cwd=tmp_path).stdout.splitlines()]
    assert [row["provenance"]["template"] for row in rows].count("light") == 2
    assert {row["task"] for row in rows} == {"motion", "tone"} and len(rows) == 4
    assert "--templates arm_raise" in edit("synth", "--list").stdout.decode()
