"""Low-rank adapters (LoRA, Hu et al. 2021) through peft, named and saved as diffusers reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from edittools.errors import EditError, UsageError, missing_extra
from edittools.settings import read_settings

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


@dataclass(frozen=True)
class LoraSettings:
    rank: int
    alpha: int = 0  # the adapters' output is scaled by alpha / rank; 0: alpha = rank
    targets: list[str] = field(default_factory=lambda: list(ATTENTION))  # endings of the modules' names


def add_lora(transformer: Any, settings: dict[str, Any], seed: int) -> None:
    """Freeze a diffusers transformer and give it adapters to train; B starts at zero, so nothing changes yet.

    What never gets a gradient gets no adapter. Raises UsageError for targets that match no module.
    """
    chosen = read_settings(LoraSettings, settings, "recipe: `lora`")
    try:
        from peft import LoraConfig
    except ImportError:
        raise missing_extra("peft", "lora", "training adapters") from None
    transformer.requires_grad_(False)
    dead: tuple[str, ...] = ()
    if type(transformer).__name__ == "QwenImageTransformer2DModel":  # nothing reads its last block's text output
        last = f"transformer_blocks.{len(transformer.transformer_blocks) - 1}."
        dead = (last + "attn.add_q_proj", last + "attn.to_add_out", last + "txt_mlp.")
    modules = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    found = []
    for target in chosen.targets:
        matched = [name for name in modules if name == target or name.endswith("." + target)]
        if not matched:
            raise UsageError(f"recipe: `lora`: no module of the transformer is called `{target}`")
        found += [name for name in matched if not name.startswith(dead)]
    config = LoraConfig(r=chosen.rank, lora_alpha=chosen.alpha or chosen.rank, target_modules=found)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config)


def load_lora(pipe: Any, path: str) -> None:
    """Put a LoRA file or folder on a pipeline; safetensors only. Raises EditError."""
    from pathlib import Path

    file = Path(path)
    if file.is_dir():
        found = sorted(file.glob("*.safetensors"))
        if len(found) != 1:
            raise EditError(f"{path}: expected one safetensors file of adapters, found {len(found)}")
        file = found[0]
    if not file.is_file() or file.suffix != ".safetensors":
        raise EditError(f"no safetensors file {path}")
    try:
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, AttributeError) as error:
        raise EditError(f"{path}: not adapters for a {type(pipe).__name__}: {str(error).splitlines()[0]}") from error
