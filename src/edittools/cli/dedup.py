"""`edit dedup`"""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from edittools.cli import options
from edittools.dedup.config import DedupConfig
from edittools.dedup.signature import of_bits
from edittools.errors import EditError, UsageError


@options.command(
    "dedup",
    cost="Two passes: every image is read and decoded once, at reduced scale; then references are read again. Keeps "
    "about 150 bytes per row, and as much per row of --against; vectors of models lie in TMPDIR (2 bytes a dimension; "
    "--level fine another 24 KiB per row). "
    "Of a pipe the references are kept in TMPDIR too (about 100 bytes a row; images sent --inline are kept as well). "
    "--nearest reads and decodes every public image once, and keeps its vectors (4 bytes a dimension) in memory; with "
    "--cache-dir it reads those that it knows, and decodes none of them.",
    examples=(
        ("edit dedup raw/ -o unique/", "drop exact and near copies; _rejects/ says of what"),
        ("edit dedup raw/ --mark duplicate_of -o marked/", "keep every row, and say what it is a copy of"),
        ("edit dedup raw/ --report sheet.html -o unique/", "with a sheet of images to check the threshold by"),
        ("edit dedup new/ --against seen/ -o unique/", "also drop copies of what earlier runs kept, and add the rest"),
        ("edit dedup raw/ --method sscd -o unique/", "by a copy-detection model: finds crops and overlays too"),
        ("edit dedup pairs/ --level fine --method sscd --pair-model clip --pair-model dinov2 -o clean/", "edit pairs"),
        ("edit dedup raw/ --method clip --semantic 0.05 -o diverse/", "thin out images that mean the same"),
        ("edit dedup raw/ --method dinov2 --clusters 500 -o unique/", "and put what stays into 500 groups by meaning"),
        ("edit dedup others/ --method sscd --phase fingerprint -o bg/", "images that are no copies, for the next"),
        (
            "edit dedup raw/ --method sscd --reference-set bg/ --whiten all --normalize-scores --cosine X -o unique/",
            "by whitened vectors and normalised scores",
        ),
        ("edit dedup raw/ --phase fingerprint --task 3/64 -o prints/", "the first of three steps, as an array task"),
        ("edit dedup prints/ --phase decide -o decisions.parquet", "the second, once"),
        ("edit dedup raw/ --decisions decisions.parquet --task 3/64 -o unique/", "the third"),
        (
            "edit dedup private/ --nearest public/ --method clip --pair-model sscd -o near/",
            "public images like private ones",
        ),
        ("edit dedup near/ --replace choices.jsonl -o benchmark/", "in their place, as people chose"),
        ("edit dedup benchmark/ --absent private/", "is anything private left?"),
    ),
)
@options.input_options
@options.config_options(DedupConfig)
@options.option(
    "--against",
    metavar="DIR",
    setting=False,
    help="A folder with what earlier runs kept: copies of that are dropped too, and what this run keeps is added. "
    "Made if it is not there. Runs that share a folder go one after the other.",
)
@options.option(
    "--set-name", metavar="NAME", setting=False, help="What --against calls these rows. Default: the input's name."
)
@options.option(
    "--phase",
    type=click.Choice(["fingerprint", "decide"]),
    group="Run",
    setting=False,
    help="Only this step. fingerprint: -o DIR/; decide: INPUT is that folder, -o FILE.parquet.",
)
@options.option(
    "--decisions",
    metavar="FILE",
    group="Run",
    setting=False,
    help="Apply these decisions, of the same rows and by the same rule.",
)
@options.option(
    "--report",
    metavar="FILE.html",
    group="Output",
    setting=False,
    help="Write a sheet with the images of the largest clusters and of those near the threshold.",
)
@options.option(
    "--nearest",
    metavar="PUBLIC",
    group="De-identification",
    setting=False,
    help="Drop nothing: find for the source of every row the images of this set that are most like it, by the mean "
    "cosine of --method and every --pair-model, or by the signature. The column `nearest`, for `edit eval study build "
    "--design replace`. Copies of the image itself (--distance) are left out.",
)
@options.option(
    "--neighbours",
    type=click.IntRange(1, 8),
    default=6,
    show_default=True,
    metavar="N",
    group="De-identification",
    help="--nearest: so many.",
)
@options.option(
    "--same-task", is_flag=True, group="De-identification", help="--nearest: of rows of the same task only."
)
@options.option(
    "--cache-dir",
    metavar="DIR/",
    group="De-identification",
    setting=False,
    help="--nearest: what is made of the public images, their vectors and signatures, is kept in this folder by their "
    "content and the model, and the next run makes only what is new. Nothing of the private images is kept.",
)
@options.option(
    "--replace",
    metavar="FILE",
    group="De-identification",
    setting=False,
    help="Drop nothing else: put the chosen images of `nearest` in the place of the private ones (JSON lines of `edit "
    "eval study score --export`); nothing else of a private row goes on but its task and words.",
)
@options.option(
    "--absent",
    metavar="PRIVATE",
    group="De-identification",
    setting=False,
    help="Write nothing: fail where any image, stretch of a file, id, path, file name, hash, instruction or caption of "
    "these rows is left in INPUT.",
)
@options.option(
    "--same-words",
    is_flag=True,
    group="De-identification",
    setting=False,
    help="--absent: instructions and captions may stay, for they say nothing private.",
)
@options.output_options
@options.run_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    input: tuple[str, ...],
    phase: str | None,
    decisions: str | None,
    report: str | None,
    against: str | None,
    **given: Any,
) -> None:
    """Find exact and near duplicates, and keep one of each.

    Rows whose images have the same bytes, or a signature within --distance (--cosine for a model), form a cluster
    (connected components). The copy with most pixels stays, then the sharpest, then the one with the smallest id.
    For edit rows the unit is the row: a shared source with several edits is legitimate, and a row is a copy only if
    its source, target and instruction all repeat; --level says what else is superfluous. Flat images have no
    perceptual signature and are compared exactly.
    """
    from edittools.dedup.sheet import write_sheet
    from edittools.dedup.stage import DedupStage
    from edittools.stream.run import open_input, run, settings_of

    if _deidentified(ctx):
        return
    run_options = options.run_settings(ctx)
    config = options.config(ctx, DedupConfig)
    stage = DedupStage(config, jobs=options.jobs(ctx), against=against, step=phase)
    _check(ctx, stage, run_options)
    source = open_input(list(input), run_options)
    settings = settings_of([stage], source, run_options.limit)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    if phase == "fingerprint":
        made = stage.fingerprint()
        run("dedup", source, [made], settings_of([made], source, run_options.limit), run_options)
        return
    name = given["set_name"] or "+".join(path.rstrip("/").rsplit("/", 1)[-1] for path in input) or "-"
    if phase == "decide":
        _decide(stage, source, name, settings, run_options)
        return
    if against and not decisions and not run_options.task:
        store = stage.open_store(name)
        if store.empty and not run_options.quiet:
            click.echo(f"edit dedup: {against}: nothing there yet: these rows are its first", err=True)
    if decisions:
        stage.load_decisions(decisions)
        if run_options.limit is not None:  # the last shard is cut
            stage.ids = None
    if report and not source.replayable:
        raise UsageError("--report reads the images once more: give files as INPUT, not a pipe")
    run("dedup", source, [stage], settings, run_options)
    if report:
        assert stage.decisions is not None
        title = " ".join(input)
        write_sheet(report, stage.decisions, stage.rule, source.batches, title=title, max_pixels=config.max_pixels)


