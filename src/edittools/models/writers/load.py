"""A writer by what the user names."""

from __future__ import annotations

import os
from pathlib import Path

from edittools.errors import UsageError
from edittools.models.writers import Writer

BACKENDS = ("endpoint", "local", "echo")


def load_writer(
    model: str,
    *,
    backend: str | None = None,
    api_base: str | None = None,
    key_from: str | None = None,
    timeout: float = 300.0,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 8,
) -> Writer:
    """An endpoint where an address is given or set in the environment, else a checkpoint if `model` is a folder.

    Raises UsageError where neither is, and EditError for what the backend lacks.
    """
    address = api_base or os.environ.get("EDITTOOLS_API_BASE") or os.environ.get("OPENAI_BASE_URL")
    if backend is None:
        backend = "endpoint" if address else "local" if Path(model).is_dir() else None
    if backend == "endpoint" or (backend is None and os.environ.get(key_from or "OPENAI_API_KEY")):
        from edittools.models.writers.endpoint import EndpointWriter

        return EndpointWriter(api_base, key_from=key_from, timeout=timeout)
    if backend == "local":
        from edittools.models.writers.local import LocalWriter

        return LocalWriter(model, device=device, dtype=dtype, batch_size=batch_size)
    if backend == "echo":
        from edittools.models.writers.echo import EchoWriter

        return EchoWriter()
    raise UsageError(
        f"{model}: no folder of that name, and no endpoint to ask",
        hint="--api-base URL, or --backend local for a name on the Hugging Face hub",
    )
