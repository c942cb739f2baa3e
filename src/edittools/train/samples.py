"""Pictures of what a network makes while it trains, always of the same rows, and of one's own prompts.

A sheet has a line per row: its references, the result, the target. Beside it lies a JSON file that says what is what.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edittools.errors import UsageError
from edittools.models.flow import shift_factor
from edittools.models.pictures import resize, to_picture
from edittools.models.sampling import euler
from edittools.models.shapes import Shape
from edittools.models.systems.base import Conditions, System
from edittools.train import objective
from edittools.train.config import Recipe
from edittools.train.features import Encoder
from edittools.train.heldout import heldout_recipe
from edittools.train.mixture import kind
from edittools.train.optimizers import Average
from edittools.train.parallel import Parallel
from edittools.train.plan import Plan, Sample
from edittools.train.rows import Row, Rows

SIDE = 256  # pixels of a picture's longer side in the sheet
_LOOKED_AT = 10_000  # rows among which those to show are looked for


class Some:
    """A few of a set's rows, as rows."""

    def __init__(self, rows: Rows, chosen: list[int]) -> None:
        self.rows, self.chosen, self.data_id = rows, chosen, rows.data_id

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Row:
        return self.rows[self.chosen[index]]

    def picture(self, index: int, which: int, shape: Shape) -> np.ndarray:
        return self.rows.picture(self.chosen[index], which, shape)

    def mask(self, index: int) -> np.ndarray | None:
        return self.rows.mask(self.chosen[index])

    def place(self, index: int, which: int) -> str:
        return self.rows.place(self.chosen[index], which)

    def content(self, index: int, which: int) -> str:
        return self.rows.content(self.chosen[index], which)


def choose(rows: Rows, count: int, ids: list[str]) -> list[int]:
    """The rows to show: those named; else the first of every task and number of sources, then the first ones.

    Raises UsageError for an id that no row has.
    """
    if ids:
        places = {rows[k].id: k for k in reversed(range(len(rows)))}
        if missing := [name for name in ids if name not in places]:
            raise UsageError(f"`sample_ids`: no row has the id {missing[0]}")
        return [places[name] for name in ids]
    firsts: dict[tuple[str, str], int] = {}
    for k in range(min(len(rows), _LOOKED_AT)):
        firsts.setdefault((kind(rows[k]), rows[k].task), k)
    chosen = list(firsts.values())[:count]
    others = (k for k in range(len(rows)) if k not in chosen)
    return sorted(chosen + [k for _, k in zip(range(count - len(chosen)), others)])


class Previews:
    """The fixed rows of a run, with their own texts, and the recipe's prompts, the k-th with the k-th row's sources."""

    def __init__(self, recipe: Recipe, rows: Rows, system: System) -> None:
        """Raises UsageError for `sample_ids` that no row has."""
        self.recipe, self.system = recipe, system
        self.rows = Some(rows, choose(rows, recipe.sample_rows, recipe.sample_ids))
        plan = Plan(heldout_recipe(recipe), self.rows, system.patch, system.multiple, system.one_row)
        asked = enumerate(recipe.sample_prompts)
        self.samples = [
            *plan.samples,
            *(dataclasses.replace(plan.samples[k % len(plan.samples)], text=text) for k, text in asked),
        ]
        self.encoder = Encoder(system, self.rows)

    def save(self, network: Any, average: Average, path: Path, parallel: Parallel) -> None:
        """Write the sheet, by the averaged weights if there are any; every process calls it."""
        network.eval()
        with average.swapped():
            strips = [self._strip(network, sample, parallel) for sample in self.samples]
            if hasattr(network, "reshard"):
                network.reshard()  # FSDP2 keeps what is outside the blocks whole after a pass, and it changes now
        network.train()
        if parallel.is_main:
            width = max(strip.shape[1] for strip in strips)
            sheet = [np.pad(strip, ((0, 4), (0, width - strip.shape[1]), (0, 0))) for strip in strips]
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, np.concatenate(sheet))

    def _write(self, path: Path, sheet: np.ndarray) -> None:
        said = [
            {"id": self.rows[s.row].id, "prompt": s.text, "sources": [r + 1 for r in s.references]}
            for s in self.samples
        ]
        temporary = path.with_name(f".tmp-{path.name}")
        temporary.with_suffix(".json").write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n")
        temporary.with_suffix(".json").rename(path.with_suffix(".json"))
        Image.fromarray(sheet).save(temporary)
        temporary.rename(path)

    def _strip(self, network: Any, sample: Sample, parallel: Parallel) -> np.ndarray:
        recipe, system, place = self.recipe, self.system, parallel.device

        def placed(conditions: Conditions) -> dict[str, Tensor]:
            return {name: value.to(place) for name, value in system.collate([conditions]).items()}

        found = self.encoder(sample)
        guidance, negative = recipe.sample_guidance or system.guidance, None
        if guidance != 1:
            without = self.encoder.conditions(dataclasses.replace(sample, text=system.negative))
            negative = placed({**found.conditions, **without})
        noise = objective.noise(recipe.seed, 0, 0, self.rows[sample.row].id, tuple(found.target.shape))
        tokens = (sample.shapes[0][0] // system.patch) * (sample.shapes[0][1] // system.patch)
        with parallel.arithmetic(getattr(torch, recipe.dtype)):
            latents = euler(
                system,
                network,
                noise[None].to(place),
                [reference[None].float().to(place) for reference in found.references],
                placed(found.conditions),
                steps=recipe.sample_steps or system.steps,
                shift=shift_factor(recipe.shift, recipe.shift_by_tokens, tokens),
                guidance=guidance,
                negative=negative,
            )
        with torch.no_grad():
            pictures = [system.pictures(x[None].float())[0] for x in (*found.references, latents[0], found.target)]
        return np.concatenate([_thumbnail(to_picture(picture)) for picture in pictures], axis=1)


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    scale = SIDE / max(picture.shape[:2])
    size = [max(1, round(side * scale)) for side in picture.shape[:2]]
    made = resize(picture, *size)
    return np.pad(made, ((0, SIDE - size[0]), (0, SIDE - size[1]), (0, 0)))
