"""The editor of a folder that `edit train` left."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edittools.errors import EditError, UsageError
from edittools.models.edit_dit import EditDiT, resize, to_picture, to_tensor
from edittools.models.editors import EditRequest
from edittools.models.flow import euler_times


def recognises(folder: Path) -> bool:
    """Is this a run folder?"""
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("format") == "edittools run 1"


def load(folder: Path, device: str, dtype: str, steps: int | None = None) -> RunFolderEditor:
    """Open a finished run; EditError if it is not finished. `steps` replaces the recipe's sample_steps."""
    if not (folder / "_end.json").is_file():
        raise EditError(
            f"{folder}: this training run is not finished (no _end.json)",
            hint="run `edit train` again with the same settings: it resumes",
        )
    recipe = json.loads((folder / "config.json").read_text())["recipe"]
    if steps is not None and steps < 1:
        raise UsageError("`steps` must be at least 1")
    model = EditDiT.load(folder).to(device, getattr(torch, dtype)).eval()
    return RunFolderEditor(model, recipe["resolution"], recipe["shift"], steps or recipe["sample_steps"])


class RunFolderEditor:
    """Euler's method on the trained flow, at the resolution it was trained at."""

    def __init__(self, model: EditDiT, resolution: int, shift: float, steps: int) -> None:
        self.model, self.resolution, self.shift, self.steps = model, resolution, shift, steps

    @torch.no_grad()
    def edit(self, requests: list[EditRequest]) -> list[np.ndarray]:
        """Edit requests of any shapes: they are resized to the model's square, and the results to what was asked.

        Requests with equally many sources go through the network together.
        """
        results: list[np.ndarray | None] = [None] * len(requests)
        groups: dict[int, list[int]] = defaultdict(list)
        for k, request in enumerate(requests):
            groups[len(request.sources)].append(k)
        for n, rows in groups.items():
            references = [to_tensor(picture, self.resolution) for k in rows for picture in requests[k].sources]
            shape = (len(rows), n, 3, self.resolution, self.resolution)
            x0 = self._sample(
                torch.cat(references).reshape(shape) if n else torch.zeros(shape),
                [requests[k].instruction for k in rows],
                [requests[k].seed for k in rows],
            )
            for k, picture in zip(rows, x0):
                results[k] = resize(to_picture(picture), *wanted_size(requests[k], self.resolution))
        return [picture for picture in results if picture is not None]

    def _sample(self, references: Tensor, instructions: list[str], seeds: list[int]) -> Tensor:
        """references (B, n, 3, R, R) in [-1, 1] -> edited pictures (B, 3, R, R), float32 on the CPU."""
        weight = self.model.transformer.proj_out.weight
        words = self.model.text.vocabulary.encode(instructions, self.model.text.max_words).to(weight.device)
        references = references.to(weight.device, weight.dtype)
        # Each row's noise comes from its own seed, on the CPU: not from the batch, not from the device.
        noise = [torch.randn(references.shape[2:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        x = torch.stack(noise).to(weight.device)
        times = euler_times(self.steps, self.shift)
        for t, t_next in itertools.pairwise(times):
            v = self.model.velocity(x.to(weight.dtype), t.expand(len(x)).to(weight.device), references, words)
            # x(t') = x(t) + (t' - t) v̂   [Euler's method on dx/dt = v]
            x = x + (t_next - t) * v.float()
        return x.cpu()


def wanted_size(request: EditRequest, resolution: int) -> tuple[int, int]:
    """Height and width that the result shall have."""
    h, w = request.sources[0].shape[:2] if request.sources else (resolution, resolution)
    return request.height or h, request.width or w
