"""Step1X-Edit's connector: states of a language model -> the text stream of its transformer, and its pooled vector."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.errors import EditError, describe
from edittools.weights.lookup import load_strictly, read_config, read_tensors, save_converted

MODEL_TYPE = "step1x_connector"
TIME_WIDTH = 256  # of the sinusoids


@dataclass(frozen=True)
class ConnectorConfig:
    """Shape of a connector. The defaults are those of every release; the two flags tell the versions apart.

    states_width   of the language model's states (3584: Qwen2.5-VL-7B)
    width          of the states for the transformer's text stream, and of everything inside
    heads          of the refiner's attention
    depth          of the refiner, in blocks
    pooled_width   of the pooled vector
    pooled_scale   v1.0: the mean is multiplied by 1 + s, s learned from -0.91 on
    quoted_text    v1.2: tokens of quoted text get a linear map of their input embedding added
    """

    states_width: int = 3584
    width: int = 4096
    heads: int = 32
    depth: int = 2
    pooled_width: int = 768
    pooled_scale: bool = False
    quoted_text: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not type(field.default) or (type(value) is int and value < 1):
                raise ValueError(f"{field.name} = {value!r}: not a positive {type(field.default).__name__}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")


class Connector(nn.Module):
    """Refines the states of a vision-language model for a FLUX transformer (Step1X-Edit, arXiv 2504.17761, 3.2).

    With states x_i, i = 1 ... L, of which those with m_i = 1 are valid, and the time t in [0, 1]:

        x̄      = Σ m_i x_i / Σ m_i
        pooled = W_p x̄ (1 + s) + b_p                      s = 0 without `pooled_scale`
        c      = MLP_t(sinusoids(1000 t)) + MLP_c(x̄)      MLP: linear, SiLU, linear
        h      = W_e x + b_e
        each block:
          (g, g') = W_g SiLU(c) + b_g                     starts at zero, so that a block starts as the identity
          h      += g  · Attention(LayerNorm(h))          i attends j where m_i m_j = 1 or j is the first
          h      += g' · MLP(LayerNorm(h))                four times as wide inside, SiLU
        text   = h + q · (W_q e + b_q)                    only with `quoted_text`: e input embeddings, q mask of quotes

    Invalid slots are refined too (each attends the first state): the transformer has no mask and reads them.
    """

    def __init__(self, config: ConnectorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ConnectorConfig()
        self.embed = nn.Linear(config.states_width, config.width)
        self.time = _mlp(TIME_WIDTH, config.width, config.width)
        self.context = _mlp(config.states_width, config.width, config.width)
        self.blocks = nn.ModuleList([RefinerBlock(config.width, config.heads) for _ in range(config.depth)])
        self.pooled = nn.Linear(config.states_width, config.pooled_width)
        self.pooled_scale = nn.Parameter(torch.full((1,), -0.91)) if config.pooled_scale else None
        self.quoted_text = nn.Linear(config.states_width, config.width) if config.quoted_text else None
        for layer in self.time:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(
        self,
        states: Tensor,
        t: Tensor,
        mask: Tensor | None = None,
        quoted: Tensor | None = None,
        quoted_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """states (B, L, states_width), t (B,) in [0, 1], mask (B, L) bool -> text (B, L, width), pooled (B, pooled).

        mask         which states are valid; None if all are. A row without any gives NaN.
        quoted       (B, L, states_width), the language model's input embeddings; only with `quoted_text`
        quoted_mask  (B, L) bool, which of them are inside quotation marks. None for both: nothing is quoted.
        """
        if (quoted is None) != (quoted_mask is None):
            raise ValueError("quoted and quoted_mask come together")
        if quoted is not None and self.quoted_text is None:
            raise ValueError("this connector has no branch for quoted text")
        if mask is None:
            mean, allowed = states.mean(1), None
        else:
            mask = mask.bool()
            valid = mask[..., None].to(states.dtype)
            mean = (states * valid).sum(1) / valid.sum(1)
            allowed = mask[:, None, :, None] & mask[:, None, None, :]
            allowed[..., 0] = True  # a query that may attend nothing would be NaN
        scaled = mean if self.pooled_scale is None else mean * (1 + self.pooled_scale.to(mean.dtype))
        c = self.time(sinusoids(1000 * t.float()).to(self.embed.weight.dtype)) + self.context(mean)
        text = self.embed(states)
        for block in self.blocks:
            text = block(text, c, allowed)
        if self.quoted_text is not None and quoted is not None and quoted_mask is not None:
            text = text + self.quoted_text(quoted) * quoted_mask[..., None].to(text.dtype)
        return text, self.pooled(scaled)

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors."""
        save_converted(folder, self.state_dict(), settings(self.config))

    @classmethod
    def load(cls, folder: str | Path) -> Connector:
        """Read what save() wrote, in the precision it was written in. Raises EditError."""
        folder = Path(folder)
        config = read_connector_config(folder)
        tensors = read_tensors(folder)
        with torch.device("meta"):
            connector = cls(config)
        load_strictly(connector, tensors, folder, assign=True)
        return connector


class RefinerBlock(nn.Module):
    """Self-attention and MLP, each behind a gate that the condition c sets."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _mlp(width, 4 * width, width)
        self.gates = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)

    def forward(self, x: Tensor, c: Tensor, allowed: Tensor | None) -> Tensor:
        """x (B, L, width), c (B, width), allowed (B, 1, L, L) bool or None for all -> (B, L, width)."""
        attention, mlp = self.gates(F.silu(c))[:, None].chunk(2, -1)
        q, k, v = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)
        x = x + attention * self.out(seen)
        return x + mlp * self.mlp(self.norm_mlp(x))


def sinusoids(t: Tensor, width: int = TIME_WIDTH) -> Tensor:
    """t (B,) -> (B, width) float32: cosines, then sines, of t · 10000^(-i / (width / 2)), i = 0 ... width / 2 - 1."""
    half = width // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * exponents.exp()  # up to 1000: another order of rounding would show in the fifth digit
    return torch.cat([angles.cos(), angles.sin()], -1)


def settings(config: ConnectorConfig) -> dict[str, Any]:
    """The contents of config.json."""
    return {"model_type": MODEL_TYPE, **dataclasses.asdict(config)}


def read_connector_config(folder: Path) -> ConnectorConfig:
    """The config.json of a connector. Raises EditError."""
    found = read_config(folder)
    if found.pop("model_type", None) != MODEL_TYPE:
        raise EditError(f"{folder}: config.json is not that of a {MODEL_TYPE}")
    try:
        return ConnectorConfig(**found)
    except (TypeError, ValueError) as error:
        raise EditError(f"{folder}: config.json: {describe(error)}") from error


def _mlp(width_in: int, inside: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, inside), nn.SiLU(), nn.Linear(inside, width_out))
