"""`edit eval build`"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from edittools.bench.building import BuildConfig
from edittools.cli import options
from edittools.cli.benchmarks import examples_of, layouts
from edittools.errors import EditError, UsageError


@options.command(
    "eval build",
    cost="Two passes over columns; keeps ids and instructions of all rows. With --layout it reads each image once.",
    examples=examples_of(
        "build", ("edit eval build candidates/ --per-task 55 -o pool/", "balanced over concepts, no intent twice")
    ),
)
@options.input_options
@options.config_options(BuildConfig)
@options.option(
    "--layout",
    type=click.Choice(layouts()),
    group="Output",
    help="Write a benchmark's released layout, which `edit eval cases` reads, in place of rows.",
)
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], layout: str | None, **given: object) -> None:
    """Make a benchmark of rows with one source and an instruction.

    A row is a case if its instruction is there in all --languages, asks for nearly the same as no other of its task,
    and is drawn: --per-task N takes as many of each concept as there can be. All others are rejects with their reason.
    Task and concept come with the rows, or from `edit caption --kinds intent`, a missing language from `--kinds
    translate`. Let people review the pool (`edit eval study build pool/ --design review`, `edit filter --review`), then
    write it with --layout: tasks get the benchmark's own names, and those that it has not are left out.
    """
    from edittools.bench.building import BuildStage

    config = options.config(ctx, BuildConfig)
    if layout is None:
        options.run_stages(ctx, [BuildStage(config)])
    else:
        _publish(ctx, config, layout)


def _publish(ctx: click.Context, config: BuildConfig, layout: str) -> None:
    """Write a benchmark's released layout. Raises UsageError, EditError."""
    from edittools.bench.building import BuildStage, cases_of
    from edittools.stream.run import open_input
    from edittools.suites import load_benchmark

    run_options = options.run_settings(ctx)
    benchmark = load_benchmark(layout)
    assert benchmark.publish is not None
    if run_options.output in (None, "-"):
        raise UsageError("--layout writes a folder: name it with -o DIR/")
    folder = Path(str(run_options.output))
    if folder.is_dir() and any(folder.iterdir()) and not run_options.overwrite:
        raise EditError(f"{folder}: not empty", hint="replace what is there with --overwrite")
    stage = BuildStage(config, [benchmark.canonical[word] for word in benchmark.tasks], layout)
    source = open_input(list(ctx.params["input"]), run_options)
    if not source.replayable:
        raise UsageError("--layout reads its input twice: give files as INPUT, not a pipe")
    stage.schema(source.schema)
    stage.gather(source.batches(lambda shard: True))
    stage.decide()
    cases, reasons = cases_of(stage, source, benchmark)
    if not cases:
        raise EditError(f"no row is a case: {dict(reasons)}")
    folder.mkdir(parents=True, exist_ok=True)
    benchmark.publish(cases, folder)
    if not run_options.quiet:
        tasks = Counter(case.task for case in cases)
        click.echo(f"{folder}: {len(cases)} cases of {len(tasks)} tasks", err=True)
        for reason, count in reasons.most_common():
            click.echo(f"left out: {count} {reason}", err=True)
