"""What makes sampling faster or smaller, by diffusers' own switches: attention backends, compiled blocks, weights in 8
bits, cached steps, weights that wait in the main memory."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from edittools.errors import EditError, UsageError, describe, missing_extra
from edittools.nets.editor import EditorOptions

# Names of modules, of Qwen-Image, FLUX, FLUX.2 and Qwen-Image-2.1, each whole for diffusers or the end of one
MODULATION = ("img_mod", "txt_mod", "norm", "norm1", "norm1_context", "norm_out", "modulation",
              "double_stream_modulation_img", "double_stream_modulation_txt", "time_text_embed",
              "time_guidance_embed")  # fmt: skip
FP8_CAPABILITY = (8, 9)  # the first CUDA devices that multiply in fp8: Ada and Hopper


def open_device(name: str) -> torch.device:
    """Raises EditError where torch, or this machine, has no such device."""
    try:
        device = torch.device(name)
    except RuntimeError as error:  # it lists all kinds that torch has ever had
        raise EditError(f"--device {name}: no such device", hint="cpu, cuda, cuda:1, mps ...") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        why = "torch was installed without CUDA" if "not compiled with CUDA" in str(error) else describe(error)
        raise EditError(f"--device {name}: {why}") from error
    return device


@contextlib.contextmanager
def fitting(what: str, device: object) -> Iterator[None]:
    """Raises EditError where a device has no memory for what is done here."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EditError(
            f"{what}: more than the memory of {device} holds",
            hint="a smaller --batch-size or --resolution, --dtype bfloat16, --quantize, --offload",
        ) from error


def loading(options: EditorOptions, device: str, dtype: str) -> dict[str, Any]:
    """Arguments of a diffusers model's from_pretrained(). Raises UsageError or EditError where 8 bits cannot be."""
    arguments: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if options.quantize is not None:
        arguments["quantization_config"] = quantization(options.quantize, device, dtype)
    return arguments


def quantization(name: str, device: str, dtype: str) -> Any:
    """diffusers' configuration for weights and activations in 8 bits, by torchao.

    Both scale every row of activations by itself, so that a row's result does not depend on its batch. What sees one
    token per row, and decides how all others are scaled, stays as it is.
    """
    if name not in ("int8", "fp8"):
        raise UsageError(f"--quantize {name}: int8 or fp8")
    if name == "fp8":
        if not device.startswith("cuda"):
            raise UsageError(f"--quantize fp8 needs a CUDA device, not {device}", hint="--quantize int8")
        if torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
            raise UsageError(f"--quantize fp8: {torch.cuda.get_device_name(device)} has none", hint="--quantize int8")
        if dtype != "bfloat16":
            raise UsageError(f"--quantize fp8 works with bfloat16, not {dtype}", hint="--dtype bfloat16")
    if importlib.util.find_spec("torchao") is None:
        raise missing_extra("torchao", "quantize", f"--quantize {name}")
    with contextlib.redirect_stdout(sys.stderr):  # torchao prints when it is imported, and standard output is data
        from diffusers import TorchAoConfig
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            Int8DynamicActivationInt8WeightConfig,
            PerRow,
        )

        if name == "fp8":
            config: Any = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
        else:
            config = Int8DynamicActivationInt8WeightConfig()
        return TorchAoConfig(config, modules_to_not_convert=list(MODULATION))


def arithmetic(device: str, dtype: str, attention: str | None, compiled: bool) -> str:
    """What numbers are made of and by what, in words: precision, TF32, attention backend, compiled or not."""
    products = device.startswith("cuda") and torch.get_float32_matmul_precision() != "highest"
    convolutions = device.startswith("cuda") and torch.backends.cudnn.allow_tf32
    tf32 = {(True, True): "on", (True, False): "in products", (False, True): "in convolutions", (False, False): "off"}
    how = "compiled" if compiled else "not compiled"
    return f"{device}, {dtype}, TF32 {tf32[products, convolutions]}, attention {attention or 'native'}, {how}"


def speed_up(editor: Any, options: EditorOptions) -> None:
    """Move an editor's network to its device, with what the options ask for.

    Sets `same_length` where the attention takes no mask and `batch_size` where rows of a batch would not be
    independent. Raises UsageError.
    """
    transformer = editor.edit_model.network.transformer
    if options.attention is not None:
        editor.same_length = set_attention(transformer, options.attention, editor.device, editor.dtype)
    if options.cache is not None:
        set_cache(transformer, options)
        editor.batch_size = 1  # whether a step is skipped is decided for a whole batch
    if options.compile:
        compile_repeated(transformer)
    for name, child in editor.edit_model.network.named_children():
        if name != "transformer":
            child.to(editor.device)
    place(transformer, editor.device, options.offload)


