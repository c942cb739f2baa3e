"""DiffusionNFT: reinforcement on the forward process (Zheng et al. 2025; FireRed 3.6.2, equation 3).

Of an image x_0 that the old policy made and a reward r in [0, 1] of it, with v the velocity from x_0 to noise,

    v⁺ = (1 - β) v_old + β v_θ,   v⁻ = (1 + β) v_old - β v_θ,   L = r ‖v⁺ - v‖² + (1 - r) ‖v⁻ - v‖²

which is ‖β d - a e‖² + 4 r (1 - r) ‖e‖² with d = v_θ - v_old, e = v - v_old and a = 2 r - 1: a regression of v_θ on
v_old + (a / β) e. What is compared are guesses of x_0, which are -t times as far apart, and with `adaptive` each of the
two errors is divided by its own mean absolute value, as in the released trainer.

r is of the group: rewards less their mean, in units of the group's own standard deviation, cut off and brought to
[0, 1]. Over all groups together, as the released trainer has it, differences between prompts drown those within one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import Tensor

from edittools.errors import UsageError
from edittools.nets.base import EditModel
from edittools.nets.flow import interpolate
from edittools.train import flow_matching
from edittools.train.config import Recipe
from edittools.train.data import Loader, Step, TrainBatch
from edittools.train.objectives import Around, Losses, Objective, TrainedModel, plain
from edittools.train.rollout import Rollouts
from edittools.train.rows import Rows

HELP = "reinforcement of what was rewarded, DiffusionNFT"
SETTINGS = {
    "images": "rows",  # what is learned from: "rows", the `result` of candidates with scores; "model", made on the way
    "by": "",  # which scores are the rewards, SCORE[:WEIGHT],... as `edit pair --by`
    "floor": "",  # SCORE:VALUE,... as `edit pair --floor`
    "beta": 1.0,  # β: how far the two guesses lie off the old one, in units of what has been learned since
    "clip": 5.0,  # rewards count up to so many standard deviations of their group
    "adaptive": True,  # divide every error by its own mean absolute value
    "kl": 0.0,  # weight of the squared distance to the weights that the run begins with
    "export": "current",  # the model that is left: "current", or "old", the one that the images are of
    "rewards": "score",  # of "model": the commands that give the scores, `score`, `judge ...`, `filter ...`, by |
    "group": 8,  # of "model": images of every prompt; the prompts of an iteration are one step's rows
    "updates": 2,  # of "model": updates of the weights per iteration
    "times": 1,  # of "model": times and noises at which an image is learned
    "sampling_steps": 0,  # of "model": Euler steps of the images; 0: `sample_steps`
    "old_rate": 0.001,  # of "model": after iteration k the old weights keep min(old_rate * k, old_most) of themselves
    "old_most": 0.5,  # of "model": see old_rate
    "patience": 600.0,  # of "model": seconds to ask again where fewer than half of the rewards come
    "evaluate_every": 10,  # of "model": iterations between rewards of the rows of --heldout; 0: none
    "evaluate_rows": 64,  # of "model": about how many of those rows
    "keep_rollouts": 0,  # of "model": iterations whose images are kept, in rollouts/; 0: all
}
COPIES = ("old", "start")


def copies(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Of given rows the old weights are those of the start throughout."""
    return COPIES if settings["images"] == "model" and settings["kl"] else COPIES[:1]


def load(recipe: Recipe, edit_model: EditModel, rows: Rows, device: torch.device) -> Reinforced:
    plain(recipe)
    settings = recipe.of_objective()
    for name in ("beta", "clip"):
        if settings[name] <= 0:
            raise UsageError(f"recipe: `objective_settings`: `{name}` must be positive")
    if settings["kl"] < 0:
        raise UsageError("recipe: `objective_settings`: `kl` must not be negative")
    if settings["images"] not in ("rows", "model"):
        raise UsageError('recipe: `objective_settings`: `images` must be "rows" or "model"')
    if settings["export"] not in ("current", "old"):
        raise UsageError('recipe: `objective_settings`: `export` must be "current" or "old"')
    if recipe.rollouts:
        _check_rollouts(settings)
    return Reinforced(recipe, edit_model)


