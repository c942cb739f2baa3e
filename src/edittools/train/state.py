"""What a step changes, and a checkpoint keeps: weights, their average and copies, the optimisers' state, the place in
the sampler."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from edittools.errors import EditError
from edittools.train import checkpoint
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.config import Recipe
from edittools.train.copies import AVERAGE, RAW, Average, Copy
from edittools.train.log import say
from edittools.train.optimizers import Optimizers
from edittools.train.parallel import Parallel


class TrainState:
    """A run after `step` steps. Its methods are for every process to call."""

    def __init__(
        self, recipe: Recipe, trained: dict[str, nn.Parameter], blocks: set[int], words: list[str],
        rate: Callable[[str], float] = lambda name: 1.0,
    ) -> None:  # fmt: skip
        """trained: the parameters by name. blocks, rate: see Optimizers. words: see EditModel.words()."""
        self.recipe, self.trained, self.blocks, self.rate = recipe, trained, blocks, rate
        self.optimizers = Optimizers(recipe, trained, blocks, rate)
        self.average = Average(trained, recipe.ema)
        self.lock = self.average.lock  # whoever has it sees nothing change
        self.copies = {name: Copy(trained, self.lock) for name in recipe.copies}
        self.whole = True  # it is that of a finished step
        self.words = words
        self.step = 0
        self.level = 0.0  # the loss's running mean
        self.tail = (0.0, 0)  # sum and number of the losses that the run's end tells the mean of
        self.epoch = 0  # of the sampler, the latest that was drawn from
        self.plan_key = ""
        self.plan_begins = (0, 0)  # the step at which the present sampler began, and the number of its first epoch

    @property
    def left(self) -> str:
        """Which weights a model that is kept has."""
        asked = self.recipe.of_objective().get("export")
        return asked if asked in self.copies else AVERAGE if self.average.values else RAW

    def weights(self) -> dict[str, Tensor]:
        """What replaces the network's parameters in a model that is kept: their average, if there is one, or the copy
        that the objective's setting `export` names."""
        return self.copies[self.left].values if self.left in self.copies else self.average.values

    def tensors(self, without: Collection[str] = ()) -> dict[str, Tensor]:
        """By name: "model/NAME", "average/NAME", "copy/COPY/NAME", "optimizer/KIND/NAME"; `without` some of these."""
        sets: dict[str, Mapping[str, Tensor]] = {"model": {name: p.detach() for name, p in self.trained.items()}}
        for kind, copy in {"average": self.average, **{f"copy/{name}": c for name, c in self.copies.items()}}.items():
            sets[kind] = copy.values
            if copy.away and copy.values:
                sets["model"], sets[kind] = sets[kind], sets["model"]
        found = {
            f"{kind}/{name}": value
            for kind, values in sets.items()
            if kind.partition("/")[0] not in without
            for name, value in values.items()
        }
        return found if "optimizer" in without else found | self.optimizers.tensors()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """What is done within the block is done as a whole, or the state is not to be saved."""
        with self.lock:
            self.whole = False
            yield
            self.whole = True

    def save(self, saver: checkpoint.Saver) -> None:
        """Begin to write the checkpoint of this step, unless there is one. Raises EditError: see Saver.begin()."""
        numbers = {
            "level": self.level,
            "tail": self.tail,
            "epoch": self.epoch,
            "plan": self.plan_key,
            "plan_begins": self.plan_begins,
            "optimizer": self.recipe.optimizer,
            "averaged": bool(self.recipe.ema),
            "copies": list(self.copies),
            "words": self.words,
        }
        saver.begin(self.step, self.tensors(), numbers)

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
        self.optimizers = Optimizers(self.recipe, self.trained, self.blocks, self.rate)

    def _load(self, folder: Path, parallel: Parallel) -> None:
        kept = checkpoint.read_state(folder)
        if missing := {"step", "level"} - kept.keys():
            raise checkpoint.unreadable(folder, ValueError(f"state.json has no {min(missing)}"))
        averaged = bool(self.recipe.ema) and kept.get("averaged", True)
        same_rule = kept.get("optimizer", self.recipe.optimizer) == self.recipe.optimizer
        if same_rule:
            self.optimizers.prepare()
        copied = kept.get("copies", []) == list(self.copies)
        there = {"optimizer": same_rule, "average": averaged, "copy": copied}
        tensors = self.tensors(without=[kind for kind, is_there in there.items() if not is_there])
        checkpoint.load(folder, tensors, parallel)
        if same_rule:
            self.optimizers.restore(tensors)
        elif parallel.is_main:
            say(f"`optimizer` was {kept['optimizer']}: {self.recipe.optimizer} begins with no state")
        if not averaged:
            self.average.follow()
        for copy in self.copies.values() if not copied else ():  # another objective had none: it begins here
            copy.follow()
        self.step, self.level = kept["step"], kept["level"]
        self.tail = tuple(kept.get("tail", self.tail))
        self.epoch, self.plan_key = kept.get("epoch", 0), kept.get("plan", "")
        self.plan_begins = tuple(kept.get("plan_begins", self.plan_begins))

    def follow(self, sampler: BucketSampler, parallel: Parallel) -> None:
        """Go on in a sampler; in a new epoch, which is said, where it is not the one so far."""
        key, before = sampler.key(), self.plan_key
        self.plan_key = key
        if before and before != key:
            self.plan_begins = (self.step, self.epoch + 1)
            if parallel.is_main:
                say(f"the batches are not those of before: a new epoch begins at step {self.step}")
