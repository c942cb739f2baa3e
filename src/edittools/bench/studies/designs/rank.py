"""Step1X-Edit 4.2.2: five levels, worst 2, poor 4, fair 6, good 8, excellent 10, one per result."""

from edittools.bench.studies.design import Design, StudyDimension

STUDY = Design(
    "five levels, 2 to 10 (Step1X-Edit)",
    "How good is each result, as an answer to the instruction?",
    (StudyDimension("quality", "Does it do what was asked, look natural, and leave the rest alone?"),),
    ("worst", "poor", "fair", "good", "excellent"),
    (2, 4, 6, 8, 10),
    "ordinal",
)
