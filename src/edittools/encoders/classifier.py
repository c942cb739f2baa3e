"""Any image-classification checkpoint of transformers: real or generated, safe or not, photograph or drawing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from edittools.encoders.vision import VisionModel, image_processor, pretrained
from edittools.errors import EditError, UsageError
from edittools.weights.lookup import find_weights


class Classifier(VisionModel):
    """`infer` gives the probability of every label, as transformers' own pipeline computes it."""

    def __init__(self, folder: Path, name: str, device: str, dtype: str) -> None:
        from transformers import AutoModelForImageClassification

        network = pretrained(AutoModelForImageClassification, folder, dtype)
        super().__init__(network, image_processor(folder), device, dtype)
        config = network.config
        if config.problem_type == "regression":
            raise EditError(f"{folder}: a regression model has no labels")
        # Several labels exclude each other, unless the checkpoint says that they do not.
        self.exclusive = config.num_labels > 1 and config.problem_type != "multi_label_classification"
        self.labels = [str(config.id2label[k]) for k in range(config.num_labels)]
        self.name = name

    def column(self, label: str) -> int:
        """The label's place, whatever its case. Raises UsageError."""
        lower = [known.lower() for known in self.labels]
        if label in self.labels or label.lower() in lower:
            return self.labels.index(label) if label in self.labels else lower.index(label.lower())
        raise UsageError(f"--label {label}: {self.name} has no such label", hint=", ".join(self.labels[:20]))

    def _forward(self, pixels: Tensor) -> Tensor:
        logits = self.network(pixel_values=pixels).logits.float()
        return torch.softmax(logits, dim=-1) if self.exclusive else torch.sigmoid(logits)


def load_classifier(name_or_folder: str, *, device: str = "cpu", dtype: str = "float32") -> Classifier:
    """A classifier by folder, by name below EDITTOOLS_WEIGHTS, or by name on the hub. Raises EditError."""
    return Classifier(find_weights(name_or_folder), Path(name_or_folder).name, device, dtype)
