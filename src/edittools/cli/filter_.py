"""`edit filter`"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from edittools.cli import options
from edittools.errors import UsageError

_PRESETS = Path(__file__).parents[1] / "filters" / "presets"


def _presets() -> list[str]:
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def _read_preset(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """A preset is a --config file of the package; a --config of the user's wins over it."""
    if value is None:
        return
    table = options.read_defaults(ctx, str(_PRESETS / f"{value}.toml"), "--preset")
    ctx.default_map = {**table, **(ctx.default_map or {})}


def _model_names(function: Callable) -> Callable:
    """Which models the filters ask, and about what."""
    named = (
        ("--clip", "FOLDER|NAME", "CLIP or SigLIP. Default: openai/clip-vit-large-patch14."),
        ("--dino", "FOLDER|NAME", "DINOv2. Default: facebook/dinov2-base."),
        ("--aesthetic-head", "FOLDER|NAME", "The predictor behind --aesthetic. Default: sac+logos+ava1-l14-linearMSE."),
        ("--classifier", "FOLDER|NAME", "An image-classification checkpoint, for --max."),
        ("--label", "LABEL", "Which of the classifier's labels."),
        ("--raft", "FOLDER|NAME", "RAFT's weights, for --motion and --camera-motion; without them the flow is DIS."),
        ("--foreground", "FOLDER|NAME", "A semantic-segmentation checkpoint: the foreground of rows without a mask."),
        ("--foreground-label", "LABEL,...", "Which of its labels. Default: all but `background`."),
        ("--text", "COLUMN", "The picture's text: `caption`, `instruction`, any column. Default: caption."),
        ("--source-text", "COLUMN", "The text of a pair's source. Default: source_caption."),
    )
    languages = click.Choice(["en", "zh"])
    function = options.option("--language", type=languages, group="Model", help="Of the texts. Default: en.")(function)
    for flag, metavar, text in reversed(named):
        # Of models the settings hold what they are, not where they lie.
        setting = metavar != "FOLDER|NAME"
        function = options.option(flag, metavar=metavar, group="Model", setting=setting, help=text)(function)
    return function


def _filter_options(function: Callable) -> Callable:
    """One option per file of filters/."""
    from edittools.filters import filters

    for item in reversed(list(filters().values())):
        function = options.option(item.flag, item.name, metavar="BOUND", help=f"{item.help} [{item.unit}]")(function)
    return function


