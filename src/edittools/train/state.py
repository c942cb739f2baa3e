"""What a step changes, and a checkpoint keeps: weights, their average, the optimisers' state, the place in the plan."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor, nn

from edittools.errors import EditError
from edittools.train import checkpoint
from edittools.train.config import Recipe
from edittools.train.log import say
from edittools.train.optimizers import Average, Optimizers
from edittools.train.parallel import Parallel
from edittools.train.plan import Plan


class TrainState:
    """A run after `step` steps. Its methods are for every process to call."""

    def __init__(
        self, recipe: Recipe, trained: dict[str, nn.Parameter], blocks: set[int], words: list[str]
    ) -> None:
        """trained: the parameters by name. blocks: see Optimizers. words: see System.words()."""
        self.recipe, self.trained, self.blocks = recipe, trained, blocks
        self.optimizers = Optimizers(recipe, trained, blocks)
        self.average = Average(trained, recipe.ema)
        self.words = words
        self.step = 0
        self.level = 0.0  # the loss's running mean
        self.tail = (0.0, 0)  # sum and number of the losses that the run's end tells the mean of
        self.epoch = 0  # of the plan, the latest that was drawn from
        self.plan_key = ""
        self.plan_begins = (0, 0)  # the step at which the present plan began, and the number of its first epoch

    def weights(self) -> dict[str, Tensor]:
        """What replaces the network's parameters in a model that is kept: their average, if there is one."""
        return self.average.values

    def tensors(self, optimizer: bool = True, average: bool = True) -> dict[str, Tensor]:
        found = {f"model/{name}": p.detach() for name, p in self.trained.items()}
        if average:
            found |= {f"average/{name}": value for name, value in self.average.values.items()}
        return found | (self.optimizers.tensors() if optimizer else {})

    def save(self, out: Path, parallel: Parallel) -> None:
        """The checkpoint of this step; those that are not to be kept go first. Raises EditError."""
        last, every = self.recipe.keep_last, self.recipe.keep_every
        if parallel.is_main:
            checkpoint.prune(out, max(1, last - 1), every)
        numbers = {
            "level": self.level,
            "tail": self.tail,
            "epoch": self.epoch,
            "plan": self.plan_key,
            "plan_begins": self.plan_begins,
            "optimizer": self.recipe.optimizer,
            "averaged": bool(self.recipe.ema),
            "words": self.words,
        }
        checkpoint.save(out, self.step, self.tensors(), numbers, parallel)
        if parallel.is_main:
            checkpoint.prune(out, last, every)
        parallel.wait()

    def resume(self, out: Path, branch: Path | None, parallel: Parallel) -> None:
        """Take the run's newest checkpoint that can be read, else the one to branch from, if there are any.

        One that cannot be read, where the one before can, is said and set aside: the next that is saved removes it.
        Raises EditError where none can be read.
        """
        found = parallel.gather(checkpoint.whole(out))
        if any(folders != found[0] for folders in found):
            raise EditError(f"{out}: not every process sees the same checkpoints")
        problems: list[EditError] = []
        for folder in found[0]:
            try:
                self._load(folder, parallel)
                break
            except EditError as error:
                problems.append(error)
                self.forget()
        else:
            if problems:
                raise EditError(f"{problems[0]}; the run has no other", hint="--overwrite begins anew")
            if branch is not None:
                self._load(branch, parallel)
        if parallel.is_main:
            for folder, problem in zip(found[0], problems):
                say(f"{problem}: the one before is used")
                aside = folder.with_name(f".damaged-{folder.name}")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
        parallel.wait()

    def forget(self) -> None:
        """New optimisers, as a checkpoint that could not be read may have filled half of them."""
        self.optimizers = Optimizers(self.recipe, self.trained, self.blocks)

    def _load(self, folder: Path, parallel: Parallel) -> None:
        kept = checkpoint.read_state(folder)
        averaged = bool(self.recipe.ema) and kept.get("averaged", True)
        same_rule = kept.get("optimizer", self.recipe.optimizer) == self.recipe.optimizer
        if same_rule:
            self.optimizers.prepare()
        tensors = self.tensors(same_rule, averaged)
        checkpoint.load(folder, tensors, parallel)
        if same_rule:
            self.optimizers.restore(tensors)
        elif parallel.is_main:
            say(f"`optimizer` was {kept['optimizer']}: {self.recipe.optimizer} begins with no state")
        if not averaged:
            for name, value in self.average.values.items():
                value.copy_(self.trained[name].detach())
        self.step, self.level = kept["step"], kept["level"]
        self.tail = tuple(kept.get("tail", self.tail))
        self.epoch, self.plan_key = kept.get("epoch", 0), kept.get("plan", "")
        self.plan_begins = tuple(kept.get("plan_begins", self.plan_begins))

    def follow(self, plan: Plan) -> bool:
        """Go on in a plan; in a new epoch where it is not the plan so far, which is returned."""
        key, before = plan.key(), self.plan_key
        self.plan_key = key
        if not before or before == key:
            return False
        self.plan_begins = (self.step, self.epoch + 1)
        return True
