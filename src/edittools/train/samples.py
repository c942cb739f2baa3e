"""Pictures of what a network makes while it trains: source, result and target of the first rows, side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edittools.models.flow import shift_factor
from edittools.models.pictures import resize, to_picture
from edittools.models.sampling import euler
from edittools.models.systems.base import System
from edittools.train import objective
from edittools.train.config import Recipe
from edittools.train.features import Features
from edittools.train.parallel import Parallel
from edittools.train.plan import Plan, Sample

ROWS = 4
SIDE = 256  # pixels of a picture's longer side in the sheet


def save_samples(
    recipe: Recipe,
    plan: Plan,
    system: System,
    network: Any,
    features: Callable[[Sample], Features],
    path: Path,
    parallel: Parallel,
) -> None:
    """One row of pictures per sample; every process calls it, since the network may be sharded."""
    strips = []
    network.eval()
    for sample in plan.samples[:ROWS]:
        found = features(sample)
        place = parallel.device
        noise = objective.noise(recipe.seed, 0, 0, plan.rows[sample.row].id, tuple(found.target.shape))
        tokens = (sample.shapes[0][0] // system.patch) * (sample.shapes[0][1] // system.patch)
        with parallel.arithmetic(getattr(torch, recipe.dtype)):
            latents = euler(
                system,
                network,
                noise[None].to(place),
                [reference[None].float().to(place) for reference in found.references],
                {name: value.to(place) for name, value in system.collate([found.conditions]).items()},
                steps=recipe.sample_steps,
                shift=shift_factor(recipe.shift, recipe.shift_by_tokens, tokens),
            )
        if not parallel.is_main:
            continue
        with torch.no_grad():
            shown = [system.pictures(x[None].float())[0] for x in (*found.references, latents[0], found.target)]
        strips.append(np.concatenate([_thumbnail(to_picture(picture)) for picture in shown], axis=1))
    network.train()
    if parallel.is_main:
        width = max(strip.shape[1] for strip in strips)
        sheet = [np.pad(strip, ((0, 4), (0, width - strip.shape[1]), (0, 0))) for strip in strips]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{path.name}")
        Image.fromarray(np.concatenate(sheet)).save(temporary)
        temporary.rename(path)


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    scale = SIDE / max(picture.shape[:2])
    size = [max(1, round(side * scale)) for side in picture.shape[:2]]
    made = resize(picture, *size)
    return np.pad(made, ((0, SIDE - size[0]), (0, SIDE - size[1]), (0, 0)))
