"""`edit sample`"""

from __future__ import annotations

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "sample",
    cost="Reads once and streams; the model decides how fast.",
    examples=(
        ("edit sample held/ --model run/ -o results/", "edit with a model that `edit train` made"),
        (
            "edit sample held/ --model Qwen-Image-Edit-2509/ --device cuda --dtype bfloat16 -o results/",
            "or with any diffusers editing pipeline",
        ),
    ),
)
@options.input_options
@options.pixel_option
@options.option(
    "--model",
    "model",
    required=True,
    metavar="FOLDER|NAME",
    group="Model",
    help="A run folder of `edit train`, a folder with a diffusers pipeline, or its name on the hub.",
)
@options.option("--steps", type=click.IntRange(min=1), metavar="N", group="Model", help="Sampling steps.")
@options.option(
    "--guidance", type=float, metavar="SCALE", group="Model", help="True classifier-free guidance (diffusers)."
)
@options.option("--device", default="cpu", show_default=True, group="Model", help="cpu, cuda, cuda:1, mps.")
@options.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    group="Model",
    help="Precision of the weights.",
)
@options.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    group="Model",
    help="Rows edited together; no row's result depends on the others.",
)
@options.option(
    "--language",
    type=click.Choice(["en", "zh"]),
    help="Of the instructions. Default: English, or Chinese where a row has nothing else.",
)
@options.option("--column", default="result", show_default=True, metavar="NAME", help="Column for the edited picture.")
@options.option("--shuffle", is_flag=True, help="Use another row's instruction, to see whether the model reads them.")
@options.seed_option
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, input: tuple[str, ...], model: str, **given: object) -> None:
    """Edit pictures with a trained model.

    Every row is edited from its sources and instruction; the picture goes into a new column, `result`. The noise of a
    row comes from --seed and its id, so its result does not depend on the batch, the order or the shard.
    """
    from edittools.models.describe import describe_model
    from edittools.models.editors import load_editor
    from edittools.models.stage import SampleStage
    from edittools.stream.run import open_input, run

    chosen = ctx.params
    if not chosen["column"].startswith("result"):
        raise UsageError(f"--column {chosen['column']}: begin it with `result`, so that `edit judge` finds it")
    run_options = options.run_settings(ctx)
    source = open_input(list(input), run_options)
    # Which weights they are belongs to the settings; where they lie does not.
    settings = options.settings(ctx, model=describe_model(model))
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    known = {"steps": chosen["steps"], "guidance": chosen["guidance"]}
    extra = {name: value for name, value in known.items() if value is not None}
    stage = SampleStage(
        load_editor(model, chosen["device"], chosen["dtype"], **extra),
        column=chosen["column"],
        language=chosen["language"],
        seed=chosen["seed"],
        batch_size=chosen["batch_size"],
        shuffle=chosen["shuffle"],
        max_pixels=chosen["max_pixels"],
    )
    run("sample", source, [stage], settings, run_options)
