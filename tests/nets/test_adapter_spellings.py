"""Files of adapters for FLUX.2 and Qwen-Image-2.1 as ComfyUI and the trainers spell them.

What a released name means is what diffusers makes of a checkpoint of these names; names and shapes are written out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel, QwenImage21Transformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_qwen_image21_transformer_checkpoint_to_diffusers,
)
from safetensors.torch import load_file, save_file
from tiny_architectures import FLUX2, QWEN21
from torch import Tensor, nn

from edittools.errors import EditError, UsageError
from edittools.nets.lora import add_adapters, save_adapters
from edittools.nets.lora_files import Adapter, modules_of

D, TEXT, SHOWN, TIME = 32, 24, 16, 256  # widths of the tiny FLUX.2: of tokens, of text, of latents, of the time
R = 2
FLUX2_RELEASED = {
    "img_in": (D, SHOWN), "txt_in": (D, TEXT), "time_in.in_layer": (D, TIME), "time_in.out_layer": (D, D),
    "guidance_in.in_layer": (D, TIME), "guidance_in.out_layer": (D, D), "double_stream_modulation_img.lin": (6 * D, D),
    "double_stream_modulation_txt.lin": (6 * D, D), "single_stream_modulation.lin": (3 * D, D),
    "final_layer.adaLN_modulation.1": (2 * D, D), "final_layer.linear": (SHOWN, D),
    **{f"double_blocks.0.{stream}_{name}": size for stream in ("img", "txt") for name, size in {
        "attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.0": (6 * D, D), "mlp.2": (D, 3 * D)}.items()},
    **{f"single_blocks.{k}.{name}": size for k in range(2) for name, size in {
        "linear1": (9 * D, D), "linear2": (D, 4 * D)}.items()},
}  # fmt: skip
W, CHANNELS = 32, 4  # of the tiny Qwen-Image-2.1
QWEN21_RELEASED = {
    "img_in": (W, CHANNELS), "txt_in.in_layer": (W, 16), "txt_in.out_layer": (W, W), "modulation.1": (4 * W, W),
    "time_text_embed.timestep_embedder.linear_1": (W, TIME), "time_text_embed.timestep_embedder.linear_2": (W, W),
    "norm_out.linear": (W, W), "proj_out": (CHANNELS, W),
    **{f"transformer_blocks.{k}.{name}": size for k in range(2) for name, size in {
        "attn.to_q": (W, W), "attn.to_k": (W, W), "attn.to_v": (W, W), "attn.to_out.0": (W, W),
        "img_mlp.gate_up": (6 * W, W), "img_mlp.out": (W, 3 * W)}.items()},
}  # fmt: skip
RELEASED = {"flux2": FLUX2_RELEASED, "qwen21": QWEN21_RELEASED}
CONVERTED = {
    "flux2": convert_flux2_transformer_checkpoint_to_diffusers,
    "qwen21": convert_qwen_image21_transformer_checkpoint_to_diffusers,
}


def network(model: str) -> Any:
    torch.manual_seed(0)
    if model == "flux2":
        return Flux2Transformer2DModel(**{**FLUX2, "guidance_embeds": True})
    return QwenImage21Transformer2DModel(**QWEN21)


def low_rank(module: str, out: int, inner: int, ends: tuple[str, str], alpha: float | None) -> tuple[Any, Tensor]:
    """Tensors of one module, and its update."""
    down, up = torch.randn(R, inner), torch.randn(out, R)
    tensors = {f"{module}.{ends[0]}": down, f"{module}.{ends[1]}": up}
    if alpha is not None:
        tensors[f"{module}.alpha"] = torch.tensor(alpha)
    return tensors, up @ down * (1.0 if alpha is None else alpha / R)


def kronecker(module: str, out: int, inner: int) -> tuple[Any, Tensor]:
    """LoKr with whole factors: their alpha is not looked at."""
    first, second = torch.randn(2, 2), torch.randn(out // 2, inner // 2)
    return {f"{module}.lokr_w1": first, f"{module}.lokr_w2": second, f"{module}.alpha": torch.tensor(9.0)}, torch.kron(
        first, second
    )


AB, DOWN_UP = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")
WRITERS: dict[str, tuple[str, Callable[..., tuple[Any, Tensor]], tuple[Any, ...]]] = {
    "ai-toolkit": ("diffusion_model.{}", low_rank, (AB, None)),
    "ai-toolkit, LoKr": ("diffusion_model.{}", kronecker, ()),
    "ComfyUI": ("diffusion_model.{}", low_rank, (DOWN_UP, 1.0)),
    "ComfyUI, extracted": ("diffusion_model.{}", low_rank, (DOWN_UP, None)),
    "musubi-tuner, kohya's scripts": ("lora_unet_{_}", low_rank, (DOWN_UP, 1.0)),
    "LyCORIS": ("lycoris_{_}", low_rank, (DOWN_UP, 3.0)),
    "LyCORIS, LoKr": ("lycoris_{_}", kronecker, ()),
    "peft on released names": ("base_model.model.{}", low_rank, (AB, None)),
    "the names alone": ("{}", low_rank, (("lora_A.default.weight", "lora_B.default.weight"), None)),
    "converted by renaming": ("diffusion_model.transformer.{}", low_rank, (("lora_A", "lora_B"), None)),
}


def updated(model: str, updates: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of network(), by diffusers' names, after updates by released names."""
    weights = {name: p.detach() for name, p in network(model).named_parameters()}
    of_ours = CONVERTED[model]({f"{name}.weight": update for name, update in updates.items()})
    assert of_ours.keys() <= weights.keys()
    return {name: w + of_ours[name] if name in of_ours else w for name, w in weights.items()}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("model", RELEASED)
