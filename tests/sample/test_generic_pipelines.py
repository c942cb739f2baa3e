"""Pipelines that no architecture is for: LongCat-Image-Edit of one picture, JoyImage Edit Plus of several."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_sample import image
from tiny_architectures import WIDTH, save_qwen3_vl, save_qwen_vl
from tiny_models import stir

from edittools.errors import RowError, UsageError
from edittools.nets.editor import EditRequest
from edittools.nets.load import load_editor
from edittools.weights.diffusers import open_pipeline

SIDE = 64


def index_of(folder, name: str, parts: dict[str, tuple[str, str]]) -> None:
    index = {"_class_name": name, "_diffusers_version": "0.42.1", **{k: list(v) for k, v in parts.items()}}
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def longcat(tmp_path_factory):
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, LongCatImageTransformer2DModel

    folder = tmp_path_factory.mktemp("models") / "longcat"
    save_qwen_vl(folder)
    (folder / "processor").rename(folder / "text_processor")
    (folder / "tokenizer").mkdir()
    for path in (folder / "text_processor").glob("*token*"):
        (folder / "tokenizer" / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=16, shift_factor=0.1, scaling_factor=0.4,
    ).save_pretrained(folder / "vae")  # fmt: skip
    transformer = LongCatImageTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH, axes_dims_rope=[4, 6, 6],
    )  # fmt: skip
    stir(transformer, 0, 0.05).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    index_of(
        folder,
        "LongCatImageEditPipeline",
        {
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "vae": ("diffusers", "AutoencoderKL"),
            "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration"),
            "tokenizer": ("transformers", "Qwen2Tokenizer"),
            "text_processor": ("transformers", "Qwen2VLProcessor"),
            "transformer": ("diffusers", "LongCatImageTransformer2DModel"),
        },
    )
    return folder


@pytest.fixture(scope="module")
def joy(tmp_path_factory):
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, JoyImageEditPlusTransformer3DModel

    folder = save_qwen3_vl(tmp_path_factory.mktemp("models") / "joy")
    (folder / "tokenizer").mkdir()
    for path in (folder / "processor").glob("*token*"):
        (folder / "tokenizer" / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(0)
    AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).save_pretrained(folder / "vae")  # fmt: skip
    transformer = JoyImageEditPlusTransformer3DModel(
        in_channels=4, hidden_size=32, num_attention_heads=2, text_dim=WIDTH, num_layers=1, rope_dim_list=[4, 6, 6]
    )
    stir(transformer, 0, 0.05).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    index_of(
        folder,
        "JoyImageEditPlusPipeline",
        {
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "vae": ("diffusers", "AutoencoderKLWan"),
            "text_encoder": ("transformers", "Qwen3VLForConditionalGeneration"),
            "tokenizer": ("transformers", "Qwen2Tokenizer"),
            "processor": ("transformers", "Qwen3VLProcessor"),
            "transformer": ("diffusers", "JoyImageEditPlusTransformer3DModel"),
        },
    )
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The pipelines' sizes: 64 pixels a side instead of 1024."""
    from diffusers.pipelines.joyimage import image_processor
    from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit

    monkeypatch.setattr(pipeline_longcat_image_edit, "calculate_dimensions", lambda area, ratio: (SIDE, SIDE))
    monkeypatch.setitem(image_processor.BUCKETS, 1024, [(SIDE, SIDE), (32, 96)])


def test_longcat_edits_one_picture(longcat):
    editor = load_editor(str(longcat), steps=2, guidance_scale=3.0, negative_prompt="ugly")
    request = EditRequest([image(0, 64, 64)], 'write "sea" on it', seed=3)
    [made] = editor.edit([request])
    pipe = open_pipeline(longcat, "float32")
    expected = pipe(
        image=Image.fromarray(request.sources[0]), prompt=request.instruction, negative_prompt="ugly",
        guidance_scale=3.0, num_inference_steps=2, generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    assert np.array_equal(made, np.asarray(expected)) and made.std() > 1
    # it has no size of its own to be asked for; and takes one picture
    sized, two = editor.edit(
        [EditRequest(request.sources, "x", 0, height=48, width=80), EditRequest(request.sources * 2, "x", 0)]
    )
    assert sized.shape == (48, 80, 3) and isinstance(two, RowError) and "takes one source picture" in str(two)
    with pytest.raises(UsageError, match="distilled-guidance"):
        load_editor(str(longcat), distilled_guidance=2.0)
    [legacy] = load_editor(
        str(longcat), steps=2, guidance_scale=3.0, negative_prompt="ugly", legacy_positions=True
    ).edit([request])
    assert np.abs(legacy.astype(int) - made).max() > 0  # without the positions of image tokens


@pytest.mark.parametrize("count", [1, 3])
def test_joyimage_edits_several_pictures(joy, count):
    editor = load_editor(str(joy), steps=2, guidance_scale=2.0)
    request = EditRequest([image(k, 40 + 8 * k, 64) for k in range(count)], "make it red", seed=3, height=32, width=96)
    [made] = editor.edit([request])
    expected = open_pipeline(joy, "float32")(
        images=[Image.fromarray(source) for source in request.sources], prompt=request.instruction, guidance_scale=2.0,
        num_inference_steps=2, generator=torch.Generator().manual_seed(3), height=32, width=96,
    ).images[0]  # fmt: skip
    assert np.array_equal(made, np.asarray(expected)) and made.shape == (32, 96, 3) and made.std() > 1
    [odd, none] = editor.edit([EditRequest(request.sources, "x", 0, height=33, width=64), EditRequest([], "x", 0)])
    assert "divisible by 8" in str(odd) and "no source picture" in str(none)
