"""Tiny in-painting pipelines with random weights, built of diffusers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import ALPHABET, stir


def _text_encoders() -> dict[str, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

    pieces = [*ALPHABET, *(c + "</w>" for c in ALPHABET), "<|startoftext|>", "<|endoftext|>"]
    clip = CLIPTextConfig(
        vocab_size=len(pieces), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=16, eos_token_id=len(pieces) - 1, bos_token_id=len(pieces) - 2, pad_token_id=len(pieces) - 1,
    )  # fmt: skip
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    words += [(letter, -2.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return {
        "text_encoder": CLIPTextModel(clip),
        "tokenizer": CLIPTokenizer(vocab={c: k for k, c in enumerate(pieces)}, merges=[], model_max_length=77),
        "text_encoder_2": T5EncoderModel(
            T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        "tokenizer_2": T5Tokenizer(vocab=words, extra_ids=0),
    }


def save_flux(folder: Path, class_name: str = "FluxFillPipeline", seed: int = 0) -> Path:
    """FLUX.1 Fill, FluxControlPipeline, or one of plain FLUX.1."""
    import diffusers

    torch.manual_seed(seed)
    autoencoder = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8], latent_channels=4, norm_num_groups=4, sample_size=32, shift_factor=0.1,
        scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    channels = {"FluxFillPipeline": 48, "FluxControlPipeline": 32}
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=channels.get(class_name, 16), out_channels=16, num_layers=1,
        num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16,
        pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    pipe = getattr(diffusers, class_name)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=autoencoder,
        transformer=stir(transformer, seed, 0.05), **_text_encoders(),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder


def save_sdxl(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """StableDiffusionXLPipeline, and a ControlNet for it."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    first = _text_encoders()
    config = first["text_encoder"].config.to_dict()
    unet = diffusers.UNet2DConditionModel(
        in_channels=4, block_out_channels=(8, 16), cross_attention_dim=32, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=64, norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, sample_size=8,
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8], latent_channels=4, norm_num_groups=4, sample_size=32,
    )  # fmt: skip
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder, text_encoder=first["text_encoder"], tokenizer=first["tokenizer"],
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**config)), tokenizer_2=first["tokenizer"],
        unet=stir(unet, seed, 0.05), scheduler=diffusers.EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder / "sdxl")
    control = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8))
    stir(control, seed + 1, 0.2).save_pretrained(folder / "controlnet")
    return folder / "sdxl", folder / "controlnet"


def save_redux(folder: Path, seed: int = 0) -> Path:
    """FluxPriorReduxPipeline as it is released: without text encoders."""
    import diffusers
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipVisionConfig, SiglipVisionModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    torch.manual_seed(seed)
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    pipe = diffusers.FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel(vision),
        feature_extractor=SiglipImageProcessorPil(size={"height": 16, "width": 16}),
        image_embedder=stir(ReduxImageEncoder(redux_dim=16, txt_in_features=16), seed, 0.2),
    )
    pipe.save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("SiglipImageProcessorPil", "SiglipImageProcessor"))
    return folder
