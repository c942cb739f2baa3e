"""Files of adapters: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024) and LoKr (Yeh et al. 2023), in every spelling.

What a file says is read as one Adapter per module of the network, under diffusers' names, whoever wrote it:

    diffusers    transformer.MODULE.lora_A.weight, lora_B
    peft         base_model.model.MODULE.lora_A.weight, with adapter_config.json
    kohya        lora_unet_MODULE with underscores, lora_down, lora_up, alpha; FLUX.1 under its released names
    comfyui      diffusion_model.MODULE of the released names, lora_down, lora_up, alpha
    ai-toolkit   diffusion_model.MODULE (FLUX.1: transformer.MODULE), lora_A, lora_B

Scales stand in `.alpha` tensors, in metadata, in adapter_config.json, or nowhere (then alpha is the rank). diffusers
cannot read `.alpha` beside its own names, and ComfyUI reads no metadata: where a spelling has no `.alpha`, what is
written has its scale multiplied into it, which is right for both.
"""

from __future__ import annotations

import json
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
from edittools.models.step1x_weights import flux_modules

FORMATS = ("diffusers", "peft", "kohya", "comfyui", "ai-toolkit")
FILES = {"diffusers": "pytorch_lora_weights.safetensors", "peft": "adapter_model.safetensors"}
MODULATION = "final_layer.adaLN_modulation.1", "norm_out.linear"  # FLUX.1's and diffusers' name: halves change places

# Endings of tensors' names, and what they are. `.default` is peft's name of an adapter.
_PARTS = {
    r"lora_(A|down)(\.default)?(\.weight)?|lora\.down\.weight": "down",
    r"lora_(B|up)(\.default)?(\.weight)?|lora\.up\.weight": "up",
    r"alpha": "alpha",
    r"dora_scale|lora_magnitude_vector(\.default)?(\.weight)?": "magnitude",
    r"lokr_(w[12](_[ab])?)(\.default)?": "",  # by its own name
}
_NAME = re.compile(r"^(?P<module>.+?)\.(?P<part>" + "|".join(f"(?:{p})" for p in _PARTS) + r")$")
_LOKR = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")

# What stands before a module's name, and the part of the pipeline that it belongs to.
_PREFIXES = (
    (r"base_model\.model\.(transformer\.)?", "transformer"),
    (r"(model\.)?diffusion_model\.", "transformer"),
    (r"lora_unet_|lycoris_|lora_transformer_", "transformer"),
    (r"text_encoder_2\.|lora_te2_|text_encoders\.t5xxl\.transformer\.", "text_encoder_2"),
    (r"text_encoder\.|lora_te1?_|text_encoders\.clip_l\.transformer\.", "text_encoder"),
    (r"transformer\.", "transformer"),
    (r"unet\.|lora_unet_", "unet"),
    (r"", "transformer"),
)


@dataclass
class Adapter:
    """What is added to one module's weight W (out, in).

    tensors   LoRA: down (r, in) and up (out, r). LoKr: w1 and w2, or each as a product of w1_a and w1_b. Or `delta`
              (out, in) itself. DoRA: also magnitude, (out, 1) or (1, in)
    scale     of the product
    """

    tensors: dict[str, Tensor]
    scale: float = 1.0

    @property
    def kind(self) -> str:
        return "delta" if "delta" in self.tensors else "lora" if "up" in self.tensors else "lokr"

    @property
    def shape(self) -> tuple[int, int]:
        """Of what is added. Raises ValueError for tensors that do not fit one another."""
        t = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if self.kind == "delta":
            return t["delta"][0], t["delta"][1]
        if self.kind == "lora":
            return _product(t["up"], t["down"])
        (a, b), (c, d) = (t[w] if w in t else _product(t[f"{w}_a"], t[f"{w}_b"]) for w in ("w1", "w2"))
        return a * c, b * d

    @property
    def rank(self) -> int:
        """Of LoRA, or of LoKr's products; 0 where it has none."""
        named = next((name for name in ("down", "w2_b", "w1_b") if name in self.tensors), None)
        return len(self.tensors[named]) if named else 0

    def delta(self) -> Tensor:
        """What is added, (out, in) float32, before a magnitude sets its rows' lengths."""
        t = {name: tensor.float() for name, tensor in self.tensors.items()}
        if self.kind == "delta":
            return self.scale * t["delta"]
        if self.kind == "lora":
            return self.scale * t["up"] @ t["down"]
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
        kept = {n: t[start:stop] for n, t in self.tensors.items() if n == "magnitude" and len(t) > 1}
        kept |= {n: t for n, t in self.tensors.items() if n == "magnitude" and len(t) == 1}
        if self.kind != "lora":
            return Adapter({"delta": self.delta()[start:stop], **kept})
        up = self.tensors["up"][start:stop]
        used = up.any(0)
        if not used.any():
            used[:1] = True
        return Adapter({"down": self.tensors["down"][used], "up": up[:, used], **kept}, self.scale)

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
    found = {}
    for name, module in network.named_modules():
        out, inner = getattr(module, "out_features", None), getattr(module, "in_features", None)
        if isinstance(out, int) and isinstance(inner, int):  # linear, in whatever way its weight is stored
            found[name] = (out, inner)
    return found


