"""The editors of published models that are systems here: their own sizes, schedules and guidance, in true batches.

Pipelines of diffusers: QwenImageEditPlusPipeline (FireRed-Image-Edit, Qwen-Image-Edit-2509), which by itself takes one
row at a time, and FluxKontextPipeline. Folders with `edit.json` {"system": ...}: Step1X-Edit and ImgEdit-E1.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edittools.errors import EditError, RowError
from edittools.models.batched import BatchedEditor, Prepared
from edittools.models.diffusers_pipeline import pipeline_class
from edittools.models.editors import EditorOptions, EditRequest
from edittools.models.pictures import to_picture, to_tensor
from edittools.models.sampling import scheduled
from edittools.models.shapes import Shape
from edittools.models.speed import loading, speed_up
from edittools.models.systems import load_system
from edittools.models.systems.base import Conditions
from edittools.models.weights import read_config

PIPELINES = {"QwenImageEditPlusPipeline": "firered", "FluxKontextPipeline": "kontext"}
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
    """Is this a model whose system is known?"""
    return system_name(folder) is not None


def system_name(folder: Path) -> str | None:
    """The system of a model's folder, where it is one of those that are sampled here."""
    if (folder / "edit.json").is_file():
        name = read_config(folder, "edit.json").get("system")
        return name if name in EDITORS else None
    return PIPELINES.get(pipeline_class(folder)) if (folder / "model_index.json").is_file() else None


def load(
    spec: str, device: str, dtype: str, options: EditorOptions, trained: dict[str, Any] | None = None
) -> SystemEditor:
    """Load a model in the precision it samples in. Raises EditError, UsageError.

    trained   settings of the system that it was trained with, of a run
    """
    name = system_name(Path(spec))
    if name is None:
        raise EditError(f"{spec} is no model that is known here")
    editor = EDITORS[name]
    settings = editor.settings(Path(spec), options, trained or {})
    system = load_system(
        name, {**settings, "weights": spec}, device=device, dtype=dtype, loading=loading(options, device, dtype)
    )
    made = editor(system, device, dtype, options)
    for child_name, child in system.network.named_children():
        if child_name != "transformer":  # which may be in 8 bits, and is in its precision already
            child.to(made.dtype)
    system.network.requires_grad_(False).eval()
    made.add_lora(options)
    speed_up(made, options)
    return made


class SystemEditor(BatchedEditor):
    """A model as its authors sample it."""

    side = 1024
    encoders: tuple[str, ...] = ()  # of text and pictures: where in the system they lie

    @staticmethod
    def settings(folder: Path, options: EditorOptions, trained: dict[str, Any]) -> dict[str, Any]:
        """Of the system, besides its weights; `trained` are those of its training."""
        options.refuse("this model", "legacy_positions")
        return trained

    def __init__(self, system: Any, device: str, dtype: str, options: EditorOptions) -> None:
        super().__init__(system, device, dtype, options.batch_size or BATCH_SIZE)
        self.offload = options.offload
        self.area = (options.side or self.side) ** 2
        self.steps = system.steps if options.steps is None else options.steps
        self.guidance = system.guidance if options.guidance is None else options.guidance
        self.negative = system.negative if options.negative is None else options.negative
        network = system.network
        if getattr(network, "guidance", None) is not None:  # guidance-distilled
            chosen = options.distilled_guidance
            network.guidance = system.distilled_guidance if chosen is None else chosen
        else:
            options.refuse("this model, which is not guidance-distilled,", "distilled_guidance")
        self.scheduler = self.make_scheduler()

    def make_scheduler(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULE)

    def add_lora(self, options: EditorOptions) -> None:
        if options.lora:
            from edittools.models.lora import add_adapters

            pipe = getattr(self.system, "pipe", None)
            parts = {**(pipe.components if pipe else {}), "transformer": self.system.network.transformer}
            add_adapters(parts, options.lora, merge=options.quantize is None, pipe=type(pipe))

    def conditions(self, sources: list[np.ndarray], text: str) -> tuple[Conditions, Conditions | None]:
        """Of the instruction, and of the negative one where there is guidance."""
        negative = self.system.conditions(sources, self.negative) if self.guidance != 1 else None
        return self.system.conditions(sources, text), negative

    def prepared(self, requests: list[EditRequest]) -> Iterator[Prepared | RowError]:
        # All rows are encoded before the first is sampled, so the encoders need their room only until then.
        with self._encoders_on(self.device if self.offload else None):
            yield from list(super().prepared(requests))

    @contextlib.contextmanager
    def _encoders_on(self, device: torch.device | None) -> Iterator[None]:
        modules = []
        for path in self.encoders if device is not None else ():
            found: Any = self.system
            for name in path.split("."):
                found = getattr(found, name)
            modules.append(found.to(device))
        yield
        for module in modules:
            module.to("cpu")

    def denoise(
        self, rows: list[Prepared], noise: Tensor, references: list[Tensor], conditions: Conditions,
        negative: Conditions | None,
    ) -> Tensor:  # fmt: skip
        self.count(rows, self.steps)
        return scheduled(
            self.system,
            self.network,
            noise,
            references,
            conditions,
            scheduler=self.scheduler,
            steps=self.steps,
            guidance=self.guidance,
            negative=negative,
        )


