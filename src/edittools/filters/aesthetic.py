"""Aesthetic score."""

from edittools.filters import Filter, Input

FILTER = Filter(
    name="aesthetic",
    help="LAION's improved aesthetic predictor on the CLIP ViT-L/14 vector.",
    unit="about 1 to 10",
    source="ImgEdit 3.2 keeps > 4.75; LAION's improved aesthetic predictor, 2022",
    inputs=(Input("clip", "picture"),),
    score=lambda models, picture: models["aesthetic"](picture),
    heads=("aesthetic",),
)
