"""The reward of Edit-R1 (UniWorld-V2, Li et al. 2025): an untrained Qwen2.5-VL's first token as a distribution.

The model is asked for one of the ratings 0 to 5 and nothing else; the reward is Σ k p(k) / 5, with p the softmax over
the six rating tokens alone at the first place of the reply. Nothing is written, so that it costs one forward pass. The
released code names the tokens by number, for one tokenizer, sends images as JPEG of quality 75, and counts a failure as
0; here the tokenizer is asked, images go as they are, and what fails has no score. The text is `SCORE_LOGIT` of the
user's checkout, with the instruction for {prompt}; {requirement} is empty, as there for data without one. Checked
against the released formula with random weights; the checkout's text itself is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from edittools.errors import EditError
from edittools.rubric.prompts import PromptLayout, read_prompts
from edittools.score.reward_models import Triplet, filled
from edittools.vlm.processing import conversation, load_processor
from edittools.weights.digest import folder_digest
from edittools.weights.lookup import find_weights
from edittools.weights.quiet import disable_progress_bars

HELP = "Edit-R1's: the expected rating by the first token of a plain Qwen2.5-VL, 0 to 1"
NAMES = ("uniworld",)
TEXT = "SCORE_LOGIT"
RATINGS = range(6)


def load(folder: str, prompts: str, device: str, dtype: str) -> UniWorld:
    text = read_prompts(prompts, PromptLayout("Edit-R1", ("prompt_template.py",), (TEXT,))).texts[TEXT]
    return UniWorld(Path(find_weights(folder)), text, device, dtype)


class UniWorld:
    def __init__(self, folder: Path, text: str, device: str, dtype: str) -> None:
        from transformers import AutoModelForImageTextToText

        disable_progress_bars("transformers")
        self.processor = load_processor(str(folder))
        load: Any = AutoModelForImageTextToText.from_pretrained
        self.model = load(folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True)
        self.model = self.model.to(device).eval()
        tokens = [self.processor.tokenizer.encode(str(rating), add_special_tokens=False) for rating in RATINGS]
        if any(len(few) != 1 for few in tokens):
            raise EditError(f"{folder}: its tokenizer has no token for each of the ratings 0 to 5")
        self.tokens = [few[0] for few in tokens]
        self.texts, self.revision = [text], folder_digest(folder)

    @torch.no_grad()
    def score(self, cases: Sequence[Triplet]) -> list[Mapping[str, float] | None]:
        made: list[Mapping[str, float] | None] = []
        for case in cases:
            text = filled(self.texts[0], TEXT, prompt=case.instruction, requirement="")
            inputs = self.processor(
                text=[conversation(self.processor, 2, text)],
                images=[Image.fromarray(case.source), Image.fromarray(case.result)],
                return_tensors="pt",
            ).to(self.model.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            logits = self.model(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1].float()
            shares = logits[self.tokens].softmax(-1)
            made.append({NAMES[0]: float((shares * torch.tensor(RATINGS).to(shares)).sum()) / max(RATINGS)})
        return made
