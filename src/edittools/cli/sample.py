"""`edit sample`"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from edittools.cli import options
from edittools.cli.benchmarks import examples_of
from edittools.sample.config import SampleConfig


@options.command(
    "sample",
    cost="Reads once and streams; the model decides how fast. Says images/s, model TFLOP/s and, on a GPU, the peak of "
    "its memory at the end.",
    examples=examples_of(
        "sample",
        ("edit sample held/ --model run/ -o results/", "edit with a model that `edit train` made"),
        (
            "edit sample held/ --model FireRed-Image-Edit-1.0/ --device cuda --dtype bfloat16 --compile -o results/",
            "or with any diffusers editing pipeline; 40 steps with guidance 4 are this one's own",
        ),
        (
            "edit sample held/ --model FireRed-Image-Edit-1.0/ --lora run-lora/ --lora fast.safetensors:0.8 "
            "--steps 8 --guidance-scale 1 -o results/",
            "with adapters, the second at a scale of 0.8",
        ),
        (
            "edit sample held/ --model FireRed-Image-Edit-1.0/ --device cuda --dtype bfloat16 --processes 8 "
            "-o results/",
            "on eight GPUs of this machine",
        ),
        ("edit sample held/ --model run/ --candidates 8 -o results/", "eight candidates of every row"),
    ),
)
@options.input_options
@options.config_options(SampleConfig)
@options.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    group="Run",
    setting=False,
    help="Share the rows among N processes of this machine, each with the model on a GPU of its own: --device cuda is "
    "cuda:0 to N-1 then. The output is that of one process.",
)
@options.option(
    "--keep-going",
    is_flag=True,
    setting=False,
    group="Run",
    help="Exit 0 however many rows fail and are rejected: --max-errors 100%.",
)
@options.output_options
@options.run_options
@click.pass_context
def command(
    ctx: click.Context, /, input: tuple[str, ...], processes: int | None, keep_going: bool, **given: object
) -> None:
    """Edit images with a trained model.

    Every row is edited from its sources and instruction; the image goes into a new column, `result`. The noise of a
    row comes from --seed and its id, so its result does not depend on the batch, the order or the shard: to 1e-5 of
    the image's range in float32; in bfloat16 to about 0.02, and 0.0005 on average, since kernels for other batch
    sizes round otherwise.

    A dialogue is edited turn by turn, each from the result of the turn that it names as its parent. The images of
    all turns go into `result_turns`, the last one into `result`.

    With --candidates K every row becomes K rows side by side, which share `group` and differ in `seed`. A candidate is
    what `edit sample --seed` makes of the row with the candidate's seed.
    """
    from edittools.sample.stage import SampleStage
    from edittools.stream.run import open_input, open_progress, open_sink, run, settings_of

    config = options.config(ctx, SampleConfig)
    run_options = options.run_settings(ctx)
    if run_options.ray is not None:
        options.refuse(ctx, ["processes"], "with --ray: a task of a cluster has one GPU")
    if keep_going:
        run_options.max_errors = "100%"
    source = open_input(list(input), run_options)
    stage = SampleStage(config)
    settings = settings_of([stage], source, run_options.limit)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    with contextlib.ExitStack() as stack:
        if processes is not None and processes > 1:
            from edittools.sample.several import SeveralEditors

            several = SeveralEditors(config.model, config.device, config.dtype, processes, **config.editor)
            stage = SampleStage(config, stack.enter_context(contextlib.closing(several)))
        sink = open_sink(run_options)
        progress = open_progress("sample", source, run_options, sink, lambda: _said(stage))
        if progress.shown:
            print(f"sample: {_computing(config, processes or 1)}", file=sys.stderr, flush=True)
        run("sample", source, [stage], settings, run_options, sink=sink, progress=progress)


options.refuse_twice(
    command, "model", "several models make one set one after the other: `edit sample --candidates K --add`"
)


def _computing(config: SampleConfig, processes: int) -> str:
    from edittools.nets.acceleration import arithmetic

    several = f"{processes} processes: " if processes > 1 else ""
    weights = f", weights {config.quantize}" if config.quantize else ""
    return f"{several}{arithmetic(config.device, config.dtype, config.attention, config.compile)}{weights}"


def _said(stage: Any) -> str:
    from edittools.nets.acceleration import peak_memory

    work = stage.work
    if not work.images:  # nothing to do, or the tasks of a cluster do it
        return ""
    parts = [f"{work.images / work.seconds:.3g} images/s"]
    if work.flops:
        parts.append(f"{work.flops / work.seconds / 1e12:.3g} model TFLOP/s")
    peak = work.peak or peak_memory(stage.config.device)
    if peak is not None:
        parts.append(f"peak memory {peak / 2**30:.1f} GiB")
    if stage.captioned:
        parts.append(f"{stage.captioned} rows without an instruction: their caption was the text")
    return ", ".join(parts)
