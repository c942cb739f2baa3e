"""`imgedit_e1`: ImgEdit-E1 (ImgEdit 3.3, A), on FLUX.1's transformer.

Qwen2.5-VL's states and SigLIP2's features of the sources go each through an MLP of their own into the text stream;
there are no latents of the sources. ImgEdit's repository holds no training code; where the paper (A.4) is silent, this
follows UniWorld-V1, which the same group released (its repository, PKU-YuanGroup/UniWorld-V1).

A model's folder: `edit.json` {"system": "imgedit_e1"}, `transformer/` (FluxTransformer2DModel), `projectors/`, `vae/`
(AutoencoderKL), `text_encoder/` and `processor/` (Qwen2.5-VL), `image_encoder/` (SigLIP2, with its preprocessor). Where
it begins from FLUX.1, also `clip/` (FLUX.1's CLIP with its tokenizer) and `redux/`, for new projectors.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from edittools.errors import EditError, UsageError, describe
from edittools.nets.base import Conditioning, NetworkPart, Once, at_once, encoder_digests, pad_states
from edittools.nets.flux import FluxEditModel, FluxNetwork, make_transformer
from edittools.nets.qwen_states import IMAGE, Encoded, QwenStates
from edittools.weights.lookup import load_strictly, read_config, read_tensors

STAGES = {
    # what trains: ImgEdit A.4; the image branch's list is UniWorld-V1's
    "1": ("states",),
    "2": ("states", "features", "image_branch"),
    "all": ("states", "features", "transformer"),
}
IMAGE_BRANCH = (
    ".norm1.linear.", ".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".attn.to_out.", ".attn.norm_q.", ".attn.norm_k.",
    ".ff.net.",
)  # fmt: skip  # of a double block
ENDS = ("x_embedder.", "norm_out.", "proj_out.")


@dataclass(frozen=True)
class Settings:
    weights: str  # the folder of a model
    stage: str = "all"  # which parts train: "1", "2" (ImgEdit A.4) or "all"
    insert: str = ""  # where image features go: "after_vision_end" or "append"; empty: as in the folder
    references: bool | None = None  # also use the latents of the sources (ours); unset: as in the folder
    guidance: float = 1.0  # guidance scale given to the distilled model (UniWorld-V1)
    max_pixels: int = 451584  # largest image that the language model sees, in pixels: 672²
    transformer: dict[str, Any] = field(default_factory=dict)  # a new transformer's configuration; empty: the weights'
    projectors: dict[str, Any] = field(default_factory=dict)  # new ones: states_width, features_width, hidden, width
    crop_positions: bool = False  # give tokens of a cropped image their positions in the whole image; one row per batch


def sees_references(settings: dict[str, Any]) -> bool:
    """Only in the ablation do the sources' latents go through the network."""
    return _described(str(settings.get("weights", "")), settings.get("insert", ""), settings.get("references"))[1]


def _described(weights: str, insert: str, references: bool | None) -> tuple[str, bool]:
    """`insert` and `references`; what is not set is as edit.json of the weights' folder says. Raises EditError."""
    kept = read_config(Path(weights), "edit.json") if Path(weights, "edit.json").is_file() else {}
    if references is None:
        references = kept.get("references") is True
    return insert or str(kept.get("insert", "after_vision_end")), bool(references)


class Projectors(nn.Module):
    """Two MLPs into the text stream: Linear, SiLU, Linear. That of the features has FLUX.1 Redux's shape."""

    def __init__(self, states_width: int, features_width: int, hidden: int, width: int, pooled_width: int) -> None:
        super().__init__()
        self.config = {
            "states_width": states_width,
            "features_width": features_width,
            "hidden": hidden,
            "width": width,
            "pooled_width": pooled_width,
        }
        self.states = nn.Sequential(nn.Linear(states_width, hidden), nn.SiLU(), nn.Linear(hidden, width))
        self.features = nn.Sequential(nn.Linear(features_width, hidden), nn.SiLU(), nn.Linear(hidden, width))
        # CLIP's pooled vector of the empty prompt, which FLUX.1 wants beside the text; zero for a new transformer
        self.pooled = nn.Parameter(torch.zeros(pooled_width), requires_grad=False)

    def load_redux(self, folder: Path) -> None:
        """Start the features' MLP from FLUX.1 Redux's image embedder. Raises EditError."""
        names = {"redux_up": "0", "redux_down": "2"}
        tensors = {}
        for name, tensor in read_tensors(folder).items():
            layer, _, kind = name.rpartition(".")
            if layer in names:
                tensors[f"{names[layer]}.{kind}"] = tensor
        load_strictly(self.features, tensors, folder)


