"""Adapters: given to a transformer to train (through peft), saved, and added to the weights of a model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import save_file
from torch import Tensor, nn

from edittools.errors import EditError, UsageError, describe, missing_extra
from edittools.models.lora_files import (
    FILES,
    FORMATS,
    Adapter,
    modules_of,
    named_adapters,
    read_adapters,
    write_adapters,
)
from edittools.models.weights import check_kept
from edittools.settings import read_settings

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
KINDS = ("lora", "dora", "lokr")
PARTS = ("transformer", "unet", "text_encoder", "text_encoder_2")  # of a pipeline, that files may have adapters for


@dataclass(frozen=True)
class LoraSettings:
    rank: int  # of the adapters' matrices
    alpha: int = 0  # the adapters' output is scaled by alpha / rank; 0: alpha = rank
    dropout: float = 0.0  # share of the adapters' inputs that a training step leaves out
    targets: list[str] = field(default_factory=lambda: list(ATTENTION))  # endings of the modules' names
    kind: str = "lora"  # "lora", "dora" (weights' lengths are trained apart) or "lokr" (Kronecker products)
    start: str = ""  # a file or a run of adapters that these begin as
    format: str = "diffusers"  # the spelling of the file, one of lora_files.FORMATS
    dtype: str = "float32"  # of the file

    def __post_init__(self) -> None:
        def need(ok: bool, what: str) -> None:
            if not ok:
                raise UsageError(f"recipe: `model.lora.{what}")

        for name, known in (("kind", KINDS), ("format", FORMATS), ("dtype", ("float32", "bfloat16", "float16"))):
            need(getattr(self, name) in known, f"{name}`: no {getattr(self, name)!r}, but {', '.join(known)}")
        need(0 < self.rank < 2**16, "rank` must be positive")
        need(self.alpha >= 0, "alpha` must not be negative")
        need(0 <= self.dropout < 1, "dropout` must lie in [0, 1)")
        need(bool(self.targets) and all(self.targets), "targets` must name modules")


def add_lora(transformer: Any, settings: dict[str, Any], seed: int) -> LoraSettings:
    """Freeze a diffusers transformer and give it adapters to train, which change nothing yet or begin as `start` ends.

    What never gets a gradient gets no adapter. Returns the settings as read. Raises UsageError for targets that match
    no module, EditError for a start that does not fit.
    """
    chosen = read_settings(LoraSettings, settings, "recipe: `lora`")
    try:
        from peft import LoKrConfig, LoraConfig
    except ImportError:
        raise missing_extra("peft", "lora", "training adapters") from None
    transformer.requires_grad_(False)
    found = _targets(transformer, chosen.targets)
    alpha = chosen.alpha or chosen.rank
    config: Any
    if chosen.kind == "lokr":
        config = LoKrConfig(r=chosen.rank, alpha=alpha, module_dropout=chosen.dropout, target_modules=found)
    else:
        dora = chosen.kind == "dora"
        config = LoraConfig(
            r=chosen.rank, lora_alpha=alpha, lora_dropout=chosen.dropout, target_modules=found, use_dora=dora
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    for parameter in transformer.parameters():
        if parameter.requires_grad:  # peft makes them as precise as the weights beside them
            parameter.data = parameter.data.float()
    if chosen.start:
        _begin_as(transformer, chosen)
    return chosen


def _targets(transformer: Any, endings: list[str]) -> list[str]:
    dead: tuple[str, ...] = ()
    if type(transformer).__name__ == "QwenImageTransformer2DModel":  # nothing reads its last block's text output
        last = f"transformer_blocks.{len(transformer.transformer_blocks) - 1}."
        dead = (last + "attn.add_q_proj", last + "attn.to_add_out", last + "txt_mlp.")
    modules = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    found = []
    for target in endings:
        matched = [name for name in modules if name == target or name.endswith("." + target)]
        if not matched:
            raise UsageError(f"recipe: `lora`: no module of the transformer is called `{target}`")
        found += [name for name in matched if not name.startswith(dead)]
    if not found:
        raise UsageError("recipe: `model.lora.targets`: none of these modules has an effect on the result")
    return found


def _begin_as(transformer: Any, chosen: LoraSettings) -> None:
    """Give the adapters of a transformer the values of a file. Raises EditError where they are others."""
    file = lora_file(chosen.start)
    given = read_adapters(file, {"transformer": adapted_modules(transformer)}).get("transformer", {})
    own = trained_adapters(transformer)
    if given.keys() != own.keys():
        only = sorted(given.keys() ^ own.keys())[0]
        raise EditError(f"{file}: adapters of other modules than `targets` says, such as {only}")
    for module, parts in own.items():
        theirs = given[module]
        sizes = {name: tuple(t.shape) for name, t in theirs.tensors.items() if name != "magnitude"}
        if sizes != {name: tuple(p.shape) for name, p in parts.tensors.items() if name != "magnitude"}:
            raise EditError(f"{file}: {module}: adapters of rank {theirs.rank}, and `rank` is {chosen.rank}")
        with torch.no_grad():
            for name, parameter in parts.tensors.items():
                scale = theirs.scale / parts.scale if name in ("up", "w1", "w1_a") else 1.0
                parameter.copy_((theirs.tensors[name] * scale).reshape(parameter.shape))


_PARAMETERS = {"lora_A": "down", "lora_B": "up", "lora_magnitude_vector": "magnitude"}


def trained_adapters(transformer: Any, values: Mapping[str, Tensor] | None = None) -> dict[str, Adapter]:
    """The adapters that add_lora() gave a transformer, by module.

    values   of its parameters by name, where they are not its own
    """
    [config] = transformer.peft_config.values()
    alpha = config.lora_alpha if hasattr(config, "lora_alpha") else config.alpha
    found: dict[str, Adapter] = {}
    for name, tensor in (dict(transformer.named_parameters()) if values is None else values).items():
        module, part = split_parameter(name)
        if part:
            found.setdefault(module, Adapter({}, alpha / config.r)).tensors[part] = tensor
    return found


def split_parameter(name: str) -> tuple[str, str]:
    """A parameter of peft's: the module that it adapts and what it is; nothing for another parameter."""
    pieces = name.split(".")
    for place, piece in enumerate(pieces):
        if piece in _PARAMETERS or piece.startswith("lokr_"):
            return ".".join(pieces[:place]), _PARAMETERS.get(piece, piece.removeprefix("lokr_"))
    return name, ""


