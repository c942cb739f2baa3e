"""Pipelines of diffusers, and the editor of any of them that takes a picture and a prompt, one row at a time."""

from __future__ import annotations

import importlib.util
import inspect
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edittools.errors import EditError, RowError, UsageError, describe
from edittools.models.editors import EditorOptions, EditRequest, Work
from edittools.models.flow import SAMPLER_LINE
from edittools.models.weights import check_kept, read_config

# Pipelines whose `image` may be a list of references for one prompt; elsewhere a list is a batch.
SEVERAL_REFERENCES = ("QwenImageEditPlusPipeline", "Flux2Pipeline", "Flux2KleinPipeline")
# What a pipeline calls an option of EditorOptions.
CALL = {
    "steps": "num_inference_steps",
    "guidance": "true_cfg_scale",
    "distilled_guidance": "guidance_scale",
    "negative": "negative_prompt",
}
QWEN_PROCESSORS = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")


def recognises(folder: Path) -> bool:
    """Is this a diffusers pipeline?"""
    return (folder / "model_index.json").is_file()


def load(spec: str, device: str, dtype: str, options: EditorOptions) -> DiffusersEditor:
    """Load a pipeline from a folder or by its hub name; safetensors only, no code out of the repository.

    EditError names the part or the download that is missing, UsageError the option that the pipeline does not take.
    """
    import diffusers

    from edittools.models.lora import add_adapters
    from edittools.models.speed import compile_repeated, quantization, set_attention, set_cache

    folder = locate_pipeline(spec)
    class_name = pipeline_class(folder)
    kind = getattr(diffusers, class_name, None)
    accepted = inspect.signature(kind.__call__).parameters if kind is not None else {}
    if not {"image", "prompt", "generator"} <= set(accepted):
        raise EditError(f"{spec}: a {class_name} does not edit pictures by instruction")
    call: dict[str, Any] = {}
    for option, name in CALL.items():
        value = getattr(options, option)
        if value is not None and name not in accepted:
            raise UsageError(f"--{option.replace('_', '-')}: a {class_name} takes no `{name}`")
        if value is not None:
            call[name] = value
    options.refuse(f"a {class_name}", "side")
    extra: dict[str, Any] = {}
    if options.quantize is not None:
        mapping = {"transformer": quantization(options.quantize, device, dtype)}
        extra["quantization_config"] = diffusers.PipelineQuantizationConfig(quant_mapping=mapping)
    pipe = open_pipeline(folder, dtype, legacy_positions=options.legacy_positions, **extra)
    if options.lora:
        add_adapters(pipe.components, options.lora, merge=options.quantize is None, pipe=type(pipe))
    network = getattr(pipe, "transformer", None)
    for name in ("attention", "cache", "compile"):
        if getattr(options, name) and network is None:
            raise UsageError(f"--{name}: a {class_name} has no transformer")
    if options.attention:
        set_attention(network, options.attention, torch.device(device), getattr(torch, dtype))
    if options.cache:
        set_cache(network, options)
    if options.compile:
        compile_repeated(network)
    if options.offload:
        if device == "cpu":
            raise UsageError("--offload needs an accelerator beside the main memory", hint="--device cuda")
        pipe.enable_model_cpu_offload(device=device)
        return DiffusersEditor(pipe, call)
    return DiffusersEditor(pipe.to(device), call)


def locate_pipeline(spec: str, wanted: tuple[str, ...] = ()) -> Path:
    """The folder of a pipeline, downloaded if need be. Raises EditError if it is none, or of none of these classes."""
    check_kept(spec)
    folder = Path(spec) if Path(spec).is_dir() else _download(spec)
    if not recognises(folder):
        raise EditError(f"{spec} holds no diffusers pipeline (model_index.json)")
    name = pipeline_class(folder)
    if not name:
        raise EditError(f"{spec} brings its own pipeline code, which is not run")
    if wanted and name not in wanted:
        raise EditError(f"{spec} is a {name}, not a {' or '.join(wanted)}")
    return folder


def pipeline_class(folder: Path) -> str:
    """The class that a pipeline's folder names; nothing where it brings its own code."""
    name = read_config(folder, "model_index.json").get("_class_name")
    return name if isinstance(name, str) else ""


def pipeline_parts(folder: Path) -> dict[str, Path]:
    """What a pipeline's folder holds beside its transformer, by name: no more than what its index lists."""
    names = ["model_index.json", *read_config(folder, "model_index.json")]
    return {name: folder / name for name in names if name != "transformer" and (folder / name).exists()}


