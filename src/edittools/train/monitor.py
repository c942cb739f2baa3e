"""What a run shows of itself on the way: its loss of held-out rows, and previews."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edittools.nets.base import EditModel
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.config import Recipe
from edittools.train.heldout import HeldOut
from edittools.train.keeping import link_lowest
from edittools.train.log import Log, read_lines
from edittools.train.parallel import Parallel
from edittools.train.samples import Previews
from edittools.train.state import TrainState


class Signalled(Exception):
    """A signal has come to one of the processes."""


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

    def begin(self, measure: bool, preview: bool, received: list[int]) -> bool:
        """The loss before the first step, or what is due after the run's last one and not there, as a signal came
        first; and the rows of the previews. See show(). Raises UsageError where there are none."""
        step, any_ = self.state.step, self.parallel.any
        measured = any_(any(line.get("step") == step for line in read_lines(self.out / "heldout.jsonl")))
        if not self.show(step == 0 or (measure and not measured), False, received):
            return False
        if self.recipe.sample_every:
            rows, rejects = self.sampler.rows, self.log.rejects
            if self.heldout is not None:
                rows, rejects = self.heldout.rows, self.log.held
            self.previews = Previews(self.recipe, rows, self.edit_model, rejects)
        return self.show(False, step > 0 and preview and not any_(self._sheet().exists()), received)

    def show(self, measure: bool, preview: bool, received: list[int]) -> bool:
        """measure() and preview(), if they are due; False as soon as a process has `received` a signal."""

        def heed() -> None:
            if self.parallel.any(bool(received)):
                raise Signalled

        try:
            if measure:
                self.measure(heed)
            if preview:
                self.preview(heed)
        except Signalled:
            return False
        return True

    def measure(self, heed: Callable[[], None]) -> None:
        """Log the held-out loss of the weights as they are now, and of their average once there is one.

        Of the models that have been kept, that of the least one is `@best`.
        """
        if self.heldout is not None:
            average = self.state.average if self.state.step else None
            self.log.held_out(self.heldout.evaluate(self.network, average, self.state.step, self.parallel, heed))
            self.parallel.on_main(lambda: link_lowest(self.out))
            self.check_rejects()

    def preview(self, heed: Callable[[], None]) -> None:
        """Write a sheet of previews."""
        assert self.previews is not None
        if self.previews.save(self.network, self.state.average, self._sheet(), self.parallel, heed):
            self.log.images(self.state.step, self._sheet())
        self.check_rejects()

    def _sheet(self) -> Path:
        return self.out / "samples" / f"{self.state.step:08d}.png"

    def check_rejects(self) -> None:
        """Write down the rows that turned out to be of no use; raises TooManyFailed, on every process."""
        self.log.reject()
        self.log.rejects.check()
        self.log.held.check()
