"""One number, 1 to 5, and not a word beside it: for judges that were taught to give it (`edit train --recipe judge`).

The number is the first token of the reply, so that --soft costs a single step and needs no reasons.
"""

from __future__ import annotations

from edittools.rubric import Dimension, Rubric, number_of
from edittools.rubric.calls import Call, JudgedEdit, Prompts, labelled_images
from edittools.rubric.parsing import Scores, Unparsed, of_the_answer
from edittools.vlm.images import Encoding

LOW, HIGH = 1, 5

PROMPT = """How well was this picture edited? The instruction was: <instruction>

Answer with one integer and nothing else: 1 where it was not carried out or the picture is spoiled, 5 where it was
carried out as a whole, cleanly, and everything else is as before."""


def ask(case: JudgedEdit, prompts: Prompts, encoding: Encoding) -> list[Call]:
    parts = (PROMPT.replace("<instruction>", case.instruction), *labelled_images(case, encoding))
    return [Call("judge", parts, str(encoding), {"max_tokens": 8})]


@of_the_answer
def _number(reply: str) -> Scores | Unparsed:
    text = reply.strip()
    if not (text.isascii() and text.isdecimal() and LOW <= int(text) <= HIGH):
        return Unparsed(f"not an integer from {LOW} to {HIGH}")
    start = reply.index(text)
    return Scores({"rating": int(text)}, {"rating": (start, start + len(text))})


def read(reply: str, call: str, case: JudgedEdit, prompts: Prompts) -> Scores | Unparsed:
    return _number(reply)


RUBRIC = Rubric(
    name="rating",
    summary="one number, 1 to 5, without reasons: for judges that were trained to give it",
    dimensions=(Dimension("rating", ("judge",), number_of("judge", "rating"), LOW, HIGH),),
    ask=ask,
    read=read,
    ratings=tuple(range(LOW, HIGH + 1)),
    number="rating",
)
