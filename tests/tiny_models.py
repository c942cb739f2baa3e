"""Tiny models with random weights in the layout of the real checkpoints, built through transformers' own classes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

BYTES = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
ALPHABET = BYTES + [chr(256 + k) for k in range(256 - len(BYTES))]  # what byte-level tokenizers write bytes as


def stir(network: Any, seed: int, amount: float = 0.3) -> Any:
    """Random weights, so large that different inputs give clearly different outputs; batch norms not the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return network


def save_clip(folder: Path, seed: int = 0, dim: int = 24) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    pieces = [*ALPHABET, *(c + "</w>" for c in ALPHABET), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={c: k for k, c in enumerate(pieces)}, merges=[], model_max_length=77).save_pretrained(folder)
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}
    config = CLIPConfig(
        text_config={**common, "vocab_size": len(pieces), **ends},
        vision_config={**common, "image_size": 32, "patch_size": 8},
        projection_dim=dim,
    )
    torch.manual_seed(seed)
    stir(CLIPModel(config), seed).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_siglip(folder: Path, seed: int = 0, length: int = 16) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessorPil, SiglipModel

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{c: k + 3 for k, c in enumerate("abcdefghijklmnopqrstuvwxyz")}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    plain.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=length,
        model_input_names=["input_ids"],  # as the published ones: they were trained without a mask of the padding
    ).save_pretrained(folder)
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**common, "vocab_size": len(words), "max_position_embeddings": length},
        vision_config={**common, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(seed)
    stir(SiglipModel(config), seed).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_dino(folder: Path, seed: int = 1) -> Path:
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7, mlp_ratio=2
    )
    torch.manual_seed(seed)
    stir(Dinov2Model(config), seed).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28},
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_classifier(folder: Path, labels: tuple[str, ...] = ("real", "fake"), seed: int = 2, **more: Any) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label=dict(enumerate(labels)), label2id={label: k for k, label in enumerate(labels)}, **more,
    )  # fmt: skip
    torch.manual_seed(seed)
    stir(ViTForImageClassification(config), seed).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


TINY_RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32, 64, 128], "depths": [2, 1, 2, 1]}


class TorchvisionResNet(torch.nn.Module):
    """A bottleneck ResNet under torchvision's names, written from its description: what SSCD's release holds."""

    def __init__(self, resnet: dict[str, Any], dim: int) -> None:
        super().__init__()
        inside = resnet["embedding_size"]
        self.conv1 = torch.nn.Conv2d(3, inside, 7, 2, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(inside)
        for stage, (width, depth) in enumerate(zip(resnet["hidden_sizes"], resnet["depths"]), 1):
            blocks = []
            for block in range(depth):
                blocks.append(Bottleneck(inside, width, 2 if stage > 1 and block == 0 else 1))
                inside = width
            setattr(self, f"layer{stage}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(inside, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        flat = torch.clamp(x.flatten(2), min=1e-6)
        return self.fc(((flat**3).sum(-1) / flat.shape[-1]) ** (1 / 3))


class Bottleneck(torch.nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        middle = outside // 4
        self.conv1, self.bn1 = torch.nn.Conv2d(inside, middle, 1, bias=False), torch.nn.BatchNorm2d(middle)
        self.conv2 = torch.nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = torch.nn.Conv2d(middle, outside, 1, bias=False), torch.nn.BatchNorm2d(outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = torch.nn.Sequential(
                torch.nn.Conv2d(inside, outside, 1, stride, bias=False), torch.nn.BatchNorm2d(outside)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def torchvision_sscd(resnet: dict[str, Any] = TINY_RESNET, dim: int = 12, seed: int = 3) -> TorchvisionResNet:
    torch.manual_seed(seed)
    return stir(TorchvisionResNet(resnet, dim), seed, 0.05 if dim > 100 else 0.3).eval()


def released_sscd(network: TorchvisionResNet) -> dict[str, torch.Tensor]:
    """As the release has it: everything below `backbone.`."""
    return {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}


def save_sscd(folder: Path, seed: int = 3) -> Path:
    from edittools.encoders.embedders import sscd

    sscd.save_released(released_sscd(torchvision_sscd(seed=seed)), folder, "tiny", TINY_RESNET)
    return folder


def released_aesthetic(dim: int = 24, seed: int = 4) -> dict[str, torch.Tensor]:
    """The released keys, with tiny widths: linear layers at 0, 2, 4, 6 and 7."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [dim, 12, 10, 8, 6, 1]
    tensors = {}
    for k, (before, after) in zip((0, 2, 4, 6, 7), pairwise(sizes)):
        tensors[f"layers.{k}.weight"] = torch.randn(after, before, generator=generator) / before**0.5
        tensors[f"layers.{k}.bias"] = torch.randn(after, generator=generator)
    return tensors


def save_aesthetic(folder: Path, dim: int = 24, seed: int = 4) -> Path:
    from edittools.encoders import aesthetic

    aesthetic.save_released(released_aesthetic(dim, seed), folder, "tiny")
    return folder


def photo(seed: int, height: int = 48, width: int = 60) -> np.ndarray:
    """A smooth image with some noise, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    from PIL import Image

    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def save_segmenter(folder: Path, seed: int = 0, labels: tuple[str, ...] = ("background", "person", "tree")) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16,
        id2label=dict(enumerate(labels)), label2id={label: k for k, label in enumerate(labels)},
    )  # fmt: skip
    torch.manual_seed(seed)
    stir(SegformerForSemanticSegmentation(config), seed, 0.5).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def released_raft(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict under the names of the authors' release, with random weights."""
    from edittools.encoders.raft import Raft

    torch.manual_seed(seed)
    tensors = stir(Raft(), seed, 0.01).state_dict()
    named = dict(tensors)
    for name, tensor in tensors.items():
        if ".downsample.1." in name:
            named[name.replace("downsample.1", "norm3")] = tensor  # the release lists it under both
    return {f"module.{name}": tensor for name, tensor in named.items()}


# ------------------------------------------------------------------------------------------------- editing models
