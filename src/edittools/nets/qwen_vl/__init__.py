"""`qwen_vl`: a vision-language model that learns to reply, Qwen2.5-VL, Qwen3-VL and their like of transformers.

It makes no images: what trains it are messages and the replies to them, its "conditioning".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.errors import EditError, RowError, UsageError
from edittools.nets.base import Conditioning, EditModel, NetworkPart
from edittools.nets.lora import add_lora, trained_adapters
from edittools.vlm import EncodedImage
from edittools.vlm.processing import OF_RUN, bound_images, decode, end_tokens, open_checkpoint, prompt

# What stands beside the weights, as it is; preprocessor_config.json and processor_config.json with the run's sizes.
_BESIDE = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
           "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
           "video_preprocessor_config.json")  # fmt: skip
_SIZED = ("preprocessor_config.json", "processor_config.json")
_PROJECTOR = ("merger", "deepstack_merger_list")  # modules of the vision tower that bring its states to the other's
IGNORED = -100  # a label that counts nothing


@dataclass(frozen=True)
class Settings:
    weights: str  # Qwen2.5-VL, Qwen3-VL or their like: a folder, a run that trained one, or a name on the hub
    vision_rate: float = 0.1  # learning rate of the vision tower, relative to `lr`; 0: frozen
    projector_rate: float = 1.0  # likewise of what brings its states to the language model
    language_rate: float = 1.0  # likewise of the language model
    lora: dict[str, Any] = field(default_factory=dict)  # adapters of the language model: the keys of [model.lora]


def most_references(settings: dict[str, Any]) -> int | None:
    return None


def load(settings: Settings, *, seed: int, **_: Any) -> QwenVL:
    """Raises EditError that names what is missing."""
    folder, model, processor = open_checkpoint(settings.weights, torch.float32)
    made = QwenVL(settings, folder, model, processor, seed)
    made.check_trains()
    return made


class RepliesNetwork(nn.Module):
    """What a vision-language model makes of messages with their replies."""

    def __init__(self, vlm: Any) -> None:
        super().__init__()
        self.vlm = vlm

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditioning: Conditioning) -> Tensor:
        """(B, 2): of every row the mean of -log p over the tokens of its reply, and the share of them that are the
        most likely ones. The first three are other networks' and unused; for the fourth see QwenVL.collate().
        """
        shown = {}
        if "pixels" in conditioning:
            shown = {"pixel_values": conditioning["pixels"], "image_grid_thw": conditioning["grids"]}
        states = self.vlm.model(
            input_ids=conditioning["words"],
            attention_mask=conditioning["mask"].long(),
            # without it Qwen2.5-VL would place tokens otherwise, in silence
            mm_token_type_ids=conditioning["kinds"],
            use_cache=False,
            **shown,
        ).last_hidden_state
        labels = conditioning["labels"][:, 1:]  # a state says what comes next
        rows, places = torch.nonzero(labels != IGNORED, as_tuple=True)
        logits, said = self.vlm.lm_head(states[rows, places]).float(), labels[rows, places]
        each = torch.stack([F.cross_entropy(logits, said, reduction="none"), (logits.argmax(-1) == said).float()], 1)
        sums = each.new_zeros(len(labels), 2).index_add(0, rows, each)
        return sums / torch.bincount(rows, minlength=len(labels)).clamp(min=1)[:, None]


class QwenVL(EditModel):
    patch = 1  # its "image" of T tokens is one of T x 1 pixels
    multiple = 1
    sees_references = False

    def __init__(self, settings: Settings, folder: str, model: Any, processor: Any, seed: int) -> None:
        from transformers.core_model_loading import revert_weight_conversion

        self.settings, self.folder, self.processor = settings, folder, processor
        if not hasattr(model.model, "visual"):
            raise EditError(f"{folder} is a {type(model).__name__}, and Qwen2.5-VL, Qwen3-VL and their like train")
        self.end = end_tokens(model, processor, folder)[0]
        # The names of released files, which transformers itself translates when it reads them.
        self.names = {
            name: next(iter(revert_weight_conversion(model, {name: torch.empty(0)})))
            for name, _ in model.named_parameters()
        }
        self.merged_lora = add_lora(model, _of_language(model, settings.lora), seed) if settings.lora else None
        for name, parameter in model.named_parameters():
            whole = "lora_" not in name and (not settings.lora or ".visual." in name)
            if whole:
                parameter.requires_grad_(self.rate(name) > 0)
        self.network = RepliesNetwork(model)

    def check_trains(self) -> None:
        """Raises EditError."""
        if not any(parameter.requires_grad for parameter in self.network.parameters()):
            raise EditError("every rate of [model] is 0: nothing trains")

    def rate(self, name: str) -> float:
        if ".visual." not in name:
            return self.settings.language_rate
        projects = any(f".visual.{part}." in name for part in _PROJECTOR)
        return self.settings.projector_rate if projects else self.settings.vision_rate

    def bound_images(self, least: int, most: int) -> None:
        """Show images with at least and at most so many pixels, also where the trained model is used."""
        bound_images(self.processor, least, most)

    # ------------------------------------------------------------------------------------ messages and replies

    def conditioning(self, sources: list[np.ndarray], text: str) -> Conditioning:
        raise NotImplementedError  # it takes messages: see replied()

    def replied(self, parts: Sequence[str | EncodedImage], reply: str) -> Conditioning:
        """A user's message and the reply to it, as the model reads them when it is asked and writes the reply itself.

            words    (L,) tokens: the message up to where the reply begins, the reply, and the token that ends it
            kinds    (L,) which of them are images'
            labels   (L,) the tokens of the reply and its end, IGNORED before: nothing is learnt after the end
            pixels, grids   (P, D), (n, 3): the images' patches, and how they lie; without images none

        Raises RowError where the message's tokens are others with the reply behind them, or an image cannot be read.
        """
        tokenizer = self.processor.tokenizer
        asked = prompt(self.processor, parts)
        images = [decode(part) for part in parts if isinstance(part, EncodedImage)]
        try:
            given = self.processor(text=[asked], images=images or None, return_tensors="pt")
        except ValueError as error:  # an image thinner than 1:200, a text that spells the place of an image
            raise RowError("the model does not take the message", str(error)) from error
        message = tokenizer(asked)["input_ids"]
        whole = tokenizer(asked + reply + tokenizer.decode([self.end]))["input_ids"]
        if whole[: len(message)] != message or whole[-1] != self.end:
            raise RowError("the reply changes how the message before it is read as tokens", repr(reply[:20]))
        said = torch.tensor(whole[len(message) :])
        words = given["input_ids"][0]
        made = {
            "words": torch.cat([words, said]),
            "kinds": torch.cat([given["mm_token_type_ids"][0], torch.zeros_like(said)]),
            "labels": torch.cat([torch.full_like(words, IGNORED), said]),
        }
        if images:
            made |= {"pixels": given["pixel_values"].float(), "grids": given["image_grid_thw"]}
        return made

    def collate(self, rows: list[Conditioning]) -> Conditioning:
        """Rows side by side, padded behind: words, kinds, labels, and mask (B, L); pixels and grids of all images."""
        length = max(len(row["words"]) for row in rows)
        filled = {"words": self.end, "kinds": 0, "labels": IGNORED}
        made = {
            name: torch.stack([F.pad(row[name], (0, length - len(row[name])), value=value) for row in rows])
            for name, value in filled.items()
        }
        made["mask"] = torch.arange(length)[None] < torch.tensor([len(row["words"]) for row in rows])[:, None]
        shown = [row for row in rows if "pixels" in row]
        return made | {name: torch.cat([row[name] for row in shown]) for name in ("pixels", "grids") if shown}

    def image_tokens(self, height: int, width: int) -> int:
        """Tokens of an image of this many pixels."""
        images = self.processor.image_processor
        least = max(height, width) // 199 + 1  # thinner than 1:200 is refused, when it is read
        patches = images.get_number_of_image_patches(max(height, least), max(width, least), {})
        return int(patches) // images.merge_size**2

    # -------------------------------------------------------------------------------------------- bookkeeping

    def encoding(self) -> dict[str, str]:
        raise EditError("replies are learnt without features: nothing is stored beforehand")

    def blocks(self) -> list[nn.Module]:
        model: Any = self.network.vlm.model  # type: ignore[union-attr]
        return [*model.visual.blocks, *model.language_model.layers]

    def checkpoint(self, run: Callable[..., Any]) -> None:
        self.network.vlm._set_gradient_checkpointing(True, run)  # type: ignore[union-attr, operator]

    def exported(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the adapters in the weights: whoever asks the model needs no more than it."""
        vlm: Any = self.network.vlm
        plain = {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items() if "lora_" not in name}
        if self.merged_lora is None:
            return plain
        held = {name.removeprefix("vlm."): tensor for name, tensor in tensors.items()}
        for module, adapter in trained_adapters(vlm, held).items():
            weight = plain[f"vlm.{module}.weight"]
            plain[f"vlm.{module}.weight"] = weight + adapter.scale * (adapter.tensors["up"] @ adapter.tensors["down"])
        return plain

    def parts(self) -> dict[str, NetworkPart]:
        config = json.loads(self.network.vlm.config.to_json_string())  # type: ignore[union-attr, operator]
        return {OF_RUN: NetworkPart("vlm.", config, "model", self._beside(), self.names)}

    def _beside(self) -> dict[str, str]:
        from transformers.utils import cached_file

        found = {}
        for name in (*_BESIDE, *_SIZED):
            path = cached_file(self.folder, name, _raise_exceptions_for_missing_entries=False)
            if path is not None:
                found[name] = Path(path).read_text(encoding="utf-8")
        for name in _SIZED:
            if name in found:
                said = json.loads(found[name])
                _set_sizes(said.get("image_processor", said), dict(self.processor.image_processor.size))
                found[name] = json.dumps(said, indent=2) + "\n"
        return found

    def flops(self, image_tokens: int, target_tokens: int, text_tokens: int) -> int:
        """Of the language model's matrices alone; the text's tokens hold the places of the images'."""
        matrices = self.network.vlm.model.language_model.layers.parameters()  # type: ignore[union-attr]
        return 2 * text_tokens * sum(p.numel() for p in matrices if p.ndim == 2)


def _of_language(model: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of adapters with the whole names of their targets, in the language model alone. Raises UsageError."""
    if settings.get("kind", "lora") != "lora" or settings.get("start"):
        raise UsageError("recipe: `model.lora`: a vision-language model trains new adapters of the kind lora")
    named = [each for each in settings.get("targets", ["attention"]) if each != "attention"]
    endings = tuple(f".{each}" for each in named or ("q_proj", "k_proj", "v_proj", "o_proj"))
    targets = [name for name, _ in model.named_modules() if ".language_model." in name and name.endswith(endings)]
    if not targets:
        raise UsageError(f"recipe: `model.lora.targets`: no module of the language model is called {endings[0][1:]}")
    return {**settings, "targets": targets}


def _set_sizes(said: dict[str, Any], size: dict[str, int]) -> None:
    """The bounds in an image processor's settings, in either of their spellings."""
    if "min_pixels" in said or "max_pixels" in said:
        said |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    if "size" in said or "image_processor_type" in said:
        said["size"] = size