def set_attention(
    transformer: Any, name: str, device: torch.device, dtype: torch.dtype, lengths: Sequence[int] = (64,),
    backward: bool = False,
) -> bool:  # fmt: skip
    """Choose a backend of diffusers' attention; returns whether it takes no mask. Raises UsageError.

    It is tried at these lengths, and with `backward` its gradients: a backend may be installed and still not run on
    this device in this precision, or give numbers that are not finite.
    """
    if name.lower().endswith("_hub"):
        raise UsageError(f"attention `{name}`: it would run code out of the hub", hint="install the package it is of")
    from diffusers.models.attention_dispatch import attention_backend

    unusable = (ValueError, RuntimeError, ImportError, NotImplementedError, AttributeError, TypeError)
    try:
        with attention_backend(name.lower()):
            for length in lengths:
                _try_attention(length, None, device, dtype, backward)
        transformer.set_attention_backend(name)  # of this model, and of every other one in this process
    except (*unusable, FloatingPointError) as error:
        raise UsageError(f"attention `{name}`: {describe(error)}") from error
    try:
        with attention_backend(name.lower()):
            for length in lengths:
                mask = torch.arange(length, device=device)[None, None, None] < length - 3
                _try_attention(length, mask, device, dtype, backward)
    except FloatingPointError as error:
        raise UsageError(f"attention `{name}`: {error}") from error
    except unusable:
        return True
    return False


def _try_attention(length: int, mask: Any, device: torch.device, dtype: torch.dtype, backward: bool) -> None:
    """Raises FloatingPointError where outputs or gradients are not finite, and what a backend does."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    q = torch.randn(1, length, 2, 64, device=device, dtype=dtype, requires_grad=backward)
    made = dispatch_attention_fn(q, q, q, attn_mask=mask)
    found = torch.autograd.grad(made.float().square().sum(), q)[0] if backward else made
    if not found.isfinite().all():
        what = "gradients" if backward else "results"
        raise FloatingPointError(f"its {what} are not finite at {length} tokens{' with a mask' * (mask is not None)}")


def set_cache(transformer: Any, options: EditorOptions) -> None:
    """Cached steps; reset() between two images. Raises UsageError."""
    from diffusers import FirstBlockCacheConfig
    from diffusers.hooks._helpers import TransformerBlockRegistry

    if options.cache != "first-block":
        raise UsageError(f"--cache {options.cache}: first-block is the one there is")
    if not hasattr(transformer, "enable_cache"):
        raise UsageError(f"--cache: a {type(transformer).__name__} has none")
    blocks = [x for module in transformer.children() if isinstance(module, torch.nn.ModuleList) for x in module]
    if len(blocks) < 2:
        raise UsageError(f"--cache first-block: the model has {len(blocks)} block")
    try:
        known = [TransformerBlockRegistry.get(kind) for kind in {type(block) for block in blocks}]
    except ValueError:
        known = []
    # it takes the last block's output for one of the first's kind: FLUX.2's last ones return text and image as one
    if len({found.return_encoder_hidden_states_index is None for found in known}) != 1:
        raise UsageError(f"--cache first-block: diffusers has none for a {type(transformer).__name__}")
    transformer.enable_cache(FirstBlockCacheConfig(threshold=options.cache_threshold))


def reset_cache(transformer: Any) -> None:
    """Forget the steps of the image before."""
    if getattr(transformer, "is_cache_enabled", False):
        transformer._reset_stateful_cache()


def compile_repeated(transformer: Any) -> None:
    """Compile the blocks that repeat, once for all of them; the first image of a shape takes longer."""
    names = getattr(transformer, "_repeated_blocks", None)
    if not names:
        raise UsageError(f"--compile: a {type(transformer).__name__} names no repeated blocks")
    compile_blocks([module for module in transformer.modules() if type(module).__name__ in names])


def compile_blocks(blocks: Iterable[torch.nn.Module]) -> None:
    """Compile blocks in place. Those of one class share what is compiled."""
    import torch._dynamo

    # Shapes, masks or none, frozen parts or none are variants. Above torch's limit of 8 it would, with no more than a
    # warning, compile no further and run as if not compiled.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in blocks:
        block.compile()


def place(transformer: Any, device: torch.device, offload: bool) -> None:
    """Put the weights on the device, or let them wait in the main memory until their block runs."""
    if not offload:
        transformer.to(device)
        return
    if device.type == "cpu":
        raise UsageError("--offload needs an accelerator beside the main memory", hint="--device cuda")
    try:
        transformer.enable_group_offload(
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=device.type == "cuda",  # the next block is fetched while one computes
        )
    except (ValueError, AttributeError) as error:
        raise UsageError(f"--offload: a {type(transformer).__name__} cannot: {describe(error)}") from error


def peak_memory(device: str) -> int | None:
    """Bytes that a CUDA device has held at most; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
