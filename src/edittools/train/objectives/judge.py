"""A judge: a vision-language model learns the ratings of edits, asked by the very rubric that will ask it.

Ratings are columns of `scores`, or what another judge said (`judgements`), with its reasons if wanted. The model learns
to write the rubric's reply to them, and `edit judge --rubric R --model RUN` reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import torch

from edittools.errors import RowError, UsageError
from edittools.judge.rubrics import load_rubric
from edittools.judge.stage import COLUMN, VlmJudgeStage, judgements_of
from edittools.nets.base import EditModel
from edittools.rubric.calls import JudgedEdit
from edittools.rubric.parsing import Scores
from edittools.rubric.prompts import read_prompts
from edittools.stream.batch import Batch, image_columns
from edittools.stream.rows import column_values, instructions
from edittools.train.config import Recipe
from edittools.train.replies import Parts, Replies, Shown, Taught, Teacher, load_replies
from edittools.train.rows import Rows
from edittools.vlm.images import Encoding

HELP = "a vision-language model that judges edits"
SETTINGS = {
    "rubric": "rating",  # the rubric that asks; `edit judge --rubric` names the same one
    "ratings": "",  # "LABEL=SCORE ...": a score, or a number, for each number of a reply; SCORE@LOW..HIGH: its scale
    "rejected_ratings": "",  # likewise for the image `rejected` beside the target, which is judged too
    "negative_ratings": "",  # likewise for the target under `instruction_negative`, which it does not follow
    "preference": "",  # of the rubric pairwise: the score that is 1 where target is better than rejected, 0.5 for a tie
    "judge": "",  # without `ratings`: whose `judgements` are learned; empty: of a judge without a name
    "reasons": False,  # learn a judge's whole replies, and not the numbers alone
    "column": "",  # the edited image; empty: `result` if there is one, else `target`
    "prompts": "",  # of a rubric with a benchmark's texts: where they are
    "max_side": 1024,  # pixels, of the longest side of images; `edit judge --max-side` has to say the same
}
REPLIES = True
_NUMBER = r"-?(?:\d+(?:\.\d+)?|\.\d+)"
REJECTED = "rejected "  # begins the names of messages about that image
NEGATIVE = "negative "  # begins those with the instruction that the target does not follow
_FURTHER = {REJECTED: "rejected_ratings", NEGATIVE: "negative_ratings"}


def load(recipe: Recipe, edit_model: EditModel, rows: Rows, device: torch.device) -> Replies:
    return load_replies(recipe, edit_model)


def teacher(recipe: Recipe, max_pixels: int) -> JudgeTeacher:
    return JudgeTeacher(recipe, max_pixels)


class JudgeTeacher(Teacher):
    """The messages are those of VlmJudgeStage."""

    def __init__(self, recipe: Recipe, max_pixels: int) -> None:
        """Raises UsageError."""
        self.given = recipe.of_objective()
        self.rubric = load_rubric(self.given["rubric"])
        self.language = None if recipe.language == "both" else recipe.language
        self.max_side = self.given["max_side"]
        self.calls = tuple(dict.fromkeys(call for each in self.rubric.dimensions for call in each.calls))
        self.pairwise = "other" in self.rubric.images
        if self.pairwise != bool(self.given["preference"]):
            raise UsageError(
                "recipe: `objective_settings`: `preference` is for a rubric that compares, and needed there"
            )
        told = [name for name in ("ratings", *_FURTHER.values()) if self.given[name]]
        if told and (self.pairwise or self.given["reasons"] or self.given["judge"]):
            raise UsageError(f"recipe: `objective_settings`: `{told[0]}`, and a judge's replies: one of the two")
        self.sides = {"": self._scores("ratings")}
        for side, setting in _FURTHER.items():
            if self.given[setting]:
                self.sides[side] = self._scores(setting)
        if told and not self.given["ratings"]:
            raise UsageError(f"recipe: `{told[0]}` of `objective_settings` stands beside `ratings`")
        self.stages = {side: self._stage(side, max_pixels) for side in self.sides}
        edited = self.given["column"] or "target"
        self.images = ("source", edited, *(["rejected"] if self.pairwise or REJECTED in self.sides else []))

    def _stage(self, side: str, max_pixels: int) -> VlmJudgeStage:
        where, rubric = self.given["prompts"], self.rubric
        prompts = read_prompts(where, rubric.layout).texts if where and rubric.layout else None
        edited = "rejected" if side == REJECTED else self.given["column"] or ("target" if self.pairwise else None)
        return VlmJudgeStage(
            rubric, lambda requests, check: iter(()), model="", endpoint="", prompts=prompts,
            encoding=Encoding(max_side=self.max_side, max_pixels=max_pixels), language=self.language, edited=edited,
            other="rejected" if self.pairwise else None,
        )  # fmt: skip

    def _scores(self, setting: str) -> dict[str, tuple[str, float | None, float]]:
        """By label: the score, and the ends of its scale where that is another one. Raises UsageError."""
        text: str = self.given[setting]
        found: dict[str, tuple[str, float | None, float]] = {}
        for each in text.split():
            match = re.fullmatch(rf"(\w+)=([^@\s]+?)(?:@({_NUMBER})\.\.({_NUMBER}))?", each)
            if match is None or (match[3] is not None and float(match[3]) >= float(match[4])):
                raise UsageError(f"recipe: `{setting}`: {each} is not LABEL=SCORE or LABEL=SCORE@LOW..HIGH")
            found[match[1]] = match[2], None if match[3] is None else float(match[3]), float(match[4] or 0)
        labels = [label for call in self.calls for label in self.rubric.labels(call)]
        if text and (sorted(found) != sorted(labels) or not self.rubric.ratings):
            hint = f"the labels are {', '.join(labels)}" if labels else "train with a judge's replies instead"
            raise UsageError(
                f"recipe: `{setting}` has to name every number that `{self.rubric.name}` asks for", hint=hint
            )
        return found

    def check(self, schema: pa.Schema) -> None:
        if not self.given["column"] and not self.pairwise and "result" in schema.names:
            self.images = ("source", "result", *self.images[2:])
        if "turns" in self.rubric.images:
            self.images = ("source", f"{self.images[1]}_turns")
        for stage in self.stages.values():
            stage.schema(schema)
        shown = {path[0] for path in image_columns(schema) if path[1:] in ((), ("*",))}
        shown |= {field.name for field in schema if pa.types.is_null(field.type)}  # none in any row
        if none := [name for name in self.images if name in schema.names and name not in shown]:
            raise UsageError(f"column `{none[0]}` holds no images")
        if self.pairwise or self.sides[""]:
            names = [self.given["preference"]] if self.pairwise else []
            names += [score for side in self.sides.values() for score, _, _ in side.values() if _number(score) is None]
            if NEGATIVE in self.sides and "instruction_negative" not in schema.names:
                raise UsageError("the input has no `instruction_negative` column", hint="edit caption --kinds slots")
            scores = schema.field("scores").type if "scores" in schema.names else pa.struct([])
            for name in names:
                if scores.get_field_index(name) < 0:
                    raise UsageError(f"the input has no score `{name}`", hint="`ratings`, `preference`")
        elif COLUMN not in schema.names:
            raise UsageError(
                "the input has no `judgements` column", hint="or objective_settings.ratings names scores of people"
            )

    # ------------------------------------------------------------------------------------------------- replies

    def taught(self, rows: pa.RecordBatch) -> list[Taught | RowError | str]:
        if not self.pairwise and not self.sides[""]:
            return self._by_judge(rows)
        scores = [each or {} for each in column_values(rows, "scores")]
        if self.pairwise:
            return [self._of_pair(each) for each in scores]
        negatives = (
            instructions(rows.select(["instruction_negative"]).rename_columns(["instruction"]), self.language)
            if NEGATIVE in self.sides
            else [None] * len(scores)
        )
        shown = rows.column("rejected").is_valid().to_pylist() if REJECTED in self.sides else [True] * len(scores)
        return [self._of_scores(each, no is not None, there) for each, no, there in zip(scores, negatives, shown)]

    def shown(self, batch: Batch) -> list[list[list[Shown]] | RowError]:
        """A pair's images are in one message where the rubric compares them, else each with the sources in its own."""
        if self.pairwise or REJECTED not in self.sides:
            return super().shown(batch)
        source, edited, rejected = self.images
        return self.images_of(batch, [(source, edited), (source, rejected)])

    def _of_pair(self, scores: Mapping[str, Any]) -> Taught | RowError | str:
        preference = scores.get(self.given["preference"])
        if preference is None:
            return "a preference"
        if preference not in (0, 0.5, 1):
            return RowError("a preference is 0, 0.5 or 1", preference)
        better = {1: (1, 2), 0: (2, 1), 0.5: (0, 0)}[preference]
        said = {call: self.rubric.reply(call, {"better": which}) for call, which in zip(self.calls, better)}
        return Taught(said, f"{preference:g}")

    def _of_scores(self, scores: Mapping[str, Any], negative: bool, rejected: bool) -> Taught | RowError | str:
        """negative: the row has an instruction that its target does not follow; where such are learned, one without
        teaches nothing, so that good and bad are 1:1 in every task. rejected: it has the image `rejected`.

        The group is the ratings of all sides together, each the mean of its numbers."""
        if NEGATIVE in self.sides and not negative:
            return "an instruction_negative"
        replies: dict[str, str] = {}
        every: list[str] = []
        for side, named in self.sides.items():
            if side == REJECTED and not rejected:
                continue
            numbers: dict[str, int] = {}
            for label, (score, low, high) in named.items():
                value = scores.get(score) if (number := _number(score)) is None else number
                if value is None:
                    continue
                try:
                    numbers[label] = self._on_scale(float(value), low, high)
                except ValueError:
                    return RowError("a rating is not on the scale", f"{score} is {value}")
            for call in self.calls:
                labels = self.rubric.labels(call)
                if all(label in numbers for label in labels):
                    replies[f"{side}{call}"] = self.rubric.reply(call, numbers)
            if numbers:
                every.append(f"{sum(numbers.values()) / len(numbers):.0f}")
        return Taught(replies, " ".join(every)) if replies else "a rating"

    def _on_scale(self, value: float, low: float | None, high: float) -> int:
        """The nearest rating; of a scale low..high the one at the same share of the rubric's. Raises ValueError."""
        first, last = self.rubric.ratings[0], self.rubric.ratings[-1]
        if low is not None:
            value = first + (value - low) / (high - low) * (last - first)
        if not first - 1e-9 <= value <= last + 1e-9:
            raise ValueError
        return min(self.rubric.ratings, key=lambda rating: (abs(rating - value), -rating))

    def _by_judge(self, rows: pa.RecordBatch) -> list[Taught | RowError | str]:
        said = judgements_of(rows)
        tasks, texts = column_values(rows, "task"), instructions(rows, self.language)
        found: list[Taught | RowError | str] = []
        for judgements, task, text, of in zip(said, tasks, texts, column_values(rows, "case")):
            native = (of or {}).get("task")
            case = JudgedEdit(native or task or "", text or "", (), b"", facts={"category": native} if native else {})
            read = dict(self._read(judgements, case))
            mean = [value for _, numbers in read.values() for value in numbers]
            replies = {call: reply for call, (reply, _) in read.items()}
            found.append(Taught(replies, f"{sum(mean) / len(mean):.0f}") if replies else "a judgement")
        return found

    def _read(
        self, judgements: list[dict[str, Any]], case: JudgedEdit
    ) -> Iterator[tuple[str, tuple[str, list[float]]]]:
        """By call: the reply to learn and its numbers, of the first pass that can be read."""
        judge = self.given["judge"] or None
        for call in self.calls:
            for one in judgements:
                if one["rubric"] != self.rubric.name or one["judge"] != judge or one["state"] != "ok":
                    continue
                reply = self._reply_of(one, call)
                read = self.rubric.read(reply, call, case, self.stages[""].prompts) if reply is not None else None
                if isinstance(read, Scores):
                    numbers = {label: int(value) for label, value in read.values.items()}
                    if self.given["reasons"] or set(self.rubric.labels(call)) != set(numbers):
                        yield call, (reply or "", list(read.values.values()))
                    else:
                        yield call, (self.rubric.reply(call, numbers), list(read.values.values()))
                    break

    def _reply_of(self, judgement: dict[str, Any], call: str) -> str | None:
        """What a judge wrote to a call: of several, JSON of call -> text."""
        dimension = next(each for each in self.rubric.dimensions if each.name == judgement["dimension"])
        if call not in dimension.calls:
            return None
        if len(dimension.calls) == 1:
            return judgement["reply"]
        said: dict[str, str | None] = json.loads(judgement["reply"])
        return said.get(call)

    # ------------------------------------------------------------------------------------------------ messages

    def message(self, batch: Batch, name: str) -> Parts:
        side = next((side for side in _FURTHER if name.startswith(side)), "")
        if side == NEGATIVE:
            at = batch.rows.schema.get_field_index("instruction")
            batch = batch.replace(batch.rows.set_column(at, "instruction", batch.rows.column("instruction_negative")))
        [(calls, missing)] = list(self.stages[side].calls(batch))
        if missing is not None:
            raise RowError(missing)
        found = [call for call in calls if call.name == name.removeprefix(side)]
        if not found:
            raise RowError("the rubric does not ask this about the row")
        return found[0].parts


def _number(text: str) -> float | None:
    """A rating that stands for a score's name."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