class PipelineEditor(SystemEditor):
    """Of a pipeline of diffusers: its scheduler, its picture processor."""

    system: Any

    def make_scheduler(self) -> Any:
        return self.system.pipe.scheduler

    @property
    def multiple(self) -> int:
        return 2 * self.system.pipe.vae_scale_factor

    def picture(self, source: np.ndarray, shape: Shape) -> Tensor:
        return self.system.pipe.image_processor.preprocess(Image.fromarray(source), *shape)[0]


class FireRedEditor(PipelineEditor):
    """QwenImageEditPlusPipeline.

    Every reference has about 1024² pixels, sides multiples of 32; the result likewise, of the last one's aspect ratio.
    """

    encoders = ("pipe.text_encoder",)

    @staticmethod
    def settings(folder: Path, options: EditorOptions, trained: dict[str, Any]) -> dict[str, Any]:
        return {**trained, "legacy_positions": True} if options.legacy_positions else trained

    def __init__(self, system: Any, device: str, dtype: str, options: EditorOptions) -> None:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        super().__init__(system, device, dtype, options)
        self.reference_area = self.area if options.side else plus.VAE_IMAGE_SIZE

    def prepare(self, request: EditRequest) -> Prepared:
        from edittools.models.systems.firered import plus_shape

        if not request.sources:
            raise RowError("no source picture")
        ratios = [source.shape[1] / source.shape[0] for source in request.sources]
        height, width = plus_shape(self.area, ratios[-1])
        size = _floor(request.height or height, self.multiple), _floor(request.width or width, self.multiple)
        pictures = []
        for source, ratio in zip(request.sources, ratios):
            pictures.append(self.picture(source, plus_shape(self.reference_area, ratio)))
        return Prepared(request, size, pictures, *self.conditions(request.sources, request.instruction))


