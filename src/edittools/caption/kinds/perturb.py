"""Hard negatives for judges: for a good triplet an instruction that its target does not follow, by one operator
(FireRed-Image-Edit 2.6). One per row, so that good and bad are 1:1 for every task; operators are drawn evenly among
those that a row allows, and recorded.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from edittools.caption.kind import Conversation, Eliminated, Kind, Question, Row
from edittools.caption.prompting import QUOTES, VIEWER, bilingual, both_languages, check_languages
from edittools.caption.rewording import original
from edittools.caption.schemas import record, text, yes_no
from edittools.caption.text_facts import NAMES, facts_of
from edittools.record import TEXT
from edittools.seeded import draw

_PERTURBATION = pa.struct([("operator", pa.string()), ("changed", pa.string())])

OPERATORS: dict[str, str] = {
    "colours": "name another colour in place of the one that is named",
    "sides": "name another side or place in place of the one that is named",
    "numbers": "name another number in place of the one that is named",
    "quotes": "ask for another text in the quotation marks, of about the same length and in the same script",
    "object": "ask for the same edit of another thing that can be seen in the image",
    "direction": "ask for the opposite edit (removing instead of adding, darker instead of brighter)",
    "over": "ask for one more edit, of another thing, which was not done",
    "under": "ask for a much stronger or more thorough edit of the same kind than the one that was done",
}  # fmt: skip
_OF_WORDS = ("colours", "sides", "numbers", "quotes")  # operators that change a fact of the text


def applicable(content: str) -> list[str]:
    """The operators that an instruction has something for."""
    facts = facts_of(content)
    return [name for name in OPERATORS if name not in _OF_WORDS or getattr(facts, name)]


def check_operator(before: str, after: str, operator: str) -> None:
    """Raises ValueError where a rewriting did not change what it should, or changed more."""
    if " ".join(before.casefold().split()) == " ".join(after.casefold().split()):
        raise ValueError("it is the same instruction")
    if operator not in _OF_WORDS:
        return
    old, new = facts_of(before), facts_of(after)
    if getattr(old, operator) == getattr(new, operator):
        raise ValueError(f"the {operator} are the same as before")
    others = [name for name in NAMES if name not in (operator, "negated") and getattr(old, name) != getattr(new, name)]
    if others:
        raise ValueError(f"the {others[0]} are others, too")


def _converse(row: Row) -> Conversation:
    before = original(row)
    language, content = next(iter(before.items()))
    operator = draw(row.rng("perturb"), applicable(content))
    lines = "\n".join(f"{name}: {said}" for name, said in before.items())
    words = f"""The image "after" was made out of "before" by this instruction, correctly:
{lines}

Write an instruction that somebody could have given as well, of the same length and manner, which "after" does NOT
follow: {OPERATORS[operator]}. Change nothing else. It has to be plain to see that "after" does not do it. {VIEWER}
{QUOTES}{both_languages(row)}"""
    schema = record(
        instruction=bilingual(row, "the other instruction", 600), changed=text("what you changed, in English", 200)
    )

    def check(answer: Any) -> None:
        check_languages(answer["instruction"])
        for name, said in answer["instruction"].items():
            if name in before:
                check_operator(before[name], said, operator)

    answer = yield Question(row.pair(), words, schema, check, max_tokens=500, examples=True)
    said = answer["instruction"].get(language) or next(iter(answer["instruction"].values()))
    question = f"""The image "after" was made out of "before". Somebody claims that it does all of this:
{said}

Is every part of that done in "after", as it is asked for? Look at both images, then answer."""
    verdict = yield Question(
        row.pair(),
        question,
        record(seen=text("what differs between the images", 400), done=yes_no("everything that is asked for was done")),
        model=row.config.judge_of_claims,
        max_tokens=300,
    )
    if verdict["done"]:
        raise Eliminated("a negative that is true", f"{operator}: {said}")
    return {
        "instruction_negative": answer["instruction"],
        "perturbation": {"operator": operator, "changed": answer["changed"]},
    }


KIND = Kind(
    summary="an instruction that the target does not follow, confirmed by a second model",
    reads="pair and instruction",
    columns={"instruction_negative": TEXT, "perturbation": _PERTURBATION},
    converse=_converse,
    after=("detailed",),
    needs=("source", "target"),
)
