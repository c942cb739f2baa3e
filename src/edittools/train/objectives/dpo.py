"""Direct preference optimisation of flow matching with positive reinforcement (FireRed 3.6.1, equation 2).

Of a pair both images meet the same noise at the same time. With L_w and L_l their errors, and Δ what has changed since
the reference,

    z = β (ΔL_l - ω ΔL_w),    L = -log σ(z) + λ L_w

ω = 1 and λ = 0 are Diffusion-DPO (Wallace et al. 2023), under which both errors may rise as long as the worse image's
rises more. ω > 1 or λ > 0 holds the better image. The report prints "- λ L_w" and β before the worse image's term
alone: minimised, that makes both images ever worse, so the signs are as meant. β is of errors that are means over the
latents.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edittools.errors import UsageError
from edittools.nets.base import EditModel
from edittools.nets.flow import interpolate
from edittools.train import flow_matching
from edittools.train.config import Recipe
from edittools.train.data import TrainBatch
from edittools.train.objectives import Losses, Objective, TrainedModel, plain
from edittools.train.reference import ReferenceValues
from edittools.train.rows import Rows

HELP = "preference pairs, the better image reinforced"
SETTINGS = {
    "beta": 500.0,  # β: how much a difference of errors counts; errors are means over the latents
    "omega": 2.0,  # ω: how much more the better image's counts; 1 is Diffusion-DPO
    "sft": 0.0,  # λ, the weight of the better image's own error, in units of β ω / 2, its weight in the rest at first
    "reference_values": "",  # folder of `--precompute-reference`; empty: the weights of the start are kept beside
}
COPIES = ("reference",)
PAIRS = True


def copies(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return () if settings["reference_values"] else COPIES


def load(recipe: Recipe, edit_model: EditModel, rows: Rows, device: torch.device) -> Preference:
    plain(recipe)
    settings = recipe.of_objective()
    for name in ("beta", "omega"):
        if settings[name] <= 0:
            raise UsageError(f"recipe: `objective_settings`: `{name}` must be positive")
    if settings["sft"] < 0:
        raise UsageError("recipe: `objective_settings`: `sft` must not be negative")
    folder = settings["reference_values"]
    return Preference(recipe, edit_model, ReferenceValues(folder, recipe, rows) if folder else None)


def preference(
    win: Tensor, lose: Tensor, win_before: Tensor, lose_before: Tensor, beta: float, omega: float, weight: float
) -> tuple[Tensor, Tensor]:
    """The losses (B,) of pairs whose images have these errors now and had those before, and z (B,); weight is λ."""
    # z = β (ΔL_l - ω ΔL_w),  L = -log σ(z) + λ L_w   [FireRed, equation 2]
    z = beta * ((lose - lose_before) - omega * (win - win_before))
    return F.softplus(-z) + weight * win, z


class Preference(Objective):
    """-log σ(z) + λ L_w of every pair."""

    def __init__(self, recipe: Recipe, edit_model: EditModel, values: ReferenceValues | None = None) -> None:
        """values: of the reference, stored beforehand; None: it is asked."""
        settings = recipe.of_objective()
        self.recipe, self.edit_model, self.values = recipe, edit_model, values
        self.beta, self.omega = settings["beta"], settings["omega"]
        self.weight = settings["sft"] * self.beta * self.omega / 2
        self.degradation = Degradation()

    def errors(self, model: TrainedModel, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """Errors (B,) of the better images and of the worse ones, by the weights that the network has."""
        assert batch.rejected is not None
        both = torch.cat([batch.target, batch.rejected])
        noise, t = torch.cat([batch.noise] * 2), torch.cat([batch.t] * 2)
        output = model(interpolate(both, noise, t), batch)
        rows = flow_matching.errors(output, both, noise, self.edit_model.predicts)
        win, lose = (rows * flow_matching.time_weights(self.recipe, t)).chunk(2)
        return win, lose

    def losses(self, model: TrainedModel, batch: TrainBatch, step: int, factor: float) -> Losses:
        if self.values is None:
            with model.by("reference"):
                before = self.errors(model, batch)
        elif model.trying:
            before = torch.zeros_like(batch.t), torch.zeros_like(batch.t)
        else:
            before = self.values.of(step, batch)
        win, lose = self.errors(model, batch)
        rows, z = preference(win, lose, *before, self.beta, self.omega, self.weight)
        slope = torch.sigmoid(-z)  # what is left to learn of the pair
        pull, push = slope * self.beta * self.omega + self.weight, slope * self.beta
        numbers = {
            "win": win,
            "lose": lose,
            "win_reference": before[0],
            "lose_reference": before[1],
            "win_difference": win - before[0],
            "lose_difference": lose - before[1],
            "z": z,
            "accuracy": (z > 0).float(),
            "slope": slope,
            "win_share": pull / (pull + push),  # of the two errors' weights in the gradient
        }
        return Losses(rows, {name: value.detach() for name, value in numbers.items()})

    def heed(self, line: Mapping[str, Any]) -> str:
        said = line.get("objective", {})
        if "win_difference" not in said:
            return ""
        return self.degradation.heed(line["step"], said["win_difference"], said["lose_difference"])


class Degradation:
    """Watches the two differences: both rising is double degradation, a better image that is unlearned too."""

    WINDOW = 50  # steps

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, float]] = []  # step, ΔL_w, ΔL_l
        self.rising = False

    def heed(self, step: int, win: float, lose: float) -> str:
        """What is to be said of a line of the log, once where it begins: that over the last 50 steps both differences
        were higher than over the 50 before, by more than two standard errors."""
        self.seen = [each for each in self.seen if each[0] > step - 2 * self.WINDOW] + [(step, win, lose)]
        early = [each for each in self.seen if each[0] <= step - self.WINDOW]
        late = [each for each in self.seen if each[0] > step - self.WINDOW]
        before, self.rising = (
            self.rising,
            bool(early) and all(_risen([each[k] for each in early], [each[k] for each in late]) for k in (1, 2)),
        )
        if before or not self.rising:
            return ""
        return (
            f"step {step}: the errors of both images of a pair rise (double degradation): ΔL_w {win:+.2g}, "
            f"ΔL_l {lose:+.2g}; a higher `omega` or `sft` holds the better one, and an earlier model may be the best"
        )


def _risen(early: list[float], late: list[float]) -> bool:
    rise = statistics.fmean(late) - statistics.fmean(early)
    noise = sum(statistics.variance(each) / len(each) for each in (early, late) if len(each) > 1)
    return rise > 2 * noise**0.5
