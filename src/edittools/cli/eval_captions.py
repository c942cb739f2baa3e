"""`edit eval captions`"""

from __future__ import annotations

import click

from edittools.cli import figures, options
from edittools.errors import UsageError


@options.command(
    "eval captions",
    cost="Reads once and asks nobody, about 1 ms a text; decodes only the images that the page shows.",
    examples=(
        ("edit eval captions --cases cases/", "the fixed list: exact edits of drawn scenes"),
        ("edit eval captions told/ -o captions.html", "what it tells right, per kind and language, and what not"),
    ),
)
@options.input_options
@options.option(
    "--cases", metavar="DIR/", group="Output", setting=False,
    help="Write the fixed list of rows here, and end: 53 templates, hybrids and turns of dialogues, without task, mask "
    "and instruction.",
)  # fmt: skip
@options.option(
    "--columns", metavar="A,B,...", group="Input",
    help="Columns of texts. Default: all `instruction_...`, and `changes` and `task` of kind detailed.",
)  # fmt: skip
@figures.figure_options
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], **given: object) -> None:
    """Test a captioner on edits that are exactly known.

    INPUT are rows of `edit synth`, or of --cases, with the captions of `edit caption`. The slots say what was edited:
    it is counted whether a text tells the right operation, thing, side, colour, count, text and amount, leaves out no
    atomic edit and invents none. Figures of one list compare; the grammar's own texts have 100 per cent.
    """
    from edittools.bench.captions import CaptionTest, listings
    from edittools.settings import names_of
    from edittools.stream.run import RunOptions, open_input

    params = ctx.params
    if params["cases"] is not None:
        if input or params["output"]:
            raise UsageError("--cases writes the list and reads nothing: it goes with neither INPUT nor --output")
        _write_cases(params["cases"], params["limit"], params["overwrite"])
        return
    figures.need_input(ctx, "captions", "captioned rows", "edit eval captions --cases CASES/ writes rows to caption")
    beside = figures.place_of_figures(ctx)
    source = open_input(list(input), RunOptions(limit=params["limit"], partial=params["partial"]))
    test = CaptionTest(source, names_of(params["columns"] or ()))
    found = test.summary()
    if params["output"] is not None:
        figures.write_report(params["output"], beside, test.html(params["title"] or "Captions of known edits"), found)
    figures.print_figures(found, listings(found), figures.format_of(ctx))


def _write_cases(folder: str, limit: int | None, overwrite: bool) -> None:
    from edittools.bench.caption_cases import CaptionCases
    from edittools.stream.pipes import Limited
    from edittools.stream.run import RunOptions, run
    from edittools.synth.core import Tools

    cases = CaptionCases(Tools())
    source = cases if limit is None else Limited(cases, limit)
    output = f"{folder.rstrip('/')}/"
    run("eval", source, [], cases.settings, RunOptions(output=output, overwrite=overwrite, max_errors="100%"))
