"""Adapters: given to a transformer to train (through peft), saved, and added to the weights of a model."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import save_file
from torch import Tensor, nn

from edittools.errors import EditError, UsageError, describe, missing_extra
from edittools.nets.architectures import namings
from edittools.nets.lora_files import (
    FILES,
    FORMATS,
    Adapter,
    modules_of,
    named_adapters,
    read_adapters,
    write_adapters,
)
from edittools.settings import read_settings
from edittools.weights.lookup import check_kept, read_config

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
             "to_qkv_mlp_proj", "attn.to_out"]  # fmt: skip
KINDS = ("lora", "dora", "lokr")
PARTS = ("transformer", "unet", "text_encoder", "text_encoder_2")  # of a pipeline, that files may have adapters for


@dataclass(frozen=True)
class LoraSettings:
    rank: int  # rank of the adapters' matrices
    alpha: int = 0  # scale of the adapters' output is alpha / rank; 0: alpha = rank
    dropout: float = 0.0  # share of the adapters' inputs dropped in training
    targets: list[str] = field(default_factory=lambda: ["attention"])  # endings of modules' names; attention: all its
    kind: str = "lora"  # "lora", "dora" (lengths trained apart) or "lokr" (Kronecker products)
    start: str = ""  # file or run of adapters to start from
    format: str = "diffusers"  # format of the file: diffusers, peft, kohya, comfyui or ai-toolkit
    dtype: str = "float32"  # number type of the file

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
    targets = _targets(transformer, chosen.targets)
    alpha = chosen.alpha or chosen.rank
    config: Any
    if chosen.kind == "lokr":
        config = LoKrConfig(r=chosen.rank, alpha=alpha, module_dropout=chosen.dropout, target_modules=targets)
    else:
        dora = chosen.kind == "dora"
        config = LoraConfig(
            r=chosen.rank, lora_alpha=alpha, lora_dropout=chosen.dropout, target_modules=targets, use_dora=dora
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
    targets = []
    for target in [name for each in endings for name in (ATTENTION if each == "attention" else [each])]:
        matched = [name for name in modules if name == target or name.endswith("." + target)]
        if target in endings and not matched:
            raise UsageError(f"recipe: `lora`: no module of the transformer is called `{target}`")
        targets += [name for name in matched if not name.startswith(dead)]
    if not targets:
        raise UsageError("recipe: `model.lora.targets`: none of these modules has an effect on the result")
    return targets


def _begin_as(transformer: Any, chosen: LoraSettings) -> None:
    """Give the adapters of a transformer the values of a file. Raises EditError where they are others."""
    file = lora_file(chosen.start, "recipe: `model.lora.start`")
    adapters = read_adapters(file, {"transformer": adapted_modules(transformer)}).get("transformer", {})
    own = trained_adapters(transformer)
    if adapters.keys() != own.keys():
        only = sorted(adapters.keys() ^ own.keys())[0]
        raise EditError(f"{file}: adapters of other modules than `targets` says, such as {only}")
    for module, parts in own.items():
        theirs = adapters[module]
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
    adapters: dict[str, Adapter] = {}
    for name, tensor in (dict(transformer.named_parameters()) if values is None else values).items():
        module, part = split_parameter(name)
        if part:
            adapters.setdefault(module, Adapter({}, alpha / config.r)).tensors[part] = tensor
    return adapters


def split_parameter(name: str) -> tuple[str, str]:
    """A parameter of peft's: the module that it adapts and what it is; nothing for another parameter."""
    pieces = name.split(".")
    for index, piece in enumerate(pieces):
        if piece in _PARAMETERS or piece.startswith("lokr_"):
            return ".".join(pieces[:index]), _PARAMETERS.get(piece, piece.removeprefix("lokr_"))
    return name, ""


def adapted_modules(transformer: Any) -> dict[str, tuple[int, int]]:
    """See modules_of(), of a transformer that may have adapters."""
    sizes = {}
    for name, size in modules_of(transformer).items():
        if "lora_" not in name and "lokr_" not in name:
            sizes[name.removesuffix(".base_layer")] = size
    return sizes


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
            by_part = _read(file, modules, pipe)
        except EditError as error:
            raise EditError(f"--lora {error}", hint=error.hint) from error
        for name, adapters in by_part.items():
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
            dropped = ("dora_scale", ".lokr_", ".hada_")  # by diffusers, in silence
            if not any(part in name for part in dropped for name in _keys(file)):
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
        raise UsageError(f"{where}: DoRA, LoHa and LoKr change whole weights", hint="without --quantize")
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
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(scale)):
            return path, value
    raise UsageError(f"--lora {spec}: `{scale}` is no scale", hint="PATH or PATH:SCALE")


