"""Whether the picture changed the way the text did."""

import numpy as np

from edittools.filters import Filter, Input


def score(models: object, source: np.ndarray, target: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """cos(E(target) - E(source), T(text) - T(source_text)), on unit vectors; 0 where one of them did not change.

    Gal et al. 2021, "StyleGAN-NADA", equation 4, as a similarity.
    """
    seen, said = target - source, after - before
    lengths = np.linalg.norm(seen, axis=1) * np.linalg.norm(said, axis=1)
    return (seen * said).sum(axis=1) / np.where(lengths < 1e-6, np.inf, lengths)


FILTER = Filter(
    name="clip_directional",
    help="Directional CLIP similarity of a pair: the change of the picture along the change of the texts "
    "(--source-text to --text).",
    unit="-1 to 1",
    source="Gal 2021, eq. 4; AnyEdit keeps > 0.05 to 0.08",
    inputs=(Input("clip", "source"), Input("clip", "target"), Input("clip", "source_text"), Input("clip", "text")),
    score=score,
)
