"""What a run shows of itself on the way: its loss of held-out rows, and previews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edittools.nets.base import EditModel
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.config import Recipe
from edittools.train.heldout import HeldOut
from edittools.train.keeping import link_lowest
from edittools.train.log import Log
from edittools.train.parallel import Parallel
from edittools.train.samples import Previews
from edittools.train.state import TrainState


class Monitor:
    """Its methods are for every process to call."""

    def __init__(
        self,
        recipe: Recipe,
        sampler: BucketSampler,
        edit_model: EditModel,
        network: Any,
        state: TrainState,
        heldout: HeldOut | None,
        log: Log,
        out: Path,
        parallel: Parallel,
    ) -> None:
        self.recipe, self.sampler, self.edit_model, self.network = recipe, sampler, edit_model, network
        self.state, self.heldout, self.log, self.out, self.parallel = state, heldout, log, out, parallel
        self.previews: Previews | None = None

    def begin(self) -> None:
        """The loss before the first step, and the rows of the previews. Raises UsageError where there are none."""
        if self.state.step == 0:
            self.measure()
        if self.recipe.sample_every:
            rows, rejects = self.sampler.rows, self.log.rejects
            if self.heldout is not None:
                rows, rejects = self.heldout.rows, self.log.held
            self.previews = Previews(self.recipe, rows, self.edit_model, rejects)

    def measure(self) -> None:
        """Log the held-out loss of the weights as they are now, and of their average once there is one.

        Of the models that have been kept, that of the least one is `@best`.
        """
        if self.heldout is not None:
            average = self.state.average if self.state.step else None
            self.log.held_out(self.heldout.evaluate(self.network, average, self.state.step, self.parallel))
            self.parallel.on_main(lambda: link_lowest(self.out))
            self.check_rejects()

    def preview(self) -> None:
        """Write a sheet of previews."""
        assert self.previews is not None
        path = self.out / "samples" / f"{self.state.step:08d}.png"
        if self.previews.save(self.network, self.state.average, path, self.parallel):
            self.log.images(self.state.step, path)
        self.check_rejects()

    def check_rejects(self) -> None:
        """Write down the rows that turned out to be of no use; raises TooManyFailed, on every process."""
        self.log.reject()
        self.log.rejects.check()
        self.log.held.check()
