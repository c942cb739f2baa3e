"""The Python API is the commands: the same settings, the same rows, and the same history."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Runner, rows_of, tree

import edittools
from edittools.errors import UsageError


@pytest.fixture
def pairs(edit: Runner, shards: Path, tmp_path: Path) -> Path:
    edit("synth", shards, "--templates", "flip,gray", "--per-row", 2, "-o", tmp_path / "pairs")
    return tmp_path / "pairs"


def test_a_step_is_its_command_and_a_command_goes_on_with_it(edit: Runner, shards: Path, tmp_path: Path) -> None:
    """Byte for byte, the history included: so a finished set of one is a finished set of the other."""
    steps = {
        "dedup": (edittools.read(str(shards)).dedup(distance=4), ["--distance", 4]),
        "filter": (edittools.read(str(shards)).filter(sharpness="..", min_side="8"), ["--sharpness", "..",
                                                                                        "--min-side", "8"]),
        "synth": (edittools.read(str(shards)).synth(templates=["flip"], seed=3), ["--templates", "flip", "--seed", 3]),
    }  # fmt: skip
    for name, (made, options) in steps.items():
        made.write(str(tmp_path / f"api-{name}"))
        edit(name, shards, *options, "-o", tmp_path / f"cli-{name}")
        assert tree(tmp_path / f"api-{name}") == tree(tmp_path / f"cli-{name}"), name
        again = edit(name, shards, *options, "-o", tmp_path / f"api-{name}")
        assert "in shards finished before" in again.stderr and tree(tmp_path / f"api-{name}") == tree(
            tmp_path / f"cli-{name}"
        )


def test_other_settings_are_another_set(shards: Path, tmp_path: Path) -> None:
    edittools.read(str(shards)).filter(sharpness="..").write(str(tmp_path / "out"))
    with pytest.raises(Exception, match="sharpness"):
        edittools.read(str(shards)).filter(sharpness="1..").write(str(tmp_path / "out"))


def test_steps_in_a_row_are_commands_in_a_pipe(edit: Runner, pairs: Path, tmp_path: Path) -> None:
    edittools.read(str(pairs)).score().filter(where="scores.visible = 1").caption(styles="concise").write(
        str(tmp_path / "api")
    )
    edit.pipe(
        ["score", pairs], ["filter", "--where", "scores.visible = 1"],
        ["caption", "--styles", "concise", "-o", tmp_path / "cli"],
    )  # fmt: skip
    assert rows_of(tmp_path / "api") == rows_of(tmp_path / "cli")


def test_judging(edit: Runner, pairs: Path, tmp_path: Path) -> None:
    told = {"backend": "echo", "column": "target"}
    rows = list(edittools.read(str(pairs)).judge("dimensions", "m", str(tmp_path / "replies"), **told).rows())
    edit("judge", pairs, "--rubric", "dimensions", "--model", "m", "--backend", "echo", "--column", "target",
         "-o", tmp_path / "cli", "--max-errors", "100%", check=None)  # fmt: skip
    plain = rows_of(tmp_path / "cli")
    assert [row["judgements"] for row in rows] == [row["judgements"] for row in plain] and len(rows) == len(plain) > 0


@pytest.mark.parametrize(
    ("step", "settings", "says"),
    [
        ("filter", {}, "no filter given"),
        ("filter", {"sharpness": ".."} | {"image": "mask"}, "--image mask"),
        ("dedup", {"distance": 40}, "--distance 40: 0 to 31"),
        ("dedup", {"psnr": 30.0}, "--psnr is for --level"),
        ("filter", {"sharpnes": ".."}, "no setting `sharpnes`"),
        ("synth", {"templates": "nothing"}, "there is no `nothing`"),
        ("synth", {"per_row": 0}, "--per-row 0: at least 1"),
        ("caption", {"styles": []}, "nothing is left"),
        ("score", {"targets": "x"}, "--targets needs --ocr"),
        ("sample", {"model": "m", "column": "image"}, "begin it with `result`"),
        ("sample", {"model": "m", "guidance_scale": float("nan")}, "not a finite number"),
    ],
)
def test_settings_that_cannot_be(step: str, settings: dict, says: str, shards: Path) -> None:
    with pytest.raises(UsageError, match=says):
        getattr(edittools.read(str(shards)), step)(**settings)


def test_a_stage_of_ones_own_says_its_settings(shards: Path, tmp_path: Path) -> None:
    class Nothing:
        name = "nothing"

        def schema(self, schema):
            return schema

        def __call__(self, batches):
            return batches

    with pytest.raises(AttributeError, match="settings"):
        edittools.read(str(shards)).pipe(Nothing()).write(str(tmp_path / "out"))  # type: ignore[arg-type]
