"""Weights that do not train, made smaller: 8 or 4 bits each, and blocks of them that wait in the main memory.

Only the weights are rounded, and only those that adapters are trained beside; products are as precise as elsewhere. A
weight is turned back when it is used, in the backward pass again, and is never kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from edittools.errors import UsageError
from edittools.nets.acceleration import MODULATION
from edittools.train.config import OPTIMIZERS, Recipe
from edittools.weights.quiet import open_bitsandbytes

NF4_BLOCK = 64  # weights that share a scale [QLoRA, Dettmers et al. 2023, 3]
LARGEST = {"int8": 127.0, "fp8": 448.0}  # of the stored numbers
STORED = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
WAYS = (*LARGEST, "nf4")


class FrozenLinear(nn.Module):
    """A linear layer with a weight (out, in) in few bits and a bias as it was.

    int8, fp8   w ≈ codes · scale, one scale per row: its largest |w| over the largest number
    nf4         the 16 quantiles of a normal distribution times the largest |w| of 64 weights [QLoRA 3]

    Both are kept as parameters of whole numbers, the bits of what they are: FSDP2 shards parameters, and casts those
    that are not whole numbers to the arithmetic's precision.
    """

    codes: nn.Parameter
    scale: nn.Parameter

    def __init__(self, linear: nn.Linear, how: str) -> None:
        super().__init__()
        self.how, self.shape = how, tuple(linear.weight.shape)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        codes, scale = quantize(linear.weight.detach(), how)
        self.codes = nn.Parameter(codes.view(torch.uint8), requires_grad=False)
        self.scale = nn.Parameter(scale.view(torch.int32), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        return dequantize(self.codes, self.scale, self.how, self.shape, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        made: Tensor = _Product.apply(x.to(dtype), self.codes, self.scale, self.how, self.shape)
        return made if self.bias is None else made + self.bias.to(dtype)


class _Product(torch.autograd.Function):
    """x Wᵀ of a weight that is remembered in few bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, how: str, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.how, ctx.shape = how, shape
        return F.linear(x, dequantize(codes, scale, how, shape, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        codes, scale = ctx.saved_tensors
        return gradients[0] @ dequantize(codes, scale, ctx.how, ctx.shape, gradients[0].dtype), None, None, None, None


def quantize(weight: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as codes of 8 bits and float32 scales; see FrozenLinear."""
    if how == "nf4":
        open_bitsandbytes('`quantize = "nf4"`')  # it defines the operations
        return torch.ops.bitsandbytes.quantize_4bit(weight.contiguous(), NF4_BLOCK, "nf4", torch.uint8)
    exact = weight.float()
    scale = exact.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST[how]
    scaled = exact / scale
    return (scaled.round() if how == "int8" else scaled).to(STORED[how]), scale


def dequantize(codes: Tensor, scale: Tensor, how: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The weight that quantize() rounded; `codes` and `scale` are what it returned, or their bits."""
    scale = scale.view(torch.float32)
    if how == "nf4":
        return torch.ops.bitsandbytes.dequantize_4bit(codes, scale, NF4_BLOCK, "nf4", shape, dtype)
    return (codes.view(STORED[how]).to(torch.float32) * scale).to(dtype)


def check_shared(recipe: Recipe, mode: str) -> None:
    """Raises UsageError for what cannot be sharded over processes; known before anything is loaded."""
    if mode not in ("fsdp", "hsdp"):
        return
    if recipe.block_swap:
        raise UsageError(
            f"recipe: `block_swap`: not with --parallel {mode}, whose devices hold a share of each block at any time",
            hint="--parallel ddp: each device fetches whole blocks; or sharded and without it, `quantize` as well",
        )
    if why := OPTIMIZERS.declared("UNSHARDED")[recipe.optimizer]:
        raise UsageError(f"`{recipe.optimizer}` {why}", hint="--parallel ddp")


def quantize_frozen(blocks: Sequence[nn.Module], how: str, device: torch.device) -> None:
    """Replace the frozen linear layers of blocks, in place, one block after the other on the device.

    Modulation layers stay as they are: they see one token per row, and decide how all others are scaled. Raises
    UsageError where the blocks' own weights train.
    """
    for block in blocks:
        found = [
            (parent, name, child)
            for path, parent in block.named_modules()
            for name, child in parent.named_children()
            if isinstance(child, nn.Linear)
            and not child.weight.requires_grad
            and not any(word in f"{path}.{name}" for word in MODULATION)
        ]
        if not found:
            raise UsageError("recipe: `quantize` is for weights that do not train", hint="set model.lora.rank")
        for parent, name, child in found:
            setattr(parent, name, FrozenLinear(child.to(device), how))


class BlockSwap:
    """Frozen weights of `count` blocks wait in the main memory; each block's are fetched while the one before computes.

    Evenly spaced among the others, so that there is the most time to fetch them in. What is fetched for a forward pass
    is let go after it: the backward pass fetches again, which needs activation checkpointing. At most two blocks'
    weights are there at once.
    """

    def __init__(self, blocks: Sequence[nn.Module], count: int, device: torch.device) -> None:
        if count > len(blocks):
            raise UsageError(f"recipe: `block_swap` is {count}, and the network has {len(blocks)} blocks")
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.last = 0  # the block that ran
        self.ahead: dict[int, list[Tensor]] = {}
        self.places: list[list[tuple[dict[str, Any], str, Tensor]]] = []
        for number, k in enumerate(len(blocks) * j // count for j in range(count)):
            block = blocks[k]
            places = []
            for module in block.modules():
                for kept in (module._parameters, module._buffers):
                    for name, tensor in kept.items():
                        if tensor is not None and not tensor.requires_grad:
                            places.append((kept, name, self._waiting(tensor)))
            self.places.append(places)
            block.register_forward_pre_hook(torch._dynamo.disable(self._bring(number)))
            # after an exception too: a recomputation ends by one
            block.register_forward_hook(torch._dynamo.disable(self._leave(number)), always_call=True)

    def _waiting(self, tensor: Tensor) -> Tensor:
        tensor.data = tensor.data.cpu().pin_memory() if self.device.type == "cuda" else tensor.data.cpu()
        return tensor

    @property
    def waiting(self) -> set[int]:
        """The ids of the tensors that stay where they are."""
        return {id(tensor) for places in self.places for _, _, tensor in places}

    def _fetch(self, number: int) -> list[Tensor]:
        if self.stream is None:
            return [tensor.to(self.device, copy=True) for _, _, tensor in self.places[number]]
        with torch.cuda.stream(self.stream):
            return [tensor.to(self.device, non_blocking=True) for _, _, tensor in self.places[number]]

    def _bring(self, number: int) -> Any:
        def bring(*_: Any) -> None:
            # unseen by selective checkpointing: whether a block is fetched here or one before is no part of its work
            with torch.no_grad(), _disable_current_modes():
                found, self.ahead = self.ahead.get(number), {}
                fetched = found or self._fetch(number)
                if self.stream is not None:
                    now = torch.cuda.current_stream(self.device)
                    now.wait_stream(self.stream)
                    for tensor in fetched:
                        tensor.record_stream(now)
                following = self._following(number)
                self.last = number
                if following == number:
                    self.ahead = {number: fetched}
                else:
                    self.ahead = {following: self._fetch(following)} if 0 <= following < len(self.places) else {}
            for (kept, name, _own), there in zip(self.places[number], fetched):
                kept[name] = there

        return bring

    def _following(self, number: int) -> int:
        """The block that is wanted after this one: the last and the first are used twice, where the direction turns."""
        end = len(self.places) - 1
        if number in (0, end) and number != self.last:
            return number
        if number in (0, end):
            return number + (1 if number == 0 else -1)
        return number + (1 if number > self.last else -1)

    def _leave(self, number: int) -> Any:
        def leave(*_: Any) -> None:
            for kept, name, tensor in self.places[number]:
                kept[name] = tensor

        return leave
