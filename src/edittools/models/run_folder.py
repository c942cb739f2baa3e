"""The editor of a folder that `edit train` left."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edittools.errors import EditError, UsageError
from edittools.models.editors import EditRequest
from edittools.models.flow import shift_factor
from edittools.models.pictures import fit, resize, to_picture, to_tensor
from edittools.models.sampling import euler
from edittools.models.shapes import Shape, choose, shapes
from edittools.models.systems import load_system
from edittools.models.systems.base import System


def recognises(folder: Path) -> bool:
    """Is this a run folder?"""
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("format") == "edittools run 1"


def load(
    folder: Path, device: str, dtype: str, steps: int | None = None, guidance: float | None = None
) -> RunFolderEditor:
    """Open a finished run; EditError if it is not finished. `steps` and `guidance` replace the recipe's."""
    if not (folder / "_end.json").is_file():
        raise EditError(
            f"{folder}: this training run is not finished (no _end.json)",
            hint="run `edit train` again with the same settings: it resumes",
        )
    recipe = json.loads((folder / "config.json").read_text())["recipe"]
    if steps is not None and steps < 1:
        raise UsageError("`steps` must be at least 1")
    model = recipe["model"]
    if model.get("lora"):
        raise EditError(f"{folder} holds adapters, not a model", hint=f"--model {model['weights']} --lora {folder}")
    # What the recipe made anew is in the folder now, and the frozen parts beside it.
    kept = {name: value for name, value in model.items() if name not in ("transformer", "connector", "projectors")}
    system = load_system(recipe["system"], {**kept, "weights": str(folder)}, device=device, dtype=dtype)
    system.network.to(device, getattr(torch, dtype)).eval()
    return RunFolderEditor(system, recipe, steps or recipe["sample_steps"], guidance or recipe["sample_guidance"])


class RunFolderEditor:
    """Euler's method on the trained flow, at the shapes it was trained at."""

    def __init__(self, system: System, recipe: dict[str, Any], steps: int, guidance: float) -> None:
        self.system, self.recipe, self.steps, self.guidance = system, recipe, steps, guidance
        self.shapes = shapes(recipe["ratios"], recipe["sides"], system.multiple)

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray]:
        """Edit requests of any shapes: pictures are resized to the nearest the model knows, results to what was asked.

        Requests whose pictures have equal shapes go through the network together.
        """
        groups: dict[tuple[Shape, ...], list[int]] = defaultdict(list)
        for k, request in enumerate(requests):
            sizes = [wanted_size(request, self.shapes[0]), *(source.shape[:2] for source in request.sources)]
            numbers = choose(np.array(sizes), self.shapes)
            groups[tuple(self.shapes[n] for n in numbers)].append(k)
        results: dict[int, np.ndarray] = {}
        for group, rows in groups.items():
            for few in [[k] for k in rows] if self.system.one_row else [rows]:
                made = self.sample([requests[k] for k in few], group)
                results |= {k: resize(to_picture(x), *wanted_size(requests[k], group[0])) for k, x in zip(few, made)}
        return [results[k] for k in range(len(requests))]

    @torch.no_grad()
    def sample(self, requests: list[EditRequest], group: tuple[Shape, ...]) -> torch.Tensor:
        """Requests whose pictures are cut to the same shapes -> pictures (B, 3, H, W) about [-1, 1] on the CPU."""
        parameter = next(self.system.network.parameters())
        place: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype}
        sources = [[fit(s, *shape) for s, shape in zip(request.sources, group[1:])] for request in requests]
        references = [
            self.system.latents(torch.stack([to_tensor(row[k]) for row in sources])).to(**place)
            for k in range(len(group) - 1)
        ]

        def conditions(texts: list[str]) -> dict[str, torch.Tensor]:
            made = self.system.collate([self.system.conditions(row, text) for row, text in zip(sources, texts)])
            return {k: v.to(parameter.device) if not v.is_floating_point() else v.to(**place) for k, v in made.items()}

        shape = self.system.latent_shape(*group[0])
        # Each row's noise comes from its own seed, on the CPU: not from the batch, not from the device.
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
        tokens = (group[0][0] // self.system.patch) * (group[0][1] // self.system.patch)

        def network(x: torch.Tensor, *rest: Any) -> torch.Tensor:
            return self.system.network(x.to(parameter.dtype), *rest)

        latents = euler(
            self.system,
            network,
            torch.stack(noise).to(parameter.device),
            references,
            conditions([r.instruction for r in requests]),
            steps=self.steps,
            shift=shift_factor(self.recipe["shift"], self.recipe["shift_by_tokens"], tokens),
            guidance=self.guidance,
            negative=conditions([""] * len(requests)) if self.guidance != 1 else None,
        )
        return self.system.pictures(latents).float().cpu()


def wanted_size(request: EditRequest, default: Shape) -> Shape:
    """Height and width that the result shall have."""
    h, w = request.sources[0].shape[:2] if request.sources else default
    return request.height or h, request.width or w
