"""A writer by what the user names."""

from __future__ import annotations

import os
from pathlib import Path

from edittools.errors import UsageError
from edittools.models.writers import Writer

BACKENDS = ("endpoint", "local", "echo")


def choose_backend(
    model: str, *, backend: str | None = None, api_base: str | None = None, key_from: str | None = None
) -> str:
    """An endpoint where an address or a key is given or set in the environment, else a folder of that name.

    Raises UsageError where neither is.
    """
    if backend is not None:
        return backend
    if api_base or os.environ.get("EDITTOOLS_API_BASE") or os.environ.get("OPENAI_BASE_URL"):
        return "endpoint"
    if Path(model).is_dir():
        return "local"
    if os.environ.get(key_from or "OPENAI_API_KEY"):
        return "endpoint"
    raise UsageError(
        f"{model}: no folder of that name, and no endpoint to ask",
        hint="--api-base URL, or --backend local for a name on the Hugging Face hub",
    )


def load_writer(
    model: str,
    backend: str,
    *,
    api_base: str | None = None,
    key_from: str | None = None,
    timeout: float | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 8,
    picture_pixels: tuple[int, int] | None = None,
) -> Writer:
    """The writer of a backend (choose_backend).

    Raises UsageError for a `timeout` or `picture_pixels` that it has no use for, and EditError for what it lacks.
    """
    if timeout is not None and backend != "endpoint":
        raise UsageError(f"--timeout is for an endpoint: the backend is {backend}")
    if picture_pixels is not None and backend != "local":
        raise UsageError(
            f"--picture-pixels is for a model in this process: the backend is {backend}",
            hint="an endpoint scales pictures as its server is set up to",
        )
    if backend == "endpoint":
        from edittools.models.writers.endpoint import EndpointWriter

        return EndpointWriter(api_base, key_from=key_from, **({} if timeout is None else {"timeout": timeout}))
    if backend == "local":
        from edittools.models.writers.local import LocalWriter

        least, most = picture_pixels or (None, None)
        return LocalWriter(model, device=device, dtype=dtype, batch_size=batch_size, min_pixels=least, max_pixels=most)
    from edittools.models.writers.echo import EchoWriter

    return EchoWriter()
