"""Images of the web that rows name by their addresses, fetched into a folder once: `edit shard --fetch`.

The folder holds every image under a hash of its address, and `status.jsonl`, a line for every attempt: `url`, `status`
(`success` or `failed`), `reason`, `bytes`, `sha256` and `attempts`; of several lines of one address the last one holds.
A later run fetches only what is not there: what failed is tried again, what is there is not. A task of an array writes
`status.I-of-N.jsonl`.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np

from edittools.errors import EditError
from edittools.ingest.http_get import FetchError, Limits, get_image
from edittools.stream import files
from edittools.stream.input_reader import reference
from edittools.stream.packed import name_key

STATUS = "status.jsonl"
_RECENT = 1 << 14  # failures that are kept as they come, before they are sorted in
_HOSTS = 1 << 16
_REASONS = 1 << 16  # different ones; what is beyond them is told as the first
_LONGEST_WAIT = 60.0  # seconds that a server may ask for


@dataclass(frozen=True)
class Manners:
    """How hosts are asked."""

    rate: float = 10.0  # requests a second to one host
    retries: int = 2  # more tries of what may succeed later
    threads: int = 32  # images that are fetched at the same time
    limits: Limits = field(default_factory=Limits)


class Failures:
    """Addresses that could not be fetched, and why: 10 bytes each, however many there are."""

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}  # key -> number of the reason
        self._keys, self._said = np.zeros(0, np.uint64), np.zeros(0, np.uint16)
        self._reasons: list[str] = []
        self._numbers: dict[str, int] = {}

    def __setitem__(self, address: str, reason: str) -> None:
        if reason not in self._numbers and len(self._reasons) < _REASONS:
            self._numbers[reason] = len(self._reasons)
            self._reasons.append(reason)
        self._recent[name_key(address)] = self._numbers.get(reason, 0)
        if len(self._recent) >= max(_RECENT, len(self._keys) // 4):
            self._settle()

    def _settle(self) -> None:
        keys = np.concatenate([self._keys, np.fromiter(self._recent, np.uint64, len(self._recent))])
        said = np.concatenate([self._said, np.fromiter(self._recent.values(), np.uint16, len(self._recent))])
        order = np.argsort(keys, kind="stable")
        keys, said = keys[order], said[order]
        last = np.append(keys[1:] != keys[:-1], True)  # what was said last holds
        self._keys, self._said, self._recent = keys[last], said[last], {}

    def get(self, address: str) -> str | None:
        key = name_key(address)
        number = self._recent.get(key)
        if number is None:
            place = int(np.searchsorted(self._keys, np.uint64(key)))
            if place == len(self._keys) or int(self._keys[place]) != key:
                return None
            number = int(self._said[place])
        return self._reasons[number]

    def __contains__(self, address: str) -> bool:
        return self.get(address) is not None


class Store:
    """The folder of images that were fetched, and what is known of those that could not be."""

    def __init__(self, folder: str, log: str | None = None) -> None:
        """`log` names the log of one of several processes that fetch at the same time: `status.LOG.jsonl`."""
        self.folder = os.path.abspath(folder)
        self.log = os.path.join(self.folder, STATUS if log is None else f"status.{log}.jsonl")
        self.failed = Failures()
        os.makedirs(self.folder, exist_ok=True)
        for path in sorted(glob.glob(os.path.join(glob.escape(self.folder), "status*.jsonl"))):
            self._read(path)

    def _read(self, path: str) -> None:
        with open(path, "rb") as file:
            for line in file:
                try:
                    said = json.loads(line)
                    if said["status"] == "failed":
                        self.failed[str(said["url"])] = str(said["reason"])
                except (ValueError, KeyError, TypeError):  # the last line of a run that was killed
                    continue

    def path(self, address: str) -> str:
        name = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return os.path.join(self.folder, name[:2], name[2:])

    def find(self, address: str) -> dict[str, Any]:
        """The image of an address as it was fetched; why there is none is in its etag."""
        path = self.path(address)
        try:
            size, tag = files.facts(path)
        except OSError:
            reason = self.failed.get(address) or "not fetched"
            return reference(file=address, etag=f"{files.NOTHING}{reason}")
        return reference(file=path, offset=0, length=size, etag=tag)

    def fetch(
        self, addresses: Iterable[str], manners: Manners, quiet: bool = False, done: Counter[str] | None = None
    ) -> Counter[str]:
        """Fetch what is not here, each address once; returns how many images came, and how many did not by the reasons.

        Addresses are taken as they are needed, and none is kept longer. `done` is what is returned, as it grows.
        """
        done = Counter[str]() if done is None else done
        clock = _Clock(manners.rate)
        under_way, tried = set[str](), Failures()

        def wanted() -> Iterator[str]:
            for address in addresses:
                if address not in under_way and address not in tried and not os.path.exists(self.path(address)):
                    under_way.add(address)
                    yield address

        with open(self.log, "a+b") as log, ThreadPoolExecutor(manners.threads) as pool:
            try:
                _end_line(log)
                work = _in_threads(pool, wanted(), lambda url: self._one(url, manners, clock), 4 * manners.threads)
                for address, said in work:
                    log.write(json.dumps({"url": address, **said}).encode() + b"\n")
                    log.flush()
                    done["fetched" if said["status"] == "success" else said["reason"]] += 1
                    if said["status"] != "success":
                        self.failed[address] = tried[address] = said["reason"]
                    under_way.discard(address)
            except BaseException:
                clock.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if done and not quiet:
            print(f"fetch: {done.total()} addresses: {told(done)}", file=sys.stderr, flush=True)
        return done

    def _one(self, address: str, manners: Manners, clock: _Clock) -> dict[str, Any]:
        """Fetch one image, and say how it went."""
        host = _host(address)
        for attempt in range(1, manners.retries + 2):
            clock.wait_for(host)
            try:
                data = get_image(address, manners.limits)
            except FetchError as error:
                said = {"status": "failed", "reason": str(error), "attempts": attempt}
                if not error.again or attempt > manners.retries:
                    return said
                clock.hold(host, min(max(error.wait, 0.5 * 2**attempt), _LONGEST_WAIT))
                continue
            self._keep(self.path(address), data)
            digest = hashlib.sha256(data).hexdigest()
            return {"status": "success", "bytes": len(data), "sha256": digest, "attempts": attempt}
        raise AssertionError("no attempt")  # pragma: no cover

    @staticmethod
    def _keep(path: str, data: bytes) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}-{threading.get_ident()}{files.TEMPORARY}"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError as error:
            raise EditError(
                f"{path}: cannot be written: {error.strerror}", hint="--fetch needs a disk with room"
            ) from None


class _Clock:
    """When each host may be asked next."""

    def __init__(self, rate: float) -> None:
        self.between = 1.0 / rate
        self.next: dict[str, float] = {}
        self.most = _HOSTS  # hosts at which those whose time has come are forgotten
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def wait_for(self, host: str) -> None:
        with self.lock:
            now = time.monotonic()
            at = max(self.next.get(host, 0.0), now)
            self.next[host] = at + self.between
            if len(self.next) >= self.most:  # those whose time has come are as those that were never asked
                self.next = {name: then for name, then in self.next.items() if then > now}
                self.most = max(_HOSTS, 2 * len(self.next))  # not again with every request
        if self.ended.wait(max(at - time.monotonic(), 0.0)):
            raise FetchError("stopped")

    def hold(self, host: str, seconds: float) -> None:
        """Nobody asks this host for so long."""
        with self.lock:
            self.next[host] = max(self.next.get(host, 0.0), time.monotonic() + seconds)

    def stop(self) -> None:
        self.ended.set()


def _end_line(log: BinaryIO) -> None:
    """End the line that a run which was killed left half written: the next one would be lost with it."""
    if log.seek(0, os.SEEK_END):
        log.seek(-1, os.SEEK_END)
        if log.read(1) != b"\n":
            log.write(b"\n")


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # it will be no address
        return ""


def _in_threads(
    pool: ThreadPoolExecutor, addresses: Iterable[str], work: Callable[[str], dict[str, Any]], ahead: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Addresses with what came of them, as they are finished; so many are handed out ahead."""
    waiting: dict[Future[dict[str, Any]], str] = {}
    left = iter(addresses)
    while True:
        for address in left:
            waiting[pool.submit(work, address)] = address
            if len(waiting) >= ahead:
                break
        if not waiting:
            return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future.result()


def told(done: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in done.most_common(5))
