"""`python -m edittools.models.convert FILE FOLDER`: a released checkpoint as safetensors, once.

What it is, its keys tell: SSCD (`*.torchvision.pt`), ISC21 (`*.pth.tar`), RAFT or the aesthetic predictor (`*.pth`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from edittools.errors import USAGE, EditError
from edittools.models import aesthetic, raft
from edittools.models.embedders import isc21, sscd
from edittools.models.weights import read_released


def convert(path: str | Path, folder: str | Path) -> str:
    """Convert; returns what it was. Raises EditError."""
    released = read_released(path)
    for module in (aesthetic, raft, sscd, isc21):
        if module.recognises(released):
            module.save_released(released, folder, str(path))
            return module.__name__.rpartition(".")[2]
    raise EditError(f"{path}: no released checkpoint that is known", hint="SSCD, ISC21, RAFT, the aesthetic predictor")


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m edittools.models.convert FILE FOLDER", file=sys.stderr)
        return USAGE
    try:
        print(f"{convert(*arguments)}: {arguments[1]}", file=sys.stderr)
    except EditError as error:
        print(f"convert: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
