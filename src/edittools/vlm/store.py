"""Stored replies: what was paid for once is never asked again.

A store is a folder of SQLite logs, `NAME.sqlite`. A task writes its own log and reads all of them, so that reruns with
another number of tasks, and other commands that ask the same, find every reply. A log has one writer at a time. It
holds no keys and no headers, and of the images only their hashes. What is on its way to a log is noted beside it in
`NAME-*.journal`, which a process that is killed leaves behind: whoever opens the store next takes it into a log.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import IO, Any
from urllib.parse import quote

from edittools.errors import EditError
from edittools.vlm import EncodedImage, Reply, Request
from edittools.vlm.journal import Journal, left_journal

_TABLE = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT NOT NULL,           -- Request.key
    time TEXT NOT NULL,          -- UTC, when the reply was stored
    writer TEXT NOT NULL,        -- the backend that was asked: an endpoint or a folder
    asked TEXT NOT NULL,         -- Request.model
    model TEXT,                  -- the snapshot that answered
    prompt_sha256 TEXT NOT NULL, -- of the texts, joined by line feeds
    images TEXT NOT NULL,        -- JSON: [[mime, sha256, detail if any], ...] in the order they were sent
    parameters TEXT NOT NULL,    -- JSON
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    text TEXT,
    error TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    logprobs TEXT,               -- JSON: a list of [token, log-probability] per written token
    PRIMARY KEY (key, writer)
)"""
_PATIENCE = 30.0  # seconds to wait for another process that has a log for itself
# A call that fails takes no reply away that was paid for before.
_PUT = f"""
INSERT INTO replies VALUES ({", ".join("?" * 15)}) ON CONFLICT (key, writer) DO UPDATE SET
    time = excluded.time, asked = excluded.asked, model = excluded.model, prompt_sha256 = excluded.prompt_sha256,
    images = excluded.images, parameters = excluded.parameters, attempt = excluded.attempt, state = excluded.state,
    text = excluded.text, error = excluded.error, prompt_tokens = excluded.prompt_tokens,
    completion_tokens = excluded.completion_tokens, logprobs = excluded.logprobs
WHERE excluded.state != 'failed' OR replies.state = 'failed'"""
Row = tuple[Any, ...]
_REPLY = "state, text, error, model, prompt_tokens, completion_tokens, logprobs, writer"


class ReplyStore:
    """The logs of one folder. `get` may be called by many threads at once, `put` by one at a time."""

    def __init__(self, folder: str, name: str = "00000") -> None:
        """Open every log in `folder` (made if missing) and `NAME.sqlite` for writing. Raises EditError."""
        if "://" in folder:
            raise EditError(f"{folder}: replies are stored in a local folder")
        self.folder, self.path = folder, os.path.join(folder, f"{name}.sqlite")
        self.others: list[sqlite3.Connection] = []
        self.reading = threading.Lock()
        self.claimed: IO[str] | None = None
        path = self.path
        try:
            os.makedirs(folder, exist_ok=True)
            # autocommit; each thread has a connection of its own, so that reading never waits for the disk
            self.writer = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            _patiently(lambda: self.writer.execute("PRAGMA journal_mode=WAL"))
            self.writer.execute("PRAGMA synchronous=FULL")  # a committed reply survives a power cut
            _patiently(lambda: self.writer.execute(_TABLE))
            for journal in _files(folder, "journal"):
                with left_journal(journal) as rows:
                    if rows:
                        self._commit(rows)
            self.journal = Journal(folder, name)
            self.reader = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            for path in _logs(folder):
                if path != self.path and (log := _open_to_read(path)) is not None:
                    self.others.append(log)
        except (sqlite3.Error, OSError) as error:
            raise EditError(f"{path}: cannot open this reply store: {error}") from error

    def get(self, key: str, client: str | None = None) -> Reply | None:
        """The stored reply: the newest of those that did not fail, if there are any. Raises EditError.

        With the name of a `client`, only one that may stand for what this client would say.
        """
        found: list[tuple[bool, str, Reply]] = []
        for log in (self.reader, *self.others):
            try:
                with self.reading:
                    rows = log.execute(f"SELECT time, {_REPLY} FROM replies WHERE key = ?", (key,)).fetchall()
            except sqlite3.Error as error:
                raise EditError(f"{self.folder}: cannot read this reply store: {error}") from error
            for when, *columns in rows:
                reply = _reply(columns)
                if client is None or _stands_for(reply.client or "", client):
                    found.append((reply.state != "failed", when, reply))
        # Of those of one moment the first: this task's own.
        return max(found, key=lambda one: one[:2])[2] if found else None

    def is_empty(self) -> bool:
        """Whether no reply can be found: none is stored, no other task has a log here, and no other process writes to
        this one. Raises EditError.
        """
        if self.others or _files(self.folder, "journal") != [self.journal.path]:
            return False
        try:
            with self.reading:
                return not self.reader.execute("SELECT 1 FROM replies LIMIT 1").fetchall()
        except sqlite3.Error as error:
            raise EditError(f"{self.folder}: cannot read this reply store: {error}") from error

    def put(self, rows: list[Row]) -> None:
        """Store replies as `row` makes them, all in one commit that is on disk on return.

        A reply of the same client that is there already is replaced. Raises EditError.
        """
        try:
            self._commit(rows)
        except sqlite3.Error as error:
            raise EditError(f"{self.path}: cannot store replies: {error}") from error

    def _commit(self, rows: list[Row]) -> None:
        with contextlib.closing(self.writer.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                cursor.executemany(_PUT, rows)
                cursor.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    cursor.execute("ROLLBACK")
                raise

    def claim(self, *facts: Any) -> None:
        """Raises EditError where another process asks the same now: both would pay. `facts` (JSON) say what is asked.

        Held until `close`, or until the process ends.
        """
        name = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        path = os.path.join(self.folder, f"{name}.lock")
        try:
            while True:
                file = open(path, "a+")
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                        break
                file.close()  # whoever held it has removed it meanwhile
        except BlockingIOError:
            file.close()
            raise EditError(
                f"{self.folder}: another process runs the same command now",
                hint="wait until it ends: replies that it stores are paid for once",
            ) from None
        except OSError:  # a file system without locks, or one that is read only
            return
        self.claimed = file

    def close(self) -> None:
        if self.claimed is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.claimed.name)
            self.claimed.close()
        self.journal.close()
        for log in (self.reader, *self.others, self.writer):
            log.close()


