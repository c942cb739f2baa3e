"""OpenCV, which is an extra."""

from __future__ import annotations

import functools
from typing import Any

from edittools.errors import missing_extra


@functools.cache
def opencv(use: str, extra: str = "content") -> Any:
    """OpenCV with one thread, as the rows run in threads already; `use` is the option that needs it."""
    try:
        import cv2
    except ImportError:
        raise missing_extra("opencv-python-headless", extra, use) from None
    cv2.setNumThreads(1)
    return cv2