class KontextEditor(PipelineEditor):
    """FluxKontextPipeline; the reference has one of the model's preferred resolutions, the result about 1024² pixels of
    the source's aspect ratio."""

    encoders = ("pipe.text_encoder", "pipe.text_encoder_2")

    def __init__(self, system: Any, device: str, dtype: str, options: EditorOptions) -> None:
        super().__init__(system, device, dtype, options)
        self.preferred = options.side is None

    def prepare(self, request: EditRequest) -> Prepared:
        from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

        source = one_source(request, "FLUX.1 Kontext")
        height, width = source.shape[:2]
        size = self._of_area((request.width or width) / (request.height or height))
        # The pipeline takes the aspect ratio after cutting the sides to multiples.
        ratio = _floor(width, self.multiple) / _floor(height, self.multiple)
        shape = self._of_area(ratio)
        if self.preferred:
            _, width, height = min((abs(ratio - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
            shape = _floor(height, self.multiple), _floor(width, self.multiple)
        resized = self.system.pipe.image_processor.resize(Image.fromarray(source), *shape)
        return Prepared(
            request, size, [self.picture(np.asarray(resized), shape)], *self.conditions([], request.instruction)
        )

    def _of_area(self, ratio: float) -> Shape:
        height, width = round((self.area / ratio) ** 0.5), round((self.area * ratio) ** 0.5)
        return _floor(height, self.multiple), _floor(width, self.multiple)


class Step1XEditor(SystemEditor):
    """As Step1X-Edit's inference.py samples: source and result have about `side`² pixels (512, 786 or 1024), sides
    multiples of 16; v1.0 and v1.1 scale the result back to the source's size."""

    encoders = ("qwen.model",)
    system: Any

    @staticmethod
    def settings(folder: Path, options: EditorOptions, trained: dict[str, Any]) -> dict[str, Any]:
        options.refuse("Step1X-Edit", "legacy_positions")
        version = read_config(folder, "edit.json").get("version")
        return {"damped_above": 1.0, **trained} if version == "1.0" else trained  # as each version's script has it

    def prepare(self, request: EditRequest) -> Prepared:
        source = one_source(request, "Step1X-Edit")
        shape = step1x_shape(source.shape[0], source.shape[1], math.isqrt(self.area))
        # Pillow's own choice of filter, as the released script calls it
        resized = np.asarray(Image.fromarray(source).resize(shape[::-1]))
        return Prepared(request, shape, [to_tensor(resized)], *self.conditions([resized], request.instruction))

    def finish(self, row: Prepared, picture: Tensor) -> np.ndarray:
        made = to_picture(picture)
        height, width = row.request.sources[0].shape[:2] if self.system.number != "1.2" else made.shape[:2]
        height, width = row.request.height or height, row.request.width or width
        return np.asarray(Image.fromarray(made).resize((width, height)))


class E1Editor(SystemEditor):
    """ImgEdit-E1, of whose sampler the paper says nothing: FLUX.1-dev's schedule, steps and guidance; the result has
    about 1024² pixels of the first source's aspect ratio, sides multiples of 16."""

    encoders = ("qwen.model", "siglip.model")
    system: Any

    def prepare(self, request: EditRequest) -> Prepared:
        if not request.sources:
            raise RowError("no source picture")
        side = math.isqrt(self.area)
        shapes = [step1x_shape(source.shape[0], source.shape[1], side) for source in request.sources]
        target = _floor(request.height or shapes[0][0], 16), _floor(request.width or shapes[0][1], 16)
        seen = zip(request.sources, shapes) if self.system.network.references else ()
        pictures = [to_tensor(np.asarray(Image.fromarray(s).resize(shape[::-1]))) for s, shape in seen]
        return Prepared(request, target, pictures, *self.conditions(request.sources, request.instruction))


EDITORS: dict[str, type[SystemEditor]] = {
    "firered": FireRedEditor,
    "kontext": KontextEditor,
    "step1x": Step1XEditor,
    "imgedit_e1": E1Editor,
}


def one_source(request: EditRequest, model: str) -> np.ndarray:
    """Raises RowError unless there is exactly one."""
    if not request.sources:
        raise RowError("no source picture")
    if len(request.sources) > 1:
        raise RowError(f"{model} takes one source picture", len(request.sources))
    return request.sources[0]


def step1x_shape(height: int, width: int, side: int) -> Shape:
    """About side² pixels of a picture's aspect ratio, sides cut to multiples of 16: Step1X-Edit's size levels."""
    ratio = width / height
    if width > height:
        w = math.ceil(math.sqrt(side * side * ratio))
        h = math.ceil(w / ratio)
    else:
        h = math.ceil(math.sqrt(side * side / ratio))
        w = math.ceil(h * ratio)
    return _floor(h, 16), _floor(w, 16)


def _floor(size: int, multiple: int) -> int:
    return max(1, size // multiple) * multiple