_NEAREST = ("max_pixels", "method", "pair_model", "distance", "revision", "device", "dtype", "batch_size")
_OF_NEAREST, _OF_ABSENT = ("neighbours", "same_task", "cache_dir"), ("same_words",)  # of these modes alone
_MODES = {
    "nearest": (*_NEAREST, *_OF_NEAREST),
    "replace": (),
    "absent": ("max_pixels", "distance", *_OF_ABSENT),
}


def _deidentified(ctx: click.Context) -> bool:
    """Do what --nearest, --replace or --absent says; False where none of them is given. Raises UsageError."""
    mode = next((name for name in _MODES if ctx.params[name] is not None), None)
    if mode is None:
        options.refuse(ctx, _OF_NEAREST, "is for --nearest")
        options.refuse(ctx, _OF_ABSENT, "is for --absent")
        return False
    mine = {"against", "set_name", "phase", "decisions", "report", *_OF_NEAREST, *_OF_ABSENT, *_MODES}
    mine |= {field.name for field in dataclasses.fields(DedupConfig)}
    options.refuse(ctx, sorted(mine - {mode, *_MODES[mode]}), f"changes nothing beside --{mode}")
    config, path = options.config(ctx, DedupConfig), ctx.params[mode]
    if mode == "absent":
        _absent(ctx, config, path)
    elif mode == "replace":
        from edittools.dedup.replace import ReplaceStage

        options.run_stages(ctx, [ReplaceStage(path)])
    else:
        from edittools.dedup.nearest import NearestStage
        from edittools.stream.run import RunOptions, open_input

        name = path.rstrip("/").rsplit("/", 1)[-1]
        more = {name: ctx.params[name] for name in _OF_NEAREST}
        public = open_input([path], RunOptions())
        options.run_stages(ctx, [NearestStage(config, public, name, jobs=options.jobs(ctx), **more)])
    return True


