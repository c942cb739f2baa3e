"""edittools: from a crawl of images to a trained image-editing model and its benchmark report."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Dataset", "__version__", "read"]


def __getattr__(name: str) -> Any:
    # Imported when it is used: `edit --help` needs none of it.
    if name in ("Dataset", "read"):
        from edittools import api

        return getattr(api, name)
    raise AttributeError(name)
