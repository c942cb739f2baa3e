"""Tiny detectors and segmenters with random weights, built through transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import ALPHABET, stir

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] . ? cat dog red ball sign car a of ##s man".split()


def save_bert_tokenizer(folder: Path) -> None:
    from transformers import BertTokenizer

    BertTokenizer(vocab={word: k for k, word in enumerate(WORDS)}, model_max_length=64).save_pretrained(folder)


def save_clip_tokenizer(folder: Path, length: int) -> int:
    from transformers import CLIPTokenizer

    pieces = [*ALPHABET, *(c + "</w>" for c in ALPHABET), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={c: k for k, c in enumerate(pieces)}, merges=[], model_max_length=length).save_pretrained(
        folder
    )
    return len(pieces)


def save_groundingdino(folder: Path, seed: int = 0) -> Path:
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        SwinConfig,
    )

    backbone = SwinConfig(
        image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=12,
        encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, max_text_len=24,
    )  # fmt: skip
    torch.manual_seed(seed)
    stir(GroundingDinoForObjectDetection(config), seed).save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 320}).save_pretrained(folder)
    save_bert_tokenizer(folder)
    return folder


def save_owlv2(folder: Path, seed: int = 0) -> Path:
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil

    common = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = save_clip_tokenizer(folder, 16)
    config = Owlv2Config(
        text_config={**common, "vocab_size": words, "max_position_embeddings": 16, "eos_token_id": words - 1},
        vision_config={**common, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(seed)
    stir(Owlv2ForObjectDetection(config), seed).save_pretrained(folder)
    Owlv2ImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_florence2(folder: Path, seed: int = 0) -> Path:
    from transformers import BartTokenizer, CLIPImageProcessorPil, Florence2Config, Florence2ForConditionalGeneration

    places = [f"<loc_{k}>" for k in range(1000)]
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>", *places, *ALPHABET, *"Ġ.,", "<poly>", "</poly>"]
    tokenizer = BartTokenizer(
        vocab={piece: k for k, piece in enumerate(dict.fromkeys(vocabulary))}, merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    tokenizer.add_tokens(["<image>", *places, "<poly>", "</poly>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    config = Florence2Config(
        vision_config={
            "embed_dim": [8] * 4, "num_heads": [1] * 4, "num_groups": [1] * 4, "depths": [1] * 4, "window_size": 2,
            "projection_dim": 16,
        },
        text_config={
            "model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "vocab_size": len(tokenizer), "max_position_embeddings": 600, "bos_token_id": 0, "pad_token_id": 1,
            "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    network = stir(Florence2ForConditionalGeneration(config), seed, 1.0)
    network.generation_config.no_repeat_ngram_size = 1  # random weights say one place over and over
    network.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"height": 64, "width": 64},
        crop_size={"height": 64, "width": 64},
        do_center_crop=False,
        image_seq_length=5,
    ).save_pretrained(folder)
    return folder


def save_sam(folder: Path, seed: int = 0) -> Path:
    from transformers import (
        SamConfig,
        SamImageProcessorPil,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8,
        global_attn_indexes=[0], mlp_dim=16, num_pos_feats=8, window_size=4,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_depth=1, iou_head_hidden_dim=16
    )
    torch.manual_seed(seed)
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    stir(SamModel(config), seed).save_pretrained(folder)
    SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_sam2(folder: Path, seed: int = 0) -> Path:
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    backbone = Sam2HieraDetConfig(
        hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1], window_size_per_stage=[8] * 4, global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=16, image_size=64),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    torch.manual_seed(seed)
    stir(Sam2Model(config), seed, 0.1).save_pretrained(folder)
    return folder


def save_sam3(folder: Path, seed: int = 0) -> Path:
    from transformers import Sam3Config, Sam3Model

    words = save_clip_tokenizer(folder, 32)
    hidden = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model", **hidden, "num_hidden_layers": 1, "image_size": 56, "patch_size": 14,
                "window_size": 2, "global_attn_indexes": [0], "pretrain_image_size": 56,
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={
            **hidden, "num_hidden_layers": 1, "vocab_size": words, "max_position_embeddings": 32, "projection_dim": 32,
            "bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1,
        },
        geometry_encoder_config={**hidden, "num_layers": 1},
        detr_encoder_config={**hidden, "num_layers": 1},
        detr_decoder_config={**hidden, "num_layers": 1, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2, "num_upsampling_stages": 3},
    )  # fmt: skip
    torch.manual_seed(seed)
    stir(Sam3Model(config), seed, 0.05).save_pretrained(folder)
    return folder


def save_sam3_tracker(folder: Path, seed: int = 0) -> Path:
    from transformers import Sam3TrackerConfig, Sam3TrackerModel

    hidden = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {
                "model_type": "sam3_vit_model", **hidden, "num_hidden_layers": 1, "image_size": 56, "patch_size": 14,
                "window_size": 2, "global_attn_indexes": [0], "pretrain_image_size": 56,
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 56, "patch_size": 14},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    torch.manual_seed(seed)
    stir(Sam3TrackerModel(config), seed, 0.05).save_pretrained(folder)
    return folder


def save_depth_anything(folder: Path, kind: str = "relative", seed: int = 0) -> Path:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessorPil

    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14,
        reshape_hidden_states=False, out_features=["stage1", "stage2", "stage3", "stage4"], apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8, depth_estimation_type=kind, max_depth=20,
    )  # fmt: skip
    torch.manual_seed(seed)
    stir(DepthAnythingForDepthEstimation(config), seed, 0.2).save_pretrained(folder)
    DPTImageProcessorPil(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    ).save_pretrained(folder)
    return folder


def save_vitpose(folder: Path, seed: int = 0) -> Path:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation, VitPoseImageProcessorPil

    backbone = VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        mlp_ratio=2, out_indices=[1],
    )  # fmt: skip
    torch.manual_seed(seed)
    config = VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=True)
    stir(VitPoseForPoseEstimation(config), seed).save_pretrained(folder)
    VitPoseImageProcessorPil(size={"height": 64, "width": 48}).save_pretrained(folder)
    return folder
