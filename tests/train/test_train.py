"""Training: formulas against numbers worked by hand, and a loop that resumes bit for bit."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TESTS, digest, tree
from safetensors.torch import load_file
from scipy import stats
from training import MemoryRows, edit_row, losses_of, pairs, preferences, run, tiny

from edittools.errors import EditError, Interrupted, UsageError
from edittools.nets import flow, load_edit_model
from edittools.nets.editor import EditRequest
from edittools.nets.run_folder import load as load_run
from edittools.nets.small.edit_dit import PADDING, UNKNOWN, Vocabulary
from edittools.nets.tokens import patchify, unpatchify
from edittools.train import checkpoint, flow_matching, load_recipe, loop, recipe_names
from edittools.train.bucket_sampler import BatchItem, BucketSampler
from edittools.train.copies import Average
from edittools.train.data import Loader, Step, TrainBatch
from edittools.train.features import Encoder
from edittools.train.folder import Data
from edittools.train.optimizers import Optimizers, rate_factor
from edittools.train.optimizers.muon import Muon, orthogonalise


def small(words=("a",), **overrides):
    """The tiny network, new."""
    recipe = tiny(**overrides)
    return load_edit_model("small", recipe.model, seed=recipe.seed, texts=lambda: list(words))


# ---------------------------------------------------------------------------------------------- the objective


def test_rectified_flow_by_hand():
    x0, noise, t = torch.tensor([[2.0]]), torch.tensor([[-1.0]]), torch.tensor([0.25])
    x_t = flow.interpolate(x0, noise, t)
    assert x_t.item() == 0.75 * 2 + 0.25 * -1
    v = flow.velocity(x0, noise)
    assert v.item() == -3
    assert flow.x0_from_velocity(x_t, v, t).item() == pytest.approx(2)
    assert flow.velocity_from_x0(x_t, x0, t).item() == pytest.approx(-3)


def test_shift_by_hand():
    assert flow.shift(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)  # 3·0.5 / (1 + 2·0.5)
    assert flow.shift(torch.tensor([0.0, 1.0]), 3.0).tolist() == [0, 1]
    assert flow.euler_times(2, 3.0).tolist() == pytest.approx([1, 0.75, 0])


def test_error_in_x0_is_t_squared_times_error_in_v():
    torch.manual_seed(0)
    x0, noise, v = torch.randn(3, 5, 3, 4, 4, dtype=torch.float64)
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 1.0], dtype=torch.float64)
    guess = flow.x0_from_velocity(flow.interpolate(x0, noise, t), v, t)
    in_x0 = flow_matching.errors(guess, x0, noise, "x0")
    assert torch.allclose(in_x0, t**2 * flow_matching.errors(v, x0, noise, "v"))


def test_region_weights_by_hand():
    source = torch.zeros(2, 3, 4, 4)
    target = source.clone()
    target[0, 1, :2, :2] = 0.5  # 4 of 16 pixels: log2(4) + 1 = 3
    target[1] += 0.5
    weights = flow_matching.region_weights(target, source)
    assert weights[0, 0].tolist() == [[3, 3, 1, 1], [3, 3, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert weights[1].unique().tolist() == [1]
    assert flow_matching.region_weights(source, source).unique().tolist() == [1]
    assert flow_matching.errors(source, target, source, "x0", weights)[0].item() == pytest.approx(3 * 0.25 * 4 / 48)


OBJECTIVES = {
    "x0": {},
    "v": {"model_predicts": "v", "model_residual": "none"},
    "logit-normal weights": {
        "timesteps": "uniform", "weighting": "logit-normal", "weighting_mean": 0.3, "weighting_deviation": 0.7,
    },
    "region weights": {"region_weight": True},
    "both weights, v": {
        "timesteps": "uniform", "weighting": "logit-normal", "region_weight": True, "model_predicts": "v",
        "model_residual": "none",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_against_finite_differences(name):
    """What the loop leaves in the parameters, and the loss that it reports, in float64."""
    recipe = tiny(model_layers=1, **OBJECTIVES[name])
    system = load_edit_model("small", recipe.model, seed=0, texts=lambda: ["warm"])
    model = system.network.double()
    with torch.no_grad():  # off the zero start, where most gradients vanish
        torch.manual_seed(1)
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    torch.manual_seed(2)
    x0, noise = torch.randn(2, 2, 3, 16, 16, dtype=torch.float64)
    reference = x0.clone()
    reference[:, :, 3:7, 2:9] += 0.5  # a small edit
    words, t = torch.tensor([[2, 1], [2, PADDING]]), torch.tensor([0.3, 0.8], dtype=torch.float64)
    rows = [row for row, _ in pairs(2)]
    batch = TrainBatch(rows, x0, [reference], {"words": words}, noise, t, [], 4, 1)

    def losses(rate=0.6):
        """(2,) of the rows; the gradient of their mean is added to the parameters'."""
        return losses_of(recipe, system, Step(0, 2, [batch]), model, rate)[0].rows

    parameters = [p for p in model.parameters() if p.requires_grad]
    first = losses()
    direction = [torch.randn_like(p) for p in parameters]
    along = sum((p.grad * d).sum() for p, d in zip(parameters, direction)).item()
    step, values = 1e-5, []
    for sign in (1, -2, 1):
        with torch.no_grad():
            for p, d in zip(parameters, direction):
                p.add_(sign * step * d)
        values.append(losses().mean().item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(along, rel=1e-4)
    # and the loss is what the formulas say
    with torch.no_grad():
        output = model(flow.interpolate(x0, noise, t), t, [reference], {"words": words})
    wanted = x0 if system.predicts == "x0" else noise - x0
    squares = (output - wanted) ** 2
    if recipe.region_weight:
        edited = 4 * 7  # of 256 places
        weights = torch.ones(16, 16, dtype=torch.float64)
        weights[3:7, 2:9] += 0.6 * math.log2(256 / edited)
        squares = squares * weights
    expected = squares.mean((1, 2, 3)).numpy()
    if recipe.weighting == "logit-normal":
        z = np.log(t.numpy() / (1 - t.numpy()))
        density = stats.norm.pdf(z, recipe.weighting_mean, recipe.weighting_deviation)
        expected = expected * density / (t.numpy() * (1 - t.numpy()))
    assert first.numpy() == pytest.approx(expected, rel=1e-6)


def test_the_loss_is_weighted_by_the_rows_mask(tmp_path):
    """Two rows of 16 x 16 pixels in small's pixel space, the second without a mask, each by hand."""
    recipe = tiny(mask_weight=5.0, batch_tokens=48)
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[2:6, 8:12] = 255  # 16 of 256 places
    given = MemoryRows(pairs(6), masks={0: mask})
    system = load_edit_model("small", recipe.model, seed=0, texts=lambda: ["invert"])
    sampler = BucketSampler(recipe, given, system.patch, system.multiple, system.one_row)
    loader = Loader(recipe, sampler, system, Encoder(system, given), first=0)
    batch = loader.load(0, 6, 0, [BatchItem(k, 0, 0) for k in range(6)])
    assert batch.masks.shape == (6, 1, 16, 16) and batch.masks[0].sum() == 16 and batch.masks[1:].min() == 1
    with torch.no_grad():
        x_t = flow.interpolate(batch.target, batch.noise, batch.t)
        output = system.network(x_t, batch.t, batch.references, batch.conditioning)
    squares = (output - batch.target).numpy() ** 2
    losses = losses_of(recipe, system, Step(0, 6, [batch]))[0].rows
    inside = mask[..., 0] > 0
    expected = [(5 * squares[0][:, inside].sum() + squares[0][:, ~inside].sum()) / (3 * (5 * 16 + 240))]
    assert losses.numpy() == pytest.approx(expected + [square.mean() for square in squares[1:]], rel=1e-5)


def test_a_mask_is_cut_as_its_target_is():
    """A target of twice the width is cut to the middle square, and its mask with it, whatever its own size."""
    recipe = tiny(mask_weight=2.0, batch_tokens=8)
    random = np.random.default_rng(0)
    source, target = random.integers(0, 256, (2, 16, 32, 3)).astype(np.uint8)
    mask = np.zeros((32, 64, 3), np.uint8)
    mask[:, :32] = 200  # the left half
    given = MemoryRows([edit_row("wide", [source], target, "warm")], masks={0: mask})
    system = load_edit_model("small", recipe.model, seed=0, texts=lambda: ["warm"])
    sampler = BucketSampler(recipe, given, system.patch, system.multiple, system.one_row)
    masks = Loader(recipe, sampler, system, Encoder(system, given), first=0).load(0, 1, 0, [BatchItem(0, 0, 0)]).masks
    assert masks[0, 0].mean(0).tolist() == [1.0] * 8 + [0.0] * 8


def test_every_interval_is_hit_exactly_once_per_step():
    for step in range(20):
        u = flow_matching.stratified_uniform(7, step, 32)
        assert sorted((u * 32).long().tolist()) == list(range(32))
        # the maps are monotone: the order of the times is the order of the strata
        for density in ("uniform", "logit-normal"):
            t = flow_matching.times(tiny(timesteps=density, shift=3.0), u, step, 4)
            assert torch.equal(t.argsort(), u.argsort()) and 0 < t.min() and t.max() < 1
    assert torch.equal(flow_matching.stratified_uniform(7, 3, 32), flow_matching.stratified_uniform(7, 3, 32))
    assert not torch.equal(flow_matching.stratified_uniform(7, 3, 32), flow_matching.stratified_uniform(7, 4, 32))
    assert not torch.equal(flow_matching.stratified_uniform(7, 3, 32), flow_matching.stratified_uniform(8, 3, 32))


def test_logit_normal_quantiles_by_hand():
    # u = Φ(1) = 0.841345 is one deviation: logit t = 1
    recipe = tiny(timesteps="logit-normal", shift=1.0)
    t = flow_matching.times(recipe, torch.tensor([0.5, 0.8413447460685429], dtype=torch.float64), 0, 4)
    assert t.tolist() == pytest.approx([0.5, 1 / (1 + np.exp(-1))])


def test_rate_by_hand():
    recipe = tiny(steps=8, warmup=2, decay_from=0.5)
    assert [rate_factor(recipe, step) for step in range(8)] == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert rate_factor(tiny(steps=8, decay_from=-1), 7) == 1


def test_the_cosine_schedule_is_transformers():
    from transformers import get_cosine_schedule_with_warmup

    recipe = tiny(steps=50, warmup=10, schedule="cosine", decay_from=-1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 10, 50)
    for step in range(50):
        if step >= 10:  # in the warm-up ours is a step ahead: the first step moves
            assert rate_factor(recipe, step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()
    # constant for 30 steps, then half a cosine over 20
    later = tiny(steps=50, warmup=10, schedule="cosine", decay_from=0.6)
    assert [rate_factor(later, step) for step in (29, 30, 40)] == pytest.approx([1, 1, 0.5])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("decays", [True, False])
def test_norms_and_biases_without_decay_stay_where_there_is_no_gradient(optimizer, decays):
    """Decay alone moves a weight to (1 - rate * decay) of itself; what is no matrix keeps its value."""
    recipe = tiny(optimizer=optimizer, lr=0.1, muon_lr=0.1, weight_decay=0.5, decay_norms=decays)
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 3))
    trained = dict(network.named_parameters())
    for p in trained.values():
        torch.nn.init.constant_(p, 2.0)
        p.grad = torch.zeros_like(p)
    Optimizers(recipe, trained, {id(network[2].weight)}).step(1.0)
    for name, p in trained.items():
        expected = 2.0 * (1 - 0.1 * 0.5) if decays or name in ("0.weight", "2.weight") else 2.0
        assert torch.allclose(p, torch.full_like(p, expected)), name


