"""Step1X-Edit's published equations over a dict of tensors under their official names, with plain tensor operations.

The tests' independent truth for `edittools.nets.step1x.connector` and for the names in `edittools.nets.step1x.weights`:
nothing here comes from either, nor from diffusers. Everything is computed in float64, but for the sinusoids of the
time, whose angles the model is trained with in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """Of a model in the official layout; the defaults are tiny."""

    channels: int = 8
    hidden: int = 32
    heads: int = 2
    axes: tuple[int, ...] = (4, 4, 8)
    double: int = 2
    single: int = 2
    states: int = 20
    text: int = 24
    text_heads: int = 3
    refiners: int = 2
    pooled: int = 12
    scaled: bool = True
    quoted: bool = False


TINY = Size()
FULL = Size(64, 3072, 24, (16, 56, 56), 19, 38, 3584, 4096, 32, 2, 768)


def shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Every tensor of an official file."""
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs), (outputs,)

    hidden, text = size.hidden, size.text
    linear("img_in", size.channels, hidden)
    linear("txt_in", text, hidden)
    linear("time_in.in_layer", 256, hidden)
    linear("time_in.out_layer", hidden, hidden)
    linear("vector_in.in_layer", size.pooled, hidden)
    linear("vector_in.out_layer", hidden, hidden)
    blocks = [
        (f"double_blocks.{k}.{s}_", f"double_blocks.{k}.{s}_attn.norm") for k in range(size.double) for s in STREAMS
    ]
    for prefix, _ in blocks:
        linear(f"{prefix}mod.lin", hidden, 6 * hidden)
        linear(f"{prefix}attn.qkv", hidden, 3 * hidden)
        linear(f"{prefix}attn.proj", hidden, hidden)
        linear(f"{prefix}mlp.0", hidden, 4 * hidden)
        linear(f"{prefix}mlp.2", 4 * hidden, hidden)
    for k in range(size.single):
        linear(f"single_blocks.{k}.modulation.lin", hidden, 3 * hidden)
        linear(f"single_blocks.{k}.linear1", hidden, 7 * hidden)
        linear(f"single_blocks.{k}.linear2", 5 * hidden, hidden)
    for norm in [norm for _, norm in blocks] + [f"single_blocks.{k}.norm" for k in range(size.single)]:
        found[f"{norm}.query_norm.scale"] = found[f"{norm}.key_norm.scale"] = (hidden // size.heads,)
    linear("final_layer.linear", hidden, size.channels)
    linear("final_layer.adaLN_modulation.1", hidden, 2 * hidden)
    linear("connector.S.input_embedder", size.states, text)
    linear("connector.S.t_embedder.mlp.0", 256, text)
    linear("connector.S.t_embedder.mlp.2", text, text)
    linear("connector.S.c_embedder.linear_1", size.states, text)
    linear("connector.S.c_embedder.linear_2", text, text)
    for k in range(size.refiners):
        prefix = f"connector.S.individual_token_refiner.blocks.{k}."
        for norm in ("norm1", "norm2"):
            found[f"{prefix}{norm}.weight"] = found[f"{prefix}{norm}.bias"] = (text,)
        linear(f"{prefix}self_attn_qkv", text, 3 * text)
        linear(f"{prefix}self_attn_proj", text, text)
        linear(f"{prefix}mlp.fc1", text, 4 * text)
        linear(f"{prefix}mlp.fc2", 4 * text, text)
        linear(f"{prefix}adaLN_modulation.1", text, 2 * text)
    linear("connector.global_proj_out", size.states, size.pooled)
    if size.scaled:
        found["connector.scale_factor"] = (1,)
    if size.quoted:
        linear("text_token_mapping", size.states, text)
    return found


STREAMS = ("img", "txt")


def random_weights(size: Size, seed: int = 0) -> Weights:
    """float32, none zero, large enough that every part of the model shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes(size).items():
        noise = torch.randn(shape, generator=generator)
        wide = len(shape) == 2
        made[name] = noise / math.sqrt(shape[1]) if wide else 0.3 * noise + (0 if name.endswith("bias") else 1)
    return made


def transformer(
    weights: Weights, size: Size, tokens: Tensor, places: Tensor, t: Tensor, text: Tensor, pooled: Tensor
) -> Tensor:
    """tokens (B, N, channels), places (L + N, 3) with those of the text first, t (B,) in [0, 1] -> (B, N, channels)."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    turns = rotations(places, size.axes)
    vec = two(w, "time_in.in_layer", "time_in.out_layer", waves(1000 * t))
    vec = vec + two(w, "vector_in.in_layer", "vector_in.out_layer", pooled.double())
    x = {"img": affine(w, "img_in", tokens.double()), "txt": affine(w, "txt_in", text.double())}
    length = text.shape[1]
    for k in range(size.double):
        parts, kept = {}, {}
        for s in STREAMS:
            prefix = f"double_blocks.{k}.{s}_"
            # shift, scale, gate for the attention; then the same three for the MLP
            kept[s] = affine(w, f"{prefix}mod.lin", silu(vec))[:, None].split(size.hidden, -1)
            parts[s] = heads(
                w, affine(w, f"{prefix}attn.qkv", modulate(x[s], *kept[s][:2])), f"{prefix}attn.norm", size
            )
        q, key, v = (torch.cat([parts["txt"][i], parts["img"][i]], 2) for i in range(3))
        seen = attend(turn(q, turns), turn(key, turns), v)
        for s, mine in (("txt", seen[:, :length]), ("img", seen[:, length:])):
            prefix, (_, _, gate, shift, scale, mlp_gate) = f"double_blocks.{k}.{s}_", kept[s]
            x[s] = x[s] + gate * affine(w, f"{prefix}attn.proj", mine)
            inside = gelu(affine(w, f"{prefix}mlp.0", modulate(x[s], shift, scale)))
            x[s] = x[s] + mlp_gate * affine(w, f"{prefix}mlp.2", inside)
    both = torch.cat([x["txt"], x["img"]], 1)
    for k in range(size.single):
        prefix = f"single_blocks.{k}."
        shift, scale, gate = affine(w, f"{prefix}modulation.lin", silu(vec))[:, None].split(size.hidden, -1)
        fused = affine(w, f"{prefix}linear1", modulate(both, shift, scale))
        q, key, v = heads(w, fused[..., : 3 * size.hidden], f"{prefix}norm", size)
        seen = attend(turn(q, turns), turn(key, turns), v)
        joined = torch.cat([seen, gelu(fused[..., 3 * size.hidden :])], -1)
        both = both + gate * affine(w, f"{prefix}linear2", joined)
    shift, scale = affine(w, "final_layer.adaLN_modulation.1", silu(vec))[:, None].split(size.hidden, -1)
    return affine(w, "final_layer.linear", modulate(both[:, length:], shift, scale))


def connector(
    weights: Weights, size: Size, states: Tensor, t: Tensor, mask: Tensor,
    quoted: Tensor | None = None, quoted_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """states (B, L, states), t (B,), mask (B, L) -> text (B, L, text), pooled (B, pooled)."""
    w = {name.removeprefix("connector."): tensor.double() for name, tensor in weights.items()}
    x = states.double()
    mean = torch.stack([row[valid].mean(0) for row, valid in zip(x, mask.bool())])
    vector = mean * (1 + w["scale_factor"]) if size.scaled else mean
    c = two(w, "S.t_embedder.mlp.0", "S.t_embedder.mlp.2", waves(1000 * t))
    c = c + two(w, "S.c_embedder.linear_1", "S.c_embedder.linear_2", mean)
    h = affine(w, "S.input_embedder", x)
    allowed = mask.bool()[:, :, None] & mask.bool()[:, None, :]
    allowed[:, :, 0] = True
    for k in range(size.refiners):
        prefix = f"S.individual_token_refiner.blocks.{k}."
        gates = affine(w, f"{prefix}adaLN_modulation.1", silu(c))[:, None]
        normed = normalise(h) * w[f"{prefix}norm1.weight"] + w[f"{prefix}norm1.bias"]
        fused = affine(w, f"{prefix}self_attn_qkv", normed)
        q, key, v = (split(part, size.text_heads) for part in fused.split(size.text, -1))
        h = h + gates[..., : size.text] * affine(w, f"{prefix}self_attn_proj", attend(q, key, v, allowed))
        normed = normalise(h) * w[f"{prefix}norm2.weight"] + w[f"{prefix}norm2.bias"]
        h = h + gates[..., size.text :] * affine(w, f"{prefix}mlp.fc2", silu(affine(w, f"{prefix}mlp.fc1", normed)))
    if quoted is not None and quoted_mask is not None:
        h = h + torch.where(quoted_mask[..., None], affine(w, "text_token_mapping", quoted.double()), torch.zeros(()))
    return h, affine(w, "global_proj_out", vector)


# ---------------------------------------------------------------- parts


def affine(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def two(w: Weights, first: str, second: str, x: Tensor) -> Tensor:
    return affine(w, second, silu(affine(w, first, x)))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def normalise(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return normalise(x) * (1 + scale) + shift


def waves(t: Tensor) -> Tensor:
    """256 numbers for each time: cos, then sin, of t 10000^(-i / 128)."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angles = (t.float()[:, None] * frequencies).double()
    return torch.cat([torch.cos(angles), torch.sin(angles)], 1)


def split(x: Tensor, count: int) -> Tensor:
    """(B, N, heads · d) -> (B, heads, N, d)."""
    return torch.stack(x.chunk(count, -1), 1)


def heads(w: Weights, fused: Tensor, norm: str, size: Size) -> list[Tensor]:
    """Query, key and value, (B, heads, N, d) each; the first two of root mean square 1, times the learned scale."""
    q, key, v = (split(part, size.heads) for part in fused.chunk(3, -1))
    rms = [part / torch.sqrt((part**2).mean(-1, keepdim=True) + 1e-6) for part in (q, key)]
    return [rms[0] * w[f"{norm}.query_norm.scale"], rms[1] * w[f"{norm}.key_norm.scale"], v]


def attend(q: Tensor, key: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """(B, heads, N, d) each, allowed (B, N, N) -> (B, N, heads · d)."""
    scores = torch.einsum("bhid,bhjd->bhij", q, key) / math.sqrt(q.shape[-1])
    if allowed is not None:
        scores = torch.where(allowed[:, None], scores, torch.full((), -math.inf, dtype=scores.dtype))
    return torch.cat(torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v).unbind(1), -1)


def rotations(places: Tensor, axes: tuple[int, ...]) -> Tensor:
    """(N, 3) -> (N, d / 2) complex: each axis turns its share of the pairs of numbers, pair i by p 10000^(-2 i / d)."""
    angles = [
        places[:, axis, None].double() * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        for axis, width in enumerate(axes)
    ]
    return torch.polar(torch.ones(()).double(), torch.cat(angles, 1))


def turn(x: Tensor, by: Tensor) -> Tensor:
    pairs = torch.complex(x[..., 0::2], x[..., 1::2]) * by
    return torch.stack([pairs.real, pairs.imag], -1).flatten(-2)
