"""The shorter side of the image."""

import numpy as np

from edittools.filter import Filter

FILTER = Filter(
    name="short_side",
    option="--min-side",
    help="Shorter side, in pixels, at least this.",
    unit="pixels",
    group="Size",
    source="ImgEdit 3.2 keeps > 1280",
    from_size=lambda width, height: np.minimum(width, height),
)