def test_prodigys_groups_without_decay():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    recipe = tiny(optimizer="prodigy", weight_decay=0.5, decay_norms=False)
    ((optimizer, _),) = Optimizers(recipe, dict(network.named_parameters()), set()).pairs
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in network.parameters()] == [0.5, 0, 0, 0]


def test_what_an_optimizer_keeps_in_its_groups_has_to_be_declared():
    """Or a checkpoint would forget it, and a run that goes on would be another one."""
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizers = Optimizers(tiny(optimizer="adamw"), {"w": weight}, set())
    ((adamw, _),) = optimizers.pairs
    optimizers.prepare()
    assert "optimizer/exp_avg/w" in optimizers.tensors()
    adamw.param_groups[0]["steps"] = 3
    with pytest.raises(EditError, match="`adamw` changes `steps` of a group") as caught:
        optimizers.step(1.0)
    assert caught.value.hint == 'GROUP_STATE = ("steps",) in its file'
    del adamw.param_groups[0]["steps"]
    adamw.param_groups[0]["weight_decay"] += 1
    with pytest.raises(EditError, match="weight_decay"):
        optimizers.step(1.0)


def test_average_is_a_weighted_mean():
    model = torch.nn.Linear(1, 1, bias=False)
    seen = [3.0, -1.0, 4.0, 1.0]
    for decay in (0.9, 1.0):
        average = Average(dict(model.named_parameters()), decay)
        for k, value in enumerate(seen, start=1):
            torch.nn.init.constant_(model.weight, value)
            average.update(k)
        weights = [decay ** (len(seen) - i) for i in range(1, len(seen) + 1)]
        expected = sum(w * value for w, value in zip(weights, seen)) / sum(weights)
        assert average.values["weight"].item() == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------------------------ the network