def adapted_modules(transformer: Any) -> dict[str, tuple[int, int]]:
    """See modules_of(), of a transformer that may have adapters."""
    found = {}
    for name, size in modules_of(transformer).items():
        if "lora_" not in name and "lokr_" not in name:
            found[name.removesuffix(".base_layer")] = size
    return found


def save_adapters(
    adapters: Mapping[str, Adapter], transformer: Any, folder: Path, spelling: str, dtype: torch.dtype
) -> None:
    """Write adapters of a transformer into a folder. Raises UsageError for what a spelling cannot hold."""
    held = {}
    for module, adapter in adapters.items():
        tensors = {name: tensor.detach().cpu().float() for name, tensor in adapter.tensors.items()}
        if "magnitude" in tensors and tensors["magnitude"].ndim == 1:
            tensors["magnitude"] = tensors["magnitude"][:, None]
        held[module] = Adapter(tensors, adapter.scale)
    written = write_adapters(held, adapted_modules(transformer), spelling, type(transformer).__name__)
    tensors, metadata, configuration = written
    rounded = {name: t if name.endswith(".alpha") else t.to(dtype) for name, t in tensors.items()}
    save_file(rounded, folder / FILES.get(spelling, FILES["diffusers"]), metadata)
    if configuration:
        (folder / "adapter_config.json").write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n")


def go_on(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of adapters that go on from those of a run: its rank, its modules, and its values to begin with."""
    return {**settings, "start": str(folder)}


# ------------------------------------------------------------------------------------------------------- sampling


def add_adapters(parts: Mapping[str, Any], specs: Sequence[str], merge: bool, pipe: Any = None) -> None:
    """Add adapters, each a PATH or PATH:SCALE, to the parts of a model, all of them on top of one another.

    parts   modules by their names in PARTS
    merge   into the weights, which is faster; not possible with weights in 8 bits
    pipe    the class of a pipeline of diffusers, which knows further spellings

    Raises EditError for adapters that do not fit, or of which any part is left over; UsageError.
    """
    networks = {name: parts[name] for name in PARTS if isinstance(parts.get(name), nn.Module)}
    modules = {name: modules_of(network) for name, network in networks.items()}
    for number, spec in enumerate(specs):
        path, scale = split_scale(spec)
        file = lora_file(path)
        try:
            found = _read(file, modules, pipe)
        except EditError as error:
            raise EditError(f"--lora {error}", hint=error.hint) from error
        for name, adapters in found.items():
            if merge:
                _merge(networks[name], adapters, scale)
            else:
                _beside(networks[name], adapters, scale, f"lora{number}", f"--lora {path}")


def _read(file: Path, modules: Mapping[str, Mapping[str, tuple[int, int]]], pipe: Any) -> dict[str, dict[str, Adapter]]:
    """read_adapters(), or what diffusers makes of a spelling that only its pipeline knows."""
    try:
        return read_adapters(file, modules)
    except EditError as error:
        with contextlib.suppress(Exception):  # of diffusers, for a file that it does not know either
            converted = pipe.lora_state_dict(
                str(file.parent), weight_name=file.name, use_safetensors=True, local_files_only=True
            )
            tensors = converted if isinstance(converted, dict) else converted[0]
            if not any("dora_scale" in name or ".lokr_" in name for name in _keys(file)):  # which it would drop
                return named_adapters(tensors, {}, modules, str(file))
        raise error


def _keys(file: Path) -> Iterator[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        yield from opened.keys()


@torch.no_grad()
def _merge(network: nn.Module, adapters: Mapping[str, Adapter], scale: float) -> None:
    for name, adapter in adapters.items():
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight.copy_(adapter.onto(weight, scale))


def _beside(network: Any, adapters: Mapping[str, Adapter], scale: float, name: str, where: str) -> None:
    """Adapters that are computed beside the weights, by peft. Raises UsageError for what only weights can take in."""
    if any(adapter.kind != "lora" or "magnitude" in adapter.tensors for adapter in adapters.values()):
        raise UsageError(f"{where}: DoRA and LoKr change whole weights", hint="without --quantize")
    if not hasattr(network, "load_lora_adapter"):
        raise UsageError(f"{where}: adapters of a {type(network).__name__} go into its weights alone")
    try:
        import peft  # noqa: F401
    except ImportError:
        raise missing_extra("peft", "lora", "adapters of weights in 8 bits") from None
    tensors = {}
    for module, adapter in adapters.items():
        tensors[f"transformer.{module}.lora_A.weight"] = adapter.tensors["down"]
        tensors[f"transformer.{module}.lora_B.weight"] = adapter.tensors["up"] * (scale * adapter.scale)
    try:
        network.load_lora_adapter(tensors, prefix="transformer", adapter_name=name)
        network.set_adapters([*getattr(network, "peft_config", {})])
    except (ValueError, RuntimeError) as error:
        raise EditError(f"{where}: {describe(error)}") from error


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
