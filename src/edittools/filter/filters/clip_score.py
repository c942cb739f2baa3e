"""How well a text describes the image."""

from edittools.filter import Filter, Input
from edittools.filter.shared import CLIP

FILTER = Filter(
    name="clip_score",
    help="Cosine of the image's and the text's CLIP vectors (--text names the column). CLIPScore is 2.5 times it.",
    unit="-1 to 1",
    group="By a model",
    source="Radford 2021; Hessel 2021; X2Edit keeps >= 0.23",
    inputs=(Input(CLIP, "image"), Input(CLIP, "text")),
    score=lambda models, image, text: (image * text).sum(axis=1),
)
