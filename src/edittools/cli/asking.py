"""How commands that ask a model do it: the options, and one machine that asks, keeps, counts and says what failed."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import options
from edittools.errors import EditError, UsageError

if TYPE_CHECKING:
    from edittools.models.writers.asking import Tally
    from edittools.models.writers.batches import Batches
    from edittools.models.writers.store import Store

STATES = ("failed", "filtered", "unparsed", "refused")  # that --redo chooses from


class _Amount(click.ParamType):
    """A finite number, 0 or more; `positive` excludes 0."""

    name = "number"

    def __init__(self, positive: bool = False) -> None:
        self.positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0 or (self.positive and number == 0):
            self.fail(f"{value} is not a number {'above' if self.positive else 'of at least'} 0", param, ctx)
        return number


class _PixelRange(click.ParamType):
    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        least, _, most = str(value).partition("..")
        if not (least.isdecimal() and most.isdecimal() and 0 < int(least) <= int(most)):
            self.fail(f"{value} is not MIN..MAX, two numbers of pixels such as 1016064..1354752", param, ctx)
        return int(least), int(most)


class _Parameter(click.ParamType):
    """`NAME=VALUE`, the value as JSON where it is some; without a value (name, None)."""

    name = "parameter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{value} is not NAME=VALUE, such as top_p=0.9, nor NAME= to leave NAME out", param, ctx)
        if name in ("model", "messages", "input"):
            self.fail(f"`{name}` is what the command itself sends", param, ctx)
        try:
            return name, json.loads(text) if text else None
        except ValueError:
            return name, text


class _States(click.ParamType):
    """States of replies, separated by commas, or `all`."""

    name = "states"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        if isinstance(value, frozenset):
            return value
        names = [name.strip() for name in str(value).split(",")]
        for name in names:
            if name not in (*STATES, "all"):
                self.fail(f"{name!r} is none of {', '.join(STATES)}, all", param, ctx)
        return frozenset(("ok", *STATES) if "all" in names else names)


def writer_options(function: Callable) -> Callable:
    """How a model that writes text is reached, and at what pace."""
    choices = (
        options.option(
            "--model", metavar="NAME", group="Model", help="The judge: a model of the endpoint, or a folder (local)."
        ),
        options.option(
            "--backend",
            type=click.Choice(["endpoint", "local", "echo"]),
            group="Model",
            setting=False,
            help="endpoint: any OpenAI-compatible one. local: transformers. Default: an endpoint where an address or a "
            "key is set, local where --model is a folder.",
        ),
        options.option(
            "--api-base",
            metavar="URL",
            group="Model",
            setting=False,
            help="Address of the endpoint. Default: EDITTOOLS_API_BASE, OPENAI_BASE_URL, OpenAI's own.",
        ),
        options.option(
            "--key-from",
            metavar="VARIABLE",
            group="Model",
            setting=False,
            help="Environment variable that holds the key. Default: OPENAI_API_KEY.",
        ),
        options.option(
            "--temperature", type=_Amount(), metavar="T", group="Model", help="Default: the endpoint's own."
        ),
        options.option(
            "--max-tokens",
            type=click.IntRange(min=1),
            metavar="N",
            group="Model",
            help="Tokens of a reply at most. Default: what the rubric says.",
        ),
        options.option(
            "--param",
            type=_Parameter(),
            multiple=True,
            metavar="NAME=VALUE",
            group="Model",
            help="Send this parameter (JSON, else text) in place of the rubric's; NAME= leaves it out. What a model "
            "declines is left out anyway. Several times.",
        ),
        options.option(
            "--picture-pixels",
            type=_PixelRange(),
            metavar="MIN..MAX",
            group="Model",
            help="Pixels that a local model scales a picture to. Default: the checkpoint's own. ImgEdit-Judge: "
            "1016064..1354752, with --max-tokens 2048.",
        ),
        options.option(
            "--timeout",
            type=_Amount(positive=True),
            metavar="SECONDS",
            group="Model",
            setting=False,
            help="How long a call of the endpoint may take. Default: 300.",
        ),
        options.option(
            "--concurrency",
            type=click.IntRange(min=1),
            default=64,
            show_default=True,
            metavar="N",
            group="Model",
            setting=False,
            help="Calls in flight.",
        ),
        options.option(
            "--rpm",
            type=_Amount(positive=True),
            metavar="N",
            group="Model",
            setting=False,
            help="Requests per minute at most.",
        ),
        options.option(
            "--tpm",
            type=_Amount(positive=True),
            metavar="N",
            group="Model",
            setting=False,
            help="Tokens per minute at most.",
        ),
        options.option(
            "--max-cost",
            type=_Amount(),
            metavar="AMOUNT",
            group="Model",
            setting=False,
            help="Stop before this run has cost more, by the price table; running again goes on.",
        ),
        options.option(
            "--prices", metavar="FILE", group="Model", setting=False, help="Price table (TOML) instead of ours."
        ),
        options.option(
            "--store",
            metavar="DIR/",
            group="Model",
            setting=False,
            help="Where replies are kept: none is ever asked for again, except what failed, by another run, and what "
            "--redo names. Default: OUTPUT.replies/ beside a shard set.",
        ),
        options.option(
            "--batch",
            type=click.Choice(["submit", "collect"]),
            group="Model",
            setting=False,
            help="By the endpoint's batch interface, at half the price within a day. submit: send every request that "
            "nobody has answered, and write nothing. collect: when all batches are done, judge with their replies.",
        ),
        options.option(
            "--redo",
            type=_States(),
            metavar="STATES",
            group="Model",
            setting=False,
            help="Ask again for rows of these states: failed, filtered, unparsed, refused (several with commas), or "
            "all. Finished shards that have such rows are made anew. --overwrite does it for what failed.",
        ),
    )
    for decorate in reversed(choices):
        function = decorate(function)
    return function


class Asking:
    """Asks the model that the options name. As a context it closes the store at its end, and says what failed."""

    def __init__(self, given: dict[str, Any], run_options: Any) -> None:
        """Raises UsageError for options that exclude each other, EditError where the model cannot be reached."""
        from edittools.models.writers.asking import Tally
        from edittools.models.writers.echo import EchoWriter
        from edittools.models.writers.prices import load_prices

        self.given, self.run_options = given, run_options
        _check(given, run_options)
        self.parameters = _parameters(given)
        self.redo: frozenset[Any] = given["redo"] or frozenset()
        if run_options.overwrite:
            self.redo |= {"failed"}
        # -n reaches nobody: the backend that it loads is a stand-in.
        self.writer: Any = EchoWriter() if run_options.dry_run else _writer(given)
        self.endpoint = given["api_base"] if run_options.dry_run else self.writer.name
        # A price is needed for a limit; without one it is only told where the table has the model.
        table, self.prices = load_prices(given["prices"]), None
        try:
            table.find(given["model"])
            self.prices = table
        except EditError:
            if given["max_cost"] is not None:
                raise
        self.tally = Tally()
        self.settings: dict[str, Any] = {}  # of the run; what the same command is known by
        self.refresh: Callable[[], None] = lambda: None  # of the progress bar
        self.store: Store | None = None
        self.batches: Batches | None = None

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        if self.batches is not None and kind is None:
            self.batches.taken()
        if self.store is not None:
            self.store.close()
        if not self.run_options.quiet:
            for times, state, example in self.tally.reasons.most_frequent(3):
                click.echo(f"judge: {times} {state}: {example}", err=True)

    def opened(self) -> Store:
        """The store, which this process has for this command alone. Raises EditError."""
        from edittools.models.writers.store import Store

        if self.store is None:
            task = self.run_options.task
            self.store = Store(store_folder(self.given), f"{task[0] if task else 0:05d}")
            self.store.claim(self.given["input"], self.given["output"], task, self.settings)
        return self.store

    def __call__(self, requests: Any, check: Any) -> Iterator[Any]:
        """(tag, reply) for every (tag, request)."""
        from edittools.models.writers.asking import ask_all

        given = self.given
        return ask_all(
            requests,
            self.writer,
            self.opened(),
            concurrency=given["concurrency"],
            requests_per_minute=given["rpm"],
            tokens_per_minute=given["tpm"],
            max_cost=given["max_cost"],
            prices=self.prices,
            check=check,
            redo=self.redo | {"failed"},
            tally=self.tally,
            progress=lambda _: self.refresh(),
        )

    def submit(self, requests: Iterable[Any]) -> None:
        """`--batch submit`, and a line about it. Raises EditError."""
        from edittools.models.writers.batches import Batches

        done = Batches(self.opened(), self.writer).submit(requests, prices=self.prices, max_cost=self.given["max_cost"])
        if self.run_options.quiet:
            return
        parts = [f"{done.requests} requests submitted in {done.batches} batches"]
        parts += [f"{done.stored} answered before"] if done.stored else []
        parts += [f"{done.waiting} with the service already"] if done.waiting else []
        if done.cost and self.prices is not None:
            parts.append(f"about {done.cost:.2f} {self.prices.currency} at the rate of batches")
        click.echo(f"judge: {', '.join(parts)}; --batch collect takes the replies", err=True)

    def collect(self) -> None:
        """`--batch collect`: from now on the batches' replies are the answers. Raises EditError."""
        from edittools.models.writers.batches import DISCOUNT, Batches

        self.batches = Batches(self.opened(), self.writer)
        self.writer = self.batches.collect()
        self.prices = None if self.prices is None else self.prices.scaled(DISCOUNT)

    def plan(self, sample: Iterable[Any], calls: int) -> tuple[str, ...]:
        """What `-n` says of the calls and their cost, from a sample of the requests."""
        from edittools.models.writers.prices import estimate
        from edittools.models.writers.store import count_stored

        found = estimate(sample, self.prices, calls=calls)
        unknown = "no price is known for this model"
        cost = unknown if self.prices is None else f"{found.cost:.2f} {self.prices.currency}"
        note = f"at most {found.calls} calls, about {found.prompt_tokens:,} tokens read and "
        notes = [f"{note}{found.completion_tokens:,} written: {cost}"]
        with contextlib.suppress(UsageError):  # nobody has said yet where the replies will be kept
            folder = store_folder(self.given)
            if stored := count_stored(folder):
                notes.append(f"{folder}: {stored:,} replies; those that are asked for here cost nothing")
        return tuple(notes)

    def hint(self) -> str:
        """How rows without an answer are asked about again."""
        again = ",".join(state for state in STATES if getattr(self.tally, state)) or "failed,unparsed"
        return f"the output is written, and judgements say why; --redo {again} asks for these rows again"

    def said(self) -> str:
        """What the summary line says of the calls."""
        return _said(self.tally)


