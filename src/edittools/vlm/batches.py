"""Requests by the file: an endpoint's batch interface answers within a day, for half the price.

What was submitted stands in `STORE/batches/`: for every file of requests a JSON file that says how far it came, so that
`submit` and `collect` can be killed and run again at any time, by another task too: whoever asks finds the replies of
all. The requests of a file are kept until a batch has been made of them, the replies for ever. Nothing is submitted
that is stored already, or that a batch is still to answer.

Format: OpenAI's Batch API (JSON lines of `custom_id`, `method`, `url`, `body`; replies of `custom_id`, `response`,
`error`), at most 50,000 requests and 200 MB a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from edittools.errors import EditError, IncompleteError
from edittools.stream import files
from edittools.vlm import Begin, Reply, Request, TransientError
from edittools.vlm.backends.endpoint import UNPAID, EndpointClient, Interface, Manner
from edittools.vlm.prices import Prices, estimate_tokens
from edittools.vlm.requests import RETRY
from edittools.vlm.store import ReplyStore

REQUESTS = 50_000  # in a file at most
BYTES = 190 << 20  # the service's limit is 200 MB
DISCOUNT = 0.5  # what a batched call costs, of the price of others
_ENDED = ("completed", "failed", "expired", "cancelled")
_LATER = "run the same command again later"
_NO_REPLY = "no batch has answered it: --batch submit asks again"


@dataclass
class BatchPart:
    """One file of requests. `keys` are Request.key, which is the `custom_id` there."""

    keys: list[str] = field(default_factory=list)
    file: str | None = None  # the service's id of the file, once it has it
    batch: str | None = None
    status: str = "written"  # then the batch's own
    taken: bool = False  # a run has had its replies
    endpoint: str | None = None  # who has it; earlier versions did not say, nor how its requests were made:
    instead: dict[str, str | None] = field(default_factory=dict)
    interface: Interface = "chat/completions"


@dataclass
class Submitted:
    """Counts of one run of `submit`."""

    requests: int = 0
    batches: int = 0
    waiting: int = 0  # that are with the service from before
    stored: int = 0
    cost: float | None = None  # estimated


class Batches:
    """The files of requests in a store: this task's own, and those of others that ask the same endpoint.

    One process at a time works with them: another one waits.
    """

    def __init__(self, store: ReplyStore, client: EndpointClient, model: str) -> None:
        """`model` as the requests name it. Raises EditError where the folder cannot be used."""
        self.client, self.store = client, store
        self.folder = os.path.join(store.folder, "batches")
        self.name = os.path.basename(store.path).removesuffix(".sqlite")
        self.parts: dict[
            str, BatchPart
        ] = {}  # as they were when the folder was locked last, by their path without .json
        self.declined = os.path.join(self.folder, "declined.json")  # how models want to be asked
        self.asked = f"{client.name} {model}"
        self.open: _Lines | None = None  # the file of requests that is being written
        with self._locked():
            if (known := self._declined().get(self.asked)) is not None:
                client.instead, client.interface = known["instead"], known["interface"]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out while the block runs, and read what they left. Raises EditError."""
        with contextlib.ExitStack() as stack:
            with _on_disk(self.folder):
                os.makedirs(self.folder, exist_ok=True)
                file = stack.enter_context(open(os.path.join(self.folder, ".lock"), "a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{self.folder}: another process works with these batches: waits", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
            with _on_disk(self.folder):
                files.remove_abandoned(self.folder)
                paths = sorted(glob.glob(os.path.join(glob.escape(self.folder), "*-*.json")))
                self.parts = {path.removesuffix(".json"): _read(path) for path in paths}
            yield

    def _mine(self, stem: str) -> bool:
        """Whether a part is of this task, by its name."""
        return os.path.basename(stem).rpartition("-")[0] == self.name

    def _here(self, part: BatchPart) -> bool:
        return part.endpoint in (None, self.client.name)

    def _declined(self) -> dict[str, dict[str, Any]]:
        """Endpoint and model -> `instead` and `interface`; an earlier version did not say of which model."""
        with _on_disk(self.folder):
            known = json.loads(files.read_bytes(self.declined)) if os.path.exists(self.declined) else {}
            return {
                name: manner for name, manner in known.items() if isinstance(manner, dict) and "interface" in manner
            }

    # ---------------------------------------------------------------- submit

    def submit(
        self,
        requests: Iterable[tuple[Request, Callable[[str], object]]],
        *,
        repeats: int = 2,
        prices: Prices | None = None,
        max_cost: float | None = None,
    ) -> Submitted:
        """Submit the requests that nobody has answered. With each comes a function that raises ValueError for the text
        of a reply that cannot be read: then the next of `repeats` attempts is submitted.

        Raises EditError at `max_cost` (estimated), after what fits into it was submitted, and what the endpoint says.
        """
        done = Submitted(cost=0.0 if prices is not None else None)
        with self._locked():
            waiting = {key for stem, part in self.parts.items() for key in self._expected(stem, part)}
            for stem, part in self.parts.items():
                if part.batch is None and not part.taken and self._here(part):
                    self._send(stem, part)  # a run was killed before
                    done.batches += 1
            for request, check in requests:
                left = self._unanswered(request, check, repeats)
                if left is None:
                    done.stored += 1
                elif left.key in waiting:
                    done.waiting += 1
                else:
                    self._spend(left, done, prices, max_cost)
                    self._add(left, done)
                    waiting.add(left.key)
            self._finish(done)
        return done

    def _spend(self, request: Request, done: Submitted, prices: Prices | None, max_cost: float | None) -> None:
        """Count what a request may cost. Raises EditError at `max_cost`, when what came before it is submitted."""
        if prices is None:
            return
        cost = DISCOUNT * prices.cost(request.model, *estimate_tokens(request, prices))
        if max_cost is not None and (done.cost or 0.0) + cost > max_cost:
            self._finish(done)
            raise EditError(
                f"the next request may cost {cost:.4g}, {done.cost or 0:.4g} of at most {max_cost:g} are "
                f"submitted: stopped after {done.requests} requests",
                hint="--batch collect takes their replies; submit again with a new --max-cost to go on",
            )
        done.cost = (done.cost or 0.0) + cost

    def _add(self, request: Request, done: Submitted) -> None:
        line = self._line(request)
        if self.open is not None and not self.open.has_room(len(line)):
            self._finish(done)
        with _on_disk(self.folder):
            if self.open is None:
                count = sum(map(self._mine, self.parts))
                self.open = _Lines(os.path.join(self.folder, f"{self.name}-{count:05d}"))
            self.open.add(request.key, line)
        done.requests += 1

    def _expected(self, stem: str, part: BatchPart) -> Iterable[str]:
        """The keys whose replies are still to come, or have come and wait for `collect`."""
        if part.taken:
            return ()
        path = f"{stem}.replies.jsonl"
        return [key for key, good, *_ in _replies(path) if good] if os.path.exists(path) else part.keys

    def _unanswered(self, request: Request, check: Callable[[str], object], repeats: int) -> Request | None:
        """The attempt that nobody has answered yet; None where a reply is there, or enough that cannot be read."""
        for number in range(repeats + 1):
            attempt = Request(request.model, request.parts, request.parameters, request.attempt + number * RETRY)
            known = self.store.get(attempt.key, self.client.name)
            if known is None or known.state == "failed":
                return attempt
            try:
                if known.state == "ok":
                    check(known.text or "")
            except ValueError:
                continue
            return None
        return None

    def _line(self, request: Request) -> bytes:
        url = self.client.address.batched(self.client.interface)
        head = json.dumps({"custom_id": request.key, "method": "POST", "url": url}).encode()
        return head[:-1] + b',"body":' + self.client.body(request) + b"}\n"

    def _finish(self, done: Submitted) -> None:
        """Submit the file that is complete."""
        if self.open is None:
            return
        lines, self.open = self.open, None
        with _on_disk(self.folder):
            part = BatchPart(lines.close(), endpoint=self.client.name)
        part.instead, part.interface = self.client.instead, self.client.interface
        self.parts[lines.stem] = part
        self._save(lines.stem, part)
        self._send(lines.stem, part)
        done.batches += 1

    def _send(self, stem: str, part: BatchPart) -> None:
        """Upload the file and make a batch of it, whichever of the two is not done. Raises EditError."""
        with self.client.sdk() as client:
            if part.file is None:
                with _on_disk(self.folder):
                    file = open(f"{stem}.jsonl", "rb")
                with file:
                    part.file = client.files.create(file=(os.path.basename(file.name), file), purpose="batch").id
                self._save(stem, part)
                submitted = None
            else:  # perhaps the batch was made, and this program killed before it knew
                listed = client.batches.list(limit=100)
                submitted = next((batch for batch in listed if batch.input_file_id == part.file), None)
            if submitted is None:
                endpoint: Any = self.client.address.batched(part.interface)
                submitted = client.batches.create(input_file_id=part.file, endpoint=endpoint, completion_window="24h")
        part.batch, part.status = submitted.id, submitted.status
        self._save(stem, part)
        with _on_disk(self.folder):
            os.unlink(f"{stem}.jsonl")

    # ---------------------------------------------------------------- collect

    def collect(self) -> BatchClient:
        """Fetch the replies of all batches that are done and return a client that answers with them.

        Raises IncompleteError while a batch of this task is at work, and EditError for what the endpoint says. Those of
        other tasks are waited for where they were asked what this one asks.
        """
        working: dict[str, str] = {}  # place -> what keeps it
        failed: list[BatchPart] = []
        with self._locked():
            for stem, part in self.parts.items():
                if part.taken or os.path.exists(f"{stem}.replies.jsonl"):
                    continue
                if (far := self._fetch(stem, part)) is not None:
                    working[stem] = far
                elif part.taken:
                    failed.append(part)
        if failed:
            raise EditError(failed[0].status, hint="--batch submit sends its requests again")
        mine = [far for stem, far in working.items() if self._mine(stem) and self._here(self.parts[stem])]
        if mine:
            count = sum(not part.taken for stem, part in self.parts.items() if self._mine(stem))
            raise IncompleteError(f"{len(mine)} of {count} batches are at work: {', '.join(mine[:3])}", hint=_LATER)
        waiting = {key: far for stem, far in working.items() for key in self.parts[stem].keys}
        done = {
            f"{stem}.replies.jsonl": (part.instead, False, part.interface)
            for stem, part in self.parts.items()
            if not part.taken and stem not in working
        }
        return BatchClient(self.client, done, waiting)

    def _fetch(self, stem: str, part: BatchPart) -> str | None:
        """Fetch the replies of a batch: None, or how far it is. One that failed as a whole is `taken`."""
        if not self._here(part):
            return f"{part.batch} ({part.endpoint} has it)"
        if part.batch is None:
            return f"{os.path.basename(stem)}.jsonl (not submitted yet: --batch submit goes on)"
        with self.client.sdk() as client:
            batch = client.batches.retrieve(part.batch)
            outputs = [name for name in (batch.output_file_id, batch.error_file_id) if name]
            counts = batch.request_counts
            part.status = batch.status
            if batch.status not in _ENDED or (counts and counts.completed and not outputs):  # its files come later
                self._save(stem, part)
                share = f", {counts.completed + counts.failed} of {counts.total}" if counts else ""
                return f"{part.batch} ({batch.status}{share})"
            if batch.status == "failed":  # before any request was answered
                errors = batch.errors.data if batch.errors and batch.errors.data else []
                said = "; ".join(error.message or error.code or "" for error in errors[:3])
                part.taken, part.status = True, self.client.clean(f"{part.batch} failed: {said}")
            else:
                with files.atomic(f"{stem}.replies.jsonl") as file:
                    for name in outputs:
                        file.write(client.files.content(name).content + b"\n")
        self._save(stem, part)
        return None

    def taken(self) -> None:
        """The replies that `collect` fetched are in the store now, and what got none may be submitted again."""
        with self._locked():
            if self.client.instead or self.client.interface != self.client.address.interface:
                known = self._declined()
                known[self.asked] = {"instead": self.client.instead, "interface": self.client.interface}
                files.write_bytes(self.declined, json.dumps(known).encode())
            for stem, part in self.parts.items():
                read = not part.taken and os.path.exists(f"{stem}.replies.jsonl")
                if read and all(self._is_stored(key) for key in self._expected(stem, part)):
                    part.taken = True
                    self._save(stem, part)

    def _is_stored(self, key: str) -> bool:
        return self.store.get(key, self.client.name) is not None

    def _save(self, stem: str, part: BatchPart) -> None:
        files.write_bytes(f"{stem}.json", json.dumps(asdict(part)).encode())


def pending(folder: str) -> int:
    """How many requests of a store were submitted and not collected. Raises EditError."""
    parts = []
    with _on_disk(folder):
        for path in glob.glob(os.path.join(glob.escape(folder), "batches", "*-*.json")):
            parts.append(_read(path))
    return sum(len(part.keys) for part in parts if not part.taken)


@contextlib.contextmanager
def _on_disk(folder: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        raise EditError(
            f"{folder}: cannot use these batches: {error}",
            hint="run the same command again when that is mended: what was submitted is not paid for again",
        ) from error


def _read(path: str) -> BatchPart:
    return BatchPart(**json.loads(files.read_bytes(path)))


class _Lines:
    """A file of requests that is being written."""

    def __init__(self, stem: str) -> None:
        self.stem, self.keys, self.size = stem, list[str](), 0
        self.pending = files.AtomicFile(f"{stem}.jsonl")

    def has_room(self, size: int) -> bool:
        return len(self.keys) < REQUESTS and self.size + size <= BYTES

    def add(self, key: str, line: bytes) -> None:
        self.pending.file.write(line)
        self.keys.append(key)
        self.size += len(line)

    def close(self) -> list[str]:
        self.pending.commit()
        return self.keys


class BatchClient:
    """Answers out of files of replies, and asks nobody. An answer takes an earlier error's place."""

    def __init__(self, client: EndpointClient, paths: dict[str, Manner], waiting: dict[str, str]) -> None:
        """`paths` of the files, and how their requests were made; `waiting`: key -> what keeps the batch that is to
        answer it. Raises EditError for a file that cannot be read.
        """
        self.client, self.name, self.paths, self.waiting = client, client.name, paths, waiting
        self.places: dict[str, tuple[str, int, int]] = {}  # key -> file, offset, length
        for path in paths:
            for key, good, start, length in _replies(path):
                if good or key not in self.places:
                    self.places[key] = path, start, length

    def draws(self, request: Request) -> bool:
        return request.key in self.places or request.key in self.waiting

    def prepare(self, request: Request) -> None:
        pass

    async def ask(self, request: Request, begin: Begin) -> Reply:
        """Raises IncompleteError for what a batch is still to answer."""
        await begin()
        if request.key not in self.places:
            if (far := self.waiting.get(request.key)) is not None:
                raise IncompleteError(f"another task's batch is at work: {far}", hint=_LATER)
            return Reply("failed", error=_NO_REPLY, **UNPAID)
        path, start, length = self.places[request.key]
        try:
            with open(path, "rb") as file:
                file.seek(start)
                line = json.loads(file.read(length))
        except OSError as error:
            raise EditError(f"{path}: cannot read these replies: {error}") from error
        status = _status(line)
        if status is None:
            said = line.get("error") if isinstance(line.get("error"), dict) else {}
            return Reply("failed", error=self.client.clean(f"{said.get('code')}: {said.get('message')}"), **UNPAID)
        try:
            data = json.dumps(line["response"].get("body")).encode()
            return self.client.read(status, data, request, self.paths[path])
        except TransientError as error:
            tokens = (error.paid.prompt_tokens, error.paid.completion_tokens) if error.paid is not None else (0, 0)
            return Reply("failed", None, f"{error}: --batch submit asks again", None, *tokens)

    async def close(self) -> None:
        pass


def _replies(path: str) -> Iterator[tuple[str, bool, int, int]]:
    """(key, whether it is an answer, offset, length) of every reply in a file; lines that are none say nothing.

    Raises EditError.
    """
    try:
        with open(path, "rb") as file:
            start = 0
            for text in file:
                line = None
                with contextlib.suppress(ValueError, RecursionError):
                    line = json.loads(text)
                if isinstance(line, dict) and isinstance(line.get("custom_id"), str):
                    yield line["custom_id"], _status(line) == 200, start, len(text)
                start += len(text)
    except OSError as error:
        raise EditError(f"{path}: cannot read these replies: {error}") from error


def _status(line: dict[str, Any]) -> int | None:
    """The HTTP status of a request of a batch; None where it was not sent, as when the batch expired before."""
    response = line.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    return status if isinstance(status, int) else None
