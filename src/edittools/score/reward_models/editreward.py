"""EditReward (Wu et al. 2025): a Qwen2.5-VL, or MiMo-VL of the same layout, with two heads on a token of its own.

Each head sees a prompt of its own (following the instruction; quality) with source and result, and maps the state at
`<|Reward|>` to a mean and the logarithm of a deviation. The reward is the mean of the two means, as in the released
configurations (`pooling_strategy: mean`); the deviations only weighed its training. As the released class does, which
hands the language model embeddings alone, positions count along the sequence: there are no two-dimensional ones for
images. Both images have 200,704 pixels, whatever they had.

The release is `model.pth`, or `model.safetensors`, without the files of its base. `python -m edittools.convert
RELEASE FOLDER`, where FOLDER has config.json, tokenizer and preprocessor of the base (Qwen2.5-VL-7B-Instruct, or
MiMo-VL-7B-SFT-2508), makes the folder that is read here. The texts are those of the user's checkout of EditReward.
`edit train --recipe ranking` leaves the same, with heads that learned means alone; it is read by the run's name.
Checked against the released code with random weights; nobody has compared the published weights' numbers here. A
Qwen3-VL is read where such a run has left it; a release on one is another class, and refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from edittools.errors import EditError
from edittools.nets.editreward import HEAD, NETWORKS, TOKEN, add_token, heads_of, message, named, sized, states_at
from edittools.rubric.prompts import PromptLayout, read_prompts
from edittools.score.reward_models import Triplet, filled
from edittools.vlm.processing import OF_RUN, load_processor
from edittools.weights.digest import folder_digest
from edittools.weights.lookup import find_weights, load_strictly, read_config, read_tensors

HELP = "EditReward's two heads: following the instruction, quality, and their mean"
NAMES = ("editreward", "editreward_following", "editreward_quality")
TEXTS = ("INSTRUCTION_EDIT_FOLLOWING", "INSTRUCTION_EDIT_QUALITY")  # of the two heads
ENDING = "prompt_with_special_token"


def load(folder: str, prompts: str, device: str, dtype: str) -> EditReward:
    trained = Path(folder, OF_RUN)  # by `edit train --recipe ranking`
    found = trained if (trained / "config.json").is_file() else find_weights(folder)
    return EditReward(found, head_texts(prompts), device, dtype)


def head_texts(prompts: str) -> list[str]:
    """Of each head the text with {text_prompt} for the instruction, and the token once. Raises EditError.

    prompts   a checkout of EditReward, or a file of texts by the same names
    """
    texts = read_prompts(prompts, PromptLayout("EditReward", ("prompts.py",), TEXTS)).texts
    ending = read_prompts(prompts, PromptLayout("EditReward", ("data_collator_qwen_edit.py",), (ENDING,))).texts[ENDING]
    for name in TEXTS:
        if (times := (texts[name] + ending).count(TOKEN)) != 1:
            raise EditError(f"{prompts}: {name} and {ENDING} have {TOKEN} {times} times, not once")
    return [texts[name] + ending for name in TEXTS]


class EditReward:
    """`texts`: of each head, with {text_prompt} for the instruction and the token once."""

    def __init__(self, folder: Path, texts: Sequence[str], device: str, dtype: str) -> None:
        from transformers import AutoConfig, AutoModel

        kind = read_config(folder).get("model_type")
        if kind not in NETWORKS:
            raise EditError(
                f"{folder}: no Qwen2.5-VL or Qwen3-VL", hint="releases of EditReward on other networks are not read"
            )
        tensors = named(read_tensors(folder), folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        # Training added the token and cut the vocabulary to the tokenizer's.
        config.get_text_config().vocab_size = len(tensors["language_model.embed_tokens.weight"])
        self.heads = [head.to(device) for head in heads_of(tensors, folder)]
        if len(self.heads) != len(texts):
            raise EditError(f"{folder}: {len(self.heads)} heads, not {len(texts)}")
        deviations = any(list(head.parameters())[-1].numel() > 1 for head in self.heads)
        if kind != "qwen2_5_vl" and deviations:
            raise EditError(f"{folder}: a release on {kind}", hint="those on Qwen2.5-VL and MiMo-VL are read")
        body = {name: tensor for name, tensor in tensors.items() if not name.startswith(("rm_heads.", "lm_head."))}
        self.network = AutoModel.from_config(config).to(getattr(torch, dtype))
        load_strictly(self.network, body, folder)
        self.network = self.network.to(device).eval()
        self.processor = load_processor(str(folder))
        self.token = add_token(self.processor)
        if self.token >= config.get_text_config().vocab_size:
            raise EditError(f"{folder}: the tokenizer has more tokens than the weights", hint="take the base model's")
        self.texts, self.revision = list(texts), folder_digest(folder)

    @torch.no_grad()
    def score(self, cases: Sequence[Triplet]) -> list[Mapping[str, float] | None]:
        made: list[Mapping[str, float] | None] = []
        for case in cases:
            vision = self.network.config.vision_config
            shown = [sized(each, vision) for each in (case.source, case.result)]
            means = [float(self._said(k, shown, case.instruction)[0]) for k in range(len(self.heads))]
            made.append(dict(zip(NAMES, (sum(means) / len(means), *means))))
        return made

    def _said(self, head: int, shown: list[Image.Image], instruction: str) -> Tensor:
        """(mean, log deviation) of one head; of one that learned no deviation the mean alone."""
        text = filled(self.texts[head], TEXTS[head], text_prompt=instruction)
        inputs = message(self.processor, text, shown).to(self.network.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.network.dtype)
        return self.heads[head](states_at(self.network, self.token, inputs)[0].float())


# ---------------------------------------------------------------- conversion


def recognises(released: dict[str, Any]) -> bool:
    """Is this a release of the model? `python -m edittools.convert` asks."""
    inside = released.get("model", released)
    return isinstance(inside, dict) and any(HEAD.fullmatch(str(name)) for name in inside)


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
