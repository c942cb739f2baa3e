"""What a model is, independent of where it lies: for the history, so that other weights make another hash."""

from __future__ import annotations

from pathlib import Path

import xxhash

from edittools.models.weights import read_config


def describe_model(spec: str) -> str:
    """NAME@DIGEST for a folder (of its configuration and weights, by content), the name itself for the hub.

    A run of adapters is what it is together with the model that they are for.
    """
    folder = Path(spec)
    if not folder.is_dir():
        return spec
    described = f"{folder.resolve().name}@{folder_digest(folder)}"
    base = _base(folder)
    return f"{described} on {describe_model(base)}" if base else described


def _base(folder: Path) -> str:
    """The weights that the adapters of a run are for; nothing for another folder."""
    if not (folder / "config.json").is_file():
        return ""
    recipe = read_config(folder).get("recipe")
    model = recipe.get("model") if isinstance(recipe, dict) else None
    return str(model["weights"]) if isinstance(model, dict) and model.get("lora") and model.get("weights") else ""


def folder_digest(folder: Path) -> str:
    """16 hexadecimal digits that stand for the configuration, vocabulary and weights of a folder."""
    state = xxhash.xxh3_128()
    for path in sorted(folder.rglob("*")):
        wanted = path.suffix in (".json", ".safetensors", ".txt", ".model") and path.is_file()
        if not wanted or any(part.startswith(("checkpoint", "@", ".")) for part in path.relative_to(folder).parts):
            continue
        state.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                state.update(piece)
    return state.hexdigest()[:16]