def test_what_others_write_for_every_module(model: str, writer: str, tmp_path: Path) -> None:
    """Also of some modules alone."""
    spelling, make, given = WRITERS[writer]
    torch.manual_seed(1)
    for name, few in (("all", RELEASED[model]), ("few", dict(list(RELEASED[model].items())[::3]))):
        tensors: dict[str, Tensor] = {}
        updates: dict[str, Tensor] = {}
        for module, (out, inner) in few.items():
            spelt = spelling.replace("{_}", module.replace(".", "_")).replace("{}", module)
            added, updates[module] = make(spelt, out, inner, *given)
            tensors |= added
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / f"{name}.safetensors")
        net = network(model)
        add_adapters({"transformer": net}, [str(tmp_path / f"{name}.safetensors")], merge=True)
        found = dict(net.named_parameters())
        for key, wanted in updated(model, updates).items():
            assert torch.allclose(found[key], wanted, atol=1e-5), key


@pytest.mark.parametrize("spelling", ["kohya", "comfyui", "ai-toolkit"])
@pytest.mark.parametrize("model", RELEASED)
def test_what_is_written_for_others(model: str, spelling: str, tmp_path: Path) -> None:
    """Every linear layer of the network, under the released names and no other, read by hand."""
    net = network(model)
    torch.manual_seed(1)
    sizes = modules_of(net)
    adapters = {k: Adapter({"down": torch.randn(R, i), "up": torch.randn(o, R)}, 1.5) for k, (o, i) in sizes.items()}
    save_adapters(adapters, net, tmp_path, spelling, torch.float32)
    tensors = load_file(next(tmp_path.glob("*.safetensors")))
    before = "lora_unet_{_}" if spelling == "kohya" else "diffusion_model.{}"
    down, up = AB if spelling == "ai-toolkit" else DOWN_UP
    updates = {}
    for module, size in RELEASED[model].items():
        spelt = before.replace("{_}", module.replace(".", "_")).replace("{}", module)
        first = tensors.pop(f"{spelt}.{down}")
        scale = float(tensors.pop(f"{spelt}.alpha")) / len(first) if spelling != "ai-toolkit" else 1.0
        updates[module] = scale * tensors.pop(f"{spelt}.{up}") @ first
        assert tuple(updates[module].shape) == size
    assert not tensors
    plain = dict(net.named_parameters())
    for key, wanted in updated(model, updates).items():
        added = 0.0
        if key.removesuffix(".weight") in adapters:
            adapter = adapters[key.removesuffix(".weight")]
            added = 1.5 * adapter.tensors["up"] @ adapter.tensors["down"]
        assert torch.allclose(plain[key] + added, wanted, atol=1e-4), key


def test_half_of_a_joint_layer(tmp_path: Path) -> None:
    """The gate alone: the other half of the rows gets nothing. Products of Kronecker's have no such half."""
    net = network("qwen21")
    assert isinstance(net.transformer_blocks[0].img_mlp.gate_layer, nn.Linear)
    name = "transformer_blocks.0.img_mlp.gate_layer"
    adapter = Adapter({"down": torch.randn(R, W), "up": torch.randn(3 * W, R)}, 0.5)
    save_adapters({name: adapter}, net, tmp_path, "comfyui", torch.float32)
    tensors = load_file(next(tmp_path.glob("*.safetensors")))
    module = "diffusion_model.transformer_blocks.0.img_mlp.gate_up"
    assert set(tensors) == {f"{module}.{end}" for end in (*DOWN_UP, "alpha")}
    scale = float(tensors[f"{module}.alpha"]) / len(tensors[f"{module}.lora_down.weight"])
    update = scale * tensors[f"{module}.lora_up.weight"] @ tensors[f"{module}.lora_down.weight"]
    assert torch.allclose(update[: 3 * W], 0.5 * adapter.tensors["up"] @ adapter.tensors["down"], atol=1e-5)
    assert not update[3 * W :].any()
    whole = Adapter({"w1": torch.randn(2, 2), "w2": torch.randn(3 * W // 2, W // 2)})
    with pytest.raises(UsageError, match="cannot be joined"):
        save_adapters({name: whole}, net, tmp_path, "ai-toolkit", torch.float32)


@pytest.mark.parametrize("ending", ["dora_scale", "magnitude", "lora_magnitude_vector.weight"])
def test_lengths_of_a_joint_layers_rows(ending: str, tmp_path: Path) -> None:
    """DoRA, by eq. 5 of its paper: each half has its own rows' lengths."""
    net = network("qwen21")
    mlp = net.transformer_blocks[1].img_mlp
    whole = torch.cat([mlp.gate_layer.weight, mlp.proj.weight]).detach()
    down, up, length = torch.randn(R, W), torch.randn(6 * W, R), 1 + torch.rand(6 * W)
    module = "diffusion_model.transformer_blocks.1.img_mlp.gate_up"
    tensors = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up, f"{module}.{ending}": length}
    save_file(tensors, tmp_path / "a.safetensors")
    add_adapters({"transformer": net}, [str(tmp_path / "a.safetensors")], merge=True)
    direction = whole + up @ down
    wanted = length[:, None] * direction / direction.square().sum(1, keepdim=True).sqrt()
    assert torch.allclose(torch.cat([mlp.gate_layer.weight, mlp.proj.weight]), wanted, atol=1e-5)
    # LyCORIS may have lengths of columns, which are of both halves at once
    save_file(tensors | {f"{module}.{ending}": torch.ones(1, W)}, tmp_path / "b.safetensors")
    with pytest.raises(EditError, match="go over 2 modules"):
        add_adapters({"transformer": network("qwen21")}, [str(tmp_path / "b.safetensors")], merge=True)
