"""UnifiedReward-Edit's own, pointwise (Wang et al. 2025): is the result natural and free of artifacts; 0 to 25 each.

The text is that of `UnifiedReward-Edit/edit_pointwise_quality.py` in a checkout; the result alone is shown. What is
assumed is as in `unifiedreward_following`.
"""

from __future__ import annotations

from edittools.judge.rubrics.unifiedreward_following import HIGH, call, read
from edittools.rubric import Dimension, Rubric, number_of
from edittools.rubric.calls import Call, JudgedEdit, Prompts, named_text
from edittools.rubric.prompts import PromptLayout
from edittools.vlm.images import Encoding


def ask(case: JudgedEdit, prompts: Prompts, encoding: Encoding) -> list[Call]:
    return [call(named_text(prompts, "problem"), case.edited)]


RUBRIC = Rubric(
    name="unifiedreward_quality",
    summary="UnifiedReward-Edit's own, pointwise: naturalness and no artifacts, 0 to 25",
    dimensions=(
        Dimension("naturalness", ("judge",), number_of("judge", "score_1"), 0, HIGH),
        Dimension("artifacts", ("judge",), number_of("judge", "score_2"), 0, HIGH),
    ),
    ask=ask,
    read=read,
    ratings=(),
    layout=PromptLayout("UnifiedReward", ("edit_pointwise_quality.py",), ("problem",)),
)
