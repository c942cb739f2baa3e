"""The published models taken apart: encoders, networks and exports against their own libraries and by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_architectures import FLUX, QWEN, save_e1, save_firered, save_flux_vae, save_step1x
from tiny_models import stir
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training import TWO_STEPS, MemoryRows, pairs, run

from edittools.errors import EditError, RowError, UsageError
from edittools.nets import load_edit_model
from edittools.nets.autoencoder import Autoencoder
from edittools.nets.dit import flux_flops, qwen_flops
from edittools.nets.flux import grid_ids
from edittools.nets.images import to_tensor
from edittools.nets.imgedit_e1 import STAGES, trains
from edittools.nets.qwen_states import IMAGE
from edittools.nets.step1x import split_quotations, split_quoted
from edittools.nets.step1x.versions import VERSIONS
from edittools.train import consistency, load_recipe
from edittools.train.activations import checkpoint_activations


def image(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def firered(tmp_path_factory):
    return save_firered(tmp_path_factory.mktemp("firered") / "model")


@pytest.fixture(scope="module")
def step1x(tmp_path_factory):
    """Version -> its folder and settings."""
    root = tmp_path_factory.mktemp("step1x")
    made = {}
    for version in VERSIONS:
        folder, dropped = save_step1x(root / version, version)
        made[version] = {"weights": str(folder), "dropped": dropped}
    return made


@pytest.fixture(scope="module")
def e1(tmp_path_factory):
    return save_e1(tmp_path_factory.mktemp("e1") / "model")


def recipe(system: str, model: dict, **overrides):
    """A recipe of two 64 x 64 rows a batch, on the CPU."""
    common = {
        **TWO_STEPS,
        "system": system,
        "sample_steps": 2,
        "sample_guidance": 1.0,
    }
    made = load_recipe("firered-small", {**common, **overrides})
    return dataclasses.replace(made, model=model)


# ---------------------------------------------------------------------------------------------------- FireRed


def stock_pipe(folder: Path, legacy: bool):
    from edittools.weights.diffusers import open_pipeline

    return open_pipeline(folder, "float32", legacy_positions=legacy)


@pytest.mark.parametrize("legacy", [True, False])
def test_firered_encodes_what_the_pipeline_encodes(firered, legacy, monkeypatch):
    """States for two images, against the pipeline's own call with images that it resizes itself."""
    system = load_edit_model("firered", {"weights": str(firered), "legacy_positions": legacy}, network=False)
    pipe = stock_pipe(firered, legacy)
    seen = []
    plain = pipe.encode_prompt
    pipe.encode_prompt = lambda *a, **k: seen.append(plain(*a, **k)) or seen[-1]
    from PIL import Image

    sources = [image(0, 40, 60), image(1)]
    shown = [Image.fromarray(source) for source in sources]
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 32 * 32)
    pipe(image=shown, prompt="make it red", num_inference_steps=1, height=32, width=32, output_type="latent")
    assert torch.allclose(system.conditioning(sources, "make it red")["states"], seen[0][0][0], atol=1e-6)


def test_legacy_positions_change_states_and_keys(firered):
    made = [
        load_edit_model("firered", {"weights": str(firered), "legacy_positions": legacy}, network=False)
        for legacy in (True, False)
    ]
    states = [system.conditioning([image(0)], "make it red")["states"] for system in made]
    assert (states[0] - states[1]).abs().max() > 1e-4
    assert made[0].encoding()["conditions"] != made[1].encoding()["conditions"]
    assert made[0].encoding()["latents"] == made[1].encoding()["latents"]


def test_text_to_image_uses_the_text_template(firered):
    from diffusers import QwenImagePipeline

    system = load_edit_model("firered", {"weights": str(firered)}, network=False)
    pipe = stock_pipe(firered, False)
    plain = QwenImagePipeline(None, None, pipe.text_encoder, pipe.tokenizer, None)
    expected, _ = plain.encode_prompt(prompt="a red house")
    assert torch.allclose(system.conditioning([], "a red house")["states"], expected[0], atol=1e-6)


