"""Which optimiser trains which parameter, and what of it a checkpoint has to keep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edittools.errors import UsageError, missing_extra
from edittools.train.config import Recipe
from edittools.train.muon import Muon
from edittools.train.parallel import local

# What a rule keeps for all parameters together: Prodigy's estimate of the distance and its sums.
GROUP_STATE = ("d", "d_max", "d_numerator", "d_denom", "d_hat", "k")

CONSTANTS = {"qmap1", "qmap2"}  # bitsandbytes' tables of values, one for all parameters


class Optimizers:
    """The optimisers of a run as one: each with its base learning rate."""

    def __init__(self, recipe: Recipe, trained: dict[str, nn.Parameter], blocks: set[int]) -> None:
        """trained: the parameters by name. blocks: the ids of those in the network's repeated blocks.

        "muon" is for the matrices of the blocks, AdamW for all others: the modulation layers, which turn one time
        into scales and shifts, are no maps between features.
        """
        self.names = {id(p): name for name, p in trained.items()}
        muon = [
            p
            for name, p in trained.items()
            if recipe.optimizer == "muon" and p.ndim == 2 and id(p) in blocks and not _modulates(name)
        ]
        chosen = {id(p) for p in muon}
        rest = [p for p in trained.values() if id(p) not in chosen]
        self.pairs: list[tuple[torch.optim.Optimizer, float]] = []
        if rest:
            self.pairs.append((_rule(recipe, _groups(recipe, rest)), recipe.lr))
        if muon:
            self.pairs.append((Muon(muon, recipe.muon_lr, recipe.muon_momentum, recipe.weight_decay), recipe.muon_lr))

    def step(self, factor: float) -> None:
        """One update; the learning rates are the recipe's times a factor. Forgets the gradients."""
        for optimizer, rate in self.pairs:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    # -------------------------------------------------------------------------------------- checkpoints

    def tensors(self) -> dict[str, Tensor]:
        """All state as tensors by name, those that are filled in place by loading them included."""
        found: dict[str, Tensor] = {}
        for name, value, _, _ in self._state():
            kept = value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
            found[f"optimizer/{name}"] = kept
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back the numbers that tensors() made tensors of; tensors have been filled in place."""
        for name, value, holder, key in self._state():
            if not isinstance(value, Tensor):
                holder[key] = type(value)(tensors[f"optimizer/{name}"].item())

    def prepare(self) -> None:
        """Make the state exist, as after a step, without moving a weight: so that a checkpoint can be filled in."""
        for optimizer, _ in self.pairs:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = torch.zeros_like(p)
        self.step(0.0)

    def _state(self) -> Iterator[tuple[str, Any, Any, str]]:
        """(name, value, the dictionary it is in, its key there)."""
        for optimizer, _ in self.pairs:
            for p, state in optimizer.state.items():
                for kind in sorted(set(state) - CONSTANTS):
                    yield f"{kind}/{self.names[id(p)]}", state[kind], state, kind
            for number, group in enumerate(optimizer.param_groups):
                for kind in GROUP_STATE:
                    if kind in group:
                        yield f"{type(optimizer).__name__}.{number}/{kind}", group[kind], group, kind


def _modulates(name: str) -> bool:
    return any(piece in name for piece in ("_mod.", ".norm1.linear.", ".norm1_context.linear.", ".norm.linear."))


def _groups(recipe: Recipe, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Groups of parameters; those that are no matrices, the norms' scales and the biases, may go without decay."""
    if recipe.decay_norms:
        return [{"params": parameters, "weight_decay": recipe.weight_decay}]
    parts = ([p for p in parameters if p.ndim > 1], recipe.weight_decay), ([p for p in parameters if p.ndim < 2], 0.0)
    return [{"params": members, "weight_decay": decay} for members, decay in parts if members]


def _rule(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    betas = (recipe.betas[0], recipe.betas[1])
    common: dict[str, Any] = {"lr": recipe.lr, "betas": betas}
    if recipe.optimizer == "prodigy":
        try:
            from prodigyopt import Prodigy
        except ImportError:
            raise missing_extra("prodigyopt", "train", "the optimiser `prodigy`") from None
        # the library prints a line for a weight decay that is given at once
        decays = [group.pop("weight_decay") for group in groups]
        optimizer = Prodigy(groups, **common, weight_decay=0, decouple=True, use_bias_correction=True)
        for group, decay in zip(optimizer.param_groups, decays):
            group["weight_decay"] = decay
        return optimizer
    if recipe.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise missing_extra("bitsandbytes", "train", "the optimiser `adamw8bit`") from None
        if any(hasattr(p, "to_local") for group in groups for p in group["params"]):
            raise UsageError("`adamw8bit` keeps its state in blocks that cannot be sharded", hint="--parallel ddp")
        return AdamW8bit(groups, **common)
    return torch.optim.AdamW(groups, **common, fused=True)


class Average:
    """The moving average of what trains, sharded as it is [SPEC T7]."""

    def __init__(self, trained: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.trained = trained
        self.values = {name: p.detach().clone() for name, p in trained.items()} if decay else {}

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the network has the average; afterwards again its own weights, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.values.items():
            mine, average = local(self.trained[name].detach()), local(value)
            kept = mine.clone()  # one tensor at a time: no second copy of the network
            mine.copy_(average)
            average.copy_(kept)

    @torch.no_grad()
    def update(self, k: int) -> None:
        """Fold in the weights after the k-th averaged step (from 1).

        The average is a true weighted mean of the weights seen, the i-th with weight decay^(k-i): nothing of the
        random start is left in it. decay = 1 is the arithmetic mean.
        """
        if not self.values:
            return
        # e_k = Σ_i d^(k-i) θ_i / Σ_i d^(k-i)   =>   e_k = e_(k-1) + r_k (θ_k - e_(k-1)),  r_k = (1 - d) / (1 - d^k)
        rate = 1 / k if self.decay == 1 else (1 - self.decay) / (1 - self.decay**k)
        torch._foreach_lerp_(
            [local(v) for v in self.values.values()], [local(p.detach()) for p in self.trained.values()], rate
        )
