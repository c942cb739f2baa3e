"""Pairs that were found and not made: whether two photographs are before and after of one edit (Step1X-Edit 3.1.1 has a
model assess layout and background of beautification pairs), 1 to 5 each, without an instruction.

Dimensions: `subject` (the same person or thing), `layout` (framing, pose and arrangement), `background`, and the least
of them, because a pair is spoiled by any.
"""

from __future__ import annotations

from edittools.rubric import Dimension, Numbers, Rubric, number_of, scores_schema
from edittools.rubric.calls import Call, JudgedEdit, Prompts, labelled_images
from edittools.rubric.parsing import Scores, Unparsed, json_strict
from edittools.vlm.images import Encoding

KEYS = ("subject", "layout", "background")
LOW, HIGH = 1, 5

PROMPT = """Two pictures were found together and are said to be one photograph before and after an edit, such as a
retouched portrait. What the edit was is not known, and how well it was done does not matter. Do they belong together?

Compare them part by part, then give three whole numbers from 1 (not at all) to 5 (fully):
- subject: the same person, or the same things, are shown. Skin, make-up, hair, shape, colour or style may differ, as
  an edit changes these; who or what it is may not.
- layout: framing, viewpoint, pose and expression of the body and the place of everything agree, as of one photograph;
  1 where it is another shot, 3 where it is cropped, shifted or mirrored.
- background: what stands behind the subject is the same, and where it was; light and colour of the whole may differ.

Answer with one JSON object:
{"rationale": "two or three sentences", "subject": n, "layout": n, "background": n}
"""


def ask(case: JudgedEdit, prompts: Prompts, encoding: Encoding) -> list[Call]:
    return [Call("judge", (PROMPT, *labelled_images(case, encoding)), str(encoding), {"max_tokens": 512})]


def read(reply: str, call: str, case: JudgedEdit, prompts: Prompts) -> Scores | Unparsed:
    return json_strict(reply, KEYS, LOW, HIGH)


def _overall(numbers: Numbers) -> float:
    return min(numbers["judge"].values())


RUBRIC = Rubric(
    name="found_pair",
    summary="found images before and after: subject, layout and background agree, 1 to 5; overall is the least of them",
    dimensions=(
        *(Dimension(key, ("judge",), number_of("judge", key), LOW, HIGH) for key in KEYS),
        Dimension("overall", ("judge",), _overall, LOW, HIGH),
    ),
    ask=ask,
    read=read,
    ratings=tuple(range(LOW, HIGH + 1)),
    instructed=False,
    schemas={"judge": scores_schema(KEYS, LOW, HIGH)},
)
