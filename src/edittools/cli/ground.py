"""`edit ground`"""

from __future__ import annotations

from pathlib import Path

import click

from edittools.cli import options
from edittools.errors import UsageError
from edittools.ground.config import GroundConfig


@options.command(
    "ground",
    cost="Reads once and streams; decodes each image once, whatever looks at it. Offline detectors take 0.1 to "
    "0.3 s an image and core; networks as long as they take.",
    examples=(
        ("edit ground clean/ --detector person,face --segmenter grabcut -o people/", "offline: people and faces"),
        (
            "edit ground clean/ --detector groundingdino --names 'dog,red car' --segmenter sam2 -o objects/",
            "boxes of any names, and their masks",
        ),
        (
            "edit ground clean/ --detector owlv2 --names-from caption | edit filter --preset imgedit-region -o kept/",
            "then the crops' CLIP scores and areas, by ImgEdit's rule",
        ),
        (
            "edit ground clean/ --tags openai/clip-vit-large-patch14 --detector groundingdino --names-from tags "
            "-o seen/",
            "what each image shows, out of a list of 600 names, and where",
        ),
        ("edit ground clean/ --maps canny,depth -o maps/", "structure maps, as images beside the rows"),
        ("edit ground people/ --report people.html", "a page to judge a threshold by"),
        ("edit ground --list", "the detectors, segmenters and maps, and their usual weights"),
    ),
)
@options.input_options
@options.preset_option(Path(__file__).parents[1] / "ground" / "presets", "Models and numbers of a published system")
@options.config_options(GroundConfig)
@options.option(
    "--report",
    metavar="FILE",
    group="Output",
    setting=False,
    help="A page of the first 200 images with their boxes and masks, to judge a threshold by; alone, of what the rows "
    "have already.",
)
@options.option("--list", "listing", is_flag=True, group="Run", setting=False, help="List what there is and stop.")
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], listing: bool, report: str | None, **given: object) -> None:
    """Find objects in images: names, boxes and masks; faces, text, and structure maps.

    Into the column `objects`, the surest first: name, box (shares of width and height), score, mask (white on the
    object), area, detector, and of a line of writing its text. `edit filter --region` measures their crops (CLIP,
    aesthetic) and drops those that do not do. A detector of faces also fills `faces`, five points each, which the
    consistency loss of `edit train` reads. --tags fills `tags`: names without places, the likeliest first, which the
    experts of `edit synth` and `edit caption --kinds instruct` read too. WEIGHTS are a folder, a name below
    EDITTOOLS_WEIGHTS, or OWNER/NAME on the Hugging Face hub; those of offline detectors are fetched once by `edit
    weights`.
    """
    if listing:
        _list()
        return
    if report is not None:
        options.refuse_existing(report, bool(given["overwrite"]))
    if report is None or any(given[name] for name in ("detector", "segmenter", "maps", "rle")):
        config = options.config(ctx, GroundConfig)
        if report is not None and given["output"] in (None, "-"):
            raise UsageError("--report reads what was written: name it with -o PATH")
        from edittools.ground.stage import GroundStage

        options.run_stages(ctx, [GroundStage(config, jobs=options.jobs(ctx))])
        input = (str(given["output"]),)
    if report is not None and not given["dry_run"]:
        _report(ctx, report, input)


def _report(ctx: click.Context, report: str, input: tuple[str, ...]) -> None:
    from edittools.ground.report import write_report
    from edittools.stream.run import open_input

    source = open_input(list(input), options.run_settings(ctx))
    told = {"image": ctx.params["image"], "max_pixels": ctx.params["max_pixels"]}
    write_report(report, source.batches(lambda shard: True), title=", ".join(input) or "standard input", **told)


def _list() -> None:
    from edittools.ground import DETECTORS, MAPS, SEGMENTERS

    for kind, registry in (("detector", DETECTORS), ("segmenter", SEGMENTERS), ("map", MAPS)):
        said, weights = registry.declared("HELP", ""), registry.declared("WEIGHTS", "")
        for name in registry.names:
            click.echo(f"{kind:9} {name:14} {said[name]}" + (f"; {weights[name]}" if weights[name] else ""))