def lora_file(path: str, asked: str = "--lora") -> Path:
    """The safetensors file of a path or of the folder that `edit train` left. Raises EditError, in words of `asked`."""
    check_kept(path)
    file = Path(path)
    if file.is_dir():
        candidates = sorted(file.glob("*.safetensors"))
        if len(candidates) != 1:
            raise EditError(f"{asked} {path}: expected one safetensors file of adapters, found {len(candidates)}")
        file = candidates[0]
    if not file.is_file() or file.suffix != ".safetensors":
        raise EditError(f"{asked} {path}: no such safetensors file")
    return file


# ----------------------------------------------------------------------------------------------------- converting


def convert(path: str, out: Path, spelling: str, dtype: str | None = None, model: str | None = None) -> str:
    """Write the adapters of a transformer in another spelling into a folder; returns whose they are and how many.

    dtype   of the file; None: as it is
    model   the folder that the adapters are for, of which its configuration is read; None: one of _published()

    Raises EditError for a file that does not fit, UsageError for what a spelling cannot hold, or where both fit and the
    spelling calls their modules otherwise.
    """
    file = lora_file(path, "adapters")
    stored = next((t for t in _dtypes(file) if t.is_floating_point), torch.float32)
    written: dict[str, tuple[dict[str, Adapter], Any]] = {}
    errors: dict[str, EditError] = {}
    for name, network in ({"this model": _configured(model)} if model else _published()).items():
        try:
            written[name] = read_adapters(file, {"transformer": modules_of(network)})["transformer"], network
        except EditError as error:
            errors[name] = error
    if not written:
        flux = "FLUX.1" if any("single" in name for name in _keys(file)) else "Qwen-Image"
        likely = flux if flux in errors else next(iter(errors))
        hint = None if model else "--model FOLDER, where they are for another model than FLUX.1, FLUX.2 or Qwen-Image"
        raise EditError(f"{errors[likely]}", hint=hint) from errors[likely]
    if len(written) > 1 and spelling not in ("diffusers", "peft"):
        raise UsageError(f"{file}: fits {' and '.join(written)} alike", hint="--model FOLDER says what it is for")
    [(name, (adapters, network)), *_] = written.items()
    save_adapters(adapters, network, out, spelling, getattr(torch, dtype) if dtype else stored)
    return f"{len(adapters)} modules of {' or '.join(written)}"


def _published() -> dict[str, Any]:
    """The transformers that most adapters are for, without weights."""
    import diffusers

    published: dict[str, tuple[str, dict[str, Any]]] = {
        "FLUX.1": ("FluxTransformer2DModel", {"guidance_embeds": True}),
        "Qwen-Image": ("QwenImageTransformer2DModel", {}),
    }
    for naming in namings():
        published |= naming.PUBLISHED
    with torch.device("meta"):
        return {name: getattr(diffusers, kind)(**config) for name, (kind, config) in published.items()}


def _configured(model: str) -> Any:
    """The transformer of a model's folder, without weights. Raises EditError."""
    import diffusers

    folder = Path(model)
    folder = folder / "transformer" if (folder / "transformer").is_dir() else folder
    config = read_config(folder)
    # a run's configuration names no class
    trained = "FluxTransformer2DModel" if "num_single_layers" in config else "QwenImageTransformer2DModel"
    kind = getattr(diffusers, str(config.get("_class_name", trained)), None)
    try:
        assert kind is not None and issubclass(kind, nn.Module)
        with torch.device("meta"):
            return kind.from_config(config)
    except Exception as error:  # of any class: it is whatever the first wrong value runs into
        raise EditError(f"--model {model}: {folder / 'config.json'} is of no transformer of diffusers") from error


def _dtypes(file: Path) -> Iterator[torch.dtype]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        for name in opened.keys():
            if not name.endswith(".alpha"):
                yield opened.get_tensor(name).dtype


def lora_digest(spec: str) -> str:
    """NAME@DIGEST:SCALE, for the history."""
    path, scale = split_scale(spec)
    file = lora_file(path)
    return f"{file.name}@{xxhash.xxh3_128(file.read_bytes()).hexdigest()[:16]}:{scale:g}"
