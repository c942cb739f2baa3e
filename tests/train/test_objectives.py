"""Objectives with weights of their own, by the example of docs/EXTENDING.md: flow matching near the start."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training import MemoryRows, edit_row, losses_of, pairs, preferences, run, tiny

from edittools.errors import UsageError
from edittools.nets import load_edit_model
from edittools.nets.flow import interpolate
from edittools.nets.images import to_tensor
from edittools.registry import _literals
from edittools.train import checkpoint, load_recipe
from edittools.train.bucket_sampler import BatchItem, BucketSampler
from edittools.train.config import OBJECTIVES
from edittools.train.copies import Copy
from edittools.train.data import Loader, Step
from edittools.train.features import Encoder, FeatureStore, FeatureWriter, Keys, Stored, precompute

EXAMPLE = Path(__file__).parents[1] / "extension/train/objectives/anchored.py"
STRONG = {"objective": "anchored", "objective_settings": {"strength": 3.0}}


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is an objective here, as entry points make it."""
    known = {**OBJECTIVES._constants, EXAMPLE.stem: _literals(EXAMPLE)}
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    monkeypatch.setitem(OBJECTIVES.modules, EXAMPLE.stem, EXAMPLE.stem)
    monkeypatch.setitem(OBJECTIVES.__dict__, "_constants", known)


