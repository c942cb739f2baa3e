"""`edit eval report pairwise`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edittools.cli import figures, options
from edittools.errors import UsageError

if TYPE_CHECKING:
    from edittools.bench.pairwise import Comparison


@options.command(
    "eval pairwise",
    cost="Reads once; keeps the verdict and references of every row, and decodes only the images it shows.",
    examples=(
        ("edit eval report pairwise judged/ -o pairwise.html", "win rates and Elo points"),
        ("edit eval report pairwise ab/ --models a,b --pair b,c=bc/", "three models, of two sets of rows"),
    ),
)
@options.input_options
@options.option(
    "--models",
    metavar="FIRST,SECOND",
    group="Input",
    help="The two columns that name the models of a row's `result` and of its second one, or the two names. Default: "
    "the columns model_a and model_b, where there are such.",
)
@options.option(
    "--pair",
    metavar="FIRST,SECOND=PATH",
    multiple=True,
    group="Input",
    help="Further rows, in which one model is compared to another; may be given several times.",
)
@options.option(
    "--cluster",
    metavar="COLUMN",
    group="Input",
    help="Rows with the same value are about the same case. Default: the benchmark's case, `group`, or the id.",
)
@options.option(
    "--judge",
    metavar="NAME",
    help="Whose verdicts to use where several have judged: a name, `plain` for the judge without one, `all` for the "
    "mean over them.",
)
@figures.figure_options
@options.bootstrap_seed_option
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], **given: object) -> None:
    """Report win rates and Elo points of models that were compared two by two.

    INPUT are rows in which two models' results were compared (`edit judge --rubric pairwise`): Bradley and Terry's
    model with ties, with 95% intervals over cases.
    """
    from edittools.bench.pairwise import read_comparisons, shown_cases, summarize
    from edittools.bench.score_report import render_pairwise
    from edittools.bench.terminal import pairwise_listings
    from edittools.stream.run import RunOptions, open_input

    params = ctx.params
    output, pair = params["output"], params["pair"]
    if not pair:
        made_by = "edit judge ROWS --rubric pairwise --other-column COLUMN --model J -o JUDGED/"
        figures.need_input(ctx, "report pairwise", "rows", made_by)
    beside = figures.place_of_figures(ctx)
    read = RunOptions(limit=params["limit"], partial=params["partial"])
    parts = [] if pair and not input else [(list(input), _two(params["models"], "--models"))]
    for word in pair:
        names, _, path = word.partition("=")
        parts.append(([path], _two(names, "--pair")))
    sources = [(open_input(paths, read), names) for paths, names in parts]
    comparisons: list[Comparison] = []
    judges: dict[str, set[str]] = {}
    for source, names in sources:
        read_here, by = read_comparisons(source, names, params["cluster"], params["judge"], output is not None)
        comparisons += read_here
        for name, models in by.items():
            judges[name] = judges.get(name, set()) | models
    found = summarize(comparisons, params["seed"])
    found["judges"] = {name: sorted(models) for name, models in judges.items()}
    told = "; ".join(f"{name} ({', '.join(models) or 'unknown'})" for name, models in found["judges"].items())
    found["notes"].append(f"judge: {told}" + (", the mean over them" if len(judges) > 1 else ""))
    listings = pairwise_listings(found)
    if output is not None:
        cases = shown_cases(comparisons)
        summary = f"{found['comparisons']:,} comparisons of {found['cases']:,} cases; {found['failed']:,} failed."
        if 0 < len(cases) < len(comparisons):
            summary += f" Below are the {len(cases)} most contested ones."
        page = render_pairwise(
            listings,
            found["warnings"],
            cases,
            title=params["title"] or "Models compared two by two",
            summary=summary,
            protocol={"rubric": found["rubric"], "judge": told},
            history=[node for source, _ in sources for node in source.history.nodes],
        )
        figures.write_report(output, beside, page, found)
    figures.print_figures(found, listings, figures.format_of(ctx))


def _two(words: str | None, option: str) -> tuple[str, str] | None:
    """Raises UsageError."""
    if words is None:
        return None
    first, _, second = words.partition(",")
    if not first or not second or first == second:
        raise UsageError(f"{option} {words}: expected two names, FIRST,SECOND")
    return first, second
