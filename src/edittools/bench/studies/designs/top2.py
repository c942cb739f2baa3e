"""ImgEdit A.5: "select the top two images from all candidates"."""

from edittools.bench.studies.design import Design, StudyDimension

STUDY = Design(
    "pick the best two (ImgEdit)",
    "Which two results answer the instruction best?",
    (StudyDimension("picked", "The best two of all results."),),
    ("picked",),
    (1,),
    "nominal",
    picks=2,
)
