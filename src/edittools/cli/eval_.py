"""`edit eval`: finds the file of a verb."""

from __future__ import annotations

from typing import Any

import click

from edittools.cli.lazy import LazyGroup
from edittools.errors import UsageError

# In the order of the road; so that `edit eval --help` imports none of them.
VERBS = {
    "cases": "list the cases of a benchmark, as rows to edit",
    "export": "write results where a benchmark's judge script looks for them",
    "rescore": "score again what a benchmark's official script wrote",
    "report": "report on a benchmark, held-out rows, or two models' results side by side",
    "compare": "compare several models over the same cases of a benchmark",
    "captions": "test a captioner on edits that are exactly known",
    "coverage": "say which requests a data set leaves uncovered",
    "dataset": "say what a data set consists of",
    "probe": "say whether hard negatives can be told by their words alone",
    "judges": "say how often a judge prefers what people prefer",
    "build": "make a benchmark out of rows",
    "study": "let people compare models, rate edits or review pairs, and score what they answer",
    "checkpoints": "compare the models that a training run has kept",
}
# Before there were verbs an option said what was to be done with BENCH; it still says which verb is meant.
_BEFORE = {
    "--cases": "cases {} PATH",
    "--export": "export ROWS -o DIR/",
    "--rescore": "rescore {} PATH",
    "--versus": "compare {} NAME=ROWS NAME=ROWS",
}


class Verbs(LazyGroup):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in VERBS and not ctx.resilient_parsing:
            _refuse_without_verb(args)
        return super().resolve_command(ctx, args)


def _refuse_without_verb(args: list[str]) -> None:
    """Raises UsageError for `edit eval BENCH ...`: which verb is meant."""
    from edittools.suites import benchmark_names

    name = args[0]
    if name not in (*benchmark_names(), "heldout", "pairwise"):
        return
    given = {word.partition("=")[0] for word in args}
    meant = next((line for option, line in _BEFORE.items() if option in given), "report {} ROWS")
    raise UsageError(f"{name}: expected a verb before it", hint=f"edit eval {meant.format(name)}; edit eval --help")


@click.command(
    "eval",
    cls=Verbs,
    listed=VERBS,
    place="edittools.cli.eval_{}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def command() -> None:
    """Evaluate: public benchmarks, held-out rows, captions, data sets, human studies, checkpoints.

    A benchmark from beginning to end:

      edit eval cases BENCH COPY/ | edit sample --model run/ -o results/

      edit judge results/ --rubric BENCH --model J -o judged/

      edit eval report BENCH judged/ -o report.html
    """
