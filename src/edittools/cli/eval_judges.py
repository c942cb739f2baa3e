"""`edit eval judges`"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import figures, options
from edittools.errors import EditError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from edittools.bench.judges import JudgedPair
    from edittools.stream.source import Source


@options.command(
    "eval judges",
    cost="Reads the scores once.",
    examples=(
        (
            "edit judge bench/ --rubric rating --model run-judge/ --soft --column result_a --judge a "
            "--cache-dir said/ | "
            "edit judge --rubric rating --model run-judge/ --soft --column result_b --judge b --cache-dir said/ | "
            "edit eval judges --people editreward_preference --first judge_rating_rating_soft__a "
            "--second judge_rating_rating_soft__b",
            "a judge of single images, on the pairs of EditReward-Bench",
        ),
        (
            "edit filter told/ --where 'instruction_negative IS NOT NULL' | "
            "edit judge --rubric rating --model run-judge/ --soft --column target --judge yes --cache-dir said/ | "
            "edit judge --rubric rating --model run-judge/ --soft --column target --judge no "
            "--instruction instruction_negative --cache-dir said/ | "
            "edit eval judges --first judge_rating_rating_soft__yes --second judge_rating_rating_soft__no --by task "
            "--by perturbation.operator",
            "on hard negatives (`edit caption --kinds slots`), by their kind",
        ),
        (
            "edit eval judges compared/ --people editreward_preference --score judge_pairwise_preference --by dataset",
            "one that compares, `edit judge --rubric pairwise`",
        ),
    ),
)
@options.input_options
@options.option(
    "--people", metavar="SCORE",
    help="The score that says what people prefer: 1 the first, 0 the second, 0.5 neither. Default: the first is better "
    "in every row, as an instruction is beside its hard negative.",
)  # fmt: skip
@options.option("--first", metavar="SCORE", help="The judge's score of the first image.")
@options.option("--second", metavar="SCORE", help="The judge's score of the second image.")
@options.option("--score", metavar="SCORE", help="Instead: the judge's preference, 1 the first, 0 the second.")
@options.option(
    "--by",
    multiple=True,
    metavar="COLUMN",
    help="Count by this column too, or COLUMN.FIELD. Default: `task`, where there is one.",
)
@options.option(
    "-f", "--format", type=click.Choice(["table", "markdown", "latex", "json"]), group="Output", setting=False,
    help="What goes to standard output: a table on a terminal, JSON elsewhere.",
)  # fmt: skip
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], **given: Any) -> None:
    """Say how often a judge prefers what people prefer.

    A row is two results of one edit with people's choice; without --people the first is taken to be the better one, as
    an instruction is beside its hard negative. `edit shard --from editreward` and `--from editscore` read the two
    benchmarks called EditReward-Bench, `--from vcreward` that of visual consistency (GEditBench v2): the choice is
    `editreward_preference`, `editscore_preference`, `vcreward_preference`, the images are `result_a` and `result_b`.
    Rows of one `group` are pairs of the same results: a group is right where all of its pairs are. The accuracy is of
    pairs that people decided; where the judge finds both even it is wrong.
    """
    from edittools.bench.judges import judges, listings
    from edittools.stream.run import RunOptions, open_input

    figures.need_input(ctx, "judges", "judged pairs with people's choice", "edit shard --from editreward")
    sides = given["first"] is not None, given["second"] is not None
    if (given["score"] is None) == (not all(sides)) or any(sides) != all(sides):
        raise UsageError("--first and --second, scores of both images; or --score, the judge's preference")
    source = open_input(list(input), RunOptions(limit=given["limit"], partial=given["partial"]))
    pairs = list(_pairs(source, given))
    if not pairs:
        people = given["people"]
        raise EditError("there are no rows" if people is None else f"no row says in `{people}` what people prefer")
    if all(pair.margin is None for pair in pairs):
        raise EditError(f"the judge has scored none of {len(pairs)} pairs")
    found = judges(pairs)
    figures.print_figures(found, listings(found), figures.format_of(ctx))


def _pairs(source: Source, given: dict[str, Any]) -> Iterator[JudgedPair]:
    """Raises UsageError for a score or a column that is not there, and for a preference that is none."""
    from edittools.bench.judges import JudgedPair
    from edittools.stream.rows import column_values
    from edittools.stream.scores import check_score, score_types

    names = source.schema.names
    others = [name for name in score_types(source.schema) if re.fullmatch(r"(?!judge_).*_preference", name)]
    if given["people"] is None and others:
        raise UsageError("--people: which score says what people prefer?", hint=f"it has {', '.join(others)}")
    for name in filter(None, (given["people"], given["first"], given["second"], given["score"])):
        check_score(source.schema, name)
    by = given["by"] or [name for name in ("task",) if name in names]
    read = [_reader(source.schema, name) for name in by]
    for batch in source.batches(lambda shard: True):
        groups = column_values(batch.rows, "group")
        parts = [values(batch.rows) for values in read]
        for k, scores in enumerate(column_values(batch.rows, "scores")):
            said = scores or {}
            people = 1.0 if given["people"] is None else said.get(given["people"])
            if people is None:
                continue
            if people not in (0, 0.5, 1):
                raise UsageError(f"--people {given['people']}: 1, 0.5 or 0 is meant, and a row has {people:g}")
            if given["score"] is not None:
                value = said.get(given["score"])
                margin = None if value is None else value - 0.5
            else:
                first, second = (said.get(given[side]) for side in ("first", "second"))
                margin = None if first is None or second is None else first - second
            which = tuple((name, str(column[k])) for name, column in zip(by, parts) if column[k] is not None)
            yield JudgedPair(people, margin, groups[k] or "", which)


def _reader(schema: pa.Schema, name: str) -> Callable[[pa.RecordBatch], list[Any]]:
    """The values of a column, or of a field of one, COLUMN.FIELD. Raises UsageError where there is none."""
    import pyarrow as pa

    from edittools.stream.rows import column_values

    column, dot, field = name.partition(".")
    kind = schema.field(column).type if column in schema.names else None
    fields = [each.name for each in kind] if kind is not None and pa.types.is_struct(kind) else []
    if kind is None or (dot and field not in fields):
        raise UsageError(f"--by {name}: the input has no such column")
    if not dot and fields:
        raise UsageError(f"--by {name}: holds several values", hint=f"{name}.FIELD, one of {', '.join(fields)}")
    if not dot:
        return lambda rows: column_values(rows, column)
    return lambda rows: [None if each is None else each[field] for each in column_values(rows, column)]
