"""EditReward (Wu et al. 2025): a Qwen2.5-VL, or MiMo-VL of the same layout, with two heads on a token of its own.

Each head sees a prompt of its own (following the instruction; quality) with source and result, and maps the state at
`<|Reward|>` to a mean and the logarithm of a deviation. The reward is the mean of the two means, as in the released
configurations (`pooling_strategy: mean`); the deviations only weighed its training. As the released class does, which
hands the language model embeddings alone, positions count along the sequence: there are no two-dimensional ones for
images. Both images have 200,704 pixels, whatever they had.

The release is `model.pth`, or `model.safetensors`, without the files of its base. `python -m edittools.convert
model.pth FOLDER`, where FOLDER has config.json, tokenizer and preprocessor of the base (Qwen2.5-VL-7B-Instruct, or
MiMo-VL-7B-SFT-2508), makes the folder that is read here. The texts are those of the user's checkout of EditReward.
Checked against the released code with random weights; nobody has compared the published weights' numbers here, and a
release on Qwen3-VL is another class, which is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from edittools.errors import EditError
from edittools.rubric.prompts import PromptLayout, read_prompts
from edittools.score.reward_models import Triplet, conversation, filled
from edittools.vlm.processing import load_processor
from edittools.weights.digest import folder_digest
from edittools.weights.lookup import find_weights, load_strictly, read_config, read_tensors

HELP = "EditReward's two heads: following the instruction, quality, and their mean"
NAMES = ("editreward", "editreward_following", "editreward_quality")
TOKEN = "<|Reward|>"
PIXELS = 256 * 28 * 28
TEXTS = ("INSTRUCTION_EDIT_FOLLOWING", "INSTRUCTION_EDIT_QUALITY")  # of the two heads
ENDING = "prompt_with_special_token"
_HEAD = re.compile(r"rm_heads\.head_(\d+)\.(\d+)\.(weight|bias)")


def load(folder: str, prompts: str, device: str, dtype: str) -> EditReward:
    texts = read_prompts(prompts, PromptLayout("EditReward", ("prompts.py",), TEXTS)).texts
    ending = read_prompts(prompts, PromptLayout("EditReward", ("data_collator_qwen_edit.py",), (ENDING,))).texts[ENDING]
    return EditReward(Path(find_weights(folder)), [texts[name] + ending for name in TEXTS], device, dtype)


class EditReward:
    """`texts`: of each head, with {text_prompt} for the instruction and the token once."""

    def __init__(self, folder: Path, texts: Sequence[str], device: str, dtype: str) -> None:
        from transformers import AutoConfig, Qwen2_5_VLModel

        if read_config(folder).get("model_type") != "qwen2_5_vl":
            raise EditError(f"{folder}: no Qwen2.5-VL", hint="releases of EditReward on other networks are not read")
        tensors = _named(read_tensors(folder), folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        # Training added the token and cut the vocabulary to the tokenizer's.
        config.get_text_config().vocab_size = len(tensors["language_model.embed_tokens.weight"])
        self.heads = [head.to(device) for head in _heads(tensors, folder)]
        if len(self.heads) != len(texts):
            raise EditError(f"{folder}: {len(self.heads)} heads, not {len(texts)}")
        body = {name: tensor for name, tensor in tensors.items() if not name.startswith(("rm_heads.", "lm_head."))}
        self.network = Qwen2_5_VLModel(config).to(getattr(torch, dtype))
        load_strictly(self.network, body, folder)
        self.network = self.network.to(device).eval()
        self.processor = load_processor(str(folder))
        self.processor.tokenizer.add_tokens([TOKEN], special_tokens=True)
        self.token = self.processor.tokenizer.convert_tokens_to_ids(TOKEN)
        if self.token >= config.get_text_config().vocab_size:
            raise EditError(f"{folder}: the tokenizer has more tokens than the weights", hint="take the base model's")
        self.texts, self.revision = list(texts), folder_digest(folder)

    @torch.no_grad()
    def score(self, cases: Sequence[Triplet]) -> list[Mapping[str, float] | None]:
        made: list[Mapping[str, float] | None] = []
        for case in cases:
            shown = [self._sized(case.source), self._sized(case.result)]
            means = [float(self._said(k, shown, case.instruction)[0]) for k in range(len(self.heads))]
            made.append(dict(zip(NAMES, (sum(means) / len(means), *means))))
        return made

    def _sized(self, pixels: Any) -> Image.Image:
        """An image of the fixed number of pixels in the network's patches, as the released code resizes it."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        vision = self.network.config.vision_config
        factor = vision.patch_size * vision.spatial_merge_size
        area = PIXELS // 28**2 * factor**2
        rows, columns = pixels.shape[:2]
        height, width = smart_resize(rows, columns, factor=factor, min_pixels=area, max_pixels=area)
        return Image.fromarray(pixels).resize((width, height))

    def _said(self, head: int, shown: list[Image.Image], instruction: str) -> Tensor:
        """(mean, log deviation) of one head."""
        text = filled(self.texts[head], TEXTS[head], text_prompt=instruction)
        images = self.processor.image_processor
        images.size = {"shortest_edge": 1, "longest_edge": 1 << 40}  # they have their size
        inputs = self.processor(text=[conversation(self.processor, 2, text)], images=shown, return_tensors="pt")
        inputs = inputs.to(self.network.device)
        at = (inputs["input_ids"][0] == self.token).nonzero()[:, 0]
        if len(at) != 1:
            raise EditError(f"the prompts have {TOKEN} {len(at)} times, not once")
        length = inputs["input_ids"].shape[1]
        states = self.network(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=inputs["pixel_values"].to(self.network.dtype),
            image_grid_thw=inputs["image_grid_thw"],
            mm_token_type_ids=inputs.get("mm_token_type_ids"),
            position_ids=torch.arange(length, device=self.network.device).expand(3, 1, length),
            use_cache=False,
        ).last_hidden_state
        return self.heads[head](states[0, at[0]].float())


def _named(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
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


def _heads(tensors: dict[str, Tensor], folder: Path) -> list[nn.Module]:
    """The heads, each a chain of linear layers with ReLU between them, in float32."""
    found: dict[int, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        if match := _HEAD.fullmatch(name):
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


# ---------------------------------------------------------------- conversion


def recognises(released: dict[str, Any]) -> bool:
    """Is this a release of the model? `python -m edittools.convert` asks."""
    inside = released.get("model", released)
    return isinstance(inside, dict) and any(_HEAD.fullmatch(str(name)) for name in inside)


def save_released(released: dict[str, Any], folder: str | Path, name: str) -> None:
    """Write model.safetensors into a folder that has the base's other files. Raises EditError."""
    import os

    from safetensors.torch import save_file

    folder = Path(folder)
    missing = [file for file in ("config.json", "preprocessor_config.json") if not (folder / file).is_file()]
    if missing:
        raise EditError(
            f"{folder}: has no {missing[0]}, and {name} has weights alone",
            hint="copy config.json, tokenizer and preprocessor files of the base model there first",
        )
    tensors = released.get("model", released)
    partial = folder / ".model.partial"
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, partial)
    os.replace(partial, folder / "model.safetensors")
