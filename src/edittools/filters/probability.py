"""What a classifier says: generated or real, safe or not."""

from edittools.filters import Filter, Input

FILTER = Filter(
    name="probability",
    option="--max",
    help="Probability that the --classifier gives to its --label, at most this.",
    unit="0 to 1",
    source="SPEC F4: detection of generated pictures, by any image-classification checkpoint",
    bare="max",
    inputs=(Input("classifier", "picture"),),
    score=lambda models, picture: picture[:, models["classifier"].column(models.label)],
)