def load(
    settings: Settings, *, encoders: bool, network: bool, seed: int, device: str, dtype: str,
    loading: dict[str, Any] | None = None, once: Once = at_once, **_: Any,
) -> E1:  # fmt: skip
    """Raises EditError that names what is missing."""
    if settings.stage not in STAGES:
        raise UsageError(f"recipe: no `stage` {settings.stage!r}", hint=", ".join(map(repr, STAGES)))
    if settings.max_pixels <= 0:
        raise UsageError("recipe: `max_pixels` must be positive")
    insert, references = _described(settings.weights, settings.insert, settings.references)
    if insert not in ("after_vision_end", "append"):
        raise UsageError('recipe: `insert` must be "after_vision_end" or "append"')
    settings = dataclasses.replace(settings, insert=insert, references=references)
    folder = Path(settings.weights)
    if not folder.is_dir():
        raise EditError(f"no folder {settings.weights}", hint="transformer/, projectors/, vae/, text_encoder/, ...")
    net = None
    if network:
        transformer = make_transformer(folder, settings.transformer, seed, loading, once)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            try:
                projectors = Projectors(**(settings.projectors or read_config(folder / "projectors")))
            except (TypeError, ValueError, RuntimeError) as error:
                raise UsageError(f"recipe: `model.projectors`: no settings of projectors: {describe(error)}") from error
        if not settings.projectors:
            load_strictly(projectors, read_tensors(folder / "projectors"), folder / "projectors")
        elif (folder / "redux").is_dir():
            projectors.load_redux(folder / "redux")
        if not projectors.pooled.any() and not settings.transformer:
            projectors.pooled.data = empty_prompt(folder, projectors.pooled.shape)
        net = E1Network(transformer, projectors, settings)
    edit_model = E1(settings, folder, net)
    if encoders:
        from diffusers import AutoencoderKL

        for name in ("vae", "image_encoder"):
            if not (folder / name).is_dir():
                raise EditError(f"{folder}: the folder `{name}` is missing")
        vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True, local_files_only=True)
        edit_model.use_autoencoder(vae.to(device, getattr(torch, dtype)))
        edit_model.qwen = QwenStates(folder, device, dtype, 56 * 56, settings.max_pixels)
        edit_model.siglip = Siglip(folder / "image_encoder", device, dtype)
    return edit_model


def empty_prompt(folder: Path, shape: torch.Size) -> Tensor:
    """CLIP's pooled vector of the empty prompt, as FLUX.1 was trained with it: from `clip/`, or as the folder's
    projectors have it. Raises EditError where there is neither."""
    if (folder / "clip").is_dir():
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(folder / "clip", local_files_only=True)
        model = CLIPTextModel.from_pretrained(folder / "clip", use_safetensors=True, local_files_only=True)
        # as FluxPipeline: padded to the longest
        ids = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
        with torch.no_grad():
            pooled = model(ids).pooler_output[0].float()
    else:
        pooled = read_tensors(folder / "projectors").get("pooled", torch.zeros(shape)).float()
    if not pooled.any() or pooled.shape != shape:
        raise EditError(
            f"{folder}: no pooled vector of the empty prompt, of {shape[0]} numbers, which FLUX.1 wants",
            hint="put FLUX.1's CLIP there as clip/: its text_encoder/ and tokenizer/ in one folder",
        )
    return pooled


class Siglip:
    """SigLIP2's vision tower: the last hidden states (tokens, D) of images."""

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        from transformers import AutoImageProcessor, AutoModel

        model = AutoModel.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
        )
        self.model = getattr(model, "vision_model", model).requires_grad_(False).eval().to(device)
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self.device, self.dtype = device, getattr(torch, dtype)

    @torch.no_grad()
    def encode(self, images: list[np.ndarray]) -> list[Tensor]:
        if not images:
            return []
        shown = [Image.fromarray(each) for each in images]
        pixels = self.processor(images=shown, return_tensors="pt")["pixel_values"]
        return list(self.model(pixels.to(self.device, self.dtype)).last_hidden_state)


class E1Network(FluxNetwork):
    def __init__(self, transformer: Any, projectors: Projectors, settings: Settings) -> None:
        super().__init__(transformer, "frame", settings.guidance, settings.crop_positions)
        self.projectors, self.references = projectors, bool(settings.references)
        self.requires_grad_(False)
        for name, parameter in self.named_parameters():
            if trains(name, STAGES[settings.stage]):
                parameter.requires_grad_(True)

    def text(self, conditioning: Conditioning, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = self.projectors.states(conditioning["states"])
        features = self.projectors.features(conditioning["features"])
        both = torch.cat([states, features], dim=1)
        order = conditioning["order"]
        text = torch.take_along_dim(both, order.clamp(min=0)[..., None], dim=1) * (order >= 0)[..., None]
        pooled = self.projectors.pooled.expand(len(states), -1)
        return text, pooled, torch.zeros(text.shape[1], 3, device=text.device)

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditioning: Conditioning) -> Tensor:
        return super().forward(x_t, t, references if self.references else [], conditioning)


