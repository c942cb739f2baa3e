"""The loss of rows that are not trained on, always at the same times and with the same noise.

A training loss is of other rows, times and noise at every step, so that it says little from one step to the next; this
one differs by what the weights have learnt alone.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from edittools.errors import EditError
from edittools.nets.base import Conditioning, EditModel, moved, side_by_side
from edittools.nets.flow import interpolate
from edittools.train import flow_matching
from edittools.train.bucket_sampler import BucketSampler, TrainSample
from edittools.train.config import Recipe
from edittools.train.copies import AVERAGE, RAW, Average
from edittools.train.features import Features
from edittools.train.parallel import Parallel
from edittools.train.rejects import HELD_OUT, Rejects, Unusable
from edittools.train.rows import Rows

_Entry = tuple[int, str, float, float]  # row, task, t, loss


def heldout_recipe(recipe: Recipe) -> Recipe:
    """A recipe whose sampler shows every row once, whole: nothing is dropped, shuffled, drawn by weight.

    Rows are pairs of a source and a target, whatever the objective learns from.
    """
    plain: dict[str, Any] = {} if recipe.rollouts else {"objective": "flow", "objective_settings": {}}
    return dataclasses.replace(
        recipe, **plain, variants=1, caption_dropout=0.0, drop_references=0.0, shuffle_references=False, t2i_share=-1.0,
        task_weights={}, kinds={}, origins={}, balance="", resample=False, mask_weight=1.0,
    )  # fmt: skip


@dataclass
class Chunk:
    """Rows that go through the network together."""

    samples: list[TrainSample]
    target: Tensor
    references: list[Tensor]
    conditioning: Conditioning


class HeldOut:
    """Rows, and the network's loss of them."""

    def __init__(
        self, recipe: Recipe, rows: Rows, edit_model: EditModel, features: Callable[[TrainSample], Features],
        rejects: Rejects | None = None,
    ) -> None:  # fmt: skip
        """features: of the rows' samples. rejects: takes in the rows that cannot be used; see BucketSampler, too."""
        self.recipe, self.rows, self.edit_model, self.features = recipe, rows, edit_model, features
        self.sampler = BucketSampler(
            heldout_recipe(recipe), rows, edit_model.patch, edit_model.multiple, edit_model.one_row, rejects
        )
        self.rejects = Rejects(kind=HELD_OUT) if rejects is None else rejects
        self.rejects.rows = self.rejects.rows or len(rows)
        self.groups = list(self._groups())

    def _groups(self) -> Iterator[list[TrainSample]]:
        """Samples of equal shapes, as many as fit the budget."""
        by_shapes: dict[Any, list[TrainSample]] = defaultdict(list)
        for sample in self.sampler.samples:
            if self.rows[sample.row].id not in self.rejects:  # it does not fit a batch
                by_shapes[sample.shapes].append(sample)
        for shapes, samples in by_shapes.items():
            tokens = sum(h * w for h, w in shapes) // self.edit_model.patch**2
            fit = 1 if self.edit_model.one_row else max(1, self.recipe.batch_tokens // tokens)
            yield from (samples[k : k + fit] for k in range(0, len(samples), fit))

    def _usable(self, samples: list[TrainSample]) -> list[tuple[TrainSample, Features]]:
        """Those of the samples that can be used."""
        made = []
        for sample in samples:
            if self.rows[sample.row].id in self.rejects:
                continue
            try:
                made.append((sample, self.features(sample)))
            except Unusable as error:
                self.rejects.add(error.identity, error.reason)
        return made

    def chunk(self, place: int) -> tuple[Chunk, bool]:
        """A group of rows, and whether it is that of its place: else it stands for one that is not there."""
        for number in [place, *range(len(self.groups))]:
            if number < len(self.groups) and (usable := self._usable(self.groups[number])):
                return self._together(usable), number == place
        raise EditError(f"no held-out row can be used: {self.rejects.summary()}")

    def _together(self, usable: list[tuple[TrainSample, Features]]) -> Chunk:
        found = [features for _, features in usable]
        references, sizes = side_by_side([each.references for each in found])
        return Chunk(
            [sample for sample, _ in usable],
            torch.stack([each.target for each in found]).float(),
            [x.float() for x in references],
            self.edit_model.collate([each.conditioning for each in found]) | sizes,
        )

    def evaluate(
        self, network: Any, average: Average | None, step: int, parallel: Parallel,
        heed: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:  # fmt: skip
        """The mean loss of all rows and times, by the weights as they are and by their average; every process calls it.

            {"step": 400, "rows": 64, "loss": {"raw": 0.11, "average": 0.10}, "deviation": {"raw": ..., ...},
             "by_time": {"raw": {"0.1": ...}, ...}, "by_task": {"raw": {"add": ...}, ...}}

        deviation is that of the rows' losses, for an interval of their mean. heed: called before every group of rows,
        and may raise.

        The loss is flow_matching.errors() without weights: of the velocity, or of x̂_0 where the network predicts that.
        """
        network.eval()
        made: dict[str, list[_Entry]] = {RAW: self._losses(network, parallel, heed)}
        if average is not None and average.values:
            with average.swapped():
                made[AVERAGE] = self._losses(network, parallel, heed)
        network.train()
        tables: dict[str, dict[str, Any]] = {name: {} for name in ("loss", "deviation", "by_time", "by_task")}
        for name, losses in made.items():
            rows = [sum(values) / len(values) for values in _grouped(losses, 0).values()]
            tables["loss"][name] = sum(rows) / len(rows)
            tables["deviation"][name] = statistics.stdev(rows) if len(rows) > 1 else None
            for table, key in (("by_time", 2), ("by_task", 1)):
                groups = sorted(_grouped(losses, key).items())
                tables[table][name] = {str(group): sum(values) / len(values) for group, values in groups}
        return {"step": step, "rows": len({row for row, *_ in made[RAW]}), **tables}

    @torch.no_grad()
    def _losses(self, network: Any, parallel: Parallel, heed: Callable[[], None]) -> list[_Entry]:
        found: list[_Entry] = []
        # a sharded network needs all processes in every pass: who has nothing left repeats one and says nothing of it
        for start in range(0, len(self.groups), parallel.world):
            heed()
            place = start + parallel.rank
            chunk, counts = self.chunk(place)
            for number, t in enumerate(self.recipe.heldout_times):
                losses = self._loss(network, chunk, number, t, parallel)
                if counts:
                    rows = [sample.row for sample in chunk.samples]
                    found += [(row, self.rows[row].task, t, float(loss)) for row, loss in zip(rows, losses)]
        if hasattr(network, "reshard"):
            network.reshard()  # FSDP2 keeps what is outside the blocks whole after a pass, and it may change now
        return [entry for part in parallel.gather(found) for entry in part]

    def _loss(self, network: Any, chunk: Chunk, number: int, t: float, parallel: Parallel) -> Tensor:
        place, edit_model = parallel.device, self.edit_model
        target = chunk.target.to(place)
        eps = torch.stack([self._noise(number, sample, chunk.target[0].shape) for sample in chunk.samples]).to(place)
        times = torch.full((len(target),), t, device=place)
        x_t = interpolate(target, eps, times)
        with parallel.arithmetic(getattr(torch, self.recipe.dtype)):
            output = network(
                x_t,
                times,
                [reference.to(place) for reference in chunk.references],
                moved(chunk.conditioning, place),
            )
        return flow_matching.errors(output, target, eps, edit_model.predicts).cpu()

    def _noise(self, number: int, sample: TrainSample, shape: torch.Size) -> Tensor:
        # the fifth integer tells it from all noise of training
        identity = xxhash.xxh64_intdigest(self.rows[sample.row].id.encode())
        return torch.randn(shape, generator=flow_matching.generator(self.recipe.seed, 0, number, identity, 1))


def _grouped(losses: list[_Entry], key: int) -> dict[Any, list[float]]:
    """The losses by one of what they are of."""
    groups: dict[Any, list[float]] = defaultdict(list)
    for entry in losses:
        groups[entry[key]].append(entry[3])
    return groups


def value(line: dict[str, Any]) -> float:
    """The number by which evaluations are compared: that of the averaged weights, which a run leaves, if there are."""
    return float(line["loss"].get(AVERAGE, line["loss"][RAW]))
