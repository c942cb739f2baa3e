"""SAM 2 (Ravi et al. 2024), and EdgeTAM: the mask of every box."""

from edittools.ground.prompted import IMAGENET, SquareSam

HELP = "the mask in a box (SAM 2)"
WEIGHTS = "facebook/sam2.1-hiera-base-plus"


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> SquareSam:
    from transformers import AutoModelForMaskGeneration

    return SquareSam(AutoModelForMaskGeneration, weights, IMAGENET, device, dtype)
