"""`edit sample`'s options that change how a model runs: adapters, attention, compiled blocks, caches, 8 bits."""

import importlib.util

import numpy as np
import pytest
import torch
import training
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file
from test_sample import apart, image, small_references, unrounded  # noqa: F401
from tiny_architectures import save_firered, save_kontext

from edittools.errors import EditError, UsageError
from edittools.nets.editor import EditRequest
from edittools.nets.load import load_editor
from edittools.nets.lora import lora_digest, split_scale
from edittools.train import load_recipe


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_firered(tmp_path_factory.mktemp("pipelines") / "qwen")


@pytest.fixture
def rows():
    words = ["make it red", "turn the sky into a painting of the sea", "x"]
    return [EditRequest([image(k, 40, 60)], t, seed=k, height=32, width=48) for k, t in enumerate(words)]


@pytest.fixture(autouse=True)
def small(small_references):  # noqa: F811
    pass


MODULES = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.add_v_proj",
    "transformer_blocks.0.img_mlp.net.2",
)


def save_lora(path, folder, seed, rank=3):
    """Adapters under diffusers' names, and by how much each weight grows at scale 1: B A (alpha is the rank)."""
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    tensors, grown = {}, {}
    for name in MODULES:
        out, inside = weights[f"{name}.weight"].shape
        a, b = torch.randn(rank, inside, generator=generator), 0.05 * torch.randn(out, rank, generator=generator)
        tensors |= {f"transformer.{name}.lora_A.weight": a, f"transformer.{name}.lora_B.weight": b}
        grown[f"{name}.weight"] = b @ a
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path, grown


def test_lora_is_merged_weights(qwen, tmp_path, rows):
    """One file and one folder, the second at half its scale: what adding B A to the weights by hand gives."""
    first, one = save_lora(tmp_path / "first.safetensors", qwen, 1)
    second, two = save_lora(tmp_path / "run" / "pytorch_lora_weights.safetensors", qwen, 2)
    adapted = load_editor(str(qwen), steps=2, lora=(str(first), f"{second.parent}:0.5"))
    by_hand = load_editor(str(qwen), steps=2)
    plain = unrounded(by_hand, rows, 3)
    for name, parameter in by_hand.edit_model.network.transformer.named_parameters():
        if name in one:
            with torch.no_grad():
                parameter += one[name] + 0.5 * two[name]
    expected = unrounded(by_hand, rows, 3)
    assert apart(unrounded(adapted, rows, 3), expected) < 1e-5
    assert apart(plain, expected) > 0.01


def test_lora_of_the_training_command_opens(tmp_path, rows):
    """As train/export.py saves adapters: through the pipeline's own save_lora_weights, with rank and alpha inside."""
    from diffusers import QwenImageEditPlusPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    from edittools.nets.lora import add_lora

    folder = save_firered(tmp_path / "qwen")
    trained = load_editor(str(folder), steps=2)
    transformer = trained.edit_model.network.transformer
    add_lora(transformer, {"rank": 2, "alpha": 6}, seed=0)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    QwenImageEditPlusPipeline.save_lora_weights(
        tmp_path / "lora", transformer_lora_layers=get_peft_model_state_dict(transformer),
        **_collate_lora_metadata({"transformer": transformer}),
    )  # fmt: skip
    opened = load_editor(str(folder), steps=2, lora=(str(tmp_path / "lora"),))
    assert apart(unrounded(opened, rows, 3), unrounded(trained, rows, 3)) < 1e-5
    assert apart(unrounded(opened, rows, 3), unrounded(load_editor(str(folder), steps=2), rows, 3)) > 1e-3


def test_adapters_that_do_not_fit_say_so(qwen, tmp_path):
    path, _ = save_lora(tmp_path / "a.safetensors", qwen, 1)
    renamed = {key.replace("transformer_blocks.", "blocks.other."): value for key, value in load_file(path).items()}
    save_file(renamed, tmp_path / "renamed.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "none.safetensors")
    for spec, said in (
        (tmp_path / "missing.safetensors", "no such safetensors file"),
        (tmp_path / "none.safetensors", "no adapters"),
        (tmp_path / "renamed.safetensors", "is of no module of this model"),
        (tmp_path, "expected one safetensors file"),
    ):
        with pytest.raises(EditError, match=said):
            load_editor(str(qwen), lora=(str(spec),))
    assert split_scale(f"{path}:0.25") == (str(path), 0.25) and split_scale(str(path)) == (str(path), 1.0)
    with pytest.raises(UsageError, match="no scale"):
        split_scale(f"{path}:much")
    assert lora_digest(f"{path}:0.25") != lora_digest(str(path))
    assert lora_digest(str(path)).startswith("a.safetensors@")


def test_attention_backends(qwen, rows):
    plain = unrounded(load_editor(str(qwen), steps=2), rows, 3)
    other = load_editor(str(qwen), steps=2, attention="_native_math")
    assert not other.same_length
    assert apart(unrounded(other, rows, 3), plain) < 1e-5
    with pytest.raises(UsageError, match="attention `nonsense`"):
        load_editor(str(qwen), attention="nonsense")
    with pytest.raises(UsageError, match=r"flash_hub.*code out of the hub"):
        load_editor(str(qwen), attention="flash_hub")
    if importlib.util.find_spec("flash_attn") is None:
        with pytest.raises(UsageError, match=r"attention `flash`.*flash"):
            load_editor(str(qwen), attention="flash")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="attention `_native_cudnn`"):  # there, but not on this device
            load_editor(str(qwen), attention="_native_cudnn")


