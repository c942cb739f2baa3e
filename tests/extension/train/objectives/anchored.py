"""Anchored: supervised flow matching that stays near the network that the run begins with."""

import torch

from edittools.nets.base import EditModel
from edittools.nets.flow import interpolate
from edittools.train.config import Recipe
from edittools.train.data import TrainBatch
from edittools.train.flow_matching import errors
from edittools.train.objectives import Losses, Objective, TrainedModel
from edittools.train.rows import Rows

HELP = "supervised, near the weights that it begins with"
SETTINGS = {"strength": 1.0}
COPIES = ("start",)


def load(recipe: Recipe, edit_model: EditModel, rows: Rows, device: torch.device) -> "Anchored":
    return Anchored(recipe.of_objective()["strength"])


class Anchored(Objective):
    def __init__(self, strength: float) -> None:
        self.strength = strength

    def losses(self, model: TrainedModel, batch: TrainBatch, step: int, factor: float) -> Losses:
        x_t = interpolate(batch.target, batch.noise, batch.t)
        with model.by("start"):
            before = model(x_t, batch)
        output = model(x_t, batch)
        rows = errors(output, batch.target, batch.noise, model.edit_model.predicts)
        drift = (output.float() - before.float()).square().flatten(1).mean(1)
        return Losses(rows + self.strength * drift, {"drift": drift.detach()})
