"""What files of adapters call the modules of Qwen-Image-2.1: as diffusers does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {"Qwen-Image-2.1": ("QwenImage21Transformer2DModel", {})}


def released(modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return {}
