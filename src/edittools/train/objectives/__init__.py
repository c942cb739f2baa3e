"""What a run learns: an objective turns a batch into the loss of its rows.

An objective is one file of this folder: the file name is what a recipe's `objective` says. Its `load(recipe,
edit_model, rows, device)` makes the Objective of a run, or raises UsageError where these rows are not for it. As
literals, which are read without importing it, it declares

    HELP       what the recipe's manual says of it
    SETTINGS   its own settings and their defaults, numbers, texts, yes or no: what a recipe's `objective_settings` may
               say, and what `recipe.of_objective()` comes to
    COPIES     names of sets of weights that are kept beside those that train, as a reference or an old policy: each
               begins as the weights that the run begins with, is as large, and lies in the checkpoints. Where some of
               them are not needed under some settings, a function copies(settings) gives those that are
    PAIRS      whether rows are preference pairs: a batch then has `rejected` beside `target`, both go through the
               network, and half as many rows make a batch

The loop does the rest: it draws rows, noise and times, calls `losses` of every batch, and leaves the gradient of the
step's mean loss. Everything that `losses` does has to be a function of the batch, the step and the weights.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edittools.errors import UsageError
from edittools.nets.base import EditModel
from edittools.train.config import OBJECTIVES, Recipe
from edittools.train.copies import Copy
from edittools.train.data import Loader, Step, TrainBatch
from edittools.train.heldout import HeldOut
from edittools.train.parallel import Parallel
from edittools.train.rows import Rows


@dataclass(frozen=True)
class Losses:
    """What an objective makes of a batch."""

    rows: Tensor  # (B,), in float32 at least, with their gradient
    numbers: Mapping[str, Tensor] = field(default_factory=dict)  # further numbers of every row, (B,): the log has means


@dataclass(frozen=True)
class TrainedModel:
    """The network in training, as an objective asks it."""

    recipe: Recipe
    edit_model: EditModel
    network: Any  # as Parallel.wrap() gives it
    parallel: Parallel
    copies: Mapping[str, Copy] = field(default_factory=dict)  # those that the objective declares
    trying: bool = False  # the batch is no step's: it only has to need as much memory

    def __call__(self, x_t: Tensor, batch: TrainBatch) -> Tensor:
        """What the network says of noisy latents (B, C, h, w) at the batch's times, in the run's arithmetic.

        x_t may be several such in one, (n B, C, h, w), each of which meets the batch's times and conditioning.
        """
        several = len(x_t) // len(batch.t)
        if several > 1 and self.edit_model.one_row:
            return torch.cat([self(part, batch) for part in x_t.chunk(several)])

        def repeated(x: Tensor) -> Tensor:
            return torch.cat([x] * several) if several > 1 else x

        t, references = repeated(batch.t), [repeated(x) for x in batch.references]
        conditioning = {name: repeated(x) for name, x in batch.conditioning.items()}
        with self.parallel.arithmetic(getattr(torch, self.recipe.dtype)):
            return self.network(x_t, t, references, conditioning)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def by(self, name: str) -> Iterator[None]:
        """Within the block the network has the weights of a copy, drops nothing, and there are no gradients.

        Weights are exchanged in place: a pass that is to have a gradient comes after the block, never before it. Every
        process has to enter it, and to make as many passes in it.
        """
        self.network.eval()
        try:
            with torch.no_grad(), self.copies[name].swapped():
                yield
                if hasattr(self.network, "reshard"):
                    self.network.reshard()  # FSDP2 keeps what is outside the blocks whole after a pass
        finally:
            self.network.train()


@dataclass(frozen=True)
class Around:
    """What an objective that makes steps of its own needs to know of the run."""

    first: int  # the step that it begins with, or goes on from
    out: Path  # the run's folder
    tell: Callable[[str, dict[str, Any]], None]  # adds a line, which has "step", to the log NAME.jsonl
    heldout: HeldOut | None


class Objective(ABC):
    """What a batch becomes."""

    @abstractmethod
    def losses(self, model: TrainedModel, batch: TrainBatch, step: int, factor: float) -> Losses:
        """The losses of a batch's rows, on the device that it lies on; `factor` is the learning rate's."""

    def planned(self, step: int) -> int:
        """The step of the plan, which says what rows meet in which batch, that a step of the run is made of."""
        return step

    def work(self, loader: Loader, model: TrainedModel, around: Around) -> Generator[Step, None, None]:
        """The run's steps, out of those of the plan; every process asks for each of them at the same time."""
        yield from loader

    def stepped(self, model: TrainedModel, step: int) -> None:
        """Called after every update of the weights with the number of steps done: copies may follow."""
        return None

    def heed(self, line: Mapping[str, Any]) -> str:
        """Look at a line of the log before it is written; returns what is to be said of it, if anything.

        It is shown every line in their order, those of before a run was interrupted too.
        """
        return ""


def plain(recipe: Recipe) -> None:
    """Raises UsageError for settings of supervised losses, of an objective that has no use for them."""
    unused = {
        "mask_weight": recipe.mask_weight != 1,
        "region_weight": recipe.region_weight,
        "consistency": bool(recipe.consistency),
    }
    for name in (name for name, is_set in unused.items() if is_set):
        raise UsageError(f"recipe: `{name}` is for the objective `flow`, not for `{recipe.objective}`")


def load_objective(recipe: Recipe, edit_model: EditModel, rows: Rows, device: torch.device) -> Objective:
    """The objective that a recipe names. Raises UsageError, EditError."""
    made: Objective = OBJECTIVES.load(recipe.objective).load(recipe, edit_model, rows, device)
    return made
