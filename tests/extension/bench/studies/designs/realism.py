"""Realism alone: real or not, one answer per result."""

from edittools.bench.studies.design import Design, StudyDimension

STUDY = Design(
    "real or not, of every result",
    "Does each result look like a photograph?",
    (StudyDimension("realism", "Could it be a photograph that nobody touched?"),),
    ("no", "yes"),
    (0, 1),
    "nominal",
)
