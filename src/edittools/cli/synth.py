"""`edit synth`"""

from __future__ import annotations

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "synth",
    cost="Reads once and streams: decodes each picture once, and makes about 400 pairs of 128×128 pixels a second and "
    "core.",
    examples=(
        ("edit synth clean/ --per-row 4 -o pairs/", "four different edits of every picture"),
        ("edit synth clean/ --kinds add,remove,replace --inverse -o local/", "objects, and each edit backwards too"),
        ("edit synth --list", "the kinds, and the task of each"),
    ),
)
@options.input_options
@options.pixel_option
@options.option("--kinds", metavar="A,B,...", help="Kinds to make, or `all`; `-NAME` leaves one out. Default: all.")
@options.option(
    "--per-row",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Edits of every picture, of different kinds as far as there are.",
)
@options.option("--inverse", is_flag=True, help="Add the inverse of every edit that has one.")
@options.option(
    "--size",
    type=click.IntRange(16, 8192),
    metavar="PIXELS",
    help="Cut a centred square and resize it to this first. Default: work at the picture's own size.",
)
@options.option(
    "--fonts",
    metavar="PATH",
    setting=False,
    help="A font file, or a folder of them. Default: what fontconfig finds.",
)
@options.seed_option
@options.option("--list", "listing", is_flag=True, group="Run", setting=False, help="List the kinds and stop.")
@options.output_options
@options.run_options
@click.pass_context
def command(
    ctx: click.Context,
    input: tuple[str, ...],
    kinds: str | None,
    per_row: int,
    inverse: bool,
    size: int | None,
    fonts: str | None,
    seed: int,
    listing: bool,
    **given: object,
) -> None:
    """Make edit pairs from pictures with exact, model-free templates.

    Every pair has its target, the mask of what changed, an English and a Chinese instruction that says the edit
    exactly, and the values it was drawn with in `provenance`. `hybrid` joins two edits in one instruction, `dialogue`
    makes three turns. A row's edits depend on --seed and its id only. What a kind cannot do to a picture (no font for
    Chinese, too small, nothing would change) is counted in the rejects.
    """
    from edittools.stream.run import open_input, run
    from edittools.synth import find_fonts, task_of, template_names
    from edittools.synth.stage import SynthStage

    chosen = choose(kinds, template_names())
    if listing:
        for name in chosen:
            click.echo(f"{name:20} {task_of(name)}")
        return
    run_options = options.run_settings(ctx)
    source = open_input(list(input), run_options)
    # Which fonts draw the letters changes the pixels, so their names belong to the settings.
    found = find_fonts(fonts) if fonts else find_fonts()
    if fonts and not found.names():
        raise UsageError(f"--fonts {fonts}: no font there", hint="name a font file, or a folder of .ttf, .otf or .ttc")
    settings = options.settings(ctx, kinds=chosen, fonts=found.names())
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    stage = SynthStage(
        kinds=chosen,
        per_row=per_row,
        seed=seed,
        fonts=found,
        size=size,
        inverse=inverse,
        max_pixels=ctx.params["max_pixels"],
        jobs=options.jobs(ctx),
    )
    run("synth", source, [stage], settings, run_options)


def choose(text: str | None, known: list[str]) -> list[str]:
    """The kinds that a list names. Raises UsageError for one that does not exist."""
    names = [name.strip() for name in ("all" if text is None else text).split(",") if name.strip()]
    without = [name[1:] for name in names if name.startswith("-")]
    wanted = [name for name in names if not name.startswith("-")]
    if "all" in wanted or (without and not wanted):
        wanted = known
    for name in (*wanted, *without):
        if name not in known:
            raise UsageError(f"--kinds: there is no `{name}`", hint="`edit synth --list` shows them")
    chosen = [name for name in dict.fromkeys(wanted) if name not in without]
    if not chosen:
        raise UsageError("--kinds: nothing is left")
    return chosen