def _check_rollouts(settings: Mapping[str, Any]) -> None:
    at_least = {"group": 2, "updates": 1, "times": 1, "evaluate_rows": 1}
    at_least |= dict.fromkeys(("sampling_steps", "patience", "evaluate_every", "keep_rollouts", "old_rate"), 0)
    for name, least in at_least.items():
        if settings[name] < least:
            raise UsageError(f"recipe: `objective_settings`: `{name}` must be at least {least}")
    if settings["updates"] > settings["group"]:
        raise UsageError("recipe: `objective_settings`: more `updates` than images in a `group`")
    if not 0 <= settings["old_most"] <= 1:
        raise UsageError("recipe: `objective_settings`: `old_most` must lie in [0, 1]")
    if not settings["by"]:
        raise UsageError("recipe: `objective_settings`: `by` says which scores are the rewards")


def reinforced(new: Tensor, old: Tensor, x0: Tensor, r: Tensor, beta: float, adaptive: bool) -> Tensor:
    """The losses (B,) of guesses (B, ...) of images x0 by the weights in training and by the old ones, rewarded r (B,).

    Means over the latents, in float32 at least.
    """
    # x̂⁺ = (1 - β) x̂_old + β x̂_θ,  x̂⁻ = (1 + β) x̂_old - β x̂_θ,  L = r ‖x̂⁺ - x_0‖² + (1 - r) ‖x̂⁻ - x_0‖²
    exact = torch.promote_types(new.dtype, torch.float32)
    moved, wanted = beta * (new.to(exact) - old.to(exact)), x0.to(exact) - old.to(exact)
    losses = []
    for share, error in ((r, moved - wanted), (1 - r, moved + wanted)):
        squared = error.square().flatten(1).mean(1)
        if adaptive:
            squared = squared / error.detach().abs().flatten(1).mean(1).clamp(min=1e-5)
        losses.append(share * squared)
    return losses[0] + losses[1]


class Reinforced(Objective):
    """The loss of rewarded images, and the distance to the weights of the start."""

    def __init__(self, recipe: Recipe, edit_model: EditModel) -> None:
        self.recipe, self.edit_model = recipe, edit_model
        self.settings = settings = recipe.of_objective()
        self.beta, self.adaptive, self.kl = settings["beta"], settings["adaptive"], settings["kl"]
        self.start = "start" if "start" in recipe.copies else "old"

    def planned(self, step: int) -> int:
        return step // self.settings["updates"] if self.recipe.rollouts else step

    def work(self, loader: Loader, model: TrainedModel, around: Around) -> Generator[Step, None, None]:
        if not self.recipe.rollouts:
            yield from loader
            return
        with contextlib.closing(Rollouts(self.settings, model, loader, around).steps()) as steps:
            yield from steps

    def stepped(self, model: TrainedModel, step: int) -> None:
        """At the end of iteration k: θ_old ← d θ_old + (1 - d) θ, d = min(old_rate k, old_most)."""
        if self.recipe.rollouts and step % self.settings["updates"] == 0:
            iteration = step // self.settings["updates"]
            kept = min(self.settings["old_rate"] * iteration, self.settings["old_most"])
            model.copies["old"].follow(kept)

    def losses(self, model: TrainedModel, batch: TrainBatch, step: int, factor: float) -> Losses:
        x_t = interpolate(batch.target, batch.noise, batch.t)

        def guess() -> Tensor:
            return self.edit_model.x0(model(x_t, batch).float(), x_t, batch.t)

        with model.by("old"):
            old = start = guess()
        if self.kl and self.start != "old":
            with model.by(self.start):
                start = guess()
        new = guess()
        r = torch.ones_like(batch.t) if batch.rewards is None else batch.rewards
        rows = reinforced(new, old, batch.target, r, self.beta, self.adaptive)
        numbers = {"r": r, "from_old": _distance(new, old)}
        if self.kl:
            drift = self._drift(new, start, batch.t)
            numbers["from_start"] = drift
            rows = rows + self.kl * drift
        rows = rows * flow_matching.time_weights(self.recipe, batch.t)
        return Losses(rows, {name: value.detach() for name, value in numbers.items()})

    def _drift(self, new: Tensor, start: Tensor, t: Tensor) -> Tensor:
        """‖·‖² of what the network predicts: guesses of x_0 of a network of velocities are t times as near."""
        apart = _distance(new, start)
        return apart if self.edit_model.predicts == "x0" else apart / t.square()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)
