"""A vision-language checkpoint of transformers: opened, and what it is shown of a message. Whoever asks it and whoever
trains it use the same."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from edittools.errors import EditError, RowError, UsageError
from edittools.vlm import EncodedImage
from edittools.weights.lookup import may_be_on_hub, stored_shape
from edittools.weights.quiet import disable_progress_bars

OF_RUN = "vlm"  # where a run of `edit train` that trains such a model leaves it
_EMBEDDING = re.compile(r"model\.(?:language_model\.)?embed_tokens\.weight")


def open_checkpoint(spec: str, dtype: torch.dtype, *, fit_vocabulary: bool = False) -> tuple[str, Any, Any]:
    """Where it is, the model and its processor. `spec` is a folder, a run that trained one, or a name on the hub;
    safetensors only, no code out of the repository.

    fit_vocabulary   of a folder: as many tokens as there are embeddings, whatever its config.json says

    Raises EditError that names what is missing.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    disable_progress_bars("transformers")
    folder = Path(spec)
    if not folder.is_dir() and not may_be_on_hub(spec):
        raise EditError(f"no folder {spec}", hint="a folder, or a name on the Hugging Face hub such as OWNER/NAME")
    if (folder / OF_RUN / "config.json").is_file():
        folder = folder / OF_RUN
        spec = str(folder)
    try:
        processor = load_processor(spec)
        load: Any = AutoModelForImageTextToText.from_pretrained
        config = AutoConfig.from_pretrained(spec, trust_remote_code=False)
        shape = stored_shape(folder, _EMBEDDING) if fit_vocabulary else None
        if shape is not None:
            config.get_text_config().vocab_size = shape[0]
        model = load(spec, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:  # the last: of shapes that differ
        where = None if folder.is_dir() else f"where there is a network: hf download {spec}"
        raise EditError(f"cannot load the model {spec}: {str(error).strip().splitlines()[0]}", where) from error
    return spec, model, processor


def end_tokens(model: Any, processor: Any, spec: str) -> list[int]:
    """The tokens that end a reply. Raises EditError where there is none."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = processor.tokenizer.eos_token_id
    if ends is None:
        raise EditError(f"the model {spec} names no token that ends a reply")
    return list(ends) if isinstance(ends, list | tuple) else [ends]


def bound_images(processor: Any, least: int | None, most: int | None) -> None:
    """Have images resized so that their area is at least `least` and at most `most` pixels; None: as it was. Raises
    UsageError for a processor of other models than Qwen's."""
    images = processor.image_processor
    if type(images).__name__[:7] not in ("Qwen2VL", "Qwen3VL"):  # elsewhere `size` means other things
        raise UsageError(f"a {type(processor).__name__} takes no bounds on the pixels of an image")
    shortest, longest = least or images.size["shortest_edge"], most or images.size["longest_edge"]
    if shortest > longest:
        raise UsageError(f"images of at least {shortest} and at most {longest} pixels: there are none")
    images.size = {"shortest_edge": shortest, "longest_edge": longest}


def prompt(processor: Any, parts: Sequence[str | EncodedImage]) -> str:
    """A user's message in the model's own format, up to where its reply begins; images are placeholders."""
    content = [
        {"type": "image"} if isinstance(part, EncodedImage) else {"type": "text", "text": part} for part in parts
    ]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return text


def conversation(processor: Any, images: int, text: str) -> str:
    """A user message of images and a text behind them, by the checkpoint's own template, and the start of the reply."""
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
    said: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return said


def decode(encoded: EncodedImage) -> Image.Image:
    try:
        with Image.open(io.BytesIO(encoded.data)) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RowError(f"a picture cannot be read: {error}") from error


def load_processor(spec: str) -> Any:
    """The checkpoint's processor; without torchvision, which only its video half needs, without that half."""
    import transformers
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.utils import cached_file

    if importlib.util.find_spec("torchvision"):
        return AutoProcessor.from_pretrained(spec, trust_remote_code=False)
    name = None
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        path = cached_file(spec, file, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            name = name or json.loads(Path(path).read_text()).get("processor_class")
    whole = getattr(transformers, name or "", None)
    if whole is None or "video_processor" not in whole.get_attributes():
        return AutoProcessor.from_pretrained(spec, trust_remote_code=False)

    class ImageProcessor(whole):  # type: ignore[misc, valid-type]
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
            super().__init__(image_processor, tokenizer, chat_template=chat_template)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    tokenizer = AutoTokenizer.from_pretrained(spec, trust_remote_code=False)
    images = AutoImageProcessor.from_pretrained(spec, trust_remote_code=False)
    processor = ImageProcessor(images, tokenizer)
    template = cached_file(spec, "chat_template.jinja", _raise_exceptions_for_missing_entries=False)
    processor.chat_template = Path(template).read_text() if template else tokenizer.chat_template
    return processor
