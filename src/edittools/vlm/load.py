"""A client by what the user names.

A backend is one file of backends/: `load(model, **told)` makes its VlmClient, and the rest it declares as literals,
since these are read without importing it:

    HELP           what --backend says of it
    WHAT           what it is, such as "an endpoint"
    TAKES          which it is told of api_base, api_key_env, timeout, device, dtype, batch_size and image_pixels
    OPTIONS        options of its own, each with its help; their values are text
    HINTS          what to say of one that it does not take
    DETERMINISTIC  whether it writes the same every time without a temperature
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edittools.errors import UsageError
from edittools.registry import Registry
from edittools.vlm import VlmClient

BACKENDS = Registry("edittools.vlm.backends", "edittools.backends")
_OF_ANY = ("api_base", "api_key_env", "device", "dtype", "batch_size")  # said of every backend, used by those that can


def choose_backend(
    model: str, *, backend: str | None = None, api_base: str | None = None, api_key_env: str | None = None
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
    if os.environ.get(api_key_env or "OPENAI_API_KEY"):
        return "endpoint"
    raise UsageError(
        f"{model}: no folder of that name, and no endpoint to ask",
        hint="--api-base URL, or --backend local for a name on the Hugging Face hub",
    )


def load_client(model: str, backend: str, **given: Any) -> VlmClient:
    """The client of a backend (choose_backend), told what of `given` it takes; what is None nobody has said.

    Raises UsageError for an option that it has no use for, and EditError for what it lacks.
    """
    own = BACKENDS.declared("OPTIONS", {})
    takes = {name: (*common, *own[name]) for name, common in BACKENDS.declared("TAKES", ()).items()}
    for name, value in given.items():
        if value is not None and name not in takes[backend] and name not in _OF_ANY:
            others = " or ".join(BACKENDS.declared("WHAT")[other] or other for other in takes if name in takes[other])
            raise UsageError(
                f"--{name.replace('_', '-')} is for {others}: the backend is {backend}",
                hint=BACKENDS.declared("HINTS", {})[backend].get(name),
            )
    told = {name: value for name, value in given.items() if value is not None and name in takes[backend]}
    return BACKENDS.load(backend).load(model, **told)


def backend_options() -> dict[str, str]:
    """The options that backends declare for themselves: name and help."""
    return {name: said for declared in BACKENDS.declared("OPTIONS", {}).values() for name, said in declared.items()}