def trains(name: str, what: tuple[str, ...]) -> bool:
    """Does a parameter of E1Network belong to what trains? `what` is of STAGES."""
    if name == "projectors.pooled":
        return False
    if name.startswith("projectors."):
        return name.split(".")[1] in what
    inner = name.removeprefix("transformer.")
    if "transformer" in what:
        return True
    if "image_branch" not in what:
        return False
    if inner.startswith("transformer_blocks."):
        return any(piece in name for piece in IMAGE_BRANCH)
    return inner.startswith("single_transformer_blocks.") or inner.startswith(ENDS)


class E1(FluxEditModel):
    distilled_guidance = 3.5  # FLUX.1-dev's; the paper says nothing of its sampler
    network: E1Network
    qwen: QwenStates
    siglip: Siglip

    def __init__(self, settings: Settings, folder: Path, network: E1Network | None) -> None:
        self.settings, self.folder = settings, folder
        self.sees_references, self.one_row = bool(settings.references), settings.crop_positions
        if network is not None:
            self.network = network

    def conditioning(self, sources: list[np.ndarray], text: str) -> Conditioning:
        """{"states": (L, D), "features": (F, S), "order": (L + F,)}: which of states then features stands where."""
        return self.conditioning_of([(sources, text)])[0]

    def conditioning_of(self, rows: Sequence[tuple[list[np.ndarray], str]]) -> list[Conditioning]:
        prompts = []
        for sources, text in rows:
            prompt = self.qwen.prompt([*([IMAGE] * len(sources)), text])
            cuts = [piece + "<|vision_end|>" for piece in prompt.split("<|vision_end|>")]
            cuts[-1] = cuts[-1].removesuffix("<|vision_end|>")
            prompts.append(cuts)
        every = self.qwen.encode_several([(cuts, sources) for cuts, (sources, _) in zip(prompts, rows)])
        features = iter(self.siglip.encode([source for sources, _ in rows for source in sources]))
        return [
            self._arranged(made, len(cuts), list(itertools.islice(features, len(sources))))
            for made, cuts, (sources, _) in zip(every, prompts, rows)
        ]

    def _arranged(self, made: Encoded, cuts: int, features: list[Tensor]) -> Conditioning:
        length = len(made.states)
        order, place = [], length
        for k in range(cuts):
            order += (made.pieces == k).nonzero()[:, 0].tolist()
            if k < len(features) and self.settings.insert == "after_vision_end":
                order += range(place, place + len(features[k]))
                place += len(features[k])
        order += range(place, length + sum(map(len, features)))
        width = self.siglip.model.config.hidden_size
        return {
            "states": made.states,
            "features": torch.cat(features) if features else made.states.new_zeros(0, width),
            "order": torch.tensor(order),
        }

    def collate(self, rows: list[Conditioning]) -> Conditioning:
        """Padded to the longest; padded places are zero vectors that attend, as in UniWorld-V1, which has no mask."""
        states = pad_states([row["states"] for row in rows])["states"]
        features = pad_states([row["features"] for row in rows])["states"]
        longest = max(len(row["order"]) for row in rows)
        orders = []
        for row in rows:
            order = row["order"]
            # features start where this row's states end; in the batch, where the longest row's end
            order = torch.where(order < len(row["states"]), order, order - len(row["states"]) + states.shape[1])
            orders.append(F.pad(order, (0, longest - len(order)), value=-1))
        return self.with_crops({"states": states, "features": features, "order": torch.stack(orders)}, rows)

    def example(self, references: int) -> Conditioning:
        # images of 672² pixels are 576 tokens each, SigLIP2's 512² are 1024
        config = self.network.projectors.config
        states = torch.zeros(64 + 576 * references, config["states_width"], dtype=torch.bfloat16)
        features = torch.zeros(1024 * references, config["features_width"], dtype=torch.bfloat16)
        return {"states": states, "features": features, "order": torch.arange(len(states) + len(features))}

    def encoding(self) -> dict[str, str]:
        chosen = self.settings
        return encoder_digests(self.folder, "imgedit_e1", chosen.insert, f"{chosen.max_pixels} pixels")

    def parts(self) -> dict[str, NetworkPart]:
        return {
            "transformer": NetworkPart("transformer.", dict(self.network.transformer.config)),
            "projectors": NetworkPart("projectors.", self.network.projectors.config, "model"),
        }

    def described(self) -> dict[str, Any]:
        return {"system": "imgedit_e1", "insert": self.settings.insert, "references": self.sees_references}

    def frozen_parts(self) -> dict[str, Path]:
        kept = ("vae", "text_encoder", "processor", "image_encoder")
        return {name: self.folder / name for name in kept if (self.folder / name).exists()}
