"""What Weights & Biases is told: by a stand-in package `wandb` that writes down how it is called."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
from training import MemoryRows, pairs, run, tiny

from edittools.errors import EditError

STAND_IN = """
import json

runs = []


class Image:
    def __init__(self, path):
        self.bytes = open(path, "rb").read()


class Run:
    def __init__(self, about):
        self.about, self.lines, self.finished = json.loads(json.dumps(about)), [], False

    def log(self, values, step):
        assert not self.finished
        self.lines.append((step, values))

    def finish(self):
        self.finished = True


def init(**about):
    runs.append(Run(about))
    return runs[-1]
"""
KEY = "0123456789abcdef-a-secret"


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    package = tmp_path / "packages" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield importlib.import_module("wandb")
    sys.modules.pop("wandb", None)


class Stop(Exception):
    pass


def stop(report):
    if report.step == 3:
        raise Stop


def test_a_run_has_an_id_of_its_own_and_keeps_it(tmp_path, wandb):
    recipe = tiny(steps=4, log_every=1, checkpoint_every=2, sample_every=2, sample_steps=2, sample_rows=1)
    given = {"heldout": MemoryRows(pairs(2)), "trackers": ["wandb"]}
    first, second = tmp_path / "a" / "run", tmp_path / "b" / "run"
    with pytest.raises(Stop):
        run(recipe, MemoryRows(pairs()), first, on_step=stop, **given)
    run(recipe, MemoryRows(pairs()), first, **given)
    run(recipe, MemoryRows(pairs()), second, **given)
    before, after, other = wandb.runs
    assert before.about["id"] == after.about["id"] != other.about["id"]
    assert before.about["id"] == json.loads((first / "config.json").read_text())["id"]
    for each, out in ((before, first), (after, first), (other, second)):
        assert (each.about["name"], each.about["dir"], each.about["resume"]) == ("run", str(out), "allow")
        # the configuration is the recipe, with what was set here
        assert each.about["config"]["steps"] == 4 and each.about["config"]["model"]["head_dim"] == 16
        assert [step for step, _ in each.lines] == sorted(step for step, _ in each.lines)  # wandb drops what is earlier
        assert all(isinstance(v, (float, wandb.Image)) for _, values in each.lines for v in values.values())
    assert (after.finished, other.finished) == (True, True)
    told = {step: values["loss"] for step, values in other.lines if "loss" in values}
    logged = [json.loads(line) for line in (second / "log.jsonl").read_text().splitlines()]
    assert told == {line["step"]: line["loss"] for line in logged} and len(told) == 4
    assert [values["samples"] for _, values in other.lines if "samples" in values] == [x["samples"] for x in logged]
    held = [step for step, values in other.lines if "heldout/loss/raw" in values]
    assert held == [0, 2, 4]
    shown = {step: values["previews"].bytes for step, values in other.lines if "previews" in values}
    assert shown == {k: (second / "samples" / f"{k:08d}.png").read_bytes() for k in (2, 4)}
    # the key of the account is nobody's to keep
    assert KEY not in repr([(each.about, each.lines) for each in wandb.runs])
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_without_the_package_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(EditError, match="wandb") as caught:
        run(tiny(steps=1), MemoryRows(pairs()), tmp_path, trackers=["wandb"])
    assert "\n" not in str(caught.value) and "edittools[wandb]" in f"{caught.value} {caught.value.hint}"
