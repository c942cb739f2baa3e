"""`edit eval coverage`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import figures, options
from edittools.errors import EditError, UsageError

if TYPE_CHECKING:
    from edittools.stream.source import Source


@options.command(
    "eval coverage",
    cost="Reads the instructions once and keeps 512 bytes of each, beside the text. Of a million a thousand requests "
    "take about a minute.",
    examples=(
        ("edit eval coverage pairs/ --queries requests.txt", "which requests have nothing like them in the data"),
        ("edit eval coverage pairs/ --queries requests.txt --least 20 --gaps gaps.jsonl", "the gaps, as rows"),
    ),
)
@options.input_options
@options.option(
    "--queries", metavar="PATH", required=True, group="Input",
    help="Requests: a text file with one in every line, or rows with an instruction.",
)  # fmt: skip
@options.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of the texts.")
@options.option(
    "--column", metavar="NAME", help="Column of the instructions. Default: `instruction_concise`, else `instruction`."
)
@options.option(
    "--encoder", metavar="NAME", group="Model",
    help="A model with texts (MiniLM, bge, CLIP, SigLIP) that makes the vectors. Default: none, runs of "
    "characters by rarity.",
)  # fmt: skip
@options.option(
    "--radius", type=click.FloatRange(-1, 1), metavar="COSINE",
    help="From which cosine on two instructions are near. Default: calibrated on wordings of our grammar.",
)  # fmt: skip
@options.option(
    "--recall", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.5, show_default=True,
    metavar="SHARE", help="Of pairs of wordings of one edit, the share that the calibrated radius holds.",
)  # fmt: skip
@options.option("--nearest", type=click.IntRange(1, 100), default=3, show_default=True, metavar="K",
                help="How many of the nearest are named, and make up the mean.")  # fmt: skip
@options.option("--least", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
                help="A request with fewer near it is a gap.")  # fmt: skip
@options.option("--gaps", metavar="FILE.jsonl", group="Output", setting=False, help="Write the gaps here, as rows.")
@options.option(
    "-f", "--format", type=click.Choice(["table", "markdown", "latex", "json"]), group="Output", setting=False,
    help="What goes to standard output: a table on a terminal, JSON elsewhere.",
)  # fmt: skip
@options.option("--overwrite", is_flag=True, group="Output", setting=False, help="Replace a file of gaps that exists.")
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], queries: str, **given: Any) -> None:
    """Say which requests a data set's instructions leave uncovered.

    Instructions lie as vectors in an index; around every request those within a radius are counted. Numbers and quoted
    text are masked. The radius is calibrated on pairs of wordings of one edit, and what it is worth is told.

    Runs of characters are worth this, on templates of the grammar that the radius was not calibrated on (some 65,
    of which a few need a font for Chinese; about 1.5% of all pairs are of one template; means over 50 halves):
    English, --recall 0.3: recall 0.30 at precision 0.86; 0.5: 0.50 at 0.67; 0.7: 0.70 at 0.33; 0.9: 0.90 at 0.08.
    Chinese, 0.3: 0.31 at 0.83; 0.5: 0.51 at 0.62; 0.7: 0.71 at 0.37; 0.9: 0.90 at 0.09. So beyond 0.6 most of what
    is near is another edit. An encoder of sentences, the multilingual Universal Sentence Encoder 3, had precisions
    of .77 (en) and .69 (zh) at a recall of .5, .22 and .23 at .9, of 53 of the templates.
    """
    from edittools.bench.coverage import Radius, calibrated, coverage, listings
    from edittools.bench.text_vectors import TextVectors
    from edittools.stream import files
    from edittools.stream.run import RunOptions, open_input

    figures.need_input(ctx, "coverage", "rows with instructions", "edit synth, or edit shard of your pairs")
    if given["gaps"] is not None:
        files.refuse_existing(given["gaps"], given["overwrite"])
    language = given["language"]
    source = open_input(list(input), RunOptions(limit=given["limit"], partial=given["partial"]))
    texts = _texts(source, given["column"], language)
    asked = _requests(queries, language)
    model: Any = TextVectors(texts) if given["encoder"] is None else _encoder(given["encoder"])
    radius = Radius(given["radius"]) if given["radius"] is not None else calibrated(model, language, given["recall"])
    found = coverage(model, texts, asked, radius, nearest=given["nearest"], least=given["least"])
    if given["gaps"] is not None:
        lines = [
            json.dumps({"id": f"gap-{k}", "instruction": {language: one["query"]}}, ensure_ascii=False)
            for k, one in enumerate(found["found"])
            if one["within"] < given["least"]
        ]
        files.write_bytes(given["gaps"], "".join(f"{line}\n" for line in lines).encode())
    figures.print_figures(found, listings(found), figures.format_of(ctx))


def _texts(source: Source, column: str | None, language: str) -> list[str]:
    """The instructions of a source. Raises UsageError where it has none."""
    from edittools.stream.rows import column_values

    names = source.schema.names
    chosen = column or next((name for name in ("instruction_concise", "instruction") if name in names), None)
    if chosen is None or chosen not in names:
        raise UsageError(f"the input has no `{column or 'instruction'}` column")
    found = []
    for batch in source.batches(lambda shard: True):
        for lost in batch.rejects:
            click.echo(f"edit eval coverage: left out {lost.id}: {lost.reason}", err=True)
        for value in column_values(batch.rows, chosen):
            text = value.get(language) if isinstance(value, dict) else value
            if text:
                found.append(str(text))
    return found


def _requests(path: str, language: str) -> list[str]:
    from edittools.stream.run import RunOptions, open_input

    if not path.endswith(".txt"):
        return _texts(open_input([path], RunOptions()), None, language)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EditError(f"--queries {path}: {getattr(error, 'strerror', None) or 'is not UTF-8'}") from error
    return [line.strip() for line in lines if line.strip()]


def _encoder(name: str) -> Any:
    from edittools.bench.text_vectors import MaskedTexts
    from edittools.encoders.embedders import load_embedder

    model = load_embedder(name)
    if not hasattr(model, "texts"):
        raise UsageError(
            f"--encoder {name}: has no vectors of texts", hint="encoders of sentences, CLIP and SigLIP have"
        )
    return MaskedTexts(model)
