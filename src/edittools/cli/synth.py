"""`edit synth`"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click

from edittools.cli import options
from edittools.synth.config import PaintConfig, SynthConfig

_PAINTING = tuple(
    field.name for field in fields(PaintConfig) if field.name not in {f.name for f in fields(SynthConfig)}
)
_PRESETS = Path(__file__).parents[1] / "synth" / "presets"
_DRAWING = ("templates", "crop", "fonts", "meshes")


@options.command(
    "synth",
    cost="Reads once and streams: decodes each image once, and makes about 400 pairs of 128×128 pixels a second and "
    "core.",
    examples=(
        ("edit synth clean/ --per-row 4 -o pairs/", "four different edits of every image"),
        (
            "edit synth clean/ --templates add,remove,replace --inverse -o local/",
            "objects, and each edit backwards too",
        ),
        (
            "edit synth objects/ --painter inpaint --painted remove --inverse -o removed/",
            "objects that `edit ground` found, painted over, and put back",
        ),
        (
            "edit synth objects/ --painter pipeline --painted remove --check outside,detector,clip --attempts 3 -o p/",
            "painted until a detector no longer finds the object, three times at most",
        ),
        ("edit synth people/ --painter inpaint --painted expression,extract -o faces/", "offline: nothing is painted"),
        (
            "edit synth objects/ --painter pipeline=stabilityai/stable-diffusion-xl-base-1.0 --controlnet NAME "
            "--painted color,style --preset step1x -o looks/",
            "along the photograph's depth, as Step1X-Edit's data were made",
        ),
        (
            "edit synth photos/ --painter in_context --redux black-forest-labs/FLUX.1-Redux-dev --painted glyphs "
            "--check outside,text --attempts 3 -o signs/",
            "other words on signs, painted until they read as asked",
        ),
        (
            "edit synth objects/ --painter endpoint=gpt-image-1 --painted expert --experts viewpoint -o asked/",
            "an editing model, asked by the library of experts",
        ),
        ("edit synth --list", "the templates, the painted tasks, and the task of each"),
    ),
)
@options.input_options
@options.config_options(SynthConfig)
@options.preset_option(_PRESETS, "With --painter: tasks and numbers of a published system")
@options.config_options(PaintConfig, without=tuple(f.name for f in fields(SynthConfig)))
@options.option("--list", "listing", is_flag=True, group="Run", setting=False, help="List the templates and stop.")
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, /, templates: str, painter: str | None, listing: bool, **given: object) -> None:
    """Make edit pairs from images with exact, model-free templates.

    Every pair has its target, the mask of what changed, an English and a Chinese instruction that says the edit
    exactly, and the values it was drawn with in `provenance`. `hybrid` joins two edits in one instruction, `dialogue`
    makes three turns. A row's edits depend on --seed and its id only. What a template cannot do to an image (no font
    for Chinese, too small, nothing would change) is counted in the rejects.

    With --painter the objects of the rows (`edit ground`) are painted over instead: an object is removed (and, with
    --inverse, added: then the target is the photograph), replaced, recoloured, put before another background, and so on
    (--painted; --list says all). What is asked for is drawn from a lexicon.
    The painter sees a crop with context at its own size; what it paints is pasted with a feather, and all pixels beyond
    are the source's, bit for bit. `mask` is where there is any paint. Instructions are English.

    A painted edit has to pass every --check: its numbers are `check_NAME` in `scores`. One that fails is painted again
    with other noise (--attempts); what failed in the end is a reject with its value, or, with --keep-failed, a row.
    """
    from edittools.settings import names_of
    from edittools.synth.registry import CHECKS, PAINTED, rendered_names
    from edittools.synth.stage import SynthStage, choose_templates
    from edittools.synth.synthesis import task_of

    if listing:
        for name in choose_templates(names_of(templates)):
            click.echo(f"{name:20} {task_of(name)}")
        for name in rendered_names():
            click.echo(f"{'--templates ' + name:20} {task_of(name):10} needs the extra `render`, and is not among all")
        said = PAINTED.declared("HELP")
        for name, task in PAINTED.declared("TASK").items():
            click.echo(f"{'--painted ' + name:20} {task:10} {said[name]}")
        least, most = CHECKS.declared("LEAST"), CHECKS.declared("MOST")
        for name, said in CHECKS.declared("HELP").items():
            bound = f"at most {most[name]:g}" if least[name] is None else f"at least {least[name]:g}"
            click.echo(f"{'--check ' + name:20} {bound}: {said}")
        return
    if painter is not None:
        from edittools.synth.paint_stage import PaintStage

        options.refuse(ctx, _DRAWING, "has no meaning with --painter")
        options.run_stages(ctx, [PaintStage(options.config(ctx, PaintConfig), jobs=options.jobs(ctx))])
        return
    options.refuse(ctx, ("preset", *(name for name in _PAINTING if name != "painter")), "needs --painter")
    options.run_stages(ctx, [SynthStage(options.config(ctx, SynthConfig), jobs=options.jobs(ctx))])
