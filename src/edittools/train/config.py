"""A training recipe: every setting of a run, read from a TOML file in `recipes/` or anywhere else."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edittools.errors import UsageError

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """All settings of a run; the recipe files say what each number is and where it comes from."""

    # Pictures and network
    resolution: int  # pixels, both sides; pictures of another shape are resized once, when they are loaded
    patch: int  # pixels per token side
    layers: int
    heads: int
    head_dim: int  # the network's width is heads * head_dim
    rope: list[int]  # of head_dim: how much turns with frame, row, column
    clean_references: bool  # references get time 0 and the noisy target its t [SPEC T1c]; otherwise both get t
    text_width: int
    text_heads: int
    text_layers: int
    max_words: int  # longer instructions are cut

    # Objective
    predicts: str  # "x0" or "v"
    residual: str  # with "x0": "none", "copy" or "blend": what is added to the first reference
    timesteps: str  # "logit-normal" (mean 0, deviation 1) or "uniform"
    shift: float  # t' = s t / (1 + (s - 1) t)
    region_weight: bool  # small edited regions count more; fades with the learning rate
    word_dropout: float  # share of words replaced by the unknown word in training

    # Optimisation
    seed: int
    batch: int
    steps: int
    optimizer: str  # "muon" (block matrices; AdamW for the rest) or "adamw" (everything)
    muon_lr: float
    muon_momentum: float
    adam_lr: float
    adam_betas: list[float]
    weight_decay: float
    warmup: int  # steps of linear warm-up
    decay_from: float  # share of the steps after which the rate falls linearly to zero
    clip: float  # largest gradient norm
    spike: float  # stop when a loss exceeds its running mean this many times; 0: never
    ema: float  # decay of the weights' average; 1: plain mean [SPEC T7]
    ema_from: float  # share of the steps after which averaging begins

    # Run
    checkpoint_every: int
    log_every: int
    sample_steps: int  # Euler steps when the trained model is used

    def __post_init__(self) -> None:
        def need(ok: bool, what: str) -> None:
            if not ok:
                raise UsageError(f"recipe: {what}")

        need(self.resolution % self.patch == 0, "`resolution` must be a multiple of `patch`")
        need(
            len(self.rope) == 3 and sum(self.rope) == self.head_dim and not any(r % 2 for r in self.rope),
            "`rope` must be three even numbers that sum to `head_dim`",
        )
        need(self.text_width % self.text_heads == 0, "`text_width` must be a multiple of `text_heads`")
        need(self.predicts in ("x0", "v"), '`predicts` must be "x0" or "v"')
        need(self.residual in ("none", "copy", "blend"), '`residual` must be "none", "copy" or "blend"')
        need(self.predicts == "x0" or self.residual == "none", '`predicts = "v"` needs `residual = "none"`')
        need(self.timesteps in ("logit-normal", "uniform"), '`timesteps` must be "logit-normal" or "uniform"')
        need(self.optimizer in ("muon", "adamw"), '`optimizer` must be "muon" or "adamw"')
        need(0 < self.ema <= 1, "`ema` must lie in (0, 1]")
        for name in ("batch", "steps", "checkpoint_every", "log_every", "sample_steps", "shift"):
            need(getattr(self, name) > 0, f"`{name}` must be positive")


def recipe_names() -> list[str]:
    """The recipes that ship: the file name is the name."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name_or_path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a shipped recipe by name, or any TOML file by path, and replace single settings.

    An override may be a string as it comes from a command line; it is read as the setting's type.
    Raises UsageError for an unknown recipe, an unknown, missing or ill-typed setting.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        raise UsageError(f"no recipe `{name_or_path}`", hint=f"shipped recipes: {', '.join(recipe_names())}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from None
    return recipe_from({**values, **(overrides or {})}, str(path))


def recipe_from(values: dict[str, Any], where: str) -> Recipe:
    """Check names and types of settings; `where` goes into the error messages."""
    types = {field.name: field.type for field in dataclasses.fields(Recipe)}
    if unknown := sorted(set(values) - set(types)):
        raise UsageError(f"{where}: no setting `{unknown[0]}`", hint=f"settings: {', '.join(types)}")
    if missing := sorted(set(types) - set(values)):
        raise UsageError(f"{where}: setting `{missing[0]}` is missing")
    return Recipe(**{name: _read(values[name], types[name], f"{where}: `{name}`") for name in types})


def _read(value: Any, kind: Any, where: str) -> Any:
    """A TOML or command-line value as int, float, bool, str or a list of numbers."""
    if isinstance(value, str) and kind is not str:
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise UsageError(f"{where} is not a number: {value}") from None
    if kind is float and type(value) is int:
        value = float(value)
    if kind in (list[int], list[float]):
        if isinstance(value, list) and all(type(v) in (int, float) for v in value):
            return [kind.__args__[0](v) for v in value]
    elif type(value) is kind:
        return value
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    raise UsageError(f"{where} must be {name}, not {value!r}")
