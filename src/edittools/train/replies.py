"""Replies to messages as what is learned: rows, batches, held-out rows and the loss of a vision-language model.

A Teacher says of a row what a model is asked about it, by the code that asks when nobody trains, and what it should
reply. Everything else of a run is as of any other: its steps, checkpoints, log, optimisers.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from edittools.errors import EditError, RowError, UsageError
from edittools.nets.base import EditModel
from edittools.nets.qwen_vl import QwenVL
from edittools.stream import codec
from edittools.stream.batch import Batch, Shard
from edittools.stream.fetch import Fetcher
from edittools.stream.history import digest
from edittools.stream.row_images import list_references
from edittools.stream.rows import column_values
from edittools.stream.source import Source
from edittools.train.bucket_sampler import BucketSampler, BucketStats, NumberedSamples, TrainSample
from edittools.train.config import OBJECTIVES, Recipe
from edittools.train.data import TrainBatch
from edittools.train.features import Features
from edittools.train.heldout import Chunk, HeldOut, heldout_recipe
from edittools.train.mapped import Columns
from edittools.train.mixture import row_weights
from edittools.train.objectives import Losses, Objective, TrainedModel, plain
from edittools.train.parallel import Parallel
from edittools.train.rejects import Rejects, Unusable
from edittools.train.rows import TrainRow
from edittools.vlm import EncodedImage

Parts = Sequence[str | EncodedImage]
Shown = tuple[dict[str, Any] | None, tuple[float, float, float, float] | None]
"""An image, a value of the column type IMAGE, and the part of it that is shown, x0, y0, x1, y1 as shares; None: all."""


@dataclass(frozen=True)
class Taught:
    """What there is to learn of a row: by message the reply, and the group it belongs to where they are balanced."""

    replies: dict[str, str]
    group: str


class Teacher(ABC):
    """Knows the messages about a row, and the replies. Its methods may be called from several threads."""

    images: tuple[str, ...] = ()  # the columns of images that messages show
    max_side: int | None = None  # pixels, of the longest side of what is shown

    @abstractmethod
    def check(self, schema: pa.Schema) -> None:
        """Raises UsageError for rows that lack a column."""

    @abstractmethod
    def taught(self, rows: pa.RecordBatch) -> list[Taught | RowError | str]:
        """Of every row: what it teaches, why it cannot be used, or in a word what it lacks. Reads no images."""

    def shown(self, batch: Batch) -> list[list[list[Shown]] | RowError]:
        """Of every row the images of each message that differs from others in them: batches are filled by the one of
        the most tokens."""
        return self.images_of(batch, [self.images])

    def images_of(self, batch: Batch, messages: Sequence[Sequence[str]]) -> list[list[list[Shown]] | RowError]:
        """Of every row the images that messages show, each by its columns."""
        names = {name for columns in messages for name in columns}
        found = {name: list_references(batch.rows, name) for name in names}
        return [
            [[(item, None) for name in columns for item in found[name][k]] for columns in messages]
            for k in range(batch.rows.num_rows)
        ]

    @abstractmethod
    def message(self, batch: Batch, name: str) -> Parts:
        """A message about the one row of a batch. Raises RowError."""


def load_teacher(recipe: Recipe, max_pixels: int) -> Teacher:
    """The teacher of a recipe's objective. Raises UsageError."""
    made: Teacher = OBJECTIVES.load(recipe.objective).teacher(recipe, max_pixels)
    return made


# ---------------------------------------------------------------------------------------------------------- rows

_SIZES = pa.list_(pa.list_(pa.int32()))  # by message heights and widths in turn
_OWN = pa.schema([("_replies", pa.string()), ("_group", pa.string()), ("_sizes", _SIZES), ("_shard", pa.string())])


