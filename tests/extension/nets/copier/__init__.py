"""`copier`: the network `small`, always with the first source added to what it makes."""

from dataclasses import dataclass
from typing import Any

from edittools.nets import small

FROM_SCRATCH = True


@dataclass(frozen=True)
class Settings:
    width: int  # of the network and of its text encoder, a multiple of 16
    layers: int = 2  # blocks of the network


def load(settings: Settings, **asked: Any) -> small.Small:
    made = small.Settings(
        patch=8, layers=settings.layers, heads=settings.width // 16, head_dim=16, rope=[4, 6, 6],
        text_width=settings.width, text_heads=2, text_layers=1, max_words=8, residual="copy",
    )  # fmt: skip
    return small.load(made, **asked)
