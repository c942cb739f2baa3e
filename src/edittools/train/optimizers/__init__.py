"""Which optimiser trains which parameter, and what of it a checkpoint has to keep.

An optimiser is one file of this folder: the file name is what a recipe's `optimizer` says. Its `rule(recipe, groups)`
makes the torch.optim.Optimizer of groups of parameters, each with its weight decay and at the learning rate
`recipe.lr`. One for the matrices of the network's repeated blocks has `block_rule(recipe, matrices)` too, at a rate of
its own. As literals, which are read without importing it, it declares

    HELP         what the recipe's manual says of it
    KEPT         bytes that its classes, by name, keep for each number that they train; as AdamW if it says nothing
    SETTINGS     its own settings and their defaults, numbers, texts, yes or no: what a recipe's `optimizer_settings`
                 may say, and what `recipe.of_optimizer()` comes to
    GROUP_STATE  what it keeps for all parameters of a group together, by the names in the group
    CONSTANTS    what it keeps for each parameter that is the same for all, and belongs into no checkpoint
    WHOLE        whether its updates are made of whole matrices, all of one shape at once
    UNSHARDED    why its state cannot be sharded over processes, where it cannot
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edittools.errors import EditError, UsageError
from edittools.train.config import OPTIMIZERS, Recipe


class Optimizers:
    """The optimisers of a run as one: each with its base learning rate."""

    def __init__(
        self, recipe: Recipe, trained: dict[str, nn.Parameter], blocks: set[int],
        rate: Callable[[str], float] = lambda name: 1.0,
    ) -> None:  # fmt: skip
        """trained: the parameters by name. blocks: the ids of those in the network's repeated blocks. rate: the
        learning rate of a parameter by its name, relative to the recipe's; a rule for matrices knows one alone.

        A rule for matrices is for those of the blocks, without the modulation layers: these turn one time into scales
        and shifts, and are no maps between features.
        """
        self.names = {id(p): name for name, p in trained.items()}
        self.rates = {id(p): rate(name) for name, p in trained.items()}
        self.rule = recipe.optimizer
        chosen_rule = OPTIMIZERS.load(recipe.optimizer)
        by_blocks = getattr(chosen_rule, "block_rule", None)
        matrices = [
            p
            for name, p in trained.items()
            if by_blocks is not None and p.ndim == 2 and id(p) in blocks and not _modulates(name)
        ]
        chosen = {id(p) for p in matrices}
        if any(self.rates[number] != 1 for number in chosen):
            raise UsageError(f"recipe: `optimizer`: {self.rule} has one rate for the matrices of all blocks")
        rest = [p for p in trained.values() if id(p) not in chosen]
        self.pairs: list[tuple[torch.optim.Optimizer, float]] = []
        if rest:
            self.pairs.append((chosen_rule.rule(recipe, self._groups(recipe, rest)), recipe.lr))
        if by_blocks is not None and matrices:
            optimizer = by_blocks(recipe, matrices)
            self.pairs.append((optimizer, optimizer.param_groups[0]["lr"]))
        self._begun = {id(group): dict(group) for optimizer, _ in self.pairs for group in optimizer.param_groups}

    def step(self, factor: float) -> None:
        """One update; the learning rates are the recipe's times a factor. Forgets the gradients.

        Raises EditError, after the first, for state of a group that is not declared: no checkpoint would keep it.
        """
        for optimizer, rate in self.pairs:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor * group.get("relative_rate", 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._check_declared()

    def _groups(self, recipe: Recipe, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
        """Groups of parameters of one learning rate each, and of one weight decay."""
        by_rate: dict[float, list[nn.Parameter]] = {}
        for p in parameters:
            by_rate.setdefault(self.rates[id(p)], []).append(p)
        return [
            group if rate == 1 else {**group, "relative_rate": rate}
            for rate, members in by_rate.items()
            for group in _groups(recipe, members)
        ]

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

    def _check_declared(self) -> None:
        known = {"params", "lr"} | _of_all("GROUP_STATE")
        for optimizer, _ in self.pairs:
            for group in optimizer.param_groups:
                begun = self._begun[id(group)]
                for name in group.keys() - known:
                    if name not in begun or (group[name] is not begun[name] and group[name] != begun[name]):
                        raise EditError(
                            f"optimizer `{self.rule}` changes `{name}` of a group, which no checkpoint would keep",
                            hint=f'GROUP_STATE = ("{name}",) in its file',
                        )

    def _state(self) -> Iterator[tuple[str, Any, Any, str]]:
        """(name, value, the dictionary it is in, its key there)."""
        for optimizer, _ in self.pairs:
            for p, state in optimizer.state.items():
                for kind in sorted(set(state) - _of_all("CONSTANTS")):
                    yield f"{kind}/{self.names[id(p)]}", state[kind], state, kind
            for number, group in enumerate(optimizer.param_groups):
                for kind in sorted(_of_all("GROUP_STATE")):
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


def _of_all(constant: str) -> set[str]:
    return {name for names in OPTIMIZERS.declared(constant, ()).values() for name in names}


def rate_factor(recipe: Recipe, step: int) -> float:
    """The learning rate's factor: linear warm-up, constant, then to zero at the last step by `schedule`.

    "linear": a line; "cosine": (1 + cos(π p)) / 2 with p the share that is done of what is left [SGDR, 2017].
    """
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    share = recipe.decay_from if recipe.decay_from >= 0 else float(recipe.schedule == "linear")
    start = max(share * recipe.steps, recipe.warmup)
    if step < start:
        return 1.0
    left = (recipe.steps - step) / (recipe.steps - start)
    return left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