def released_names(modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What FLUX.1's release calls the modules of diffusers' FLUX transformer; nothing for another network."""
    modules = set(modules)
    singles = sum(bool(re.fullmatch(r"single_transformer_blocks\.\d+\.proj_mlp", name)) for name in modules)
    if not singles:
        return {}
    doubles = sum(bool(re.fullmatch(r"transformer_blocks\.\d+\.attn\.to_q", name)) for name in modules)
    made = {**flux_modules(doubles, singles), MODULATION[0]: (MODULATION[1],)}
    embedder = "time_text_embed.guidance_embedder.linear_"
    made |= {"guidance_in.in_layer": (f"{embedder}1",), "guidance_in.out_layer": (f"{embedder}2",)}
    return {theirs: ours for theirs, ours in made.items() if modules.issuperset(ours)}


@dataclass(frozen=True)
class Meaning:
    """What a name in a file stands for."""

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
    return named_adapters(tensors, _configuration(file, metadata), parts, str(file))


def named_adapters(
    tensors: Mapping[str, Tensor], configuration: dict[str, Any], parts: Mapping[str, Mapping[str, tuple[int, int]]],
    where: str,
) -> dict[str, dict[str, Adapter]]:  # fmt: skip
    """See read_adapters(). configuration: what peft's LoraConfig or LoKrConfig says, where there is any."""
    pieces: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown = []
    for name, tensor in tensors.items():
        match = _NAME.match(name)
        if match is None:
            unknown.append(name)
        else:
            pieces[match["module"]][_part(match["part"])] = tensor
    if not pieces:
        raise EditError(f"{where}: holds no adapters")
    names = {part: Names(part, modules) for part, modules in parts.items()}
    found: dict[str, dict[str, Adapter]] = {}
    for module, given in pieces.items():
        meant = _meant(module, names)
        if meant is None:
            unknown.append(module)
            continue
        adapter = _adapter(module, given, _of_part(configuration, meant.part), meant.modules[0], where)
        sizes = [parts[meant.part][name] for name in meant.modules]
        _check_sizes(adapter, sum(out for out, _ in sizes), sizes[0][1], f"{where}: {module}")
        placed = found.setdefault(meant.part, {})
        for name, each in _apart(adapter, meant, [out for out, _ in sizes]):
            if name in placed:
                raise EditError(f"{where}: two adapters for {meant.part}.{name}")
            placed[name] = each
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise EditError(f"{where}: {unknown[0]}{more} is of no module of this model", hint="adapters of another model?")
    return found


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


def _adapter(module: str, given: dict[str, Tensor], configuration: dict[str, Any], name: str, where: str) -> Adapter:
    """Raises EditError where a piece is missing."""
    kept = {part: tensor for part, tensor in given.items() if part != "alpha"}
    lokr = [part for part in _LOKR if part in kept]
    wanted = ["down", "up"]
    if lokr:
        wanted = [p for w in ("w1", "w2") for p in ([w] if w in kept else [f"{w}_a", f"{w}_b"])]
    missing = [part for part in wanted if part not in kept]
    if missing or {*kept} - {*wanted, "magnitude"}:
        raise EditError(f"{where}: {module}: half of an adapter, with {', '.join(given)}")
    magnitude = kept.get("magnitude")
    if magnitude is not None:
        kept["magnitude"] = magnitude[:, None] if magnitude.ndim == 1 else magnitude
    if any(tensor.ndim != 2 for tensor in kept.values()):
        raise EditError(f"{where}: {module}: adapters of a convolution")
    made = Adapter(kept)
    rank = made.rank
    if "alpha" in given:
        # of LoKr whose factors are whole, LyCORIS and ComfyUI leave alpha out
        made.scale = float(given["alpha"]) / rank if rank else 1.0
    elif configuration:
        made.scale = _configured_scale(configuration, name, rank)
    return made


def _configuration(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """peft's configuration of a file: within it, as diffusers writes it, or beside it."""
    beside = file.with_name("adapter_config.json")
    try:
        if "lora_adapter_metadata" in metadata:
            return json.loads(metadata["lora_adapter_metadata"])
        return json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except (OSError, ValueError) as error:
        raise EditError(f"{file}: its configuration cannot be read: {describe(error)}") from error


def _of_part(configuration: dict[str, Any], part: str) -> dict[str, Any]:
    """diffusers puts the parts' names before the settings, peft has one part."""
    if "r" in configuration:
        return configuration
    return {k.removeprefix(f"{part}."): v for k, v in configuration.items() if k.startswith(f"{part}.")}


def _configured_scale(configuration: dict[str, Any], name: str, rank: int) -> float:
    def of(pattern: str, usual: Any) -> Any:
        for key, value in (configuration.get(pattern) or {}).items():
            if name == key or name.endswith(f".{key}") or re.search(rf"(^|\.){key.lstrip('^')}$", name):
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

    Raises UsageError for LoKr that FLUX.1's released names would have to join.
    """
    released = released_names(modules) if spelling in ("kohya", "comfyui") else {}
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
            flux = name.startswith("Flux") or spelling == "diffusers"
            before = "transformer" if flux else "diffusion_model"
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
        first = "up" if "up" in tensors else "w1" if "w1" in tensors else "w1_a"
        tensors[first] = tensors[first] * scale
        scale = 1.0
    if "magnitude" in tensors and ends == "AB":
        tensors["magnitude"] = tensors["magnitude"].flatten()
    made = {f"{module}.{names.get(part, f'lokr_{part}')}": t.contiguous() for part, t in tensors.items()}
    if alpha:
        made[f"{module}.alpha"] = torch.tensor(scale * (adapter.rank or 1), dtype=torch.float32)
    return made


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
    made: dict[str, Adapter] = {}
    left = dict(adapters)
    for theirs, ours in released.items():
        given = {name: left.pop(name) for name in ours if name in left}
        if not given:
            continue
        if len(ours) == 1:
            made[theirs] = given[ours[0]].swapped() if theirs == MODULATION[0] else given[ours[0]]
            continue
        kinds = {(a.kind, "magnitude" in a.tensors) for a in given.values()}
        if len(kinds) > 1 or kinds - {("lora", False), ("lora", len(given) == len(ours))}:
            raise UsageError(
                f"adapters of {', '.join(given)} cannot be joined to one of {theirs}",
                hint="--lora-format diffusers, peft or ai-toolkit; DoRA needs `targets` with all of these modules",
            )
        dtype = next(iter(given.values())).tensors["up"].dtype
        made[theirs] = _stacked([given.get(name) or _nothing(modules[name], dtype) for name in ours])
    if left:
        raise UsageError(f"{next(iter(left))} has no name in this spelling", hint="--lora-format diffusers")
    return made


def _nothing(size: tuple[int, int], dtype: torch.dtype) -> Adapter:
    return Adapter({"down": torch.zeros(0, size[1], dtype=dtype), "up": torch.zeros(size[0], 0, dtype=dtype)})


def _stacked(given: list[Adapter]) -> Adapter:
    """One adapter for modules that lie below each other: the sum of their ranks, block by block."""
    # scales are multiplied in first, so that one alpha serves all
    tensors = {
        "down": torch.cat([a.tensors["down"] for a in given]),
        "up": torch.block_diag(*(a.tensors["up"] * a.scale for a in given)),
    }
    if all("magnitude" in a.tensors for a in given):
        tensors["magnitude"] = torch.cat([a.tensors["magnitude"] for a in given])
    return Adapter(tensors)