def sampler_shift(folder: Path) -> tuple[float, list[float]]:
    """The shift of time that a model's own scheduler makes, as flow.shift_factor() takes it: a factor, or a line.

    FLUX.1's where the folder has no scheduler. Raises UsageError for one whose shift is of another form.
    """
    if not (folder / "scheduler" / "scheduler_config.json").is_file():
        return 0.0, list(SAMPLER_LINE)
    config = read_config(folder / "scheduler", "scheduler_config.json")
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", 1.0)), []
    if config.get("time_shift_type", "exponential") != "exponential":
        raise UsageError(f"{folder}: a scheduler with time_shift_type {config['time_shift_type']}", hint="set `shift`")
    names = ("base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift")
    return 0.0, [float(config.get(name, usual)) for name, usual in zip(names, SAMPLER_LINE)]


def open_pipeline(folder: Path, dtype: str, *, legacy_positions: bool = False, **components: Any) -> Any:
    """The pipeline of a folder; `components` replace its own, None leaves one out. Raises EditError."""
    from diffusers import DiffusionPipeline

    index = read_config(folder, "model_index.json")
    parts = {name: value for name, value in index.items() if isinstance(value, list) and value[0]}
    for name in parts:
        if name not in components and not (folder / name).is_dir():
            raise EditError(f"{folder}: the folder `{name}` is missing", hint="download it again, completely")
    extra = dict(components)
    if parts.get("processor", [None, None])[1] in QWEN_PROCESSORS and not importlib.util.find_spec("torchvision"):
        extra["processor"] = qwen_processor(folder / "processor")
    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True, **extra
        )
    except (OSError, ValueError, ImportError) as error:
        raise EditError(f"cannot load the pipeline {folder}: {str(error).splitlines()[0]}") from error
    if "processor" in parts and not legacy_positions:
        three_axis_positions(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _download(spec: str) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(spec, use_safetensors=True))
    except Exception as error:  # no network, no such repository, no safetensors: one class each, in three packages
        raise EditError(
            f"cannot download {spec}: {str(error).strip().splitlines()[0]}",
            hint=f"where there is a network: hf download {spec} --local-dir DIR; then name DIR",
        ) from error


def qwen_processor(folder: Path) -> Any:
    """The Qwen2-VL processor without its video half, whose every class needs torchvision."""
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen2VLProcessor

    class PictureProcessor(Qwen2VLProcessor):
        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None
        ) -> None:
            super().__init__(image_processor, tokenizer, chat_template=chat_template)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return PictureProcessor(AutoImageProcessor.from_pretrained(folder, local_files_only=True), tokenizer)


def three_axis_positions(pipe: Any) -> None:
    """Tell the Qwen text encoder which of its tokens are pictures.

    transformers 5 needs `mm_token_type_ids` for the three-axis positions that these models were trained with;
    diffusers up to 0.42 does not pass it, and picture tokens silently get text positions (diffusers #14194).
    `legacy_positions=True` keeps what diffusers does.
    """
    encoder = pipe.text_encoder
    image_token = encoder.config.image_token_id
    plain = encoder.forward

    def forward(input_ids: Any = None, **kwargs: Any) -> Any:
        kwargs.setdefault("mm_token_type_ids", (input_ids == image_token).int())
        return plain(input_ids=input_ids, **kwargs)

    encoder.forward = forward


class DiffusersEditor:
    """A pipeline that is called once per request, since most edit pipelines take one row at a time."""

    batch_size = 1

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        self.pipe, self.call = pipe, call
        self.work = Work()

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray | RowError]:
        """The pipeline's own resolution applies unless a request names height and width."""
        began = time.perf_counter()
        results: list[np.ndarray | RowError] = []
        for request in requests:
            try:
                results.append(self._edit(request))
                self.work.pictures += 1
            except RowError as error:
                results.append(error)
        self.work.seconds += time.perf_counter() - began
        return results

    def _edit(self, request: EditRequest) -> np.ndarray:
        several = type(self.pipe).__name__ in SEVERAL_REFERENCES
        if not request.sources:
            raise RowError("no source picture")
        if len(request.sources) > 1 and not several:
            raise RowError(f"{type(self.pipe).__name__} takes one source picture", len(request.sources))
        pictures = [Image.fromarray(source) for source in request.sources]
        size = {"height": request.height, "width": request.width}
        try:
            result = self.pipe(
                image=pictures if several else pictures[0],
                prompt=request.instruction,
                generator=torch.Generator().manual_seed(request.seed),  # on the CPU: the same noise on every device
                **self.call,
                **{name: value for name, value in size.items() if value is not None},
            )
        except (ValueError, ZeroDivisionError) as error:  # of pictures that are very long, say
            raise RowError(f"{type(self.pipe).__name__} cannot edit it", describe(error)) from error
        return np.asarray(result.images[0].convert("RGB"))
