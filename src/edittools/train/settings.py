"""What `edit train` can be told beside its recipe's keys."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edittools.errors import UsageError
from edittools.settings import Config, max_pixels_setting, setting

if TYPE_CHECKING:
    from edittools.train.config import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Settings of a call of `edit train`."""

    max_pixels: int = max_pixels_setting()
    recipe: str = setting(
        "demo",
        "A recipe that comes with edittools, or a TOML file of your own.",
        metavar="NAME|FILE",
        group="Model",
    )
    overrides: tuple[str, ...] = setting(
        (), "Change a setting of the recipe.", flag="--set", metavar="KEY=VALUE", group="Model"
    )
    seed: int | None = setting(None, "The recipe's `seed`.", metavar="N", group="Model")
    language: str | None = setting(
        None, "Of the texts to learn: the recipe's `language`.", choices=("en", "zh", "both"), group="Model"
    )
    lora_format: str | None = setting(
        None,
        "Spelling of the file of adapters, of a recipe that trains adapters: its `model.lora.format`.",
        choices=("diffusers", "peft", "kohya", "comfyui", "ai-toolkit"),
        group="Output",
    )
    device: str = setting("cpu", "cpu, cuda, cuda:1, mps.", group="Model")
    encoder_dtype: str = setting(
        "bfloat16",
        "Precision of the frozen encoders and of what --precompute stores; with --feature-dir, what was given there.",
        choices=("float32", "bfloat16", "float16"),
        group="Model",
    )
    parallel: str = setting(
        "auto",
        "How several processes share a model that torchrun or `accelerate launch` started; auto is fsdp (FSDP2), for "
        "adapters ddp.",
        choices=("auto", "single", "ddp", "fsdp", "hsdp"),
        group="Run",
        recorded=False,
    )
    processes: int | None = setting(
        None,
        "Fail unless there are so many processes. With --precompute: share the rows among N processes of this "
        "machine, each with the encoders on a GPU of its own; --device cuda is cuda:0 to N-1 then.",
        metavar="N",
        low=1,
        group="Run",
        recorded=False,
    )
    replicas: int | None = setting(
        None,
        "Copies of the model with hsdp. Default: one per node.",
        metavar="N",
        low=1,
        group="Run",
        recorded=False,
    )
    heldout: str | None = setting(
        None,
        "Rows to measure the loss of and not to learn from: at the start, every `heldout_every` steps and at the end, "
        "at fixed times and noise, by task, with the weights and with their average, into heldout.jsonl; of the models "
        "that `keep_every` keeps, RUN/@best is the one with the least. With --precompute: store their features too.",
        metavar="PATH",
        group="Input",
        recorded=False,
    )
    feature_dir: str | None = setting(
        None,
        "What --precompute has stored. Batches then hold texts of one length where possible.",
        metavar="DIR/",
        group="Input",
        recorded=False,
    )
    resume_from: str | None = setting(
        None,
        "Begin with the checkpoint of another run: its newest, or that of a step that it keeps.",
        metavar="RUN[/@STEP]",
        group="Run",
        recorded=False,
    )

    def changed(self) -> dict[str, Any]:
        """The keys of the recipe that are set here. Raises UsageError."""
        values = parse_overrides(self.overrides)
        named = {"seed": self.seed, "language": self.language, "model.lora.format": self.lora_format}
        return values | {name: value for name, value in named.items() if value is not None}

    def load(self) -> Recipe:
        """The recipe with what is set here. Raises UsageError."""
        from edittools.train.config import load_recipe

        if self.lora_format is not None and "lora" not in dataclasses.replace(self, lora_format=None).load().model:
            raise UsageError("--lora-format: this recipe trains no adapters", hint="--recipe lora")
        return load_recipe(self.recipe, self.changed())


def parse_overrides(pairs: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE pairs, values spelled as in TOML. Raises UsageError."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair}: expected KEY=VALUE")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text
    return values
