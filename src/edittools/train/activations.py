"""Activation checkpointing: what the backward pass computes again instead of remembering."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from edittools.nets.base import EditModel

# What "selective" remembers: the results of attention, whose cost grows with the square of the sequence, and every
# second matrix product; everything else is cheap to compute again.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}
_PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
}
# What compiled code calls: it writes into buffers of its own, which it uses again.
_INTO_BUFFERS = {
    torch.ops.aten.mm.out: torch.ops.aten.mm.default,
    torch.ops.aten.addmm.out: torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.out: torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.out: torch.ops.aten.baddbmm.default,
}


def checkpoint_activations(edit_model: EditModel, how: str) -> None:
    """how: "none", "selective" or "full" (every block's input only)."""
    if how == "none":
        return

    def run(block: Any, *arguments: Any) -> Any:
        extra: dict[str, Any] = {"context_fn": _selective} if how == "selective" else {}
        return checkpoint(block, *arguments, use_reentrant=False, **extra)

    edit_model.checkpoint(run)


class _OwnResults(TorchDispatchMode):
    """Matrix products that would be written into a given buffer are made anew and copied there: what is remembered of
    them stays as it is, and fills the buffer of the second time."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Otherwise torch would run blocks uncompiled within this mode."""
        return True

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if op not in _INTO_BUFFERS:
            return op(*args, **given)
        buffer = given.pop("out")
        return buffer.copy_(_INTO_BUFFERS[op](*args, **given))


@contextlib.contextmanager
def _with_own_results(remembering: Any) -> Iterator[None]:
    with remembering, _OwnResults():
        yield


def _selective() -> Any:
    products = {"forward": 0, "recompute": 0}

    def policy(context: Any, op: Any, *arguments: Any, **_: Any) -> CheckpointPolicy:
        if op in _ATTENTION:
            return CheckpointPolicy.MUST_SAVE
        if op in _PRODUCTS:
            phase = "recompute" if context.is_recompute else "forward"
            products[phase] += 1
            if products[phase] % 2:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return tuple(_with_own_results(context) for context in create_selective_checkpoint_contexts(policy))
