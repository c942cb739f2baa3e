"""DiffusionNFT: its closed forms, what rewards come to, and training on rows that have some."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from training import MemoryRows, rewarded, run, tiny

from edittools.errors import UsageError
from edittools.metrics.rewards import optimality
from edittools.nets import load_edit_model
from edittools.record import IMAGE, TEXT
from edittools.stream.batch import Batch, Shard
from edittools.stream.codec import MAX_PIXELS, encode_png
from edittools.stream.history import History
from edittools.stream.input_reader import reference
from edittools.train.objectives import load_objective
from edittools.train.objectives.nft import reinforced
from edittools.train.rewards import GroupRewards
from edittools.train.rows import ShardRows


def guesses(count: int = 3) -> list[torch.Tensor]:
    """Of x_0: by the network in training, by the old one, and x_0 itself; float64 (count, 2, 3, 3)."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(count, 2, 3, 3, dtype=torch.float64, generator=random) for _ in range(3)]


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_the_loss_is_a_regression_and_its_gradient_is_known(beta: float) -> None:
    """L = ‖β d - a e‖² + 4 r (1 - r) ‖e‖², in float64; its gradient by hand and by differences."""
    new, old, x0 = guesses()
    r = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    new.requires_grad_()
    rows = reinforced(new, old, x0, r, beta, adaptive=False)
    for k in range(3):
        d, e, a = new[k].detach() - old[k], x0[k] - old[k], 2 * float(r[k]) - 1
        expected = (beta * d - a * e).square().mean() + 4 * float(r[k]) * (1 - float(r[k])) * e.square().mean()
        assert rows[k].item() == pytest.approx(float(expected), rel=1e-12)
        (gradient,) = torch.autograd.grad(rows[k], new, retain_graph=True)
        assert torch.allclose(gradient[k], 2 * beta * (beta * d - a * e) / e.numel(), rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda x: reinforced(x, old, x0, r, beta, False), new, eps=1e-6, atol=1e-7)
    # the fixed point: v_old + (a / β) e
    there = old + (2 * r - 1)[:, None, None, None] / beta * (x0 - old)
    there.requires_grad_()
    (gradient,) = torch.autograd.grad(reinforced(there, old, x0, r, beta, False).sum(), there)
    assert gradient.abs().max() < 1e-13


def test_on_policy_it_is_flow_matching_weighted_by_the_advantage() -> None:
    """At v_θ = v_old: the loss does not know r, its gradient is 2 a β (x̂_old - x_0) / (D w), w the normaliser."""
    _, old, x0 = guesses()
    for adaptive in (False, True):
        values, gradients = [], []
        for r in (0.0, 0.5, 0.8):
            new = old.clone().requires_grad_()
            loss = reinforced(new, old, x0, torch.full((3,), r, dtype=torch.float64), 1.0, adaptive)
            values.append(loss.detach())
            gradients.append(torch.autograd.grad(loss.sum(), new)[0])
            w = (x0 - old).abs().mean((1, 2, 3), keepdim=True) if adaptive else 1.0
            expected = 2 * (2 * r - 1) * (old - x0) / (old[0].numel() * w)
            assert torch.allclose(gradients[-1], expected, rtol=1e-12, atol=1e-15)
        assert torch.allclose(values[0], values[2], rtol=1e-12) and gradients[1].abs().max() < 1e-15


def test_velocities_and_guesses_of_x0_say_the_same() -> None:
    """x_0 = x_t - t v: the loss of guesses is t² that of velocities."""
    v_new, v_old, x0 = guesses()
    noise, t = torch.randn_like(x0), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    at = t[:, None, None, None]
    x_t, r = (1 - at) * x0 + at * noise, torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    of_guesses = reinforced(x_t - at * v_new, x_t - at * v_old, x0, r, 0.7, adaptive=False)
    of_velocities = reinforced(v_new, v_old, noise - x0, r, 0.7, adaptive=False)
    assert torch.allclose(of_guesses, t.square() * of_velocities, rtol=1e-12)


def test_rewards_are_of_the_group_alone() -> None:
    values = [1.0, 2.0, None, 6.0]
    mean, std = 3.0, math.sqrt((4 + 1 + 9) / 3)
    expected = [0.5 + (x - mean) / std / 10 for x in (1.0, 2.0, 6.0)]
    made = optimality(values, 5.0)
    assert made[2] is None and [made[0], made[1], made[3]] == pytest.approx(expected, rel=1e-12)
    assert optimality([0.0] * 99 + [1.0], 5.0)[-1] == 1.0  # cut off: 9.95 deviations
    for nothing in ([3.0, 3.0, 3.0 + 1e-9], [2.0, None], [None, None], []):
        assert optimality(nothing, 5.0) == [None] * len(nothing)


