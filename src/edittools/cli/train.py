"""`edit train`"""

from __future__ import annotations

from typing import Any

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "train",
    cost="Keeps some 2 KB per row and process, and encoded pictures up to 1 GiB; the recipe says the number of steps.",
    examples=(
        ("edit train pairs/ --recipe demo -o run/", "a small model from scratch; run it again to resume"),
        ("edit train pairs/ --recipe demo --set steps=2000 -o run/", "with more steps; also when it is finished"),
        (
            "edit train pairs/ --recipe demo --resume-from run/ --set steps=3000 --set lr=1e-4 -o other/",
            "a branch from its last checkpoint; `keep_every` keeps others, as run/@STEP",
        ),
        (
            "edit train pairs/ --recipe lora --set model.weights=Qwen-Image-Edit-2509/ --device cuda -o run/",
            "adapters for a published model",
        ),
        (
            "edit train pairs/ --recipe firered-sft --precompute --task auto --device cuda -o features/",
            "the frozen encoders' part beforehand, as a task of an array job",
        ),
        (
            "torchrun --nproc-per-node 8 -m edittools train pairs/ --recipe firered-sft --device cuda "
            "--cache features/ -o run/",
            "on eight GPUs",
        ),
        (
            "edit train pairs/ --recipe demo --heldout heldout/ --set heldout_every=100 -o run/",
            "and see whether it learns: `edit eval checkpoints run/` (of models that `keep_every` keeps)",
        ),
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
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", group="Model", help="Change a setting of the recipe."
)
@options.option("--seed", type=int, metavar="N", group="Model", help="The recipe's `seed`.")
@options.option(
    "--language",
    type=click.Choice(["en", "zh", "both"]),
    group="Model",
    help="Of the texts to learn: the recipe's `language`.",
)
@options.option(
    "--lora-format",
    type=click.Choice(["diffusers", "peft", "kohya", "comfyui", "ai-toolkit"]),
    group="Output",
    help="Spelling of the file of adapters, of a recipe that trains adapters: its `model.lora.format`.",
)
@options.option("--device", default="cpu", show_default=True, group="Model", help="cpu, cuda, cuda:1, mps.")
@options.option(
    "--encoder-dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="bfloat16",
    show_default=True,
    group="Model",
    help="Precision of the frozen encoders and of what --precompute stores; with --cache, what was given there.",
)
@options.option(
    "--parallel",
    type=click.Choice(["auto", "single", "ddp", "fsdp", "hsdp"]),
    default="auto",
    show_default=True,
    group="Run",
    setting=False,
    help="How several processes share a model that torchrun or `accelerate launch` started; auto is fsdp (FSDP2), "
    "for adapters ddp.",
)
@options.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    group="Run",
    setting=False,
    help="Fail unless there are so many processes.",
)
@options.option(
    "--replicas",
    type=click.IntRange(min=1),
    metavar="N",
    group="Run",
    setting=False,
    help="Copies of the model with hsdp. Default: one per node.",
)
@options.option(
    "--precompute",
    is_flag=True,
    group="Run",
    setting=False,
    help="Do not train: store latents and language-model states in the folder -o, for --cache.",
)
@options.option(
    "--heldout", metavar="PATH", group="Input", setting=False,
    help="Rows to measure the loss of and not to learn from: at the start, every `heldout_every` steps and at the end, "
    "at fixed times and noise, by task, with the weights and with their average, into heldout.jsonl; of the models "
    "that `keep_every` keeps, RUN/@best is the one with the least. With --precompute: store their features too.",
)  # fmt: skip
@options.option("--cache", metavar="DIR/", group="Input", setting=False,
                help="What --precompute has stored. Batches then hold texts of one length where possible.")