def test_latents_are_the_pipelines(firered):
    pipe = stock_pipe(firered, False)
    system = load_edit_model("firered", {"weights": str(firered)}, network=False)
    x = to_tensor(image(3, 32, 64))[None]
    expected = pipe._encode_vae_image(x.unsqueeze(2), generator=None)[:, :, 0]
    assert torch.allclose(system.latents(x), expected, atol=1e-6)
    z = system.latents(x)
    config = pipe.vae.config
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    decoded = pipe.vae.decode(z.unsqueeze(2) * std + mean, return_dict=False)[0][:, :, 0]
    assert torch.allclose(system.images(z), decoded, atol=1e-6)


def test_firered_network_is_the_transformer_on_packed_latents(firered):
    """Against a call written with the pipeline's own packing."""
    from diffusers import QwenImageEditPlusPipeline, QwenImageTransformer2DModel

    system = load_edit_model("firered", {"weights": str(firered)}, encoders=False)
    transformer = QwenImageTransformer2DModel.from_pretrained(firered / "transformer")
    torch.manual_seed(0)
    x, a, b = torch.randn(2, 4, 8, 12), torch.randn(2, 4, 8, 12), torch.randn(2, 4, 4, 8)
    states = [torch.randn(5, 16), torch.randn(3, 16)]
    conditioning = system.collate([{"states": s} for s in states])
    t = torch.tensor([0.3, 0.9])
    got = system.network(x, t, [a, b], conditioning)
    pack, unpack = QwenImageEditPlusPipeline._pack_latents, QwenImageEditPlusPipeline._unpack_latents
    tokens = torch.cat([pack(z, 2, 4, *z.shape[2:]) for z in (x, a, b)], dim=1)
    for k in range(2):  # row by row, without padding: the mask has to isolate it
        out = transformer(
            hidden_states=tokens[k : k + 1], encoder_hidden_states=states[k][None], timestep=t[k : k + 1],
            img_shapes=[[(1, 4, 6), (1, 4, 6), (1, 2, 4)]], return_dict=False,
        )[0][:, :24]  # fmt: skip
        assert torch.allclose(got[k], unpack(out, 64, 96, 8)[0, :, 0], atol=1e-5)


def test_a_run_is_a_pipeline_that_diffusers_opens(firered, tmp_path):
    from diffusers import QwenImageTransformer2DModel

    rows = MemoryRows(pairs(4, side=64))
    run(recipe("firered", {"weights": str(firered)}, ema=0.0, lr=1e-2), rows, tmp_path / "run")
    pipe = stock_pipe(tmp_path / "run", False)
    assert type(pipe).__name__ == "QwenImageEditPlusPipeline"
    before = QwenImageTransformer2DModel.from_pretrained(firered / "transformer").state_dict()
    after = pipe.transformer.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    dead = {name for name in before if name.startswith("transformer_blocks.1.") and any(
        piece in name for piece in ("add_q_proj", "norm_added_q", "to_add_out", "txt_mlp"))}  # fmt: skip
    assert moved and not moved & dead
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "run" / vae).samefile(firered / vae)  # linked, not copied
    # and it is a stage to go on from
    run(recipe("firered", {"weights": str(tmp_path / "run")}), rows, tmp_path / "next")


# ----------------------------------------------------------------------------------------- every architecture's network


def systems(request, firered, step1x, e1):
    return {
        "firered": {"weights": str(firered)},
        "step1x-1.0": step1x["1.0"],
        "step1x-1.1": step1x["1.1"],
        "step1x-1.2": step1x["1.2"],
        "imgedit_e1": {"weights": str(e1)},
    }[request]


NAMES = ["firered", "step1x-1.0", "step1x-1.1", "step1x-1.2", "imgedit_e1"]


def one_batch(system, count=2):
    sources = [image(k, 32, 64) for k in range(count)]
    references = [system.latents(torch.stack([to_tensor(s) for s in sources]))]
    # words in quotation marks, since one version has a branch for them
    conditioning = system.collate([system.conditioning([s], f'write "{k}" here') for k, s in enumerate(sources)])
    torch.manual_seed(1)
    return torch.randn_like(references[0]), torch.linspace(0.3, 0.8, count), references, conditioning


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_parameter_gets_a_gradient_and_checkpointing_changes_none(name, firered, step1x, e1):
    gradients = {}
    for how in ("none", "selective", "full"):
        system = load_edit_model(name.partition("-")[0], systems(name, firered, step1x, e1))
        checkpoint_activations(system, how)
        x, t, references, conditioning = one_batch(system, 1 if system.one_row else 2)
        system.network(x, t, references, conditioning).square().mean().backward()
        named = {n: p for n, p in system.network.named_parameters() if p.requires_grad}
        unreached = [n for n, p in named.items() if p.grad is None or not p.grad.any()]
        assert unreached == []
        gradients[how] = {n: p.grad for n, p in named.items()}
    for how in ("selective", "full"):
        for n, gradient in gradients["none"].items():
            assert torch.allclose(gradient, gradients[how][n], rtol=1e-4, atol=1e-7), (how, n)


