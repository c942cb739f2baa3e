"""`edit pair`"""

from __future__ import annotations

import click

from edittools.cli import options
from edittools.pair.config import PairConfig


@options.command(
    "pair",
    cost="Reads once and streams; decodes the two images of a pair. Of sets of --winners it keeps the rows of one "
    "shard, about 400 bytes each.",
    examples=(
        ("edit pair judged/ --by judge_viescore_overall --margin 1 -o pairs/", "the best candidate beats the worst"),
        (
            "edit pair judged/ --by psnr,judge_viescore_overall:2 --per-group 2 -o pairs/",
            "by two scores, each normalised within its group, and two pairs of a group",
        ),
        (
            "edit pair judged/ --winners expert-a/ --winners expert-b/ --by judge_viescore_overall -o pairs/",
            "winners of two experts, losers of the model itself",
        ),
        ("edit pair scored/ --winners target --by psnr -o pairs/", "the truth beats the worst candidate"),
    ),
)
@options.input_options
@options.config_options(PairConfig)
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, /, **given: object) -> None:
    """Make preference pairs of candidates.

    INPUT are candidates with scores: `edit sample --candidates K`, then `edit score`, `edit judge` or `edit filter`. A
    pair is a row whose `target` is the winner and `rejected` the loser; the rest of its columns are the loser's. Into
    `scores` go `winner`, `loser`, `margin` and `rejected_psnr` (of the two images), `provenance` and
    `rejected_provenance` say of which model and seed each is. The score of a sum of several is in standard deviations
    within the group.

    Whatever is in no pair is rejected, with its reason: `tie`, `margin`, `near-equal`, `no score`, `no second score`,
    `no winner`, `dialogue`, or `between` where others of its group are better and worse.
    """
    from edittools.pair.stage import PairStage

    options.run_stages(ctx, [PairStage(options.config(ctx, PairConfig), jobs=options.jobs(ctx))])