def test_tokens_round_trip_and_order():
    x = torch.arange(2 * 3 * 4 * 8.0).reshape(2, 3, 4, 8)
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 8, 12)
    assert tokens[0, 1, :4].tolist() == [2, 3, 10, 11]  # second token of the first row, channel 0
    assert torch.equal(unpatchify(tokens, 2, 4, 8), x)


def test_training_starts_at_copying_the_first_source():
    torch.manual_seed(0)
    x_t, references = torch.randn(2, 3, 16, 16), list(torch.randn(2, 2, 3, 16, 16))
    conditioning = {"words": torch.tensor([[2, 3], [4, 1]])}
    t = torch.tensor([0.4, 1.0])
    for residual, expected in (("copy", references[0]), ("blend", references[0]), ("none", 0 * x_t)):
        model = small("abc", model_residual=residual).network
        assert torch.equal(model(x_t, t, references, conditioning), expected)
    system = small("abc", model_predicts="v", model_residual="none")
    assert torch.equal(system.x0(system.network(x_t, t, references, conditioning), x_t, t), x_t)


def test_blend_by_hand():
    """x̂_0 = (1 + g) (y + A y + b) + r with the same g, A, b, r for every token, set through the last bias."""
    model = small(model_residual="blend").network
    swap = torch.tensor([[-1.0, 1, 0, 0.2], [1, -1, 0, 0.2], [0, 0, 0, 0.2]])  # A swaps red and green; b = 0.2
    with torch.no_grad():
        model.transformer.proj_out.bias.copy_(
            torch.cat([torch.full((192,), 0.1), torch.full((64,), -0.5), swap.flatten()])
        )
    y = torch.rand(1, 3, 16, 16)
    result = model(torch.randn(1, 3, 16, 16), torch.tensor([0.5]), [y], {"words": torch.tensor([[2]])})
    assert torch.allclose(result, 0.5 * (y[:, [1, 0, 2]] + 0.2) + 0.1, atol=1e-6)


