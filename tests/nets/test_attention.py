"""Backends of attention are tried before they are used, forward and backward, at the lengths of the run."""

from __future__ import annotations

import diffusers.models.attention_dispatch as dispatch
import pytest
import torch
from test_bucket_sampler import sized
from tiny_architectures import QWEN
from training import tiny

from edittools.errors import UsageError
from edittools.nets.acceleration import set_attention
from edittools.train import loop
from edittools.train.bucket_sampler import BucketSampler


class Alone:
    """A network that is nothing but its transformer."""

    def __init__(self) -> None:
        from diffusers import QwenImageTransformer2DModel

        self.network = self
        self.transformer = QwenImageTransformer2DModel(**QWEN)


@pytest.fixture
def poisoned(monkeypatch):
    """Gradients of attention are NaN where there is a mask whose length is 64 modulo 128; what was asked for."""
    asked = []

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    real = dispatch.dispatch_attention_fn

    def made(q, k, v, attn_mask=None, **more):
        asked.append((q.shape[1], attn_mask is not None))
        found = real(q, k, v, attn_mask=attn_mask, **more)
        return Poison.apply(found) if attn_mask is not None and q.shape[1] % 128 == 64 else found

    monkeypatch.setattr(dispatch, "dispatch_attention_fn", made)
    return asked


def test_a_backend_with_bad_gradients_is_refused(poisoned):
    cpu = torch.device("cpu"), torch.float32
    transformer = Alone().transformer
    assert not set_attention(transformer, "native", *cpu, [64, 192])  # the results themselves are good
    assert not set_attention(transformer, "native", *cpu, [100, 200], backward=True)
    with pytest.raises(UsageError, match="gradients are not finite at 192 tokens with a mask"):
        set_attention(transformer, "native", *cpu, [100, 192], backward=True)
    with pytest.raises(UsageError, match="attention `_native_nothing`"):
        set_attention(transformer, "_native_nothing", *cpu)


def test_auto_takes_the_first_that_works_at_the_lengths_of_the_run(poisoned, monkeypatch):
    sampler = BucketSampler(tiny(resolution=[64, 64], batch_tokens=192), sized([((64, 64), (64, 64))] * 4), 8, 8)
    system, place = Alone(), (torch.device("cpu"), torch.float32)
    assert loop.choose_attention(system, "auto", *place, sampler) == "native"
    assert {(128 + 77, True), (128 + 512, True), (128 + 512, False)} <= set(poisoned)
    with pytest.raises(UsageError, match="flash_hub does not train"):
        loop.choose_attention(system, "flash_hub", *place, sampler)
    # of several the first that works
    monkeypatch.setattr(loop, "ATTENTION", ("_native_cudnn", "native"))
    tried = []

    def set_one(transformer, name, *rest, **more):
        tried.append(name)
        if name == "_native_cudnn":
            raise UsageError("attention `_native_cudnn`: its gradients are not finite")
        return False

    monkeypatch.setattr(loop, "set_attention", set_one)
    assert loop.choose_attention(system, "auto", torch.device("cuda"), torch.bfloat16, sampler) == "native"
    assert tried == ["_native_cudnn", "native"]
