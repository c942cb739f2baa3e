"""`python -m edittools.models.convert FILE FOLDER`: a released checkpoint as safetensors, once.

What it is, its keys tell: SSCD (`*.torchvision.pt`), ISC21 (`*.pth.tar`), RAFT, the aesthetic predictor or an ArcFace
backbone (`*.pth`), or Step1X-Edit: the official `*.safetensors`, or the folder that is made for the fork of diffusers.
The way back is `--to official` and `--to fork`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from edittools.errors import EditError
from edittools.models import aesthetic, raft, step1x_weights
from edittools.models.embedders import arcface, isc21, sscd
from edittools.models.step1x_weights import missing_encoders
from edittools.models.weights import read_released


def convert(
    path: str | Path, target: str | Path, layout: str = "ours", encoders: Mapping[str, str | Path] | None = None
) -> str:
    """Convert; returns what it was. `layout` other than "ours", and encoders, are Step1X-Edit's. Raises EditError."""
    if Path(path).is_dir() or Path(path).suffix == ".safetensors":
        return step1x_weights.convert(path, target, layout, encoders)
    released = read_released(path)
    for module in (aesthetic, raft, sscd, isc21, arcface):
        if module.recognises(released):
            if layout != "ours":
                raise EditError(f"{path}: only Step1X-Edit is written in the layout `{layout}`")
            module.save_released(released, target, str(path))
            return module.__name__.rpartition(".")[2]
    hint = "SSCD, ISC21, ArcFace, RAFT, the aesthetic predictor or Step1X-Edit"
    raise EditError(f"{path}: no released checkpoint that is known", hint=hint)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edittools.models.convert", description="A released checkpoint as safetensors, once."
    )
    parser.add_argument("source", metavar="FILE", help="the release's file; of Step1X-Edit, a folder too")
    parser.add_argument("target", metavar="FOLDER", help="where it goes; with --to official, a file")
    parser.add_argument(
        "--to", choices=step1x_weights.LAYOUTS, default="ours", help="layout of Step1X-Edit (default: %(default)s)"
    )
    parser.add_argument("--vae", metavar="FOLDER", help="of Step1X-Edit: FLUX.1's vae/, which becomes the folder's")
    parser.add_argument(
        "--language-model", metavar="FOLDER", help="of Step1X-Edit: Qwen2.5-VL-7B-Instruct with its processor, likewise"
    )
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    given = {"vae": options.vae, "text_encoder": options.language_model}
    encoders = {name: folder for name, folder in given.items() if folder}
    try:
        print(f"{convert(options.source, options.target, options.to, encoders)}: {options.target}", file=sys.stderr)
        if (Path(options.target) / "connector").is_dir() and (lacks := missing_encoders(Path(options.target))):
            names = ", ".join(f"{name}/" for name in lacks)
            print(f"hint: to train or sample it also needs {names}: --vae, --language-model", file=sys.stderr)
    except EditError as error:
        print(f"convert: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
