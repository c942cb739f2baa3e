"""GEdit-Bench's judge as it asks a local Qwen2.5-VL: pictures before the text, PNG, greedy."""

from __future__ import annotations

from dataclasses import replace

from edittools.judges import protocols
from edittools.judges.protocols import Call, Case, Encoding, Prompts
from edittools.judges.rubrics import gedit


def ask(case: Case, prompts: Prompts, encoding: Encoding) -> list[Call]:
    return protocols.gedit_qwen(case, prompts)


RUBRIC = replace(
    gedit.RUBRIC,
    name="gedit_qwen",
    summary="GEdit-Bench's own, in the message layout of its Qwen2.5-VL judge",
    ask=ask,
)
