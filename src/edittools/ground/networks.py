"""What detectors and segmenters out of transformers share: preprocessing without torchvision, batches, devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edittools.encoders.vision import VisionModel, image_processor, pretrained
from edittools.errors import EditError, describe
from edittools.ground import Found
from edittools.weights.lookup import find_weights


class Network(VisionModel):
    """A network of a class of transformers, out of a folder or the hub. Raises EditError."""

    def __init__(
        self, kind: Any, weights: str, device: str, dtype: str, processor: Callable[[Path], Any] = image_processor
    ) -> None:
        self.folder = find_weights(weights)
        super().__init__(pretrained(kind, self.folder, dtype), processor(self.folder), device, dtype)

    def prepare(self, image: Any) -> Tensor:
        """uint8 HxWx3 -> float32 (3, h, w); the whole image, however long it is: its boxes have to fit."""
        made = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")
        return made["pixel_values"][0].float()

    def run(self, work: Callable[[], Any]) -> Any:
        """One batch at a time. Raises EditError where the device has no room for it."""
        try:
            with self._lock, torch.inference_mode():
                return work()
        except torch.OutOfMemoryError as error:
            raise EditError("the device has not enough memory for a batch", hint="a smaller --batch-size") from error


class OpenDetector(Network):
    """Detects names: a subclass says of a batch of images of one shape, with as many names each, which boxes it sees.

    Names come from the network's logits, one score per box and name; the best name of a box is its name.
    """

    most_names = 64  # that one look can take

    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        found: list[list[Found]] = [[] for _ in pixels]
        groups: dict[Hashable, list[tuple[int, list[str], Tensor]]] = defaultdict(list)
        for k, (image, wanted) in enumerate(zip(pixels, names)):
            prepared = self.prepare(image) if wanted else torch.zeros(0)
            for some in self.chunks(list(wanted)):
                groups[(prepared.shape, len(some))].append((k, some, prepared))
        for members in groups.values():
            seen = self.look(torch.stack([one for _, _, one in members]), [some for _, some, _ in members])
            for (k, some, _), (boxes, scores) in zip(members, seen):
                boxes = self.shares(boxes, *pixels[k].shape[:2])
                best = scores.argmax(axis=1) if len(scores) else []
                found[k] += [
                    Found(some[n], tuple(box.tolist()), float(scores[b, n]))
                    for b, (box, n) in enumerate(zip(boxes, best))
                ]
        return found

    def chunks(self, names: list[str]) -> Iterator[list[str]]:
        """The names in as many looks as they need."""
        for start in range(0, len(names), self.most_names):
            yield names[start : start + self.most_names]

    def look(self, pixels: Tensor, names: list[list[str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per image the boxes (q, 4) by their corners and the score of every box and name (q, n)."""
        raise NotImplementedError

    def shares(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        """The network's boxes as shares of the image."""
        return boxes


def tokenizer(folder: Path) -> Any:
    """A folder's tokenizer. Raises EditError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged and foreign files: transformers raises what it meets
        raise EditError(f"{folder}: its tokenizer cannot be loaded: {describe(error)}") from error
