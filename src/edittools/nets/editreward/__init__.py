"""`editreward`: a VLM with scalar heads that learns which of two results of an edit is better, or that none is.

The layout of EditReward (Wu et al. 2025), which score/reward_models/editreward.py reads: each head sees a prompt of its
own with source and result, and maps the state at `<|Reward|>` to a reward; both images have about 200,704 pixels,
positions count along the sequence. Training is on means alone: no deviations are learned. On a Qwen3-VL, of which
there is no such release, images have as many tokens (of 32 x 32 pixels), and positions are the network's own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from edittools.errors import EditError, RowError, UsageError
from edittools.nets import qwen_vl
from edittools.nets.base import Conditioning, NetworkPart
from edittools.nets.qwen_vl import QwenVL
from edittools.vlm import EncodedImage
from edittools.vlm.processing import OF_RUN, conversation, decode, open_checkpoint
from edittools.weights.lookup import read_tensors

TOKEN = "<|Reward|>"
PIXELS = 256 * 28 * 28
HEADS = 2
NETWORKS = ("qwen2_5_vl", "qwen3_vl")
HEAD = re.compile(r"rm_heads\.head_(\d+)\.(\d+)\.(weight|bias)")


@dataclass(frozen=True)
class Settings:
    weights: str  # Qwen2.5-VL, MiMo-VL or Qwen3-VL: a folder, a run that trained one, or a name on the hub
    vision_rate: float = 0.1  # learning rate of the vision tower, relative to `lr`; 0: frozen
    projector_rate: float = 1.0  # likewise of what brings its states to the language model
    language_rate: float = 1.0  # likewise of the language model
    lora: dict[str, Any] = field(default_factory=dict)  # adapters of the language model: the keys of [model.lora]
    head_rate: float = 1.0  # likewise of the heads
    theta: float = 5.0  # above 1: how easily pairs tie (Rao and Kupper's θ); VideoAlign's and EditReward's


def most_references(settings: dict[str, Any]) -> int | None:
    return None


def load(settings: Settings, *, seed: int, **_: Any) -> EditRewardModel:
    """Raises EditError that names what is missing."""
    if settings.theta <= 1:
        raise UsageError("recipe: `model.theta` is above 1: at 1 there are no ties")
    # Training EditReward cut the vocabulary to the tokenizer's, and its config.json is the base's.
    folder, model, processor = open_checkpoint(settings.weights, torch.float32, fit_vocabulary=True)
    made = EditRewardModel(settings, folder, model, processor, seed)
    made.check_trains()
    return made


# ------------------------------------------------------------------------------- what it is shown, whoever asks


def fixed_size(height: int, width: int, vision: Any) -> tuple[int, int]:
    """Height and width in which an image is shown, as the released code has it. Raises RowError."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    factor = vision.patch_size * vision.spatial_merge_size
    area = PIXELS // 28**2 * factor**2
    try:
        size: tuple[int, int] = smart_resize(height, width, factor=factor, min_pixels=area, max_pixels=area)
    except ValueError as error:  # thinner than 1:200
        raise RowError("the model does not take the image", str(error)) from error
    return size


def sized(pixels: np.ndarray, vision: Any) -> Image.Image:
    """An image uint8 (h, w, 3) in its fixed size. Raises RowError."""
    height, width = fixed_size(pixels.shape[0], pixels.shape[1], vision)
    return Image.fromarray(pixels).resize((width, height))


def add_token(processor: Any) -> int:
    """The number of the heads' token, which the tokenizer learns, where it does not know it."""
    processor.tokenizer.add_tokens([TOKEN], special_tokens=True)
    processor.image_processor.size = {"shortest_edge": 1, "longest_edge": 1 << 40}  # images come in their size
    number: int = processor.tokenizer.convert_tokens_to_ids(TOKEN)
    return number


def message(processor: Any, text: str, shown: Sequence[Image.Image]) -> Any:
    """What the network reads of a head's text and the images before it. Raises RowError."""
    try:
        inputs = processor(text=[conversation(processor, len(shown), text)], images=list(shown), return_tensors="pt")
    except ValueError as error:  # a text that spells the place of an image
        raise RowError("the model does not take the message", str(error)) from error
    times = int((inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(TOKEN)).sum())
    if times != 1:
        raise RowError(f"the message has {TOKEN} {times} times, not once: the instruction spells it")
    return inputs


