"""What a run leaves in its folder: checkpoints, the models that are kept, and the finished one.

config.json      the recipe, what is known of the data, and what was changed on the way
transformer/     and the architecture's other parts: the averaged weights, as their libraries open them
@STEP/           a run folder with the weights of that step, every recipe.keep_every steps
checkpoints/     what the run goes on from, with more `steps` when it is finished
log.jsonl        one line per recipe.log_every steps
heldout.jsonl    the loss of rows that are not trained on, every recipe.heldout_every steps
rollouts/        images that an objective has made on the way, and their rewards; rollouts.jsonl, rewards.jsonl
rejects.jsonl    rows that cannot be used, and why
samples/         images, every recipe.sample_every steps
_end.json        written last: a folder without it is not a finished run
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edittools.nets.base import EditModel
from edittools.train import checkpoint
from edittools.train.config import Recipe
from edittools.train.export import keep_model, kept_folder, link_best, save_model
from edittools.train.folder import write_json
from edittools.train.heldout import value
from edittools.train.log import read_lines
from edittools.train.parallel import Parallel
from edittools.train.state import TrainState


class Keeper:
    """Writes a run's folder. Its methods are for every process to call."""

    def __init__(self, recipe: Recipe, edit_model: EditModel, state: TrainState, out: Path, parallel: Parallel) -> None:
        self.recipe, self.edit_model, self.state, self.out, self.parallel = recipe, edit_model, state, out, parallel
        self.room = checkpoint.Room(recipe.keep_last, recipe.keep_every, recipe.keep_gb * 1e9)
        self.saver = checkpoint.Saver(out, parallel, self.room)

    def catch_up(self, rows: int) -> None:
        """Leave what there would be had the run never stopped: no model of a later step, and that of this one."""
        first = self.state.step
        self.parallel.on_main(lambda: forget_later(self.out, first))
        self.keep(rows)  # what a run that ended while it kept a model has not kept

    def save(self) -> None:
        """Begin to write a checkpoint."""
        self.state.save(self.saver)

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. Raises NotWritten."""
        self.saver.finish()

    def keep(self, rows: int) -> None:
        """Keep the model of this step where the recipe says so; rows: that were trained on so far."""
        step, every = self.state.step, self.recipe.keep_every
        if every and step and step % every == 0 and not self.parallel.any(kept_folder(self.out, step).exists()):
            network, weights = self.edit_model.network, self.state.weights()
            keep_model(self.edit_model, network, weights, self.out, step, self._end(rows), self.parallel)

    def finish(self, rows: int) -> dict[str, Any]:
        """Write the finished model, and that the run is finished; returns what `_end.json` says."""
        self.save()  # should the export fail, it can be done again
        self.wait()
        save_model(self.edit_model, self.edit_model.network, self.state.weights(), self.out, self.parallel)
        end = self._end(rows)
        self.parallel.on_main(lambda: write_json(self.out / "_end.json", end))
        if self.parallel.is_main:
            self.room.prune(self.out, 1)
        return end

    def _end(self, rows: int) -> dict[str, Any]:
        """`_end.json` of the model as it is now."""
        total, number = self.state.tail
        loss = total / number if number else self.state.level
        return {"steps": self.state.step, "samples": rows, "loss": loss, "weights": self.state.left}


def tidy(out: Path) -> None:
    """Remove what an earlier process has left half-written."""
    for path in [*out.glob(".tmp-*"), *(out / "checkpoints").glob(".tmp*")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def forget_later(out: Path, step: int) -> None:
    """Remove the kept models of steps that are about to be done again, maybe otherwise."""
    for path in out.glob("@*"):
        if path.name[1:].isdigit() and int(path.name[1:]) > step:
            shutil.rmtree(path)
    if not (out / "@best").exists():
        (out / "@best").unlink(missing_ok=True)
        link_lowest(out)


def link_lowest(out: Path) -> None:
    """Make `@best` stand for the kept model of the least held-out loss, if any model has been kept."""
    losses = {line["step"]: value(line) for line in read_lines(out / "heldout.jsonl")}
    kept = [step for step in losses if kept_folder(out, step).is_dir()]
    if kept:
        link_best(out, min(kept, key=lambda step: (losses[step], step)))