def test_vocabulary_reads_english_and_chinese():
    vocabulary = Vocabulary.build(["Make it RED, 20% more.", "把天空变红"])
    assert vocabulary.words == sorted(["make", "it", "red", "2", "0", "more", "把", "天", "空", "变", "红"])
    words = vocabulary.encode(["red sky 天", "it"], max_words=8)
    assert words.shape == (2, 3) and words[0, 1] == UNKNOWN and words[1, 1:].tolist() == [PADDING, PADDING]
    assert vocabulary.encode(["it it it"], max_words=2).shape == (1, 2)
    assert vocabulary.encode(["!?"], max_words=2).tolist() == [[UNKNOWN]]


def test_no_trained_parameter_lacks_a_gradient_after_a_step():
    """The frozen list is exact: everything else is reached [traps of the Qwen block]."""
    model = small().network
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    model(
        torch.randn(2, 3, 16, 16),
        torch.tensor([0.4, 0.9]),
        [torch.randn(2, 3, 16, 16)],
        {"words": torch.tensor([[2, 1], [2, 0]])},
    ).square().mean().backward()
    unreached = [
        name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert unreached == []


def test_muon_is_torchs_muon_in_float32():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (16, 8), (8, 16), (8, 8))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    a = Muon(ours, lr=0.02, momentum=0.95, weight_decay=0.1)
    b = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(3):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs):
        assert (p - q).abs().max() < 2e-3  # theirs rounds to bfloat16
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 8)))
    assert 0.5 < values.min() and values.max() < 1.3


