"""How alike source and target are to DINO."""

from edittools.filter import Filter, Input
from edittools.filter.shared import DINO

FILTER = Filter(
    name="pair_dino",
    help="Cosine of the source's and the target's DINO vectors, at most this; identity pairs are near 1.",
    unit="-1 to 1",
    group="Pairs",
    source="FireRed 2.2.1, level 2; X2Edit drops > 0.95 in both spaces",
    bare="max",
    inputs=(Input(DINO, "source"), Input(DINO, "target")),
    score=lambda models, source, target: (source * target).sum(axis=1),
)
