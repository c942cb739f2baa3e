"""`edit caption`"""

from __future__ import annotations

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "caption",
    cost="Reads once and streams; opens no picture.",
    examples=(
        ("edit caption pairs/ -o captioned/", "a column per style, English and Chinese"),
        ("edit synth clean/ | edit caption --styles concise -o pairs/", "one style, in a pipe"),
    ),
)
@options.input_options
@options.option(
    "--styles", default="detailed,concise,user_like", show_default=True, metavar="A,B,...", help="Styles to write."
)
@options.seed_option
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, input: tuple[str, ...], styles: str, seed: int, **given: object) -> None:
    """Write instructions in several styles and two languages.

    Without a model: from the template and the values that `edit synth` recorded, by a grammar. Each style becomes a
    column `instruction_STYLE` with `en` and `zh`; `instruction` stays as it is. Rows that no template made get null.
    """
    from edittools.captions import style_names
    from edittools.captions.stage import CaptionStage
    from edittools.stream.run import open_input, run

    wanted = list(dict.fromkeys(name.strip() for name in styles.split(",") if name.strip()))
    for name in wanted:
        if name not in style_names():
            raise UsageError(f"--styles: there is no `{name}`", hint="known: " + ", ".join(style_names()))
    if not wanted:
        raise UsageError("--styles: nothing is left")
    run_options = options.run_settings(ctx)
    source = open_input(list(input), run_options)
    settings = options.settings(ctx, styles=wanted)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    run("caption", source, [CaptionStage(styles=wanted, seed=seed)], settings, run_options)
