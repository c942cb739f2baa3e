"""The longer side over the shorter one."""

import numpy as np

from edittools.filter import Filter

FILTER = Filter(
    name="aspect",
    option="--max-aspect",
    help="Longer side over shorter side, at most this.",
    unit="ratio, 1 and more",
    group="Size",
    source="definition",
    bare="max",
    from_size=lambda width, height: np.maximum(width, height) / np.maximum(np.minimum(width, height), 1),
)
