"""What `edit caption` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edittools.errors import UsageError
from edittools.record import TASKS
from edittools.settings import max_pixels_setting, names_of, seed_setting, setting
from edittools.vlm.config import VlmConfig, with_backend_options

GRAMMAR = "grammar"  # the kind that asks nobody: our own templates, worded by our own grammar
LANGUAGES = ("en", "zh")
_EXAMPLES = ("drawn", "nearest")


def _languages(value: Any) -> tuple[str, ...]:
    chosen = names_of(value)
    if not chosen or set(chosen) - set(LANGUAGES):
        raise UsageError(f"--language {','.join(chosen)}: of {', '.join(LANGUAGES)}, one or both")
    return chosen


def _tasks(value: Any) -> tuple[tuple[str, float], ...]:
    """`add,remove=2` -> shares that add up to 1."""
    shares: dict[str, float] = {}
    for item in names_of(value) if isinstance(value, str) else value:
        name, _, share = item.partition("=") if isinstance(item, str) else (item[0], "", str(item[1]))
        if name not in TASKS or name == "t2i":
            raise UsageError(f"--tasks {name}: no task of that name", hint=", ".join(t for t in TASKS if t != "t2i"))
        try:
            shares[name] = float(share or 1)
        except ValueError:
            raise UsageError(f"--tasks {item}: {share} is no number") from None
        if not 0 < shares[name] < 1e9:
            raise UsageError(f"--tasks {item}: a share is above 0")
    total = sum(shares.values())
    return tuple((name, share / total) for name, share in shares.items())


def _stages(value: Any) -> tuple[int, ...]:
    try:
        chosen = tuple(sorted({int(item) for item in (names_of(value) if isinstance(value, str) else value)}))
    except ValueError:
        raise UsageError(f"--stages {value}: numbers from 1 to 6") from None
    if not chosen or chosen[0] < 1 or chosen[-1] > 6:
        raise UsageError(f"--stages {value}: numbers from 1 to 6")
    return chosen


def _names(value: Any) -> tuple[str, ...]:
    return names_of(value or ())


def _models(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(dict.fromkeys(value or ()))


@with_backend_options
@dataclass(frozen=True)
class CaptionConfig(VlmConfig):
    """Settings of the captioning stage."""

    model: tuple[str, ...] = setting(  # type: ignore[assignment]
        (),
        "Whom to ask: a model at an endpoint, or a checkpoint. Of several, the first sees the images; rewordings "
        "(concise, user_like, paraphrase) draw one per row.",
        group="Model",
        metavar="NAME",
        parse=_models,
    )
    max_pixels: int = max_pixels_setting()
    kinds: tuple[str, ...] = setting(
        GRAMMAR,
        "What to write: names of --list, or files of your own (.toml, .py). grammar: without a model, from what `edit "
        "synth` recorded.",
        metavar="A,B,...",
        parse=names_of,
    )
    styles: tuple[str, ...] = setting(
        "detailed,concise,user_like", "Of kind grammar: styles to write.", metavar="A,B,...", parse=names_of
    )
    check: tuple[str, ...] = setting(
        None, "Also check the captions, by tests of --list: scores `caption_...`.", metavar="A,B,...", parse=_names
    )
    language: tuple[str, ...] = setting(
        ",".join(LANGUAGES), "Languages of the texts.", metavar="en,zh", parse=_languages
    )
    verifier: str | None = setting(
        None,
        "Who answers the yes/no questions of `verify` and `perturb`. Default: the last of several --model.",
        group="Model",
        metavar="NAME",
    )
    rounds: int = setting(
        1,
        "Look K times: each round is shown the claims of the one before, to be checked against the images; what stayed "
        "is the score `caption_agreement`, by field `caption_agreement_FIELD`.",
        metavar="K",
        low=1,
        high=5,
    )
    examples: str | None = setting(
        None,
        "Examples of the wording wanted: JSON lines with `output` (as the kind answers), and `kind`, `task`, `input`.",
        metavar="FILE",
    )
    examples_by: str = setting(
        "drawn", "Which examples a row is shown: drawn by its seed, or nearest to its text.", choices=_EXAMPLES
    )
    tasks: tuple[tuple[str, float], ...] = setting(
        "add,remove,replace,background,color,material,style",
        "Of kind instruct: tasks to draw, NAME or NAME=SHARE.",
        metavar="A,B=2,...",
        parse=_tasks,
    )
    stages: tuple[int, ...] = setting(
        "1,2,3,4,5,6", "Of kind evolve: stages to draw from (1 concrete ... 6 with knowledge).", metavar="1,2,...",
        parse=_stages,
    )  # fmt: skip
    max_copies: int = setting(
        1,
        "Of kind evolve: rows of a shard that may ask for nearly the same; further ones are rejected. 0: any number.",
        metavar="N",
        low=0,
    )
    column: str | None = setting(
        None, "The image of kinds that look at one. Default: `target`, otherwise the first source.", metavar="COLUMN"
    )
    attempts: int = setting(3, "Replies asked for until one is valid.", metavar="N", low=1, high=10)
    structured: bool = setting(
        True, "Hold the model to the JSON schema, where it can be; checked it is anyway.", flag="--structured/--free"
    )
    keep_failed: bool = setting(
        False, "Keep rows about which there is no valid answer: null, and why in `annotations`.", group="Output"
    )
    max_side: int = setting(1024, "Longest side of the images that are sent.", metavar="N", low=64)
    seed: int = seed_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds and not self.check:
            raise UsageError("--kinds: nothing is left")
        writes = {"detailed", "concise", "user_like"} & set(self.kinds)
        if GRAMMAR in self.kinds and writes & set(self.styles):
            raise UsageError(
                f"--kinds grammar,{min(writes)}: both write `instruction_{min(writes)}`", hint="--styles leaves one out"
            )

    @property
    def models(self) -> tuple[str, ...]:
        """Everybody who may be asked, the captioner first."""
        return tuple(dict.fromkeys([*self.model, *([self.verifier] if self.verifier else [])]))

    @property
    def judge_of_claims(self) -> str | None:
        """Who answers yes/no questions about what another model said."""
        return self.verifier or (self.model[-1] if len(self.model) > 1 else None)
