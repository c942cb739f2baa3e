"""How well a text describes the picture."""

from edittools.filters import Filter, Input

FILTER = Filter(
    name="clip_score",
    help="Cosine of the picture's and the text's CLIP vectors (--text names the column). CLIPScore is 2.5 times it.",
    unit="-1 to 1",
    source="Radford 2021; Hessel 2021; X2Edit keeps >= 0.23",
    inputs=(Input("clip", "picture"), Input("clip", "text")),
    score=lambda models, picture, text: (picture * text).sum(axis=1),
)
