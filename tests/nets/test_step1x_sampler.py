"""Samplers of Step1X-Edit and ImgEdit-E1 against what their authors published.

Step1X-Edit's is written out below from the released inference.py and sampling.py, in float64 over the equations of
`step1x_reference`; nothing of it comes from edittools but the language model's states, which have tests of their own.
ImgEdit-E1 goes against diffusers' own FluxPipeline.
"""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import step1x_reference as reference
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_architectures import WIDTH, save_e1, save_flux_vae, save_qwen_vl

from edittools.errors import EditError, RowError, UsageError
from edittools.nets import step1x
from edittools.nets.editor import EditRequest
from edittools.nets.load import load_editor
from edittools.nets.qwen_states import QwenStates
from edittools.nets.shapes import step1x_shape
from edittools.nets.step1x import weights as step1x_weights

LENGTH = 352  # of the text stream that v1.0 and v1.1 pad to, in place of 640
STEPS = 3


def source(seed, height, width):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


@pytest.fixture(scope="module", params=["1.0", "1.1", "1.2"])
def model(request, tmp_path_factory):
    """A folder of random weights in the official layout, converted; how many tokens its request has; the weights."""
    number = request.param
    release = step1x.VERSIONS[number]
    size = reference.Size(channels=16, states=WIDTH, scaled=release.pooled_scale, quoted=release.quoted_text)
    folder = tmp_path_factory.mktemp("step1x") / number
    weights = reference.random_weights(size)
    weights["final_layer.linear.weight"] *= 15  # so that some tokens' guidance is long enough to be damped
    metadata = {"axes_dims_rope": json.dumps(size.axes), "connector_heads": str(size.text_heads)}
    save_file(weights, folder.with_suffix(".safetensors"), metadata=metadata)
    step1x_weights.convert(folder.with_suffix(".safetensors"), folder)
    save_qwen_vl(folder)
    save_flux_vae(folder / "vae")
    (folder / "edit.json").write_text(json.dumps({"system": "step1x", "version": number}))
    qwen = QwenStates(folder, "cpu", "float32", 28 * 28, 56 * 56)
    head = qwen.prompt([release.request]).partition(release.request)[0]
    return folder, number, len(qwen.tokens(head + release.request)) - 1, size, weights


@pytest.fixture
def known(model, monkeypatch):
    """The tiny tokenizer spells the request in more tokens than Qwen2.5-VL's."""
    _, number, count, _, _ = model
    release = step1x.VERSIONS[number]
    length = LENGTH if release.pads else release.length
    monkeypatch.setitem(step1x.VERSIONS, number, replace(release, dropped=count, length=length))
    return model


