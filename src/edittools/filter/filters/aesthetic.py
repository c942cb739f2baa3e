"""Aesthetic score."""

from edittools.encoders import aesthetic
from edittools.filter import Filter, Input, Model
from edittools.filter.shared import CLIP

AESTHETIC = Model(
    "aesthetic",
    option="--aesthetic-head",
    help=f"The predictor behind --aesthetic. Default: {aesthetic.NAME}.",
    default=aesthetic.NAME,
    load=lambda name, config: aesthetic.load_aesthetic(name),
    release=lambda name: aesthetic.RELEASE,
    converter=aesthetic.__name__,
)
FILTER = Filter(
    name="aesthetic",
    help="LAION's improved aesthetic predictor on the CLIP ViT-L/14 vector.",
    unit="about 1 to 10",
    group="By a model",
    source="ImgEdit 3.2 keeps > 4.75; LAION's improved aesthetic predictor, 2022",
    inputs=(Input(CLIP, "image"),),
    score=lambda models, image: models["aesthetic"](image),
    heads=(AESTHETIC,),
)
