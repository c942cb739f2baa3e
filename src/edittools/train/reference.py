"""What the reference says of preference pairs, stored beforehand: two numbers of every pair of every step.

A reference does not change, and noise, times and rows of a step follow from the recipe, so its errors may be computed
by tasks of an array job, each a part of the steps; the training then holds no second set of weights. A store is a
folder of `steps-FIRST-END.parquet` (`step`, `id`, `t`, `win`, `lose`), each whole as soon as it has its name, and
`reference.json`, which says what else they depend on: pairs of the same ids may have other images, other crops of them,
or other words.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from edittools.errors import EditError, UsageError
from edittools.stream import files
from edittools.train.config import Recipe
from edittools.train.data import Loader, Step, TrainBatch
from edittools.train.rows import Rows
from edittools.weights.digest import model_digest
from edittools.weights.lookup import read_config

AT_ONCE = 100  # steps of a file
ABOUT = "reference.json"
_ROWS = ("resolution", "ratios", "batch_tokens", "microbatches", "language", "captions", "instruction_styles",
         "caption_dropout", "shuffle_references", "drop_references", "variants", "t2i_share", "task_weights", "kinds",
         "origins", "balance", "balance_power", "resample")  # fmt: skip
_DECIDES = ("system", "seed", "dtype", "quantize", "timesteps", "shift", "shift_by_tokens", "curriculum", "weighting",
            "weighting_mean", "weighting_deviation", *_ROWS)  # fmt: skip
_NAME = re.compile(r"steps-(\d{8})-(\d{8})\.parquet")
_SCHEMA = pa.schema([("step", pa.int64()), ("id", pa.string()), ("t", pa.float32()), ("win", pa.float32()),
                     ("lose", pa.float32())])  # fmt: skip


def described(recipe: Recipe, rows: Rows) -> dict[str, Any]:
    """What the numbers depend on beside steps: weights by their content, rows by the digests of their shards."""
    weights = str(recipe.model.get("weights", ""))
    model = {**recipe.model, "weights": model_digest(weights)}
    made = {name: getattr(recipe, name) for name in _DECIDES}
    return {**made, "model": model, "rows": rows.data_id, **({"steps": recipe.steps} if recipe.curriculum else {})}


class ReferenceValues:
    """The numbers of a store, read as steps ask for them."""

    def __init__(self, folder: str, recipe: Recipe, rows: Rows) -> None:
        """Raises EditError for a store that is not there or lacks steps, UsageError for one that was made otherwise."""
        self.folder = Path(folder)
        if not (self.folder / ABOUT).is_file():
            raise EditError(f"{folder}: no reference values", hint="`edit train --precompute-reference` stores them")
        kept, now = read_config(self.folder, ABOUT), json.loads(json.dumps(described(recipe, rows)))
        for name, value in now.items():
            if name not in kept and name != "steps":
                raise UsageError(f"{folder}: reference values of an earlier version", hint="store them anew")
            if kept.get(name) != value:
                raise UsageError(f"{folder}: stored with another `{name}`: {kept.get(name)!r}, not {value!r}")
        self.files = dict(_files(self.folder))
        missing = next((step for step in range(recipe.steps) if self._file(step) is None), None)
        if missing is not None:
            raise EditError(
                f"{folder}: no reference values of step {missing + 1}",
                hint="`edit train --precompute-reference` with the same recipe and rows completes it",
            )
        self._open: tuple[int, int] | None = None
        self._values: dict[tuple[int, str, float], tuple[float, float]] = {}

    def _file(self, step: int) -> tuple[int, int] | None:
        return next((each for each in self.files if each[0] <= step < each[1]), None)

    def of(self, step: int, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """Errors (B,) of a batch's better and worse images, float32. Raises EditError for rows of another plan."""
        if self._open is None or not self._open[0] <= step < self._open[1]:
            self._open = self._file(step)
            assert self._open is not None
            columns = pq.read_table(self.files[self._open], schema=_SCHEMA).to_pydict()
            keys = zip(columns["step"], columns["id"], columns["t"])
            self._values = dict(zip(keys, zip(columns["win"], columns["lose"])))
        found = []
        for row, t in zip(batch.rows, batch.t.tolist()):
            if (step, row.id, t) not in self._values:
                raise EditError(
                    f"{self.folder}: no reference value of row {row.id} in step {step + 1}",
                    hint="it is of other rows or batches: store it anew with this recipe and these rows",
                )
            found.append(self._values[step, row.id, t])
        win, lose = torch.tensor(found, dtype=torch.float32, device=batch.t.device).unbind(1)
        return win, lose


def _files(folder: Path) -> Iterator[tuple[tuple[int, int], Path]]:
    for path in sorted(folder.iterdir()):
        if match := _NAME.fullmatch(path.name):
            yield (int(match[1]), int(match[2])), path


Errors = Callable[[TrainBatch], tuple[Tensor, Tensor]]
"""What the reference makes of a batch: the errors (B,) of its better images and of its worse ones."""


def store(
    recipe: Recipe,
    rows: Rows,
    errors: Errors,
    loader: Callable[[int], Loader],
    folder: Path,
    task: tuple[int, int] = (0, 1),
) -> Iterator[int]:
    """Store the part I of N of a run's steps, for a task (I, N); yields how many steps were done at a time.

    loader   gives the run's steps from one on

    What is stored already stays. Raises UsageError for a folder of others.
    """
    begin(folder, described(recipe, rows))
    first, end = (recipe.steps * part // task[1] for part in (task[0], task[0] + 1))
    done = [each for each, _ in _files(folder)]
    cuts = [first, *range((first // AT_ONCE + 1) * AT_ONCE, end, AT_ONCE), end] if first < end else []
    for start, stop in itertools.pairwise(cuts):
        if not any(low <= start and stop <= high for low, high in done):
            with loader(start) as steps:
                _write(folder, start, stop, _rows(errors, itertools.islice(steps, stop - start)))
        yield stop - start


def begin(folder: Path, about: dict[str, Any]) -> None:
    """Open a store of what is described(), or go on in one. Raises UsageError."""
    path = folder / ABOUT
    if folder.exists() and not path.is_file() and any(not each.name.startswith(".") for each in folder.iterdir()):
        raise UsageError(f"{folder} is not empty and no folder of reference values", hint="name another folder with -o")
    if path.is_file() and read_config(folder, ABOUT) != json.loads(json.dumps(about)):
        raise UsageError(
            f"{folder} holds reference values of another recipe, model or rows", hint="name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(str(path), (json.dumps(about, indent=2) + "\n").encode())


@torch.no_grad()
def _rows(errors: Errors, steps: Iterator[Step]) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for work in steps:
        for batch in work.batches:
            win, lose = errors(batch)
            made["step"] += [work.step] * len(win)
            made["id"] += [row.id for row in batch.rows]
            for name, values in (("t", batch.t), ("win", win), ("lose", lose)):
                made[name] += values.tolist()
    return made


def _write(folder: Path, start: int, stop: int, columns: dict[str, list[Any]]) -> None:
    path = folder / f"steps-{start:08d}-{stop:08d}.parquet"
    with files.atomic(str(path)) as file:
        pq.write_table(pa.table(columns, _SCHEMA), file)
