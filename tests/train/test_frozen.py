"""Weights that do not train: as precise as their checkpoint, in few bits, or waiting in the main memory."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_architectures import save_e1, save_firered, save_flux2, save_kontext, save_qwen21
from torch import nn
from training import ADAPTERS, MemoryRows, pairs, run

from edittools.errors import UsageError
from edittools.nets import flux2, load_edit_model
from edittools.train import load_recipe
from edittools.train.frozen import BlockSwap, FrozenLinear, quantize_frozen
from edittools.train.parallel import Parallel

HERE = Parallel("single", 0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def short_texts(monkeypatch):
    """FLUX.2's 512 tokens of text are most of its work here."""
    monkeypatch.setattr(flux2, "TEXT_TOKENS", 64)


LORA = {"lora": {"rank": 2}}


def in_bfloat16(folder: Path) -> Path:
    """The same folder, its transformer in bfloat16."""
    import diffusers

    kind = getattr(diffusers, json.loads((folder / "transformer" / "config.json").read_text())["_class_name"])
    kind.from_pretrained(folder / "transformer", torch_dtype=torch.bfloat16).save_pretrained(folder / "transformer")
    return folder


@pytest.mark.parametrize("save, settings", [
    (save_firered, LORA), (save_kontext, LORA), (save_firered, {}), (save_e1, {"stage": "1"}),
    (save_e1, {"stage": "2"}), (save_flux2, LORA), (save_qwen21, LORA),
])  # fmt: skip
def test_what_trains_is_in_float32_and_the_rest_as_it_was_stored(tmp_path, save, settings):
    weights = str(in_bfloat16(save(tmp_path / "m")))
    name = "imgedit_e1" if save is save_e1 else "auto"
    for dtype, frozen in ((torch.bfloat16, {torch.bfloat16}), (torch.float32, {torch.float32})):
        system = load_edit_model(name, {"weights": weights, **settings}, encoders=False)
        network = HERE.wrap(system.network, system.blocks(), dtype)
        trained = [p for p in network.parameters() if p.requires_grad]
        assert trained and {p.dtype for p in trained} == {torch.float32}
        inside = [p for n, p in network.named_parameters() if n.startswith("transformer.") and not p.requires_grad]
        assert {p.dtype for p in inside} == frozen
    exact = load_file(next((tmp_path / "m" / "transformer").glob("*.safetensors")))
    for name, p in network.named_parameters():
        name = name.removeprefix("transformer.").replace(".base_layer.", ".")
        if name in exact:
            assert torch.equal(p.detach(), exact[name].float()), name


@pytest.mark.parametrize("how, bits", [("int8", 8), ("fp8", 8), ("nf4", 4)])
def test_a_frozen_linear_layer_in_few_bits(how, bits):
    torch.manual_seed(0)
    linear = nn.Linear(256, 96)
    linear.weight.data *= torch.logspace(-3, 3, 96)[:, None]  # rows of any size
    linear.requires_grad_(False)
    small = FrozenLinear(linear, how)
    assert small.codes.nbytes == linear.weight.numel() * bits // 8
    assert small.scale.nbytes <= linear.weight.numel() / 16
    exact, kept = linear.weight.double(), small.weight.double()
    row = exact.abs().amax(1, keepdim=True)
    if how == "int8":
        # 255 steps over a row's range: half of one apart at most
        assert ((exact - kept).abs() <= row / 127 / 2 * 1.001).all()
    elif how == "fp8":
        # three bits after the leading one, and steps of 2^-9 (of 448) near zero
        assert ((exact - kept).abs() <= exact.abs() * 2**-4 + row / 448 * 2**-10 * 1.001).all()
    else:
        blocks, largest = kept.reshape(-1, 64), exact.reshape(-1, 64).abs().amax(1, keepdim=True)
        levels = (blocks / largest).float().unique()
        assert len(levels.round(decimals=3).unique()) == 16  # of QLoRA's appendix E
        assert levels.round(decimals=3).unique()[[0, 7, -1]].tolist() == pytest.approx([-1, 0, 1])
        apart = (exact.reshape(-1, 64)[..., None] / largest[..., None] - levels.double()).abs().amin(-1)
        assert ((exact.reshape(-1, 64) - blocks).abs() / largest - apart).abs().max() < 1e-3  # the nearest of them
    x = torch.randn(5, 256, requires_grad=True)
    made = small(x)
    wanted = F.linear(x.detach(), small.weight, linear.bias)
    assert torch.allclose(made, wanted, rtol=1e-4, atol=1e-2)
    made.sum().backward()
    assert torch.allclose(x.grad, small.weight.sum(0).expand(5, -1), rtol=1e-4, atol=1e-2)


