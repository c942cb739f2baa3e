"""Whether the image changed the way the text did."""

import numpy as np

from edittools.filter import Filter, Input
from edittools.filter.shared import CLIP


def score(models: object, source: np.ndarray, target: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """cos(E(target) - E(source), T(text) - T(source_text)), on unit vectors; 0 where one of them did not change.

    Gal et al. 2021, "StyleGAN-NADA", equation 4, as a similarity.
    """
    seen, said = target - source, after - before
    lengths = np.linalg.norm(seen, axis=1) * np.linalg.norm(said, axis=1)
    return (seen * said).sum(axis=1) / np.where(lengths < 1e-6, np.inf, lengths)


FILTER = Filter(
    name="clip_directional",
    help="Directional CLIP similarity of a pair: the change of the image along the change of the texts "
    "(--source-text to --text).",
    unit="-1 to 1",
    group="Pairs",
    source="Gal 2021, eq. 4; AnyEdit keeps > 0.05 to 0.08",
    inputs=(Input(CLIP, "source"), Input(CLIP, "target"), Input(CLIP, "source_text"), Input(CLIP, "text")),
    score=score,
)