class Candidates:
    """A source of candidates in one shard, three batches; the groups lie across them."""

    history = History()

    def __init__(self, scores: list[float | None]) -> None:
        pixels = np.full((16, 16, 3), 9, np.uint8)
        image = reference(bytes=encode_png(pixels), width=16, height=16, format="png")
        count = len(scores)
        self.rows = pa.record_batch({
            "id": [f"row-{k // 4}-c{k % 4}" for k in range(count)],
            "group": [f"row-{k // 4}" for k in range(count)],
            "source": pa.array([[image]] * count, pa.list_(IMAGE)),
            "result": pa.array([image] * count, IMAGE),
            "instruction": pa.array([{"en": "warm", "zh": None}] * count, TEXT),
            "scores": pa.array([{"psnr": value} for value in scores], pa.struct([("psnr", pa.float64())])),
        })  # fmt: skip
        self.schema = self.rows.schema

    def batches(self, wanted: object) -> object:
        for start in range(0, len(self.rows), 6):
            part = self.rows.slice(start, 6)
            yield Batch(part, Shard(0, 1, "digest"), start + 6 >= len(self.rows), len(part))


def test_candidates_are_rewarded_within_their_groups_as_they_are_read() -> None:
    scores = [1.0, 2.0, None, 6.0, 5.0, 5.0, 5.0, 5.0, 10.0, None, None, None, 0.0, 0.0, 0.0, 4.0]
    rewards = GroupRewards.of_recipe(tiny(objective="nft", objective_settings={"by": "psnr"}))
    rows = ShardRows(Candidates(scores), {"instruction": "instruction"}, ("en",), "", MAX_PIXELS, rewards=rewards)  # type: ignore[arg-type]
    expected = [*optimality(scores[:4], 5.0), *optimality(scores[12:], 5.0)]
    assert [row.reward for row in map(rows.__getitem__, range(len(rows)))] == [r for r in expected if r is not None]
    assert rows.left_out["without a reward that differs in its group"] == 9
    assert rows[0].id == "row-0-c0" and rows[0].target == (16, 16)

    lost = Candidates(scores)  # the last one's image: with its score the others would have been worth less
    results = [*lost.rows.column("result")[:15].to_pylist(), None]
    lost.rows = lost.rows.set_column(3, "result", pa.array(results, IMAGE))
    assert rewards.of(lost.rows)[12:] == [None] * 4, "all that are left are alike"

    with pytest.raises(UsageError, match="`by` says which scores"):
        GroupRewards.of_recipe(tiny(objective="nft"))
    with pytest.raises(UsageError, match="no column `group`"):
        rewards.check(pa.schema([("scores", pa.struct([("psnr", pa.float64())]))]))
    edit_model = load_edit_model("small", tiny().model, texts=lambda: ["warm"])
    for settings in ({"beta": 0.0}, {"clip": 0.0}, {"kl": -1.0}):
        recipe = tiny(objective="nft", region_weight=False, objective_settings=settings)
        with pytest.raises(UsageError, match=f"`{next(iter(settings))}` must"):
            load_objective(recipe, edit_model, rows, torch.device("cpu"))


def test_what_was_rewarded_is_learned(tmp_path: Path) -> None:
    """Good candidates are the target and bad ones its inverse: the error of targets falls, and rises where rewards are
    turned round."""
    recipe = tiny(
        steps=80, log_every=20, checkpoint_every=80, optimizer="adamw", lr=3e-3, region_weight=False, ema=0.0,
        objective="nft", objective_settings={"by": "psnr"},
    )  # fmt: skip
    turned = [(dataclasses.replace(row, reward=1 - row.reward), images) for row, images in rewarded(24)]
    held = MemoryRows([(row, images) for row, images in rewarded(24) if row.reward == 0.9])
    changes = []
    for name, rows in (("good", MemoryRows(rewarded(24))), ("turned", MemoryRows(turned))):
        run(recipe, rows, tmp_path / name, heldout=held)
        losses = [json.loads(line)["loss"]["raw"] for line in (tmp_path / name / "heldout.jsonl").open()]
        changes.append(losses[-1] / losses[0])
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").open()]
        assert all(line["objective"].keys() == {"r", "from_old"} for line in log)
        assert log[-1]["objective"]["from_old"] > 0 and 0.1 < log[-1]["objective"]["r"] < 0.9
    assert changes[0] < 0.95 and changes[1] > 1.05


def test_prompts_may_lack_a_truth() -> None:
    """Of an online run; the first source then says how large the result is."""
    source = Candidates([None] * 4)
    columns = ({"instruction": "instruction"}, ("en",), "", MAX_PIXELS)
    rows = ShardRows(source, *columns, prompts=True)  # type: ignore[arg-type]
    assert len(rows) == 4 and rows[0].target == rows[0].sources[0] == (16, 16) and not rows.known_target
    with pytest.raises(UsageError, match="no `target` column"):
        ShardRows(source, *columns)  # type: ignore[arg-type]
