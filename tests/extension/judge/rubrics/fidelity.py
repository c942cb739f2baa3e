"""One question: does the result do what was asked, 1 to 5?"""

from edittools.rubric import Dimension, Rubric, number_of, scores_schema
from edittools.rubric.calls import Call, JudgedEdit, Prompts, labelled_images
from edittools.rubric.parsing import Scores, Unparsed, json_strict
from edittools.vlm.images import Encoding

PROMPT = """You see a picture before and after an edit that was to do this: <instruction>
How well does it, from 1 (not at all) to 5 (fully)? Answer with one JSON object: {"rationale": "why", "fidelity": n}
"""


def ask(case: JudgedEdit, prompts: Prompts, encoding: Encoding) -> list[Call]:
    parts = (PROMPT.replace("<instruction>", case.instruction), *labelled_images(case, encoding))
    return [Call("judge", parts, str(encoding), {"max_tokens": 256})]


def read(reply: str, call: str, case: JudgedEdit, prompts: Prompts) -> Scores | Unparsed:
    return json_strict(reply, ("fidelity",), 1, 5)


RUBRIC = Rubric(
    name="fidelity",
    summary="whether the edit was done, 1 to 5",
    dimensions=(Dimension("overall", ("judge",), number_of("judge", "fidelity"), 1, 5),),
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
    schemas={"judge": scores_schema(("fidelity",), 1, 5)},
)
