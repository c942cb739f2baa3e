"""Editors: results that depend on the seed and not on the batch, and pipelines equal to a direct call."""

import json
import shutil

import numpy as np
import pytest
import torch

from edittools.errors import EditError, RowError, UsageError
from edittools.models import diffusers_pipeline
from edittools.models.editors import EditRequest, load_editor

BYTES = [chr(b) for b in range(33, 127)] + [chr(b) for b in range(161, 173)] + [chr(b) for b in range(174, 256)]


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level tokenizers write bytes as."""
    return BYTES + [chr(256 + k) for k in range(256 - len(BYTES))]


def picture(seed, height=48, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


# ---------------------------------------------------------------------------------- what `edit train` leaves


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run whose weights are random, so that noise, words and source all show in the result."""
    from test_train import Rows, tiny

    from edittools.models.edit_dit import EditDiT
    from edittools.train import train
    from edittools.train.loop import save_model

    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny(steps=2), Rows(), folder, threads=1)
    model = EditDiT.load(folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_model(model, folder)
    return folder


def requests(count):
    words = ["invert the colors", "leave it alone", "leave", "把它变红", "invert colors and leave it alone"]
    return [EditRequest([picture(k)], words[k % len(words)], seed=100 + k) for k in range(count)]


def test_result_does_not_depend_on_the_batch(run):
    editor = load_editor(str(run))
    together = editor.edit(requests(8))
    alone = [editor.edit([request])[0] for request in requests(8)]
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(together, alone))
    assert np.mean([np.mean(a != b) for a, b in zip(together, alone)]) < 0.001


def test_samples_before_rounding_agree_to_float_precision(run):
    editor = load_editor(str(run), steps=2)
    references = torch.rand(4, 1, 3, 16, 16) * 2 - 1
    words, seeds = ["invert", "leave it alone", "the colors", "x"], [1, 2, 3, 4]
    with torch.no_grad():
        together = editor._sample(references, words, seeds)
        alone = [editor._sample(references[k : k + 1], words[k : k + 1], seeds[k : k + 1])[0] for k in range(4)]
    assert (together - torch.stack(alone)).abs().max() < 1e-5


def test_seed_words_and_source_matter(run):
    editor = load_editor(str(run))
    base = EditRequest([picture(0)], "invert the colors", seed=1)
    result = editor.edit([base])[0]
    assert np.array_equal(result, editor.edit([base])[0])
    for other in (
        EditRequest(base.sources, base.instruction, seed=2),
        EditRequest(base.sources, "leave it alone", seed=1),
        EditRequest([picture(1)], base.instruction, seed=1),
    ):
        assert not np.array_equal(result, editor.edit([other])[0])


def test_sizes_and_numbers_of_sources_mix(run):
    editor = load_editor(str(run))
    results = editor.edit(
        [
            EditRequest([picture(0, 20, 30)], "x", seed=1),
            EditRequest([picture(0), picture(1, 16, 16)], "x", seed=1),
            EditRequest([], "x", seed=1),
            EditRequest([picture(0)], "x", seed=1, height=24, width=8),
        ]
    )
    assert [r.shape for r in results] == [(20, 30, 3), (48, 48, 3), (16, 16, 3), (24, 8, 3)]
    assert all(r.dtype == np.uint8 for r in results)


def test_euler_walks_straight_to_a_constant_guess(run):
    """With x̂_0 constant the path is a line: any number of steps ends at x̂_0."""
    editor = load_editor(str(run))
    constant = torch.full((1, 3, 16, 16), 0.25)
    editor.model.velocity = lambda x, t, references, words: (x - constant) / t.view(-1, 1, 1, 1)
    for editor.steps in (1, 7):
        result = editor._sample(torch.zeros(1, 1, 3, 16, 16), ["x"], [0])
        assert torch.allclose(result, constant, atol=1e-6)


def test_errors_name_what_is_missing(run, tmp_path):
    with pytest.raises(EditError, match="nowhere"):
        load_editor("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EditError, match=r"model_index\.json"):
        load_editor(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="float8"):
        load_editor(str(run), dtype="float8")
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / "_end.json").unlink()
    with pytest.raises(EditError, match="not finished"):
        load_editor(str(tmp_path / "half"))


def test_offline_the_missing_download_is_named(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EditError, match="edittools-tests/no-such-model") as caught:
        load_editor("edittools-tests/no-such-model")
    assert "hf download edittools-tests/no-such-model" in caught.value.hint


# ----------------------------------------------------------------------------------------- diffusers pipelines


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """QwenImageEditPlusPipeline with tiny random weights, as a folder."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2Tokenizer,
        Qwen2VLImageProcessorPil,
    )

    folder = tmp_path_factory.mktemp("pipelines") / "qwen"
    torch.manual_seed(0)
    special = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ]
    vocabulary = {c: k for k, c in enumerate(byte_alphabet() + special)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=special)
    number = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(vocabulary),
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
    parts = tmp_path_factory.mktemp("processor")
    images.save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = QwenImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        processor=diffusers_pipeline.qwen_processor(parts),
        transformer=transformer,
    )
    pipe.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["processor"] = ["transformers", "Qwen2VLProcessor"]  # what a published folder says
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def small_references(monkeypatch):
    """The pipeline's constants for references: 32 pixels a side instead of 1024."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 32 * 32)
    monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 56 * 56)