def count_stored(folder: str) -> int:
    """How many replies the logs of a folder hold that are not asked for again. Raises EditError."""
    count = 0
    for path in _logs(folder):
        try:
            if (log := _open_to_read(path)) is not None:
                with contextlib.closing(log):
                    count += log.execute("SELECT COUNT(*) FROM replies WHERE state != 'failed'").fetchone()[0]
        except sqlite3.Error as error:
            raise EditError(f"{path}: cannot read this reply store: {error}") from error
    return count


def _logs(folder: str) -> list[str]:
    return _files(folder, "sqlite")


def _files(folder: str, ending: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), f"*.{ending}")))


def _open_to_read(path: str) -> sqlite3.Connection | None:
    """A log of another task; None where that has only begun it. A log on a read-only disk can be read too."""
    address = f"file:{quote(os.path.abspath(path))}?mode=ro"
    if not os.access(os.path.dirname(path) or ".", os.W_OK):
        address += "&immutable=1"
    log = sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        if _patiently(lambda: log.execute("SELECT 1 FROM sqlite_master WHERE name = 'replies'").fetchone()) is not None:
            return log
    except sqlite3.Error:
        log.close()
        raise
    log.close()
    return None


def _patiently(step: Callable[[], Any]) -> Any:
    """SQLite's own patience does not cover everything that tasks which start together do to one another's files."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if time.monotonic() > until or not re.search("locked|busy|unable to open", str(error)):
                raise
            time.sleep(0.05)


def _stands_for(one: str, other: str) -> bool:
    """Whether a reply of one client counts for another: an endpoint's name is an address, and its model is in the key.

    The key knows a checkpoint by the name of its folder alone, and of `echo` nothing.
    """
    return one == other or all("://" in name for name in (one, other))


def row(key: str, request: Request, reply: Reply) -> Row:
    """A reply as a log holds it."""
    texts = "\n".join(part for part in request.parts if isinstance(part, str))
    images = [part for part in request.parts if isinstance(part, EncodedImage)]
    return (
        key,
        datetime.now(UTC).isoformat(timespec="microseconds"),
        reply.client or "",
        request.model,
        reply.model,
        hashlib.sha256(_storable(texts).encode()).hexdigest(),
        json.dumps([image.facts for image in images]),
        json.dumps(request.parameters, sort_keys=True),
        request.attempt,
        reply.state,
        None if reply.text is None else _storable(reply.text),
        None if reply.error is None else _storable(reply.error),
        reply.prompt_tokens,
        reply.completion_tokens,
        None if reply.logprobs is None else json.dumps(reply.logprobs),
    )


def _storable(text: str) -> str:
    """Half of a surrogate pair, which JSON may escape and UTF-8 cannot hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _reply(row: Sequence[Any]) -> Reply:
    state, text, error, model, prompt_tokens, completion_tokens, logprobs, client = row
    if logprobs is not None:
        logprobs = [[(token, value) for token, value in step] for step in json.loads(logprobs)]
    return Reply(state, text, error, model, prompt_tokens, completion_tokens, logprobs, client)