def states_at(model: Any, token: int, inputs: dict[str, Any]) -> Tensor:
    """The states (N, D) at the token of N messages, padded behind."""
    words = inputs["input_ids"]
    count, length = words.shape
    along = torch.arange(length, device=words.device).expand(3, count, length)
    positions = along if model.config.model_type == "qwen2_5_vl" else None  # as EditReward has it; else its own
    states = model(**inputs, position_ids=positions, use_cache=False).last_hidden_state
    return states[torch.arange(count, device=words.device), (words == token).int().argmax(1)]


def named(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The release's names as those of this release of transformers; they depend on the one it was trained with."""
    made = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^model\.(?=language_model\.|visual\.)", "", name)
        made[re.sub(r"^model\.", "language_model.", name)] = tensor
    if "language_model.embed_tokens.weight" not in made:
        raise EditError(
            f"{folder}: no weights of EditReward", hint="convert its model.pth: python -m edittools.convert"
        )
    return made


def heads_of(tensors: dict[str, Tensor], folder: Path) -> list[nn.Module]:
    """The heads, each a chain of linear layers with ReLU between them, in float32."""
    found: dict[int, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        if match := HEAD.fullmatch(name):
            found.setdefault(int(match[1]), {}).setdefault(int(match[2]), {})[match[3]] = tensor.float()
    heads: list[nn.Module] = []
    for number in sorted(found):
        parts: list[nn.Module] = []
        for place in sorted(found[number]):
            given = found[number][place]
            if "weight" not in given:
                raise EditError(f"{folder}: head {number} lacks a weight")
            layer = nn.Linear(given["weight"].shape[1], given["weight"].shape[0], bias="bias" in given)
            layer.load_state_dict(given)
            parts += [nn.ReLU(), layer] if parts else [layer]
        heads.append(nn.Sequential(*parts).eval())
    return heads


# --------------------------------------------------------------------------------------------------- training


def rao_kupper(difference: Tensor, preference: Tensor, theta: float) -> Tensor:
    """-log p of what people said of pairs, by the difference d of the rewards of the first and the second; Bradley and
    Terry's model with ties (Rao and Kupper 1967, as VideoAlign and EditReward use it):

        p(first) = σ(d - log θ),  p(second) = σ(-d - log θ),  p(tie) = (θ² - 1) p(first) p(second)

    preference   1 for the first, 0 for the second, 0.5 for a tie
    """
    first, second = (F.softplus(np.log(theta) - sign * difference) for sign in (1, -1))
    tie = first + second - np.log(theta**2 - 1)
    return torch.where(preference == 0.5, tie, torch.where(preference > 0.5, first, second))


class RankingNetwork(nn.Module):
    """What a vision-language model with heads makes of pairs of results."""

    def __init__(self, vlm: Any, heads: list[nn.Module], token: int, theta: float) -> None:
        super().__init__()
        self.vlm, self.token, self.theta = vlm, token, theta
        self.rm_heads = nn.ModuleDict({f"head_{k}": head for k, head in enumerate(heads)})

    def rewards(self, conditioning: Conditioning) -> Tensor:
        """(B, heads, 2): by each head the first and the second result of every pair.

        Heads are computed in float32 whatever autocast says, as `edit score` does.
        """
        picked = states_at(self.vlm.model, self.token, {
            "input_ids": conditioning["words"],
            "attention_mask": conditioning["mask"].long(),
            "mm_token_type_ids": conditioning["kinds"],
            "pixel_values": conditioning["pixels"],
            "image_grid_thw": conditioning["grids"],
        }).unflatten(0, (-1, len(self.rm_heads), 2)).float()  # fmt: skip
        with torch.autocast(picked.device.type, enabled=False):
            made = [head(picked[:, k]) for k, head in enumerate(self.rm_heads.values())]
        return torch.stack(made, 1)[..., 0]

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditioning: Conditioning) -> Tensor:
        """(B, 2): of every pair the mean over the heads of -log p, and the share of them by which what people said is
        most likely. The first three are other networks' and unused; for the fourth see EditRewardModel.collate().
        """
        first, second = self.rewards(conditioning).unbind(2)
        every = first.new_tensor([1.0, 0.5, 0.0])[:, None, None]
        likely = every[rao_kupper(first - second, every, self.theta).argmin(0), 0, 0]
        said = conditioning["preferences"]
        each = torch.stack([rao_kupper(first - second, said, self.theta), (likely == said).float()], 2)
        return each.mean(1)


class EditRewardModel(QwenVL):
    def __init__(self, settings: Settings, folder: str, model: Any, processor: Any, seed: int) -> None:
        if model.config.model_type not in NETWORKS:
            raise EditError(f"{folder}: no Qwen2.5-VL or Qwen3-VL", hint="heads stand on no other network")
        token = add_token(processor)
        embedded = model.get_input_embeddings()
        if token >= (rows := embedded.num_embeddings):
            model.resize_token_embeddings(token + 1, mean_resizing=False)
            with torch.no_grad():
                weight = model.get_input_embeddings().weight
                weight[rows:] = weight[:rows].mean(0)
        model.lm_head = nn.Identity()  # it writes nothing
        of_vlm = {each.name: getattr(settings, each.name) for each in dataclasses.fields(qwen_vl.Settings)}
        super().__init__(qwen_vl.Settings(**of_vlm), folder, model, processor, seed)
        self.head_rate = settings.head_rate
        before = read_tensors(Path(folder), HEAD) if Path(folder).is_dir() else {}
        self.heads = heads_of(before, Path(folder)) or _new_heads(model.config.get_text_config().hidden_size, seed)
        for head in self.heads:
            head.requires_grad_(settings.head_rate > 0)
        self.network = RankingNetwork(model, self.heads, token, settings.theta)

    def rate(self, name: str) -> float:
        return self.head_rate if name.startswith("rm_heads.") else super().rate(name)

    def exact(self) -> list[nn.Module]:
        return self.heads

    def bound_images(self, least: int, most: int) -> None:
        """Nothing: images have their fixed size."""

    def replied(self, parts: Sequence[str | EncodedImage], reply: str) -> Conditioning:
        """A pair as the heads read it: the text of each head, the source, two results; `reply` is what people said of
        them for each head: 1, 0.5 (a tie) or 0.

            words, kinds, mask   (2 H, L) tokens of head 0 with the first result, with the second, of head 1 ..., which
                                 of them are images', and which are there
            pixels, grids        (P, D), (4 H, 3): the images' patches, and how they lie
            preferences          (H,)

        Raises RowError for what the model does not take.
        """
        vision = self.vision
        source, *results = (sized(np.asarray(decode(p)), vision) for p in parts if isinstance(p, EncodedImage))
        texts = [part for part in parts if isinstance(part, str)]
        read = [message(self.processor, text, (source, each)) for text in texts for each in results]
        made = _padded([
            {"words": each["input_ids"][0], "kinds": each["mm_token_type_ids"][0]} for each in read
        ], self.end)  # fmt: skip
        return made | {
            "pixels": torch.cat([each["pixel_values"] for each in read]).float(),
            "grids": torch.cat([each["image_grid_thw"] for each in read]),
            "preferences": torch.tensor([float(each) for each in reply.split()]),
        }

    @property
    def vision(self) -> Any:
        return self.network.vlm.config.vision_config  # type: ignore[union-attr]

    def collate(self, rows: list[Conditioning]) -> Conditioning:
        """Pairs side by side: words, kinds, mask (B 2 H, L), pixels and grids of all images, preferences (B, H)."""
        flat = [
            {name: row[name][k][row["mask"][k]] for name in ("words", "kinds")}
            for row in rows for k in range(len(row["words"]))
        ]  # fmt: skip
        made = _padded(flat, self.end) | {name: torch.cat([row[name] for row in rows]) for name in ("pixels", "grids")}
        return made | {"preferences": torch.stack([row["preferences"] for row in rows])}

    def image_tokens(self, height: int, width: int) -> int:
        vision = self.vision
        least = max(height, width) // 199 + 1  # thinner than 1:200 is refused, when it is read
        shown = fixed_size(max(height, least), max(width, least), vision)
        return shown[0] * shown[1] // (vision.patch_size * vision.spatial_merge_size) ** 2

    def parts(self) -> dict[str, NetworkPart]:
        part = super().parts()[OF_RUN]
        return {OF_RUN: dataclasses.replace(part, prefix="", names={f"vlm.{k}": v for k, v in self.names.items()})}


def _padded(rows: list[Conditioning], filler: int) -> Conditioning:
    length = max(len(row["words"]) for row in rows)
    made = {
        name: torch.stack([F.pad(row[name], (0, length - len(row[name])), value=value) for row in rows])
        for name, value in (("words", filler), ("kinds", 0))
    }
    return made | {"mask": torch.arange(length)[None] < torch.tensor([len(row["words"]) for row in rows])[:, None]}


def _new_heads(width: int, seed: int) -> list[nn.Module]:
    """Of the released widths, without its dropout, and with no output for a deviation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [
            nn.Sequential(nn.Linear(width, 1024), nn.ReLU(), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 1))
            for _ in range(HEADS)
        ]
