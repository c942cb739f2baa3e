"""A session with a VLM, as commands have it: one machine that asks, keeps, counts and says what failed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edittools.errors import EditError, UsageError
from edittools.vlm import Begin, Reply, Request, VlmClient
from edittools.vlm.config import STATES, VlmConfig
from edittools.vlm.load import BACKENDS, backend_options, choose_backend, load_client

if TYPE_CHECKING:
    from edittools.stream.run import RunOptions
    from edittools.vlm.batches import Batches
    from edittools.vlm.requests import RequestStats
    from edittools.vlm.store import ReplyStore


class Session:
    """Asks the model that the settings name. As a context it closes the store at its end, and says what failed."""

    def __init__(
        self,
        config: VlmConfig,
        run_options: RunOptions,
        inputs: Sequence[str] = (),
        repeats: int = 1,
        command: str = "judge",
        retries: int = 2,
    ) -> None:
        """`repeats` is how often the same is asked, `retries` how often again where the reply cannot be used, `command`
        the name before every line on stderr. Raises UsageError for settings that exclude each other, EditError where
        a model cannot be reached.
        """
        from edittools.vlm.backends.echo import EchoClient
        from edittools.vlm.prices import load_prices
        from edittools.vlm.requests import RequestStats

        if not config.models:
            raise UsageError("--model NAME says whom to ask")
        self.config, self.run_options, self.inputs, self.model = config, run_options, inputs, config.models[0]
        self.retries = retries
        _check(config, run_options)
        self.command = command
        self.parameters = config.parameters
        self.redo: frozenset[Any] = config.redo
        if run_options.overwrite:
            self.redo |= {"failed"}
        # -n reaches nobody: the backend that it loads is a stand-in.
        self.client: Any = EchoClient() if run_options.dry_run else _clients(config, repeats)
        self.endpoint = config.api_base if run_options.dry_run else self.client.name
        self.bounded: bool = getattr(self.client, "bounded", False)  # whether JSON schemas may bound lengths
        # A price is needed for a limit; without one it is only told where the table has the model.
        table, self.prices = load_prices(config.prices), None
        try:
            for model in config.models:
                table.find(model)
            self.prices = table
        except EditError:
            if config.max_cost is not None:
                raise
        self.stats = RequestStats()
        self.settings: dict[str, Any] = {}  # of the run; what the same command is known by
        self.refresh: Callable[[], None] = lambda: None  # of the progress bar
        self.store: ReplyStore | None = None
        self.batches: Batches | None = None
        self._end: Callable[[], None] = lambda: None  # what was asked last: nothing new is sent, and the rest awaited

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        try:
            if self.batches is not None and kind is None:
                self.batches.taken()
        finally:
            self._end()
            if self.store is not None:
                self.store.close()
                self.store = None
        if not self.run_options.quiet:
            for times, state, example in self.stats.reasons.most_frequent(3):
                print(f"{self.command}: {times} {state}: {example}", file=sys.stderr)

    def opened(self) -> ReplyStore:
        """The store, which this process has for this command alone. Raises EditError."""
        from edittools.stream.files import real
        from edittools.vlm.batches import pending
        from edittools.vlm.store import ReplyStore

        if self.store is None:
            task, output = self.run_options.task, self.run_options.output
            self.store = ReplyStore(store_folder(self.config, output), f"{task[0] if task else 0:05d}")
            output = output if output in (None, "-") else real(output)
            inputs = [name if name == "-" else real(name) for name in self.inputs]
            self.store.claim(inputs, output, task, self.settings)
            if self.config.batch is None and (count := pending(self.store.folder)):
                message = f"{count:,} requests are with batches: --batch collect takes their replies"
                print(f"{self.command}: {message}; without it the same ones are paid for twice", file=sys.stderr)
        return self.store

    def __call__(self, requests: Any, check: Any) -> Iterator[Any]:
        """(tag, reply) for every (tag, request). What a caller before has left in the middle is brought to its end."""
        from edittools.vlm.requests import RequestPolicy, request_all

        self._end()
        config = self.config
        # What batches have answered is paid for: giving up, waiting or stopping would spare nothing.
        at_once = self.batches is None
        policy = RequestPolicy(
            concurrency=config.concurrency,
            requests_per_minute=config.rpm if at_once else None,
            tokens_per_minute=config.tpm if at_once else None,
            max_cost=config.max_cost if at_once else None,
            prices=self.prices,
            repeats=self.retries,
            redo=self.redo | {"failed"},
            give_up=at_once,
        )
        return request_all(
            requests,
            self.client,
            self.opened(),
            policy,
            check=check,
            stats=self.stats,
            progress=lambda _: self.refresh(),
            begun=self._begun,
        )

    def _begun(self, end: Callable[[], None]) -> None:
        self._end = end

    def submit(self, requests: Iterable[Any]) -> None:
        """`--batch submit`, and a line about it. Raises EditError."""
        from edittools.vlm.batches import Batches

        batches = Batches(self.opened(), self.client, self.model)
        done = batches.submit(requests, prices=self.prices, max_cost=self.config.max_cost)
        if self.run_options.quiet:
            return
        parts = [f"{done.requests} requests submitted in {done.batches} batches"]
        parts += [f"{done.stored} answered before"] if done.stored else []
        parts += [f"{done.waiting} with the service already"] if done.waiting else []
        if done.cost and self.prices is not None:
            parts.append(f"about {done.cost:.2f} {self.prices.currency} at the rate of batches")
        print(f"{self.command}: {', '.join(parts)}; --batch collect takes the replies", file=sys.stderr)

    def collect(self) -> None:
        """`--batch collect`: from now on the batches' replies are the answers. Raises EditError."""
        from edittools.vlm.batches import DISCOUNT, Batches

        self.batches = Batches(self.opened(), self.client, self.model)
        self.client = self.batches.collect()
        self.prices = None if self.prices is None else self.prices.scaled(DISCOUNT)

    def plan(self, sample: Iterable[Any], calls: int) -> tuple[str, ...]:
        """Lines of `-n` on calls and cost, estimated from a sample of the requests."""
        from edittools.vlm.prices import estimate
        from edittools.vlm.store import count_stored

        found = estimate(sample, self.prices, calls=calls)
        unknown = "no price is known for this model"
        cost = unknown if self.prices is None else f"{found.cost:.2f} {self.prices.currency}"
        note = f"at most {found.calls} calls, about {found.prompt_tokens:,} tokens read and "
        notes = [f"{note}{found.completion_tokens:,} written: {cost}"]
        if self.retries:
            notes.append(f"each reply that cannot be read is asked for up to {self.retries} times more")
        with contextlib.suppress(UsageError):  # nobody has said yet where the replies will be kept
            folder = store_folder(self.config, self.run_options.output)
            if stored := count_stored(folder):
                notes.append(f"{folder}: {stored:,} replies; those that are asked for here cost nothing")
        return tuple(notes)

    def hint(self) -> str:
        """How rows without an answer are asked about again."""
        again = ",".join(state for state in STATES if getattr(self.stats, state)) or "failed,unparsed"
        return f"the output is written, and judgements say why; --redo {again} asks for these rows again"

    def said(self) -> str:
        """The summary line's part on the calls."""
        return _said(self.stats)


