"""Images of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edittools.stream import files
from edittools.stream.input_reader import reference


def loose_image(path: Path) -> dict[str, Any]:
    """A reference to an image file; a missing one is found out when it is read, and its row is rejected then."""
    try:
        size, tag = path.stat().st_size, files.etag(str(path))
    except OSError:
        size, tag = 0, files.MISSING
    return reference(file=str(path.resolve()), offset=0, length=size, etag=tag)
