"""Many requests to one client: in flight together, paced, repeated when that can help, each paid for once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edittools.errors import EditError, RowError
from edittools.vlm import Reply, Request, State, TransientError, UnreachableError, VlmClient
from edittools.vlm.failures import HeldBack, Item, Reasons
from edittools.vlm.prices import Prices, estimate_tokens
from edittools.vlm.store import ReplyStore, Row, row

Tag = TypeVar("Tag")

RETRY = 1000  # added to Request.attempt where an unusable reply is asked for again; passes count from 0 below it
_LONGEST_PAUSE = 60.0  # seconds between two tries, unless the server names a time
# Seconds between the first calls of two places. Together, all would be built before one is sent, and their replies
# would come together too.
_STAGGER = 0.002
# Threads that make requests: decode, resize, encode, hash. One begins, and others join it as they are needed: more
# would only contend with the loop for the interpreter.
_PREPARERS = min(4, os.cpu_count() or 1)
_WAITED_FOR = 1.0  # seconds in which nothing is asked, until what is held back is given to whoever may wait for it
_STARVING = 0.005  # seconds that a place waits for a request before another thread joins
_LONG_WAIT = 10.0  # seconds that a server may ask for without a word to the user


@dataclass
class RequestStats:
    """What a run did so far. Times in seconds, cost in the currency of the price table (None: no prices)."""

    replies: int = 0  # handed back
    stored: int = 0  # of these: found in the store, or asked earlier in this run
    refused: int = 0
    filtered: int = 0
    failed: int = 0
    unparsed: int = 0
    reasons: Reasons = field(default_factory=Reasons)  # why there was no answer
    calls: int = 0  # sent, repetitions included
    repeated: int = 0  # calls that were sent again after an error that may pass
    asked_again: int = 0  # because the reply could not be used
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    preparing: float = 0.0  # time of all threads that make requests
    starved: float = 0.0  # time that places stood empty because no request was ready
    seconds: float = 0.0  # since the first request was drawn
    places: int = 0  # requests worked on at a time, of which `concurrency` are in flight

    @property
    def starved_share(self) -> float:
        """The share of the run's capacity that was lost to making requests."""
        return self.starved / (self.seconds * self.places) if self.seconds else 0.0


@dataclass(frozen=True)
class RequestPolicy:
    """How many requests are sent, how fast, how often again, and for how much. Raises ValueError for impossible values.

    `prices` are needed for `max_cost`, and for `RequestStats.cost`. `tokens_per_minute` goes by the same estimates.
    """

    concurrency: int = 64  # calls in flight
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    attempts: int = 6  # calls for one reply, where an error may pass
    backoff: float = 1.0  # seconds before the second of them; doubled before every further one
    max_cost: float | None = None  # of this run
    prices: Prices | None = None
    repeats: int = 2  # how often an unusable reply is asked for again
    redo: Set[State] = frozenset({"failed"})  # states of stored replies that are asked for again
    give_up: bool = True  # where all requests fail for one reason

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1 or self.repeats < 0:
            raise ValueError("concurrency and attempts must be at least 1, repeats at least 0")
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs prices")


