"""`edit dedup`"""

from __future__ import annotations

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "dedup",
    cost="Two passes: every picture is read and decoded once, at reduced scale; then references are read again. Keeps "
    "about 150 bytes per row. Of a pipe the references are kept in TMPDIR too (about 100 bytes a row; pictures sent "
    "--inline are kept as well).",
    examples=(
        ("edit dedup raw/ -o unique/", "drop exact and near copies; _rejects/ says of what"),
        ("edit dedup raw/ --mark duplicate_of -o marked/", "keep every row, and say what it is a copy of"),
        ("edit dedup raw/ --step fingerprint --task 3/64 -o prints/", "the first of three steps, as an array task"),
        ("edit dedup prints/ --step verdict -o verdict.parquet", "the second, once"),
        ("edit dedup raw/ --verdict verdict.parquet --task 3/64 -o unique/", "the third"),
    ),
)
@options.input_options
@options.pixel_option
@options.option(
    "--method",
    type=click.Choice(["phash", "exact"]),
    default="phash",
    show_default=True,
    help="phash finds exact and near copies, exact only the same bytes.",
)
@options.option(
    "--distance",
    type=click.IntRange(0, 31),
    default=8,
    show_default=True,
    metavar="BITS",
    help="Near copies differ in at most so many of 64 bits.",
)
@options.option(
    "--rotations/--no-rotations",
    default=True,
    show_default=True,
    help="Count rotated and mirrored copies, in rows of one image (never between a source and its target).",
)
@options.option(
    "--step",
    type=click.Choice(["fingerprint", "verdict"]),
    group="Run",
    help="Only this step. fingerprint: -o DIR/; verdict: INPUT is that folder, -o FILE.parquet.",
)
@options.option("--verdict", metavar="FILE", group="Run", setting=False, help="Apply this verdict.")
@options.mark_option
@options.output_options
@options.run_options
@click.pass_context
def command(
    ctx: click.Context,
    input: tuple[str, ...],
    method: str,
    distance: int,
    rotations: bool,
    step: str | None,
    verdict: str | None,
    mark: str | None,
    **given: object,
) -> None:
    """Find exact and near duplicates, and keep one of each.

    Rows whose pictures have the same bytes, or a 64-bit perceptual signature within --distance, form a cluster
    (connected components). The copy with most pixels stays, then the sharpest, then the one with the smallest id.
    For edit rows the unit is the row: a shared source with several edits is legitimate, and a row is a copy only if
    its source, target and instruction all repeat. Flat pictures have no signature and are compared exactly.
    """
    from edittools.dedup.stage import DedupStage, Fingerprint
    from edittools.stream.run import open_input, run

    run_options = options.run_settings(ctx)
    limit = distance if method == "phash" else None
    jobs = options.jobs(ctx)
    source = open_input(list(input), run_options)
    settings = options.settings(ctx)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    if step == "fingerprint":
        stage = Fingerprint(perceptual=limit is not None, max_pixels=ctx.params["max_pixels"], jobs=jobs)
        run("dedup", source, [stage], settings, run_options)
        return
    deduper = DedupStage(limit=limit, rotations=rotations, mark=mark, max_pixels=ctx.params["max_pixels"], jobs=jobs)
    if step == "verdict":
        if run_options.output in (None, "-"):
            raise UsageError("--step verdict writes a file: name it with -o FILE.parquet")
        options.refuse_existing(run_options.output, run_options.overwrite)
        deduper.gather(source.batches(lambda shard: True))
        deduper.decide()
        deduper.save_verdict(run_options.output)
        return
    if verdict:
        deduper.load_verdict(verdict)
    run("dedup", source, [deduper], settings, run_options)
