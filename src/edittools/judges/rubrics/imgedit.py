"""ImgEdit's judge, basic suite: one call in the benchmark's words, three numbers from 1 to 5 whose labels differ by
type. Every rubric says that none may exceed the first; read strictly, none does.
"""

from __future__ import annotations

from edittools.judges import protocols
from edittools.judges.parsing import Scores, Unparsed, labelled_strict
from edittools.judges.prompts import asked_labels
from edittools.judges.protocols import Call, Case, Encoding, Prompts
from edittools.judges.rubrics import Dimension, Numbers, Rubric

NAMES = ("first", "second", "third")


def ask(case: Case, prompts: Prompts, encoding: Encoding) -> list[Call]:
    return protocols.imgedit(case, prompts)


def read(reply: str, call: str, case: Case, prompts: Prompts) -> Scores | Unparsed:
    return read_three(reply, prompts.get(protocols.imgedit_task(case.task, prompts), ""))


def read_three(reply: str, rubric: str) -> Scores | Unparsed:
    """The three numbers under the names first, second, third, in the order in which the rubric asks for them."""
    labels = asked_labels(rubric)
    labels = labels if labels is not None and len(labels) == len(NAMES) else None
    scores = labelled_strict(reply, labels)
    if isinstance(scores, Unparsed):
        return scores
    renamed = dict(zip(scores.values, NAMES))
    return Scores(
        {renamed[label]: value for label, value in scores.values.items()},
        {renamed[label]: span for label, span in scores.spans.items()},
        tuple(renamed[label] for label in scores.capped),
    )


def _number(name: str) -> Dimension:
    return Dimension(name, ("judge",), lambda numbers: min(numbers["judge"][name], numbers["judge"]["first"]), 1, 5)


def _overall(numbers: Numbers) -> float:
    given = numbers["judge"]
    return sum(min(given[name], given["first"]) for name in NAMES) / len(NAMES)


THREE = (*(_number(name) for name in NAMES), Dimension("overall", ("judge",), _overall, 1, 5))

RUBRIC = Rubric(
    name="imgedit",
    summary="ImgEdit's own, basic suite: three numbers, 1 to 5; overall is their mean",
    dimensions=THREE,
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
    benchmark="imgedit",
)