@pytest.mark.parametrize("name", NAMES)
def test_a_rows_output_does_not_depend_on_its_batch(name, firered, step1x, e1):
    system = load_edit_model(name.partition("-")[0], systems(name, firered, step1x, e1))
    if system.one_row:
        with pytest.raises(AssertionError):
            one_batch(system, 2)
        return
    x, t, references, conditioning = one_batch(system)
    with torch.no_grad():
        together = system.network(x, t, references, conditioning)
        for k in range(2):
            row = {n: v[k : k + 1] for n, v in conditioning.items()}
            alone = system.network(x[k : k + 1], t[k : k + 1], [r[k : k + 1] for r in references], row)
            assert torch.allclose(together[k], alone[0], atol=1e-5)


@pytest.mark.parametrize("name", ["firered", "step1x-1.1", "imgedit_e1"])
def test_a_run_is_sampled_from_its_folder(name, firered, step1x, e1, tmp_path):
    from edittools.nets.editor import EditRequest
    from edittools.nets.load import load_editor

    made = recipe(name.partition("-")[0], systems(name, firered, step1x, e1))
    run(made, MemoryRows(pairs(4, side=64)), tmp_path / "run")
    editor = load_editor(str(tmp_path / "run"), resolution=64)
    requests = [EditRequest([image(k, 48, 48)], f"number {k}", seed=k) for k in range(2)]
    together = editor.edit(requests)
    side = 48 if name == "step1x-1.1" else 64  # which alone scales back to the source's size
    assert [r.shape for r in together] == [(side, side, 3)] * 2
    for request, result in zip(requests, together):
        assert np.abs(editor.edit([request])[0].astype(int) - result).max() <= 1


# --------------------------------------------------------------------------------------------------------- cost


@pytest.mark.parametrize("zero_cond", [False, True])
def test_qwen_flops_are_torchs(zero_cond):
    from diffusers import QwenImageTransformer2DModel

    config = {**QWEN, "zero_cond_t": zero_cond}
    transformer = QwenImageTransformer2DModel(**config)
    # the plain attention is made of products that torch counts; the fused one of a CPU is not counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        transformer(
            hidden_states=torch.randn(1, 40, 16), encoder_hidden_states=torch.randn(1, 7, 16),
            timestep=torch.tensor([0.5]), img_shapes=[[(1, 4, 6), (1, 4, 4)]], return_dict=False,
        )  # fmt: skip
    assert qwen_flops(transformer.config, 40, 24, 7) == counter.get_total_flops()


@pytest.mark.parametrize("guidance", [False, True])
def test_flux_flops_are_torchs(guidance):
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(**{**FLUX, "guidance_embeds": guidance, "num_single_layers": 3})
    # the plain attention is made of products that torch counts; the fused one of a CPU is not counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        transformer(
            hidden_states=torch.randn(1, 40, 16), encoder_hidden_states=torch.randn(1, 7, 32),
            pooled_projections=torch.randn(1, 24), timestep=torch.tensor([0.5]),
            guidance=torch.tensor([1.0]) if guidance else None, img_ids=torch.zeros(40, 3), txt_ids=torch.zeros(7, 3),
            return_dict=False,
        )  # fmt: skip
    assert flux_flops(transformer.config, 40, 24, 7) == counter.get_total_flops()


# ------------------------------------------------------------------------------------------------------- Step1X


