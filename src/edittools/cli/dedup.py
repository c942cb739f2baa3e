"""`edit dedup`"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from edittools.cli import options
from edittools.errors import UsageError

_LEARNT = ("background", "whiten", "normalize_scores")  # what the verdict alone asks for


@options.command(
    "dedup",
    cost="Two passes: every picture is read and decoded once, at reduced scale; then references are read again. Keeps "
    "about 150 bytes per row, and as much per row of --against; vectors of models lie in TMPDIR (2 bytes a dimension; "
    "--level fine another 24 KiB per row). "
    "Of a pipe the references are kept in TMPDIR too (about 100 bytes a row; pictures sent --inline are kept as well).",
    examples=(
        ("edit dedup raw/ -o unique/", "drop exact and near copies; _rejects/ says of what"),
        ("edit dedup raw/ --mark duplicate_of -o marked/", "keep every row, and say what it is a copy of"),
        ("edit dedup raw/ --report sheet.html -o unique/", "with a sheet of pictures to check the threshold by"),
        ("edit dedup new/ --against seen/ -o unique/", "also drop copies of what earlier runs kept, and add the rest"),
        ("edit dedup raw/ --method sscd -o unique/", "by a copy-detection model: finds crops and overlays too"),
        ("edit dedup pairs/ --level fine --method sscd --space clip --space dinov2 -o clean/", "edit pairs"),
        ("edit dedup raw/ --method clip --semantic 0.05 -o diverse/", "thin out pictures that mean the same"),
        ("edit dedup raw/ --method dinov2 --clusters 500 -o unique/", "and put what stays into 500 groups by meaning"),
        ("edit dedup others/ --method sscd --step fingerprint -o bg/", "pictures that are no copies, for the next"),
        (
            "edit dedup raw/ --method sscd --background bg/ --whiten all --normalize-scores --cosine X -o unique/",
            "by whitened vectors and normalised scores",
        ),
        ("edit dedup raw/ --step fingerprint --task 3/64 -o prints/", "the first of three steps, as an array task"),
        ("edit dedup prints/ --step verdict -o verdict.parquet", "the second, once"),
        ("edit dedup raw/ --verdict verdict.parquet --task 3/64 -o unique/", "the third"),
    ),
)
@options.input_options
@options.pixel_option
@options.option(
    "--method",
    default="phash",
    show_default=True,
    metavar="NAME",
    help="exact: the same bytes; pixels: the same decoded pixels; phash: near copies by a 64-bit signature; clip, "
    "dinov2, sscd, isc21, or any embedding model: near copies by its vectors.",
)
@options.option(
    "--distance",
    type=click.IntRange(0, 31),
    default=8,
    show_default=True,
    metavar="BITS",
    help="phash: near copies differ in at most so many of 64 bits.",
)
@options.option(
    "--cosine",
    type=click.FloatRange(-1, 1),
    metavar="X",
    help="Models: near copies have at least this cosine. Default: 0.75 for sscd, 0.604 for isc21, else 0.94; none with "
    "--whiten or --normalize-scores, which need their own.",
)
@options.option(
    "--background",
    metavar="DIR",
    help="Models: what --step fingerprint wrote of pictures of the same kind that are no copies of the searched ones. "
    "--whiten and --normalize-scores learn from it, of rows with a target from the targets.",
)
@options.option(
    "--whiten",
    metavar="all|N|centre",
    help="Models: compare vectors whitened by the --background's principal directions, all or the strongest N; "
    "centre: only take its mean away. Needs more pictures than directions. Vectors of a --space stay as they are.",
)
@options.option(
    "--normalize-scores",
    is_flag=True,
    help="Models: the score of two pictures is their cosine, less the mean cosine of each with the three of the "
    "--background nearest to it (SSCD, equation 8, averaged over the two). --cosine is then the least score.",
)
@options.option(
    "--rotations/--no-rotations",
    default=True,
    show_default=True,
    help="phash: count rotated and mirrored copies, in rows of one image (never between a source and its target).",
)
@options.option(
    "--level",
    type=click.Choice(["rows", "pairs", "fine"]),
    help="rows (the default): an edit row is a copy if all of it repeats. pairs: also drop pairs without a visible "
    "edit, repeated pairs, repeated source and instruction, and templates. fine: PSNR and SSIM have to agree.",
)
@options.option(
    "--space",
    multiple=True,
    metavar="NAME",
    help="Models in all of which source and target of a pair without a visible edit are alike, such as clip and "
    "dinov2. May be given several times; templates are looked for in the first.",
)
@options.option(
    "--identity",
    type=click.FloatRange(-1, 1),
    metavar="X",
    help="Cosine from which source and target are alike in a --space. Default: 0.99.",
)
@options.option("--psnr", type=float, metavar="DB", help="fine: from which pictures are the same. Default: 34.")
@options.option(
    "--ssim", type=click.FloatRange(-1, 1), metavar="X", help="fine: from which pictures are the same. Default: 0.95."
)
@options.option(
    "--max-per-template",
    type=click.IntRange(min=1),
    metavar="N",
    help="pairs, fine: keep at most so many edits that change a picture alike in much the same words.",
)
@options.option(
    "--template",
    type=click.FloatRange(-1, 1),
    metavar="X",
    help="Likeness from which edits are of one template: the mean cosine of change and words. Default: 0.9.",
)
@options.option(
    "--semantic",
    type=click.FloatRange(0, 1),
    metavar="EPS",
    help="SemDeDup: of rows of one image also drop those with a cosine above 1 - EPS to another of their cluster.",
)
@options.option(
    "--clusters",
    type=click.IntRange(min=0),
    metavar="K",
    help="Groups of the rows that stay, by k-means: the column `cluster`, by which `edit train` can balance. By a "
    "model they are of one meaning, by phash of one layout. Default: the square root of the rows, 1,024 at most, and "
    "a `cluster` that the input has stays; 0: none. Numbers of two runs have nothing in common. Also the clusters of "
    "SemDeDup: by default one per 1,000 rows.",
)
@options.option(
    "--keep",
    type=click.Choice(["hard", "easy"]),
    help="SemDeDup: of alike pictures keep the one far from (hard, the default) or near to its cluster's centre.",
)
@options.option(
    "--of", type=click.Choice(["image", "caption"]), help="SemDeDup: whose vectors are compared. Default: image."
)
@options.model_options
@options.option("--revision", metavar="NAME", group="Model", help="Of a model on the hub.")
@options.option(
    "--square",
    is_flag=True,
    group="Model",
    help="sscd: pictures skewed to 320x320, which batches well, not scaled to a short edge of 288.",
)
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
    "--step",
    type=click.Choice(["fingerprint", "verdict"]),
    group="Run",
    help="Only this step. fingerprint: -o DIR/; verdict: INPUT is that folder, -o FILE.parquet.",
)
@options.option(
    "--verdict",
    metavar="FILE",
    group="Run",
    setting=False,
    help="Apply this verdict, of the same rows and by the same rule.",
)
@options.option(
    "--report",
    metavar="FILE.html",
    group="Output",
    setting=False,
    help="Write a sheet with the pictures of the largest clusters and of those near the threshold.",
)
@options.mark_option
@options.output_options
@options.run_options
@click.pass_context
def command(
    ctx: click.Context,
    input: tuple[str, ...],
    step: str | None,
    verdict: str | None,
    mark: str | None,
    report: str | None,
    against: str | None,
    **given: Any,
) -> None:
    """Find exact and near duplicates, and keep one of each.

    Rows whose pictures have the same bytes, or a signature within --distance (--cosine for a model), form a cluster
    (connected components). The copy with most pixels stays, then the sharpest, then the one with the smallest id.
    For edit rows the unit is the row: a shared source with several edits is legitimate, and a row is a copy only if
    its source, target and instruction all repeat; --level says what else is superfluous. Flat pictures have no
    perceptual signature and are compared exactly.
    """
    from edittools.dedup.background import Background
    from edittools.dedup.fingerprint import Fingerprint
    from edittools.dedup.rule import load_models, short_name
    from edittools.dedup.sheet import write_sheet
    from edittools.dedup.stage import DedupStage
    from edittools.dedup.store import Store
    from edittools.stream.run import open_input, run

    run_options = options.run_settings(ctx)
    names = {short_name(model): model for model in (given["method"], *given["space"])}
    if len(names) < len({given["method"], *given["space"]}):
        raise UsageError("--method and --space: two models of one name", hint="rename one of the folders")
    rule = _rule(given)
    if rule.method != "phash":
        options.refuse(ctx, ["distance"], "is for --method phash")
    if not against:
        options.refuse(ctx, ["set_name"], "is for --against")
    if step:
        options.refuse(ctx, ["verdict"], "is for the step after --step verdict, which has no --step")
    jobs = options.jobs(ctx)
    if against and rule.eps is not None:
        raise UsageError("--against with --semantic: its clusters are of one set only")
    background = Background(given["background"], rule) if rule.background is not None else None
    if background is not None:
        rule = replace(rule, background=background.content)  # not where it lies
    if report:
        if step or run_options.task or run_options.ray:
            raise UsageError("--report is for a run over all shards", hint="edit dedup INPUT --verdict FILE --report …")
        options.refuse_existing(report, run_options.overwrite)
    source = open_input(list(input), run_options)
    # A name for what it is compared with, not where that lies: so that -o of another store is not continued.
    compared = against.rstrip("/").rsplit("/", 1)[-1] if against else None
    placed, batch_size = options.device_and_dtype(given), given["batch_size"] or 32
    models_run = {**placed, "batch_size": batch_size}
    settings = options.settings(
        ctx,
        method=rule.method,
        space=rule.spaces,
        against=compared,
        background=rule.background,
        whiten=rule.whiten,
        **(models_run if rule.models else dict.fromkeys(models_run)),
    )
    if step == "fingerprint":  # which none of these changes
        settings = {name: value for name, value in settings.items() if name not in _LEARNT}
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return

    def fingerprint() -> Fingerprint:
        models = load_models(rule, names, **placed, revision=given["revision"])
        identities.update({name: f"{model.name}@{model.revision}" for name, model in models.items()})
        if background is not None:
            background.check_models(identities)
        return Fingerprint(rule, max_pixels=given["max_pixels"], jobs=jobs, models=models, batch_size=batch_size)

    identities: dict[str, str] = {}
    if step == "fingerprint":
        made = fingerprint()  # which fills the identities
        run("dedup", source, [made], {**settings, **({"models": identities} if identities else {})}, run_options)
        return
    name = given["set_name"] or "+".join(path.rstrip("/").rsplit("/", 1)[-1] for path in input) or "-"
    if step == "verdict":
        if run_options.output in (None, "-"):
            raise UsageError("--step verdict writes a file: name it with -o FILE.parquet")
        options.refuse_existing(run_options.output, run_options.overwrite)
        identities.update(_check_prints(source.history.nodes, settings))
        if background is not None:
            background.check_models(identities)
            background.check_apart(source)
        store = Store(against, rule, name, identities) if against else None
        deduper = DedupStage(rule, jobs=jobs, against=store, background=background)
        deduper.gather(source.batches(lambda shard: True))
        deduper.decide()
        deduper.save_verdict(run_options.output)
        return
    if against and run_options.ray and rule.models:
        raise UsageError("--against with --ray and a model", hint="run the three steps: --step, then --verdict")
    if background is not None and run_options.ray and not verdict:
        raise UsageError("--background with --ray", hint="run the three steps: --step, then --verdict")
    store = Store(against, rule, name, identities) if against and not verdict and not run_options.task else None
    if store is not None and store.empty and not run_options.quiet:
        click.echo(f"edit dedup: {against}: nothing there yet: these rows are its first", err=True)
    deduper = DedupStage(rule, mark=mark, jobs=jobs, fingerprint=fingerprint, against=store, background=background)
    if verdict:
        deduper.load_verdict(verdict)
        if run_options.limit is not None:  # the last shard is cut
            deduper.ids = None
    if report and not source.rewindable:
        raise UsageError("--report reads the pictures once more: give files as INPUT, not a pipe")
    run("dedup", source, [deduper], settings, run_options)
    if report:
        assert deduper.verdict is not None
        title = " ".join(input)
        write_sheet(report, deduper.verdict, rule, source.batches, title=title, max_pixels=given["max_pixels"])


def _rule(given: dict[str, Any]) -> Any:
    from edittools.dedup.rule import Rule, default_limit, short_name

    method, level = short_name(given["method"]), given["level"] or "rows"
    pair_options = ("space", "identity", "psnr", "ssim", "max_per_template", "template")
    for name in pair_options:
        if given[name] not in (None, ()) and level == "rows":
            raise UsageError(f"--{name.replace('_', '-')} is for --level pairs or fine")
    for name in ("psnr", "ssim"):
        if given[name] is not None and level != "fine":
            raise UsageError(f"--{name} is for --level fine")
    for name in ("keep", "of"):
        if given[name] is not None and given["semantic"] is None:
            raise UsageError(f"--{name} is for --semantic")
    for name in ("identity", "max_per_template", "template"):
        if given[name] is not None and not given["space"]:
            raise UsageError(f"--{name.replace('_', '-')} needs a --space")
    limit = given["distance"] if method == "phash" else default_limit(method)
    if given["cosine"] is not None:
        if method in ("exact", "pixels", "phash"):
            raise UsageError(f"--cosine is for the vectors of a model, not for --method {method}")
        limit = given["cosine"]
    chosen = {name: given[name] for name in pair_options[1:] if given[name] is not None}
    rule = Rule(
        method=method,
        limit=limit,
        rotations=given["rotations"],
        level=level,
        spaces=tuple(dict.fromkeys(map(short_name, given["space"]))),
        eps=given["semantic"],
        centroids=given["clusters"],
        keep=given["keep"] or "hard",
        of=given["of"] or "image",
        square=given["square"],
        background=given["background"],
        whiten=_whiten(given["whiten"]),
        normalize=given["normalize_scores"],
        **chosen,
    )
    if rule.background is not None and given["cosine"] is None and rule.eps is None:
        raise UsageError(
            "--whiten and --normalize-scores need a --cosine: the models' defaults are for vectors as they come",
            hint="--report shows the pictures near a threshold",
        )
    return rule


def _whiten(text: str | None) -> str | int | None:
    if text in (None, "all", "centre"):
        return text
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--whiten {text}: expected all, centre, or a number of dimensions")
    return int(text)


def _check_prints(nodes: tuple[dict, ...], settings: dict[str, Any]) -> dict[str, str]:
    """The models that the fingerprints were made with. Raises UsageError where they are not for these options."""
    from edittools.dedup.background import made_with

    made = made_with(nodes)
    if not made:
        raise UsageError("--step verdict reads the folder that --step fingerprint wrote")
    for name in ("method", "level", "space", "of", "square"):
        if made.get(name) != settings.get(name):
            raise UsageError(
                f"--{name}: the fingerprints were made with {made.get(name)}, not {settings.get(name)}",
                hint="give --step verdict the options that --step fingerprint had",
            )
    return made.get("models", {})
