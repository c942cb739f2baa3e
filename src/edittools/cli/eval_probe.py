"""`edit eval probe`"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import figures, options
from edittools.errors import EditError, UsageError

if TYPE_CHECKING:
    from edittools.bench.probe import LabelledText
    from edittools.stream.source import Source


@options.command(
    "eval probe",
    cost="Reads the texts once, and fits six small models: seconds for thousands of rows.",
    examples=(
        ("edit eval probe told/", "what `edit caption --kinds perturb` has written, beside the instructions"),
        ("edit eval probe good/ --negatives bad/ --max-auc 0.6", "negatives that are rows of their own"),
        ("edit eval probe rated/ --negative-if 'scores.human < 3'", "by an expression"),
    ),
)
@options.input_options
@options.option("--column", metavar="NAME", default="instruction", show_default=True, help="The text of a positive.")
@options.option(
    "--negative-column", metavar="NAME", default="instruction_negative", show_default=True,
    help="The text of the negative that stands in the same row.",
)  # fmt: skip
@options.option("--negatives", metavar="PATH", group="Input", help="Rows that are the negatives, by --column.")
@options.option(
    "--negative-if", metavar="EXPR", help="SQL expression: which rows are negatives, by --column; the others are not."
)
@options.option(
    "--max-auc", type=click.FloatRange(0.5, 1), metavar="AUC", default=0.55, show_default=True,
    help="Above it the negatives give themselves away, and the exit status is 1.",
)  # fmt: skip
@options.bootstrap_seed_option
@options.option(
    "-f", "--format", type=click.Choice(["table", "markdown", "latex", "json"]), group="Output", setting=False,
    help="What goes to standard output: a table on a terminal, JSON elsewhere.",
)  # fmt: skip
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], **given: Any) -> None:
    """Say whether hard negatives can be told by their words alone.

    A classifier that sees no image, only the instruction, is fitted to four fifths of the rows and asked about the
    rest. An area under the ROC curve (AUC) of .5 means that it cannot tell; what a judge learns from such negatives it
    learns by looking. Where negatives were rewritten by a model and positives were not, it is near 1.
    """
    from edittools.bench.probe import listings, probe
    from edittools.stream.run import RunOptions, open_input

    figures.need_input(ctx, "probe", "rows with negatives", "edit caption --kinds perturb")
    if given["negatives"] is not None and given["negative_if"] is not None:
        raise UsageError("--negatives and --negative-if: one of the two")
    source = open_input(list(input), RunOptions(limit=given["limit"], partial=given["partial"]))
    by_language: dict[str, list[LabelledText]] = {}
    for language, sample in _samples(source, given):
        by_language.setdefault(language, []).append(sample)
    if not by_language:
        raise EditError("there is no text in the input")
    found: dict[str, Any] = {}
    too_few: dict[str, str] = {}
    for language, samples in sorted(by_language.items()):
        try:
            found[language] = probe(samples, given["seed"])
        except EditError as error:
            too_few[language] = str(error)
    if not found:
        raise EditError("; ".join(f"{language}: {why}" for language, why in too_few.items()))
    worst = max(part["auc"] or 0.0 for part in found.values())
    told = {"languages": found, "too_few": too_few, "max_auc": given["max_auc"], "passed": worst <= given["max_auc"]}
    figures.print_figures(told, listings(told), figures.format_of(ctx))
    if not told["passed"]:
        raise EditError(
            f"the words alone tell negatives from positives: AUC {worst:.3f}, more than {given['max_auc']:g}",
            hint="write positives anew by the same model, in the same style; or swap instructions between rows",
        )


def _samples(source: Source, given: dict[str, Any]) -> Iterator[tuple[str, LabelledText]]:
    """Language and sample of every text. Raises UsageError."""
    from edittools.stream.run import RunOptions, open_input

    column = given["column"]
    if given["negatives"] is not None:
        yield from _of(source, column, negative=False)
        yield from _of(open_input([given["negatives"]], RunOptions()), column, negative=True)
    elif given["negative_if"] is not None:
        from edittools.filter.expression import Expression

        yield from _of(source, column, Expression(given["negative_if"], "--negative-if"))
    else:
        yield from _of(source, column, negative=False, beside=given["negative_column"])


def _of(source: Source, column: str, negative: Any, beside: str | None = None) -> Iterator[tuple[str, LabelledText]]:
    """The samples of a source; `negative` is a truth, or an expression. With `beside` rows hold their negative too."""
    from edittools.bench.probe import LabelledText
    from edittools.stream.rows import column_values

    for name in filter(None, (column, beside)):
        if name not in source.schema.names:
            raise UsageError(f"the input has no `{name}` column", hint="--negatives PATH, or --negative-if EXPR")
    for batch in source.batches(lambda shard: True):
        rows = batch.rows
        kinds = [negative] * rows.num_rows if isinstance(negative, bool) else negative.true_for(rows).tolist()
        known = {
            name: column_values(rows, name) for name in ("id", "task", "perturbation") if name in rows.schema.names
        }
        blank = [None] * rows.num_rows
        said = [_texts(value) for value in column_values(rows, column)]
        sides = [(said, kinds)]
        if beside is not None:  # a row without a negative has no positive either: they are 1:1, in every language
            other = [_texts(value) for value in column_values(rows, beside)]
            sides = [(_both(said, other), kinds), (_both(other, said), [True] * rows.num_rows)]
        for values, truth in sides:
            for texts, is_negative, identity, task, made in zip(
                values, truth, *(known.get(name, blank) for name in ("id", "task", "perturbation"))
            ):
                operator = (made or {}).get("operator") if is_negative and isinstance(made, dict) else None
                for language, text in texts.items():
                    yield language, LabelledText(text, bool(is_negative), str(identity), task or "", operator or "")


def _texts(value: Any) -> dict[str, str]:
    """The texts of a value by their languages; `text` where it is a plain one."""
    return {name: str(text) for name, text in (value if isinstance(value, dict) else {"text": value}).items() if text}


def _both(texts: list[dict[str, str]], others: list[dict[str, str]]) -> list[dict[str, str]]:
    """Of every row the languages in which there are both."""
    return [{name: text for name, text in one.items() if name in other} for one, other in zip(texts, others)]