def adapters(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "pytorch_lora_weights.safetensors")


@pytest.fixture(scope="module")
def kontext(tmp_path_factory):
    return in_bfloat16(save_kontext(tmp_path_factory.mktemp("models") / "kontext"))


@pytest.fixture(scope="module", params=[save_kontext, save_flux2, save_qwen21], ids=["kontext", "flux2", "qwen21"])
def weights(request, tmp_path_factory):
    return in_bfloat16(request.param(tmp_path_factory.mktemp("models") / request.param.__name__))


def trained(folder: Path, weights: Path, **settings) -> dict[str, torch.Tensor]:
    """Adapters of four steps. Of FLUX.2 and Qwen-Image-2.1 rows of 0, 1 and 2 references meet, the others have one."""
    own = {"model.weights": str(weights), "model.lora.alpha": 2, "lr": 1e-2}
    rows = pairs(12, side=32)
    if "kontext" not in weights.name:
        own |= {"resolution": [64, 64], "batch_tokens": 128, "microbatches": 2}
        rows = pairs(12, references=lambda k: k % 3, side=64)
    run(load_recipe("lora", ADAPTERS | own | settings), MemoryRows(rows), folder)
    return adapters(folder)


def test_adapters_beside_weights_in_few_bits_learn_about_the_same(tmp_path, weights):
    plain = trained(tmp_path / "plain", weights)
    size = max(t.abs().max() for n, t in plain.items() if "lora_B" in n)
    for how in ("int8", "fp8", "nf4"):
        found = trained(tmp_path / how, weights, quantize=how)
        apart = torch.cat([(found[n] - t).abs().flatten() for n, t in plain.items()])
        assert 0 < apart.mean() < 0.25 * size, how


@pytest.mark.parametrize(("weights", "settings"), [
    (save_kontext, {}), (save_kontext, {"quantize": "int8"}), (save_kontext, {"compile": True}),
    (save_kontext, {"checkpointing": "selective"}), (save_flux2, {"quantize": "nf4"}),
    (save_qwen21, {"quantize": "nf4"}),
], indirect=["weights"])  # fmt: skip
def test_blocks_that_wait_in_the_main_memory_change_nothing(tmp_path, weights, settings):
    plain = trained(tmp_path / "plain", weights, **settings)
    found = trained(tmp_path / "swapped", weights, block_swap=2, **settings)
    assert plain.keys() == found.keys()
    for name, tensor in plain.items():
        assert torch.equal(found[name], tensor), name


def test_no_more_than_two_blocks_are_fetched_at_once():
    blocks = [nn.Linear(32, 32).requires_grad_(False) for _ in range(8)]
    alive: list[weakref.ref] = []
    most = 0
    swap = BlockSwap(blocks, 6, torch.device("cpu"))
    fetch = swap._fetch

    def watched(number):
        nonlocal most
        made = fetch(number)
        alive.extend(weakref.ref(t) for t in made)
        most = max(most, sum(r() is not None for r in alive))
        return made

    swap._fetch = watched
    x = torch.randn(4, 32, requires_grad=True)
    y = x
    for block in blocks:
        y = torch.utils.checkpoint.checkpoint(block, y, use_reentrant=False)
    y.sum().backward()
    wanted = torch.ones(4, 32)
    for block in reversed(blocks):
        wanted = wanted @ block.weight
    assert torch.allclose(x.grad, wanted, atol=1e-6)
    assert most <= 2 * 2 and len(alive) == 2 * (2 * 6 - 1)  # weight and bias, forward and again in the backward pass


def test_wrong_settings_are_said(tmp_path, kontext):
    system = load_edit_model("firered", {"weights": str(save_firered(tmp_path / "m"))}, encoders=False)
    with pytest.raises(UsageError, match="do not train"):
        quantize_frozen(system.blocks(), "int8", torch.device("cpu"))
    with pytest.raises(UsageError, match="5, and the network has 2 blocks"):
        trained(tmp_path / "run", kontext, block_swap=5)
    with pytest.raises(UsageError, match="for adapters"):  # a model could not be written with such layers
        load_recipe("imgedit-e1-stage1", {"model.weights": "x", "quantize": "int8"})
    for wrong in ({"quantize": "int4"}, {"block_swap": -1}, {"block_swap": 1, "checkpointing": "none"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            load_recipe("lora", {"model.weights": "x", **wrong})
