"""Pipelines of diffusers, and the editor of any of them that takes an image and a prompt, one row at a time."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from edittools.errors import EditError, RowError, UsageError, describe
from edittools.nets.acceleration import fitting
from edittools.nets.editor import EditorOptions, EditRequest, Work
from edittools.nets.images import resize
from edittools.weights.diffusers import locate_pipeline, open_pipeline, pipeline_class, qwen_processors
from edittools.weights.lookup import read_config

ALIKE = 3  # first rows that fail of the same: it is not the rows
# What a pipeline calls an option of EditorOptions.
CALL = {
    "steps": "num_inference_steps",
    "guidance_scale": "true_cfg_scale",
    "distilled_guidance": "guidance_scale",
    "negative_prompt": "negative_prompt",
}


def call_names(accepted: Mapping[str, Any]) -> dict[str, str]:
    """CALL of a pipeline that takes these: one that has a negative prompt and a single scale guides by two passes."""
    if "true_cfg_scale" not in accepted and "negative_prompt" in accepted:
        return {**CALL, "guidance_scale": "guidance_scale", "distilled_guidance": ""}
    return CALL


def load(spec: str, device: str, dtype: str, options: EditorOptions) -> DiffusersEditor:
    """Load a pipeline from a folder or by its hub name; safetensors only, no code out of the repository.

    EditError names the part or the download that is missing, UsageError the option that the pipeline does not take.
    """
    import diffusers

    from edittools.nets.acceleration import compile_repeated, quantization, set_attention, set_cache
    from edittools.nets.lora import add_adapters

    folder = locate_pipeline(spec)
    class_name = pipeline_class(folder)
    kind = getattr(diffusers, class_name, None)
    accepted = inspect.signature(kind.__call__).parameters if kind is not None else {}
    sources = next((name for name in ("image", "images") if name in accepted), "")
    if not sources or not {"prompt", "generator"} <= set(accepted):
        raise EditError(f"{spec}: a {class_name} does not edit images by instruction")
    call: dict[str, Any] = {}
    for option, name in call_names(accepted).items():
        value = getattr(options, option)
        if value is not None and name not in accepted:
            raise UsageError(f"--{option.replace('_', '-')}: a {class_name} takes no `{name or option}`")
        if value is not None:
            call[name] = value
    options.refuse(f"a {class_name}", "resolution", *(["batch_size"] if options.batch_size != 1 else []))
    if not qwen_processors(read_config(folder, "model_index.json")):
        options.refuse(f"a {class_name}", "legacy_positions")
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


class DiffusersEditor:
    """A pipeline that is called once per request, since most edit pipelines take one row at a time."""

    batch_size = at_once = 1

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        self.pipe, self.call = pipe, call
        self.work = Work()
        self.troubles: list[str] = []  # of the first rows, until one image has been made

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray | RowError]:
        """The pipeline's own resolution applies unless a request names height and width.

        What the pipeline raises costs a row; where the first rows all fail of the same, it is an EditError.
        """
        began = time.perf_counter()
        results: list[np.ndarray | RowError] = []
        for request in requests:
            try:
                with fitting("one row", self.pipe.device):
                    results.append(self._edit(request))
                self.work.images += 1
            except RowError as error:
                results.append(error)
        self.work.seconds += time.perf_counter() - began
        return results

    def _edit(self, request: EditRequest) -> np.ndarray:
        accepted = inspect.signature(self.pipe.__call__).parameters
        several = "images" in accepted  # of one prompt; a list for `image` is a batch
        if not request.sources:
            raise RowError("no source picture")
        if len(request.sources) > 1 and not several:
            raise RowError(f"{type(self.pipe).__name__} takes one source picture", len(request.sources))
        images = [Image.fromarray(source) for source in request.sources]
        size = {"height": request.height, "width": request.width}
        given = {name: value for name, value in size.items() if value is not None and name in accepted}
        try:
            result = self.pipe(
                **({"images": images} if several else {"image": images[0]}),
                prompt=request.instruction,
                generator=torch.Generator().manual_seed(request.seed),  # on the CPU: the same noise on every device
                **self.call,
                **given,
            )
            made = np.asarray(result.images[0].convert("RGB"))
            if given or not request.height or not request.width:
                return made
            return resize(made, request.height, request.width)  # where the pipeline takes no size
        except (EditError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            name = type(self.pipe).__name__
            if isinstance(error, torch.AcceleratorError):  # of which a process never recovers
                raise EditError(f"{name}: {self.pipe.device}: {describe(error)}") from error
            # values are of the row: of images that are very long, say
            if not self.work.images and not isinstance(error, (ValueError, ZeroDivisionError)):
                self.troubles.append(re.sub(r"\d+", "", describe(error)))  # whatever the sizes
                if len(self.troubles) == ALIKE and len(set(self.troubles)) == 1:
                    raise EditError(f"{name} cannot edit any of the first rows: {describe(error)}") from error
            raise RowError(f"{name} cannot edit it", describe(error)) from error