def _check(config: VlmConfig, run_options: RunOptions) -> None:
    """Raises UsageError for settings that exclude each other."""
    limits = [name for name in ("max_cost", "rpm", "tpm") if getattr(config, name) is not None]
    if limits and run_options.ray is not None:
        raise UsageError(f"--{limits[0].replace('_', '-')} bounds one process: it cannot be used with --ray")
    if config.batch and run_options.ray is not None:
        raise UsageError("--batch: is one process's work; leave out --ray, or give each task of an array --task")


def _clients(config: VlmConfig, repeats: int) -> Any:
    """The backend of the models: an endpoint has all of them, of checkpoints in this process each is a client."""
    clients = {model: _client_of(config, model, repeats) for model in config.models[:1]}
    first = next(iter(clients.values()))
    if len(config.models) == 1 or first[0] == "endpoint":
        return first[1]
    for model in config.models[1:]:
        clients[model] = _client_of(config, model, repeats)
    return ByModel({model: client for model, (_, client) in clients.items()})


def _client_of(config: VlmConfig, model: str, repeats: int) -> tuple[str, Any]:
    address: dict[str, Any] = {"api_base": config.api_base, "api_key_env": config.api_key_env}
    backend = choose_backend(model, backend=config.backend, **address)
    steady = BACKENDS.declared("DETERMINISTIC", False)[backend] and not config.parameters.get("temperature")
    if steady and repeats > 1:
        raise UsageError(
            f"--repeats: without a temperature a {backend} model writes the same every time",
            hint="--temperature 1 draws another reply every time",
        )
    if config.batch and backend != "endpoint":
        raise UsageError(f"--batch is for an endpoint: the backend is {backend}")
    return backend, load_client(
        model,
        backend,
        **address,
        timeout=config.timeout,
        **config.placed,
        batch_size=config.batch_size or 8,
        image_pixels=config.image_pixels,
        **{name: getattr(config, name, None) for name in backend_options()},
    )


class ByModel:
    """Several clients as one: a request goes to that of its model."""

    def __init__(self, clients: Mapping[str, VlmClient]) -> None:
        self.clients = clients
        self.name = ", ".join(client.name for client in clients.values())
        self.bounded = all(getattr(client, "bounded", False) for client in clients.values())

    def draws(self, request: Request) -> bool:
        return self.clients[request.model].draws(request)

    def prepare(self, request: Request) -> None:
        self.clients[request.model].prepare(request)

    async def ask(self, request: Request, begin: Begin) -> Reply:
        return await self.clients[request.model].ask(request, begin)

    async def close(self) -> None:
        for client in self.clients.values():
            await client.close()


def store_folder(config: VlmConfig, output: str | None) -> str:
    """Where the replies are kept. Raises UsageError where nothing says it."""
    if config.cache_dir:
        return config.cache_dir
    if output in (None, "-") or "://" in output:
        raise UsageError("--cache-dir DIR/ says where the replies are kept", hint="with -o DIR/ it is DIR.replies/")
    return output.rstrip("/") + ".replies"


def _said(stats: RequestStats) -> str:
    if not stats.replies:  # the tasks of a cluster ask by themselves
        return ""
    parts = [f"{stats.calls} calls", f"{stats.stored} replies from the store"]
    parts.append(f"{stats.prompt_tokens + stats.completion_tokens:,} tokens")
    if stats.cost is not None:
        parts.append(f"cost {stats.cost:.2f}")
    for name in ("refused", "filtered", "failed", "unparsed"):
        if getattr(stats, name):
            parts.append(f"{getattr(stats, name)} {name}")
    if stats.seconds > 10 and stats.starved_share > 0.1:  # a faster endpoint would not help
        parts.append(f"waited for images {stats.starved_share:.0%} of the time")
    return ", ".join(parts)
