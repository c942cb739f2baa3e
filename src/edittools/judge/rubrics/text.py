"""Edits of text in images, on FireRed's four questions (its table 7), in words of our own, 1 to 5 each: was the text
edited as asked, was more edited than asked, is the style kept, does the rest agree.

Dimensions: `success`, `over` (5: nothing beyond what was asked for changed), `style`, `consistency`, and their mean.
"""

from __future__ import annotations

from edittools.rubric import Dimension, Numbers, Rubric, number_of, scores_schema
from edittools.rubric.calls import Call, JudgedEdit, Prompts, labelled_images
from edittools.rubric.parsing import Scores, Unparsed, json_strict
from edittools.vlm.images import Encoding

KEYS = ("success", "over", "style", "consistency")
LOW, HIGH = 1, 5

PROMPT = """Somebody asked for an edit of the writing in a picture. You see the picture before and after it.
The request: <instruction>

Read the writing in both pictures letter by letter before you rate. Then give four whole numbers from 1 (not at all) to
5 (fully):
- success: the writing that the request is about reads exactly as asked: every character, no more and no fewer.
- over: everything that the request does not mention is as before: other writing, objects, people, layout.
- style: the new writing has the typeface, weight, size, colour, slant and material of the old one or of its
  neighbours, or those that the request names.
- consistency: it sits on its surface: perspective, light, shadow, sharpness and grain agree, edges are clean.

Answer with one JSON object:
{"rationale": "two or three sentences", "success": n, "over": n, "style": n, "consistency": n}
"""


def ask(case: JudgedEdit, prompts: Prompts, encoding: Encoding) -> list[Call]:
    parts = (PROMPT.replace("<instruction>", case.instruction), *labelled_images(case, encoding))
    return [Call("judge", parts, str(encoding), {"max_tokens": 512})]


def read(reply: str, call: str, case: JudgedEdit, prompts: Prompts) -> Scores | Unparsed:
    return json_strict(reply, KEYS, LOW, HIGH)


def _overall(numbers: Numbers) -> float:
    return sum(numbers["judge"].values()) / len(KEYS)


RUBRIC = Rubric(
    name="text",
    summary="edits of writing: success, nothing over-edited, style and consistency, 1 to 5; overall is their mean",
    dimensions=(
        *(Dimension(key, ("judge",), number_of("judge", key), LOW, HIGH) for key in KEYS),
        Dimension("overall", ("judge",), _overall, LOW, HIGH),
    ),
    ask=ask,
    read=read,
    ratings=tuple(range(LOW, HIGH + 1)),
    tasks=("text",),
    schemas={"judge": scores_schema(KEYS, LOW, HIGH)},
)
