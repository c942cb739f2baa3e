"""Pipelines of diffusers: in-painting (FLUX.1 Fill, FLUX.1, FLUX.2 klein, Kontext, Qwen-Image and its editor, Stable
Diffusion XL ...), with or without a ControlNet, and those that paint a whole picture along a structure map."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edittools.errors import EditError, RowError, describe
from edittools.painters import PaintRequest, Sampling
from edittools.weights.diffusers import locate_pipeline, open_pipeline, pipeline_class
from edittools.weights.lookup import find_weights, read_config

HELP = "an in-painting or ControlNet pipeline of diffusers, by a prompt; --controlnet, --lora"
WEIGHTS = "black-forest-labs/FLUX.1-Fill-dev"
AREA = 2**20
# What paints regions with the parts of a pipeline that does not.
_PAINTS = {
    "FluxPipeline": "FluxInpaintPipeline",
    "FluxKontextPipeline": "FluxKontextInpaintPipeline",
    "Flux2KleinPipeline": "Flux2KleinInpaintPipeline",
    "QwenImagePipeline": "QwenImageInpaintPipeline",
    "QwenImageEditPipeline": "QwenImageEditInpaintPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLInpaintPipeline",
    "ZImagePipeline": "ZImageInpaintPipeline",
    "ChromaPipeline": "ChromaInpaintPipeline",
}
# And with a ControlNet beside them: the class of the ControlNet, of regions, of whole pictures.
_CONTROLLED = {
    "Flux": ("FluxControlNetModel", "FluxControlNetInpaintPipeline", "FluxControlNetPipeline"),
    "QwenImage": ("QwenImageControlNetModel", "QwenImageControlNetInpaintPipeline", "QwenImageControlNetPipeline"),
    "StableDiffusionXL": (
        "ControlNetModel", "StableDiffusionXLControlNetInpaintPipeline", "StableDiffusionXLControlNetPipeline",
    ),
}  # fmt: skip
# Where an argument has another name, or, "", there is none of this meaning.
_NAMES = {
    "QwenImageControlNetInpaintPipeline": {
        "image": "control_image", "mask_image": "control_mask", "control_image": "",
    },
    "StableDiffusionXLControlNetPipeline": {"control_image": "image", "image": ""},
}  # fmt: skip
_SAMPLING = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "strength": "strength",
    "control_scale": "controlnet_conditioning_scale",
    "control_end": "control_guidance_end",
}


def load(
    weights: str, device: str = "cpu", dtype: str = "float32", lora: Sequence[str] = (), controlnet: str = ""
) -> Pipeline:
    """A pipeline by folder or by its name on the hub. Raises EditError for one that paints neither regions nor along a
    structure map.

    lora        files or names of adapters, PATH[:SCALE]
    controlnet  folder or name of a ControlNet that the pipeline has not itself
    """
    import diffusers

    folder = locate_pipeline(weights)
    name = pipeline_class(folder)
    name = _PAINTS.get(name, name)
    if not controlnet and not _paints(diffusers, name):
        raise EditError(f"{weights}: a {name} does not paint regions")
    pipe = open_pipeline(folder, dtype)
    if controlnet:
        pipe = _controlled(diffusers, pipe, name, find_weights(controlnet), dtype)
    elif type(pipe).__name__ != name:
        pipe = getattr(diffusers, name)(**pipe.components)
        pipe.set_progress_bar_config(disable=True)
    _adapt(pipe, lora)
    return Pipeline(pipe.to(device))


def _paints(diffusers: Any, name: str) -> bool:
    kind = getattr(diffusers, name, None)
    if kind is None:
        return False
    accepted, names = inspect.signature(kind.__call__).parameters, _NAMES.get(name, {})
    has = {one for one in ("image", "mask_image", "control_image") if names.get(one, one) in accepted}
    if not {"prompt", "generator"} <= set(accepted):
        return False
    return {"image", "mask_image"} <= has or "control_image" in has


def _controlled(diffusers: Any, pipe: Any, name: str, folder: Path, dtype: str) -> Any:
    """The pipeline with a ControlNet. Raises EditError where there is none for it."""
    family = next((one for one in sorted(_CONTROLLED, key=len, reverse=True) if name.startswith(one)), None)
    if family is None:
        raise EditError(f"--controlnet: there is none for a {name}")
    model, regions, whole = _CONTROLLED[family]
    made = read_config(folder).get("_class_name")
    if made != model:
        raise EditError(f"--controlnet {folder}: a {made}, and a {name} takes a {model}")
    network = getattr(diffusers, model).from_pretrained(folder, dtype=getattr(torch, dtype), use_safetensors=True)
    kind = getattr(diffusers, regions if "Inpaint" in name else whole)
    taken = inspect.signature(kind.__init__).parameters
    parts = {part: value for part, value in pipe.components.items() if part in taken}
    made = kind(**parts, controlnet=network)
    made.set_progress_bar_config(disable=True)
    return made


def _adapt(pipe: Any, loras: Sequence[str]) -> None:
    """Put adapters on. Raises EditError for what is none."""
    scales: dict[str, float] = {}
    for k, spec in enumerate(loras):
        path, colon, scale = spec.rpartition(":")
        try:
            weight = float(scale) if colon else 1.0
        except ValueError:
            path, colon, weight = spec, "", 1.0
        try:
            pipe.load_lora_weights(path if colon else spec, adapter_name=f"lora_{k}")
        except Exception as error:  # damaged, foreign, missing: diffusers and peft raise what they meet
            raise EditError(f"--lora {spec}: {describe(error)}") from error
        scales[f"lora_{k}"] = weight
    if scales:
        pipe.set_adapters(list(scales), list(scales.values()))


class Pipeline:
    """Requests of one size and sampling, all with a negative prompt or all without, are a batch; each has a generator
    of its own, so that its noise is its seed's. One that takes no mask paints whole pictures only."""

    batch_size, multiple, area = 4, 16, AREA

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        parameters = inspect.signature(type(pipe).__call__).parameters
        self.accepted = set(parameters)
        # Qwen-Image is guided by a second pass; what is guidance-distilled can be too, and is not.
        self.second_pass = "true_cfg_scale" in parameters and parameters["true_cfg_scale"].default > 1
        names = _NAMES.get(type(pipe).__name__, {})
        self.names = {
            one: names.get(one, one)
            for one in ("image", "mask_image", "control_image")
            if names.get(one, one) in self.accepted
        }
        self.wants = frozenset({"prompt"} | ({"control"} if "control_image" in self.names else set()))
        # What is painted is new: less strength would begin with what is there. FLUX.1 Kontext has sizes of its own.
        usual = {"strength": 1.0, "_auto_resize": False}
        self.call: dict[str, Any] = {name: value for name, value in usual.items() if name in self.accepted}

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        whole = "mask_image" not in self.names and not mask.all()
        return "this painter paints whole pictures only" if whole else None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        made: list[np.ndarray | RowError] = [RowError("not painted")] * len(requests)
        groups: dict[tuple[tuple[int, ...], Sampling, bool], list[int]] = {}
        for k, request in enumerate(requests):
            # No negative prompt is another thing than an empty one.
            groups.setdefault((request.image.shape, request.sampling, bool(request.negative)), []).append(k)
        for members in groups.values():
            for start in range(0, len(members), self.batch_size):
                some = members[start : start + self.batch_size]
                for k, result in zip(some, self._together([requests[k] for k in some])):
                    made[k] = result
        return made

    def _together(self, requests: list[PaintRequest]) -> list[np.ndarray | RowError]:
        height, width = requests[0].mask.shape
        if "control" in self.wants and any(one.control is None for one in requests):
            return [RowError("this painter wants a control image")] * len(requests)
        shown: dict[str, list[np.ndarray | None]] = {
            "image": [one.image for one in requests],
            "mask_image": [one.mask.astype(np.uint8) * np.uint8(255) for one in requests],
            "control_image": [one.control for one in requests],
        }
        given: dict[str, Any] = {
            name: [Image.fromarray(one) for one in shown[meaning] if one is not None]
            for meaning, name in self.names.items()
        }
        given |= {
            "height": height,
            "width": width,
            # On the CPU: the same noise on every device.
            "generator": [torch.Generator().manual_seed(one.seed) for one in requests],
            **self.call,
            **self._sampled(requests[0].sampling),
        }
        if self.second_pass:  # which there is none of without a text
            given["negative_prompt"] = [one.negative or " " for one in requests]
        elif "negative_prompt" in self.accepted and any(one.negative for one in requests):
            given["negative_prompt"] = [one.negative for one in requests]
        try:
            made = self.pipe(**given, **self.prompts(requests)).images
        except (EditError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a pipeline raises what its parts raise
            return [RowError(f"{type(self.pipe).__name__} cannot paint it", describe(error))] * len(requests)
        return [np.asarray(image.convert("RGB").resize((width, height))) for image in made]

    def prompts(self, requests: Sequence[PaintRequest]) -> dict[str, Any]:
        """The pipeline's arguments that say what is to be there."""
        return {"prompt": [one.prompt for one in requests]}

    def _sampled(self, sampling: Sampling) -> dict[str, Any]:
        """The pipeline's arguments; it is not told what it does not take."""
        found = {}
        for field, name in _SAMPLING.items():
            value = getattr(sampling, field)
            name = "true_cfg_scale" if field == "guidance" and self.second_pass else name
            if value is not None and name in self.accepted:
                found[name] = value
        return found
