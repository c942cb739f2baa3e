"""A training recipe: every setting of a run, read from a TOML file in `recipes/` or anywhere else."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edittools.errors import EditError, UsageError
from edittools.nets import ARCHITECTURES, architecture_names
from edittools.registry import Registry
from edittools.settings import (
    field_comments,
    field_defaults,
    literal_comments,
    read_settings,
    read_value,
    table_comments,
)

RECIPES = Path(__file__).parent / "recipes"
ADDED = Registry("edittools.train.recipes", "edittools.recipes")  # packages of others, each with NAME.toml
OPTIMIZERS = Registry("edittools.train.optimizers", "edittools.optimizers")
OBJECTIVES = Registry("edittools.train.objectives", "edittools.objectives")


def need(ok: bool, what: str) -> None:
    """Raises UsageError unless a recipe's setting is what it has to be."""
    if not ok:
        raise UsageError(f"recipe: {what}")


@dataclass(frozen=True)
class Recipe:
    """All settings of a run; the recipe files say what each number is and where it comes from."""

    system: str  # the architecture: "auto" is that of the weights, else the name of a folder in nets/
    model: dict[str, Any]  # the architecture's own settings

    # Rows and batches
    resolution: list[int]  # [smallest, largest] image area, as a square's side in pixels; images are never enlarged
    ratios: list[str]  # aspect ratios W:H that images are cropped to, and their inverses (FireRed 3.2)
    batch_tokens: int  # image tokens of one forward pass: as many rows of equal shapes as fit
    microbatches: int  # forward passes per step, on all devices together
    language: str = "en"  # language of the texts: "en", "zh" or "both"
    captions: dict[str, float] = field(default_factory=dict)  # share of each kind of text of t2i rows (FireRed table 1)
    instruction_styles: dict[str, float] = field(default_factory=dict)  # share of each style (FireRed 2.5.2)
    caption_dropout: float = 0.0  # share of rows trained with an empty text, for guidance
    shuffle_references: bool = False  # shuffle the sources, and their numbers in the text (FireRed 3.2)
    drop_references: float = 0.0  # share of sources dropped, of those that the text does not name (FireRed 3.2)
    variants: int = 1  # random versions of each row (text, sources), which take turns
    t2i_share: float = -1.0  # share of text-to-image rows; -1: as in the data
    task_weights: dict[str, float] = field(default_factory=dict)  # how often rows of a task are drawn, relative to 1
    kinds: dict[str, float] = field(default_factory=dict)  # share of "t2i" rows, edits of "one" and "several" sources
    origins: dict[str, float] = field(default_factory=dict)  # share by origin: "internet", "synthetic" or a data set
    balance: str = ""  # column with a row's cluster; clusters are drawn equally often (FireRed 3.4)
    balance_power: float = 1.0  # 0: clusters as in the data, 1: equally often
    resample: bool = False  # order batches so that clusters keep their shares from step to step (FireRed 3.5)

    # Objective
    objective: str = "flow"  # what is learned, "flow" or another file in train/objectives/
    objective_settings: dict[str, Any] = field(default_factory=dict)  # settings of the objective itself, if it has any
    timesteps: str = "uniform"  # distribution of t: "uniform", or "logit-normal" (mean 0, deviation 1)
    shift: float = 1.0  # s in t' = s t / (1 + (s - 1) t); 0: that of the weights' sampler
    shift_by_tokens: list[float] = field(default_factory=list)  # [n0, mu0, n1, mu1, ...]: s = e^mu, mu linear in tokens
    curriculum: list[float] = field(default_factory=list)  # [mu, share]: shift e^mu, gone by this share of steps
    weighting: str = "none"  # weight of the loss by t: "none" or "logit-normal" (FireRed 3.8)
    weighting_mean: float = 0.0  # mean of logit t in this weight
    weighting_deviation: float = 1.0  # standard deviation of logit t in this weight
    mask_weight: float = 1.0  # weight of the loss inside a row's `mask` relative to outside; the mean stays 1
    region_weight: bool = False  # weigh small edited regions higher; fades with the learning rate
    consistency: float = 0.0  # η, the weight of the consistency loss (FireRed 3.7); 0: none
    consistency_every: int = 1  # steps between two with this loss
    consistency_encoder: str = ""  # weights of its encoder: ArcFace, for rows with `faces`, or any vision model

    # Optimisation
    seed: int = 0  # of new weights, the order of rows, noise and times
    steps: int = 0  # updates of the weights in total
    optimizer: str = "adamw"  # "adamw", "adamw8bit", "prodigy", "muon", or another file in train/optimizers/
    optimizer_settings: dict[str, Any] = field(default_factory=dict)  # settings of the optimizer itself, if it has any
    lr: float = 1e-4  # learning rate; with "muon" that of the part that AdamW trains
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # decay of the two moments of the gradient
    weight_decay: float = 0.01  # decoupled weight decay, times the learning rate
    decay_norms: bool = True  # decay biases and the scales of norms too
    muon_lr: float = 0.02  # learning rate of the matrices, with "muon"
    muon_momentum: float = 0.95  # momentum of the matrices, with "muon"
    warmup: int = 0  # steps of linear warm-up
    schedule: str = "linear"  # how the learning rate falls to zero: "linear" or "cosine"
    decay_from: float = -1.0  # share of the steps after which it falls; -1: linear never, cosine after warm-up
    max_grad_norm: float = 1.0  # largest norm of the gradient
    loss_spike_factor: float = 10.0  # stop when a loss is this many times its running mean; 0: never
    ema: float = 0.999  # decay of the average of the weights; 1: arithmetic mean; 0: none (FireRed 3.5, 3.8)
    ema_from: float = 0.0  # share of the steps after which averaging begins

    # Run
    dtype: str = "float32"  # number type of the computation, "float32" or "bfloat16"; trained weights are float32
    checkpointing: str = "none"  # activations to recompute in the backward pass: "none", "selective" or "full"
    quantize: str = ""  # number type of the frozen weights beside adapters: "int8", "fp8" or "nf4"
    block_swap: int = 0  # blocks whose frozen weights stay in main memory; needs checkpointing
    compile: bool = False  # compile the repeated blocks, on an accelerator
    attention: str = ""  # attention backend of diffusers that takes masks; "auto": the fastest; empty: torch's choice
    checkpoint_every: int = 1000  # steps between checkpoints
    keep_last: int = 2  # number of checkpoints to keep; if the last is damaged, the one before is used
    keep_every: int = 0  # steps between models that are kept for good, as RUN/@STEP; 0: none
    keep_gb: float = 0.0  # GB on disk for checkpoints and kept models, the oldest are deleted first; 0: no limit
    log_every: int = 10  # steps between lines of the log
    heldout_every: int = 0  # steps between measurements of the loss of --heldout; 0: at every checkpoint
    heldout_times: list[float] = field(default_factory=lambda: [0.1, 0.3, 0.5, 0.7, 0.9])  # t of this loss
    sample_every: int = 0  # steps between preview images; 0: none
    sample_rows: int = 4  # number of rows in the previews: held-out ones if there are, of many tasks
    sample_ids: list[str] = field(default_factory=list)  # ids of the rows in the previews, instead
    sample_prompts: list[str] = field(default_factory=list)  # more instructions, the k-th for the k-th row
    sample_steps: int = 0  # Euler steps of previews, and default of the trained model; 0: the architecture's
    sample_guidance: float = 0.0  # classifier-free guidance, likewise; 0: the architecture's

    def __post_init__(self) -> None:
        self._check_rows()
        self._check_objective()
        self._check_optimisation()
        self._check_run()
        for name in (
            "lr",
            "muon_lr",
            "weight_decay",
            "warmup",
            "loss_spike_factor",
            "sample_every",
            "keep_every",
            "keep_gb",
            "mask_weight",
            "heldout_every",
            "sample_steps",
            "sample_guidance",
            "shift",
        ):
            need(getattr(self, name) >= 0, f"`{name}` must not be negative")
        for name in ("batch_tokens", "microbatches", "steps", "checkpoint_every", "keep_last", "log_every",
                     "sample_rows", "consistency_every", "max_grad_norm", "weighting_deviation"):  # fmt: skip
            need(getattr(self, name) > 0, f"`{name}` must be positive")

    def _check_rows(self) -> None:
        architectures = ("auto", *architecture_names())
        need(self.system in architectures, f"`system`: no {self.system!r}, but {', '.join(architectures)}")
        need(
            len(self.resolution) == 2 and 0 < self.resolution[0] <= self.resolution[1],
            "`resolution` must be [smallest, largest]",
        )
        for ratio in self.ratios:
            parts = ratio.split(":")
            need(len(parts) == 2 and all(p.isdigit() and int(p) for p in parts), f"`ratios`: {ratio!r} is not W:H")
        need(bool(self.ratios), "`ratios` must name at least one")
        need(self.language in ("en", "zh", "both"), '`language` must be "en", "zh" or "both"')
        need(self.kinds.keys() <= {"t2i", "one", "several"}, '`kinds` are "t2i", "one" and "several"')
        need(not self.kinds or self.t2i_share == -1, "`kinds` has text-to-image rows' share: no `t2i_share` beside it")
        need(not self.resample or bool(self.balance), "`resample` needs `balance`, the column of the clusters")
        for name in ("captions", "instruction_styles", "kinds", "origins"):
            shares = getattr(self, name)
            need(all(v >= 0 for v in shares.values()), f"`{name}`: shares must not be negative")
            need(not shares or sum(shares.values()) > 0, f"`{name}`: all shares are 0")
        need(all(v >= 0 for v in self.task_weights.values()), "`task_weights` must not be negative")
        need(self.t2i_share == -1 or 0 <= self.t2i_share <= 1, "`t2i_share` must lie in [0, 1], or be -1")
        need(
            0 <= self.caption_dropout < 1 and 0 <= self.drop_references < 1,
            "`caption_dropout`, `drop_references`: in [0, 1)",
        )
        need(0 < self.variants <= 1000, "`variants` must lie in [1, 1000]")

    def _check_objective(self) -> None:
        need(self.objective in OBJECTIVES.names, f"`objective` must be one of {', '.join(OBJECTIVES.names)}")
        self.of_objective()  # which raises for what the objective has not
        need(self.timesteps in ("logit-normal", "uniform"), '`timesteps` must be "logit-normal" or "uniform"')
        need(self.weighting in ("none", "logit-normal"), '`weighting` must be "none" or "logit-normal"')
        need(
            self.weighting == "none" or self.timesteps == "uniform",
            "logit-normal weighting of logit-normal timesteps would square the effect: choose one",
        )
        need(
            not self.shift_by_tokens
            or (len(self.shift_by_tokens) >= 4 and len(self.shift_by_tokens) == 2 * len({*self.shift_by_tokens[::2]})),
            "`shift_by_tokens` must be [tokens, mu, tokens, mu, ...], of two numbers of tokens or more",
        )
        need(
            len(self.curriculum) in (0, 2) and (not self.curriculum or 0 < self.curriculum[1] <= 1),
            "`curriculum` must be [mu, share of the steps]",
        )
        need(not self.consistency or bool(self.consistency_encoder), "`consistency` needs `consistency_encoder`")

    def _check_optimisation(self) -> None:
        need(self.optimizer in OPTIMIZERS.names, f"`optimizer` must be one of {', '.join(OPTIMIZERS.names)}")
        self.of_optimizer()  # which raises for what the optimizer has not
        need(0 <= self.seed < 2**63, "`seed` must lie in [0, 2^63)")
        need(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "`betas` must be two numbers in [0, 1)")
        need(0 <= self.muon_momentum < 1, "`muon_momentum` must lie in [0, 1)")
        need(self.schedule in ("linear", "cosine"), '`schedule` must be "linear" or "cosine"')
        need(self.decay_from == -1 or 0 <= self.decay_from <= 1, "`decay_from` must lie in [0, 1], or be -1")
        need(0 <= self.ema_from <= 1, "`ema_from` must lie in [0, 1]")
        need(0 <= self.ema <= 1, "`ema` must lie in [0, 1]")

    def _check_run(self) -> None:
        need(bool(self.heldout_times), "`heldout_times` must name at least one")
        need(all(0 < t < 1 for t in self.heldout_times), "`heldout_times` must lie between 0 and 1")
        need(self.dtype in ("float32", "bfloat16"), '`dtype` must be "float32" or "bfloat16"')
        need(self.checkpointing in ("none", "selective", "full"), '`checkpointing`: "none", "selective" or "full"')
        need(self.quantize in ("", "int8", "fp8", "nf4"), '`quantize`: "int8", "fp8" or "nf4"; empty: none')
        need(not self.quantize or bool(self.model.get("lora")), "`quantize` is for adapters: set model.lora.rank")
        need(self.block_swap >= 0, "`block_swap` must not be negative")
        need(
            not self.block_swap or self.checkpointing != "none",
            "`block_swap` needs `checkpointing`: what is remembered of a block holds its weights",
        )

    @property
    def pairs(self) -> bool:
        """Does the objective learn from preference pairs: a `target`, and `rejected` that was judged worse?"""
        return bool(OBJECTIVES.declared("PAIRS", False)[self.objective])

    @property
    def rewarded(self) -> bool:
        """Does the objective learn from the `result` of candidates by their rewards?"""
        return self.of_objective().get("images") == "rows"

    @property
    def rollouts(self) -> bool:
        """Does the objective learn from images that the model makes on the way? Rows are prompts then."""
        return self.of_objective().get("images") == "model"

    @property
    def replies(self) -> bool:
        """Does the objective learn replies to messages? Its architecture is a vision-language model then."""
        return bool(OBJECTIVES.declared("REPLIES", False)[self.objective])

    @property
    def copies(self) -> tuple[str, ...]:
        """Names of the sets of weights that the objective keeps beside those that train."""
        declared = OBJECTIVES.declared("COPIES", ())[self.objective]
        if not declared:
            return ()
        chosen = getattr(OBJECTIVES.load(self.objective), "copies", None)
        return tuple(declared if chosen is None else chosen(self.of_objective()))

    def of_optimizer(self) -> dict[str, Any]:
        """The optimiser's own settings, with its defaults. Raises UsageError for one that it has not."""
        return _own(OPTIMIZERS, self.optimizer, self.optimizer_settings, "optimizer_settings")

    def of_objective(self) -> dict[str, Any]:
        """The objective's own settings, likewise."""
        return _own(OBJECTIVES, self.objective, self.objective_settings, "objective_settings")


