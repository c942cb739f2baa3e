"""SAM 3's tracker: the mask of every box."""

from edittools.ground.prompted import HALVES, SquareSam

HELP = "the mask in a box (SAM 3)"
WEIGHTS = "facebook/sam3"


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> SquareSam:
    from transformers import Sam3TrackerModel

    return SquareSam(Sam3TrackerModel, weights, HALVES, device, dtype)
