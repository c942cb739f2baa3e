"""The loss of rows that are not trained on: by hand, of both weights, the same however often it is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from training import MemoryRows, edit_row, pairs, run, tiny

from edittools.errors import UsageError
from edittools.nets import load_edit_model
from edittools.train.copies import Average
from edittools.train.features import Encoder
from edittools.train.heldout import HeldOut, value
from edittools.train.parallel import Parallel

ALONE = Parallel("single", 0, 1, torch.device("cpu"))


@pytest.fixture
def system():
    made = load_edit_model("small", tiny().model, seed=0, texts=lambda: ["invert the colors", "leave it alone"])
    with torch.no_grad():  # off the zero start
        torch.manual_seed(1)
        for p in made.network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def held(system, **settings):
    image = np.random.default_rng(5).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    given = [*pairs(5), edit_row("t2i", [], image, "a cat", task="t2i"),
             edit_row("two", [image, image], 255 - image, "invert", task="color")]  # fmt: skip
    rows = MemoryRows(given)
    return HeldOut(tiny(**settings), rows, system, Encoder(system, rows))


def test_the_loss_is_that_of_single_rows(system):
    """Groups of rows give what each row gives alone, by the formulas."""
    heldout = held(system, heldout_times=[0.2, 0.7], caption_dropout=0.9, region_weight=True)
    line = heldout.evaluate(system.network, None, 40, ALONE)
    assert len(heldout.groups) == 3 and line["step"] == 40 and line["rows"] == 7
    found = {}
    for sample in heldout.sampler.samples:
        features = heldout.features(sample)
        x0, conditioning = features.target, system.collate([features.conditioning])
        for number, t in enumerate((0.2, 0.7)):
            eps = heldout._noise(number, sample, x0.shape)
            x_t = (1 - t) * x0 + t * eps
            with torch.no_grad():
                output = system.network(
                    x_t[None], torch.tensor([t]), [r[None] for r in features.references], conditioning
                )[0]
            found[heldout.rows[sample.row].task, t, sample.row] = float(((output - x0) ** 2).mean())
    assert line["loss"] == {"raw": pytest.approx(np.mean(list(found.values())), rel=1e-5)}
    for task in ("tone", "t2i", "color"):
        mine = [loss for (name, _, _), loss in found.items() if name == task]
        assert line["by_task"]["raw"][task] == pytest.approx(np.mean(mine), rel=1e-5)
    for t in (0.2, 0.7):
        mine = [loss for (_, at, _), loss in found.items() if at == t]
        assert line["by_time"]["raw"][f"{t}"] == pytest.approx(np.mean(mine), rel=1e-5)


def test_noise_is_a_rows_own_and_no_step_has_it(system):
    heldout = held(system)
    a, b = heldout.sampler.samples[:2]
    shape = torch.Size([3, 16, 16])
    assert torch.equal(heldout._noise(0, a, shape), heldout._noise(0, a, shape))
    assert not torch.equal(heldout._noise(0, a, shape), heldout._noise(0, b, shape))
    assert not torch.equal(heldout._noise(0, a, shape), heldout._noise(1, a, shape))
    assert abs(float(heldout._noise(0, a, torch.Size([40000])).std()) - 1) < 0.02


def test_the_average_is_a_network_with_those_weights_and_leaves_no_trace(system):
    heldout = held(system)
    trained = {name: p for name, p in system.network.named_parameters() if p.requires_grad}
    average = Average(trained, 0.5)
    before = {name: p.detach().clone() for name, p in trained.items()}
    averaged = {name: v + 0.05 * torch.randn_like(v) for name, v in before.items()}
    for name, v in averaged.items():
        average.values[name].copy_(v)
    line = heldout.evaluate(system.network, average, 0, ALONE)
    assert all(torch.equal(p, before[name]) for name, p in trained.items())
    assert all(torch.equal(v, averaged[name]) for name, v in average.values.items())
    assert system.network.training
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(averaged[name])
    other = heldout.evaluate(system.network, None, 0, ALONE)
    assert line["loss"]["average"] == other["loss"]["raw"] != line["loss"]["raw"]
    assert value(line) == line["loss"]["average"] and value(other) == other["loss"]["raw"]


def test_a_run_with_held_out_rows_is_the_run_without_and_resumes(tmp_path):
    recipe = tiny(steps=9, checkpoint_every=4, heldout_every=3)
    rows, apart = MemoryRows(pairs(20)), MemoryRows(pairs(26)[20:])
    run(recipe, rows, tmp_path / "with", heldout=apart)

    class Stop(Exception):
        pass

    def crash(report):
        if report.step == 7:
            raise Stop

    with pytest.raises(Stop):
        run(recipe, rows, tmp_path / "twice", heldout=apart, on_step=crash)
    run(recipe, rows, tmp_path / "twice", heldout=apart)
    run(recipe, rows, tmp_path / "without")
    files = [(tmp_path / name / "heldout.jsonl").read_text() for name in ("with", "twice")]
    assert files[0] == files[1]
    lines = [json.loads(line) for line in files[0].splitlines()]
    assert [line["step"] for line in lines] == [0, 3, 6, 9]
    assert list(lines[0]["loss"]) == ["raw"] and list(lines[1]["loss"]) == ["raw", "average"]
    assert lines[3]["loss"]["raw"] < lines[0]["loss"]["raw"]
    weights = [
        (tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("with", "twice", "without")
    ]
    assert weights[0] == weights[1] == weights[2]


def test_the_best_of_the_kept_models_is_linked(tmp_path, monkeypatch):
    """By losses that are given here: the least of all is of a step that is not kept."""
    given = iter([9.0, 5.0, 3.0, 1.0, 4.0])  # of the steps 0, 2, 4, 5, 6

    def evaluate(self, network, average, step, parallel, heed):
        return {"step": step, "rows": 1, "loss": {"raw": 0.0 if step == 6 else 99.0, "average": next(given)},
                "by_time": {}, "by_task": {}}  # fmt: skip

    monkeypatch.setattr(HeldOut, "evaluate", evaluate)
    recipe = tiny(steps=6, keep_every=2, heldout_every=5)
    run(recipe, MemoryRows(pairs(20)), tmp_path / "run", heldout=MemoryRows(pairs(2)))
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "heldout.jsonl").read_text().splitlines()]
    assert steps == [0, 2, 4, 5, 6]
    assert (tmp_path / "run" / "@best").resolve() == (tmp_path / "run" / "@4").resolve()


@pytest.mark.parametrize("bad", [{"heldout_times": []}, {"heldout_times": [0.5, 1.0]}, {"heldout_every": -1}], ids=str)
def test_bad_settings_are_named(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        tiny(**bad)