# ------------------------------------------------------------------------------------------ recipes and rows


def test_recipes_that_ship_load():
    for name in recipe_names():
        load_recipe(name)
    assert load_recipe("demo", {"steps": "7", "muon_lr": "1"}).muon_lr == 1.0


@pytest.mark.parametrize(
    "overrides, word",
    [
        ({"stepz": 1}, "stepz"),
        ({"steps": "many"}, "steps"),
        ({"steps": 0}, "steps"),
        ({"microbatches": True}, "microbatches"),
        ({"resolution": [60]}, "resolution"),
        ({"ratios": ["wide"]}, "ratios"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"weighting": "logit-normal"}, "square"),
        ({"captions": {"original": -1}}, "captions"),
        ({"system": "nonesuch"}, "nonesuch"),
        ({"model.rope": [1, 2, 3]}, "rope"),
        ({"model.predicts": "v"}, "residual"),
        ({"model.depth": 3}, "depth"),
        ({"model.patch": 1.5}, "patch"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"lr": "nan"}, "lr"),
        ({"lr": -1.0}, "lr"),
        ({"betas": [0.9, 1.5]}, "betas"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"warmup": -5}, "warmup"),
        ({"decay_from": 2.0}, "decay_from"),
        ({"ema_from": 2.0}, "ema_from"),
        ({"muon_momentum": 1.5}, "muon_momentum"),
        ({"sample_every": -1}, "sample_every"),
        ({"shift_by_tokens": [1, 1, 1, 2]}, "shift_by_tokens"),
        ({"timesteps": "uniform", "weighting": "logit-normal", "weighting_deviation": 0}, "weighting_deviation"),
        ({"model.patch": 0}, "patch"),
        ({"model.max_words": 0}, "max_words"),
        ({"model.layers": 0}, "layers"),
        ({"model.heads": 0}, "heads"),
        ({"model.word_dropout": 5}, "word_dropout"),
    ],
)
def test_bad_settings_are_named(overrides, word):
    with pytest.raises(UsageError, match=word):
        recipe = load_recipe("demo", overrides)
        load_edit_model(recipe.system, recipe.model)


def test_unknown_recipe_names_those_that_ship():
    with pytest.raises(UsageError) as caught:
        load_recipe("nonesuch")
    assert "demo" in caught.value.hint


# ---------------------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("residual", ["copy", "blend"])
def test_a_target_of_another_shape_than_its_source_is_learned_and_made(tmp_path, residual):
    large = np.full((32, 32, 3), 200, np.uint8)
    rows = MemoryRows([edit_row(f"row-{k}", [large], large[:16, :16], "make it smaller") for k in range(6)])
    run(tiny(model_residual=residual, resolution=[16, 32], steps=1), rows, tmp_path / "run")
    editor = load_run(tmp_path / "run", "cpu", "float32")
    for size in ((16, 16), (32, 32)):
        (made,) = editor.edit([EditRequest([large], "make it smaller", 0, *size)])
        assert made.shape == (*size, 3)
        assert np.abs(made.astype(int) - 200).max() < 30  # it started at the source


def contents(folder: Path):
    """The models' files, and the tensors of the checkpoint, which torch writes in any order."""
    files = tree(folder, "*/*.safetensors")
    tensors = {k: v for p in folder.glob("checkpoints/*/*.safetensors") for k, v in load_file(p).items()}
    return files, {name: digest(tensor.numpy().tobytes()) for name, tensor in tensors.items()}


