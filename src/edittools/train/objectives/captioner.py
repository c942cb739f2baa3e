"""A captioner: a vision-language model learns what another one, or a person, has written about pairs, asked by the very
kind of `edit caption` that will ask it.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import torch

from edittools.caption.config import CaptionConfig
from edittools.caption.kind import Row
from edittools.caption.model_stage import ModelCaptionStage
from edittools.errors import RowError, UsageError
from edittools.nets.base import EditModel
from edittools.stream.batch import Batch, Shard
from edittools.train.config import Recipe
from edittools.train.replies import Parts, Replies, Shown, Taught, Teacher, load_replies
from edittools.train.rows import Rows

HELP = "a vision-language model that writes captions of pairs"
SETTINGS = {
    "kind": "detailed",  # the kind that asks; `edit caption --kinds` names the same one
    "task": True,  # the question says the row's task; False where rows that are to be captioned will have none
    "max_side": 1024,  # pixels, of the longest side of images; `edit caption --max-side` has to say the same
}
REPLIES = True


def load(recipe: Recipe, edit_model: EditModel, rows: Rows, device: torch.device) -> Replies:
    return load_replies(recipe, edit_model)


def teacher(recipe: Recipe, max_pixels: int) -> CaptionTeacher:
    return CaptionTeacher(recipe, max_pixels)


class CaptionTeacher(Teacher):
    """The messages are the first questions of ModelCaptionStage, in the recipe's language or both."""

    images = ("source", "target")

    def __init__(self, recipe: Recipe, max_pixels: int) -> None:
        """Raises UsageError."""
        self.given = given = recipe.of_objective()
        self.max_side = given["max_side"]
        languages = ("en", "zh") if recipe.language == "both" else (recipe.language,)
        config = CaptionConfig(
            model=("m",), kinds=(given["kind"],), language=languages, max_side=self.max_side, max_pixels=max_pixels
        )
        self.stage = ModelCaptionStage(config, lambda requests, check: iter(()))
        [(self.name, self.kind)] = self.stage.kinds.items()
        if self.kind.answer is None:
            raise UsageError(f"recipe: `kind` of `objective_settings`: what {self.name} answers no columns tell")

    def check(self, schema: pa.Schema) -> None:
        for name in (*self.kind.needs, *self.kind.writes(self.stage.config)):
            if name not in schema.names:
                raise UsageError(
                    f"the input has no `{name}` column", hint=f"`edit caption --kinds {self.name}` writes it"
                )

    def taught(self, rows: pa.RecordBatch) -> list[Taught | RowError | str]:
        return [self._of_row(answer) for answer in self._answers(Batch(rows, Shard(0, 1, ""), True, rows.num_rows))]

    def shown(self, batch: Batch) -> list[list[list[Shown]] | RowError]:
        """Those of the first question, small edits by themselves too: where a row has a mask, it is read."""
        return [self._looks(row) for row in self.stage.rows_of(batch)]

    def _looks(self, row: Row) -> list[list[Shown]] | RowError:
        conversation = self.kind.converse(row)
        try:
            looks = next(conversation).looks
            return [[(row.images[look.column][look.number], look.box) for look in looks]]
        except RowError as error:
            return error
        except StopIteration:
            return RowError("there is nothing to ask about the row")
        finally:
            conversation.close()

    def _of_row(self, answer: Any) -> Taught | RowError | str:
        if answer is None:
            return "a caption"
        return Taught({self.name: json.dumps(answer, ensure_ascii=False)}, "")

    def _answers(self, batch: Batch) -> list[Any]:
        assert self.kind.answer is not None
        return [self.kind.answer(row) for row in self.stage.rows_of(batch)]

    def message(self, batch: Batch, name: str) -> Parts:
        """Raises RowError for an answer, too, that the kind itself would not take."""
        asked = batch if self.given["task"] else batch.replace(_without_task(batch.rows))
        parts, check = self.stage.first_question(asked)
        try:
            check(json.dumps(self._answers(batch)[0], ensure_ascii=False))
        except ValueError as error:
            raise RowError("its caption is no answer", str(error)) from error
        return parts


def _without_task(rows: pa.RecordBatch) -> pa.RecordBatch:
    if "task" not in rows.schema.names:
        return rows
    field = rows.schema.field("task")
    return rows.set_column(rows.schema.get_field_index("task"), field, pa.nulls(rows.num_rows, field.type))