@options.option(
    "--task", metavar="I/N", group="Run", setting=False, help="With --precompute: the I-th of N parts, or `auto`."
)
@options.option(
    "--track",
    multiple=True,
    type=click.Choice(["tensorboard", "wandb"]),
    group="Output",
    setting=False,
    help="Where else to log to.",
)
@options.option(
    "-o",
    "--output",
    required=False,
    metavar="DIR/",
    group="Output",
    setting=False,
    help="Run folder; with --precompute the folder of features.",
)
@options.option(
    "--resume-from",
    metavar="RUN[/@STEP]",
    group="Run",
    setting=False,
    help="Begin with the checkpoint of another run: its newest, or that of a step that it keeps.",
)
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
@options.option("--max-errors", default="1%", show_default=True, metavar="N|P%", group="Run", setting=False,
                help="Rows to tolerate that cannot be used: they are skipped and written to rejects.jsonl.")
@options.config_option
@options.option("-n", "--dry-run", is_flag=True, group="Run", setting=False,
                help="Show every setting, what it is and why.")
@options.option(
    "--budget",
    is_flag=True,
    group="Run",
    setting=False,
    help="With -n: memory per device, time per step, room on disk; of the largest batch of the input, if there is one.",
)
@options.option("-q", "--quiet", is_flag=True, group="Run", setting=False, help="No progress and no summary.")
@click.pass_context
def command(
    ctx: click.Context,
    input: tuple[str, ...],
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    language: str | None,
    output: str | None,
    **given: object,
) -> None:
    """Train an editing model from a recipe.

    Rows need a target and a text, and sources if they are edits. The run folder holds the weights as safetensors in
    the layout of their library, the recipe and a log. The same command continues a run that stopped, to the same
    weights bit for bit on one process; Ctrl-C finishes the step, saves, and leaves; a second one leaves at once.
    """
    import dataclasses
    import os

    from edittools.train.config import explained, load_recipe

    # On a busy machine OpenMP's waiting threads would spin away the time of the working ones: steps become up to 20
    # times slower. It has to be said before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    values = parse_overrides(overrides)
    for name, value in (("seed", seed), ("language", language)):
        if value is not None:
            values[name] = value
    made = load_recipe(recipe, values)
    if given["lora_format"] is not None:
        if "lora" not in made.model:
            raise UsageError("--lora-format: this recipe trains no adapters", hint="--recipe lora")
        made = load_recipe(recipe, values | {"model.lora.format": given["lora_format"]})
    chosen = ctx.params
    if chosen["dry_run"]:
        click.echo("\n".join(explained(made, recipe, values)))
        if not chosen["budget"]:
            return
    elif chosen["budget"]:
        raise UsageError("--budget is told by -n", hint="edit train -n --budget ...")
    elif output is None:
        raise UsageError("name the run folder with -o DIR/")
    if chosen["task"] is not None and not chosen["precompute"]:
        raise UsageError("--task is for --precompute; several processes that train are started by torchrun")
    from edittools.stream.run import RunOptions, open_input, parse_task
    from edittools.train.console import TrainOptions, precompute_with_progress, tell_budget, train_with_progress

    opening = RunOptions(limit=chosen["limit"], partial=chosen["partial"])
    source = open_input(list(input), opening) if input or not chosen["budget"] else None
    names = ("device", "encoder_dtype", "parallel", "processes", "replicas", "track", "cache", "overwrite", "quiet",
             "resume_from", "max_pixels", "max_errors")  # fmt: skip
    run_options = TrainOptions(
        output or "", threads=options.jobs(ctx), reads=(*input, recipe), **{name: chosen[name] for name in names}
    )
    if source is None or chosen["budget"]:
        for line in tell_budget(made, source, run_options):
            click.echo(line)
        return
    if chosen["heldout"]:
        held = open_input([chosen["heldout"]], RunOptions())
        run_options = dataclasses.replace(run_options, heldout=held, heldout_path=chosen["heldout"])
    if chosen["precompute"]:
        precompute_with_progress(made, source, run_options, parse_task(chosen["task"]))
    else:
        train_with_progress(made, source, run_options)


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