class ReplyRows:
    """The rows of a source that teach something; see rows.Rows. Pickled they are for processes of this machine."""

    captioned = 0

    def __init__(self, recipe: Recipe, source: Source, max_pixels: int, rejects: Rejects | None = None) -> None:
        """Raises UsageError, EditError where no row teaches anything, TooManyFailed."""
        self.recipe, self.max_pixels = recipe, max_pixels
        self.teacher = load_teacher(recipe, max_pixels)
        self.teacher.check(source.schema)
        if recipe.balance not in ("", "task", "rating", *source.schema.names):
            raise UsageError(f"the input has no `{recipe.balance}` column to balance by", hint='"rating", "task"')
        self.schema = pa.schema(list(source.schema))  # without what the whole input says of itself
        self.rejects = Rejects() if rejects is None else rejects
        self.left_out: Counter[str] = Counter()
        self.variants = 1  # the most messages about a row
        digests: list[str] = []
        self.table = Columns(self._read(source, digests), pa.schema([*self.schema, *_OWN]))
        self.rejects.rows = len(self.table) + len(self.rejects) + sum(self.left_out.values())
        if not self.table:
            why = [self.rejects.summary(), *(f"{count} {reason}" for reason, count in self.left_out.items())]
            raise EditError("no row teaches a reply" + "".join(f": {each}" for each in why if each))
        self.rejects.check()
        self.data_id = digest(source.history.hash, *digests)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "teacher": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.teacher = load_teacher(self.recipe, self.max_pixels)
        self.teacher.check(self.schema)  # which also settles what images there are

    def _read(self, source: Source, digests: list[str]) -> Iterator[pa.RecordBatch]:
        fetcher = Fetcher()
        for batch in source.batches(lambda shard: True):
            if batch.last:
                digests.append(batch.shard.digest)
            rows, own = batch.rows, []
            shown = self.teacher.shown(batch) if rows.num_rows else []
            tasks = column_values(rows, "task")
            groups = column_values(rows, self.recipe.balance or "task")
            for k, taught in enumerate(self.teacher.taught(rows) if rows.num_rows else []):
                try:
                    if isinstance(taught, RowError):
                        raise taught
                    if isinstance(taught, str):
                        self.left_out[f"without {taught}"] += 1
                        continue
                    if isinstance(seen := shown[k], RowError):
                        raise seen
                    sizes = [[self._size(item, fetcher, box) for item, box in message] for message in seen]
                except RowError as error:
                    self.rejects.add(str(rows.column("id")[k].as_py()), str(error))
                    continue
                self.variants = max(self.variants, len(taught.replies))
                group = f"{tasks[k]} {taught.group}" if self.recipe.balance == "rating" else str(groups[k])
                flat = [[side for size in message for side in size] for message in sizes]
                own.append((k, json.dumps(taught.replies), group, flat))
            if own:
                places, *told = zip(*own)
                columns = [pa.array(values, field.type) for values, field in zip(told, _OWN)]
                columns = [*rows.take(pa.array(places)).columns, *columns, pa.array([batch.shard.digest] * len(own))]
                yield pa.record_batch(columns, pa.schema([*self.schema, *_OWN]))

    def _size(self, item: dict[str, Any] | None, fetcher: Fetcher, box: Sequence[float] | None) -> tuple[int, int]:
        """Height and width of an image, or of a part of it, as it is shown. Raises RowError."""
        if item is None:
            return 0, 0
        height, width = item.get("height"), item.get("width")
        if not height or not width:
            header = codec.probe(fetcher.get(item), self.max_pixels)
            height, width = header.height, header.width
        if box is not None:  # as Encoding.part() cuts it out
            x0, y0, x1, y1 = (round(share * side) for share, side in zip(box, (width, height) * 2))
            height, width = max(1, y1 - y0), max(1, x1 - x0)
        longest = self.teacher.max_side or max(height, width)
        scale = min(1.0, longest / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> TrainRow:
        piece, k = self.table.find(index)
        task = (piece["task"][k].as_py() if "task" in piece else None) or ""
        return TrainRow(str(piece["id"][k].as_py()), task, task, {}, [], (1, 1), piece["_group"][k].as_py())

    def replies(self, index: int) -> dict[str, str]:
        """By message, the replies about a row."""
        piece, k = self.table.find(index)
        found: dict[str, str] = json.loads(piece["_replies"][k].as_py())
        return found

    def message(self, index: int, name: str) -> Parts:
        """Raises Unusable."""
        piece, k = self.table.find(index)
        rows = pa.record_batch([piece[column].slice(k, 1) for column in self.schema.names], self.schema)
        try:
            return self.teacher.message(Batch(rows, Shard(0, 1, piece["_shard"][k].as_py()), True, 1), name)
        except RowError as error:
            raise Unusable(str(piece["id"][k].as_py()), error) from error

    def sizes(self) -> Iterator[list[list[tuple[int, int]]]]:
        """Of every row, by message heights and widths of the images as they are shown; 0 x 0 of one that it lacks."""
        for piece in self.table.pieces:
            for messages in piece["_sizes"].to_pylist():
                yield [list(zip(sides[::2], sides[1::2])) for sides in messages]

    def texts(self) -> Iterator[str]:
        return iter(())

    def files(self) -> set[str]:
        """That images lie in."""
        names: set[str | None] = set()
        for piece in self.table.pieces:
            for column in self.teacher.images:
                images = piece[column]
                images = images.flatten() if pa.types.is_list(images.type) else images
                names.update(pc.unique(images.field("file")).to_pylist())
        return {name for name in names if name}


# ------------------------------------------------------------------------------------------------------- batches


class ReplySamples(NumberedSamples):
    """A row's messages take turns, variant by variant."""

    def __init__(self, rows: ReplyRows, tokens: np.ndarray) -> None:
        """tokens: (N,) of the images of a sample, of those that may share its batch the most."""
        super().__init__(len(tokens), len(rows))
        self.rows, self.tokens = rows, tokens

    def made(self, index: int, variant: int, row: int) -> TrainSample:
        names = list(self.rows.replies(row))
        return TrainSample(row, names[variant % len(names)], (), ((int(self.tokens[index]), 1),))


class ReplySampler(BucketSampler):
    """Rows of about as many tokens of images share a batch; images are shown whole, at their own ratio."""

    def __init__(self, recipe: Recipe, rows: ReplyRows, model: QwenVL, rejects: Rejects | None = None) -> None:
        """As of a BucketSampler."""
        self.recipe, self.lengths = dataclasses.replace(recipe, variants=rows.variants), None
        every: Any = rows  # without images, masks and places, which nothing here asks for
        self.rows, self.weights = every, row_weights(recipe, every)
        tokens = np.array([
            max([1, *(sum(model.image_tokens(*size) for size in shown if size[0]) for shown in messages)])
            for messages in rows.sizes()
        ])  # fmt: skip
        steps = np.ceil(2 * np.log2(tokens)).astype(int)  # the shortest of a bucket has .7 of the longest's
        _, code = np.unique(steps, return_inverse=True)
        self._tokens = np.zeros(code.max() + 1, int)
        np.maximum.at(self._tokens, code, tokens)
        self._code = np.tile(code, rows.variants)
        self._bucket: np.ndarray = np.arange(len(self._tokens))
        self._fit = np.maximum(1, recipe.batch_tokens // self._tokens)
        self._passes, self._mixed = 1, False
        self._leave_out([1] * len(self._tokens), rejects)
        self._offset = np.random.default_rng([recipe.seed, 3]).integers(0, rows.variants, len(rows), np.uint16)
        self.samples: Any = ReplySamples(rows, self._tokens[self._code])

    def alike(self, sample: int) -> Iterator[int]:
        """Those of its bucket, then of shorter ones, which fit as rows are padded, and at last of longer ones."""
        yield from super().alike(sample)
        mine = self._code[sample]
        for k in np.argsort(np.where(self._code < mine, mine - self._code, self._code + mine + 1), kind="stable"):
            if self._code[k] != mine and self.weights[k % len(self.rows)]:
                yield int(k)

    def use(self) -> BucketStats:
        epoch = next(self._epochs())
        budget = len(epoch.order) * self.recipe.batch_tokens
        used = float(self._tokens[self._code[epoch.draws[0]]].sum()) / budget if budget else 1.0
        waiting = epoch.waiting.shape[1]
        return BucketStats(1 - used, 0.0, waiting / max(1, waiting + epoch.draws.shape[1]), len(self._tokens))


class ReplyFeatures:
    """What the model reads of a sample. Several threads may ask."""

    def __init__(self, model: QwenVL, rows: ReplyRows) -> None:
        self.model, self.rows = model, rows

    def __call__(self, sample: TrainSample) -> Features:
        """Raises Unusable."""
        parts = self.rows.message(sample.row, sample.text)
        try:
            read = self.model.replied(parts, self.rows.replies(sample.row)[sample.text])
        except RowError as error:
            raise Unusable(self.rows[sample.row].id, error) from error
        return Features(torch.zeros(1, 1, 1), [], read)


class HeldOutReplies(HeldOut):
    """The loss of replies about rows that are not trained on; there is one "time"."""

    def __init__(self, recipe: Recipe, rows: ReplyRows, model: QwenVL, rejects: Rejects) -> None:
        self.recipe = dataclasses.replace(recipe, heldout_times=[0.5])
        self.rows: Any = rows
        self.edit_model, self.features, self.rejects = model, ReplyFeatures(model, rows), rejects
        even = dataclasses.replace(heldout_recipe(recipe), objective=recipe.objective,
                                   objective_settings=recipe.objective_settings)  # fmt: skip
        self.sampler = ReplySampler(even, rows, model, rejects)
        self.groups = list(self._groups())

    def _groups(self) -> Iterator[list[TrainSample]]:
        by_tokens: dict[int, list[TrainSample]] = defaultdict(list)
        for sample in dict.fromkeys(self.sampler.samples):
            if self.rows[sample.row].id not in self.rejects:
                by_tokens[sample.shapes[0][0]].append(sample)
        for tokens, samples in by_tokens.items():
            fit = max(1, self.recipe.batch_tokens // tokens)
            yield from (samples[k : k + fit] for k in range(0, len(samples), fit))

    def _loss(self, network: Any, chunk: Chunk, number: int, t: float, parallel: Parallel) -> Tensor:
        place = parallel.device
        with parallel.arithmetic(getattr(torch, self.recipe.dtype)):
            shown = {name: value.to(place) for name, value in chunk.conditioning.items()}
            return network(chunk.target.to(place), torch.zeros(0, device=place), [], shown)[:, 0].cpu()


# ---------------------------------------------------------------------------------------------------------- loss


class Replies(Objective):
    """-log p of the tokens of a row's reply and its end, their mean; the share of them that the model would write."""

    def __init__(self, right: str) -> None:
        self.right = right  # what the log calls the second

    def losses(self, model: TrainedModel, batch: TrainBatch, step: int, factor: float) -> Losses:
        loss, right = model(batch.target, batch).unbind(1)
        return Losses(loss, {self.right: right.detach()})


def load_replies(
    recipe: Recipe, edit_model: EditModel, system: type[QwenVL] = QwenVL, right: str = "right_tokens"
) -> Replies:
    """The objective. Raises UsageError for another architecture, and for settings of images."""
    plain(recipe)
    if type(edit_model) is not system:
        name = system.__module__.rpartition(".")[2]
        raise UsageError(f'recipe: the objective `{recipe.objective}` is for `system = "{name}"`')
    images = ("sample_every", "caption_dropout", "drop_references", "shuffle_references", "attention", "quantize",
              "block_swap", "kinds", "origins", "captions", "instruction_styles")  # fmt: skip
    for name in images:
        if getattr(recipe, name):
            raise UsageError(f"recipe: `{name}` is for models that make images, not for `{recipe.objective}`")
    return Replies(right)
