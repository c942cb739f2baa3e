"""`edit eval study build` and `edit eval study score`"""

from __future__ import annotations

import click

from edittools.cli import options

DESIGNS = ("rank", "top2", "two", "turns")


@click.group("study", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def command() -> None:
    """Let people compare models: build a blind page for raters, score what they answer."""


@options.command(
    "build",
    cost="Decodes each picture once and keeps one case at a time; the page takes about 130 KB a picture.",
    examples=(
        ("edit eval study build cases.jsonl --model a=a/ --model b=b/ -o study/", "study.html and key.json"),
        ("edit eval study build cases.jsonl --model a=a/ --model b=b/ --design two -o study/", "two scores each"),
    ),
)
@click.argument("cases")
@options.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="NAME=DIR",
    group="Input",
    help="A model and its folder of results, ID.png or .jpg or .webp (of a dialogue ID.turn.1.png ...). Two to eight.",
)
@options.option(
    "--design",
    type=click.Choice(DESIGNS),
    default="rank",
    show_default=True,
    help="rank: five levels, 2 to 10 (Step1X-Edit). top2: pick the best two (ImgEdit). two: prompt following and "
    "consistency, 1 to 5 each (FireRed). turns: yes or no per dialogue (ImgEdit).",
)
@options.option("--per-task", type=click.IntRange(min=1), metavar="N", help="Draw N cases of each task. Default: all.")
@options.option(
    "--incomplete",
    is_flag=True,
    help="Keep cases without a picture of some models; they count for the full set, not for the intersection.",
)
@options.option(
    "--side",
    type=click.IntRange(min=64, max=4096),
    default=768,
    show_default=True,
    metavar="N",
    group="Output",
    help="Longest side of the page's pictures.",
)
@options.option("--title", default="Image editing study", show_default=True, group="Output", help="What raters read.")
@options.option("-o", "--output", required=True, metavar="DIR/", group="Output", setting=False, help="Where to write.")
@options.option("--overwrite", is_flag=True, group="Output", setting=False, help="Replace a study that exists.")
@options.study_seed_option
def build(
    cases: str,
    models: tuple[str, ...],
    design: str,
    per_task: int | None,
    incomplete: bool,
    side: int,
    title: str,
    output: str,
    overwrite: bool,
    seed: int,
) -> None:
    """Make one HTML page that raters open in a browser, and the key that tells its letters apart.

    CASES is JSON lines: id, task, instruction {"en", "zh"} or `turns` (a list of them), and source, a path from the
    file's own folder. Send raters OUTPUT/study.html alone; each sends back answers-NAME.json. OUTPUT/key.json stays
    with you. A case for which a model has no readable picture is left out and counted.
    """
    from edittools.bench import study

    key = study.build_study(
        study.read_cases(cases),
        study.models_of(models),
        design,
        output,
        seed,
        title=title,
        per_task=per_task,
        incomplete=incomplete,
        side=side,
        overwrite=overwrite,
    )
    click.echo(f"study {key['study']}: {len(key['cases'])} cases, {len(key['dropped'])} dropped", err=True)
    for dropped in key["dropped"][:10]:
        click.echo(f"dropped {dropped['id']}: {dropped['reason']}", err=True)
    if len(key["dropped"]) > 10:
        click.echo(f"dropped {len(key['dropped']) - 10} more: see key.json", err=True)


@options.command(
    "score",
    cost="Keeps every answer; seconds for a study of ordinary size.",
    examples=(
        ("edit eval study score study/key.json answers-*.json", "a table on the terminal, JSON elsewhere"),
        ("edit eval study score study/key.json answers-*.json -f markdown", "the table for a report"),
    ),
)
@click.argument("key")
@click.argument("answers", nargs=-1, required=True)
@options.option(
    "-f",
    "--format",
    type=click.Choice(["table", "markdown", "json"]),
    group="Output",
    setting=False,
    help="What goes to standard output. Default: a table on a terminal, JSON elsewhere.",
)
@options.bootstrap_seed_option
def score(key: str, answers: tuple[str, ...], format: str | None, seed: int) -> None:
    """Say what the raters of a study found: means per task and over tasks, intervals, agreement.

    KEY is the study's key.json, ANSWERS one file per rater. Means are over raters, then over the cases of a task, then
    over tasks, with 95% bootstrap intervals over cases; agreement is Krippendorff's alpha, the share of scores
    within one level and Spearman's rank correlation.
    """
    from edittools.bench import study, study_scores
    from edittools.bench.terminal import summary_json
    from edittools.stream.run import stdout_kind

    found = study_scores.score_study(
        study.read_json(key, study.KEY_FORMAT),
        [study.read_json(path, study.ANSWERS_FORMAT) for path in answers],
        seed,
    )
    chosen = format or ("table" if stdout_kind() == "terminal" else "json")
    if chosen == "json":
        click.echo(summary_json(found), nl=False)
    else:
        click.echo(study_scores.as_text(found, markdown=chosen == "markdown"), nl=False)


command.add_command(build)
command.add_command(score)
