"""FireRed 5.1: all results at once, each rated for prompt following and for consistency preservation.

The paper gives no scale; five levels, 1 to 5, are ours.
"""

from edittools.bench.studies.design import Design, StudyDimension

STUDY = Design(
    "prompt following and consistency, 1 to 5 each (FireRed)",
    "How well does each result follow the instruction, and how well does it keep the rest?",
    (
        StudyDimension("prompt following", "The edit that was asked for, all of it, and nothing else."),
        StudyDimension("consistency", "Everything that was not to change is unchanged."),
    ),
    ("1", "2", "3", "4", "5"),
    (1, 2, 3, 4, 5),
    "ordinal",
)
