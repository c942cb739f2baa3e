"""FLUX.2 and Qwen-Image-2.1: batches of rows with other references, against the libraries' own functions row by row."""

from __future__ import annotations

import functools
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_architectures import image, recipe
from test_sample import apart, unrounded
from tiny_architectures import FLUX2, QWEN21, save_flux2, save_qwen21
from tiny_autoencoders import save_taught
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training import MemoryRows, edit_row, losses_of, pairs, run

from edittools.errors import RowError, UsageError
from edittools.nets import load_edit_model
from edittools.nets.editor import EditRequest
from edittools.nets.flow import shift_factor
from edittools.nets.images import fit, to_tensor
from edittools.nets.load import load_editor
from edittools.nets.lora import _targets, add_adapters, save_adapters
from edittools.nets.lora_files import FORMATS, Adapter, modules_of
from edittools.stream import codec
from edittools.train.activations import checkpoint_activations
from edittools.train.bucket_sampler import BatchItem, BucketSampler
from edittools.train.data import Loader, Step
from edittools.train.features import Encoder, shows
from edittools.train.origin import check_references, settle
from edittools.train.rejects import Rejects, Unusable
from edittools.weights.diffusers import open_pipeline

KINDS = ("base", "dev", "kv", "qwen21")
COUNTS = (0, 1, 3, 2)
TEXT = 96  # tokens
WORDS = ["make it red", "turn the sky into a painting of the sea", "x", "把它变红"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_qwen21(root / kind) if kind == "qwen21" else save_flux2(root / kind, kind)
        return made[kind]

    return find


@pytest.fixture(autouse=True)
def short_texts(monkeypatch):
    """FLUX.2's 512 tokens of text, all of which attend, are most of its work here. The system prompt of [dev], a byte a
    token here, would leave no room for the instruction."""
    from diffusers.pipelines.flux2 import pipeline_flux2

    from edittools.nets import flux2

    monkeypatch.setattr(flux2, "TEXT_TOKENS", TEXT)
    monkeypatch.setattr(pipeline_flux2, "SYSTEM_MESSAGE", "You make images.")


def system_of(kind: str) -> str:
    return "qwen21" if kind == "qwen21" else "flux2"


def stock(folder: Path, kind: str) -> Any:
    if kind != "dev":
        return open_pipeline(folder, "float32")
    from transformers import AutoTokenizer

    pipe = open_pipeline(folder, "float32", tokenizer=None)  # its processor of images needs torchvision
    pipe.register_modules(tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"))
    return pipe


def batch_of(kind: str, folder: Path, counts=COUNTS, **overrides):
    """A batch of rows with these numbers of references, as they are seen 64 x 64 and 32 x 128, out of the loader."""
    random = np.random.default_rng(0)
    data = []
    for k, count in enumerate(counts):
        shapes = [(64, 64, 3), (64, 256, 3), (256, 64, 3)][:count]
        sources = [random.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
        target = random.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        data.append(edit_row(f"row-{k}", sources, target, WORDS[k]))
    rows = MemoryRows(data)
    model = {"weights": str(folder)}
    made = recipe(system_of(kind), model, ratios=["1:1", "4:1"], batch_tokens=400, **overrides)
    edit_model = load_edit_model(made.system, made.model, seed=0)
    sampler = BucketSampler(made, rows, edit_model.patch, edit_model.multiple, edit_model.one_row)
    loader = Loader(made, sampler, edit_model, Encoder(edit_model, rows), first=0)
    batch = loader.load(0, len(rows), 0, [BatchItem(k, 0, 0) for k in range(len(rows))])
    return made, edit_model, rows, sampler, batch


def flux2_loss(pipe: Any, kind: str, row: Any, images: list[np.ndarray], t: Tensor, noise: Tensor) -> Tensor:
    """By diffusers' own functions: latents, positions, packing and the transformer with its own attention."""
    encoded = [pipe._encode_vae_image(to_tensor(each)[None], None) for each in images]
    *references, target = encoded
    x_t = (1 - t) * target + t * noise
    states, text_ids = pipe.encode_prompt(next(iter(row.texts.values())), max_sequence_length=TEXT)
    tokens, ids = pipe._pack_latents(x_t), pipe._prepare_latent_ids(x_t)
    guidance = torch.ones(1) if kind == "dev" else None
    call = {"timestep": t[None], "guidance": guidance, "encoder_hidden_states": states, "txt_ids": text_ids}
    more: dict[str, Any] = {}
    if references:
        packed = torch.cat([pipe._pack_latents(each) for each in references], dim=1)
        placed = pipe._prepare_image_ids(references)
        if kind == "kv":
            tokens, ids = torch.cat([packed, tokens], dim=1), torch.cat([placed, ids], dim=1)
            more = {"kv_cache_mode": "extract", "num_ref_tokens": packed.shape[1]}
        else:
            tokens, ids = torch.cat([tokens, packed], dim=1), torch.cat([ids, placed], dim=1)
    output = pipe.transformer(tokens, img_ids=ids, return_dict=False, **call, **more)[0]
    wanted = pipe._pack_latents(noise - target)
    return (output[:, : wanted.shape[1]] - wanted).square().mean()


def qwen21_loss(pipe: Any, kind: str, row: Any, images: list[np.ndarray], t: Tensor, noise: Tensor) -> Tensor:
    """By diffusers' own functions and the transformer with its own layout."""
    opaque = [torch.cat([to_tensor(each), torch.ones(1, *each.shape[:2])])[None, :, None] for each in images]
    *references, target = (pipe._encode_vae_image(each, None) for each in opaque)
    x_t = (1 - t) * target + t * noise[:, :, None]
    shown = [Image.fromarray(each) for each in images[:-1]]
    states, mask, slots = pipe.encode_prompt(next(iter(row.texts.values())), shown or None, device="cpu")
    assert mask is None
    tokens = [x.flatten(2).transpose(1, 2) for x in (*references, x_t)]
    output = pipe.transformer(
        torch.cat(tokens, dim=1), states, t[None], [[(1, *x.shape[-2:]) for x in (*references, x_t)]],
        torch.cat([slots, slots.new_ones(1, tokens[-1].shape[1] // 4)], dim=1), return_dict=False,
    )[0]  # fmt: skip
    wanted = (noise[:, :, None] - target).flatten(2).transpose(1, 2)
    return (output[:, -wanted.shape[1] :] - wanted).square().mean()


def expected_losses(pipe: Any, kind: str, rows: MemoryRows, batch: Any) -> Tensor:
    by_row = qwen21_loss if kind == "qwen21" else flux2_loss
    losses = []
    with torch.no_grad():
        for (row, images), sample, t, noise in zip(rows.rows, batch.samples, batch.t, batch.noise):
            shapes = [*sample.shapes[1:], sample.shapes[0]]
            cut = [fit(image, *shape) for image, shape in zip(images, shapes)]  # the last one is the target
            losses.append(by_row(pipe, kind, row, cut, t, noise[None]))
    return torch.stack(losses)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_step_is_the_librarys(models, kind):
    """0, 1, 3 and 2 references of three shapes in one batch, and every row alone; gradients, activations recomputed."""
    folder = models(kind)
    made, edit_model, rows, sampler, batch = batch_of(kind, folder)
    assert len({len(sample.shapes) for sample in batch.samples}) == 4
    assert ("sizes" in batch.conditioning) and batch.conditioning["sizes"].shape == (4, 3, 2)
    states = batch.conditioning["states"]
    assert all((states[k] - states[0]).abs().max() > 1e-3 for k in range(1, 4))  # of other instructions
    expected = expected_losses(stock(folder, kind), kind, rows, batch)
    [found] = losses_of(made, edit_model, Step(0, 4, [batch]))
    assert torch.allclose(found.rows, expected, rtol=0, atol=1e-6), (found.rows - expected).abs().max()
    plain = {n: p.grad.clone() for n, p in edit_model.network.named_parameters()}
    assert all(gradient.any() for gradient in plain.values())
    edit_model.network.zero_grad()
    checkpoint_activations(edit_model, "full")
    losses_of(made, edit_model, Step(0, 4, [batch]))
    for name, p in edit_model.network.named_parameters():
        assert torch.allclose(p.grad, plain[name], rtol=1e-4, atol=1e-7), name
    loader = Loader(made, sampler, edit_model, Encoder(edit_model, rows), first=0)
    for k in range(3):
        alone = loader.load(0, 1, 0, [BatchItem(k, 0, 0)])
        assert "sizes" not in alone.conditioning and len(alone.references) == COUNTS[k]
        alone.t, alone.noise = batch.t[k : k + 1], batch.noise[k : k + 1]
        [single] = losses_of(made, edit_model, Step(0, 1, [alone]))
        assert torch.allclose(single.rows, expected[k : k + 1], rtol=0, atol=1e-6)


def requests(sizes: list[list[tuple[int, int]]]) -> list[EditRequest]:
    return [
        EditRequest([image(10 * k + n, *size) for n, size in enumerate(few)], WORDS[k], k, height=64, width=96)
        for k, few in enumerate(sizes)
    ]


MIXED = [[], [(64, 96)], [(70, 101), (64, 64), (130, 66)], [(96, 64), (64, 96)]]


def direct(pipe: Any, request: EditRequest, **call: Any) -> Tensor:
    images = [Image.fromarray(source) for source in request.sources]
    if type(pipe).__name__.startswith("Flux2"):
        call["max_sequence_length"] = TEXT
    return pipe(
        image=images or None, prompt=request.instruction, height=64, width=96, output_type="pt",
        generator=torch.Generator().manual_seed(request.seed), num_inference_steps=3, **call,
    ).images[0]  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, "distilled"])
def test_a_mixed_batch_is_the_stock_pipeline_row_by_row(models, kind, monkeypatch):
    """Three steps of four rows with 0 to 3 references of odd sizes: together, one by one, and by diffusers."""
    folder, rows = models(kind), requests(MIXED)
    editor = load_editor(str(folder), steps=3)
    pipe = stock(folder, kind)
    if kind == "qwen21":
        editor.area = 96**2
        monkeypatch.setattr(type(pipe), "__call__", functools.partialmethod(type(pipe).__call__, output_resolution=96))
    theirs = [direct(pipe, row) for row in rows]  # with the pipeline's own guidance
    alone, together = unrounded(editor, rows, 1), unrounded(editor, rows, 4)
    assert apart(alone, theirs) < 1e-5 and apart(together, theirs) < 1e-5 and apart(together, alone) < 1e-5
    assert min(apart([a], [b]) for a, b in [theirs[:2], theirs[1:3], theirs[2:]]) > 1e-3
    assert editor.edit(rows)[2].shape == (64, 96, 4 if kind == "qwen21" else 3)


@pytest.mark.parametrize(("kind", "steps"), [("base", 50), ("dev", 50), ("distilled", 4), ("qwen21", 40)])
def test_times_are_shifted_in_training_as_in_sampling(models, kind, steps):
    """For results of 128² to 4 megapixels: by the pipelines' own functions, at their own number of steps."""
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
    from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import calculate_shift

    made = recipe(system_of(kind), {"weights": str(models(kind))}, shift=0.0, shift_by_tokens=[])
    settled, editor = settle(made), load_editor(str(models(kind)))
    assert editor.steps == steps
    for height, width in [(128, 128), (1024, 1024), (1040, 1056), (1056, 1056), (1440, 1440), (2048, 2048)]:
        tokens = height // 16 * (width // 16)
        mu = calculate_shift(tokens) if kind == "qwen21" else compute_empirical_mu(tokens, steps)
        assert editor.schedule(tokens)[1] == pytest.approx(mu, abs=1e-12)
        found = shift_factor(settled.shift, settled.shift_by_tokens, tokens)
        assert np.log(found) == pytest.approx(mu, abs=1e-9), (height, width)


def test_rows_of_any_number_of_references_come_equally_often(models):
    """And count alike where a step has many batches: of one batch a step, those of few tokens have the most rows."""
    rows = MemoryRows(pairs(80, references=lambda k: k % 4, side=64))
    for microbatches, least in ((1, 0.08), (8, 0.2), (32, 0.24)):
        made = recipe("flux2", {"weights": str(models("base"))}, batch_tokens=256, microbatches=microbatches)
        sampler = BucketSampler(made, rows, 16, 16)
        drawn, counted = np.zeros(80, int), np.zeros(4)
        for step in itertools.islice(sampler.steps(0), 640 // microbatches):
            each = [sampler.samples[item.sample].row for batch in step for item in batch]
            np.add.at(drawn, each, 1)
            np.add.at(counted, np.array(each) % 4, 1 / len(each))
        # an epoch has 15 batches; what does not fill one waits for the next
        assert drawn.max() - drawn.min() <= 2, drawn
        share = counted / counted.sum()
        assert share[0] == share.min() >= least, share


# ------------------------------------------------------------------------------------------------------ what it costs


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_of_a_mixed_batch_is_what_torch_counts(models, kind):
    """Of a training pass, and of three steps of which the later ones begin with what the first one kept."""
    folder = models(kind)
    _, edit_model, _, _, batch = batch_of(kind, folder)
    # what is padded is computed in linear layers, so each row is counted alone
    with torch.no_grad():
        for k, sample in enumerate(batch.samples):
            row = {name: value[k : k + 1] for name, value in batch.conditioning.items() if name != "sizes"}
            sizes = batch.conditioning["sizes"][k].tolist()
            references = [x[k : k + 1, :, :h, :w] for x, (h, w) in zip(batch.references, sizes) if h]
            places, text = row.get("places", torch.zeros(1, 0)).long()[0].tolist(), row["states"].shape[1]
            if places:
                text = places[-1]
                row |= {"states": row["states"][:, :text]}
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                edit_model.network(batch.target[k : k + 1], batch.t[k : k + 1], references, row)
            tokens = [h * w // 16**2 for h, w in sample.shapes]
            assert edit_model.row_flops(tokens, text, places) == counter.get_total_flops(), tokens
    editor = load_editor(str(folder), steps=3, guidance_scale=1.0)
    editor.area = 64**2
    rows = [editor.prepare(EditRequest([image(k, 64, 64) for k in range(2)], "x", 0))]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        editor.sample(rows)
    network = type(editor.edit_model.network).__name__
    counted = {name: sum(of.values()) for name, of in counter.get_flop_counts().items()}
    assert editor.work.flops == counted[network]


# ------------------------------------------------------------------------------------------------------ runs, adapters


def several(count: int = 3) -> MemoryRows:
    """Rows of 0, 1, 2, ... references."""
    random = np.random.default_rng(1)

    def drawn() -> np.ndarray:
        return random.integers(0, 256, (64, 64, 3)).astype(np.uint8)

    return MemoryRows([edit_row(f"{k}", [drawn() for _ in range(k)], drawn(), WORDS[k]) for k in range(count)])


@pytest.mark.parametrize("kind", ["base", "qwen21"])
def test_runs_open_in_the_librarys_own_pipeline(models, kind, tmp_path):
    """Whole weights, and adapters on them: sampled by diffusers and here."""
    base = models(kind)
    common = {"ratios": ["1:1"], "batch_tokens": 64, "steps": 2, "lr": 0.01, "sample_steps": 0, "sample_guidance": 0.0}
    whole, lora = tmp_path / "whole", tmp_path / "lora"
    run(recipe(system_of(kind), {"weights": str(base)}, **common), several(), whole)
    adapters = {"weights": str(whole), "lora": {"rank": 2, "alpha": 4}}
    run(recipe(system_of(kind), adapters, **{**common, "steps": 4, "lr": 0.2}), several(), lora)
    request = EditRequest([image(0, 64, 64), image(1, 96, 64)], "make it red", 3, height=64, width=96)
    pipe = stock(whole, kind)
    more = {"output_resolution": 64} if kind == "qwen21" else {}
    found = {}
    for name, folder in {"whole": whole, "lora": lora}.items():
        if name == "lora":
            pipe.load_lora_weights(str(lora))
        editor = load_editor(str(folder), steps=3, resolution=64 if kind == "qwen21" else None)
        found[name] = unrounded(editor, [request], 1)
        assert apart(found[name], [direct(pipe, request, **more)]) < 1e-5, name
    assert apart(found["whole"], found["lora"]) > 1e-3
    before = load_editor(str(base), steps=3, resolution=64 if kind == "qwen21" else None)
    assert apart(unrounded(before, [request], 1), found["whole"]) > 1e-3


@pytest.mark.parametrize("kind", ["base", "qwen21"])
def test_adapters_in_every_spelling(models, kind, tmp_path):
    """Written, read, and put on the weights, against B A by hand; and what diffusers makes of those that it reads."""
    pipe = stock(models(kind), kind)
    network = pipe.transformer
    chosen = _targets(network, ["attention"])
    sizes = modules_of(network)
    random = torch.Generator().manual_seed(0)
    adapters = {
        name: Adapter({"down": torch.randn(2, sizes[name][1], generator=random) / 4,
                       "up": torch.randn(sizes[name][0], 2, generator=random) / 4}, 1.5)
        for name in chosen
    }  # fmt: skip
    plain = {name: network.get_submodule(name).weight.detach().clone() for name in sizes}
    for spelling in FORMATS:
        out = tmp_path / spelling
        out.mkdir()
        save_adapters(adapters, network, out, spelling, torch.float32)
        fresh = load_edit_model(system_of(kind), {"weights": str(models(kind))}, encoders=False).network.transformer
        add_adapters({"transformer": fresh}, [str(out)], merge=True)
        for name, weight in plain.items():
            update = 0.0
            if name in adapters:
                update = 1.5 * adapters[name].tensors["up"] @ adapters[name].tensors["down"]
            assert torch.allclose(fresh.get_submodule(name).weight, weight + update, atol=1e-5), (spelling, name)
    names = {path.name: set(load_file(next(path.glob("*.safetensors")))) for path in tmp_path.iterdir()}
    if kind == "base":  # as these write it for FLUX.2
        assert "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight" in names["ai-toolkit"]
        assert "diffusion_model.single_blocks.1.linear1.lora_down.weight" in names["comfyui"]
        assert "lora_unet_double_blocks_0_txt_attn_proj.alpha" in names["kohya"]
    else:
        assert "diffusion_model.transformer_blocks.1.attn.to_out.0.lora_A.weight" in names["ai-toolkit"]
    for spelling in ("diffusers", "ai-toolkit", "kohya", "peft" if kind == "base" else "comfyui"):  # see docs/MODELS
        file = next((tmp_path / spelling).glob("*.safetensors"))
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=spelling.replace("-", ""))
        pipe.fuse_lora()
        for name, adapter in adapters.items():
            found = dict(network.named_parameters())[f"{name}.base_layer.weight"]
            update = 1.5 * adapter.tensors["up"] @ adapter.tensors["down"]
            assert torch.allclose(found, plain[name] + update, atol=1e-5), (spelling, name)
        pipe.unfuse_lora()
        pipe.delete_adapters(spelling.replace("-", ""))


@pytest.mark.parametrize("kind", ["base", "qwen21"])
def test_a_row_whose_references_are_dropped_is_the_row_of_those_that_stay(models, kind):
    """Latents, places, and a text that counts them from 1; an unreadable one costs the row, another takes its place."""
    sources, target = [image(k, 64, 64) for k in range(3)], image(9, 64, 64)
    rows = MemoryRows([edit_row(name, sources, target, "Put Figure 2 on a table") for name in ("a", "b")])
    made = recipe(system_of(kind), {"weights": str(models(kind))}, drop_references=0.8, variants=4, batch_tokens=64)
    edit_model = load_edit_model(made.system, made.model, seed=0)
    sampler = BucketSampler(made, rows, edit_model.patch, edit_model.multiple)
    [few, *_] = [sample for sample in sampler.samples if len(sample.references) < 3 and sample.row == 0]
    kept = [sources[k] for k in few.references]
    plain = MemoryRows([edit_row("b", kept, target, few.text)])
    [alone] = BucketSampler(recipe(made.system, made.model), plain, 16, edit_model.multiple).samples
    found, expected = Encoder(edit_model, rows)(few), Encoder(edit_model, plain)(alone)
    assert few.text == f"Put Figure {1 + few.references.index(1)} on a table"
    assert len(found.references) == len(kept)
    assert all(torch.equal(a, b) for a, b in zip(found.references, expected.references))
    assert found.conditioning.keys() == expected.conditioning.keys()
    assert all(torch.equal(value, expected.conditioning[name]) for name, value in found.conditioning.items())

    class Damaged(MemoryRows):
        def image(self, index, which, shape=None):
            if index == 0 and which == 1:
                raise Unusable("a", RowError("cannot decode"))
            return super().image(index, which, shape)

    damaged, rejects = Damaged(rows.rows), Rejects("1")
    made = recipe(made.system, made.model, batch_tokens=64)
    sampler = BucketSampler(made, damaged, edit_model.patch, edit_model.multiple)
    rejects.rows = 2
    loader = Loader(made, sampler, edit_model, Encoder(edit_model, damaged), first=0, rejects=rejects)
    batch = loader.load(0, 1, 0, [BatchItem(0, 0, 0)])
    assert [row.id for row in batch.rows] == ["b"] and rejects.reasons == {"a": "cannot decode"}


# --------------------------------------------------------------------------------------- what a model does not take


@pytest.mark.parametrize(("kind", "most"), [("base", 4), ("dev", 10), ("qwen21", 10)])
def test_more_references_than_the_model_takes_cost_the_row(models, kind, most):
    """In sampling and in training alike; the others are made."""
    folder = models(kind)
    small = [image(k, 64, 64) for k in range(most + 1)]
    editor = load_editor(str(folder), steps=1, guidance_scale=1.0, resolution=64)
    many, usual = editor.edit([EditRequest(small, "x", 0), EditRequest(small[:1], "x", 0)])
    assert isinstance(many, RowError) and f"takes {most} source pictures" in str(many) and usual.shape[:2] == (64, 64)
    rows = MemoryRows([edit_row("many", small, small[0], "x"), edit_row("usual", small[:1], small[0], "x")])
    made = recipe(system_of(kind), {"weights": str(folder)}, batch_tokens=16 * (most + 2))
    rejects = Rejects("1")
    sampler = BucketSampler(made, rows, 16, 16, False, rejects)
    assert sampler.weights.tolist() == [0.0, 2.0] and f"the model takes {most}" in rejects.summary()
    check_references(made, rows)


@pytest.mark.parametrize(("kind", "sizes"), [
    ("base", [(64, 63), (64, 600)]), ("dev", [(64, 63), (64, 600)]), ("qwen21", [(2, 402), (602, 3)]),
])  # fmt: skip
def test_sources_of_sizes_that_cost_a_row_in_sampling_cost_it_in_training(models, kind, sizes):
    folder = models(kind)
    fine = image(0, 64, 80)
    sources = [image(k, *size) for k, size in enumerate(sizes)]
    editor = load_editor(str(folder), steps=1, guidance_scale=1.0, resolution=64)
    *odd, made = editor.edit([EditRequest([source], "x", 0) for source in (*sources, fine)])
    assert all(isinstance(each, RowError) for each in odd) and made.ndim == 3
    rows = MemoryRows([edit_row(f"{k}", [fine, source], fine, "x") for k, source in enumerate((*sources, fine))])
    made = recipe(system_of(kind), {"weights": str(folder)}, ratios=["1:1", "4:1"])
    rejects = Rejects("2")
    sampler = BucketSampler(made, rows, 16, 32, False, rejects)
    assert sampler.weights.tolist() == [0.0, 0.0, 3.0] and rejects.reasons.keys() == {"0", "1"}
    assert [rejects.reasons[f"{k}"] for k in range(2)] == [str(each) for each in odd]


@pytest.mark.parametrize(("kind", "multiple"), [("base", 16), ("qwen21", 32)])
def test_odd_sizes_are_cut_or_scaled_in_training_as_in_sampling(models, kind, multiple):
    """Where a bucket has the shape of sampling: of FLUX.2 the very pixels where nothing is scaled, else about those."""
    folder = models(kind)
    side = 320
    editor = load_editor(str(folder), steps=1, guidance_scale=1.0, resolution=side)
    for height, width in [(310, 325), (640, 725)]:
        smooth = Image.fromarray(image(0, 6, 7)).resize((width, height), Image.Resampling.BICUBIC)
        source = np.asarray(smooth)
        prepared = editor.prepare(EditRequest([source], "x", 0))
        shape = prepared.shapes[1]
        assert prepared.target == shape
        rows = MemoryRows([edit_row("a", [source], source, "x")])
        ratio = f"{shape[1] // multiple}:{shape[0] // multiple}"
        made = recipe(system_of(kind), {"weights": str(folder)}, resolution=[side, side], ratios=[ratio],
                      batch_tokens=1000)  # fmt: skip
        sampler = BucketSampler(made, rows, 16, multiple)
        [sample] = sampler.samples
        assert sample.shapes == (shape, shape)
        encoder = Encoder(load_edit_model(made.system, made.model, network=False), rows)
        target, reference = (encoder._cut(0, shown).astype(int) for shown in shows(rows[0], sample))
        assert np.array_equal(target, reference)
        [seen] = prepared.images
        expected = ((seen[:3].permute(1, 2, 0) + 1) * 127.5).round().numpy()
        worst = np.abs(reference - expected).max()
        assert worst == 0 if kind == "base" and height == 310 else worst < 4
        # the middle of the bucket's ratio, as other architectures have it
        assert np.abs(fit(source, *shape).astype(int) - expected).max() > 1.5 * worst


@pytest.mark.parametrize("kind", ["base", "qwen21"])
def test_references_of_other_scenes_are_seen_in_training_as_in_sampling(models, kind):
    """Larger and smaller than the area, of no bucket's ratio: the shapes and pixels that sampling has, in one batch."""
    folder, side = models(kind), 192
    sizes = [(310, 700), (640, 900), (97, 131), (66, 300)]
    sources = [
        np.asarray(Image.fromarray(image(k, 5, 6)).resize((width, height), Image.Resampling.BICUBIC))
        for k, (height, width) in enumerate(sizes)
    ]
    prepared = load_editor(str(folder), steps=1, guidance_scale=1.0, resolution=side).prepare(
        EditRequest(sources, "x", 0)
    )
    target = image(9, side, side)
    rows = MemoryRows([edit_row(f"{k}", sources[:k], target, "x") for k in (4, 2, 0)])
    made = recipe(system_of(kind), {"weights": str(folder)}, resolution=[side, side], ratios=["1:1"], batch_tokens=9999)
    edit_model = load_edit_model(made.system, made.model, network=False)
    sampler = BucketSampler(made, rows, edit_model.patch, edit_model.multiple)
    sample = sampler.samples[0]
    assert sample.shapes == ((side, side), *prepared.shapes[1:]) and len(set(sample.shapes)) >= 4
    encoder = Encoder(edit_model, rows)
    for shown, seen in zip(shows(rows[0], sample)[1:], prepared.images):
        expected = ((seen[:3].permute(1, 2, 0) + 1) * 127.5).round().numpy()
        apart_by = np.abs(encoder._cut(0, shown).astype(int) - expected).max()
        # FLUX.2's small ones are cut alone; whatever is scaled is so by torch here, by Pillow there
        assert apart_by == 0 if kind == "base" and shown.which >= 2 else apart_by < 4, shown
    # none costs its row more than an image of the largest area does
    assert sampler._tokens[sampler._code[0]] <= 5 * side**2 // 16**2
    assert all(len(sampler.samples[k].shapes) == 1 + len(rows[k].sources) for k in range(3))


def test_what_flux2_refuses(models):
    editor = load_editor(str(models("distilled")), steps=1, resolution=64)
    small, long, fine = editor.edit(
        [EditRequest([image(0, *size)], "x", 0) for size in ((64, 63), (64, 600), (64, 80))]
    )
    assert "less than 64 pixels" in str(small) and "more than 8 times" in str(long) and fine.shape == (48, 64, 3)
    with pytest.raises(UsageError, match="guidance-scale"):
        load_editor(str(models("distilled")), guidance_scale=4.0)


def test_alpha_of_results_and_of_sources(models, tmp_path):
    """Sources are over white wherever they are read; a result keeps its alpha, and may be edited again with it."""
    folder = models("qwen21")
    editor = load_editor(str(folder), steps=1, resolution=64)
    [made] = editor.edit([EditRequest([], "a red kite", 0)])
    assert made.shape == (64, 64, 4) and made[..., 3].std() > 0
    opaque = np.dstack([image(0, 64, 64), np.full((64, 64), 255, np.uint8)])
    clear = opaque.copy()
    clear[:32, :, 3] = 0
    plain, same, other = editor.edit([EditRequest([each], "x", 0) for each in (opaque[..., :3], opaque, clear)])
    assert np.array_equal(plain, same) and np.abs(same.astype(int) - other).max() > 1
    edit_model = editor.edit_model
    latents = torch.randn(1, *edit_model.latent_shape(64, 64))
    colour, alpha = edit_model.results(latents)[:, :3], ((edit_model.results(latents)[:, 3:] + 1) / 2).clamp(0, 1)
    assert torch.allclose(edit_model.images(latents), colour * alpha + (1 - alpha), atol=1e-6)
    shown = open_over_white(made)
    assert shown.shape == (64, 64, 3)


def open_over_white(pixels: np.ndarray) -> np.ndarray:
    """As every command reads it."""
    return codec.decode(codec.encode_png(pixels), codec.FULL)


@pytest.mark.parametrize("kind", ["base", "qwen21"])
def test_rows_of_every_number_of_references_are_learnt(models, kind):
    """The short form of the next test: four rows of a colour each. At t = 0.97 hardly anything is seen of a target, and
    who did not look at text and references could know no more than the mean of all."""
    made, edit_model, _, _, batch = batch_of(kind, models(kind))
    torch.manual_seed(0)
    batch.target = torch.randn(*batch.target.shape[:2], 1, 1).expand_as(batch.target)
    optimizer = torch.optim.AdamW(edit_model.network.parameters(), lr=1e-2)
    for step in range(40):
        batch.noise, batch.t = torch.randn_like(batch.target), 0.5 + 0.5 * torch.rand(4)
        losses_of(made, edit_model, Step(step, 4, [batch]))
        optimizer.step()
        optimizer.zero_grad()
    t = torch.full((4,), 0.97)
    with torch.no_grad():
        x_t = 0.03 * batch.target + 0.97 * batch.noise
        guess = x_t - 0.97 * edit_model.network(x_t, t, batch.references, batch.conditioning)
    found, blind = ((each - batch.target).square().mean((1, 2, 3)) for each in (guess, batch.target.mean(0)))
    assert (found < 0.4 * blind).all(), (found, blind)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "counts", "steps", "microbatches"), [
    ("base", (1, 2, 3), 1200, 1), ("qwen21", (1, 2, 3), 1200, 1), ("base", (0,), 600, 1),
    ("base", (0, 1, 2, 3), 1200, 4), ("qwen21", (0,), 700, 1), ("qwen21", (0, 1, 2, 3), 1000, 4),
])  # fmt: skip
def test_eight_rows_of_other_references_are_learnt_by_heart(models, kind, counts, steps, microbatches, tmp_path):
    """By a new network, so many references each: at least 30 dB against decode(encode(target)) of every row. Where some
    have none it takes several batches a step, see test_rows_of_any_number_of_references_come_equally_often()."""
    folder = tmp_path / "model"
    shutil.copytree(models(kind), folder)
    data = pairs(8, references=lambda k: counts[k % len(counts)], side=64).copy()
    data = [edit_row(row.id, images[:-1], images[-1], f"{k} {next(iter(row.texts.values()))}")
            for k, (row, images) in enumerate(data)]  # fmt: skip
    rows = MemoryRows(data)
    save_taught(folder / "vae", [image for _, each in data for image in each])
    network = {**(QWEN21 if kind == "qwen21" else FLUX2), "num_attention_heads": 6, "num_layers": 2}
    made = recipe(
        system_of(kind), {"weights": str(folder), "transformer": network}, batch_tokens=256, steps=steps, lr=2e-3,
        microbatches=microbatches, warmup=20, decay_from=0.1, sample_steps=20, ema=0.99, shift_by_tokens=[], shift=2.0,
        loss_spike_factor=0.0,
    )  # fmt: skip
    run(made, rows, tmp_path / "run")
    editor = load_editor(str(tmp_path / "run"))
    requests = [EditRequest(each[:-1], next(iter(row.texts.values())), k, 64, 64) for k, (row, each) in enumerate(data)]
    results = editor.edit(requests)
    targets = torch.stack([to_tensor(each[-1]) for _, each in data])
    with torch.no_grad():
        truths = editor.edit_model.images(editor.edit_model.latents(targets))
    errors = [(to_tensor(a[..., :3]) - b).square().mean().item() / 4 for a, b in zip(results, truths)]
    assert -10 * np.log10(max(errors)) >= 30, [-10 * np.log10(e) for e in errors]
