"""UnifiedReward-Edit's own, pointwise (Wang et al. 2025): was the edit done, and nothing else; 0 to 25 each.

The text is that of `UnifiedReward-Edit/edit_pointwise_instruction_following.py` in a checkout; images are sent before
it as JPEG of quality 95. The order in the message, and that the judge is greedy, are assumed: the released example
leaves them to a server.
"""

from __future__ import annotations

from edittools.rubric import Dimension, Rubric, number_of
from edittools.rubric.calls import Call, JudgedEdit, Prompts, named_text
from edittools.rubric.parsing import Scores, Unparsed, viescore_strict
from edittools.rubric.prompts import PromptLayout
from edittools.vlm.images import Encoding, open_image, rgb, saved

HIGH = 25


def call(text: str, *images: bytes) -> Call:
    """The images and then the text, as the released example sends them."""
    shown = [saved(rgb(open_image(data)), "JPEG", quality=95) for data in images]
    return Call("judge", (*shown, text), "jpeg, quality 95", {"max_tokens": 1024, "temperature": 0.0})


def ask(case: JudgedEdit, prompts: Prompts, encoding: Encoding) -> list[Call]:
    text = named_text(prompts, "problem").replace("<instruction>", case.instruction)
    return [call(text, case.source, case.edited)]


def read(reply: str, call: str, case: JudgedEdit, prompts: Prompts) -> Scores | Unparsed:
    return viescore_strict(reply, 2, 0, HIGH)


RUBRIC = Rubric(
    name="unifiedreward_following",
    summary="UnifiedReward-Edit's own, pointwise: success and no over-editing, 0 to 25",
    dimensions=(
        Dimension("success", ("judge",), number_of("judge", "score_1"), 0, HIGH),
        Dimension("preservation", ("judge",), number_of("judge", "score_2"), 0, HIGH),
    ),
    ask=ask,
    read=read,
    ratings=(),
    layout=PromptLayout("UnifiedReward", ("edit_pointwise_instruction_following.py",), ("problem",)),
)
