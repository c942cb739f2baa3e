"""ImgEdit E.3: single edits, rated 1 to 5 by two or more people, about as many items of each score."""

from edittools.bench.studies.design import Design, StudyDimension

STUDY = Design(
    "1 to 5 on a rubric's dimensions, one edit at a time (ImgEdit), for `edit judge --calibrate`",
    "How good is each edit?",
    (StudyDimension("overall", "As an answer to the instruction, all in all."),),
    ("1", "2", "3", "4", "5"),
    (1, 2, 3, 4, 5),
    "ordinal",
    rows=True,
    report="edittools.bench.studies.rating",
)
