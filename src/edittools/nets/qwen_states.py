"""Qwen2.5-VL as a frozen encoder: the last hidden states of a chat message, and where its tokens lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edittools.errors import EditError, RowError
from edittools.weights.diffusers import qwen_processor

MOST_RATIO = 200  # of an image's sides
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@dataclass
class Encoded:
    """Output of the encoder for one message of L tokens."""

    states: Tensor  # (L, D), after the final norm
    embeddings: Tensor  # (L, D), what went in: words looked up, images encoded
    pieces: Tensor  # (L,): which piece of the prompt a token is of
    is_image: Tensor  # (L,) bool
    positions: Tensor  # (L, 3): the time, row and column axes of the rotary embedding
    grid: tuple[int, int]  # rows and columns of the first image's tokens


def check_ratios(sizes: list[tuple[int, ...]]) -> None:
    """Raises RowError for the height and width of an image that Qwen2.5-VL's processor refuses."""
    for size in sizes:
        ratio = max(size) / min(size)
        if ratio > MOST_RATIO:
            raise RowError(f"one side is more than {MOST_RATIO} times the other", round(ratio, 1))


class QwenStates:
    """`Qwen2_5_VLForConditionalGeneration` without its head, and its processor."""

    def __init__(self, folder: Path, device: str, dtype: str, min_pixels: int, max_pixels: int) -> None:
        from transformers import Qwen2_5_VLForConditionalGeneration

        for name in ("text_encoder", "processor"):
            if not (folder / name).is_dir():
                raise EditError(f"{folder}: the folder `{name}` is missing", hint="Qwen2.5-VL and its processor")
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder / "text_encoder", dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
        )
        # transformers 5: hidden_states[-1] of the whole model is the base model's last_hidden_state
        self.model = model.model.requires_grad_(False).eval().to(device)
        self.config = model.config
        self.processor = qwen_processor(folder / "processor")
        self.processor.image_processor.size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        self.tokenizer = self.processor.tokenizer

    def prompt(self, parts: list[str]) -> str:
        """A chat of one user message, ready for the assistant's answer; images are IMAGE within the parts."""
        return (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            + "".join(parts)
            + "<|im_end|>\n<|im_start|>assistant\n"
        )

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def encode(self, pieces: list[str], images: list[np.ndarray]) -> Encoded:
        """A prompt in pieces that are tokenised one by one, with one image (uint8 h x w x 3) per image token.

        Raises RowError for an image that is too long.
        """
        return self.encode_several([(pieces, images)])[0]

    @torch.no_grad()
    def encode_several(self, rows: Sequence[tuple[list[str], list[np.ndarray]]]) -> list[Encoded]:
        """encode() of several prompts in one pass, padded on the right; no token sees what pads another row."""
        images = [image for _, few in rows for image in few]
        check_ratios([image.shape[:2] for image in images])
        device, pad = self.model.device, self.config.image_token_id
        made = None
        if images:
            made = self.processor.image_processor(
                images=[Image.fromarray(image) for image in images], return_tensors="pt"
            ).to(device)
        merged = self.processor.image_processor.merge_size**2
        counts = iter([] if made is None else (made["image_grid_thw"].prod(-1) // merged).tolist())
        prompts = [self._expanded(pieces, counts) for pieces, _ in rows]
        lengths = [len(ids) for ids, _ in prompts]
        tokens = torch.tensor([ids + [0] * (max(lengths) - len(ids)) for ids, _ in prompts], device=device)
        mask = (torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]).long()
        is_image = (tokens == pad) & mask.bool()
        embeddings = self.model.get_input_embeddings()(tokens)
        if made is None:  # text alone has the same position on all three axes
            positions = torch.arange(tokens.shape[1], device=device).expand(3, len(rows), -1)
        else:
            features = self.model.get_image_features(made["pixel_values"].to(embeddings.dtype), made["image_grid_thw"])
            features = features.pooler_output if hasattr(features, "pooler_output") else features
            seen = torch.cat(list(features)).to(embeddings)
            embeddings = embeddings.masked_scatter(is_image[..., None], seen)
            positions, _ = self.model.get_rope_index(
                tokens, mm_token_type_ids=is_image.int(), attention_mask=mask, image_grid_thw=made["image_grid_thw"]
            )
        states = self.model.language_model(
            inputs_embeds=embeddings, position_ids=positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        result, first = [], 0
        for k, ((_, origins), (_, few)) in enumerate(zip(prompts, rows)):
            there = slice(lengths[k])
            height, width = (made["image_grid_thw"][first, 1:] // 2).tolist() if made is not None and few else (0, 0)
            first += len(few)
            result.append(
                Encoded(
                    states[k, there],
                    embeddings[k, there],
                    torch.tensor(origins, device=device),
                    is_image[k, there],
                    positions[:, k, there].T.float(),
                    (height, width),
                )
            )
        return result

    def _expanded(self, pieces: list[str], counts: Iterator[int]) -> tuple[list[int], list[int]]:
        """Tokens of a prompt, as many for each image as it has, and which piece each is of."""
        ids: list[int] = []
        origins: list[int] = []
        for k, piece in enumerate(pieces):
            for number in self.tokens(piece):
                several = next(counts) if number == self.config.image_token_id else 1
                ids += [number] * several
                origins += [k] * several
        return ids, origins
