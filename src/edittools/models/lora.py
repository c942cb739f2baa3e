"""Low-rank adapters (LoRA, Hu et al. 2021) through peft, named and saved as diffusers reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import safe_open

from edittools.errors import EditError, UsageError, describe, missing_extra
from edittools.models.weights import check_kept
from edittools.settings import read_settings

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


@dataclass(frozen=True)
class LoraSettings:
    rank: int
    alpha: int = 0  # the adapters' output is scaled by alpha / rank; 0: alpha = rank
    dropout: float = 0.0  # share of the adapters' inputs that a training step leaves out
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
    alpha = chosen.alpha or chosen.rank
    config = LoraConfig(r=chosen.rank, lora_alpha=alpha, lora_dropout=chosen.dropout, target_modules=found)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    for parameter in transformer.parameters():
        if parameter.requires_grad:  # peft makes them as precise as the weights beside them
            parameter.data = parameter.data.float()


def add_adapters(pipe: Any, specs: Sequence[str], merge: bool) -> None:
    """Put LoRA files or folders on a pipeline, each a PATH or PATH:SCALE, and all of them on top of one another.

    merge   into the weights, which is faster; not possible with weights in 8 bits

    Raises EditError, UsageError.
    """
    if not hasattr(pipe, "load_lora_weights"):
        raise UsageError(f"--lora: a {type(pipe).__name__} takes no adapters")
    scales = {}
    for number, spec in enumerate(specs):
        path, scale = split_scale(spec)
        name = f"lora{number}"
        load_lora(pipe, path, name)
        scales[name] = scale
    try:
        pipe.set_adapters(list(scales), list(scales.values()))
        if merge:
            # all parts that the files have adapters for, text encoders too
            pipe.fuse_lora(components=sorted(pipe.get_list_adapters()), adapter_names=list(scales))
            pipe.unload_lora_weights()
    except (ValueError, RuntimeError) as error:
        raise EditError(f"--lora: {describe(error)}") from error


def split_scale(spec: str) -> tuple[str, float]:
    """PATH or PATH:SCALE -> the path and the scale, 1 where it does not say. Raises UsageError."""
    path, colon, scale = spec.rpartition(":")
    if not colon or Path(spec).exists():
        return spec, 1.0
    try:
        return path, float(scale)
    except ValueError:
        raise UsageError(f"--lora {spec}: `{scale}` is no scale", hint="PATH or PATH:SCALE") from None


def lora_file(path: str) -> Path:
    """The safetensors file of a path or of the folder that `edit train` left. Raises EditError."""
    check_kept(path)
    file = Path(path)
    if file.is_dir():
        found = sorted(file.glob("*.safetensors"))
        if len(found) != 1:
            raise EditError(f"--lora {path}: expected one safetensors file of adapters, found {len(found)}")
        file = found[0]
    if not file.is_file() or file.suffix != ".safetensors":
        raise EditError(f"--lora {path}: no such safetensors file")
    return file


def describe_lora(spec: str) -> str:
    """NAME@DIGEST:SCALE, for the history."""
    path, scale = split_scale(spec)
    file = lora_file(path)
    return f"{file.name}@{xxhash.xxh3_128(file.read_bytes()).hexdigest()[:16]}:{scale:g}"


def load_lora(pipe: Any, path: str, name: str = "default") -> None:
    """Put a LoRA file or folder on a pipeline as the adapter `name`; safetensors only. Raises EditError."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise missing_extra("peft", "lora", "reading adapters") from None
    file = lora_file(path)
    with safe_open(file, "pt") as tensors:
        wanted = {key for key in tensors.keys() if ".lora_" in key or ".lora." in key}
    if not wanted:
        raise EditError(f"--lora {path}: holds no adapters")
    try:
        pipe.load_lora_weights(
            str(file.parent), weight_name=file.name, use_safetensors=True, local_files_only=True, adapter_name=name
        )
    except (OSError, ValueError, AttributeError, RuntimeError, KeyError) as error:
        raise EditError(f"--lora {path}: not adapters for a {type(pipe).__name__}: {describe(error)}") from error
    if name not in {n for names in pipe.get_list_adapters().values() for n in names}:
        raise EditError(f"--lora {path}: not adapters for a {type(pipe).__name__}: no module has their names")