def request_all(
    requests: Iterable[tuple[Tag, Request | Callable[[], Request]]],
    client: VlmClient,
    store: ReplyStore,
    policy: RequestPolicy | None = None,
    *,
    check: Callable[[Tag, str], object] | None = None,
    stats: RequestStats | None = None,
    progress: Callable[[RequestStats], None] | None = None,
    begun: Callable[[Callable[[], None]], None] | None = None,
) -> Iterator[tuple[Tag, Reply]]:
    """Yield (tag, reply) for every (tag, request), about in the order in which the replies arrive.

    A request may be a function that makes one. It is called in a thread, shortly before the request is sent: about
    1.5 * `concurrency` requests exist at a time. A RowError in it becomes a `failed` reply, which is not stored.
    `requests` itself is drawn from in other threads, by one at a time.

    A reply is committed to the store before it is yielded. What is stored is not asked again, except what has one of
    the states `redo`; an endpoint is spared what any endpoint answered, another client what it answered itself.
    Identical requests are asked once. TransientErrors are repeated, `attempts` calls in all (of those that are paid
    for, 1 + `repeats`), after pauses that double from `backoff` seconds, or that the server names (then nothing else is
    sent before either; stderr says so where that is long).

    `check` is called with the tag and the text of an `ok` reply; where it raises ValueError, the request is sent again
    with RETRY added to its `attempt`, `repeats` times at most, unless the client would only write the same again. The
    last such reply is yielded as `unparsed`, with its text; it is stored as it came. Of the attempts of earlier runs
    the first that can be read counts; where none can and `unparsed` is to be done again, all of them are.

    Where all requests fail for one reason, the run stops and says so (HeldBack), unless `give_up` is off.

    `max_cost` bounds this run: a call is not sent while what was spent and what the calls in flight may cost (estimated
    prompt, `max_tokens` written, or the most that a reply took so far) leave no room for it.

    When the caller stops (Interrupted, an exception, closing this generator), nothing new is sent, what is in flight is
    awaited and stored, and only then does the exception go on. Raises EditError where the run cannot go on (a wrong
    key, an endpoint that was never reached, max_cost, a full disk), after the same. Use contextlib.closing() where the
    generator may be left early. Where another thread is within it, so that nobody can close it, what `begun` was called
    with does the same, and may be called at any time.
    """
    run = _Run(iter(requests), client, store, policy or RequestPolicy(), check, stats or RequestStats())
    gc.freeze()  # what is loaded by now stays: looking it through for garbage takes some percent of the calls' core
    try:
        run.thread.start()
        if begun is not None:
            begun(run.end)
        while (item := run.done.get()) is not None:
            run.room_out.release()
            if progress is not None:
                progress(run.stats)
            yield item
    finally:
        run.end()
        gc.unfreeze()
    if run.error is not None:
        raise run.error


class _Stopped(Exception):
    """The run ends before this request was answered."""


