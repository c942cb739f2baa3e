"""The names of Qwen-Image-2.1's modules in ComfyUI's checkpoint, which ai-toolkit and musubi-tuner go by.

They are diffusers', but that the two first layers of an MLP are one, the gate's rows above the other's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {"Qwen-Image-2.1": ("QwenImage21Transformer2DModel", {})}


def released(modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    modules = list(modules)
    gates = [name for name in modules if name.endswith(".img_mlp.gate_layer")]
    mlps = [name.removesuffix("gate_layer") for name in gates]
    joined = {f"{mlp}gate_up": (f"{mlp}gate_layer", f"{mlp}proj") for mlp in mlps}
    apart = {name for pair in joined.values() for name in pair}
    return joined | {name: (name,) for name in modules if name not in apart} if joined else {}
