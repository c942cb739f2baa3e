"""`edit sample`"""

from __future__ import annotations

from typing import Any

import click

from edittools.cli import options
from edittools.errors import UsageError

# Options that are handed to the model under their own names; see models.editors.EditorOptions.
_EDITOR = (
    "steps", "guidance", "distilled_guidance", "negative", "side", "batch_size", "legacy_positions", "lora",
    "attention", "compile", "quantize", "cache", "cache_threshold", "offload",
)  # fmt: skip


@options.command(
    "sample",
    cost="Reads once and streams; the model decides how fast. Says images/s, model TFLOP/s and, on a GPU, the peak of "
    "its memory at the end.",
    examples=(
        ("edit sample held/ --model run/ -o results/", "edit with a model that `edit train` made"),
        (
            "edit sample held/ --model FireRed-Image-Edit-1.0/ --device cuda --dtype bfloat16 --compile -o results/",
            "or with any diffusers editing pipeline; 40 steps with guidance 4 are this one's own",
        ),
        (
            "edit sample held/ --model FireRed-Image-Edit-1.0/ --lora run-lora/ --lora fast.safetensors:0.8 "
            "--steps 8 --guidance 1 -o results/",
            "with adapters, the second at a scale of 0.8",
        ),
        (
            "edit eval gedit --cases GEdit-Bench/ | edit sample --model step1x-v1.1/ --device cuda --dtype bfloat16 "
            "--side 786 -o results/",
            "a benchmark's cases; `edit eval gedit results/ --export DIR/` then writes its official layout",
        ),
    ),
)
@options.input_options
@options.pixel_option
@options.option(
    "--model",
    "model",
    required=True,
    metavar="FOLDER|NAME",
    group="Model",
    help="A run folder of `edit train` (of adapters too), a model's folder with edit.json (Step1X-Edit, ImgEdit-E1), a "
    "folder with a diffusers pipeline, or its name on the hub.",
)
@options.option(
    "--lora",
    multiple=True,
    metavar="PATH[:SCALE]",
    group="Model",
    help="Adapters (LoRA, DoRA, LoKr): a safetensors file as diffusers, PEFT, kohya, ComfyUI or ai-toolkit write it, "
    "or a run folder of `edit train`; may be repeated. They are added to the weights.",
)
@options.option(
    "--steps", type=click.IntRange(min=1), metavar="N", group="Model", help="Sampling steps. Default: the model's own."
)
@options.option(
    "--guidance",
    type=float,
    metavar="SCALE",
    group="Model",
    help="Classifier-free guidance by a second forward pass, as each model does it; 1 is none. Default: the model's.",
)
@options.option(
    "--distilled-guidance",
    type=float,
    metavar="SCALE",
    group="Model",
    help="The scale that a guidance-distilled model (FLUX.1 Kontext, ImgEdit-E1) is told. Default: 3.5.",
)
@options.option(
    "--negative", metavar="TEXT", group="Model", help="Instruction of guidance's second pass. Default: the model's own."
)
@options.option(
    "--side",
    type=click.IntRange(min=16),
    metavar="PIXELS",
    group="Model",
    help="Work at about PIXELS x PIXELS pixels of the source's aspect ratio. Default: 1024, as the published models "
    "do; of a run whose network is from scratch, what it was trained at. Step1X-Edit also knows 512 and 786.",
)
@options.option(
    "--legacy-positions",
    is_flag=True,
    group="Model",
    help="Qwen-Image-Edit: leave out the pictures' positions in the text encoder, as diffusers up to 0.42 does.",
)
@options.option("--device", default="cpu", show_default=True, group="Model", help="cpu, cuda, cuda:1, mps.")
@options.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    group="Model",
    help="Precision of the weights.",
)
@options.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    group="Model",
    help="Rows of equal shape edited together; no row's result depends on the others. Default: 32 for a run of the "
    "recipe `demo`, 4 for Qwen-Image-Edit-Plus, Kontext, Step1X-Edit and ImgEdit-E1, 1 for other pipelines.",
)
@options.option(
    "--attention",
    metavar="NAME",
    group="Model",
    help="Attention backend of diffusers: native, _native_cudnn, flash, _flash_3, sage, ... One that takes no mask "
    "lets only rows with equally long instructions share a batch.",
)
@options.option("--compile", is_flag=True, group="Model", help="Compile the model's repeated blocks.")
@options.option(
    "--quantize",
    type=click.Choice(["int8", "fp8"]),
    group="Model",
    help="Weights and activations of a published model in 8 bits, by torchao (extra `quantize`); fp8 needs a GPU that "
    "has it.",
)
@options.option(
    "--cache",
    type=click.Choice(["first-block"]),
    group="Model",
    help="Skip steps that change little, which changes results a little. Rows then go one by one, since a batch "
    "would be skipped as a whole.",
)
@options.option(
    "--cache-threshold",
    type=click.FloatRange(min=0),
    metavar="X",
    group="Model",
    help="A step is skipped whose first block changed less than this share. Default: 0.08.",
)
@options.option(
    "--offload",
    is_flag=True,
    setting=False,
    group="Model",
    help="Keep weights in the main memory and fetch them block by block.",
)
@options.option(
    "--language",
    type=click.Choice(["en", "zh"]),
    help="Of the instructions. Default: English, or Chinese where a row has nothing else.",
)
@options.option("--column", default="result", show_default=True, metavar="NAME", help="Column for the edited picture.")
@options.option(
    "--size",
    metavar="source|WxH",
    help="Scale the results to the first source's size, or ask the model for this many pixels. Default: the model's "
    "own size, also of a run; a run of the recipe `demo` makes the first source's.",
)
@options.option("--shuffle", is_flag=True, help="Use another row's instruction, to see whether the model reads them.")
@options.option(
    "--keep-going",
    is_flag=True,
    setting=False,
    group="Run",
    help="Exit 0 however many rows fail and are rejected: --max-errors 100%.",
)
@options.seed_option
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, input: tuple[str, ...], model: str, **given: object) -> None:
    """Edit pictures with a trained model.

    Every row is edited from its sources and instruction; the picture goes into a new column, `result`. The noise of a
    row comes from --seed and its id, so its result does not depend on the batch, the order or the shard: to 1e-5 of
    the picture's range in float32; in bfloat16 to about 0.02, and 0.0005 on average, since kernels for other batch
    sizes round otherwise.

    A dialogue is edited turn by turn, each from the result of the turn that it names as its parent. The pictures of
    all turns go into `result_turns`, the last one into `result`.
    """
    from edittools.models.describe import describe_model
    from edittools.models.editors import EditorOptions, load_editor
    from edittools.models.stage import SampleStage
    from edittools.stream.run import open_input, open_progress, open_sink, run

    chosen = ctx.params
    if not chosen["column"].startswith("result"):
        raise UsageError(f"--column {chosen['column']}: begin it with `result`, so that `edit judge` finds it")
    if chosen["cache_threshold"] is not None and chosen["cache"] is None:
        raise UsageError("--cache-threshold is for --cache")
    size = _size(chosen["size"])
    extra = {name: chosen[name] for name in _EDITOR if chosen[name] is not None}
    EditorOptions(**extra)
    run_options = options.run_settings(ctx)
    if chosen["keep_going"]:
        run_options.max_errors = "100%"
    source = open_input(list(input), run_options)
    # Which weights they are belongs to the settings; where they lie does not.
    resolved: dict[str, Any] = {"model": describe_model(model)}
    if chosen["lora"]:
        from edittools.models.lora import describe_lora

        resolved["lora"] = [describe_lora(spec) for spec in chosen["lora"]]
    settings = options.settings(ctx, **resolved)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    editor = load_editor(model, chosen["device"], chosen["dtype"], **extra)
    stage = SampleStage(
        editor,
        column=chosen["column"],
        language=chosen["language"],
        seed=chosen["seed"],
        shuffle=chosen["shuffle"],
        max_pixels=chosen["max_pixels"],
        size=size,
    )
    sink = open_sink(run_options)
    progress = open_progress("sample", source, run_options, sink, lambda: _said(stage, chosen["device"]))
    run("sample", source, [stage], settings, run_options, sink=sink, progress=progress)


def _size(given: str | None) -> Any:
    """`source`, or height and width."""
    if given in (None, "source"):
        return given
    width, x, height = str(given).partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size {given}: expected `source` or WIDTHxHEIGHT, such as 1024x768")
    return int(height), int(width)


def _said(stage: Any, device: str) -> str:
    from edittools.models.speed import peak_memory

    work = stage.editor.work
    if not work.pictures:  # nothing to do, or the tasks of a cluster do it
        return ""
    parts = [f"{work.pictures / work.seconds:.3g} images/s"]
    if work.flops:
        parts.append(f"{work.flops / work.seconds / 1e12:.3g} model TFLOP/s")
    peak = peak_memory(device)
    if peak is not None:
        parts.append(f"peak memory {peak / 2**30:.1f} GiB")
    if stage.captioned:
        parts.append(f"{stage.captioned} rows without an instruction: their caption was the text")
    return ", ".join(parts)
