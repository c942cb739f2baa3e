"""Activation checkpointing: what the backward pass computes again instead of remembering."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from edittools.models.systems.base import System

# What "selective" remembers: the results of attention, whose cost grows with the square of the sequence, and every
# second matrix product; everything else is cheap to compute again.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}
_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}


def checkpoint_activations(system: System, how: str) -> None:
    """how: "none", "selective" or "full" (every block's input only)."""
    transformer: Any = getattr(system.network, "transformer", None)
    if how == "none" or transformer is None:
        return

    def run(block: Any, *arguments: Any) -> Any:
        extra: dict[str, Any] = {"context_fn": _selective} if how == "selective" else {}
        return checkpoint(block, *arguments, use_reentrant=False, **extra)

    transformer.enable_gradient_checkpointing(run)


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

    return create_selective_checkpoint_contexts(policy)