class Stop(BaseException):
    """As sudden as a kill: nothing is saved."""


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "prodigy", "adamw8bit"])
def test_interrupted_is_uninterrupted_bit_for_bit(tmp_path, optimizer):
    recipe, data = tiny(optimizer=optimizer), MemoryRows(pairs())
    whole = run(recipe, data, tmp_path / "whole")
    assert whole.samples == 72 and whole.resumed_from == 0

    def crash(report):
        if report.step == 6:
            raise Stop  # after the checkpoint of step 4: steps 5 and 6 are lost

    def interrupt(report):
        if report.step == 9:
            os.kill(os.getpid(), signal.SIGTERM)  # answered at the end of step 10

    with pytest.raises(Stop):
        run(recipe, data, tmp_path / "parts", on_step=crash)
    assert checkpoint.newest(tmp_path / "parts").name == "step-00000004"
    with pytest.raises(Interrupted) as caught:
        run(recipe, data, tmp_path / "parts", on_step=interrupt)
    assert caught.value.signum == signal.SIGTERM
    assert checkpoint.newest(tmp_path / "parts").name == "step-00000010"
    (tmp_path / "parts" / "checkpoints" / ".tmp-1").mkdir()  # what a kill while saving leaves behind
    rest = run(recipe, data, tmp_path / "parts")
    assert rest.resumed_from == 10
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    logs = [
        [json.loads(line)["step"] for line in (tmp_path / d / "log.jsonl").read_text().splitlines()]
        for d in ("whole", "parts")
    ]
    assert logs[0] == logs[1] == [2, 4, 6, 8, 10, 12]
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-00000012"]


def test_a_finished_run_is_left_alone_and_another_refused(tmp_path):
    data, folder = MemoryRows(pairs()), tmp_path / "run"
    run(tiny(steps=2), data, folder)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    again = run(tiny(steps=2), data, folder)
    assert again.seconds == 0 and before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    for other in ({"recipe": tiny(steps=2, lr=0.5)}, {"data": Data("else")}):
        with pytest.raises(UsageError) as caught:
            run(other.pop("recipe", tiny(steps=2)), data, folder, **other)
        assert "--overwrite" in caught.value.hint
    assert run(tiny(steps=3), data, folder, overwrite=True).steps == 3
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError):
        run(tiny(steps=2), data, tmp_path / "full", overwrite=True)
    assert (tmp_path / "full" / "thesis.txt").exists()


def test_run_folder_opens_in_diffusers(tmp_path):
    from diffusers import QwenImageTransformer2DModel

    run(tiny(steps=2), MemoryRows(pairs()), tmp_path / "run")
    transformer = QwenImageTransformer2DModel.from_pretrained(tmp_path / "run" / "transformer")
    ours = load_run(tmp_path / "run", "cpu", "float32").edit_model.network.transformer
    assert all(torch.equal(a, b) for a, b in zip(transformer.parameters(), ours.parameters()))
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.json",
        "transformer",
        "text_encoder",
        "checkpoints",
        "log.jsonl",
        "_end.json",
    }
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 2 and len(line["loss_by_noise"]) == 4 and 0 <= line["wait_share"] <= 1


def test_a_bad_loss_stops_the_run_and_names_its_rows(tmp_path):
    with pytest.raises(EditError, match="row-"):
        run(tiny(muon_lr=1e20, lr=1e20, max_grad_norm=1e20), MemoryRows(pairs()), tmp_path / "run")
    assert not (tmp_path / "run" / "_end.json").exists()


def test_an_error_while_loading_reaches_the_caller(tmp_path):
    with pytest.raises(RuntimeError, match="unreadable"):
        run(tiny(), MemoryRows(pairs(), bad=5), tmp_path / "run")


