"""Supervised rectified flow: the network learns the way from noise to a row's target.

With `consistency` the guess of the target also has to look like itself to a frozen encoder (FireRed 3.7).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edittools.nets.base import EditModel
from edittools.nets.flow import interpolate
from edittools.train import consistency, flow_matching
from edittools.train.bucket_sampler import crops
from edittools.train.config import Recipe
from edittools.train.data import TrainBatch
from edittools.train.objectives import Losses, Objective, TrainedModel
from edittools.train.rows import Rows

HELP = "supervised, towards the target"


def load(recipe: Recipe, edit_model: EditModel, rows: Rows, device: torch.device) -> Flow:
    encoder = None
    if recipe.consistency:
        encoder = consistency.FrozenEncoder.load(recipe.consistency_encoder, str(device), recipe.dtype)
        encoder.check(rows)
    return Flow(recipe, edit_model, encoder)


class Flow(Objective):
    """‖v̂ - v‖² or ‖x̂_0 - x_0‖² of every row, weighted by place and by time, and the consistency loss."""

    def __init__(self, recipe: Recipe, edit_model: EditModel, encoder: consistency.FrozenEncoder | None = None) -> None:
        """encoder: of the consistency loss; None: without it."""
        self.recipe, self.edit_model, self.encoder = recipe, edit_model, encoder

    def losses(self, model: TrainedModel, batch: TrainBatch, step: int, factor: float) -> Losses:
        # x_t and the weights from the float32 t; the network itself may round it
        x_t = interpolate(batch.target, batch.noise, batch.t)
        output = model(x_t, batch)
        weights = self._weights(batch, factor)
        rows = flow_matching.errors(output, batch.target, batch.noise, self.edit_model.predicts, weights)
        rows = rows * flow_matching.time_weights(self.recipe, batch.t)
        if self.encoder is None or step % self.recipe.consistency_every:
            return Losses(rows)
        guess = self.edit_model.x0(output.float(), x_t, batch.t)
        alike = self._consistency(self.encoder, guess, batch)
        return Losses(rows + alike, {"consistency": alike.detach()})

    def _weights(self, batch: TrainBatch, factor: float) -> Tensor | float:
        """Of the latents of every row: (B, 1, h, w), or 1."""
        weights: Tensor | float = 1.0
        if self.recipe.region_weight and (found := _alike(batch)) is not None:
            source, alike = found
            # fades with the learning rate: the last steps see the plain objective
            weights = 1 + factor * alike * (flow_matching.region_weights(batch.target, source) - 1)
        if batch.masks is not None:
            weights = weights * flow_matching.mask_weights(batch.masks, self.recipe.mask_weight)
        return weights

    def _consistency(self, encoder: consistency.FrozenEncoder, guess: Tensor, batch: TrainBatch) -> Tensor:
        shown = [
            consistency.regions(row, crops(row, sample)[0], encoder) for row, sample in zip(batch.rows, batch.samples)
        ]
        eta = self.recipe.consistency
        return consistency.loss(self.edit_model, encoder, guess, batch.target, batch.t, shown, eta)


def _alike(batch: TrainBatch) -> tuple[Tensor, Tensor] | None:
    """The first references of a batch, like its targets, and which of its rows have one of their target's shape.

    (B, C, h, w), and (B, 1, 1, 1) of 1 and 0; None where no row has.
    """
    target, height, width = batch.target, *batch.target.shape[-2:]
    if not batch.references:
        return None
    first = batch.references[0]
    if "sizes" not in batch.conditioning:
        return (first, torch.ones(1, 1, 1, 1, device=target.device)) if first.shape == target.shape else None
    same = (batch.conditioning["sizes"][:, 0] == torch.tensor([height, width])).all(1)
    if not same.any():
        return None
    return first[..., :height, :width], same.to(target.device, target.dtype).view(-1, 1, 1, 1)
