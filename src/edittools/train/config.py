"""A training recipe: every setting of a run, read from a TOML file in `recipes/` or anywhere else."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edittools.errors import UsageError
from edittools.settings import field_comments, read_settings, table_comments

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """All settings of a run; the recipe files say what each number is and where it comes from."""

    system: str  # models/systems/NAME.py
    model: dict[str, Any]  # the system's own settings

    # Rows and batches
    sides: list[int]  # smallest and largest picture as sides of a square, in pixels; nothing is enlarged beyond it
    ratios: list[str]  # aspect ratios W:H that pictures are cut to; inverses are meant too [SPEC T3]
    batch_tokens: int  # image tokens of one forward pass: as many rows of one shape as fit
    batches: int  # forward passes of one step, on all devices together
    language: str = "en"  # "en", "zh" or "both": which of a row's texts
    captions: dict[str, float] = field(default_factory=dict)  # share of each kind of text of t2i rows [SPEC C7]
    wordings: dict[str, float] = field(default_factory=dict)  # share of each style of instruction [SPEC C2]
    drop_text: float = 0.0  # share of rows whose text is left empty, for guidance
    shuffle_references: bool = False  # references in any order, the instruction rewritten [SPEC T4]
    drop_references: float = 0.0  # share of references left out that the instruction does not name [SPEC T4]
    variants: int = 1  # what is drawn at random is drawn so many times per row, before training
    t2i_share: float = -1.0  # share of text-to-image rows; -1: as the data has them
    task_weights: dict[str, float] = field(default_factory=dict)  # how often a task's rows are drawn; others 1
    kinds: dict[str, float] = field(default_factory=dict)  # share of "t2i", of edits with "one" and "several" sources
    origins: dict[str, float] = field(default_factory=dict)  # share of "internet", "synthetic", or what rows are from
    balance: str = ""  # column with a row's cluster: clusters are drawn equally often [SPEC T13]
    balance_power: float = 1.0  # 0: as the data has them, 1: equally often
    resample: bool = False  # batches in an order that keeps the clusters even from step to step [SPEC T13]

    # Objective
    timesteps: str = "uniform"  # density of t: "uniform", or "logit-normal" (mean 0, deviation 1)
    shift: float = 1.0  # t' = s t / (1 + (s - 1) t); 0: as the sampler of the weights has it
    shift_by_tokens: list[float] = field(default_factory=list)  # instead: tokens, mu, tokens, mu; s = e^mu on the line
    curriculum: list[float] = field(default_factory=list)  # mu at the start, share of the steps till it is 0 [T6]
    weighting: str = "none"  # of the loss by t: "none" or "logit-normal" [SPEC T6]
    weighting_mean: float = 0.0  # of the logit of t, where the weight is largest
    weighting_deviation: float = 1.0  # of the logit of t
    mask_weight: float = 1.0  # the loss under a row's `mask`, of that beside it; the row's mean weight stays 1
    region_weight: bool = False  # small edited regions count more; fades with the learning rate
    consistency: float = 0.0  # η of the consistency loss [SPEC T8]; 0: none
    consistency_every: int = 1  # steps between those that have it
    consistency_encoder: str = ""  # an ArcFace network's weights, for rows with `faces`, or any vision model's

    # Optimisation
    seed: int = 0  # of new weights, of the order of rows, of noise and times
    steps: int = 0  # updates of the weights, in all
    optimizer: str = "adamw"  # "adamw", "adamw8bit", "prodigy", or "muon" (block matrices; AdamW for the rest)
    lr: float = 1e-4  # learning rate, with "muon" of what AdamW trains
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # decay of the gradient's two moments
    weight_decay: float = 0.01  # decoupled, times the learning rate
    decay_norms: bool = True  # weight decay of norms' scales and of biases too, all that is no matrix
    muon_lr: float = 0.02  # learning rate of the block matrices, with "muon"
    muon_momentum: float = 0.95  # likewise
    warmup: int = 0  # steps of linear warm-up
    schedule: str = "linear"  # how the rate falls to zero: "linear" or "cosine"
    decay_from: float = -1.0  # share of the steps after which it falls; -1: never if linear, after warm-up if cosine
    clip: float = 1.0  # largest gradient norm
    spike: float = 10.0  # stop when a loss exceeds its running mean this many times; 0: never
    ema: float = 0.999  # decay of the weights' average; 1: plain mean; 0: none [SPEC T7]
    ema_from: float = 0.0  # share of the steps after which averaging begins

    # Run
    dtype: str = "float32"  # of the network's arithmetic; the weights that are trained stay in float32
    checkpointing: str = "none"  # activations that are computed again: "none", "selective" or "full"
    quantize: str = ""  # weights that adapters are trained beside in fewer bits: "int8", "fp8" or "nf4"
    block_swap: int = 0  # so many blocks' frozen weights wait in the main memory; needs checkpointing
    compile: bool = False  # compile the repeated blocks, on an accelerator
    attention: str = ""  # a backend of diffusers that takes masks, such as "_native_cudnn"; "auto": the fastest that
    # works here, forward and backward; empty: torch's own choice
    checkpoint_every: int = 1000  # steps
    keep_last: int = 2  # checkpoints: should the last be damaged, the one before is used
    keep_every: int = 0  # steps between models that are kept, to be used as RUN/@STEP, with their checkpoints; 0: none
    log_every: int = 10  # steps
    heldout_every: int = 0  # steps between losses of the rows of --heldout; 0: as often as checkpoints
    heldout_times: list[float] = field(default_factory=lambda: [0.1, 0.3, 0.5, 0.7, 0.9])  # t of these losses
    sample_every: int = 0  # steps between sample pictures; 0: none
    sample_rows: int = 4  # rows that they show: held-out ones if there are, of as many tasks and kinds as can be
    sample_ids: list[str] = field(default_factory=list)  # the ids of these rows, instead
    sample_prompts: list[str] = field(default_factory=list)  # further texts, the k-th with the k-th row's sources
    sample_steps: int = 0  # Euler steps, there and when the trained model is used; 0: as its system is sampled
    sample_guidance: float = 0.0  # true classifier-free guidance, likewise

    def __post_init__(self) -> None:
        def need(ok: bool, what: str) -> None:
            if not ok:
                raise UsageError(f"recipe: {what}")

        need(len(self.sides) == 2 and 0 < self.sides[0] <= self.sides[1], "`sides` must be [smallest, largest]")
        for ratio in self.ratios:
            parts = ratio.split(":")
            need(len(parts) == 2 and all(p.isdigit() and int(p) for p in parts), f"`ratios`: {ratio!r} is not W:H")
        need(bool(self.ratios), "`ratios` must name at least one")
        need(self.language in ("en", "zh", "both"), '`language` must be "en", "zh" or "both"')
        need(self.kinds.keys() <= {"t2i", "one", "several"}, '`kinds` are "t2i", "one" and "several"')
        need(not self.kinds or self.t2i_share == -1, "`kinds` has text-to-image rows' share: no `t2i_share` beside it")
        need(not self.resample or bool(self.balance), "`resample` needs `balance`, the column of the clusters")
        for name in ("captions", "wordings", "kinds", "origins"):
            shares = getattr(self, name)
            need(all(v >= 0 for v in shares.values()), f"`{name}`: shares must not be negative")
            need(not shares or sum(shares.values()) > 0, f"`{name}`: all shares are 0")
        need(all(v >= 0 for v in self.task_weights.values()), "`task_weights` must not be negative")
        need(self.t2i_share == -1 or 0 <= self.t2i_share <= 1, "`t2i_share` must lie in [0, 1], or be -1")
        need(0 <= self.drop_text < 1 and 0 <= self.drop_references < 1, "`drop_text`, `drop_references`: in [0, 1)")
        need(self.timesteps in ("logit-normal", "uniform"), '`timesteps` must be "logit-normal" or "uniform"')
        need(self.weighting in ("none", "logit-normal"), '`weighting` must be "none" or "logit-normal"')
        need(
            self.weighting == "none" or self.timesteps == "uniform",
            "logit-normal weighting of logit-normal timesteps would square the effect: choose one",
        )
        need(
            not self.shift_by_tokens
            or (len(self.shift_by_tokens) == 4 and self.shift_by_tokens[0] != self.shift_by_tokens[2]),
            "`shift_by_tokens` must be [tokens, mu, tokens, mu], of two numbers of tokens",
        )
        need(
            len(self.curriculum) in (0, 2) and (not self.curriculum or 0 < self.curriculum[1] <= 1),
            "`curriculum` must be [mu, share of the steps]",
        )
        need(self.optimizer in OPTIMIZERS, f"`optimizer` must be one of {', '.join(OPTIMIZERS)}")
        need(0 < self.variants <= 1000, "`variants` must lie in [1, 1000]")
        need(0 <= self.seed < 2**63, "`seed` must lie in [0, 2^63)")
        need(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "`betas` must be two numbers in [0, 1)")
        for name in ("lr", "muon_lr", "weight_decay", "warmup", "spike", "sample_every", "keep_every",
                     "mask_weight", "heldout_every", "sample_steps", "sample_guidance", "shift"):  # fmt: skip
            need(getattr(self, name) >= 0, f"`{name}` must not be negative")
        need(0 <= self.muon_momentum < 1, "`muon_momentum` must lie in [0, 1)")
        need(bool(self.heldout_times), "`heldout_times` must name at least one")
        need(all(0 < t < 1 for t in self.heldout_times), "`heldout_times` must lie between 0 and 1")
        need(self.schedule in ("linear", "cosine"), '`schedule` must be "linear" or "cosine"')
        need(self.decay_from == -1 or 0 <= self.decay_from <= 1, "`decay_from` must lie in [0, 1], or be -1")
        need(0 <= self.ema_from <= 1, "`ema_from` must lie in [0, 1]")
        need(0 <= self.ema <= 1, "`ema` must lie in [0, 1]")
        need(self.dtype in ("float32", "bfloat16"), '`dtype` must be "float32" or "bfloat16"')
        need(self.checkpointing in ("none", "selective", "full"), '`checkpointing`: "none", "selective" or "full"')
        need(self.quantize in ("", "int8", "fp8", "nf4"), '`quantize`: "int8", "fp8" or "nf4"; empty: none')
        need(not self.quantize or bool(self.model.get("lora")), "`quantize` is for adapters: set model.lora.rank")
        need(self.block_swap >= 0, "`block_swap` must not be negative")
        need(
            not self.block_swap or self.checkpointing != "none",
            '`block_swap` needs `checkpointing`: what is remembered of a block holds its weights',
        )
        need(not self.consistency or bool(self.consistency_encoder), "`consistency` needs `consistency_encoder`")
        for name in ("batch_tokens", "batches", "steps", "checkpoint_every", "keep_last", "log_every",
                     "sample_rows", "consistency_every", "clip", "weighting_deviation"):  # fmt: skip
            need(getattr(self, name) > 0, f"`{name}` must be positive")


OPTIMIZERS = ("adamw", "adamw8bit", "prodigy", "muon")


def recipe_names() -> list[str]:
    """The recipes that ship: the file name is the name."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe_path(name_or_path: str | Path) -> Path:
    """The file of a recipe. Raises UsageError."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        raise UsageError(f"no recipe `{name_or_path}`", hint=f"shipped recipes: {', '.join(recipe_names())}")
    return path


def load_recipe(name_or_path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a shipped recipe by name, or any TOML file by path, and replace single settings.

    An override `model.layers` replaces one setting of the table `model`. It may be a string as it comes from a
    command line; it is read as the setting's type. Raises UsageError for an unknown recipe, an unknown, missing or
    ill-typed setting.
    """
    path = recipe_path(name_or_path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from None
    for name, value in (overrides or {}).items():
        put(values, name, value)
    return read_settings(Recipe, values, str(path))


def explained(recipe: Recipe, name_or_path: str | Path, overrides: dict[str, Any]) -> list[str]:
    """A line for every setting: its value, what it is, and where the value comes from."""
    meanings = field_comments(Path(__file__), "Recipe")
    folder = Path(__file__).parents[1] / "models"
    for file in sorted((folder / "systems").glob("*.py" if recipe.system == "auto" else f"{recipe.system}.py")):
        meanings |= {f"model.{name}": text for name, text in field_comments(file, "Settings").items()}
    lora = field_comments(folder / "lora.py", "LoraSettings")
    meanings |= {f"model.lora.{name}": text for name, text in lora.items()}
    path = recipe_path(name_or_path)
    reasons = table_comments(path)
    given = set(_names(tomllib.loads(path.read_text(encoding="utf-8"))))
    lines = []
    for name, value in _names(dataclasses.asdict(recipe)).items():
        if name in overrides:
            source = "set here"
        elif name in given or name.partition(".")[0] == "model":
            source = f"{path.stem}: {reasons[name]}" if name in reasons else path.stem
        else:
            source = "default"
        lines.append(f"{name} = {value!r}  # {meanings.get(name, '')} [{source}]")
    return lines


def _names(values: dict[str, Any]) -> dict[str, Any]:
    """The settings by name, those of `model` and its `lora` as TABLE.KEY."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name in ("model", "lora") and value:
            found |= {f"{name}.{key}": item for key, item in _names(value).items()}
        else:
            found[name] = value
    return found


def put(values: dict[str, Any], name: str, value: Any) -> None:
    """Set `a.b.c` in nested tables."""
    *tables, last = name.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise UsageError(f"recipe: `{table}` is no table")
    values[last] = value
