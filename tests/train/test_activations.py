"""Activation checkpointing: the gradients stay what they are, and what is remembered is remembered."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edittools.nets.acceleration import compile_blocks
from edittools.train import activations


class Block(nn.Module):
    """Attention and an MLP: four matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(2, 32, 3, 4, 16).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 32, 64)
        x = x + self.out(torch.tanh(seen) * torch.sigmoid(seen))
        return x + self.down(F.gelu(self.up(x)))


def gradients(compiled: bool | str, how: str) -> list[Tensor]:
    torch.manual_seed(0)
    block, x = Block(), torch.randn(2, 32, 64, requires_grad=True)
    if compiled:
        if compiled != "inductor":
            block.compile = functools.partial(block.compile, backend=compiled)
        compile_blocks([block])
    extra = {"context_fn": activations._selective} if how == "selective" else {}
    made = block(x) if how == "none" else checkpoint(block, x, use_reentrant=False, **extra)
    made.square().sum().backward()
    found = [x.grad, *(p.grad for p in block.parameters())]
    assert all(g is not None for g in found)
    return [g for g in found if g is not None]


@pytest.mark.parametrize("compiled", [False, "aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_selective_remembers_every_second_product_and_keeps_the_gradients(
    monkeypatch: pytest.MonkeyPatch, compiled: bool | str
) -> None:
    """Which products are remembered is settled where the graph is cut, before its kernels are made."""
    remembered: list[bool] = []
    make = activations.create_selective_checkpoint_contexts

    def told(policy):
        def seen(context, op, *arguments, **rest):
            answer = policy(context, op, *arguments, **rest)
            if "mm" in str(op):
                remembered.append(answer == activations.CheckpointPolicy.MUST_SAVE)
            return answer

        return make(seen)

    truth = gradients(False, "none")
    monkeypatch.setattr(activations, "create_selective_checkpoint_contexts", told)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for made, expected in zip(gradients(compiled, "selective"), truth, strict=True):
        assert torch.allclose(made, expected, atol=1e-4)
    assert remembered == [True, False, True, False]
    # it was compiled, and not run as if it were not
    assert bool(torch._dynamo.utils.counters["stats"]["unique_graphs"]) == bool(compiled)
