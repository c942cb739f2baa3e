"""`edit eval study build`, `edit eval study score` and `edit eval study serve`"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from edittools.bench.studies.design import DESIGNS, StudyDimension, all_designs
from edittools.cli import options
from edittools.errors import UsageError
from edittools.judge.rubrics import load_rubric, rubric_names

if TYPE_CHECKING:
    from edittools.bench.studies.items import Item


@click.group("study", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def command() -> None:
    """Let people compare models, rate results or review pairs: a blind page for raters, and what they answer."""


@options.command(
    "eval study build",
    cost="Decodes each image once and keeps one case at a time; the page takes about 200 KB an image.",
    examples=(
        ("edit eval study build cases.jsonl --model a=a/ --model b=b/ -o study/", "study.html and key.json"),
        ("edit eval study build cases.jsonl --model a=a/ --model b=b/ --design two -o study/", "two scores each"),
        ("edit eval study build pairs/ --design review -o study/", "pairs to accept, correct or reject"),
        (
            "edit eval study build judged/ --design rating --rubric dimensions --balance judge_dimensions_overall "
            "--per-score 12 -o study/",
            "results to rate as a judge did, as many of each of its scores",
        ),
    ),
)
@click.argument("input", nargs=-1, required=True, metavar="INPUT...", shell_complete=options.complete_path)
@options.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=DIR",
    group="Input",
    help="A model and its folder of results, ID.png or .jpg or .webp (of a dialogue ID.turn.1.png ...). Two to eight.",
)
@options.option(
    "--design",
    type=click.Choice(DESIGNS.names),
    default="rank",
    show_default=True,
    help=" ".join(f"{name}: {design.help}." for name, design in all_designs().items()),
)
@options.option("--per-task", type=click.IntRange(min=1), metavar="N", help="Draw N cases of each task. Default: all.")
@options.option(
    "--incomplete",
    is_flag=True,
    help="Keep cases without an image of some models; they count for the full set, not for the intersection.",
)
@options.option(
    "--rubric",
    type=click.Choice(rubric_names()),
    group="Rows",
    help="rating: ask about the dimensions of this rubric of `edit judge`. Default: one question, overall.",
)
@options.option(
    "--dimension",
    "dimensions",
    multiple=True,
    metavar="NAME",
    group="Rows",
    help="rating: only about these of --rubric. Default: all but `overall`, where there are others.",
)
@options.option(
    "--balance", metavar="SCORE", group="Rows", help="Draw as many rows of each whole number of this score."
)
@options.option(
    "--per-score",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    metavar="N",
    group="Rows",
    help="--balance: so many rows of each.",
)
@options.option(
    "--image",
    metavar="COLUMN",
    group="Rows",
    help="The edited image of a row. Default: `result` where there is such a column, else `target`.",
)
@options.option(
    "--max-side",
    type=click.IntRange(min=64, max=4096),
    default=1024,
    show_default=True,
    metavar="N",
    group="Output",
    help="Longest side of the page's images.",
)
@options.option("--title", default="Image editing study", show_default=True, group="Output", help="What raters read.")
@options.option("-o", "--output", required=True, metavar="DIR/", group="Output", setting=False, help="Where to write.")
@options.option("--overwrite", is_flag=True, group="Output", setting=False, help="Replace a study that exists.")
@options.study_seed_option
@click.pass_context
def build(ctx: click.Context, /, input: tuple[str, ...], models: tuple[str, ...], design: str, **given: Any) -> None:
    """Make one HTML page that raters open in a browser, and the key that tells its letters apart.

    With --model INPUT is one file of JSON lines: id, task, instruction {"en", "zh"} or `turns` (a list of them), and
    source, a path from the file's own folder. The designs rating, replace and review ask about rows, one at a time:
    INPUT is any rows with a source, an instruction, and a result or target (of replace, what `edit dedup --nearest`
    found). Send raters OUTPUT/study.html alone; each sends back answers-NAME.json. Or `edit eval study serve OUTPUT/`
    gives it to them. OUTPUT/key.json stays with you. A case for which an image cannot be read is left out and counted.
    """
    from edittools.bench.studies import build as study

    of_rows = all_designs()[design].rows
    options.refuse(ctx, ("incomplete", "models") if of_rows else _OF_ROWS, f"has no meaning in the design {design}")
    if not given["balance"]:
        options.refuse(ctx, ("per_score",), "is for --balance")
    common = {"title": given["title"], "side": given["max_side"], "overwrite": given["overwrite"]}
    if of_rows:
        items = _items(ctx, input, design)
        asked = _dimensions(design, given["rubric"], given["dimensions"])
        key = study.build_items(items, design, given["output"], given["seed"], dimensions=asked, **common)
    else:
        if len(input) != 1:
            raise UsageError(f"design {design} takes one list of cases")
        key = study.build_study(
            study.read_cases(input[0]),
            study.models_of(models),
            design,
            given["output"],
            given["seed"],
            per_task=given["per_task"],
            incomplete=given["incomplete"],
            **common,
        )
    click.echo(f"study {key['study']}: {len(key['cases'])} cases, {len(key['dropped'])} dropped", err=True)
    for dropped in key["dropped"][:10]:
        click.echo(f"dropped {dropped['id']}: {dropped['reason']}", err=True)
    if len(key["dropped"]) > 10:
        click.echo(f"dropped {len(key['dropped']) - 10} more: see key.json", err=True)


_OF_ROWS = ("rubric", "dimensions", "balance", "per_score", "image")


def _items(ctx: click.Context, paths: tuple[str, ...], design: str) -> list[Item]:
    from edittools.bench.studies.build import draw
    from edittools.bench.studies.items import balanced, read_items
    from edittools.stream.run import RunOptions, open_input

    given = ctx.params
    source = open_input(list(paths), RunOptions())
    items = read_items(
        source.batches(lambda shard: True), given["image"], given["balance"], all_designs()[design].candidates
    )
    if given["balance"]:
        items = balanced(items, given["per_score"], given["seed"])
    return items if given["per_task"] is None else draw(items, given["per_task"], given["seed"])


def _dimensions(design: str, rubric: str | None, names: tuple[str, ...]) -> list[StudyDimension]:
    """What is asked about by a rubric; none without one. Raises UsageError."""
    if rubric is None:
        if names:
            raise UsageError("--dimension is for --rubric")
        return []
    if all_designs()[design].reasons:
        raise UsageError(f"--rubric has no meaning in the design {design}")
    known = {one.name: one for one in load_rubric(rubric).dimensions}
    for name in names:
        if name not in known:
            raise UsageError(f"--dimension {name}: {rubric} has {', '.join(known)}")
    chosen = names or [name for name in known if name != "overall"] or list(known)
    return [StudyDimension(name, known[name].meaning or load_rubric(rubric).summary) for name in chosen]


@options.command(
    "eval study score",
    cost="Keeps every answer; seconds for a study of ordinary size.",
    examples=(
        ("edit eval study score study/key.json answers-*.json", "a table on the terminal, JSON elsewhere"),
        ("edit eval study score study/key.json answers-*.json -f markdown", "the table for a report"),
        ("edit eval study score study/key.json study/answers.sqlite --export reviews.jsonl", "what a review decided"),
    ),
)
@click.argument("key")
@click.argument("answers", nargs=-1, required=True)
@options.option(
    "--export",
    metavar="FILE",
    group="Output",
    setting=False,
    help="Also write JSON lines: what a review decided, for `edit filter --review`; every rating, for `edit judge "
    "--calibrate` and `--ratings`; public images, for `edit dedup --replace`; of models, every value, for `edit judge "
    "--ratings`.",
)
@options.option(
    "--third",
    metavar="FILE.html",
    group="Output",
    setting=False,
    help="Also write a page, for one more rater, of the cases that those before disagree about (review).",
)
@options.option(
    "--agreed",
    type=click.IntRange(min=1),
    metavar="N",
    group="Rows",
    help="rating: export only what two or more people gave the same score, N items of each score.",
)
@options.option(
    "--judged", metavar="PATH", group="Rows", help="rating: how near a judge comes to people, by these judged rows."
)
@options.option(
    "--rubric", type=click.Choice(rubric_names()), group="Rows", help="--judged: the rubric that it judged by."
)
@options.option(
    "-f",
    "--format",
    type=click.Choice(["table", "markdown", "json"]),
    group="Output",
    setting=False,
    help="What goes to standard output. Default: a table on a terminal, JSON elsewhere.",
)
@options.option("--overwrite", is_flag=True, group="Output", setting=False, help="Replace files that exist.")
@options.bootstrap_seed_option
def score(key: str, answers: tuple[str, ...], format: str | None, seed: int, **given: Any) -> None:
    """Say what the raters of a study found: means, comparisons and intervals, agreement; what a review decided.

    KEY is the study's key.json, ANSWERS one file per rater, or the answers.sqlite of a study that was served. Means are
    over raters, then over the cases of a task, then over tasks. The 95% intervals speak of other cases and of other
    raters; every two models are compared over what the same raters gave them in the same cases, with a win rate in
    which a tie is half. Agreement is Krippendorff's alpha, the share of scores within one level and Spearman's rank
    correlation.

    Of a review: what two who do not know of each other decided, and their agreement (Cohen's kappa, Krippendorff's
    alpha, of the first two only); where they disagree the pair is open until a third has decided. Of ratings: the items
    at each score that two or more gave.
    """
    from edittools.bench.studies.answers import KEY_FORMAT, read_answers, read_json
    from edittools.bench.studies.design import design_of
    from edittools.bench.terminal import summary_json
    from edittools.stream import files
    from edittools.stream.run import stdout_kind

    known = read_json(key, KEY_FORMAT)
    if given["agreed"] is not None and (known.get("design") != "rating" or not given["export"]):
        raise UsageError("--agreed is for the design rating, and needs --export")
    said = [one for path in answers for one in read_answers(path)]
    report = design_of(known).reporter()
    found = report.score(known, said, seed)
    if given["judged"] is not None:
        found["judge"] = _judge_beside(known, said, given["judged"], given["rubric"])
    elif given["rubric"] is not None:
        raise UsageError("--rubric is for --judged")
    if given["third"]:
        from edittools.bench.studies.third import write_third_page

        count = write_third_page(key.rpartition("/")[0] or ".", known, said, given["third"], given["overwrite"])
        click.echo(f"{given['third']}: {count} cases to decide", err=True)
    if given["export"]:
        files.refuse_existing(given["export"], given["overwrite"])
        only = {} if given["agreed"] is None else {"per_score": given["agreed"]}
        files.write_bytes(given["export"], report.export(known, said, **only).encode("utf-8", "replace"))
    chosen = format or ("table" if stdout_kind() == "terminal" else "json")
    if chosen == "json":
        click.echo(summary_json(found), nl=False)
    else:
        click.echo(report.as_text(found, markdown=chosen == "markdown"), nl=False)


def _judge_beside(key: dict[str, Any], answers: list[dict[str, Any]], path: str, rubric: str | None) -> Any:
    """How near the scores of judged rows come to people's ratings. Raises UsageError."""
    from edittools.bench.studies import rating
    from edittools.judge.agreement import agreement, judged_scores, ratings_in
    from edittools.rounding import rounded
    from edittools.stream.rows import column_values
    from edittools.stream.run import RunOptions, open_input

    if key["design"] != "rating" or rubric is None:
        raise UsageError("--judged is for the design rating, and needs --rubric")
    source = open_input([path], RunOptions())
    rows = (
        {"id": identity, "scores": scores}
        for batch in source.batches(lambda shard: True)
        for identity, scores in zip(column_values(batch.rows, "id"), column_values(batch.rows, "scores"))
    )
    people = ratings_in(map(json.loads, rating.export(key, answers).splitlines()), "the answers")
    return rounded(agreement(judged_scores(rows, rubric), people))


