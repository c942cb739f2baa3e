"""`edit train`"""

from __future__ import annotations

from typing import Any

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "train",
    cost="Keeps a few hundred bytes per row, and decoded pictures up to 1 GiB; the recipe says the number of steps.",
    examples=(
        ("edit train pairs/ --recipe demo -o run/", "a small model from scratch; run it again to resume"),
        ("edit train pairs/ --recipe demo --set steps=2000 --set batch=64 -o run/", "with other numbers"),
        ("edit train --recipe demo -n", "show every setting"),
    ),
)
@options.input_options
@options.pixel_option
@options.option(
    "--recipe",
    default="demo",
    show_default=True,
    metavar="NAME|FILE",
    group="Model",
    help="A recipe that comes with edittools, or a TOML file of your own.",
)
@options.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", group="Model", help="Change a number of the recipe."
)
@options.option("--seed", type=int, metavar="N", group="Model", help="The recipe's `seed`.")
@options.option(
    "--language",
    type=click.Choice(["en", "zh"]),
    default="en",
    show_default=True,
    group="Model",
    help="Of the instructions to learn.",
)
@options.option("--device", default="cpu", show_default=True, group="Model", help="cpu, cuda, cuda:1, mps.")
@options.option("-o", "--output", required=False, metavar="DIR/", group="Output", setting=False, help="Run folder.")
@options.option(
    "--overwrite", is_flag=True, group="Output", setting=False, help="Replace a run that was made otherwise."
)
@options.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    group="Run",
    setting=False,
    help="Threads to compute with. Default: one per core.",
)
@options.option("-n", "--dry-run", is_flag=True, group="Run", setting=False, help="Show the recipe and stop.")
@options.option("-q", "--quiet", is_flag=True, group="Run", setting=False, help="No progress and no summary.")
@click.pass_context
def command(
    ctx: click.Context,
    input: tuple[str, ...],
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    output: str | None,
    **given: object,
) -> None:
    """Train an editing model from a recipe.

    Rows need sources, a target and an instruction. The run folder holds the weights as safetensors in diffusers'
    layout, the recipe and a log. The same command continues a run that stopped, to the same weights bit for bit;
    Ctrl-C finishes the step, saves, and leaves; a second one leaves at once.
    """
    import os

    from edittools.train import load_recipe

    # On a busy machine OpenMP's waiting threads would spin away the time of the working ones: steps become up to 20
    # times slower. It has to be said before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    values = parse_overrides(overrides)
    if seed is not None:
        values["seed"] = seed
    made = load_recipe(recipe, values)
    if ctx.params["dry_run"]:
        import dataclasses

        for name, value in dataclasses.asdict(made).items():
            click.echo(f"{name} = {value!r}")
        return
    if output is None:
        raise UsageError("name the run folder with -o DIR/")
    from edittools.stream.run import RunOptions, open_input
    from edittools.train.console import train_with_progress
    from edittools.train.shards import ShardExamples

    source = open_input(list(input), RunOptions(limit=ctx.params["limit"], partial=ctx.params["partial"]))
    data = ShardExamples(source, ctx.params["language"], ctx.params["max_pixels"])
    train_with_progress(
        made,
        data,
        output,
        device=ctx.params["device"],
        threads=options.jobs(ctx),
        overwrite=ctx.params["overwrite"],
        quiet=ctx.params["quiet"],
    )


def parse_overrides(pairs: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE pairs, values spelled as in TOML. Raises UsageError."""
    import tomllib

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair}: expected KEY=VALUE")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text
    return values