@options.command(
    "filter",
    cost="Reads once and streams; decodes a picture once per raster (all filters with models share one), and "
    "only for scores its row does not have yet; --fix-rotation decodes once more and takes about 30 ms. "
    "Bounds on quantiles (q05) take a second pass and 8 bytes per row and filter of temporary disk; of a pipe the "
    "references are kept in TMPDIR (about 100 bytes a row; pictures sent --inline are kept too).",
    examples=(
        ("edit filter raw/ --min-side 512 --sharpness q05 -o clean/", "no small pictures, not the 5% least sharp"),
        ("edit filter raw/ --preset imgedit --device cuda -o large/", "large and beautiful: ImgEdit's own numbers"),
        ("edit filter pairs/ --where \"scores.edit_ratio > 0.01 AND task <> 'text'\" -o kept/", "any column, as SQL"),
    ),
)
@options.input_options
@options.pixel_option
@_filter_options
@options.option(
    "--preset",
    type=click.Choice(_presets()),
    setting=False,
    is_eager=True,
    expose_value=False,
    callback=_read_preset,
    help="Bounds that a paper publishes; options that are given win.",
)
@options.option(
    "--region",
    metavar="EXPR",
    help="SQL expression over each of `objects` that must be true: name, score (the detector's), area and box_area "
    "(shares of the picture), and of its crop clip (cosine to the name), match (its share against `not NAME`), "
    "aesthetic. Others are taken out of the list; a row without any left is dropped.",
)
@options.option(
    "--fix-rotation",
    is_flag=True,
    help="First turn upright, as new pixels, pictures whose lines are surely 2 to 10 degrees off, in rows of one "
    "picture; the rest keep their bytes. The scores `rotation` and `orientation` say what was done.",
)
@options.option("--where", metavar="EXPR", help="SQL expression over the row's columns that must be true (DuckDB).")
@options.option(
    "--image",
    type=click.Choice(["target", "source", "result"]),
    default="target",
    show_default=True,
    help="Which picture is measured: the target (of a one-image row, the picture), the first source, or the result.",
)
@options.option(
    "--step",
    type=click.Choice(["verdict"]),
    setting=False,
    group="Run",
    help="Only find the quantiles, and write them to -o FILE, for array tasks to read with --verdict.",
)
@options.option(
    "--verdict",
    metavar="FILE",
    group="Run",
    setting=False,
    help="Quantiles found by --step verdict, of the same rows or of a sample.",
)
@_model_names
@options.model_options
@options.mark_option
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, input: tuple[str, ...], where: str | None, mark: str | None, **given: object) -> None:
    """Keep rows whose pictures and columns meet bounds.

    A BOUND is a number, A..B, or quantiles of the data itself: q05 is at least the 5% quantile, q01..q99 between
    two. `..` bounds nothing: the score is measured and stored in the column `scores`, where later commands find
    it without decoding anything. What is dropped goes to the rejects with its reason and measured value.

    With --fix-rotation the picture is turned by the angle of its straight lines (horizon, buildings, lines of text) and
    cut to its own aspect ratio, before anything is measured; scores that it has already become null, as they are of
    another picture. `rotation` is in degrees counter-clockwise, 0 where the picture stays as it is; where it is null
    nobody looked: at edit rows, whose source and target would no longer fit, and at rows with a mask, objects or a
    result. Of photographs of nature few are turned; most crooked ones stay. EXIF orientation needs no fixing: every
    command applies it.

    A model is a folder, a name below the folder that EDITTOOLS_WEIGHTS names, or OWNER/NAME on the Hugging Face hub.
    Weights are safetensors; `python -m edittools.models.convert FILE FOLDER` makes them of releases in other formats.
    The score of a model or text that is not the default has its name in it, such as clip_score_instruction.
    """
    from edittools.filters import Bounds, filters
    from edittools.filters.models import Models
    from edittools.filters.stage import FilterStage
    from edittools.stream.batch import Stage
    from edittools.stream.run import open_input, run

    run_options = options.run_settings(ctx)
    wanted = [
        (item, Bounds.parse(str(ctx.params[name]), item.bare, item.flag))
        for name, item in filters().items()
        if ctx.params[name] is not None
    ]
    region = ctx.params["region"]
    fix_rotation = ctx.params["fix_rotation"]
    if not wanted and where is None and region is None and not fix_rotation:
        raise UsageError("no filter given", hint="see `edit filter --help` for what can be bounded")
    named = "clip dino classifier label raft foreground foreground_label text source_text language".split()
    named += ["device", "dtype", "batch_size"]
    models = Models(aesthetic=ctx.params["aesthetic_head"], **{name: ctx.params[name] for name in named})
    stage = FilterStage(
        wanted,
        where=where,
        image=ctx.params["image"],
        mark=mark,
        max_pixels=ctx.params["max_pixels"],
        jobs=options.jobs(ctx),
        models=models,
    )
    stages: list[Stage] = [stage]
    if fix_rotation:
        from edittools.filters.straighten import StraightenStage

        if stage.verdict_digest is None or ctx.params["step"]:
            raise UsageError(
                "--fix-rotation makes other pictures than those whose quantiles would be found",
                hint="two commands: edit filter --fix-rotation, then edit filter with the quantiles",
            )
        if stage.image != "target":
            raise UsageError(f"--fix-rotation turns rows of one picture, their target; --image says {stage.image}")
        stages.insert(0, StraightenStage(max_pixels=stage.max_pixels, jobs=stage.jobs))
    source = open_input(list(input), run_options)
    roles = stage.roles(source.schema, stored=False)
    if region is not None:
        from edittools.filters.regions import RegionStage

        regions = RegionStage(
            region, image=stage.image, mark=mark, max_pixels=stage.max_pixels, jobs=stage.jobs, models=models
        )
        stages.append(regions)
        roles += regions.roles
    settings = options.settings(ctx, **models.settings(roles, stage.roles(source.schema, stored=True)))
    if ctx.params["verdict"]:
        stage.load_verdict(ctx.params["verdict"])
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    if ctx.params["step"] == "verdict":
        if run_options.output in (None, "-"):
            raise UsageError("--step verdict writes a file: name it with -o FILE")
        options.refuse_existing(run_options.output, run_options.overwrite)
        stage.gather(source.batches(lambda shard: True))
        stage.decide()
        stage.save_verdict(run_options.output)
        return
    run("filter", source, stages, settings, run_options)
