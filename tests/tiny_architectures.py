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


def qwen_tokenizer() -> tuple[Any, dict[str, int]]:
    """Qwen's tokenizer, of bytes alone, and what configurations say of its tokens of images."""
    from transformers import Qwen2Tokenizer

    vocabulary = {c: k for k, c in enumerate([*ALPHABET, *SPECIAL])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=SPECIAL)
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    ids = {f"{name.replace('_pad', '')}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    return tokenizer, ids


def save_qwen_vl(folder: Path, seed: int = 0, text: dict[str, Any] | None = None) -> Path:
    """text_encoder/ and processor/: Qwen2.5-VL, its tokenizer one of bytes; `text` replaces settings of its states."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
    )

    tokenizer, ids = qwen_tokenizer()
    common = {"hidden_size": WIDTH, "intermediate_size": 32}
    config = Qwen2_5_VLConfig(
        text_config={
            **common,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
            **(text or {}),
        },
        vision_config={**common, "depth": 2, "num_heads": 2, "out_hidden_size": (text or common)["hidden_size"]},
        **ids,
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

    from edittools.nets.qwen_states import QwenStates
    from edittools.nets.step1x.connector import Connector, ConnectorConfig
    from edittools.nets.step1x.versions import VERSIONS

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

    from edittools.nets.imgedit_e1 import Projectors

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


FLUX2 = {
    # 16 x 16 pixels to a token, 16 channels
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 3 * 8,
    "axes_dims_rope": [4, 4, 4, 4],
    "guidance_embeds": False,
}
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
CHAT_PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{{ p.text }}{% endfor %}<|im_end|>\n"
    "{% endfor %}"
)
SAID = "{% for m in messages %}[INST]{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"


FLUX2_VAE: dict[str, Any] = {
    "block_out_channels": (8,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4, "layers_per_block": 1,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "latent_channels": 4, "norm_num_groups": 4, "sample_size": 64,
}  # fmt: skip
QWEN21_VAE: dict[str, Any] = {
    "base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1,
    "temperal_downsample": [False, True, True, True], "latents_mean": [0.1, -0.1, 0.2, 0.0],
    "latents_std": [0.5, 0.6, 0.7, 0.8],
}  # fmt: skip
QWEN21 = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "context_in_dim": WIDTH,
    "axes_dims_rope": [4, 6, 6],
}


def save_qwen3_vl(folder: Path, seed: int = 0) -> Path:
    """text_encoder/ and processor/: Qwen3-VL, its tokenizer one of bytes."""
    from transformers import (
        Qwen2VLImageProcessorPil,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    tokenizer, ids = qwen_tokenizer()
    common = {"hidden_size": WIDTH, "intermediate_size": 32}
    config = Qwen3VLConfig(
        text_config={
            **common, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
        },
        vision_config={**common, "depth": 2, "num_heads": 2, "out_hidden_size": WIDTH, "num_position_embeddings": 16,
                       "deepstack_visual_indexes": [0]},
        **ids,
    )  # fmt: skip
    torch.manual_seed(seed)
    stir(Qwen3VLForConditionalGeneration(config), seed, 0.1).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "processor")
    (folder / "processor" / "chat_template.jinja").write_text(CHAT_PARTS)
    Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 32 * 32, "longest_edge": 512 * 512}).save_pretrained(
        folder / "processor"
    )
    return folder


def save_qwen21(
    folder: Path, seed: int = 0, transformer: dict[str, Any] = QWEN21, vae: dict[str, Any] = QWEN21_VAE
) -> Path:
    """QwenImage21Pipeline: 16 x 16 pixels with alpha to a latent of 4 channels."""
    from diffusers import AutoencoderKLQwenImage21, FlowMatchEulerDiscreteScheduler, QwenImage21Transformer2DModel

    save_qwen3_vl(folder, seed)
    torch.manual_seed(seed)
    AutoencoderKLQwenImage21(**vae).save_pretrained(folder / "vae")
    stir(QwenImage21Transformer2DModel(**transformer), seed, 0.05).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "QwenImage21Pipeline",
        "_diffusers_version": "0.42.1",
        "processor": ["transformers", "Qwen3VLProcessor"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3VLForConditionalGeneration"],
        "transformer": ["diffusers", "QwenImage21Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage21"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def save_flux2_vae(folder: Path, seed: int = 0, config: dict[str, Any] = FLUX2_VAE) -> Path:
    """AutoencoderKLFlux2: 16 x 16 pixels to a token of 16 numbers, whose mean and deviation are not 0 and 1."""
    from diffusers import AutoencoderKLFlux2

    torch.manual_seed(seed)
    vae = AutoencoderKLFlux2(**config)
    stir(vae.bn, seed).train(False)
    vae.save_pretrained(folder)
    return folder


def save_flux2(
    folder: Path, kind: str = "base", seed: int = 0, transformer: dict[str, Any] = FLUX2,
    vae: dict[str, Any] = FLUX2_VAE,
) -> Path:  # fmt: skip
    """FLUX.2: "dev", or [klein] "base", "distilled" or "kv"."""
    import diffusers
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {c: k for k, c in enumerate([*ALPHABET, *SPECIAL])}
    tokenizer: Any = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=SPECIAL, chat_template=CHAT)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1,
             "head_dim": 8, "vocab_size": len(vocabulary)}  # fmt: skip
    torch.manual_seed(seed)
    if kind == "dev":
        text, tokenizer = _mistral(sizes)
        name, more = "Flux2Pipeline", {}
    else:
        text = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=27, **sizes))
        name, more = "Flux2KleinPipeline", {"is_distilled": kind == "distilled"}
        if kind == "kv":
            name, more = "Flux2KleinKVPipeline", {}
    network = diffusers.Flux2Transformer2DModel(**{**transformer, "guidance_embeds": kind == "dev"})
    getattr(diffusers, name)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLFlux2.from_pretrained(save_flux2_vae(folder / "vae", seed, vae)),
        text_encoder=stir(text, seed, 0.05), tokenizer=tokenizer, transformer=stir(network, seed, 0.05), **more,
    ).save_pretrained(folder)  # fmt: skip
    if kind == "dev":  # as it is released
        index = json.loads((folder / "model_index.json").read_text())
        index["tokenizer"] = ["transformers", "PixtralProcessor"]
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _mistral(sizes: dict[str, Any]) -> tuple[Any, Any]:
    """Mistral 3 and a tokenizer of bytes; Pixtral's processor, which releases have, needs torchvision."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        PreTrainedTokenizerFast,
    )

    special = ["[INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<pad>"]
    bytes_alone = Tokenizer(models.BPE({c: k for k, c in enumerate(ALPHABET)}, []))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_alone, pad_token="<pad>", additional_special_tokens=special[:-1], chat_template=SAID
    )
    config = Mistral3Config(
        text_config={"model_type": "mistral", "num_hidden_layers": 30, **sizes, "vocab_size": len(tokenizer)},
        vision_config={"model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                       "num_attention_heads": 1, "image_size": 32, "patch_size": 16},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )  # fmt: skip
    return Mistral3ForConditionalGeneration(config), tokenizer


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
