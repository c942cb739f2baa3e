"""`edit filter`"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from edittools.cli import options
from edittools.errors import UsageError
from edittools.filter.config import FilterConfig

_PRESETS = Path(__file__).parents[1] / "filter" / "presets"


def presets() -> dict[str, dict[str, Any]]:
    """Settings of every preset, by the names of options."""
    return {
        path.stem: tomllib.loads(path.read_text(encoding="utf-8"))["filter"] for path in sorted(_PRESETS.glob("*.toml"))
    }


@options.command(
    "filter",
    cost="Reads once and streams; decodes an image once per raster (all filters with models share one), and "
    "only for scores its row does not have yet; --fix-rotation decodes once more and takes about 30 ms. "
    "Bounds on quantiles (q05) take a second pass and 8 bytes per row and filter of temporary disk; of a pipe the "
    "references are kept in TMPDIR (about 100 bytes a row; images sent --inline are kept too). --nearest decodes every "
    "image once, in a first pass, and keeps 24 bytes of each.",
    examples=(
        ("edit filter raw/ --min-side 512 --sharpness q05 -o clean/", "no small images, not the 5% least sharp"),
        ("edit filter raw/ --preset firered -o usual/", "without the outliers of five measures that FireRed drops"),
        ("edit filter pairs/ --where \"scores.edit_ratio > 0.01 AND task <> 'text'\" -o kept/", "any column, as SQL"),
        ("edit filter pairs/ --review reviews.jsonl -o reviewed/", "what people accepted, and their corrections"),
        ("edit filter judged/ --by psnr --best 1 -o best/", "the best candidate of every row"),
        (
            "edit filter judged/ --by judge_viescore_overall --group-mean 3.. --group-spread q50.. -o semi-hard/",
            "rows that the model can do, and does unevenly",
        ),
        (
            "edit filter pool/ --nearest gaps.jsonl --clip google/siglip2-so400m-patch14-384 -o base/",
            "images to make what the data lack of",
        ),
    ),
)
@options.input_options
@options.config_options(FilterConfig)
@options.preset_option(_PRESETS, "Bounds that a paper publishes")
@options.option(
    "--phase",
    type=click.Choice(["decide"]),
    setting=False,
    group="Run",
    help="Only find the quantiles, or the nearest, and write them to -o FILE, for array tasks with --decisions.",
)
@options.option(
    "--decisions",
    metavar="FILE",
    group="Run",
    setting=False,
    help="What --phase decide found: quantiles of the same rows or of a sample, the nearest of the same rows.",
)
@options.output_options
@options.run_options
@click.pass_context
def command(
    ctx: click.Context, /, input: tuple[str, ...], phase: str | None, decisions: str | None, **given: object
) -> None:
    """Keep rows whose images and columns meet bounds.

    A BOUND is a number, A..B, or quantiles of the data itself: q05 is at least the 5% quantile, q01..q99 between
    two. `..` bounds nothing: the score is measured and stored in the column `scores`, where later commands find
    it without decoding anything. What is dropped goes to the rejects with its reason and measured value. All about one
    filter, its usual bounds, columns and models among it: `edit man filter NAME`.

    With --fix-rotation the image is turned by the angle of its straight lines (horizon, buildings, lines of text) and
    cut to its own aspect ratio, before anything is measured. Existing scores are then set to null, because the image
    changed. `rotation` is in degrees counter-clockwise, and 0 where the image stays as it is. It is null for rows that
    are never rotated: edit rows, and rows with a mask, objects or a result. Few photographs of nature are turned: most
    crooked ones stay. EXIF orientation needs no fixing, because every command applies it.

    Of candidates (`edit sample --candidates`) --by names the score that groups are chosen by: --best N keeps the N best
    of every group, and --group-mean, --group-spread, --group-worst keep groups, each as one row without its results,
    which is what training by rewards begins from (semi-hard mining: a mean that is not hopeless, a large spread).

    A model is a folder, a name below the folder that EDITTOOLS_WEIGHTS names, or OWNER/NAME on the Hugging Face hub.
    Weights are safetensors; `python -m edittools.convert FILE FOLDER` makes them of releases in other formats.
    The score of a model or text that is not the default has its name in it, such as clip_score_instruction.
    """
    from edittools.filter.base_images import BaseImagesStage
    from edittools.filter.groups import GroupStage
    from edittools.filter.stage import FilterStage, filter_stages
    from edittools.stream.run import open_input, run, settings_of

    run_options = options.run_settings(ctx)
    config = options.config(ctx, FilterConfig)
    if phase and config.fix_rotation:
        raise UsageError(
            "--fix-rotation makes other images than those whose quantiles would be found",
            hint="two commands: edit filter --fix-rotation, then edit filter with the quantiles",
        )
    if phase and config.review:
        raise UsageError("--review drops rows", hint="two commands: edit filter --review, then edit filter")
    stages = filter_stages(config, options.jobs(ctx))
    deciding = [one for one in stages if isinstance(one, FilterStage | GroupStage | BaseImagesStage)]
    # What is decided by quantiles; without any, the choice is one of the measured bounds.
    stage = next((one for one in deciding if one.decisions_digest is None), deciding[0])
    source = open_input(list(input), run_options)
    settings = settings_of(stages, source, run_options.limit)
    if decisions:
        stage.load_decisions(decisions)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    if phase == "decide":
        if run_options.output in (None, "-"):
            raise UsageError("--phase decide writes a file: name it with -o FILE")
        options.refuse_existing(run_options.output, run_options.overwrite)
        stage.gather(source.batches(lambda shard: True))
        stage.decide()
        stage.save_decisions(run_options.output)
        return
    run("filter", source, stages, settings, run_options)
