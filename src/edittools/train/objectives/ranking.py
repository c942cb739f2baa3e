"""A ranking: a vision-language model with scalar heads learns which of two results people prefer, or that neither.

Of a pair `target` and `rejected` are shown as score/reward_models/editreward.py shows a result, with the same texts,
and `edit score --reward-model editreward --reward-weights RUN` reads what it leaves. The loss is Rao and Kupper's model
of pairs with ties: see nets/editreward.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pyarrow as pa
import torch

from edittools.errors import RowError, UsageError
from edittools.nets.base import EditModel
from edittools.nets.editreward import EditRewardModel
from edittools.score.reward_models import filled
from edittools.score.reward_models.editreward import TEXTS, head_texts
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.row_images import column_references, list_references
from edittools.stream.rows import column_values, instructions
from edittools.train.config import Recipe
from edittools.train.replies import Parts, Replies, Shown, Taught, Teacher, load_replies
from edittools.train.rows import Rows
from edittools.vlm.images import Encoding

HELP = "a vision-language model with heads that order results"
SETTINGS = {
    "following": "editreward_preference",  # first head: a score, 1 where target is better, 0.5 a tie; or SCORE>SCORE
    "quality": "editreward_preference",  # second head, likewise; of SCORE>SCORE target is better where its is higher
    "prompts": "",  # a checkout of EditReward, or a file of texts by the same names; of `edit score --prompts` the same
}
REPLIES = True
_PAIR = "pair"  # the one message about a row


def load(recipe: Recipe, edit_model: EditModel, rows: Rows, device: torch.device) -> Replies:
    return load_replies(recipe, edit_model, EditRewardModel, "right_heads")


def teacher(recipe: Recipe, max_pixels: int) -> RankingTeacher:
    return RankingTeacher(recipe, max_pixels)


class RankingTeacher(Teacher):
    """The message is what the heads see of a pair, the reply what people said of it for each head."""

    images = ("source", "target", "rejected")

    def __init__(self, recipe: Recipe, max_pixels: int) -> None:
        """Raises UsageError, EditError."""
        given = recipe.of_objective()
        if not given["prompts"]:
            raise UsageError(
                "recipe: `prompts` of `objective_settings` names the heads' texts",
                hint=f"a checkout of EditReward, or a JSON file with {', '.join(TEXTS)} and prompt_with_special_token",
            )
        self.texts = head_texts(given["prompts"])
        self.preferences = [_scores(name, given[name]) for name in ("following", "quality")]
        self.language = None if recipe.language == "both" else recipe.language
        self.encoding = Encoding("png", max_side=None, max_pixels=max_pixels)  # as exact as `edit score` reads them
        self.fetcher = Fetcher()

    def check(self, schema: pa.Schema) -> None:
        for name in ("source", "target", "rejected", "instruction"):
            if name not in schema.names:
                raise UsageError(
                    f"the input has no `{name}` column", hint="`edit pair` makes pairs of judged candidates"
                )
        scores = schema.field("scores").type if "scores" in schema.names else pa.struct([])
        for name in (name for names in self.preferences for name in names):
            if scores.get_field_index(name) < 0:
                raise UsageError(f"the input has no score `{name}`", hint="`following`, `quality`")

    def taught(self, rows: pa.RecordBatch) -> list[Taught | RowError | str]:
        scores, texts = column_values(rows, "scores"), instructions(rows, self.language)
        return [self._of_row(each or {}, text) for each, text in zip(scores, texts)]

    def _of_row(self, scores: dict[str, Any], text: str | None) -> Taught | RowError | str:
        if not text:
            return "an instruction"
        said = []
        for names in self.preferences:
            values = [float(scores[name]) for name in names if scores.get(name) is not None]
            if len(values) < len(names):
                return "a preference"
            if not all(map(math.isfinite, values)):  # of NaN no comparison is true, and the second would have won
                return RowError("a score is no number", values)
            value = values[0] if len(values) == 1 else (values[0] > values[1]) + 0.5 * (values[0] == values[1])
            if value not in (0, 0.5, 1):
                return RowError("a preference is 0, 0.5 or 1", value)
            said.append(f"{value:g}")
        return Taught({_PAIR: " ".join(said)}, " ".join(said))

    def shown(self, batch: Batch) -> list[list[list[Shown]] | RowError]:
        """Of each head source and target, source and rejected."""
        found: list[list[list[Shown]] | RowError] = []
        for source, *results in self._images(batch):
            found.append([[(item, None) for _ in self.texts for each in results for item in (source, each)]])
        return found

    def message(self, batch: Batch, name: str) -> Parts:
        [shown] = self._images(batch)
        text = instructions(batch.rows, self.language)[0] or ""
        images = []
        for column, item in zip(self.images, shown):
            if item is None:
                raise RowError(f"no {column} image")
            images.append(self.encoding.image(bytes(self.fetcher.get(item))))
        return [*(filled(each, name, text_prompt=text) for each, name in zip(self.texts, TEXTS)), *images]

    def _images(self, batch: Batch) -> list[list[dict[str, Any] | None]]:
        """The first source, the target and the rejected image of every row."""
        sources = [each[0] if each else None for each in list_references(batch.rows, "source")]
        return [list(each) for each in zip(sources, *(column_references(batch.rows, n) for n in self.images[1:]))]


def _scores(setting: str, text: str) -> list[str]:
    """The one or two scores of a preference. Raises UsageError."""
    if re.fullmatch(r"\w+(>\w+)?", text) is None:
        raise UsageError(f"recipe: `{setting}` of `objective_settings`: {text} is not SCORE or SCORE>SCORE")
    return text.split(">")
