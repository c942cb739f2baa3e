"""Requests by the file: an endpoint's batch interface answers within a day, for half the price.

What was submitted stands in `STORE/batches/`: for every file of requests a JSON file that says how far it came, so that
`submit` and `collect` can be killed and run again at any time. The requests of a file are kept until a batch has been
made of them, the replies for ever. Nothing is submitted that is stored already, or that a batch is still to answer.

Format: OpenAI's Batch API (JSON lines of `custom_id`, `method`, `url`, `body`; replies of `custom_id`, `response`,
`error`), at most 50,000 requests and 200 MB a file.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from edittools.errors import EditError, IncompleteError
from edittools.models.writers import Begin, Reply, Request, TransientError
from edittools.models.writers.asking import AGAIN
from edittools.models.writers.endpoint import UNPAID, EndpointWriter
from edittools.models.writers.prices import Prices, estimate_tokens
from edittools.models.writers.store import Store
from edittools.stream import files

REQUESTS = 50_000  # in a file at most
BYTES = 190 << 20  # the service's limit is 200 MB
DISCOUNT = 0.5  # what a batched call costs, of the price of others
_ENDED = ("completed", "failed", "expired", "cancelled")
_NO_REPLY = "no batch has answered it: --batch submit asks again"


@dataclass
class Part:
    """One file of requests. `keys` are Request.key, which is the `custom_id` there."""

    keys: list[str] = field(default_factory=list)
    file: str | None = None  # the service's id of the file, once it has it
    batch: str | None = None
    status: str = "written"  # then the batch's own
    taken: bool = False  # a run has had its replies


@dataclass
class Submitted:
    """What a run of `submit` did."""

    requests: int = 0
    batches: int = 0
    waiting: int = 0  # that are with the service from before
    stored: int = 0
    cost: float | None = None  # estimated


class Batches:
    """The files of one task in a store."""

    def __init__(self, store: Store, writer: EndpointWriter) -> None:
        """Raises EditError where the folder cannot be used."""
        self.writer, self.store = writer, store
        self.folder = os.path.join(store.folder, "batches")
        self.name = os.path.basename(store.path).removesuffix(".sqlite")
        try:
            os.makedirs(self.folder, exist_ok=True)
            paths = sorted(glob.glob(os.path.join(glob.escape(self.folder), f"{self.name}-*.json")))
            self.parts = {path.removesuffix(".json"): self._read(path) for path in paths}
            for path in glob.glob(os.path.join(glob.escape(self.folder), f"{self.name}-*.tmp")):
                os.unlink(path)
            self.declined = os.path.join(self.folder, "declined.json")  # parameters that the model does not take
            if os.path.exists(self.declined):
                with open(self.declined, encoding="utf-8") as file:
                    writer.instead = json.load(file)
        except (OSError, ValueError, TypeError) as error:
            raise EditError(f"{self.folder}: cannot use these batches: {error}") from error

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
        waiting = {key for place, part in self.parts.items() if not part.taken for key in self._expected(place, part)}
        for place, part in self.parts.items():
            if part.batch is None and not part.taken:
                self._send(place, part)  # a run was killed before
                done.batches += 1
        open_part: _Lines | None = None
        for request, check in requests:
            left = self._unanswered(request, check, repeats)
            if left is None:
                done.stored += 1
                continue
            if left.key in waiting:
                done.waiting += 1
                continue
            if prices is not None:
                cost = DISCOUNT * prices.cost(left.model, *estimate_tokens(left, prices))
                if max_cost is not None and (done.cost or 0.0) + cost > max_cost:
                    self._finish(open_part, done)
                    raise EditError(
                        f"the next request may cost {cost:.4g}, {done.cost or 0:.4g} of at most {max_cost:g} are "
                        f"submitted: stopped after {done.requests} requests",
                        hint="--batch collect takes their replies; submit again with a new --max-cost to go on",
                    )
                done.cost = (done.cost or 0.0) + cost
            line = self._line(left)
            if open_part is not None and not open_part.has_room(len(line)):
                self._finish(open_part, done)
                open_part = None
            if open_part is None:
                open_part = _Lines(os.path.join(self.folder, f"{self.name}-{len(self.parts):05d}"))
            open_part.add(left.key, line)
            waiting.add(left.key)
            done.requests += 1
        self._finish(open_part, done)
        return done

    def _expected(self, place: str, part: Part) -> Iterable[str]:
        """The keys whose replies are still to come, or have come and wait for `collect`."""
        path = f"{place}.replies.jsonl"
        if not os.path.exists(path):
            return part.keys
        with open(path, "rb") as file:
            return [line["custom_id"] for line in map(json.loads, filter(bytes.strip, file)) if _status(line) == 200]

    def _unanswered(self, request: Request, check: Callable[[str], object], repeats: int) -> Request | None:
        """The attempt that nobody has answered yet; None where a reply is there, or enough that cannot be read."""
        for number in range(repeats + 1):
            attempt = Request(request.model, request.parts, request.parameters, request.attempt + number * AGAIN)
            known = self.store.get(attempt.key, self.writer.name)
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
        url = f"{'' if self.writer.address.version else '/v1'}/{self.writer.interface}"
        head = json.dumps({"custom_id": request.key, "method": "POST", "url": url}).encode()
        return head[:-1] + b',"body":' + self.writer.body(request) + b"}\n"

    def _finish(self, lines: _Lines | None, done: Submitted) -> None:
        """Submit a file that is complete."""
        if lines is None:
            return
        part = self.parts[lines.place] = Part(lines.close())
        self._save(lines.place, part)
        self._send(lines.place, part)
        done.batches += 1

    def _send(self, place: str, part: Part) -> None:
        """Upload the file and make a batch of it, whichever of the two is not done. Raises EditError."""
        with self.writer.sdk() as client:
            if part.file is None:
                with open(f"{place}.jsonl", "rb") as file:
                    part.file = client.files.create(file=(os.path.basename(file.name), file), purpose="batch").id
                self._save(place, part)
                made = None
            else:  # perhaps the batch was made, and this program killed before it knew
                listed = client.batches.list(limit=100)
                made = next((batch for batch in listed if batch.input_file_id == part.file), None)
            if made is None:
                endpoint: Any = f"{'' if self.writer.address.version else '/v1'}/{self.writer.interface}"
                made = client.batches.create(input_file_id=part.file, endpoint=endpoint, completion_window="24h")
        part.batch, part.status = made.id, made.status
        self._save(place, part)
        os.unlink(f"{place}.jsonl")

    # ---------------------------------------------------------------- collect

    def collect(self) -> BatchWriter:
        """Fetch the replies of all batches and return a writer that answers with them.

        Raises IncompleteError while a batch is at work, and EditError for what the endpoint says.
        """
        working = []
        for place, part in self.parts.items():
            if part.batch is None:
                raise IncompleteError(f"{place}.jsonl: is not submitted yet", hint="--batch submit goes on")
            replies = f"{place}.replies.jsonl"
            if part.taken or os.path.exists(replies):
                continue
            with self.writer.sdk() as client:
                batch = client.batches.retrieve(part.batch)
                part.status = batch.status
                if batch.status in _ENDED:
                    with open(f"{replies}.tmp", "wb") as file:
                        for found in (batch.output_file_id, batch.error_file_id):
                            if found:
                                for piece in client.files.content(found).iter_bytes(1 << 20):
                                    file.write(piece)
                                file.write(b"\n")
                    os.replace(f"{replies}.tmp", replies)
                else:
                    counts = batch.request_counts
                    far = f", {counts.completed + counts.failed} of {counts.total}" if counts else ""
                    working.append(f"{part.batch} ({batch.status}{far})")
            part.taken = batch.status == "failed"  # as a whole, before any request was answered
            self._save(place, part)
            if part.taken:
                errors = batch.errors.data if batch.errors and batch.errors.data else []
                said = self.writer.clean("; ".join(error.message or error.code or "" for error in errors[:3]))
                raise EditError(f"{part.batch} failed: {said}", hint="--batch submit sends its requests again")
        if working:
            raise IncompleteError(f"{len(working)} of {len(self.parts)} batches are at work: {', '.join(working[:3])}",
                                  hint="run the same command again later")  # fmt: skip
        places = [place for place, part in self.parts.items() if not part.taken]
        return BatchWriter(self.writer, [f"{place}.replies.jsonl" for place in places], self.declined)

    def taken(self) -> None:
        """The replies that `collect` fetched are in the store now, and what got none may be submitted again."""
        for place, part in self.parts.items():
            read = os.path.exists(f"{place}.replies.jsonl")
            if not part.taken and read and all(self._is_stored(key) for key in self._expected(place, part)):
                part.taken = True
                self._save(place, part)

    def _is_stored(self, key: str) -> bool:
        return self.store.get(key, self.writer.name) is not None

    # ---------------------------------------------------------------- state

    def _read(self, path: str) -> Part:
        with open(path, encoding="utf-8") as file:
            return Part(**json.load(file))

    def _save(self, place: str, part: Part) -> None:
        files.write_bytes(f"{place}.json", json.dumps(asdict(part)).encode())


class _Lines:
    """A file of requests that is being written."""

    def __init__(self, place: str) -> None:
        self.place, self.keys, self.size = place, list[str](), 0
        self.file = open(f"{place}.jsonl.tmp", "wb")

    def has_room(self, size: int) -> bool:
        return len(self.keys) < REQUESTS and self.size + size <= BYTES

    def add(self, key: str, line: bytes) -> None:
        self.file.write(line)
        self.keys.append(key)
        self.size += len(line)

    def close(self) -> list[str]:
        self.file.close()
        os.replace(f"{self.place}.jsonl.tmp", f"{self.place}.jsonl")
        return self.keys


class BatchWriter:
    """Answers out of files of replies, and asks nobody. A later file's reply takes an earlier one's place."""

    asks = False

    def __init__(self, writer: EndpointWriter, paths: list[str], declined: str) -> None:
        """`declined` is the file that keeps what these replies say of parameters, for the next submission. Raises
        EditError for a file that cannot be read.
        """
        self.writer, self.name, self.declined = writer, writer.name, declined
        self.manner = writer.manner()  # how these requests were sent
        self.places: dict[str, tuple[str, int, int]] = {}  # key -> file, offset, length
        for path in paths:
            try:
                with open(path, "rb") as file:
                    start = 0
                    for line in file:
                        if line.strip():
                            self.places[str(json.loads(line)["custom_id"])] = path, start, len(line)
                        start += len(line)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise EditError(f"{path}: no file of replies: {error}") from error

    def draws(self, request: Request) -> bool:
        """Another attempt is of use where a batch has answered it."""
        attempt = Request(request.model, request.parts, request.parameters, request.attempt + AGAIN)
        return attempt.key in self.places

    def prepare(self, request: Request) -> None:
        pass

    async def ask(self, request: Request, begin: Begin) -> Reply:
        await begin()
        if request.key not in self.places:
            return Reply("failed", error=_NO_REPLY, **UNPAID)
        path, start, length = self.places[request.key]
        with open(path, "rb") as file:
            file.seek(start)
            line = json.loads(file.read(length))
        status = _status(line)
        if status is None:
            said = line.get("error") if isinstance(line.get("error"), dict) else {}
            return Reply("failed", error=self.writer.clean(f"{said.get('code')}: {said.get('message')}"), **UNPAID)
        try:
            return self.writer.read(status, json.dumps(line["response"].get("body")).encode(), request, self.manner)
        except TransientError as error:
            tokens = (error.paid.prompt_tokens, error.paid.completion_tokens) if error.paid is not None else (0, 0)
            return Reply("failed", None, f"{error}: --batch submit asks again", None, *tokens)

    async def close(self) -> None:
        if self.writer.instead:
            files.write_bytes(self.declined, json.dumps(self.writer.instead).encode())


def _status(line: dict[str, Any]) -> int | None:
    """The HTTP status of a request of a batch; None where it was not sent, as when the batch expired before."""
    response = line.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    return status if isinstance(status, int) else None