def test_step1x_states_are_the_language_models_without_the_request(step1x):
    """Against transformers' own model, template and positions."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    settings = step1x["1.1"]
    system = load_edit_model("step1x", settings, network=False)
    source = image(0, 56, 56)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(Path(settings["weights"]) / "text_encoder").eval()
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        + VERSIONS["1.1"].request
        + f"Picture 1: {IMAGE}make it red<|im_end|>\n<|im_start|>assistant\n"
    )
    from PIL import Image

    inputs = system.qwen.processor(text=[text], images=[Image.fromarray(source)], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True).hidden_states[-1][0]
    states = system.conditioning([source], "make it red")["states"]
    assert torch.allclose(states, expected[settings["dropped"] :], atol=1e-5)


def test_a_vocabulary_that_spells_the_request_otherwise_is_refused(step1x):
    with pytest.raises(EditError, match="217 are dropped"):
        load_edit_model("step1x", {"weights": step1x["1.0"]["weights"]}, network=False)
    with pytest.raises(RowError, match="one source"):
        load_edit_model("step1x", step1x["1.0"], network=False).conditioning([image(0), image(1)], "x")
    with pytest.raises(UsageError, match="no version"):
        load_edit_model("step1x", {**step1x["1.0"], "version": "2.0"})


def test_step1x_pads_to_its_length_and_all_of_it_attends(step1x):
    system = load_edit_model("step1x", step1x["1.0"], encoders=False)
    made = system.collate([{"states": torch.randn(5, 16)}, {"states": torch.randn(640, 16)}])
    assert made["states"].shape == (2, 640, 16) and made["mask"].sum(1).tolist() == [5, 640]
    text, pooled, ids = system.network.text(made, torch.tensor([0.1, 0.2]))
    assert text.shape == (2, 640, 32) and pooled.shape == (2, 24) and not ids.any()


def test_reference_positions_of_the_versions(step1x):
    seen = {}
    for version, settings in step1x.items():
        system = load_edit_model("step1x", settings)
        x, t, references, conditioning = one_batch(system, 1)
        plain = system.network.transformer.forward

        def watch(*args, plain=plain, version=version, **kwargs):
            seen[version] = kwargs["img_ids"], kwargs["txt_ids"]
            return plain(*args, **kwargs)

        system.network.transformer.forward = watch
        system.network(x, t, references, conditioning)
    # 32 x 64 pixels: 2 x 4 tokens; the target first, then the source
    target = torch.tensor([[0, r, c] for r in range(2) for c in range(4)]).float()
    offsets = {"1.0": [0, 0, 0], "1.1": [1, 1, 1], "1.2": [1, 0, 0]}
    for version, offset in offsets.items():
        assert torch.equal(seen[version][0], torch.cat([target, target + torch.tensor(offset)]))
    assert not seen["1.0"][1].any() and not seen["1.1"][1].any()
    text = seen["1.2"][1]
    assert text[:, 0].max() == -1 and (text[:-1, 0] <= text[1:, 0]).all()


def test_positions_of_the_images_tokens_by_hand(step1x):
    """v1.2, a 56 x 84 image seen as 2 x 3 tokens of 28 pixels: the centre of token (r, c) is pixel 28 r + 13.5."""
    from edittools.nets.qwen_states import Encoded
    from edittools.nets.step1x import text_ids

    positions = torch.arange(8.0)[:, None].expand(8, 3)
    is_image = torch.tensor([False] + [True] * 6 + [False])
    made = Encoded(torch.zeros(8, 1), torch.zeros(8, 1), torch.zeros(8), is_image, positions, (2, 3))
    ids = text_ids(made, (56, 84))
    # the source is as large as what the encoder saw: (55 / 55) and (83 / 83) pixels per pixel
    expected = [[(28 * r + 13.5 - 11) / 16, (28 * c + 13.5 - 11) / 16] for r in range(2) for c in range(3)]
    assert torch.allclose(ids[1:7, 1:], torch.tensor(expected))
    assert ids[[0, 7], 1:].tolist() == [[0, 0], [0, 0]] and ids[:, 0].tolist() == list(range(8))
    # a source twice as large: pixel p of what was seen is pixel p (111 / 55) of the source
    double = text_ids(made, (112, 168))
    assert double[6, 1].item() == pytest.approx(((28 + 13.5) * 111 / 55 - 11) / 16)


def test_quoted_words_are_spelled(step1x):
    assert split_quoted('say "Hi" now', 0) == ['say "', "H", "i", '" now']
    assert split_quoted("写“你好”。", 0) == ['写"', "你", "好", '"。']
    assert split_quoted("don't stop", 0) == ['don"', *"t stop"]  # an apostrophe opens, and nothing closes
    assert split_quoted('"a" "b"', 3) == ['"a" "', "b", '"']  # what comes before the start stays
    assert split_quotations('say "Hi" now', 0) == (['say "', "H", "i", '" now'], [False, True, True, False])
    assert split_quotations("写“你好”。", 0) == (["写“", "你", "好", "”。"], [False, True, True, False])
    assert split_quotations('an "open end', 0) == (['an "open end'], [False])
    system = load_edit_model("step1x", step1x["1.2"], network=False)
    made = system.conditioning([image(0)], 'write "Hi" here')
    assert made["quoted"].sum() == 2 and made["states"].shape == made["embeddings"].shape


# ------------------------------------------------------------------------------------------------------- ImgEdit


def test_features_follow_their_image(e1):
    """SigLIP's tokens stand after each <|vision_end|>, or after all states."""
    system = load_edit_model("imgedit_e1", {"weights": str(e1)}, network=False)
    made = system.conditioning([image(0), image(1)], "swap them")
    states, features = len(made["states"]), 32
    assert made["features"].shape == (features, 16)
    prompt = system.qwen.prompt([IMAGE, IMAGE, "swap them"])
    grids = system.qwen.encode([prompt], [image(0), image(1)])
    # the states' places of the two <|vision_end|>: each follows the last token of its image
    ends = [k + 1 for k in range(states - 1) if grids.is_image[k] and not grids.is_image[k + 1]]
    order = made["order"].tolist()
    first, second = range(states, states + 16), range(states + 16, states + 32)
    expected = [*range(ends[0] + 1), *first, *range(ends[0] + 1, ends[1] + 1), *second, *range(ends[1] + 1, states)]
    assert order == expected
    appended = load_edit_model("imgedit_e1", {"weights": str(e1), "insert": "append"}, network=False)
    assert appended.conditioning([image(0), image(1)], "swap them")["order"].tolist() == list(range(states + 32))