def test_without_masks_only_equal_lengths_share_a_batch(qwen, rows):
    editor = load_editor(str(qwen), steps=2)
    prepared = {k: editor.prepare(row) for k, row in enumerate([*rows, *rows])}
    assert len(list(editor.batches(prepared))) == 2  # of four rows and of two
    editor.same_length = True
    assert sorted(map(sorted, editor.batches(prepared))) == [[0, 3], [1, 4], [2, 5]]
    seen = []
    inner = editor.edit_model.network.forward
    editor.edit_model.network.forward = lambda *given: (seen.append(given[3].get("mask")), inner(*given))[1]
    editor.edit([*rows, *rows])
    assert len(seen) == 12 and all(mask is None for mask in seen)


def test_cache_skips_steps_and_keeps_rows_apart(qwen, rows):
    """A threshold of 0 never skips, so nothing changes; a high one computes the first step of each row alone."""
    plain = load_editor(str(qwen), steps=4, batch_size=1)
    expected = plain.edit(rows)
    never = load_editor(str(qwen), steps=4, cache="first-block", cache_threshold=0.0, batch_size=3)
    assert never.batch_size == 1
    assert all(np.array_equal(a, b) for a, b in zip(never.edit(rows), expected))
    always = load_editor(str(qwen), steps=4, cache="first-block", cache_threshold=1e9)
    last = always.edit_model.network.transformer.transformer_blocks[-1]
    runs = []
    last.attn.register_forward_hook(lambda *_: runs.append(1))
    results = always.edit(rows)
    assert len(runs) == 2 * len(rows)  # one of four steps, with and without the instruction
    assert any(not np.array_equal(a, b) for a, b in zip(results, expected))
    assert all(np.array_equal(always.edit([row])[0], result) for row, result in zip(rows, results))
    with pytest.raises(UsageError, match="--cache"):
        load_editor(str(qwen), cache="tea")


def test_one_step_of_a_stretched_schedule(qwen, rows):
    """Qwen-Image's schedule ends at 0.02 and starts at 1: diffusers makes a single step of it nothing at all."""
    with pytest.raises(UsageError, match="--steps 1"):
        load_editor(str(qwen), steps=1).edit(rows)


def test_cache_needs_blocks(tmp_path):
    folder = save_firered(tmp_path / "one")
    config = dict(QwenImageTransformer2DModel.load_config(folder / "transformer"))
    QwenImageTransformer2DModel.from_config({**config, "num_layers": 1}).save_pretrained(folder / "transformer")
    with pytest.raises(UsageError, match="1 block"):
        load_editor(str(folder), cache="first-block")


def test_compiled_blocks_are_called(qwen, rows, monkeypatch):
    """The compiler itself is torch's: here each block is compiled by a backend that only traces."""
    plain = unrounded(load_editor(str(qwen), steps=2), rows[:1], 1)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    kind = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **given: kind(self, backend=backend))
    editor = load_editor(str(qwen), steps=2, compile=True)
    assert apart(unrounded(editor, rows[:1], 1), plain) < 1e-5
    assert compiled


def test_offload_and_fp8_need_a_device(qwen):
    with pytest.raises(UsageError, match="--offload needs an accelerator"):
        load_editor(str(qwen), offload=True)
    with pytest.raises(UsageError, match="--quantize fp8 needs a CUDA device"):
        load_editor(str(qwen), quantize="fp8")
    with pytest.raises(UsageError, match="--quantize int4"):
        load_editor(str(qwen), quantize="int4")
    if importlib.util.find_spec("torchao") is None:
        with pytest.raises(EditError, match="torchao") as caught:
            load_editor(str(qwen), quantize="int8")
        assert "edittools[quantize]" in caught.value.hint


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
@pytest.mark.parametrize("save", [save_firered, save_kontext], ids=["qwen", "kontext"])
def test_int8_is_near_and_rows_stay_independent(save, tmp_path, capfd):
    folder = save(tmp_path / "model")
    rows = [EditRequest([image(k, 40, 40)], text, seed=k) for k, text in enumerate(("make it red", "x and y"))]
    capfd.readouterr()
    editors = [load_editor(str(folder), steps=2, resolution=32, quantize=kind) for kind in (None, "int8")]
    assert capfd.readouterr().out == ""  # standard output is data
    linear = editors[1].edit_model.network.transformer.transformer_blocks[0].attn.to_q
    assert type(linear.weight).__name__ != "Parameter"
    exact, rough = (unrounded(editor, rows, 2) for editor in editors)
    assert 1e-5 < apart(exact, rough)
    assert torch.stack(exact).sub(torch.stack(rough)).abs().mean() < 0.02
    assert apart(unrounded(editors[1], rows, 1), rough) < 1e-2


def test_adapters_beside_weights_in_eight_bits(tmp_path):
    """They stay beside the weights, as precise as they are: what they do is what they do to whole weights."""
    pytest.importorskip("torchao")
    weights = save_kontext(tmp_path / "model")
    own = {"model.weights": str(weights), "model.lora.alpha": 64, "lr": 1e-1}
    recipe = load_recipe("lora", training.ADAPTERS | own)
    training.run(recipe, training.MemoryRows(training.pairs(12, side=32)), tmp_path / "run")
    source = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    made = {}
    for how in (None, "int8"):
        for lora in ((), (str(tmp_path / "run"),)):
            editor = load_editor(str(weights), resolution=64, steps=2, quantize=how, lora=lora, dtype="bfloat16")
            [image] = editor.edit([EditRequest([source], "make it red", seed=3)])
            made[how, bool(lora)] = image.astype(int)
    rounding = max(np.abs(made[None, lora] - made["int8", lora]).mean() for lora in (False, True))
    assert rounding < 0.1 * np.abs(made["int8", False] - made["int8", True]).mean()
