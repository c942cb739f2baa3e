"""The folders of whole editing models with tiny random weights, built through the libraries' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_models import ALPHABET, stir

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>"]  # fmt: skip
WIDTH = 16  # of the language model's states

FLUX = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "axes_dims_rope": [4, 6, 6],
    "guidance_embeds": False,
}


def save_qwen_vl(folder: Path, seed: int = 0, text: dict[str, Any] | None = None) -> Path:
    """text_encoder/ and processor/: Qwen2.5-VL, its tokenizer one of bytes; `text` replaces settings of its states."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2Tokenizer,
        Qwen2VLImageProcessorPil,
    )

    vocabulary = {c: k for k, c in enumerate([*ALPHABET, *SPECIAL])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=SPECIAL)
    number = tokenizer.convert_tokens_to_ids
    common = {"hidden_size": WIDTH, "intermediate_size": 32}
    config = Qwen2_5_VLConfig(
        text_config={
            **common,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(vocabulary),
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
            **(text or {}),
        },
        vision_config={**common, "depth": 2, "num_heads": 2, "out_hidden_size": (text or common)["hidden_size"]},
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    torch.manual_seed(seed)
    stir(Qwen2_5_VLForConditionalGeneration(config), seed, 0.1).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "processor")
    Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}).save_pretrained(
        folder / "processor"
    )
    return folder


def save_flux_vae(folder: Path, seed: int = 0) -> Path:
    """AutoencoderKL in FLUX's layout: 8 pixels to a latent, 4 channels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.1,
        scaling_factor=0.4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder)
    return folder


def save_step1x(folder: Path, version: str = "1.0", seed: int = 0) -> tuple[Path, int]:
    """A Step1X-Edit folder, and how many tokens its request has but for the last."""
    from diffusers import FluxTransformer2DModel

    from edittools.models.connector import Connector, ConnectorConfig
    from edittools.models.qwen_states import QwenStates
    from edittools.models.systems.step1x import VERSIONS

    release = VERSIONS[version]
    save_qwen_vl(folder, seed)
    save_flux_vae(folder / "vae", seed)
    torch.manual_seed(seed)
    stir(FluxTransformer2DModel(**FLUX), seed, 0.05).save_pretrained(folder / "transformer")
    config = ConnectorConfig(
        states_width=WIDTH, width=FLUX["joint_attention_dim"], heads=2, depth=2,
        pooled_width=FLUX["pooled_projection_dim"], pooled_scale=release.pooled_scale, quoted_text=release.quoted_text,
    )  # fmt: skip
    stir(Connector(config), seed, 0.05).save(folder / "connector")
    (folder / "edit.json").write_text(json.dumps({"system": "step1x", "version": version}))
    qwen = QwenStates(folder, "cpu", "float32", 28 * 28, 56 * 56)
    head = qwen.prompt([release.request]).partition(release.request)[0]
    return folder, len(qwen.tokens(head + release.request)) - 1


def save_e1(folder: Path, seed: int = 0) -> Path:
    """An ImgEdit-E1 folder."""
    from diffusers import FluxTransformer2DModel
    from safetensors.torch import save_file
    from tiny_models import save_siglip

    from edittools.models.systems.imgedit_e1 import Projectors

    save_qwen_vl(folder, seed)
    save_flux_vae(folder / "vae", seed)
    save_siglip(folder / "image_encoder", seed)
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(**{**FLUX, "guidance_embeds": True})
    stir(transformer, seed, 0.05).save_pretrained(folder / "transformer")
    projectors = stir(Projectors(WIDTH, 16, 24, FLUX["joint_attention_dim"], FLUX["pooled_projection_dim"]), seed, 0.05)
    (folder / "projectors").mkdir()
    (folder / "projectors" / "config.json").write_text(json.dumps(projectors.config))
    save_file(projectors.state_dict(), folder / "projectors" / "model.safetensors")
    (folder / "edit.json").write_text(json.dumps({"system": "imgedit_e1"}))
    return folder


QWEN = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": [4, 6, 6],
}
QWEN_VAE = {
    # 8 x 8 pixels to a latent, 4 channels
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, -0.1, 0.2, 0.0],
    "latents_std": [0.5, 0.6, 0.7, 0.8],
}


def save_firered(
    folder: Path, seed: int = 0, *, transformer: dict[str, Any] = QWEN, vae: dict[str, Any] = QWEN_VAE,
    text: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """QwenImageEditPlusPipeline: a folder as it is published."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel

    save_qwen_vl(folder, seed, text)
    (folder / "tokenizer").mkdir()
    for path in (folder / "processor").glob("*token*"):
        (folder / "tokenizer" / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(seed)
    AutoencoderKLQwenImage(**vae).save_pretrained(folder / "vae")
    stir(QwenImageTransformer2DModel(**transformer), seed, 0.05).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256, max_image_seq_len=8192,
        shift_terminal=0.02, time_shift_type="exponential",
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    index = {
        "_class_name": "QwenImageEditPlusPipeline",
        "_diffusers_version": "0.42.1",
        "processor": ["transformers", "Qwen2VLProcessor"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def save_kontext(folder: Path, seed: int = 0, guidance: bool = True) -> Path:
    """A FluxKontextPipeline; a latent covers 8 x 8 pixels and has 4 channels. `guidance`: guidance-distilled."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

    pieces = [*ALPHABET, *(c + "</w>" for c in ALPHABET), "<|startoftext|>", "<|endoftext|>"]
    t5_pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    t5_pieces += [(chr(c), -2.0) for c in range(33, 127)]
    torch.manual_seed(seed)
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
    widths = {"joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH, "guidance_embeds": guidance}
    transformer = FluxTransformer2DModel(**{**FLUX, **widths})
    FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=AutoencoderKL.from_pretrained(save_flux_vae(folder / "vae", seed)),
        text_encoder=clip,
        tokenizer=CLIPTokenizer(vocab={c: k for k, c in enumerate(pieces)}, merges=[], model_max_length=77),
        text_encoder_2=t5,
        tokenizer_2=T5Tokenizer(vocab=t5_pieces, extra_ids=0),
        transformer=stir(transformer, seed, 0.05),
    ).save_pretrained(folder)
    return folder


# New networks for recipes, a little wider than those in the folders.
FIRERED_NEW = {**QWEN, "num_attention_heads": 8}
STEP1X_NEW = {
    "transformer": {**FLUX, "num_attention_heads": 8, "num_layers": 2, "num_single_layers": 2},
    "connector": {"states_width": WIDTH, "width": 32, "heads": 2, "depth": 2, "pooled_width": 24},
}
E1_NEW = {
    "transformer": {**FLUX, "num_attention_heads": 8, "num_layers": 2, "num_single_layers": 2},
    "projectors": {"states_width": WIDTH, "features_width": 16, "hidden": 32, "width": 32, "pooled_width": 24},
}
