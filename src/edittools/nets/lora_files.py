"""Files of adapters in every spelling: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024), LoHa (Hyeon-Woo et al. 2022) and
LoKr (Yeh et al. 2023).

What a file says is read as one Adapter per module of the network, under diffusers' names, whoever wrote it:

    diffusers    transformer.MODULE.lora_A.weight, lora_B
    peft         base_model.model.MODULE.lora_A.weight, with adapter_config.json
    kohya        lora_unet_MODULE of the released names with underscores, lora_down, lora_up, alpha
    comfyui      diffusion_model.MODULE of the released names, lora_down, lora_up, alpha
    ai-toolkit   diffusion_model.MODULE of the released names (FLUX.1: transformer.MODULE), lora_A, lora_B

What released names are, and where these hold several modules in one, an architecture's `names.py` says.

Scales stand in `.alpha` tensors, in metadata, in adapter_config.json, or nowhere (then alpha is the rank). diffusers
cannot read `.alpha` beside its own names, and ComfyUI reads no metadata: where a spelling has no `.alpha`, what is
written has its scale multiplied into it, which is right for both.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edittools.errors import EditError, UsageError, describe
from edittools.nets.architectures import namings
from edittools.nets.flux_names import flux_modules

FORMATS = ("diffusers", "peft", "kohya", "comfyui", "ai-toolkit")
FILES = {"diffusers": "pytorch_lora_weights.safetensors", "peft": "adapter_model.safetensors"}
MODULATION = "final_layer.adaLN_modulation.1", "norm_out.linear"  # FLUX.1's and diffusers' name: halves change places

# Endings of tensors' names, and what they are. `.default` is peft's name of an adapter.
_PARTS = {
    r"lora_(A|down)(\.default)?(\.weight)?|lora\.down\.weight": "down",
    r"lora_(B|up)(\.default)?(\.weight)?|lora\.up\.weight": "up",
    r"alpha": "alpha",
    r"dora_scale|magnitude|lora_magnitude_vector(\.default)?(\.weight)?": "magnitude",
    r"lokr_(w[12](_[ab])?)(\.default)?": "",  # by its own name
    r"(hada_w[12]_[ab])(\.default)?": "",
}
_NAME = re.compile(r"^(?P<module>.+?)\.(?P<part>" + "|".join(f"(?:{p})" for p in _PARTS) + r")$")
_LOKR = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
# Endings of what others write and is not read here.
_OTHERS = re.compile(
    r"\.(lora_mid|lokr_t2|hada_t[12]|diff(_b)?|oft_\w+|boft_\w+|a1|a2|b1|b2|on_input|w_norm|b_norm)(\.weight)?$"
)

# What stands before a module's name, and the part of the pipeline that it belongs to.
_PREFIXES = (
    (r"base_model\.model\.(transformer\.)?", "transformer"),
    (r"(model\.)?diffusion_model\.(transformer\.)?", "transformer"),
    (r"lora_unet_|lycoris_|lora_transformer_", "transformer"),
    (r"text_encoder_2\.|lora_te2_|text_encoders\.t5xxl\.transformer\.", "text_encoder_2"),
    (r"text_encoder\.|lora_te1?_|text_encoders\.clip_l\.transformer\.", "text_encoder"),
    (r"transformer\.", "transformer"),
    (r"unet\.|lora_unet_", "unet"),
    (r"", "transformer"),
)


@dataclass
class Adapter:
    """The update of one module's weight W (out, in).

    tensors   LoRA: down (r, in) and up (out, r). LoKr: w1 and w2, or each as a product of w1_a and w1_b. LoHa: two
              products, hada_w1_a (out, r) and hada_w1_b (r, in), hada_w2_a and hada_w2_b. Or `delta` (out, in) itself.
              DoRA: also magnitude, (out, 1) or (1, in)
    scale     of the product
    """

    tensors: dict[str, Tensor]
    scale: float = 1.0

    @property
    def kind(self) -> str:
        kinds = {"delta": "delta", "up": "lora", "hada_w1_a": "loha"}
        return next((kind for tensor, kind in kinds.items() if tensor in self.tensors), "lokr")

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (out, in) of the update. Raises ValueError for tensors that do not fit one another."""
        t = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if self.kind == "delta":
            return t["delta"][0], t["delta"][1]
        if self.kind == "lora":
            return _product(t["up"], t["down"])
        if self.kind == "loha":
            first, second = (_product(t[f"hada_{w}_a"], t[f"hada_{w}_b"]) for w in ("w1", "w2"))
            if first != second:
                raise ValueError(f"sizes {first[0]} x {first[1]} and {second[0]} x {second[1]}")
            return first
        (a, b), (c, d) = (t[w] if w in t else _product(t[f"{w}_a"], t[f"{w}_b"]) for w in ("w1", "w2"))
        return a * c, b * d

    @property
    def rank(self) -> int:
        """Rank of a LoRA, or of the factors of a LoHa or LoKr; 0 where there is none."""
        named = next((name for name in ("down", "hada_w1_b", "w2_b", "w1_b") if name in self.tensors), None)
        return len(self.tensors[named]) if named else 0

    def delta(self) -> Tensor:
        """The update (out, in) float32, before a magnitude sets the lengths of its rows."""
        t = {name: tensor.float() for name, tensor in self.tensors.items()}
        if self.kind == "delta":
            return self.scale * t["delta"]
        if self.kind == "lora":
            return self.scale * t["up"] @ t["down"]
        if self.kind == "loha":
            return self.scale * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
        w1, w2 = (t[w] if w in t else t[f"{w}_a"] @ t[f"{w}_b"] for w in ("w1", "w2"))
        return self.scale * torch.kron(w1, w2)

    def onto(self, weight: Tensor, strength: float) -> Tensor:
        """The adapted weight, float32; strength 0 is the weight itself.

        W + s ΔW; with a magnitude m: W + s (m V / ‖V‖ - W), V = W + ΔW, norms over each row or column   [DoRA, eq. 5]
        """
        weight = weight.float()
        added = self.delta().to(weight.device)
        if "magnitude" not in self.tensors:
            return weight + strength * added
        magnitude = self.tensors["magnitude"].float().to(weight.device)
        direction = weight + added
        norm = direction.norm(dim=1 if magnitude.shape[0] == weight.shape[0] else 0, keepdim=True)
        return weight + strength * (magnitude * direction / norm - weight)

    def rows(self, start: int, stop: int) -> Adapter:
        """That of the module which is these rows of this one; ranks that add nothing there are left out."""
        rest = {n: t[start:stop] for n, t in self.tensors.items() if n == "magnitude" and len(t) > 1}
        rest |= {n: t for n, t in self.tensors.items() if n == "magnitude" and len(t) == 1}
        if self.kind != "lora":
            return Adapter({"delta": self.delta()[start:stop], **rest})
        up = self.tensors["up"][start:stop]
        used = up.any(0)
        if not used.any():
            used[:1] = True
        return Adapter({"down": self.tensors["down"][used], "up": up[:, used], **rest}, self.scale)

    def swapped(self) -> Adapter:
        """With the upper and the lower half of the rows at each other's place."""
        if self.kind != "lora":
            return Adapter({"delta": self.delta().roll(self.delta().shape[0] // 2, 0)})
        up = self.tensors["up"]
        return Adapter({**self.tensors, "up": up.roll(len(up) // 2, 0)}, self.scale)


def _product(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int]:
    if a[1] != b[0]:
        raise ValueError(f"ranks {a[1]} and {b[0]}")
    return a[0], b[1]


# ----------------------------------------------------------------------------------------------------------- names


def modules_of(network: nn.Module) -> dict[str, tuple[int, int]]:
    """The modules that adapters may be for, with their (out, in)."""
    sizes = {}
    for name, module in network.named_modules():
        out, inner = getattr(module, "out_features", None), getattr(module, "in_features", None)
        if isinstance(out, int) and isinstance(inner, int):  # linear, in whatever way its weight is stored
            sizes[name] = (out, inner)
    return sizes


def released_names(modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What releases call the modules of diffusers' transformer, FLUX.1's or one of nets.namings(); else nothing."""
    modules = set(modules)
    for naming in namings():
        if found := naming.released(modules):
            return dict(found)
    singles = sum(bool(re.fullmatch(r"single_transformer_blocks\.\d+\.proj_mlp", name)) for name in modules)
    if not singles:
        return {}
    doubles = sum(bool(re.fullmatch(r"transformer_blocks\.\d+\.attn\.to_q", name)) for name in modules)
    names = {**flux_modules(doubles, singles), MODULATION[0]: (MODULATION[1],)}
    embedder = "time_text_embed.guidance_embedder.linear_"
    names |= {"guidance_in.in_layer": (f"{embedder}1",), "guidance_in.out_layer": (f"{embedder}2",)}
    return {theirs: ours for theirs, ours in names.items() if modules.issuperset(ours)}


@dataclass(frozen=True)
class Meaning:
    """The module and the part of its update that a name in a file stands for."""

    part: str
    modules: tuple[str, ...]  # one below the other
    swapped: bool  # the halves of the rows are at each other's place


class Names:
    """Looks up which modules of a part of a model a name in a file means."""

    def __init__(self, part: str, modules: Iterable[str]) -> None:
        modules = list(modules)
        self.meaning: dict[str, Meaning] = {}
        for theirs, ours in {**released_names(modules), **{name: (name,) for name in modules}}.items():
            meaning = Meaning(part, ours, theirs == MODULATION[0])
            self.meaning[theirs] = self.meaning[theirs.replace(".", "_")] = meaning

    def find(self, name: str) -> Meaning | None:
        """transformers 5 has no `text_model.` before CLIP's layers; files do."""
        return self.meaning.get(name) or self.meaning.get(re.sub(r"^text_model[._]", "", name))


# --------------------------------------------------------------------------------------------------------- reading


def read_adapters(file: Path, parts: Mapping[str, Mapping[str, tuple[int, int]]]) -> dict[str, dict[str, Adapter]]:
    """The adapters of a safetensors file for the parts of a model, by part and module.

    parts   the modules of each part, see modules_of()

    Raises EditError for a key that is unknown or of another model, and for adapters of which a piece is missing.
    """
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise EditError(f"{file}: damaged adapters: {describe(error)}") from error
    # beside others' files adapter_config.json speaks of another one
    peft = file.name == FILES["peft"] or any(name.startswith("base_model.") for name in tensors)
    return named_adapters(tensors, _configuration(file, metadata, peft), parts, str(file))


def named_adapters(
    tensors: Mapping[str, Tensor], configuration: dict[str, Any], parts: Mapping[str, Mapping[str, tuple[int, int]]],
    where: str,
) -> dict[str, dict[str, Adapter]]:  # fmt: skip
    """See read_adapters(). configuration: what peft's LoraConfig or LoKrConfig says, where there is any."""
    pieces: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown = []
    for name, tensor in tensors.items():
        match = _NAME.match(name)
        if other := _OTHERS.search(name):
            raise EditError(f"{where}: {name}: LoRA, DoRA, LoHa and LoKr are read, `{other[1]}` is not")
        if match is None:
            unknown.append(name)
        else:
            pieces[match["module"]][_part(match["part"])] = tensor
    if not pieces:
        raise EditError(f"{where}: holds no adapters")
    names = {part: Names(part, modules) for part, modules in parts.items()}
    adapters: dict[str, dict[str, Adapter]] = {}
    for module, group in pieces.items():
        meant = _meant(module, names)
        if any(tensor.ndim > 2 for tensor in group.values()):
            raise EditError(f"{where}: {module}: adapters of a convolution are not read, those of linear modules are")
        if meant is None:
            unknown.append(module)
            continue
        adapter = _adapter(module, group, _of_part(configuration, meant.part), meant.modules[0], where)
        sizes = [parts[meant.part][name] for name in meant.modules]
        _check_sizes(adapter, sum(out for out, _ in sizes), sizes[0][1], f"{where}: {module}")
        magnitude = adapter.tensors.get("magnitude")
        if magnitude is not None and magnitude.shape[0] == 1 < len(sizes):
            raise EditError(f"{where}: {module}: DoRA's lengths of columns go over {len(sizes)} modules here")
        placed = adapters.setdefault(meant.part, {})
        for name, each in _apart(adapter, meant, [out for out, _ in sizes]):
            if name in placed:
                raise EditError(f"{where}: two adapters for {meant.part}.{name}")
            placed[name] = each
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise EditError(f"{where}: {unknown[0]}{more} is of no module of this model", hint="adapters of another model?")
    return adapters


def _apart(adapter: Adapter, meant: Meaning, rows: list[int]) -> Iterator[tuple[str, Adapter]]:
    """The adapter of each of our modules; those to which a joint one adds nothing have none."""
    if len(rows) == 1:
        yield meant.modules[0], adapter.swapped() if meant.swapped else adapter
        return
    start = 0
    for name, count in zip(meant.modules, rows):
        cut = adapter.rows(start, start + count)
        if "magnitude" in cut.tensors or cut.kind == "delta" or cut.tensors["up"].any():
            yield name, cut
        start += count


def _part(ending: str) -> str:
    for pattern, part in _PARTS.items():
        match = re.fullmatch(pattern, ending)
        if match:
            return part or match[1]
    raise AssertionError(ending)


def _meant(module: str, names: Mapping[str, Names]) -> Meaning | None:
    for prefix, part in _PREFIXES:
        match = re.match(prefix, module)
        if match and part in names and (meaning := names[part].find(module[match.end() :])):
            return meaning
    return None


def _adapter(module: str, tensors: dict[str, Tensor], configuration: dict[str, Any], name: str, where: str) -> Adapter:
    """Raises EditError where a piece is missing."""
    parts = {part: tensor for part, tensor in tensors.items() if part != "alpha"}
    lokr = [part for part in _LOKR if part in parts]
    wanted = ["down", "up"]
    if any(part in parts for part in _LOHA):
        wanted = list(_LOHA)
    elif lokr:
        wanted = [p for w in ("w1", "w2") for p in ([w] if w in parts else [f"{w}_a", f"{w}_b"])]
    missing = [part for part in wanted if part not in parts]
    if missing or {*parts} - {*wanted, "magnitude"}:
        raise EditError(f"{where}: {module}: half of an adapter, with {', '.join(tensors)}")
    magnitude = parts.get("magnitude")
    if magnitude is not None:
        parts["magnitude"] = magnitude[:, None] if magnitude.ndim == 1 else magnitude
    if any(tensor.ndim != 2 for tensor in parts.values()):
        raise EditError(f"{where}: {module}: an adapter is of matrices")
    adapter = Adapter(parts)
    rank = adapter.rank
    try:
        if "alpha" in tensors:
            # of LoKr whose factors are whole, LyCORIS and ComfyUI leave alpha out
            adapter.scale = float(tensors["alpha"]) / rank if rank else 1.0
        elif configuration:
            adapter.scale = _configured_scale(configuration, name, rank)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, re.error) as error:
        raise EditError(f"{where}: {module}: its alpha or rank cannot be read: {describe(error)}") from error
    if not math.isfinite(adapter.scale):
        raise EditError(f"{where}: {module}: its alpha is {adapter.scale}")
    return adapter


def _configuration(file: Path, metadata: dict[str, str], peft: bool) -> dict[str, Any]:
    """peft's configuration of a file: within it, as diffusers writes it, or beside it where it is peft's file."""
    beside = file.with_name("adapter_config.json")
    try:
        if "lora_adapter_metadata" in metadata:
            configuration = json.loads(metadata["lora_adapter_metadata"])
        else:
            configuration = json.loads(beside.read_text(encoding="utf-8")) if peft and beside.is_file() else {}
    except (OSError, ValueError) as error:
        raise EditError(f"{file}: its configuration cannot be read: {describe(error)}") from error
    if not isinstance(configuration, dict):
        raise EditError(f"{file}: its configuration cannot be read: no table of settings")
    return configuration


def _of_part(configuration: dict[str, Any], part: str) -> dict[str, Any]:
    """diffusers puts the parts' names before the settings, peft has one part."""
    if "r" in configuration:
        return configuration
    return {k.removeprefix(f"{part}."): v for k, v in configuration.items() if k.startswith(f"{part}.")}


def _configured_scale(configuration: dict[str, Any], name: str, rank: int) -> float:
    def of(pattern: str, usual: Any) -> Any:
        for key, value in (configuration.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", name):  # as peft has it
                return value
        return usual

    rank = of("rank_pattern", configuration.get("r", rank)) or rank
    alpha = of("alpha_pattern", configuration.get("lora_alpha", configuration.get("alpha", rank)))
    return float(alpha / rank**0.5 if configuration.get("use_rslora") else alpha / rank)


def _check_sizes(adapter: Adapter, out: int, inner: int, where: str) -> None:
    try:
        shape = adapter.shape
    except ValueError as error:
        raise EditError(f"{where}: its pieces do not fit one another: {error}") from error
    magnitude = adapter.tensors.get("magnitude")
    lengths = ((out, 1), (1, inner))
    if tuple(shape) != (out, inner) or (magnitude is not None and tuple(magnitude.shape) not in lengths):
        raise EditError(f"{where}: an adapter of {shape[0]} x {shape[1]}, and the module has {out} x {inner}")


# --------------------------------------------------------------------------------------------------------- writing


def write_adapters(
    adapters: Mapping[str, Adapter], modules: Mapping[str, tuple[int, int]], spelling: str, name: str
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Adapters of a transformer as tensors, metadata, and peft's configuration of a file in a spelling of FORMATS.

    modules   of the transformer, all of them, see modules_of()
    name      of its class

    Raises UsageError for LoKr and LoHa that released names would have to join, and for LoHa that the spelling
    does not know.
    """
    if spelling not in ("kohya", "comfyui") and any(adapter.kind == "loha" for adapter in adapters.values()):
        raise UsageError(f"LoHa has no names in the spelling of {spelling}", hint="kohya or comfyui")
    # ai-toolkit has FLUX.1 under diffusers' names, later models under the released ones
    flux = name == "FluxTransformer2DModel"
    own = spelling in ("diffusers", "peft") or (spelling == "ai-toolkit" and flux)
    released = {} if own else released_names(modules)
    joined = _join(adapters, released, modules) if released else dict(adapters)
    tensors: dict[str, Tensor] = {}
    for module, adapter in joined.items():
        if spelling == "peft":
            tensors |= _spelled(f"base_model.model.{module}", adapter, "AB", alpha=False)
        elif spelling == "kohya":
            tensors |= _spelled(f"lora_unet_{module.replace('.', '_')}", adapter, "downup", alpha=True)
        elif spelling == "comfyui":
            tensors |= _spelled(f"diffusion_model.{module}", adapter, "downup", alpha=True)
        else:
            before = "transformer" if own else "diffusion_model"
            tensors |= _spelled(f"{before}.{module}", adapter, "AB", alpha=False)
    metadata, configuration = {"format": "pt"}, _peft_configuration(joined)
    if spelling == "diffusers":
        packed = {f"transformer.{key}": value for key, value in configuration.items() if key != "peft_type"}
        if configuration["peft_type"] == "LORA":
            metadata["lora_adapter_metadata"] = json.dumps(packed, sort_keys=True)
    return tensors, metadata, configuration if spelling == "peft" else {}


def _spelled(module: str, adapter: Adapter, ends: str, alpha: bool) -> dict[str, Tensor]:
    """An adapter's tensors by name; without alpha its scale is multiplied into it."""
    names = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
    if ends == "downup":
        names = {"down": "lora_down.weight", "up": "lora_up.weight", "magnitude": "dora_scale"}
    tensors, scale = dict(adapter.tensors), adapter.scale
    if not (alpha and adapter.rank) and scale != 1:
        first = next(name for name in ("up", "hada_w1_a", "w1", "w1_a") if name in tensors)
        tensors[first] = tensors[first] * scale
        scale = 1.0
    if "magnitude" in tensors and ends == "AB":
        tensors["magnitude"] = tensors["magnitude"].flatten()
    names |= {part: part for part in _LOHA}
    spelled = {f"{module}.{names.get(part, f'lokr_{part}')}": t.contiguous() for part, t in tensors.items()}
    if alpha:
        spelled[f"{module}.alpha"] = torch.tensor(scale * (adapter.rank or 1), dtype=torch.float32)
    return spelled


def _peft_configuration(adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    """peft's, of adapters whose scale is 1."""
    ranks = {module: adapter.rank for module, adapter in adapters.items()}
    rank = max(ranks.values(), default=0) or 1
    others = {module: r for module, r in ranks.items() if r and r != rank}
    first = next(iter(adapters.values()))
    common = {"r": rank, "rank_pattern": others, "alpha_pattern": dict(others), "target_modules": sorted(adapters)}
    if first.kind == "lokr":
        return {"peft_type": "LOKR", "alpha": rank, **common}
    return {"peft_type": "LORA", "lora_alpha": rank, "use_dora": "magnitude" in first.tensors, **common}


def _join(
    adapters: Mapping[str, Adapter], released: Mapping[str, tuple[str, ...]], modules: Mapping[str, tuple[int, int]]
) -> dict[str, Adapter]:
    """Under released names: what diffusers holds in several modules is one below the other in one."""
    joined: dict[str, Adapter] = {}
    left = dict(adapters)
    for theirs, ours in released.items():
        members = {name: left.pop(name) for name in ours if name in left}
        if not members:
            continue
        if len(ours) == 1:
            joined[theirs] = members[ours[0]].swapped() if theirs == MODULATION[0] else members[ours[0]]
            continue
        kinds = {(a.kind, "magnitude" in a.tensors) for a in members.values()}
        if len(kinds) > 1 or kinds - {("lora", False), ("lora", len(members) == len(ours))}:
            raise UsageError(
                f"adapters of {', '.join(members)} cannot be joined to one of {theirs}",
                hint="diffusers or peft; DoRA needs `targets` with all of these modules",
            )
        dtype = next(iter(members.values())).tensors["up"].dtype
        joined[theirs] = _stacked([members.get(name) or _nothing(modules[name], dtype) for name in ours])
    if left:
        raise UsageError(f"{next(iter(left))} has no name in this spelling", hint="diffusers or peft")
    return joined


def _nothing(size: tuple[int, int], dtype: torch.dtype) -> Adapter:
    return Adapter({"down": torch.zeros(0, size[1], dtype=dtype), "up": torch.zeros(size[0], 0, dtype=dtype)})


def _stacked(adapters: list[Adapter]) -> Adapter:
    """One adapter for modules that lie below each other: the sum of their ranks, block by block."""
    # scales are multiplied in first, so that one alpha serves all
    tensors = {
        "down": torch.cat([a.tensors["down"] for a in adapters]),
        "up": torch.block_diag(*(a.tensors["up"] * a.scale for a in adapters)),
    }
    if all("magnitude" in a.tensors for a in adapters):
        tensors["magnitude"] = torch.cat([a.tensors["magnitude"] for a in adapters])
    return Adapter(tensors)