def weights(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """The tensors of a kind in a checkpoint."""
    files = [load_file(path) for path in folder.glob("*.safetensors")]
    return {name[len(kind) + 1 :]: t for file in files for name, t in file.items() if name.startswith(f"{kind}/")}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and bool(a) and all(torch.equal(a[name], b[name]) for name in a)


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_the_network_answers_by_a_copy_and_then_by_its_own_weights() -> None:
    """Loss and gradient are those of two networks side by side, by torch's autograd."""
    recipe = tiny(model_layers=1, **STRONG)
    edit_model, other = (load_edit_model("small", recipe.model, seed=0, texts=lambda: ["invert"]) for _ in range(2))
    rows = MemoryRows(pairs(6))
    sampler = BucketSampler(recipe, rows, edit_model.patch, edit_model.multiple, edit_model.one_row)
    batch = Loader(recipe, sampler, edit_model, Encoder(edit_model, rows), first=0).load(
        0, 6, 0, [BatchItem(k, 0, 0) for k in range(6)]
    )
    copy = Copy({name: p for name, p in edit_model.network.named_parameters() if p.requires_grad})
    torch.manual_seed(1)
    with torch.no_grad():
        for network in (edit_model.network, other.network):  # two other points, off the zero start
            for p in network.parameters():
                p.add_(0.05 * torch.randn_like(p))
        for name, p in other.network.named_parameters():
            if p.requires_grad:
                copy.values[name].copy_(p)
    before = {name: value.clone() for name, value in copy.values.items()}
    [made] = losses_of(recipe, edit_model, Step(0, 6, [batch]), copies={"start": copy})
    gradients = {name: p.grad.clone() for name, p in edit_model.network.named_parameters() if p.grad is not None}

    edit_model.network.zero_grad()
    x_t = interpolate(batch.target, batch.noise, batch.t)
    given = x_t, batch.t, batch.references, batch.conditioning
    with torch.no_grad():
        theirs = other.network(*given)
    mine = edit_model.network(*given)
    drift = (mine - theirs).square().mean((1, 2, 3))
    loss = (mine - batch.target).square().mean((1, 2, 3)) + 3 * drift
    loss.mean().backward()
    assert torch.allclose(made.rows, loss.detach(), rtol=1e-5)
    assert torch.allclose(made.numbers["drift"], drift.detach(), rtol=1e-5) and drift.min() > 0
    assert gradients.keys() == {name for name, p in edit_model.network.named_parameters() if p.grad is not None}
    for name, p in edit_model.network.named_parameters():
        if p.grad is not None:
            assert torch.allclose(gradients[name], p.grad, rtol=1e-4, atol=1e-7), name
    assert equal(copy.values, before) and not copy.away and edit_model.network.training


def test_copies_are_the_weights_of_the_start_and_outlive_interruptions(tmp_path: Path) -> None:
    class Kill(Exception):
        pass

    def kill(report: object) -> None:
        if report.step == 6:  # type: ignore[attr-defined]
            raise Kill

    rows, recipe = MemoryRows(pairs()), tiny(steps=8, checkpoint_every=4, log_every=1, optimizer="adamw", **STRONG)
    run(recipe, rows, tmp_path / "whole")
    with pytest.raises(Kill):
        run(recipe, rows, tmp_path / "cut", on_step=kill)
    run(recipe, rows, tmp_path / "cut")
    whole, cut = (checkpoint.newest(tmp_path / name) for name in ("whole", "cut"))
    assert whole is not None and cut is not None
    assert all(equal(weights(whole, kind), weights(cut, kind)) for kind in ("model", "average", "copy/start"))
    words = json.loads((whole / "state.json").read_text())["words"]
    edit_model = load_edit_model("small", recipe.model, seed=recipe.seed, texts=lambda: words)
    begun = {name: p.detach() for name, p in edit_model.network.named_parameters() if p.requires_grad}
    assert equal(weights(whole, "copy/start"), begun)
    drifts = [[line["objective"]["drift"] for line in lines(tmp_path / name)] for name in ("whole", "cut")]
    assert drifts[0] == drifts[1] and drifts[0][0] == 0 and all(drifts[0][1:])


def test_exchanging_weights_changes_nothing_of_what_is_learned(tmp_path: Path) -> None:
    """With a strength of 0 the weights are those of plain flow matching, bit for bit."""
    rows, settings = MemoryRows(pairs()), {"steps": 4, "region_weight": False}
    run(tiny(**settings), rows, tmp_path / "plain")
    run(tiny(**settings, objective="anchored", objective_settings={"strength": 0.0}), rows, tmp_path / "anchored")
    plain, other = (checkpoint.newest(tmp_path / name) for name in ("plain", "anchored"))
    assert plain is not None and other is not None
    assert all(equal(weights(plain, kind), weights(other, kind)) for kind in ("model", "average"))
    assert "objective" not in lines(tmp_path / "plain")[0]


def test_a_run_that_goes_on_with_another_objective_has_its_copies_from_there(tmp_path: Path) -> None:
    rows = MemoryRows(pairs())
    run(tiny(steps=4), rows, tmp_path / "plain")
    branch = checkpoint.newest(tmp_path / "plain")
    assert branch is not None
    run(tiny(steps=8, keep_last=9, **STRONG), rows, tmp_path / "other", branch=branch)
    later = checkpoint.newest(tmp_path / "other")
    assert later is not None and equal(weights(later, "copy/start"), weights(branch, "model"))
    assert not equal(weights(later, "copy/start"), weights(later, "model"))


PAIRWISE = {"objective": "dpo", "objective_settings": {"beta": 100.0, "omega": 1.0}, "optimizer": "adamw", "lr": 3e-3,
            "region_weight": False}  # fmt: skip


def test_preference_pairs_train(tmp_path: Path) -> None:
    """Half as many rows a batch; ln 2 at the start; then the better image is learned and the worse one is not."""
    recipe = tiny(steps=60, log_every=1, checkpoint_every=60, **PAIRWISE)
    run(recipe, MemoryRows(preferences()), tmp_path / "run")
    found = lines(tmp_path / "run")
    assert found[0]["samples"] == 3, "48 tokens are three pairs of eight, where six rows of eight were"
    assert found[0]["loss"] == pytest.approx(math.log(2))
    names = ("win_difference", "lose_difference", "accuracy")
    assert [found[0]["objective"][name] for name in names] == [0, 0, 0]
    win, lose, accuracy = (np.mean([line["objective"][name] for line in found[-10:]]) for name in names)
    assert win < lose and accuracy > 0.9
    assert np.mean([line["loss"] for line in found[-10:]]) < 0.5


def test_a_pairs_images_are_cut_alike_and_stored_as_they_are_encoded(tmp_path: Path) -> None:
    recipe = tiny(batch_tokens=48, ratios=["1:1"], **PAIRWISE)
    random = np.random.default_rng(0)
    source, target, worse = random.integers(0, 256, (3, 16, 32, 3)).astype(np.uint8)
    row, images = edit_row("wide", [source], target, "warm")
    rows = MemoryRows([(dataclasses.replace(row, rejected=(16, 32)), [*images, worse])])
    edit_model = load_edit_model("small", recipe.model, seed=0, texts=lambda: ["warm"])
    sampler = BucketSampler(recipe, rows, edit_model.patch, edit_model.multiple, edit_model.one_row)
    loader = Loader(recipe, sampler, edit_model, Encoder(edit_model, rows), first=0)
    batch = loader.load(0, 1, 0, [BatchItem(0, 0, 0)])
    assert torch.equal(batch.target[0], to_tensor(target[:, 8:24]))
    assert batch.rejected is not None and torch.equal(batch.rejected[0], to_tensor(worse[:, 8:24]))
    keys = Keys(edit_model.encoding(), rows, {})
    writer = FeatureWriter(tmp_path, torch.float32)
    list(precompute(Encoder(edit_model, rows), keys, [sampler.samples[0]], FeatureStore(tmp_path), writer))
    stored = Stored(FeatureStore(tmp_path), keys)(sampler.samples[0])
    assert stored.rejected is not None and torch.equal(stored.rejected, batch.rejected[0])
    assert torch.equal(stored.target, batch.target[0]) and len(stored.references) == 1


def test_wrong_objectives_are_named() -> None:
    with pytest.raises(UsageError, match=r"`objective` must be one of .*dpo, flow, .*anchored"):
        load_recipe("demo", {"objective": "dpo2"})
    with pytest.raises(UsageError, match="flow has no `beta`"):
        load_recipe("demo", {"objective_settings": {"beta": 1}})
    with pytest.raises(UsageError, match="`objective_settings`: `strength`"):
        load_recipe("demo", {"objective": "anchored", "objective_settings": {"strength": "much"}})
