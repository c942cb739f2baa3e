"""`edit train`"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import options
from edittools.errors import UsageError
from edittools.train.settings import TrainConfig

if TYPE_CHECKING:
    from edittools.train.config import Recipe


@options.command(
    "train",
    cost="Keeps less than 400 bytes per row and process, some 500 per row and machine in TMPDIR, and encoded images "
    "up to 1 GiB; the recipe says the number of steps.",
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
            "edit train pairs/ --recipe firered-sft --precompute --device cuda --processes 8 -o features/",
            "or on eight GPUs of this machine",
        ),
        (
            "torchrun --nproc-per-node 8 -m edittools train pairs/ --recipe firered-sft --device cuda "
            "--feature-dir features/ -o run/",
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
@options.config_options(TrainConfig)
@options.option(
    "--precompute",
    is_flag=True,
    group="Run",
    setting=False,
    help="Do not train: store latents and language-model states in the folder -o, for --feature-dir.",
)
@options.option(
    "--precompute-reference",
    is_flag=True,
    group="Run",
    setting=False,
    help="Do not train: store in the folder -o what the reference of a preference objective says of the pairs of every "
    "step, for its `objective_settings.reference_values`; the training then holds no second set of weights.",
)
@options.option(
    "--task",
    metavar="I/N",
    group="Run",
    setting=False,
    help="With --precompute or --precompute-reference: the I-th of N parts, or `auto`.",
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
@options.option(
    "--max-errors",
    default="1%",
    show_default=True,
    metavar="N|P%",
    group="Run",
    setting=False,
    help="Rows to tolerate that cannot be used: they are skipped and written to rejects.jsonl.",
)
@options.config_option
@options.option(
    "-n", "--dry-run", is_flag=True, group="Run", setting=False, help="Show every setting, what it is and why."
)
@options.option(
    "--budget",
    is_flag=True,
    group="Run",
    setting=False,
    help="With -n: memory per device, time per step, room on disk; of the largest batch of the input, if there is one.",
)
@options.quiet_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Train an editing model from a recipe.

    Rows need a target and a text, and sources if they are edits. The run folder holds the weights as safetensors in
    the layout of their library, the recipe and a log. The same command continues a run that stopped, to the same
    weights bit for bit on one process; Ctrl-C finishes the step, saves, and leaves; a second one leaves at once.

    With `consistency` and an ArcFace network rows need a column `faces` (`edit ground --detector face`): per row a list
    of the target's faces, each {"landmarks": [[x, y], ...]} or the five points alone: left eye, right eye, nose, left
    and right corner of the mouth as one sees them, as shares of width and height. With any other network `objects`
    with boxes serve, or the whole image.

    SIGUSR1 saves and leaves too, with exit status 138, so that a job is requeued before its time is over. With Slurm:
    `#SBATCH --signal=B:USR1@120`, and in the script `trap 'kill -USR1 $pid' USR1; edit train ... & pid=$!; wait $pid;
    wait $pid; [ $? -eq 138 ] && scontrol requeue $SLURM_JOB_ID` (the trap ends the first wait). The grace has to hold,
    at worst, the writing of a kept model or of the checkpoint before, then a step (with the rollouts that it needs) or
    a batch of held-out rows or a preview, then a checkpoint: `checkpoint_s` of log.jsonl is what the last one took. A
    held-out loss, previews or a kept model that are due then are made when the run goes on.
    """
    import os

    # On a busy machine OpenMP's waiting threads would spin away the time of the working ones: steps become up to 20
    # times slower. It has to be said before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    from edittools.train.config import explained

    config = options.config(ctx, TrainConfig)
    recipe = config.load()
    if given["dry_run"]:
        click.echo("\n".join(explained(recipe, config.recipe, config.changed())))
        if not given["budget"]:
            return
    elif given["budget"]:
        raise UsageError("--budget is told by -n", hint="edit train -n --budget ...")
    elif given["output"] is None:
        raise UsageError("name the run folder with -o DIR/")
    stores = given["precompute"] or given["precompute_reference"]
    if recipe.replies and (stores or config.feature_dir):
        raise UsageError("replies are learnt without features: nothing is stored beforehand")
    if given["task"] is not None and not stores:
        raise UsageError("--task is for --precompute; several processes that train are started by torchrun")
    if given["precompute"] and given["precompute_reference"]:
        raise UsageError("--precompute, --precompute-reference: two commands, one after the other")
    _carry_out(ctx, config, recipe, given)


def _carry_out(ctx: click.Context, config: TrainConfig, recipe: Recipe, given: dict[str, Any]) -> None:
    """Tell the budget, precompute, or train."""
    from edittools.stream.run import RunOptions, open_input
    from edittools.stream.tasks import parse_task
    from edittools.train.console import TrainOptions, tell_budget, train_with_progress

    input = given["input"]
    opening = RunOptions(limit=given["limit"], partial=given["partial"])
    source = open_input(list(input), opening) if input or not given["budget"] else None
    told = {name: given[name] for name in ("track", "overwrite", "max_errors", "quiet")}
    reads = (*input, config.recipe, ctx.meta.get("edittools.config", ""))
    asked = TrainOptions(config, given["output"] or "", threads=options.jobs(ctx), reads=reads, **told)
    if source is None or given["budget"]:
        for line in tell_budget(recipe, source, asked):
            click.echo(line)
        return
    if config.heldout:
        asked = dataclasses.replace(asked, heldout=open_input([config.heldout], RunOptions()))
    if given["precompute"]:
        from edittools.train.encode import precompute_with_progress

        precompute_with_progress(recipe, source, asked, parse_task(given["task"]))
    elif given["precompute_reference"]:
        from edittools.train.encode import precompute_reference_with_progress

        precompute_reference_with_progress(recipe, source, asked, parse_task(given["task"]))
    else:
        train_with_progress(recipe, source, asked)