def _own(registry: Registry, name: str, told: dict[str, Any], table: str) -> dict[str, Any]:
    """What the SETTINGS of a registered file come to."""
    known = registry.declared("SETTINGS")[name]
    if known is None:
        known = {}
        if getattr(registry.load(name), "SETTINGS", None):
            raise EditError(f"{registry.modules[name]}: SETTINGS is computed: only literals are read from a file")
    for key in told:
        if key not in known:
            raise UsageError(f"recipe: `{table}`: {name} has no `{key}`", hint=", ".join(known) or None)
    every = {**known, **told}
    return {key: read_value(value, type(known[key]), f"recipe: `{table}`: `{key}`") for key, value in every.items()}


def recipe_names() -> list[str]:
    """The recipes that ship: the file name is the name."""
    return sorted([*(path.stem for path in RECIPES.glob("*.toml")), *ADDED.names])


def recipe_path(name_or_path: str | Path) -> Path:
    """The file of a recipe. Raises UsageError."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        name = str(name_or_path)
        path = ADDED.path(name).parent / f"{name}.toml" if name in ADDED.names else RECIPES / f"{name}.toml"
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
    """A line for every setting: its value, what it is, and where the value comes from; last the model's defaults."""
    meanings = field_comments(Path(__file__), "Recipe")
    for key, registry in (("optimizer", OPTIMIZERS), ("objective", OBJECTIVES)):
        each = (f'"{name}"' + (f" ({said})" if said else "") for name, said in registry.declared("HELP").items())
        meanings[key] += f": {', '.join(each)}"
    folder = Path(__file__).parents[1] / "nets"
    architectures = ARCHITECTURES.names if recipe.system == "auto" else (recipe.system,)
    unset: dict[str, str] = {}
    if recipe.system != "auto":
        defaults = field_defaults(ARCHITECTURES.path(recipe.system), "Settings")
        unset |= {f"model.{name}": text for name, text in defaults.items()}
    if recipe.model.get("lora"):
        defaults = field_defaults(folder / "lora.py", "LoraSettings")
        unset |= {f"model.lora.{name}": text for name, text in defaults.items()}
    for system in architectures:
        comments = field_comments(ARCHITECTURES.path(system), "Settings")
        meanings |= {f"model.{name}": text for name, text in comments.items()}
    lora = field_comments(folder / "lora.py", "LoraSettings")
    meanings |= {f"model.lora.{name}": text for name, text in lora.items()}
    settings = {"objective_settings": recipe.of_objective(), "optimizer_settings": recipe.of_optimizer()}
    for table, file in zip(settings, (OBJECTIVES.path(recipe.objective), OPTIMIZERS.path(recipe.optimizer))):
        own = literal_comments(file, "SETTINGS")
        meanings |= {f"{table}.{name}": text for name, (_, text) in own.items()}
    path = recipe_path(name_or_path)
    reasons = table_comments(path)
    given = set(_names(tomllib.loads(path.read_text(encoding="utf-8"))))
    lines = []
    for name, value in _names({**dataclasses.asdict(recipe), **settings}).items():
        if name in overrides:
            source = "set here"
        elif name in given or name.partition(".")[0] == "model":
            source = f"{path.stem}: {reasons[name]}" if name in reasons else path.stem
        else:
            source = "default"
        lines.append(f"{name} = {value!r}  # {meanings.get(name, '')} [{source}]")
        unset = {other: text for other, text in unset.items() if not f"{name}.".startswith(f"{other}.")}
    return lines + [f"{name} = {text}  # {meanings[name]} [default]" for name, text in unset.items()]


def _names(values: dict[str, Any]) -> dict[str, Any]:
    """The settings by name, those of `model`, its `lora`, the objective and the optimizer as TABLE.KEY."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name in ("model", "lora", "objective_settings", "optimizer_settings") and value:
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
