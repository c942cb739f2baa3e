"""Images of what a network makes while it trains, always of the same rows, and of one's own prompts.

A sheet has a line per row: its references, the result, the target. Beside it lies a JSON file that says what is what.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edittools.errors import UsageError
from edittools.nets.base import Conditioning, EditModel, moved
from edittools.nets.flow import shift_factor
from edittools.nets.images import resize, to_image
from edittools.nets.sampling import euler
from edittools.nets.shapes import Shape
from edittools.stream import files
from edittools.stream.codec import encode_png
from edittools.train import flow_matching
from edittools.train.bucket_sampler import BucketSampler, TrainSample
from edittools.train.config import Recipe
from edittools.train.copies import Average
from edittools.train.features import Encoder, Features
from edittools.train.heldout import heldout_recipe
from edittools.train.mixture import kind
from edittools.train.parallel import Parallel
from edittools.train.rejects import Rejects, Unusable
from edittools.train.rows import Rows, TrainRow

SIDE = 256  # pixels of an image's longer side in the sheet
_LOOKED_AT = 10_000  # rows among which those to show are looked for


class Some:
    """A few of a set's rows, as rows."""

    def __init__(self, rows: Rows, chosen: list[int]) -> None:
        self.rows, self.chosen, self.data_id = rows, chosen, rows.data_id

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> TrainRow:
        return self.rows[self.chosen[index]]

    def image(self, index: int, which: int, shape: Shape) -> np.ndarray:
        return self.rows.image(self.chosen[index], which, shape)

    def reference(self, index: int, which: int) -> dict[str, Any]:
        return self.rows.reference(self.chosen[index], which)

    def mask(self, index: int) -> np.ndarray | None:
        return self.rows.mask(self.chosen[index])

    def place(self, index: int, which: int) -> str:
        return self.rows.place(self.chosen[index], which)

    def content(self, index: int, which: int) -> str:
        return self.rows.content(self.chosen[index], which)


def choose(rows: Rows, count: int, ids: list[str], rejects: Rejects) -> list[int]:
    """The rows to show: those named; else the first of every task and number of sources, then the first ones.

    None of the rejects are. Raises UsageError for an id that no row has.
    """
    if ids:
        places = {rows[k].id: k for k in reversed(range(len(rows)))}
        if missing := [name for name in ids if name not in places]:
            raise UsageError(f"`sample_ids`: no row has the id {missing[0]}")
        return [places[name] for name in ids if name not in rejects]
    firsts: dict[tuple[str, str], int] = {}
    for k in range(min(len(rows), _LOOKED_AT)):
        if rows[k].id not in rejects:
            firsts.setdefault((kind(rows[k]), rows[k].task), k)
    chosen = list(firsts.values())[:count]
    others = (k for k in range(len(rows)) if k not in chosen and rows[k].id not in rejects)
    return sorted(chosen + [k for _, k in zip(range(count - len(chosen)), others)])


