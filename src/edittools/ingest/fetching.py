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
from typing import Any
from urllib.parse import urlsplit

from edittools.errors import EditError
from edittools.ingest.http_get import FetchError, Limits, get_image
from edittools.stream import files
from edittools.stream.input_reader import reference
from edittools.stream.progress import Progress

STATUS = "status.jsonl"
_THREADS = 32
_AHEAD = 4 * _THREADS  # addresses that are handed to the threads
_LONGEST_WAIT = 60.0  # seconds that a server may ask for


@dataclass(frozen=True)
class Manners:
    """How hosts are asked."""

    rate: float = 10.0  # requests a second to one host
    retries: int = 2  # more tries of what may succeed later
    limits: Limits = field(default_factory=Limits)


class Store:
    """The folder of images that were fetched, and what is known of those that could not be."""

    def __init__(self, folder: str, log: str | None = None) -> None:
        """`log` names the log of one of several processes that fetch at the same time: `status.LOG.jsonl`."""
        self.folder = os.path.abspath(folder)
        self.log = os.path.join(self.folder, STATUS if log is None else f"status.{log}.jsonl")
        self.failed: dict[str, str] = {}
        os.makedirs(self.folder, exist_ok=True)
        for path in sorted(glob.glob(os.path.join(glob.escape(self.folder), "status*.jsonl"))):
            self._read(path)

    def _read(self, path: str) -> None:
        for line in files.read_bytes(path).splitlines():
            try:
                said = json.loads(line)
                if said["status"] == "failed":
                    self.failed[said["url"]] = said["reason"]
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
            reason = self.failed.get(address, "not fetched")
            return reference(file=address, etag=f"{files.NOTHING}{reason}")
        return reference(file=path, offset=0, length=size, etag=tag)

    def fetch(self, addresses: Iterable[str], manners: Manners, quiet: bool = False) -> Counter[str]:
        """Fetch what is not here; returns how many images came, and how many did not by the reasons."""
        wanted = [address for address in dict.fromkeys(addresses) if not os.path.exists(self.path(address))]
        done = Counter[str]()
        clock = _Clock(manners.rate)
        progress = Progress("fetch", len(wanted), shown=not quiet, unit="address", note=lambda: _told(done))
        with open(self.log, "ab") as log, ThreadPoolExecutor(_THREADS) as pool:
            try:
                for address, said in _in_threads(pool, wanted, lambda url: self._one(url, manners, clock)):
                    log.write(json.dumps({"url": address, **said}).encode() + b"\n")
                    log.flush()
                    done["fetched" if said["status"] == "success" else said["reason"]] += 1
                    if said["status"] != "success":
                        self.failed[address] = said["reason"]
                    progress.step(1)
            except BaseException:
                clock.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                progress.close()
        if wanted and not quiet:
            print(f"fetch: {len(wanted)} addresses: {_told(done)}", file=sys.stderr, flush=True)
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
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def wait_for(self, host: str) -> None:
        with self.lock:
            at = max(self.next.get(host, 0.0), time.monotonic())
            self.next[host] = at + self.between
        if self.ended.wait(max(at - time.monotonic(), 0.0)):
            raise FetchError("stopped")

    def hold(self, host: str, seconds: float) -> None:
        """Nobody asks this host for so long."""
        with self.lock:
            self.next[host] = max(self.next.get(host, 0.0), time.monotonic() + seconds)

    def stop(self) -> None:
        self.ended.set()


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # it will be no address
        return ""


def _in_threads(
    pool: ThreadPoolExecutor, addresses: Iterable[str], work: Callable[[str], dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Addresses with what came of them, as they are finished; few are handed out ahead."""
    waiting: dict[Future[dict[str, Any]], str] = {}
    left = iter(addresses)
    while True:
        for address in left:
            waiting[pool.submit(work, address)] = address
            if len(waiting) >= _AHEAD:
                break
        if not waiting:
            return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future.result()


def _told(done: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in done.most_common(5))
