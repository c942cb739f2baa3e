"""`edit judge`"""

from __future__ import annotations

import click

from edittools.cli import options


@options.command(
    "judge",
    cost="Reads once and streams; decodes every picture of a row once.",
    examples=(
        ("edit judge pairs/ | edit filter --where 'scores.visible = 1' -o good/", "drop pairs without a visible edit"),
        ("edit sample held/ --model run/ | edit judge -o judged/", "compare results with the truth"),
    ),
)
@options.input_options
@options.pixel_option
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, input: tuple[str, ...], **given: object) -> None:
    """Score pairs: is the edit visible and where; is the result the truth.

    Into the column `scores`: `visible` (0 or 1), `edit_ratio` (share of pixels that change by more than 8 of 255),
    `mask_share` and `mask_iou` (how well the change agrees with the mask), `copy_psnr`, `copy_ssim`, `copy_l1` (target
    against source), and `edit_box` beside it. After `edit sample` also `psnr`, `ssim`, `l1` of the result against the
    target, inside and outside the mask, and the same for copying the source. PSNR is in dB and capped at 100.
    """
    from edittools.judges.stage import JudgeStage
    from edittools.stream.run import open_input, run

    run_options = options.run_settings(ctx)
    source = open_input(list(input), run_options)
    settings = options.settings(ctx)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    stage = JudgeStage(max_pixels=ctx.params["max_pixels"], jobs=options.jobs(ctx))
    run("judge", source, [stage], settings, run_options)