@dataclass
class RateLimiter:
    """Spreads calls evenly over the minute."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
    free_at: float = 0.0  # monotonic time of the next call
    hold_until: float = 0.0  # what a server asked for

    def next(self, tokens: int) -> float:
        """Reserve the next moment for a call and return it (monotonic time)."""
        moment = max(time.monotonic(), self.free_at)
        steps = [60.0 / self.requests_per_minute] if self.requests_per_minute else []
        steps += [60.0 * tokens / self.tokens_per_minute] if self.tokens_per_minute else []
        self.free_at = moment + max(steps, default=0.0)
        return moment


def _short(key: str) -> int:
    """60 bits of a key: a set of millions stays small, and where two agree the store is asked once more."""
    return int(key[:15], 16)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (not on Windows): it leaves more of a core to the calls than Python's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class _Run:
    """One call of request_all: threads that make requests, a loop in a thread that sends them, a thread that stores."""

    def __init__(
        self,
        source: Iterator[tuple[Any, Request | Callable[[], Request]]],
        client: VlmClient,
        store: ReplyStore,
        policy: RequestPolicy,
        check: Callable[[Any, str], object] | None,
        stats: RequestStats,
    ) -> None:
        self.source, self.client, self.store, self.policy = source, client, store, policy
        self.check, self.stats = check, stats
        self.limiter = RateLimiter(policy.requests_per_minute, policy.tokens_per_minute)
        self.begun_empty = store.is_empty()
        self.thread = threading.Thread(target=self.main, name="asking", daemon=True)
        self.error: BaseException | None = None
        self.stopping = threading.Event()
        # (tag, reply) for the caller, None at the end; and how many may wait there
        self.done: queue.SimpleQueue[tuple[Any, Reply] | None] = queue.SimpleQueue()
        self.room_out = threading.Semaphore(4 * policy.concurrency)
        # how many requests may be made and wait for a place
        self.room_in = threading.Semaphore(max(2 * _PREPARERS, policy.concurrency // 8))
        self.drawing = threading.Lock()
        self.asked: dict[str, asyncio.Future[Reply]] = {}  # key: in flight now
        self.answered: set[int] = set()  # what of its key tells a request that this run has asked from all others
        self.failed: dict[str, Reply] = {}  # key: what failed in this run
        self.reserved = 0.0  # what the calls in flight may cost
        self.longest = 0  # the most tokens that a reply took so far
        self.flying = 0
        self.serving = self.served = 0  # requests in places, and those that have been
        self.reached = False  # a call has had some answer, if only an error
        self.held_back = HeldBack(client.name) if policy.give_up else None
        self.to_store: list[tuple[Row, asyncio.Future[None]]] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        if policy.prices is not None and stats.cost is None:
            stats.cost = 0.0
        # While a place stores a reply, waits for its caller or pauses before it asks again, another one uses its slot;
        # and replies come in bursts: then what is to be sent next should be built already.
        stats.places = policy.concurrency + max(4, policy.concurrency // 2)

    # ------------------------------------------------------------ making requests (threads)

    def _prepare(self) -> None:
        assert self.loop is not None
        while True:
            self.room_in.acquire()
            item: Any = None
            try:
                with self.drawing:
                    drawn = None if self.stopping.is_set() else next(self.source, None)
                if drawn is not None:
                    started = time.perf_counter()
                    tag, make = drawn
                    try:
                        request = make if isinstance(make, Request) else make()
                        key = request.key
                        # A look for what cannot be there would be half of this thread's work: SQLite gives the
                        # interpreter away for every step.
                        known = None if self.begun_empty else self._stored(key)
                        if known is None:
                            self.client.prepare(request)
                        item = tag, request, key, known, time.perf_counter() - started
                    except RowError as error:
                        item = tag, Reply("failed", error=str(error)), "", None, time.perf_counter() - started
            except BaseException as error:
                self._fail(error)
            try:
                self.loop.call_soon_threadsafe(self._made, item)
            except RuntimeError:  # the loop is closed: the run stopped while this thread waited for its source
                return
            if item is None:
                return

    def _add_preparer(self) -> None:
        self.preparers += 1
        self.preparing += 1
        # A daemon: a thread that waits for a source that never answers must not keep the process.
        threading.Thread(target=self._prepare, name="preparing", daemon=True).start()

    def _stored(self, key: str) -> Reply | None:
        """The reply of an earlier run, unless it is to be asked for again."""
        known = self.store.get(key, self.client.name)
        return None if known is None or known.state in self.policy.redo else known

    def _made(self, item: Any) -> None:
        """In the loop's thread: a request is ready to be sent, or (None) a preparing thread ended."""
        if item is not None:
            self.stats.preparing += item[-1]
            self.ready.put_nowait(item[:-1])
            return
        self.preparing -= 1
        if not self.preparing:
            self._dismiss()

    # ------------------------------------------------------------ starting and stopping

    def main(self) -> None:
        """The loop's thread. `done` gets its None when everything that was sent is stored."""
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._main())
        except BaseException as error:
            self._fail(error)
        self.done.put(None)

    async def _main(self) -> None:
        self.ready: asyncio.Queue[Any] = asyncio.Queue()
        self.wake = asyncio.Event()  # set when the run stops
        self.settled = asyncio.Event()  # set when a call ended
        self.slots = asyncio.Semaphore(self.policy.concurrency)  # calls in flight
        self.disk = ThreadPoolExecutor(1, thread_name_prefix="storing")
        self.storing: asyncio.Task[None] | None = None
        self.loop = asyncio.get_running_loop()
        if self.stopping.is_set():
            return
        self.started = time.monotonic()
        self.first: float | None = None  # when the first request was ready
        self.preparers = self.preparing = 0  # threads that were started, and that have not ended
        self._add_preparer()
        try:
            waiting = asyncio.create_task(self._release_waited_for()) if self.held_back is not None else None
            await asyncio.gather(*(self._place(number) for number in range(self.stats.places)))
            if waiting is not None:
                waiting.cancel()
            if self.held_back is not None and not self.wake.is_set():
                await self._deliver(self.held_back.finish())
        finally:
            self.stats.seconds = time.monotonic() - self.started
            self.disk.shutdown()
            await self.client.close()

    async def _release_waited_for(self) -> None:
        """A source that waits for replies before it asks more would wait for ever for one that is held back."""
        assert self.held_back is not None
        while True:
            served = self.served
            await asyncio.sleep(_WAITED_FOR)
            if self.held_back.held and not self.serving and self.ready.empty() and served == self.served:
                try:
                    await self._deliver(self.held_back.finish())
                except EditError as error:
                    self._fail(error)
                    return

    def stop(self) -> None:
        """Send nothing new. From any thread, any number of times."""
        self.stopping.set()
        self.room_in.release(_PREPARERS)
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self.loop.call_soon_threadsafe(self._dismiss, True)

    def end(self) -> None:
        """The same, and wait for what is in flight."""
        self.stop()
        if self.thread.is_alive():
            self.thread.join()

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self.stop()

    def _dismiss(self, now: bool = False) -> None:
        """End the places when the queue is empty, or `now`: after the calls that they have in flight."""
        if now:
            self.wake.set()
            self.settled.set()
        for _ in range(self.stats.places):
            self.ready.put_nowait(None)

    # ------------------------------------------------------------ sending (the loop's thread)

    async def _place(self, number: int) -> None:
        """A place for one request: takes requests until there are no more; a call in flight also has a slot."""
        idle = self.started  # since when (monotonic time)
        while True:
            item = await self.ready.get()
            if item is None or self.wake.is_set():
                return
            now = time.monotonic()
            if self.first is None:
                self.first = now
            moment = self.first + number * _STAGGER  # of the place's first call
            waited = now - max(idle, moment)
            if waited > 0:
                self.stats.starved += waited
                if waited > _STARVING and self.preparers < _PREPARERS:
                    self._add_preparer()
            self.stats.seconds = now - self.started
            self.room_in.release()
            if now < moment:
                await self._sleep(moment - now, leave=False)
            self.serving += 1
            try:
                await self._serve(*item)
            except _Stopped:
                return
            except BaseException as error:
                self._fail(error)
                return
            finally:
                self.serving -= 1
                self.served += 1
            idle = time.monotonic()

    async def _serve(self, tag: Any, request: Request | Reply, key: str, known: Reply | None) -> None:
        """One request from its first call to its last, and the reply to the caller."""
        if isinstance(request, Reply):
            return await self._deliver([(tag, request)])
        reply = await self._answer(key, request, self._kept(tag, request, known))
        for attempt in self._later(request):
            if self._problem(tag, reply) is None:
                break
            key = attempt.key
            known = self._kept(tag, attempt, self._stored(key))
            if known is None and not self.client.draws(attempt):
                continue
            self.stats.asked_again += 1
            reply = await self._answer(key, attempt, known)
        if (problem := self._problem(tag, reply)) is not None:
            reply = dataclasses.replace(reply, state="unparsed", error=problem)
        await self._deliver([(tag, reply)] if self.held_back is None else self.held_back.take(key, tag, reply))

    def _later(self, request: Request) -> Iterator[Request]:
        """The attempts that may follow this one."""
        for number in range(request.attempt // RETRY + 1, self.policy.repeats + 1):
            yield dataclasses.replace(request, attempt=request.attempt % RETRY + number * RETRY)

    def _kept(self, tag: Any, request: Request, known: Reply | None) -> Reply | None:
        """A reply of an earlier run: `known`, or where that is to be asked for again because it cannot be read, that of
        a later attempt that can.
        """
        if known is None or "unparsed" not in self.policy.redo or self._problem(tag, known) is None:
            return known
        stored = (self._stored(attempt.key) for attempt in self._later(request))
        return next((reply for reply in stored if reply is not None and self._problem(tag, reply) is None), None)

    def _problem(self, tag: Any, reply: Reply) -> str | None:
        """Why a reply cannot be used, None if it can."""
        if self.check is not None and reply.state == "ok":
            try:
                self.check(tag, reply.text or "")
            except ValueError as error:
                return f"unusable reply: {error}"
        return None

    async def _answer(self, key: str, request: Request, known: Reply | None) -> Reply:
        """The reply `known` from the store, that of an identical request of this run, or the client's."""
        if (others := self.asked.get(key)) is not None:
            self.stats.stored += 1
            return await asyncio.shield(others)
        if known is None and _short(key) in self.answered:  # perhaps after the store was looked into
            known = self.failed.get(key) or self.store.get(key, self.client.name)
        if known is not None:
            self.stats.stored += 1
            return known
        future = self.asked[key] = asyncio.get_running_loop().create_future()
        try:
            reply, stored = await self._call(key, request)
            await stored
            if reply.state == "failed":
                self.failed[key] = reply
            self.answered.add(_short(key))
            future.set_result(reply)
            return reply
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # it is no mistake if nobody else waits for it
            raise
        finally:
            del self.asked[key]

    async def _call(self, key: str, request: Request) -> tuple[Reply, asyncio.Future[None]]:
        """Ask until there is a reply or `attempts` calls have failed. Returns it and the future of its being stored.

        A call keeps its slot until its reply is noted: a run that is killed repeats as many as it has slots, at most.
        Raises _Stopped, and what the client raises.
        """
        prompt, written = 0, 0
        if self.policy.prices is not None or self.limiter.tokens_per_minute is not None:
            prompt, written = estimate_tokens(request, self.policy.prices)
        problem, paid = "", 0
        for number in range(1, self.policy.attempts + 1):
            price: float | None = None  # what the call may cost, once it has begun

            async def begin() -> None:
                nonlocal price
                if price is not None:
                    return
                await self.slots.acquire()
                try:
                    price = await self._gate(request.model, prompt, written)
                except BaseException:
                    self.slots.release()
                    raise
                self.stats.calls += 1

            try:
                reply = dataclasses.replace(await self.client.ask(request, begin), client=self.client.name)
                self.reached = True
                self._count(request, reply, prompt)
                made = row(key, request, reply)
                stored = self._store(made)
                if not self.store.journal.note(made):
                    await stored
                return reply, stored
            except TransientError as error:
                problem, after = str(error), error.after
                self.reached = self.reached or not isinstance(error, UnreachableError)
                if error.paid is not None:
                    self._count(request, error.paid, prompt)
                    paid += error.paid.completion_tokens is not None  # the model did work, for nothing
            finally:
                if price is not None:
                    self.slots.release()
                    self.reserved -= price
                    self.flying -= 1
                    self.settled.set()
            if number == self.policy.attempts or paid > self.policy.repeats:
                break
            if after is None:
                pause = min(_LONGEST_PAUSE, self.policy.backoff * 2 ** (number - 1)) * random.uniform(0.5, 1.0)
            else:
                pause = after * random.uniform(1.0, 1.1)
                self._hold(after, problem)
            await self._sleep(pause)
            self.stats.repeated += 1
        if not self.reached:
            raise EditError(f"{self.client.name} cannot be reached: {problem} ({number} calls)")
        reply = Reply("failed", error=f"{problem} (after {number} calls)", client=self.client.name)
        return reply, self._store(row(key, request, reply))

    def _hold(self, seconds: float, problem: str) -> None:
        """Send nothing for so long, because the server asks for it."""
        until = time.monotonic() + seconds
        if seconds >= _LONG_WAIT and until > self.limiter.hold_until + _LONG_WAIT:
            clock = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
            message = f"{self.client.name}: waits {seconds:.0f} s, until {clock}, as it is asked to ({problem})"
            print(message, file=sys.stderr, flush=True)
        self.limiter.hold_until = max(self.limiter.hold_until, until)

    async def _gate(self, model: str, prompt: int, written: int) -> float:
        """Wait until this call may be sent, count it as in flight and return what it may cost: that is reserved.

        Raises _Stopped; EditError at max_cost.
        """
        while True:
            expected = max(written, self.longest)
            price = self.policy.prices.cost(model, prompt, expected) if self.policy.prices is not None else 0.0
            if self.policy.max_cost is None or self.wake.is_set():
                break
            spent = self.stats.cost or 0.0
            if spent + self.reserved + price <= self.policy.max_cost:
                break
            if not self.flying:
                raise EditError(
                    f"the next call may cost {price:.4g}, {spent:.4g} of at most {self.policy.max_cost:g} are spent: "
                    f"stopped after {self.stats.calls} calls",
                    hint="all replies are stored; run the same command again with a new --max-cost to go on",
                )
            self.settled.clear()
            await self.settled.wait()
        self.reserved += price  # before the wait: the others must see it
        self.flying += 1
        moment = self.limiter.next(prompt + written)
        while not self.wake.is_set() and (delay := max(moment, self.limiter.hold_until) - time.monotonic()) > 0:
            await self._sleep(delay, leave=False)
        if self.wake.is_set():
            self.reserved -= price
            self.flying -= 1
            raise _Stopped
        return price

    async def _sleep(self, seconds: float, leave: bool = True) -> None:
        """Raises _Stopped where the run stops meanwhile and `leave` is set."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wake.wait(), seconds)
            if leave:
                raise _Stopped

    def _count(self, request: Request, reply: Reply, prompt: int) -> None:
        """Add what a call used. Where the backend does not say, the prompt counts as estimated."""
        used = prompt if reply.prompt_tokens is None else reply.prompt_tokens
        self.stats.prompt_tokens += used
        self.stats.completion_tokens += reply.completion_tokens or 0
        self.longest = max(self.longest, reply.completion_tokens or 0)
        if self.policy.prices is not None:
            cost = self.policy.prices.cost(request.model, used, reply.completion_tokens or 0)
            self.stats.cost = (self.stats.cost or 0.0) + cost

    # ------------------------------------------------------------ keeping and handing back

    def _store(self, made: Row) -> asyncio.Future[None]:
        """Done when the row is on disk. All that arrived during one commit share the next."""
        future = asyncio.get_running_loop().create_future()
        self.to_store.append((made, future))
        if self.storing is None or self.storing.done():
            self.storing = asyncio.create_task(self._commit())
        return future

    async def _commit(self) -> None:
        while self.to_store:
            batch, self.to_store = self.to_store, []
            rows = [made for made, _ in batch]
            turned = self.store.journal.turn()
            try:
                await asyncio.get_running_loop().run_in_executor(self.disk, self.store.put, rows)
            except BaseException as error:
                for _, future in batch:
                    future.set_exception(error)
            else:
                if turned:
                    self.store.journal.clear()
                for _, future in batch:
                    future.set_result(None)

    async def _deliver(self, items: list[Item]) -> None:
        """Hand replies over; wait while the caller has many that it did not take yet."""
        stats = self.stats
        for tag, reply in items:
            while not self.wake.is_set() and not self.room_out.acquire(blocking=False):
                await asyncio.sleep(0.02)
            stats.replies += 1
            stats.refused += reply.state == "refused"
            stats.filtered += reply.state == "filtered"
            stats.failed += reply.state == "failed"
            stats.unparsed += reply.state == "unparsed"
            stats.reasons.add(reply)
            self.done.put((tag, reply))