def published(known, rows, image, seed, guidance=6.0, steps=STEPS):
    """The released sampler: rows are the states of instruction and negative, image uint8 as it has been resized."""
    from diffusers import AutoencoderKL

    folder, number, _, size, weights = known
    vae = AutoencoderKL.from_pretrained(folder / "vae").double()
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double() / 255 * 2 - 1
    with torch.no_grad():
        z = (vae.encode(x).latent_dist.mode() - 0.1) * 0.4  # the tiny autoencoder's shift and scale

    def pack(latents):  # b c (h 2) (w 2) -> b (h w) (c 2 2)
        b, c, h, w = latents.shape
        return latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)

    _, c, h, w = z.shape
    grid = torch.tensor([[0, i, j] for i in range(h // 2) for j in range(w // 2)])
    offset = {"1.0": [0, 0, 0], "1.1": [1, 1, 1], "1.2": [1, 0, 0]}[number]
    noise = torch.randn(c, h, w, generator=torch.Generator().manual_seed(seed))[None].double()
    noisy, clean = pack(noise), pack(z)
    half = noisy.shape[1]

    line = (1.15 - 0.5) / (4096 - 256)
    mu = line * half + 0.5 - line * 256
    plain = [1 - k / steps for k in range(steps + 1)]
    times = [math.exp(mu) / (math.exp(mu) + (1 / t - 1)) if t else 0.0 for t in plain]

    def velocity(row, t):
        states = row["states"]
        length = len(states)
        if number != "1.2":  # padded, and the transformer attends to the padding
            states = torch.cat([states, torch.zeros(LENGTH - length, WIDTH)])
        mask = torch.arange(len(states)) < length
        quotes = (row["embeddings"][None], row["quoted"][None].bool()) if number == "1.2" else (None, None)
        at = torch.tensor([t])
        text, pooled = reference.connector(weights, size, states[None], at, mask[None], *quotes)
        places = row["ids"].double() if number == "1.2" else torch.zeros(len(states), 3).double()
        places = torch.cat([places, grid, grid + torch.tensor(offset)])
        tokens = torch.cat([noisy, clean], 1)
        return reference.transformer(weights, size, tokens, places, at, text, pooled)[:, :half]

    truncate = 1.0 if number == "1.0" else 0.93
    for t, before in itertools.pairwise(times):
        v, u = velocity(rows[0], t), velocity(rows[1], t)
        if t > truncate:
            length = (v - u).norm(dim=2, keepdim=True)
            v = u + guidance * (v - u) / torch.where(length > 1, length**0.4, torch.ones(()).double())
        else:
            v = u + guidance * (v - u)
        noisy = noisy + (before - t) * v
    latents = noisy.reshape(1, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, c, h, w)
    with torch.no_grad():
        return vae.decode(latents / 0.4 + 0.1, return_dict=False)[0][0]


def test_equals_the_published_sampler(known):
    folder, number, *_ = known
    editor = load_editor(str(folder), steps=STEPS, resolution=48)
    requests = [
        EditRequest([source(k, *shape)], text, seed=10 + k)
        for k, (shape, text) in enumerate([((40, 60), 'write "Hi" on it'), ((60, 90), "make it red")])
    ]
    assert editor.guidance == 6.0 and editor.negative == ""
    prepared = [editor.prepare(request) for request in requests]
    assert editor.batch_size == (1 if number == "1.2" else 4)
    made = [editor.sample([row])[0] for row in prepared]
    results = editor.edit(requests)
    for row, request, found, result in zip(prepared, requests, made, results):
        resized = Image.fromarray(request.sources[0]).resize((58 // 16 * 16, 39 // 16 * 16))
        states = [editor.edit_model.conditioning([np.asarray(resized)], text) for text in (request.instruction, "")]
        expected = published(known, states, np.asarray(resized), request.seed)
        assert row.shapes == ((32, 48), (32, 48))
        assert (found - expected).abs().max() < 1e-4
        rounded = Image.fromarray(((expected + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
        if number != "1.2":  # the script scales the result back
            rounded = rounded.resize(request.sources[0].shape[1::-1])
        assert result.shape == np.asarray(rounded).shape
        assert np.abs(result.astype(int) - np.asarray(rounded)).max() <= 1
    assert (made[0] - made[1]).abs().max() > 0.1


def test_guidance_is_damped_where_the_release_damps(known):
    """Without that rule the images are clearly others (v1.1, v1.2), or the same (v1.0's script never damps)."""
    folder, number, *_ = known
    request = EditRequest([source(0, 40, 60)], "make it red", seed=3)
    editor = load_editor(str(folder), steps=STEPS, resolution=48)
    row = editor.prepare(request)
    as_released = editor.sample([row])
    lengths = []

    def plain(v, u, scale, t):
        lengths.append(torch.nn.functional.pixel_unshuffle(v - u, 2).norm(dim=1))
        return u + scale * (v - u)

    editor.edit_model.guide = plain
    difference = (editor.sample([row]) - as_released).abs().max()
    assert difference == 0 if number == "1.0" else difference > 1e-2
    assert lengths[0].max() > 1


def test_a_row_does_not_depend_on_its_batch(known):
    folder, number, *_ = known
    if number == "1.2":
        pytest.skip("goes one row at a time")
    editor = load_editor(str(folder), steps=STEPS, resolution=48)
    texts = ["make it red", "x", 'a "sign" that says so and goes on for a while']
    rows = [editor.prepare(EditRequest([source(k, 40, 60)], text, seed=k)) for k, text in enumerate(texts)]
    together = editor.sample(rows)
    assert max((editor.sample([row])[0] - x).abs().max() for row, x in zip(rows, together)) < 1e-5


def test_defaults_and_what_it_refuses(known):
    folder, number, *_ = known
    editor = load_editor(str(folder))
    assert editor.steps == (50 if number == "1.2" else 28) and editor.area == 1024**2
    two = EditRequest([source(0, 40, 60)] * 2, "x", seed=0)
    (result,) = editor.edit([two])
    assert isinstance(result, RowError)
    with pytest.raises(UsageError, match="--distilled-guidance"):
        load_editor(str(folder), distilled_guidance=2.0)
    with pytest.raises(EditError, match="no such safetensors"):
        load_editor(str(folder), lora=("x.safetensors",))


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [
        (512, 512, 512, (512, 512)),
        (1080, 1920, 512, (384, 672)),  # sqrt(512² 16/9) = 682.7 up to 683, over 16/9 = 384.2 up to 385
        (1920, 1080, 512, (672, 384)),
        (1000, 1500, 1024, (832, 1248)),  # 1254.2 -> 1255; 836.7 -> 837
        (786, 786, 786, (784, 784)),
    ],
)
def test_size_levels(height, width, side, expected):
    """Worked by hand from input_process_image of the released script."""
    assert step1x_shape(height, width, side) == expected


# ------------------------------------------------------------------------------------------------- ImgEdit-E1


def test_e1_equals_the_flux_pipeline(tmp_path):
    """With the text stream given, FLUX.1's own pipeline in diffusers is what samples it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    editor = load_editor(str(save_e1(tmp_path / "e1")), steps=STEPS, resolution=48)
    rows = [EditRequest([source(k, 40, 60)] * (1 + k % 2), text, seed=k) for k, text in enumerate(("red", "blue ice"))]
    prepared = [editor.prepare(row) for row in rows]
    system = editor.edit_model
    pipe = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), system.autoencoder.vae, None, None, None, None,
        system.network.transformer,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    for row, request in zip(prepared, rows):
        assert row.shapes == ((32, 48),)
        with torch.no_grad():
            text, pooled, _ = system.network.text(system.collate([row.conditioning]), torch.ones(1))
        (expected,) = pipe(
            prompt_embeds=text, pooled_prompt_embeds=pooled, height=32, width=48, num_inference_steps=STEPS,
            guidance_scale=3.5, generator=torch.Generator().manual_seed(request.seed), output_type="pt",
        ).images  # fmt: skip
        found = ((editor.sample([row])[0] + 1) / 2).clamp(0, 1)
        assert (found - expected).abs().max() < 1e-5
    assert load_editor(str(tmp_path / "e1")).steps == 28
    assert isinstance(editor.edit([EditRequest([], "x", seed=0)])[0], RowError)
