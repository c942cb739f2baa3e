"""Step1X-Edit 4.1: a public image in the place of a private one, or other words for a public image."""

from edittools.bench.studies.design import Design, StudyDimension

STUDY = Design(
    "a public image in the place of each private one, for `edit dedup --replace`",
    "Which image can stand for the source, so that the instruction means the same? Change the words where need be.",
    (StudyDimension("picked", "One image that looks alike and shows the same kind of thing."),),
    ("picked",),
    (1,),
    "nominal",
    picks=1,
    rows=True,
    candidates="nearest",
    rewords=True,
    none="none of them",
    raters=1,
    report="edittools.bench.studies.replace",
)
