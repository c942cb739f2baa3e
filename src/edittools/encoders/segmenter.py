"""Any semantic-segmentation checkpoint of transformers' own classes, as what tells foreground from background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from edittools.encoders.vision import VisionModel, image_processor, pretrained
from edittools.errors import EditError, UsageError
from edittools.weights.lookup import find_weights


class SemanticSegmenter(VisionModel):
    """`foreground` of an image: the places whose likeliest label is one of `labels` (any case).

    Without `labels` these are all but `background`. A checkpoint of one label says foreground where its probability
    is at least a half, as matting networks do. Networks whose code lies in their repository, such as BiRefNet, are not
    loaded: their masks can be given with the rows. Raises UsageError for labels the checkpoint does not know.
    """

    def __init__(self, folder: Path, name: str, labels: list[str], device: str, dtype: str) -> None:
        from transformers import AutoModelForSemanticSegmentation

        network = pretrained(AutoModelForSemanticSegmentation, folder, dtype)
        super().__init__(network, image_processor(folder), device, dtype)
        if getattr(self.processor, "do_center_crop", False):
            raise EditError(f"{folder}: its preprocessing crops: nothing would be known about the edges")
        known = [str(network.config.id2label[k]).lower() for k in range(network.config.num_labels)]
        wanted = [label.strip().lower() for label in labels]
        unknown = [label for label in wanted if label not in known]
        if unknown:
            raise UsageError(f"--foreground-label {unknown[0]}: {name} has no such label", hint=", ".join(known[:20]))
        if not wanted and len(known) > 1 and "background" not in known:
            raise UsageError(
                f"--foreground {name} has no label `background`",
                hint="--foreground-label says what is foreground: " + ", ".join(known[:20]),
            )
        self.chosen = [k for k, label in enumerate(known) if (label in wanted if wanted else label != "background")]

    def prepare(self, image: np.ndarray | Image.Image) -> Tensor:
        # Nothing is cut off a long image here: the mask has to cover it.
        made = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")
        return made["pixel_values"][0].float()

    def foreground(self, image: np.ndarray) -> np.ndarray:
        """uint8 HxWx3 -> bool HxW."""
        pixels = self.prepare(image).unsqueeze(0).to(self.device, self.dtype)

        def work() -> Tensor:
            logits = self.network(pixel_values=pixels).logits.float()
            logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)[0]
            if len(logits) == 1:
                return logits[0] >= 0
            return torch.isin(logits.argmax(0), torch.tensor(self.chosen, device=logits.device))

        return self._guarded(work) > 0


def load_segmenter(spec: str, labels: list[str], *, device: str = "cpu", dtype: str = "float32") -> SemanticSegmenter:
    """A checkpoint by folder, by name below EDITTOOLS_WEIGHTS, or by name on the hub. Raises EditError."""
    return SemanticSegmenter(find_weights(spec), Path(spec).name, labels, device, dtype)
