"""LaMa (Suvorov et al. 2022) out of its usual TorchScript file, which is code: it is loaded only where it is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from edittools.errors import EditError, RowError, UsageError, describe
from edittools.painters import PaintRequest

HELP = "LaMa; --painter lama=FILE names its TorchScript file, which is code and is run"
WEIGHTS = ""
_MULTIPLE = 8


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> Lama:
    if not weights:
        raise UsageError(
            "--painter lama names no file", hint="--painter lama=FILE: a TorchScript file is code, and is run"
        )
    if dtype != "float32":
        raise UsageError("--painter lama: its file has a precision of its own: float32")
    if not Path(weights).is_file():
        raise EditError(f"--painter lama={weights}: there is no such file")
    try:
        network = torch.jit.load(weights, map_location=device).eval()
    except RuntimeError as error:
        raise EditError(f"{weights}: no TorchScript file: {describe(error)}") from error
    return Lama(network, device)


class Lama:
    batch_size, multiple, area = 4, 1, None
    wants: frozenset[str] = frozenset()

    def __init__(self, network: torch.jit.ScriptModule, device: str) -> None:
        self.network, self.device = network, device

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        return None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        return [self._one(request) for request in requests]

    def _one(self, request: PaintRequest) -> np.ndarray:
        """Colours 0 to 1 and a mask of 0 and 1, both continued by their mirror image to multiples of 8."""
        height, width = request.mask.shape
        pad = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
        mode = "reflect" if min(height, width) > _MULTIPLE else "replicate"
        image = torch.from_numpy(request.image.transpose(2, 0, 1).copy())[None].float() / 255
        mask = torch.from_numpy(request.mask)[None, None].float()
        with torch.inference_mode():
            given = (F.pad(one, pad, mode=mode).to(self.device) for one in (image, mask))
            made = self.network(*given)[0, :, :height, :width].float().cpu()
        return np.asarray((255 * made.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy())
