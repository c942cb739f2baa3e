"""Step1X-Edit 3.1.1, FireRed 2.6: people accept a pair, reject it, or correct its instruction.

Each pair is seen by two who do not know of each other; where they disagree a third decides.
"""

from edittools.bench.studies.design import Design, StudyDimension

STUDY = Design(
    "accept, correct or reject pairs, for `edit filter --review`",
    "Is each pair fit for use: does the second image show the first, edited as the instruction says? Where there is "
    "one image: can it be edited so, and would somebody ask for it?",
    (StudyDimension("decision", "Accept the pair, correct the words of its instruction, or reject it."),),
    ("accept", "correct", "reject"),
    (0, 1, 2),
    "nominal",
    rows=True,
    keys=("a", "c", "r"),
    reasons=(
        "not what was asked",
        "nothing changed",
        "more was changed",
        "looks unnatural",
        "instruction makes no sense",
        "must not be used",
        "other",
    ),
    edits="correct",
    raters=2,
    report="edittools.bench.studies.review",
)