def _check(given: dict[str, Any], run_options: Any) -> None:
    """Raises UsageError for options that exclude each other."""
    limits = [option for option in ("max_cost", "rpm", "tpm") if given[option] is not None]
    if limits and run_options.ray is not None:
        raise UsageError(f"--{limits[0].replace('_', '-')} bounds one process: it cannot be used with --ray")
    if given["batch"] and run_options.ray is not None:
        raise UsageError("--batch: is one process's work; leave out --ray, or give each task of an array --task")
    if given["batch"] and given["redo"]:
        raise UsageError("--redo with --batch: what failed or cannot be read is submitted again as it is")


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    """What replaces the rubric's parameters; None leaves one out."""
    said = [(name, given[name]) for name in ("temperature", "max_tokens") if given[name] is not None]
    parameters: dict[str, Any] = {}
    for name, value in [*said, *given["param"]]:
        if name in parameters:
            raise UsageError(f"--param {name}: is given twice")
        parameters[name] = value
    return parameters


def _writer(given: dict[str, Any]) -> Any:
    from edittools.models.writers.load import choose_backend, load_writer

    address = {name: given[name] for name in ("api_base", "key_from")}
    backend = choose_backend(given["model"], backend=given["backend"], **address)
    if backend == "local" and given["passes"] > 1 and not _parameters(given).get("temperature"):
        raise UsageError(
            "--passes: without a temperature a local model writes the same every time",
            hint="--temperature 1 draws another reply in every pass",
        )
    if given["batch"] and backend != "endpoint":
        raise UsageError(f"--batch is for an endpoint: the backend is {backend}")
    return load_writer(
        given["model"],
        backend,
        **address,
        timeout=given["timeout"],
        **options.device_and_dtype(given),
        batch_size=given["batch_size"] or 8,
        picture_pixels=given["picture_pixels"],
    )


def store_folder(given: dict[str, Any]) -> str:
    if given["store"]:
        return str(given["store"])
    output = given["output"]
    if output in (None, "-") or "://" in output:
        raise UsageError("--store DIR/ says where the replies are kept", hint="with -o DIR/ it is DIR.replies/")
    return output.rstrip("/") + ".replies"


def _said(tally: Tally) -> str:
    if not tally.replies:  # the tasks of a cluster ask by themselves
        return ""
    parts = [f"{tally.calls} calls", f"{tally.stored} replies from the store"]
    parts.append(f"{tally.prompt_tokens + tally.completion_tokens:,} tokens")
    if tally.cost is not None:
        parts.append(f"cost {tally.cost:.2f}")
    for name in ("refused", "filtered", "failed", "unparsed"):
        if getattr(tally, name):
            parts.append(f"{getattr(tally, name)} {name}")
    if tally.seconds > 10 and tally.starved_share > 0.1:  # a faster endpoint would not help
        parts.append(f"waited for pictures {tally.starved_share:.0%} of the time")
    return ", ".join(parts)