def _absent(ctx: click.Context, config: DedupConfig, path: str) -> None:
    """Raises EditError where anything is left."""
    from edittools.dedup.absent import files_below, private_of, remains
    from edittools.stream.run import RunOptions, open_input

    run_options = options.run_settings(ctx)
    if run_options.output is not None:
        raise UsageError("--absent writes nothing: no -o")
    private = private_of(open_input([path], RunOptions()), config.max_pixels, not ctx.params["same_words"])
    inputs = list(ctx.params["input"])
    files = [file for one in inputs if one != "-" and "://" not in one for file in files_below(one)]
    left = remains(open_input(inputs, run_options), files, private, config.distance, config.max_pixels)
    for line in left[:20]:
        click.echo(f"left: {line}", err=True)
    if left:
        words = any("the words of" in line for line in left)
        hint = "reword them with `edit eval study`, or --same-words where they say nothing private" if words else None
        raise EditError(f"{len(left)} traces of {path} are left", hint=hint)
    known = private.words
    click.echo(
        f"nothing is left of {len(private.digests)} private images, {len(private.pieces)} pieces of their files, "
        f"{len(known.names)} names and {len(known.texts) + len(known.short)} texts ({len(files)} files searched)",
        err=True,
    )


def _check(ctx: click.Context, stage: Any, run_options: Any) -> None:
    """Raises UsageError for options that have nothing to act on, and for what cannot be done together."""
    given, rule = ctx.params, stage.rule
    if rule.method not in of_bits():
        options.refuse(ctx, ["distance"], f"is for --method {' or '.join(of_bits())}")
    if not given["against"]:
        options.refuse(ctx, ["set_name"], "is for --against")
    if given["phase"]:
        options.refuse(ctx, ["decisions"], "is for the step after --phase decide, which has no --phase")
    if given["report"]:
        if given["phase"] or run_options.task or run_options.ray:
            raise UsageError(
                "--report is for a run over all shards", hint="edit dedup INPUT --decisions FILE --report …"
            )
        options.refuse_existing(given["report"], run_options.overwrite)
    if run_options.ray and not given["phase"] and not run_options.dry_run:
        if given["against"] and rule.models:
            raise UsageError("--against with --ray and a model", hint="run the three steps: --phase, then --decisions")
        if stage.reference_set is not None and not given["decisions"]:
            raise UsageError("--reference-set with --ray", hint="run the three steps: --phase, then --decisions")


def _decide(stage: Any, source: Any, name: str, settings: dict[str, Any], run_options: Any) -> None:
    """`--phase decide`: from the fingerprints to a file."""
    if run_options.output in (None, "-"):
        raise UsageError("--phase decide writes a file: name it with -o FILE.parquet")
    options.refuse_existing(run_options.output, run_options.overwrite)
    stage.identities.update(_check_fingerprints(source.history.nodes, settings))
    if stage.reference_set is not None:
        stage.reference_set.check_models(stage.identities)
        stage.reference_set.check_apart(source)
    if stage.against:
        stage.open_store(name)
    stage.gather(source.batches(lambda shard: True))
    stage.decide()
    stage.save_decisions(run_options.output)


def _check_fingerprints(nodes: tuple[dict[str, Any], ...], settings: dict[str, Any]) -> dict[str, str]:
    """The models that the fingerprints were made with. Raises UsageError where they are not for these options."""
    from edittools.dedup.reference_set import made_with

    made = made_with(nodes)
    if not made:
        raise UsageError("--phase decide reads the folder that --phase fingerprint wrote")
    for name in ("method", "level", "pair_model", "embed", "square"):
        if made.get(name) != settings.get(name):
            raise UsageError(
                f"--{name}: the fingerprints were made with {made.get(name)}, not {settings.get(name)}",
                hint="give --phase decide the options that --phase fingerprint had",
            )
    models: dict[str, str] = made.get("models", {})
    return models
