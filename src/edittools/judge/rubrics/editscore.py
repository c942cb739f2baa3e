"""EditScore's own (Luo et al. 2025), for its trained judges: VIEScore's two calls with ratings of 0 to 25.

Its texts are read from a checkout of EditScore (`editscore/vie_prompts.py`), in which 10 stands where its judges were
taught 25. The scores are on 0 to 10: SC and PQ are the lowest of their two numbers, overall is sqrt(SC * PQ), and with
--repeats the passes' overalls are averaged, as there. What the released code makes of failures is refused: a guessed
rating where a reply cannot be read, the middle of the scale for what is missing, and 12.5 on a scale of 10 for a rating
out of range. Its judges draw with top_k 20 besides, which an endpoint may not know and is left out.
"""

from __future__ import annotations

import math

from edittools.rubric import Dimension, Numbers, Rubric
from edittools.rubric.calls import Call, JudgedEdit, Prompts, named_text
from edittools.rubric.parsing import Scores, Unparsed, viescore_strict
from edittools.rubric.prompts import PromptLayout
from edittools.vlm.images import Encoding, open_image, rgb, saved

HIGH = 25
_SCALED = ("_prompts_0shot_tie_rule_SC", "_prompts_0shot_rule_PQ")
_SC = ("_context_no_delimit_reasoning_first", "_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC")
_PQ = ("_context_no_delimit_reasoning_first", "_prompts_0shot_rule_PQ")


def _text(prompts: Prompts, names: tuple[str, ...]) -> str:
    parts = (named_text(prompts, name) for name in names)
    return "\n".join(part.replace("10", str(HIGH)) if name in _SCALED else part for name, part in zip(names, parts))


def ask(case: JudgedEdit, prompts: Prompts, encoding: Encoding) -> list[Call]:
    source, edited = (saved(rgb(open_image(data)), "PNG") for data in (case.source, case.edited))
    semantics = _text(prompts, _SC).replace("<instruction>", case.instruction)
    parameters = {"max_tokens": 512, "temperature": 0.7, "top_p": 0.9}
    return [
        Call("SC", ("<img1>: ", source, "<img2>: ", edited, semantics), "png", parameters),
        Call("PQ", ("<img1>: ", edited, _text(prompts, _PQ)), "png", parameters),
    ]


def read(reply: str, call: str, case: JudgedEdit, prompts: Prompts) -> Scores | Unparsed:
    return viescore_strict(reply, 2, 0, HIGH)


def _share(numbers: Numbers, call: str, label: str) -> float:
    return numbers[call][label] * 10 / HIGH


def _lowest(numbers: Numbers, call: str) -> float:
    return min(numbers[call].values()) * 10 / HIGH


RUBRIC = Rubric(
    name="editscore",
    summary="EditScore's own: VIEScore's SC and PQ of judges that rate 0 to 25; overall is sqrt(SC * PQ), 0 to 10",
    dimensions=(
        Dimension("following", ("SC",), lambda numbers: _share(numbers, "SC", "score_1"), 0, 10),
        Dimension("consistency", ("SC",), lambda numbers: _share(numbers, "SC", "score_2"), 0, 10),
        Dimension("pq", ("PQ",), lambda numbers: _lowest(numbers, "PQ"), 0, 10),
        Dimension(
            "overall", ("SC", "PQ"), lambda numbers: math.sqrt(_lowest(numbers, "SC") * _lowest(numbers, "PQ")), 0, 10
        ),
    ),
    ask=ask,
    read=read,
    ratings=(),
    layout=PromptLayout("EditScore", ("vie_prompts.py",), (*_SC, "_prompts_0shot_rule_PQ")),
)
