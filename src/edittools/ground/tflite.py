"""Small TensorFlow Lite networks, and the square windows of an image that they look at."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edittools.errors import EditError, missing_extra
from edittools.weights.wheels import wheel_file


class TfliteNetwork:
    """A network out of a wheel's file, with an interpreter for every thread. Raises EditError where it is missing."""

    def __init__(self, name: str, file: str) -> None:
        self.path = wheel_file(name, file)
        self._own = threading.local()
        self._interpreter()  # what is missing shows before the first row

    def __call__(self, given: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
        """Outputs of one input (h, w, 3), float32, by their shapes without the batch."""
        interpreter = self._interpreter()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given[None].astype(np.float32))
        interpreter.invoke()
        outputs = interpreter.get_output_details()
        return {tuple(int(n) for n in one["shape"][1:]): interpreter.get_tensor(one["index"])[0] for one in outputs}

    def _interpreter(self):  # type: ignore[no-untyped-def]
        if not hasattr(self._own, "interpreter"):
            try:
                from ai_edge_litert.interpreter import Interpreter
            except ImportError:
                raise missing_extra("ai-edge-litert", "vision", "a detector of people") from None
            try:
                self._own.interpreter = Interpreter(model_path=str(self.path), num_threads=1)
            except ValueError as error:
                raise EditError(f"{self.path}: {error}") from error
            self._own.interpreter.allocate_tensors()
        return self._own.interpreter


@dataclass(frozen=True)
class TurnedSquare:
    """A square of an image, turned about its centre; all in pixels, the angle in radians (y points down)."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    @classmethod
    def around(cls, width: int, height: int) -> TurnedSquare:
        """The smallest square about the whole image."""
        return cls(width / 2, height / 2, max(width, height))

    def look(self, pixels: np.ndarray, size: int) -> np.ndarray:
        """The window resampled to size x size, float32 0..255; black outside the image."""
        image = Image.fromarray(pixels)
        # Bilinear looks at four pixels: what is much larger is averaged first.
        shrink = max(1, int(self.side / size))
        image = image.reduce(shrink) if shrink > 1 else image
        a, b, c, d, e, f = self._forward(size)
        coefficients = tuple(v / shrink for v in (a, b, c, d, e, f))
        made = image.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        return np.asarray(made, np.float32)

    def points(self, shares: np.ndarray) -> np.ndarray:
        """Places in the window (n, 2), as shares of its side, in pixels of the image."""
        a, b, c, d, e, f = self._forward(1)
        return shares @ np.array([[a, d], [b, e]]) + np.array([c, f])

    def spread(self, values: np.ndarray, height: int, width: int) -> np.ndarray:
        """Put a network's answer for the window, (size, size), back into an image of this size; 0 elsewhere."""
        size = len(values)
        a, b, c, d, e, f = self._forward(size)
        inverse = np.linalg.inv(np.array([[a, b, c], [d, e, f], [0, 0, 1]]))
        image = Image.fromarray(values.astype(np.float32))
        coefficients = tuple(inverse[:2].reshape(-1).tolist())
        made = image.transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        return np.asarray(made)

    def _forward(self, size: int) -> tuple[float, float, float, float, float, float]:
        """From places in the window, of a side of `size`, to places in the image."""
        scale, half = self.side / size, self.side / 2
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return (
            scale * cos, -scale * sin, self.x - half * cos + half * sin,
            scale * sin, scale * cos, self.y - half * sin - half * cos,
        )  # fmt: skip


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100)))