@options.command(
    "eval study serve",
    cost="Keeps the page without its cases; reads a case from the file when it is asked for.",
    examples=(
        ("edit eval study serve study/", "on this machine: http://127.0.0.1:8000/"),
        ("edit eval study serve study/ --host 0.0.0.0 --per-case 3", "to the network, three raters for each case"),
    ),
)
@click.argument("study", metavar="STUDY/", shell_complete=options.complete_path)
@options.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", group="Run", setting=False,
    help="Where to listen. Raters say who they are themselves: beyond this machine put a proxy with a login in front.",
)  # fmt: skip
@options.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, metavar="N", group="Run", setting=False,
    help="Port; 0 takes a free one.",
)  # fmt: skip
@options.option(
    "--database",
    metavar="FILE",
    group="Output",
    setting=False,
    help="SQLite file of the answers. Default: STUDY/answers.sqlite. One that exists is gone on with.",
)
@options.option(
    "--per-case",
    type=click.IntRange(min=1),
    metavar="N",
    help="Give every case to N raters. Default: to all; of a review to two, and to a third where they disagree.",
)
def serve(study: str, host: str, port: int, database: str | None, per_case: int | None) -> None:
    """Give a study to raters who come to it with a browser, and keep their answers.

    STUDY is the folder that `edit eval study build` made. One answer is one committed row of an SQLite file: what a
    page calls saved is there after a crash, and whoever comes back under the same name goes on where they were. `edit
    eval study score STUDY/key.json STUDY/answers.sqlite` reads it, also meanwhile. Ctrl-C ends it.
    """
    from edittools.bench.studies.serve import Service
    from edittools.bench.studies.serve import serve as run

    service = Service(study, database, per_case)
    run(service, host, port, lambda url: click.echo(f"{url} (answers: {service.database})", err=True))


command.add_command(build, "build")
command.add_command(score, "score")
command.add_command(serve, "serve")
