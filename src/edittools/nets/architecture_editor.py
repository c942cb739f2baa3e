"""The editors of published models that are architectures here: their own sizes, schedules, guidance, in batches.

Each is `editor.py` of its architecture's folder, which declares `EDITOR`; pipelines of diffusers are told by its
`PIPELINES`, others by their `edit.json` {"system": ...}.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edittools.errors import EditError, RowError
from edittools.nets import ARCHITECTURES, architecture_names, has_editor, load_edit_model
from edittools.nets.acceleration import loading, speed_up
from edittools.nets.base import Conditioning
from edittools.nets.batched import BatchedEditor, Prepared
from edittools.nets.editor import EditorOptions, EditRequest
from edittools.nets.sampling import scheduled, scheduler_mu
from edittools.nets.shapes import Shape
from edittools.weights.diffusers import pipeline_class
from edittools.weights.lookup import read_config

FLUX_SCHEDULE = {
    # mu 0.5 at 256 tokens of the target, 1.15 at 4096
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
BATCH_SIZE = 4


def recognises(folder: Path) -> bool:
    """Is this a model whose architecture is known?"""
    return architecture_name(folder) is not None


def architecture_name(folder: Path) -> str | None:
    """The architecture of a model's folder, where it is one of those that are sampled here."""
    if (folder / "edit.json").is_file():
        name = read_config(folder, "edit.json").get("system")
        return name if has_editor(name) else None
    if not (folder / "model_index.json").is_file():
        return None
    found = pipeline_class(folder)
    return next((name for name in filter(has_editor, architecture_names()) if found in _pipelines(name)), None)


def _pipelines(name: str) -> tuple[str, ...]:
    return getattr(importlib.import_module(f"{ARCHITECTURES.modules[name]}.editor"), "PIPELINES", ())


def load(
    spec: str, device: str, dtype: str, options: EditorOptions, trained: dict[str, Any] | None = None
) -> ArchitectureEditor:
    """Load a model in the precision it samples in. Raises EditError, UsageError.

    trained   settings of the architecture that it was trained with, of a run
    """
    name = architecture_name(Path(spec))
    if name is None:
        raise EditError(f"{spec} is no model that is known here")
    editor: type[ArchitectureEditor] = importlib.import_module(f"{ARCHITECTURES.modules[name]}.editor").EDITOR
    settings = editor.settings(Path(spec), options, trained or {})
    edit_model = load_edit_model(
        name, {**settings, "weights": spec}, device=device, dtype=dtype, loading=loading(options, device, dtype)
    )
    made = editor(edit_model, device, dtype, options)
    for child_name, child in edit_model.network.named_children():
        if child_name != "transformer":  # which may be in 8 bits, and is in its precision already
            child.to(made.dtype)
    edit_model.network.requires_grad_(False).eval()
    made.add_lora(options)
    speed_up(made, options)
    return made


class ArchitectureEditor(BatchedEditor):
    """A model as its authors sample it."""

    side = 1024
    encoders: tuple[str, ...] = ()  # of text and images: where in the architecture they lie

    @staticmethod
    def settings(folder: Path, options: EditorOptions, trained: dict[str, Any]) -> dict[str, Any]:
        """Settings of the architecture besides its weights; `trained` are those it was trained with."""
        options.refuse("this model", "legacy_positions")
        return trained

    def __init__(self, edit_model: Any, device: str, dtype: str, options: EditorOptions) -> None:
        super().__init__(edit_model, device, dtype, options.batch_size or BATCH_SIZE)
        self.offload = options.offload
        self.area = (options.resolution or self.side) ** 2
        self.steps = edit_model.steps if options.steps is None else options.steps
        self.guidance = edit_model.guidance if options.guidance_scale is None else options.guidance_scale
        self.negative = edit_model.negative if options.negative_prompt is None else options.negative_prompt
        network = edit_model.network
        if getattr(network, "guidance", None) is not None:  # guidance-distilled
            chosen = options.distilled_guidance
            network.guidance = edit_model.distilled_guidance if chosen is None else chosen
        else:
            options.refuse("this model, which is not guidance-distilled,", "distilled_guidance")
        self.scheduler = self.make_scheduler()

    def make_scheduler(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULE)

    def add_lora(self, options: EditorOptions) -> None:
        if options.lora:
            from edittools.nets.lora import add_adapters

            pipe = getattr(self.edit_model, "pipe", None)
            parts = {**(pipe.components if pipe else {}), "transformer": self.edit_model.network.transformer}
            add_adapters(parts, options.lora, merge=options.quantize is None, pipe=type(pipe))

    def conditioning(self, sources: list[np.ndarray], text: str) -> tuple[Conditioning, Conditioning | None]:
        """Conditioning of the instruction, and of the negative prompt where there is guidance."""
        negative = self.edit_model.conditioning(sources, self.negative) if self.guidance != 1 else None
        return self.edit_model.conditioning(sources, text), negative

    def prepared(self, requests: list[EditRequest]) -> Iterator[Prepared | RowError]:
        # All rows are encoded before the first is sampled, so the encoders need their room only until then.
        with self._encoders_on(self.device if self.offload else None):
            yield from list(super().prepared(requests))

    @contextlib.contextmanager
    def _encoders_on(self, device: torch.device | None) -> Iterator[None]:
        modules = []
        for path in self.encoders if device is not None else ():
            found: Any = self.edit_model
            for name in path.split("."):
                found = getattr(found, name)
            modules.append(found.to(device))
        yield
        for module in modules:
            module.to("cpu")

    def denoise(
        self, rows: list[Prepared], noise: Tensor, references: list[Tensor], conditioning: Conditioning,
        negative: Conditioning | None,
    ) -> Tensor:  # fmt: skip
        sigmas, mu = self.schedule(rows[0].target[0] * rows[0].target[1] // self.edit_model.patch**2)
        with self._prefixes() as kept:
            self.count(rows, len(sigmas), len(sigmas) - 1 if kept else 0)
            return scheduled(
                self.edit_model,
                self.network,
                noise,
                references,
                conditioning,
                scheduler=self.scheduler,
                sigmas=sigmas,
                mu=mu,
                guidance=self.guidance,
                negative=negative,
            )

    def schedule(self, tokens: int) -> tuple[Sequence[float], float]:
        """Sigmas of the steps, and mu of their shift, for so many tokens of the target."""
        return np.linspace(1.0, 1 / self.steps, self.steps).tolist(), scheduler_mu(self.scheduler.config, tokens)

    @contextlib.contextmanager
    def _prefixes(self) -> Iterator[bool]:
        """Within the block a network that can keeps what does not change from step to step."""
        network: Any = self.edit_model.network
        # a step that another cache skips would not say so
        kept = getattr(network, "keeps_prefixes", False) and not getattr(network.transformer, "is_cache_enabled", False)
        if kept:
            network.prefixes = {}
        try:
            yield kept
        finally:
            if kept:
                network.prefixes = None


class PipelineEditor(ArchitectureEditor):
    """An editor with the scheduler and the image processor of a diffusers pipeline."""

    edit_model: Any

    def make_scheduler(self) -> Any:
        return self.edit_model.pipe.scheduler

    @property
    def multiple(self) -> int:
        return 2 * self.edit_model.pipe.vae_scale_factor

    def image(self, source: np.ndarray, shape: Shape) -> Tensor:
        return self.edit_model.pipe.image_processor.preprocess(Image.fromarray(source), *shape)[0]