class Previews:
    """The fixed rows of a run, with their own texts, and the recipe's prompts, the k-th with the k-th row's sources."""

    def __init__(self, recipe: Recipe, rows: Rows, edit_model: EditModel, rejects: Rejects | None = None) -> None:
        """rejects: of these rows; those that cannot be read join them. Raises UsageError for `sample_ids` that no row
        has, and where nothing is left to show."""
        self.recipe, self.edit_model = recipe, edit_model
        self.rejects = Rejects() if rejects is None else rejects
        self.rows = Some(rows, choose(rows, recipe.sample_rows, recipe.sample_ids, self.rejects))
        if not len(self.rows):
            raise UsageError("`sample_every`: none of the rows to show can be used")
        sampler = BucketSampler(
            heldout_recipe(recipe), self.rows, edit_model.patch, edit_model.multiple, edit_model.one_row
        )
        asked = enumerate(recipe.sample_prompts)
        self.samples = [
            *sampler.samples,
            *(dataclasses.replace(sampler.samples[k % len(sampler.samples)], text=text) for k, text in asked),
        ]
        self.encoder = Encoder(edit_model, self.rows)

    def save(
        self, network: Any, average: Average, path: Path, parallel: Parallel, heed: Callable[[], None] = lambda: None
    ) -> bool:
        """Write the sheet, by the averaged weights if there are any; every process calls it.

        heed: called before every line is made, and may raise.

        Rows that turn out to be of no use are left out of it, on every process; returns whether any line is left.
        """
        found: dict[TrainSample, tuple[Features, Conditioning | None]] = {}
        for sample in self.samples:
            try:
                found[sample] = self._features(sample)
            except Unusable as error:
                self.rejects.add(error.identity, error.reason)
        mine = [self.rows[sample.row].id for sample in self.samples if sample not in found]
        without = {identity for part in parallel.gather(mine) for identity in part}
        shown = [sample for sample in self.samples if self.rows[sample.row].id not in without]
        if not shown:
            return False
        network.eval()
        strips = []
        with average.swapped():
            for sample in shown:
                heed()
                strips.append(self._strip(network, sample, found[sample], parallel))
            if hasattr(network, "reshard"):
                network.reshard()  # FSDP2 keeps what is outside the blocks whole after a pass, and it changes now
        network.train()
        if parallel.is_main:
            width = max(strip.shape[1] for strip in strips)
            sheet = [np.pad(strip, ((0, 4), (0, width - strip.shape[1]), (0, 0))) for strip in strips]
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, np.concatenate(sheet), shown)
        return True

    def _write(self, path: Path, sheet: np.ndarray, shown: list[TrainSample]) -> None:
        said = [{"id": self.rows[s.row].id, "prompt": s.text, "sources": [r + 1 for r in s.references]} for s in shown]
        text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
        files.write_bytes(str(path.with_suffix(".json")), text.encode())
        files.write_bytes(str(path), encode_png(sheet))

    def _guidance(self) -> float:
        return self.recipe.sample_guidance or self.edit_model.guidance

    def _features(self, sample: TrainSample) -> tuple[Features, Conditioning | None]:
        """Features of a sample, and its conditioning without the text where guidance needs it. Raises Unusable."""
        found = self.encoder(sample)
        if self._guidance() == 1:
            return found, None
        without = self.encoder(dataclasses.replace(sample, text=self.edit_model.negative)).conditioning
        return found, {**found.conditioning, **without}

    def _strip(
        self, network: Any, sample: TrainSample, features: tuple[Features, Conditioning | None], parallel: Parallel
    ) -> np.ndarray:
        recipe, edit_model, place = self.recipe, self.edit_model, parallel.device

        def placed(conditioning: Conditioning) -> dict[str, Tensor]:
            return moved(edit_model.collate([conditioning]), place)

        found, without = features
        noise = flow_matching.noise(recipe.seed, 0, 0, self.rows[sample.row].id, tuple(found.target.shape))
        tokens = (sample.shapes[0][0] // edit_model.patch) * (sample.shapes[0][1] // edit_model.patch)
        with parallel.arithmetic(getattr(torch, recipe.dtype)):
            latents = euler(
                edit_model,
                network,
                noise[None].to(place),
                [reference[None].float().to(place) for reference in found.references],
                placed(found.conditioning),
                steps=recipe.sample_steps or edit_model.steps,
                shift=shift_factor(recipe.shift, recipe.shift_by_tokens, tokens),
                guidance=self._guidance(),
                negative=None if without is None else placed(without),
            )
        with torch.no_grad():
            images = [edit_model.images(x[None].float())[0] for x in (*found.references, latents[0], found.target)]
        return np.concatenate([_thumbnail(to_image(image)) for image in images], axis=1)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    scale = SIDE / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[:2]]
    made = resize(image, *size)
    return np.pad(made, ((0, SIDE - size[0]), (0, SIDE - size[1]), (0, 0)))
