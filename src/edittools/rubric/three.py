"""Three numbers from 1 to 5 in one reply, whose labels differ by task: every rubric of this kind says that none may
exceed the first; read strictly, none does.
"""

from __future__ import annotations

from edittools.rubric import Dimension, Numbers, capped
from edittools.rubric.parsing import Scores, Unparsed, labelled_strict
from edittools.rubric.prompts import asked_labels

NAMES = ("first", "second", "third")


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


def _overall(numbers: Numbers) -> float:
    given = numbers["judge"]
    return sum(min(given[name], given["first"]) for name in NAMES) / len(NAMES)


THREE = (
    *(Dimension(name, ("judge",), capped("judge", name, "first"), 1, 5) for name in NAMES),
    Dimension("overall", ("judge",), _overall, 1, 5),
)
