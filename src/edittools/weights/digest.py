"""Digests of models, independent of where they lie: in the history, other weights make another hash."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

import xxhash

from edittools.weights.lookup import read_config


def model_digest(spec: str) -> str:
    """NAME@DIGEST for a folder (of its configuration and weights, by content), the name itself for the hub.

    A run of adapters is what it is together with the model that they are for.
    """
    folder = Path(spec)
    if not spec or not folder.is_dir():
        return spec
    described = f"{folder.resolve().name}@{folder_digest(folder)}"
    base = _base(folder)
    return f"{described} on {model_digest(base)}" if base else described


def _base(folder: Path) -> str:
    """The weights that the adapters of a run are for; nothing for another folder."""
    if not (folder / "config.json").is_file():
        return ""
    recipe = read_config(folder).get("recipe")
    model = recipe.get("model") if isinstance(recipe, dict) else None
    return str(model["weights"]) if isinstance(model, dict) and model.get("lora") and model.get("weights") else ""


_WORTH = 16 << 20  # bytes of a folder whose digest is remembered
_SETTLED = 5.0  # seconds: of files that are younger, another change may leave no other time


def folder_digest(folder: Path) -> str:
    """16 hexadecimal digits that stand for the configuration, vocabulary and weights of a folder.

    That of large weights is remembered in the user's cache folder (XDG_CACHE_HOME, else ~/.cache) for as long as every
    file has its real path, size, time of change and inode, so that they are not read again at every start.
    """
    files = [path for path in sorted(folder.rglob("*")) if _counts(path, folder)]
    kept = _remembered(files, folder)
    if kept is not None:
        with contextlib.suppress(OSError):
            if re.fullmatch(r"[0-9a-f]{16}", found := kept.read_text()):
                return found
    state = xxhash.xxh3_128()
    for path in files:
        state.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                state.update(piece)
    made = state.hexdigest()[:16]
    if kept is not None and kept == _remembered(files, folder):  # nothing wrote to them meanwhile
        with contextlib.suppress(OSError):  # no home, no room: it is read again the next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
            temporary.write_text(made)
            temporary.replace(kept)
    return made


def _counts(path: Path, folder: Path) -> bool:
    if path.suffix not in (".json", ".safetensors", ".txt", ".model") or not path.is_file():
        return False
    return not any(part.startswith(("checkpoint", "@", ".")) for part in path.relative_to(folder).parts)


def _remembered(files: list[Path], folder: Path) -> Path | None:
    """Where the digest of these files is remembered, if it is there; None where it is not to be."""
    state, size, last = xxhash.xxh3_128(), 0, 0
    for path in files:
        facts = path.stat()
        about = (str(path.relative_to(folder)), str(path.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ino)
        state.update(repr(about).encode())
        size, last = size + facts.st_size, max(last, facts.st_mtime_ns)
    if size < _WORTH or time.time() - last / 1e9 < _SETTLED:
        return None
    with contextlib.suppress(RuntimeError):  # nobody's home
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache, "edittools", "digests", state.hexdigest())
    return None
