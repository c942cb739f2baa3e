"""What `edit sample` can be told."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from edittools.errors import UsageError
from edittools.nets.editor import EditorOptions
from edittools.settings import Config, max_pixels_setting, seed_setting, setting

Size = tuple[int, int] | Literal["source"] | None


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Config):
    """Settings of the stage that edits rows with a model."""

    max_pixels: int = max_pixels_setting()
    model: str = setting(
        dataclasses.MISSING,
        "A run folder of `edit train` (of adapters too), a model's folder with edit.json (Step1X-Edit, "
        "ImgEdit-E1), a folder with a diffusers pipeline, or its name on the hub.",
        metavar="FOLDER|NAME",
        group="Model",
    )
    lora: tuple[str, ...] = setting(
        (),
        "Adapters (LoRA, DoRA, LoKr): a safetensors file as diffusers, PEFT, kohya, ComfyUI or ai-toolkit "
        "write it, or a run folder of `edit train`; may be repeated. They are added to the weights.",
        metavar="PATH[:SCALE]",
        group="Model",
    )
    steps: int | None = setting(None, "Sampling steps. Default: the model's own.", low=1, metavar="N", group="Model")
    guidance_scale: float | None = setting(
        None,
        "Classifier-free guidance by a second forward pass, as each model does it; 1 is none. Default: the model's.",
        metavar="SCALE",
        group="Model",
    )
    distilled_guidance: float | None = setting(
        None,
        "The scale that a guidance-distilled model (FLUX.1 Kontext, ImgEdit-E1) is told. Default: 3.5.",
        metavar="SCALE",
        group="Model",
    )
    negative_prompt: str | None = setting(
        None,
        "Instruction of guidance's second pass. Default: the model's own.",
        metavar="TEXT",
        group="Model",
    )
    resolution: int | None = setting(
        None,
        "Work at about PIXELS x PIXELS pixels of the source's aspect ratio. Default: 1024, as the published "
        "models do; of a run whose network is from scratch, what it was trained at. Step1X-Edit also knows "
        "512 and 786.",
        low=16,
        metavar="PIXELS",
        group="Model",
    )
    legacy_positions: bool = setting(
        False,
        "Qwen-Image-Edit: leave out the images' positions in the text encoder, as diffusers up to 0.42 does.",
        group="Model",
    )
    device: str = setting("cpu", "cpu, cuda, cuda:1, mps.", group="Model")
    dtype: str = setting(
        "float32",
        "Precision of the weights.",
        choices=("float32", "bfloat16", "float16"),
        group="Model",
    )
    batch_size: int | None = setting(
        None,
        "Rows of equal shape edited together; no row's result depends on the others. Default: 32 for a run of"
        " the recipe `demo`, 4 for Qwen-Image-Edit-Plus, Kontext, Step1X-Edit and ImgEdit-E1, 1 for other "
        "pipelines.",
        low=1,
        metavar="N",
        group="Model",
    )
    attention: str | None = setting(
        None,
        "Attention backend of diffusers: native, _native_cudnn, flash, _flash_3, sage, ... One that takes no "
        "mask lets only rows with equally long instructions share a batch.",
        metavar="NAME",
        group="Model",
    )
    compile: bool = setting(False, "Compile the model's repeated blocks.", group="Model")
    quantize: str | None = setting(
        None,
        "Weights and activations of a published model in 8 bits, by torchao (extra `quantize`); fp8 needs a "
        "GPU that has it.",
        choices=("int8", "fp8"),
        group="Model",
    )
    cache: str | None = setting(
        None,
        "Skip steps that change little, which changes results a little. Rows then go one by one, since a "
        "batch would be skipped as a whole.",
        choices=("first-block",),
        group="Model",
    )
    cache_threshold: float | None = setting(
        None,
        "A step is skipped whose first block changed less than this share. Default: 0.08.",
        low=0,
        metavar="X",
        group="Model",
    )
    offload: bool = setting(
        False,
        "Keep weights in the main memory and fetch them block by block.",
        group="Model",
        recorded=False,
    )
    language: str | None = setting(
        None,
        "Of the instructions. Default: English, or Chinese where a row has nothing else.",
        choices=("en", "zh"),
    )
    column: str = setting("result", "Column for the edited image.", metavar="NAME")
    size: str | None = setting(
        None,
        "Scale the results to the first source's size, or ask the model for this many pixels. Default: the "
        "model's own size, also of a run; a run of the recipe `demo` makes the first source's.",
        metavar="source|WxH",
    )
    shuffle: bool = setting(False, "Use another row's instruction, to see whether the model reads them.")
    seed: int = seed_setting()
    candidates: int | None = setting(
        None,
        "Edit every row K times side by side: row ID is ID-c0, ID-c1, ..., with `group` ID and the seeds --seed, "
        "--seed + 1, ... in `seed`.",
        low=1,
        high=100_000,
        metavar="K",
    )
    add: bool = setting(
        False,
        "Of candidates, those of another model say: pass them on, and add --candidates K to each group. Their numbers "
        "and seeds go on.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed + (self.candidates or 1) > 1 << 63:
            raise UsageError(f"--seed {self.seed}: the last of --candidates {self.candidates} has more than 64 bits")
        if self.add and (self.candidates is None or self.shuffle):
            raise UsageError("--add: " + ("not with --shuffle" if self.shuffle else "how many? --candidates K"))
        if not self.column.startswith("result"):
            raise UsageError(f"--column {self.column}: begin it with `result`, so that `edit score` finds it")
        if self.cache_threshold is not None and self.cache is None:
            raise UsageError("--cache-threshold is for --cache")
        parse_size(self.size)
        EditorOptions(**self.editor)

    @property
    def editor(self) -> dict[str, Any]:
        """The options of the model that were given, by their names in EditorOptions."""
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(EditorOptions)}
        return {name: value for name, value in told.items() if value is not None}


def parse_size(given: str | None) -> Size:
    """`source`, or WIDTHxHEIGHT as (height, width). Raises UsageError."""
    if given is None or given == "source":
        return given  # type: ignore[return-value]
    width, x, height = given.partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size {given}: expected `source` or WIDTHxHEIGHT, such as 1024x768")
    return int(height), int(width)
