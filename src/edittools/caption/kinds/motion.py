"""The change of motion between two frames of a clip, as an instruction (Step1X-Edit 3.1.1, motion pairs)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, Question, Row
from edittools.caption.prompting import VIEWER, bilingual, both_languages, check_languages
from edittools.caption.schemas import record, text, yes_no
from edittools.record import TEXT

_PROMPT = f"""Two frames of one clip: "before" is earlier. Write the instruction that turns the first into the second,
as an order about the subject: its pose, its expression, its gesture, what it does. The camera, the light and the
surroundings are not what it is about. {VIEWER}
Say also whether it is the same subject in both, whether anything but the subject changed much (a cut, another place),
and whether the instruction's words for the subject fit somebody else in the frame as well ("the person", of several):
then the pair is of no use."""


def motion_facts(row: Row) -> str:
    """What optical flow says of the pair, where `edit filter --motion` has measured it."""
    scores = row.values.get("scores") or {}
    subject, camera = scores.get("motion"), scores.get("camera_motion")
    if subject is None or camera is None:
        return ""
    moved = f"the subject moves by {subject:.1f}, its surroundings by {camera:.1f}"
    return f"\nMeasured, in per cent of the diagonal: {moved}."


def _converse(row: Row) -> Conversation:
    schema = record(
        subject=text("who or what moves", 120),
        before=text("its pose, expression or action before", 200),
        after=text("and after", 200),
        same_subject=yes_no("the same individual in both"),
        only_motion=yes_no("nothing but the subject's motion changed much"),
        told_apart=yes_no("the words for the subject fit nobody and nothing else in the frame"),
        instruction=bilingual(row, "the instruction", 300),
    )

    def check(answer: Any) -> None:
        check_languages(answer["instruction"])
        if answer["before"].casefold().strip() == answer["after"].casefold().strip():
            raise ValueError("before and after are the same")

    answer = yield Question(
        row.pair(), _PROMPT + motion_facts(row) + both_languages(row), schema, check, max_tokens=500, examples=True
    )
    usable = answer["same_subject"] and answer["only_motion"] and answer["told_apart"]
    return {
        "instruction": {**dict(row.values.get("instruction") or {}), **answer["instruction"]},
        "task": "motion",
        "scores": {"caption_motion": float(usable)},
    }


KIND = Kind(
    summary="how the subject moved between two frames, as an instruction",
    reads="pair",
    columns={"instruction": TEXT, "task": pa.string()},
    converse=_converse,
    needs=("source", "target"),
    scores=("caption_motion",),
)
