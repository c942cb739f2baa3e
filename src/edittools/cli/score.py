"""`edit score`"""

from __future__ import annotations

import click

from edittools.cli import options
from edittools.score.config import ScoreConfig


@options.command(
    "score",
    cost="Reads once and streams; decodes every image of a row once.",
    examples=(
        ("edit score pairs/ | edit filter --where 'scores.visible = 1' -o good/", "drop pairs without a visible edit"),
        ("edit sample held/ --model run/ | edit score -o scored/", "compare results with the truth"),
        ("edit score results/ --alignment -o measured/", "do the results lie where their sources do?"),
        (
            "edit score results/ --reward-model editreward --reward-weights EditReward/ --prompts EditReward-code/ "
            "-o rewarded/",
            "what a trained reward model gives",
        ),
        ("edit score results/ --ocr -o read/", "does the writing read as the instructions want it?"),
    ),
)
@options.input_options
@options.config_options(ScoreConfig)
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, /, **given: object) -> None:
    """Measure pairs and results: is the edit visible and where; how near is the result to the truth.

    Into the column `scores`: `visible` (0 or 1), `edit_ratio` (share of pixels that change by more than 8 of 255),
    `mask_share` and `mask_iou` (how well the change agrees with the mask), `copy_psnr`, `copy_ssim`, `copy_l1` (target
    against source), and `edit_box` beside it. After `edit sample` also `psnr`, `ssim`, `l1` of the result against the
    target, inside and outside the mask, and the same for copying the source. PSNR is in dB and capped at 100.
    --alignment adds how far the unedited was moved, zoomed or turned: models do that to what they were to leave alone.
    --clip and --dino add the similarity of result and target in these spaces, whole, inside and outside, and whether
    the result left the source in the target's direction. What a model thinks of a result is `edit judge`'s to ask.
    """
    from edittools.score.stage import score_stage

    options.run_stages(ctx, [score_stage(options.config(ctx, ScoreConfig), jobs=options.jobs(ctx))])
