"""Studio backdrops, without a network: a plain wall of one colour, lit from the front."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from edittools.errors import RowError
from edittools.painters import PaintRequest

HELP = "plain studio walls, offline: of a prompt it understands no more than a colour (--scenes 'a plain blue wall')"
WEIGHTS = ""
_COLOURS = {
    "white": (232, 232, 230), "gray": (150, 151, 153), "grey": (150, 151, 153), "black": (34, 34, 36),
    "red": (160, 52, 46), "orange": (205, 122, 60), "yellow": (214, 186, 92), "green": (84, 128, 92),
    "turquoise": (82, 150, 150), "blue": (74, 104, 156), "purple": (112, 88, 140), "pink": (212, 160, 168),
    "brown": (122, 96, 76), "beige": (206, 192, 168),
}  # fmt: skip
_FALL = 0.35  # of the light, from the middle to the corners
_GRAIN = 1.5  # levels: standard deviation


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> Backdrop:
    return Backdrop()


class Backdrop:
    batch_size, multiple, area = 16, 1, None
    wants = frozenset({"prompt"})

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        return None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        return [self._one(request) for request in requests]

    def _one(self, request: PaintRequest) -> np.ndarray | RowError:
        words = re.findall(r"[a-z]+", request.prompt.casefold())
        colour = next((_COLOURS[word] for word in words if word in _COLOURS), None)
        if colour is None or "plain" not in words:
            return RowError("this painter paints plain walls of a colour only", request.prompt)
        height, width = request.mask.shape
        rng = np.random.Generator(np.random.PCG64(request.seed))
        # The light comes from above, a little to one side.
        x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
        away = np.hypot(x - rng.uniform(-0.4, 0.4), y + 0.3) / 1.8
        light = 1.08 - _FALL * away**2
        wall = np.array(colour) * light[..., None] + rng.normal(0, _GRAIN, (height, width, 1))
        return np.rint(wall.clip(0, 255)).astype(np.uint8)