def test_attention_backends(tmp_path):
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    rows = MemoryRows(pairs(8))
    before = _AttentionBackendRegistry.get_active_backend()[0]
    try:
        run(tiny(steps=2, log_every=1, attention="_native_math"), rows, tmp_path / "math")
    finally:
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName(before))
    run(tiny(steps=2, log_every=1), rows, tmp_path / "own")
    losses = [[json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").open()] for name in ("math", "own")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, why in (("_native_nonsense", "_native_nonsense"), ("sage", "does not train")):
        with pytest.raises(UsageError, match=why):
            run(tiny(attention=name), rows, tmp_path / name)


def test_rows_without_and_with_two_references_train(tmp_path):
    data = MemoryRows(pairs(60, references=lambda k: k % 3))
    for clean in (False, True):
        # 48 tokens are 12, 6 or 4 rows of 0, 1 or 2 references
        outcome = run(tiny(steps=3, microbatches=2, model_clean_references=clean), data, tmp_path / f"run-{clean}")
        assert 3 * 2 * 4 <= outcome.samples <= 3 * 2 * 12


@pytest.mark.parametrize("settings", [{}, {"objective": "dpo", "region_weight": False}], ids=("flow", "dpo"))
def test_the_largest_batch_is_tried_before_the_first_step_and_nothing_is_learnt(tmp_path, monkeypatch, settings):
    """As on a GPU: it goes through the network and back once, and every loss and weight is what it is without."""
    rows = (preferences if settings else pairs)(20)
    if not settings:  # three of two references, which are the largest; their batch holds fewer rows
        rows[:3] = pairs(3, references=lambda k: 2)
    recipe, passes, seen = tiny(steps=3, checkpoint_every=100, **settings), loop.forward_backward, []

    def watched(objective, model, work, factor):
        made = passes(objective, model, work, factor)
        learnt = any(p.grad is not None for p in model.network.parameters())
        tokens = [
            len(batch.rows) * (1 + len(batch.references)) * (1 if batch.rejected is None else 2)
            for batch in work.batches
        ]
        seen.append((model.trying, work.step, tokens, learnt))
        return made

    monkeypatch.setattr(loop, "forward_backward", watched)
    passed, got = {}, {}
    for name, untried in (("plain", ("cpu",)), ("tried", ())):
        monkeypatch.setattr(loop, "UNTRIED", untried)
        seen, steps = [], []
        run(recipe, MemoryRows(rows), tmp_path / name, on_step=steps.append)
        passed[name], got[name] = seen, [(step.loss, step.grad_norm) for step in steps]
    assert [(trying, step) for trying, step, *_ in passed["plain"]] == [(False, 0), (False, 1), (False, 2)]
    (trying, step, tokens, backward), *rest = passed["tried"]
    assert (trying, step, backward) == (True, 0, True) and rest == passed["plain"]
    # the budget's 48 tokens: six rows of one reference, or four of two, whichever is there; each token 8 x 8 pixels
    assert tokens == [12] and all(max(each) <= 12 for *_, each, _ in rest)
    assert got["tried"] == got["plain"]
    models = [load_file(next((tmp_path / name).glob("[!c]*/*.safetensors"))) for name in ("plain", "tried")]
    assert models[0].keys() == models[1].keys() and models[0]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_tiny_network_learns_to_obey_its_instruction(tmp_path):
    """Inverting or copying, as told: a margin in dB after a budget of steps, never of time."""
    from edittools.nets.editor import EditRequest
    from edittools.nets.load import load_editor

    data = MemoryRows(pairs())
    run(tiny(steps=250, batch_tokens=80, checkpoint_every=1000), data, tmp_path / "run")
    editor = load_editor(str(tmp_path / "run"))
    requests = [EditRequest([p[0]], row.texts["instruction", "en"], seed=k) for k, (row, p) in enumerate(data.rows)]
    targets = [images[-1].astype(float) for _, images in data.rows]
    error = np.mean([np.square(result - target).mean() for result, target in zip(editor.edit(requests), targets)])
    copying = np.mean([np.square(r.sources[0] - target).mean() for r, target in zip(requests, targets)])
    assert 10 * np.log10(copying / error) > 10


LOOP = """
    import sys
    sys.path.insert(0, {tests!r})
    from training import MemoryRows, pairs, run, tiny
    from edittools.errors import Interrupted
    def on_step(report):
        print(report.step, flush=True)
    try:
        run(tiny(steps=100000, checkpoint_every=100000), MemoryRows(pairs()), {run!r}, on_step=on_step)
    except Interrupted as error:
        sys.exit(128 + error.signum)
"""


@pytest.mark.parametrize("times", [1, 2])
def test_signals(tmp_path, times):
    """One SIGINT finishes the step and saves; a second, during the same step, ends the process at once."""
    script = textwrap.dedent(LOOP).format(tests=str(TESTS), run=str(tmp_path / "run"))
    if times == 2:  # the second signal comes while the first is still waiting for the step's end
        script = script.replace(
            "print(report.step, flush=True)",
            "print(report.step, flush=True)\n    import os, signal\n"
            "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)",
        )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "1\n"
    if times == 1:
        process.send_signal(signal.SIGINT)
    code = process.wait(timeout=300)
    process.stdout.close()
    if times == 1:
        assert code == 130 and checkpoint.newest(tmp_path / "run") is not None
    else:
        assert code == -signal.SIGINT and checkpoint.newest(tmp_path / "run") is None