def test_a_batch_projects_every_row_as_alone(e1):
    system = load_edit_model("imgedit_e1", {"weights": str(e1)})
    rows = [system.conditioning([image(0)], "a"), system.conditioning([image(1), image(2)], "a longer text")]
    together, _, _ = system.network.text(system.collate(rows), torch.zeros(2))
    for k, row in enumerate(rows):
        alone, _, _ = system.network.text(system.collate([row]), torch.zeros(1))
        length = alone.shape[1]
        assert torch.allclose(together[k, :length], alone[0], atol=1e-6) and not together[k, length:].any()


def test_stages_train_what_the_paper_says(e1, tmp_path):
    """Stage 1 the language model's MLP alone; stage 2 both MLPs and the image branch (ImgEdit A.4)."""
    names = [
        n for n, _ in load_edit_model("imgedit_e1", {"weights": str(e1)}, encoders=False).network.named_parameters()
    ]
    one = {n for n in names if trains(n, STAGES["1"])}
    assert one == {f"projectors.states.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    two = {n for n in names if trains(n, STAGES["2"])}
    assert {n for n in names if n.startswith("projectors.")} - two == {"projectors.pooled"}
    double = {n.split("transformer_blocks.0.")[1] for n in two if "transformer.transformer_blocks." in n}
    assert double == {
        f"{module}.{kind}"
        for module in (
            "norm1.linear",
            "attn.to_q",
            "attn.to_k",
            "attn.to_v",
            "attn.to_out.0",
            "ff.net.0.proj",
            "ff.net.2",
        )
        for kind in ("weight", "bias")
    } | {"attn.norm_q.weight", "attn.norm_k.weight"}
    assert {n for n in names if "single_transformer_blocks" in n} <= two
    assert not any("context" in n or "add_" in n or "time_text_embed" in n for n in two)
    made = recipe("imgedit_e1", {"weights": str(e1), "stage": "1"}, optimizer="prodigy", lr=1.0, ema=0.0, steps=5)
    run(made, MemoryRows(pairs(4, side=64)), tmp_path / "run")
    for part in ("transformer", "projectors"):
        file = next((e1 / part).glob("*.safetensors")).name
        before, after = load_file(e1 / part / file), load_file(tmp_path / "run" / part / file)
        moved = {n for n in before if not torch.equal(before[n], after[n])}
        assert moved == ({n for n in before if n.startswith("states.")} if part == "projectors" else set())


def test_the_features_mlp_starts_from_redux(e1, tmp_path):
    import shutil

    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    redux = stir(ReduxImageEncoder(redux_dim=16, txt_in_features=8), 5)
    folder = tmp_path / "model"
    shutil.copytree(e1, folder)
    redux.save_pretrained(folder / "redux")
    sizes = {"states_width": 16, "features_width": 16, "hidden": 24, "width": 8, "pooled_width": 24}
    system = load_edit_model("imgedit_e1", {"weights": str(folder), "projectors": sizes}, encoders=False)
    x = torch.randn(2, 3, 16)
    assert torch.allclose(system.network.projectors.features(x), redux(x).image_embeds, atol=1e-6)


# ----------------------------------------------------------------------------------------------- the autoencoder


def test_flux_latents_are_shifted_and_scaled(tmp_path):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(save_flux_vae(tmp_path / "vae"))
    x = to_tensor(image(0, 32, 48))[None]
    z = Autoencoder(vae).encode(x)
    assert torch.allclose(z, (vae.encode(x).latent_dist.mode() - 0.1) * 0.4, atol=1e-6)
    assert torch.allclose(Autoencoder(vae).decode(z), vae.decode(z / 0.4 + 0.1, return_dict=False)[0], atol=1e-5)


def test_grid_ids_by_hand():
    expected = [[1, 2, 3], [1, 2, 4], [1, 3, 3], [1, 3, 4]]
    assert grid_ids(2, 2, (1, 2, 3), torch.device("cpu")).tolist() == expected


# ------------------------------------------------------------------------------------------ the consistency loss


def test_consistency_weight_by_hand():
    t = torch.tensor([0.5, 0.89, 0.9, 1.0])
    assert consistency.weight(2.0, t).tolist() == pytest.approx([0.5, 2 * 0.89**2, 0, 0])


class Linear8:
    """An architecture whose decoder is a fixed linear map, in float64, and an encoder likewise."""

    def __init__(self):
        torch.manual_seed(0)
        self.up = torch.nn.ConvTranspose2d(4, 3, 4, stride=4).double().requires_grad_(False)
        self.eye = torch.nn.Conv2d(3, 5, 8, stride=8).double().requires_grad_(False)

    def images(self, latents):
        return torch.tanh(self.up(latents))

    def __call__(self, images):
        seen = torch.nn.functional.interpolate(images, (16, 16), mode="bicubic", antialias=True)
        return torch.nn.functional.normalize(self.eye(seen).flatten(1), dim=-1)


def test_consistency_gradient_against_finite_differences():
    parts = Linear8()
    torch.manual_seed(1)
    truth, guess = torch.randn(2, 2, 4, 6, 6, dtype=torch.float64)
    t = torch.tensor([0.4, 0.95], dtype=torch.float64)
    boxes = [[(0.1, 0.2, 0.6, 0.9), (0.0, 0.0, 0.3, 0.3)], []]

    def value(x):
        return consistency.loss(parts, parts, x, truth, t, boxes, 1.5).sum()

    x = guess.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    assert gradient[0].any() and not gradient[1].any()  # σ ≥ 0.9 has no loss
    direction = torch.randn_like(guess)
    step = 1e-4  # the loss is summed in float32
    along = (value(guess + step * direction) - value(guess - step * direction)) / (2 * step)
    assert along.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-2)
    # by hand: η σ² times the mean of 1 - cos over the two crops
    with torch.no_grad():
        crops = [(slice(1, 5), slice(0, 4)), (slice(0, 2), slice(0, 2))]
        seen = [[parts(parts.images(x[:1, :, r, c])) for x in (guess, truth)] for r, c in crops]
        cosines = sum((a * b).sum().item() for a, b in seen)
        assert value(guess).item() == pytest.approx(1.5 * 0.16 * (1 - cosines / 2), rel=1e-5)


