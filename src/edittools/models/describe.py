"""What a model is, independent of where it lies: for the history, so that other weights make another hash."""

from __future__ import annotations

from pathlib import Path

import xxhash


def describe_model(spec: str) -> str:
    """NAME@DIGEST for a folder (of its configuration and weights, by content), the name itself for the hub."""
    folder = Path(spec)
    if not folder.is_dir():
        return spec
    return f"{folder.resolve().name}@{folder_digest(folder)}"


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