def stock_qwen(folder):
    from diffusers import QwenImageEditPlusPipeline

    processor = diffusers_pipeline.qwen_processor(folder / "processor")
    pipe = QwenImageEditPlusPipeline.from_pretrained(folder, processor=processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def direct(pipe, request, **call):
    from PIL import Image

    pictures = [Image.fromarray(source) for source in request.sources]
    several = type(pipe).__name__ == "QwenImageEditPlusPipeline"
    generator = torch.Generator().manual_seed(request.seed)
    result = pipe(image=pictures if several else pictures[0], prompt=request.instruction, generator=generator, **call)
    return np.asarray(result.images[0])


QWEN_CALL = {"true_cfg_scale": 2.0, "negative_prompt": " ", "height": 32, "width": 32}


def test_qwen_edit_plus_equals_the_stock_pipeline(qwen, small_references):
    rows = [
        EditRequest([picture(0)], "make it red", seed=3, height=32, width=32),
        EditRequest([picture(1), picture(2)], "put Figure 1 into Figure 2", seed=4, height=32, width=32),
    ]
    call = {"true_cfg_scale": 2.0, "negative_prompt": " "}
    editor = load_editor(str(qwen), steps=2, legacy_positions=True, **call)
    ours, stock = editor.edit(rows), stock_qwen(qwen)
    for result, row in zip(ours, rows):
        assert np.array_equal(result, direct(stock, row, num_inference_steps=2, **QWEN_CALL))
    assert np.array_equal(ours[1], editor.edit(rows[1:])[0])


def test_picture_tokens_get_three_axis_positions(qwen, small_references):
    """By default the text encoder is told which tokens are pictures, which the stock call omits."""
    editor = load_editor(str(qwen), steps=2)
    seen = []
    rope = editor.pipe.text_encoder.model.get_rope_index

    def watch(*args, **kwargs):
        positions = rope(*args, **kwargs)
        seen.append(positions[0])
        return positions

    editor.pipe.text_encoder.model.get_rope_index = watch
    editor.edit([EditRequest([picture(0)], "make it red", seed=3, height=32, width=32)])
    assert seen and not torch.equal(seen[0][1], seen[0][2])  # rows and columns differ inside the picture


@pytest.fixture(scope="module")
def kontext(tmp_path_factory):
    """FluxKontextPipeline with tiny random weights, as a folder."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxKontextPipeline,
        FluxTransformer2DModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )

    folder = tmp_path_factory.mktemp("pipelines") / "kontext"
    torch.manual_seed(0)
    pieces = [
        *byte_alphabet(),
        *(c + "</w>" for c in byte_alphabet()),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    clip_tokens = CLIPTokenizer(vocab={c: k for k, c in enumerate(pieces)}, merges=[], model_max_length=77)
    t5_pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    t5_pieces += [(chr(c), -2.0) for c in range(33, 127)]
    t5_tokens = T5Tokenizer(vocab=t5_pieces, extra_ids=0)
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(pieces),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=16,
            bos_token_id=len(pieces) - 2,
            eos_token_id=len(pieces) - 1,
        )
    )
    t5 = T5EncoderModel(T5Config(vocab_size=len(t5_pieces), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    pipe = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=[8, 8],
            norm_num_groups=4,
            latent_channels=4,
            layers_per_block=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.1,
            scaling_factor=0.4,
        ),
        text_encoder=clip,
        tokenizer=clip_tokens,
        text_encoder_2=t5,
        tokenizer_2=t5_tokens,
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
    )
    pipe.save_pretrained(folder)
    return folder


def test_flux_kontext_equals_the_stock_pipeline(kontext):
    from diffusers import FluxKontextPipeline

    rows = [EditRequest([picture(k, 32, 32)], "make it red", seed=k, height=32, width=32) for k in range(2)]
    small = {"_auto_resize": False, "max_area": 32 * 32, "max_sequence_length": 32}
    editor = load_editor(str(kontext), steps=2, **small)
    ours = editor.edit(rows)
    stock = FluxKontextPipeline.from_pretrained(kontext)
    stock.set_progress_bar_config(disable=True)
    for result, row in zip(ours, rows):
        assert result.shape == (32, 32, 3)
        assert np.array_equal(result, direct(stock, row, num_inference_steps=2, height=32, width=32, **small))
    with pytest.raises(RowError, match="one source"):
        editor.edit([EditRequest([picture(0), picture(1)], "x", seed=0)])
    with pytest.raises(RowError, match="no source"):
        editor.edit([EditRequest([], "x", seed=0)])


def test_pipeline_folders_that_cannot_be_used_say_why(kontext, tmp_path):
    with pytest.raises(EditError, match="true_cfg"):
        load_editor(str(kontext), true_cfg=3)
    half = tmp_path / "half"
    shutil.copytree(kontext, half)
    shutil.rmtree(half / "vae")
    with pytest.raises(EditError, match="`vae` is missing"):
        load_editor(str(half))
    shutil.copytree(kontext / "vae", half / "vae")
    (half / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(EditError, match="safetensors"):
        load_editor(str(half))
    index = json.loads((half / "model_index.json").read_text())
    (half / "model_index.json").write_text(json.dumps({**index, "_class_name": ["theirs", "Pipeline"]}))
    with pytest.raises(EditError, match="own pipeline code"):
        load_editor(str(half))
