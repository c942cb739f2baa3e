"""Preference optimisation: its closed forms, its gradient, what it warns of, and reference values that are stored."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import MemoryRows, preferences, run, tiny

from edittools.errors import EditError, UsageError
from edittools.nets import load_edit_model
from edittools.train import checkpoint, reference
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.data import Loader, TrainBatch
from edittools.train.features import Encoder
from edittools.train.objectives import TrainedModel, load_objective
from edittools.train.objectives.dpo import Degradation, preference
from edittools.train.parallel import Parallel

BETA, OMEGA = 500.0, 2.0


def test_loss_and_gradient_are_those_of_the_formula() -> None:
    """In float64, against plain arithmetic; the gradient of each error by hand and by differences."""
    random = torch.Generator().manual_seed(0)
    errors = (torch.rand(4, 5, dtype=torch.float64, generator=random) * 0.01).requires_grad_()
    win, lose, win_before, lose_before = errors
    for weight in (0.0, 250.0):
        rows, z = preference(win, lose, win_before, lose_before, BETA, OMEGA, weight)
        for k in range(5):
            a, b, c, d = errors.detach()[:, k].tolist()
            expected = BETA * ((b - d) - OMEGA * (a - c))
            assert z[k].item() == pytest.approx(expected, rel=1e-12)
            assert rows[k].item() == pytest.approx(math.log1p(math.exp(-expected)) + weight * a, rel=1e-12)
        (gradient,) = torch.autograd.grad(rows.sum(), errors)
        slope = torch.sigmoid(-z).detach()
        # ∂/∂L_w = σ(-z) β ω + λ,  ∂/∂L_l = -σ(-z) β
        assert torch.allclose(gradient[0], slope * BETA * OMEGA + weight, rtol=1e-12, atol=0)
        assert torch.allclose(gradient[1], -slope * BETA, rtol=1e-12, atol=0)
        given = [each.detach().requires_grad_() for each in errors]
        formula = functools.partial(preference, beta=BETA, omega=OMEGA, weight=weight)
        assert torch.autograd.gradcheck(formula, given, eps=1e-7, atol=1e-4, rtol=1e-7)
    same, _ = preference(win, lose, win, lose, BETA, OMEGA, 250.0)
    assert torch.allclose(same - 250.0 * win, torch.full((5,), math.log(2), dtype=torch.float64), rtol=1e-12)


def test_both_errors_rising_is_said_once_where_it_begins() -> None:
    """A scripted run: falling, then both rising, then falling; and three that are no degradation."""
    noise = torch.Generator().manual_seed(0)

    def said(win: list[float], lose: list[float]) -> list[int]:
        watch = Degradation()
        return [10 * k for k, each in enumerate(zip(win, lose), 1) if watch.heed(10 * k, *each)]

    def walk(*slopes: float) -> list[float]:
        total, made = 0.0, []
        for slope in slopes:
            for _ in range(10):
                total += slope * 1e-4
                made.append(total + float(torch.randn((), generator=noise)) * 1e-4)
        return made

    (step,) = said(walk(-5, 5, -5), walk(5, 10, 0))
    assert 120 < step <= 200
    assert said(walk(-5, -1, -1), walk(5, 5, 5)) == []  # as it should be
    assert said(walk(5, 5, 5), walk(-5, -5, -5)) == []  # bad, and something else
    assert len(said(walk(0, 0, 0, 0), walk(0, 0, 0, 0))) <= 1  # noise


def test_settings_that_make_no_sense_are_said() -> None:
    edit_model = load_edit_model("small", tiny().model, texts=lambda: ["invert"])
    for settings, said in (
        ({"region_weight": False, "objective_settings": {"beta": 0.0}}, "`beta` must be positive"),
        ({"region_weight": False, "objective_settings": {"sft": -1.0}}, "`sft` must not be negative"),
        ({}, "`region_weight` is for the objective `flow`, not for `dpo`"),
    ):
        with pytest.raises(UsageError, match=said):
            load_objective(tiny(objective="dpo", **settings), edit_model, MemoryRows([]), torch.device("cpu"))


def weights(out: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.newest(out)
    assert newest is not None
    files = [load_file(path) for path in newest.glob("*.safetensors")]
    return {name: t for file in files for name, t in file.items() if name.startswith(("model/", "copy/"))}


def test_stored_reference_values_train_the_same_without_a_copy(tmp_path: Path) -> None:
    """Bit for bit; stored by two tasks of which one ran twice; others' values are refused."""
    common = {"objective": "dpo", "region_weight": False, "steps": 9, "microbatches": 2, "log_every": 3, "lr": 3e-3}
    rows, folder = MemoryRows(preferences()), tmp_path / "values"
    plain = tiny(**common)
    run(plain, rows, tmp_path / "copy")

    alone = Parallel("single", 0, 1, torch.device("cpu"))
    texts = sorted({t for row, _ in rows.rows for t in row.texts.values()})
    edit_model = load_edit_model("small", plain.model, seed=plain.seed, dtype="float32", texts=lambda: texts)
    sampler = BucketSampler(plain, rows, edit_model.patch, edit_model.multiple, edit_model.one_row)
    objective = load_objective(plain, edit_model, rows, alone.device)
    model = TrainedModel(plain, edit_model, edit_model.network, alone)

    def loader(first: int) -> Loader:
        return Loader(plain, sampler, edit_model, Encoder(edit_model, rows), first=first)

    def errors(batch: TrainBatch) -> Any:
        return objective.errors(model, batch)  # type: ignore[attr-defined]

    for task in ((1, 2), (0, 2), (1, 2)):
        done = sum(reference.store(plain, rows, errors, loader, folder, task))
        assert done == (4 if task[0] == 0 else 5)
    assert len(list(folder.glob("steps-*.parquet"))) == 2

    stored = tiny(**common, objective_settings={"reference_values": str(folder)})
    assert plain.copies == ("reference",) and stored.copies == ()
    run(stored, rows, tmp_path / "stored")
    copied, without = weights(tmp_path / "copy"), weights(tmp_path / "stored")
    assert {name.partition("/")[0] for name in without} == {"model"}
    assert all(torch.equal(copied[name], value) for name, value in without.items())
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("copy", "stored")]
    assert [json.loads(line)["objective"] for line in logs[0]] == [json.loads(line)["objective"] for line in logs[1]]

    with pytest.raises(UsageError, match="stored with another `seed`"):
        run(dataclasses.replace(stored, seed=1), rows, tmp_path / "seed")
    with pytest.raises(EditError, match="no reference values of step 10"):
        run(dataclasses.replace(stored, steps=12), rows, tmp_path / "more")
    others = MemoryRows(preferences())  # of the same ids, steps and times; what they show would go unnoticed
    others.data_id = "others"
    with pytest.raises(UsageError, match="stored with another `rows`"):
        run(stored, others, tmp_path / "rows")
    fewer = MemoryRows(preferences(13))
    fewer.data_id = rows.data_id
    with pytest.raises(EditError, match="no reference value of row"):
        run(stored, fewer, tmp_path / "fewer")
    for name, value in (("resolution", [8, 8]), ("caption_dropout", 0.5), ("language", "zh")):
        with pytest.raises(UsageError, match=f"stored with another `{name}`"):
            run(dataclasses.replace(stored, **{name: value}), rows, tmp_path / name)
