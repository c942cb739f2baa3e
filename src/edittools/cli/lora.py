"""`edit lora`"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "lora",
    cost="Reads the adapters, and of the model no weights. Keeps them in memory, twice at most.",
    examples=(
        ("edit lora run/ -o style.safetensors --lora-format kohya", "adapters that `edit train` has left, for ComfyUI"),
        ("edit lora style.safetensors -o style/ --lora-format peft", "a folder that peft opens"),
        (
            "edit lora a.safetensors -o b.safetensors --lora-format diffusers --model Qwen-Image-Edit/",
            "and for which model",
        ),
    ),
)
@click.argument("adapters", metavar="ADAPTERS", shell_complete=options.complete_path)
@options.option(
    "--lora-format",
    "spelling",
    required=True,
    type=click.Choice(["diffusers", "peft", "kohya", "comfyui", "ai-toolkit"]),
    group="Output",
    help="The spelling to write.",
)
@options.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    group="Output",
    help="Precision of the file. Default: as it is.",
)
@options.option(
    "--model", metavar="FOLDER", group="Model",
    help="The model that the adapters are for, where it is not FLUX or Qwen-Image; only its configuration is read.",
)  # fmt: skip
@options.option(
    "-o", "--output", required=True, metavar="FILE|DIR/", group="Output", setting=False,
    help="A .safetensors file, or a folder; `peft` needs a folder, for its adapter_config.json.",
)  # fmt: skip
@options.option("--overwrite", is_flag=True, group="Output", setting=False, help="Replace what is there.")
@options.option("-q", "--quiet", is_flag=True, group="Run", setting=False, help="No summary.")
def command(
    adapters: str, spelling: str, dtype: str | None, model: str | None, output: str, overwrite: bool, quiet: bool
) -> None:
    """Write adapters in another spelling.

    ADAPTERS is a safetensors file, or a folder with one, as `edit train` or peft leave it. LoRA, DoRA, LoHa and LoKr of
    a transformer are read in every spelling that is written, and in those of LyCORIS' tools; scales stand where the
    spelling has them, so that the effect is the same. What is not known is an error.
    """
    from edittools.weights.quiet import disable_progress_bars

    disable_progress_bars("diffusers")
    from edittools.nets.lora import convert
    from edittools.stream import files

    as_file = output.endswith(".safetensors") and not output.endswith("/")
    if as_file and spelling == "peft":
        raise UsageError(f"-o {output}: peft has two files", hint="name a folder: -o DIR/")
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as temporary:
        said = convert(adapters, Path(temporary), spelling, dtype, model)
        made = sorted(Path(temporary).iterdir())
        places = {path: target if as_file else target / path.name for path in made}
        for place in places.values():
            files.refuse_existing(str(place), overwrite)
        if not as_file:
            target.mkdir(exist_ok=True)
        for path, place in places.items():
            path.chmod(target.parent.stat().st_mode & 0o666)  # safetensors makes files for their owner alone
            os.replace(path, place)
    if not quiet:
        click.echo(f"lora: {said}, {spelling}: {output}", err=True)
