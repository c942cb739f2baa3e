"""Pipelines of diffusers, as folders and on the hub: where they lie, what they are, how they are opened."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from edittools.errors import EditError
from edittools.weights.lookup import check_kept, may_be_on_hub, read_config

QWEN_PROCESSORS = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor", "Qwen3VLProcessor")


def is_pipeline(folder: Path) -> bool:
    """Is this a diffusers pipeline?"""
    return (folder / "model_index.json").is_file()


def locate_pipeline(spec: str, wanted: tuple[str, ...] = ()) -> Path:
    """The folder of a pipeline, downloaded if need be. Raises EditError if it is none, or of none of these classes."""
    check_kept(spec)
    if not Path(spec).is_dir() and not may_be_on_hub(spec):
        raise EditError(f"no folder {spec}", hint="a folder, or a name on the Hugging Face hub such as OWNER/NAME")
    folder = Path(spec) if Path(spec).is_dir() else _download(spec)
    if not is_pipeline(folder):
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
    """Frozen parts of a pipeline's folder, by name: no more than its index lists."""
    names = ["model_index.json", *read_config(folder, "model_index.json")]
    return {name: folder / name for name in names if name != "transformer" and (folder / name).exists()}


def open_pipeline(
    folder: Path, dtype: str, *, legacy_positions: bool = False, kind: Any = None, **components: Any
) -> Any:
    """The pipeline of a folder; `components` replace its own, None leaves one out. Raises EditError.

    kind   the class to open it as; None: the one that the folder names
    """
    from diffusers import DiffusionPipeline

    index = read_config(folder, "model_index.json")
    parts = {name: value for name, value in index.items() if isinstance(value, list) and value[0]}
    for name in parts:
        if name not in components and not (folder / name).is_dir():
            raise EditError(f"{folder}: the folder `{name}` is missing", hint="download it again, completely")
    extra = dict(components)
    processors = qwen_processors(index)
    for name, kind_of in processors.items():
        if name not in components and not importlib.util.find_spec("torchvision"):
            extra[name] = qwen_processor(folder / name, kind_of)
    try:
        pipe = (kind or DiffusionPipeline).from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True, **extra
        )
    except (OSError, ValueError, ImportError) as error:
        raise EditError(f"cannot load the pipeline {folder}: {str(error).splitlines()[0]}") from error
    if processors and not legacy_positions:
        three_axis_positions(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def qwen_processors(index: dict[str, Any]) -> dict[str, str]:
    """The parts of a pipeline that are processors of Qwen-VL's, and their classes, by its index."""
    return {name: value[1] for name, value in index.items() if isinstance(value, list) and value[1] in QWEN_PROCESSORS}


def _download(spec: str) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(spec, use_safetensors=True))
    except Exception as error:  # no network, no such repository, no safetensors: one class each, in three packages
        raise EditError(
            f"cannot download {spec}: {str(error).strip().splitlines()[0]}",
            hint=f"where there is a network: hf download {spec} --local-dir DIR; then name DIR",
        ) from error


def qwen_processor(folder: Path, name: str = QWEN_PROCESSORS[0]) -> Any:
    """A processor of Qwen-VL's without its video half, whose every class needs torchvision."""
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer

    whole: Any = getattr(transformers, name)

    class ImageProcessor(whole):  # type: ignore[misc]
        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None
        ) -> None:
            super().__init__(image_processor, tokenizer, chat_template=chat_template)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    chat = tokenizer.chat_template
    if chat is None and (folder / "chat_template.json").is_file():  # as older releases have it
        chat = read_config(folder, "chat_template.json").get("chat_template")
    return ImageProcessor(AutoImageProcessor.from_pretrained(folder, local_files_only=True), tokenizer, chat)


def three_axis_positions(pipe: Any) -> None:
    """Tell the Qwen text encoder which of its tokens are images.

    transformers 5 needs `mm_token_type_ids` for the three-axis positions that these models were trained with;
    diffusers up to 0.42 does not pass it, and image tokens silently get text positions (diffusers #14194).
    `legacy_positions=True` keeps what diffusers does.
    """
    encoder = pipe.text_encoder
    image_token = encoder.config.image_token_id
    plain = encoder.forward

    def forward(input_ids: Any = None, **kwargs: Any) -> Any:
        kwargs.setdefault("mm_token_type_ids", (input_ids == image_token).int())
        return plain(input_ids=input_ids, **kwargs)

    encoder.forward = forward
