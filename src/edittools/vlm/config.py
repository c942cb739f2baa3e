"""How a model that reads images and writes text is reached, at what pace, and for what price."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any, TypeVar

from edittools.errors import UsageError
from edittools.settings import PlacedInBatches, setting
from edittools.vlm.load import BACKENDS, backend_options

STATES = ("failed", "filtered", "unparsed", "refused")  # that `redo` chooses from
_NUMBERS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "seed", "top_logprobs")
Parameter = tuple[str, Any]


def amount(positive: bool = False) -> Callable[[Any], float | None]:
    """A finite number, 0 or more; `positive` excludes 0. Raises ValueError."""

    def read(value: Any) -> float | None:
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0 or (positive and number == 0):
            raise ValueError(f"is not a number {'above' if positive else 'of at least'} 0")
        return number

    return read


def pixel_range(value: Any) -> tuple[int, int] | None:
    """`MIN..MAX`. Raises ValueError."""
    if value is None or isinstance(value, tuple):
        return value
    least, _, most = str(value).partition("..")
    if not (least.isdecimal() and most.isdecimal() and 0 < int(least) <= int(most)):
        raise ValueError("is not MIN..MAX, two numbers of pixels such as 1016064..1354752")
    return int(least), int(most)


def parameters(given: Any) -> tuple[Parameter, ...]:
    """`NAME=VALUE`s, the values as JSON where they are some; without a value (name, None). Raises ValueError."""
    items = given.items() if isinstance(given, dict) else given
    return tuple(item if isinstance(item, tuple) else _parameter(str(item)) for item in items)


def _parameter(given: str) -> Parameter:
    name, equals, text = given.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{given} is not NAME=VALUE, such as top_p=0.9, nor NAME= to leave NAME out")
    if name in ("model", "messages", "input"):
        raise ValueError(f"`{name}` is what the command itself sends")
    try:
        return name, json.loads(text) if text else None
    except ValueError:
        return name, text


def states(value: Any) -> frozenset[str]:
    """States of replies, separated by commas, or `all`. Raises ValueError."""
    if value is None or isinstance(value, frozenset):
        return value or frozenset()
    names = [name.strip() for name in str(value).split(",")]
    for name in names:
        if name not in (*STATES, "all"):
            raise ValueError(f"{name!r} is none of {', '.join(STATES)}, all")
    return frozenset(("ok", *STATES) if "all" in names else names)


def _told(default: Any, meaning: str, **said: Any) -> Any:
    return setting(default, meaning, group="Model", **said)


def _reached(meaning: str, **said: Any) -> Any:
    """How it is asked, which changes no answer."""
    return setting(said.pop("default", None), meaning, group="Model", recorded=False, **said)


@dataclass(frozen=True)
class VlmConfig(PlacedInBatches):
    """Settings of every command that asks a VLM."""

    model: str | None = _told(None, "A model of the endpoint, or a folder (local).", metavar="NAME")
    backend: str | None = _reached(
        f"{'. '.join(f'{name}: {said}' for name, said in BACKENDS.declared('HELP').items())}. Default: an endpoint "
        "where an address or a key is set, local where --model is a folder.",
        choices=BACKENDS.names,
    )
    api_base: str | None = _reached(
        "Address of the endpoint. Default: EDITTOOLS_API_BASE, OPENAI_BASE_URL, OpenAI's own.", metavar="URL"
    )
    api_key_env: str | None = _reached(
        "Environment variable that holds the key. Default: OPENAI_API_KEY.", metavar="VARIABLE"
    )
    temperature: float | None = _told(
        None, "Sampling temperature. Default: the endpoint's.", metavar="T", parse=amount()
    )
    max_tokens: int | None = _told(
        None, "Tokens of a reply at most. Default: what the rubric says.", metavar="N", low=1
    )
    param: tuple[Parameter, ...] = _told(
        (),
        "Send this parameter (JSON, else text) in place of the rubric's; NAME= leaves it out. What a model declines is "
        "left out anyway. Several times.",
        metavar="NAME=VALUE",
        parse=parameters,
    )
    image_pixels: tuple[int, int] | None = _told(
        None,
        "Pixels that a local model scales an image to. Default: the checkpoint's own. ImgEdit-Judge: "
        "1016064..1354752, with --max-tokens 2048.",
        metavar="MIN..MAX",
        parse=pixel_range,
    )
    timeout: float | None = _reached(
        "How long a call of the endpoint may take. Default: 300.", metavar="SECONDS", parse=amount(positive=True)
    )
    concurrency: int = _reached("Calls in flight.", default=64, metavar="N", low=1)
    rpm: float | None = _reached("Requests per minute at most.", metavar="N", parse=amount(positive=True))
    tpm: float | None = _reached("Tokens per minute at most.", metavar="N", parse=amount(positive=True))
    max_cost: float | None = _reached(
        "Stop before this run has cost more, by the price table; running again goes on.",
        metavar="AMOUNT",
        parse=amount(),
    )
    prices: str | None = _reached("Price table (TOML) instead of ours.", metavar="FILE")
    cache_dir: str | None = _reached(
        "Where replies are kept: none is ever asked for again, except what failed, by another run, and what --redo "
        "names. Default: OUTPUT.replies/ beside a shard set.",
        metavar="DIR/",
    )
    batch: str | None = _reached(
        "By the endpoint's batch interface, at half the price within a day. submit: send every request that nobody has "
        "answered, and write nothing. collect: when all batches are done, go on with their replies.",
        choices=("submit", "collect"),
    )
    redo: frozenset[str] = _reached(
        "Ask again for rows of these states: failed, filtered, unparsed, refused (several with commas), or all. "
        "Finished shards that have such rows are made anew. --overwrite does it for what failed.",
        metavar="STATES",
        parse=states,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch and self.redo:
            raise UsageError("--redo with --batch: what failed or cannot be read is submitted again as it is")

    @property
    def models(self) -> tuple[str, ...]:
        """Everybody who may be asked."""
        return (self.model,) if self.model is not None else ()

    @property
    def parameters(self) -> dict[str, Any]:
        """What replaces the parameters of a request; None leaves one out. Raises UsageError."""
        own = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        said = [(name, value) for name, value in own.items() if value is not None]
        found: dict[str, Any] = {}
        for name, value in [*said, *self.param]:
            if name in found:
                raise UsageError(f"--param {name}: is given twice")
            if value is not None and name in _NUMBERS:
                whole = name not in ("temperature", "top_p")
                kinds = (int,) if whole else (int, float)
                if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < 1 << 63:
                    what = "whole number" if whole else "number"
                    raise UsageError(f"--param {name}={value}: is no {what} of at least 0")
            found[name] = value
        return found


C = TypeVar("C", bound=VlmConfig)


def with_backend_options(kind: type[C]) -> type[C]:
    """A Config with the options that backends declare for themselves; their values are text."""
    fields = [
        (name, str | None, setting(None, said, group="Model", metavar="VALUE"))
        for name, said in backend_options().items()
    ]
    named = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    return make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, namespace=named)