def test_training_with_a_consistency_loss_and_boxes(firered, tmp_path):
    from tiny_models import save_dino

    dino = save_dino(tmp_path / "dino")
    rows = pairs(4, side=64)
    box = (0.25, 0.25, 0.75, 0.75)
    rows = [(dataclasses.replace(row, boxes=[box] * (k % 2)), p) for k, (row, p) in enumerate(rows)]
    made = recipe(
        "firered", {"weights": str(firered)}, consistency=0.5, consistency_encoder=str(dino), sample_every=1, shift=1.0,
        shift_by_tokens=[],
    )  # fmt: skip
    run(made, MemoryRows(rows), tmp_path / "with")
    run(dataclasses.replace(made, consistency=0.0), MemoryRows(rows), tmp_path / "without")
    lines = [json.loads((tmp_path / d / "log.jsonl").read_text().splitlines()[0]) for d in ("with", "without")]
    assert lines[0]["loss"] > lines[1]["loss"] and lines[0]["grad_norm"] != lines[1]["grad_norm"]
    assert sorted(p.name for p in (tmp_path / "with" / "samples").glob("*.png")) == ["00000001.png", "00000002.png"]


# ------------------------------------------------------------------------------------------------------- adapters


def test_adapters_drop_out_while_they_train_and_only_then(firered, tmp_path):
    """Their output is zero at first, so the first loss is the same; what is dropped is a function of (seed, step)."""
    losses = {}
    rows = MemoryRows(pairs(4, side=64))
    for name, dropout in (("none", 0.0), ("half", 0.5), ("again", 0.5)):
        settings = {"weights": str(firered), "lora": {"rank": 2, "dropout": dropout}}
        made = recipe("firered", settings, lr=1e-2, ema=0.0, steps=3, log_every=1)
        torch.manual_seed(len(losses))  # nobody else's random numbers count
        run(made, rows, tmp_path / name)
        losses[name] = [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
    assert losses["half"] == losses["again"] and losses["half"][0] == losses["none"][0]
    assert losses["half"][2] != losses["none"][2]


def test_adapters_are_read_by_diffusers(firered, tmp_path):
    """Only they train; with them the pipeline's transformer is the one that was trained."""
    from edittools.nets.editor import EditRequest
    from edittools.nets.load import load_editor

    settings = {"weights": str(firered), "lora": {"rank": 2, "alpha": 4}}
    before = load_edit_model("firered", settings, encoders=False)
    plain = load_edit_model("firered", {"weights": str(firered)}, encoders=False)
    torch.manual_seed(0)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([0.5])
    conditioning = {"states": torch.randn(1, 5, 16)}
    with torch.no_grad():
        assert torch.allclose(
            before.network(x, t, [x], conditioning), plain.network(x, t, [x], conditioning), atol=1e-6
        )
    trained = [n for n, p in before.network.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained)
    assert not any("transformer_blocks.1.attn.to_add_out" in n for n in trained)  # it would never get a gradient
    made = recipe("firered", settings, lr=1e-2, ema=0.0, steps=3)
    made = dataclasses.replace(made, system="auto")
    seen = {}
    rows = MemoryRows(pairs(4, side=64))
    run(made, rows, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "_end.json",
        "checkpoints",
        "config.json",
        "log.jsonl",
        "pytorch_lora_weights.safetensors",
    ]
    pipe = stock_pipe(firered, False)
    pipe.load_lora_weights(str(tmp_path / "run"), adapter_name="default")
    tensors = load_file(tmp_path / "run" / "pytorch_lora_weights.safetensors")
    names = dict(pipe.transformer.named_parameters())
    for name, tensor in tensors.items():
        loaded = name.removeprefix("transformer.").replace(".weight", ".default.weight")
        seen[name] = names[loaded]
        assert torch.equal(names[loaded], tensor)
    assert any(t.any() for n, t in tensors.items() if "lora_B" in n)
    config = next(iter(pipe.transformer.peft_config.values()))
    assert config.r == config.lora_alpha == 2  # the scale of 4 / 2 is in the tensors, for readers of no metadata
    request = EditRequest([image(0, 48, 48)], "x", seed=0)
    alone = load_editor(str(tmp_path / "run"), steps=2, guidance_scale=1.0, resolution=64).edit([request])[0]
    options = {"steps": 2, "guidance_scale": 1.0, "resolution": 64}
    beside = load_editor(str(firered), lora=(str(tmp_path / "run"),), **options).edit([request])[0]
    assert np.array_equal(alone, beside)
    with pytest.raises(UsageError, match="to_nowhere"):
        load_edit_model("firered", {"weights": str(firered), "lora": {"rank": 2, "targets": ["to_nowhere"]}})
