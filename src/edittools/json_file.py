"""JSON files that others wrote, or that were damaged since we did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edittools.errors import EditError


def read_json(path: Path) -> Any:
    """Raises EditError where the file cannot be read as JSON."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise EditError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise EditError(f"{path}: not JSON: {error}") from error
