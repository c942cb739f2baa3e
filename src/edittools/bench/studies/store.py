"""The answers of a study that is served: an SQLite file, one committed row per rater and case.

A row is on the disk before the rater's page calls it saved, and a second answer to a case replaces the first.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from edittools.errors import EditError, describe

CLAIM_SECONDS = 30 * 60
"""So long a case that was given out, and not answered, is not given to another."""

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
  study TEXT NOT NULL, rater TEXT NOT NULL, number INTEGER NOT NULL, answer TEXT NOT NULL, complete INTEGER NOT NULL,
  PRIMARY KEY (rater, number));
CREATE TABLE IF NOT EXISTS tabs (rater TEXT PRIMARY KEY, tab TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS claims (
  rater TEXT NOT NULL, number INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (rater, number));
"""


class OtherTab(Exception):
    """The rater has gone on in another tab since."""


class AnswerStore:
    """The file. Its methods may be called from any thread; each is one transaction. Raises EditError."""

    def __init__(self, path: str, study: str, cases: int) -> None:
        self.path, self.study, self.cases = path, study, cases
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
            other = self._db.execute("SELECT study FROM answers WHERE study <> ? LIMIT 1", (study,)).fetchone()
        except sqlite3.Error as error:
            raise EditError(f"{path}: {describe(error)}") from error
        if other is not None:
            raise EditError(f"{path}: holds answers of another study ({other[0]}, not {study})")

    def close(self) -> None:
        self._db.close()

    def begin(self, rater: str, tab: str) -> dict[str, Any]:
        """A rater's answers by case, for the tab that is theirs from now on."""
        with self._lock, self._db:
            self._db.execute("INSERT OR REPLACE INTO tabs VALUES (?, ?)", (rater, tab))
            found = self._db.execute("SELECT number, answer FROM answers WHERE rater = ? ORDER BY rowid", (rater,))
            return {str(number): json.loads(answer) for number, answer in found}

    def save(self, rater: str, tab: str, number: int, answer: Mapping[str, Any], complete: bool) -> None:
        """Commit an answer, with this machine's time of the rater's first complete one to the case as `first`, whatever
        the page's clock says. Raises OtherTab where it is not from the rater's last tab."""
        with self._lock, self._db:
            self._check(rater, tab)
            known = self._db.execute(
                "SELECT answer, complete FROM answers WHERE rater = ? AND number = ?", (rater, number)
            ).fetchone()
            before = json.loads(known[0]) if known else {}
            # of a file that an earlier version wrote the page's time is all there is
            first = before.get("first") or (before.get("at") if known and known[1] else None)
            answer = {name: value for name, value in answer.items() if name != "first"}
            if first or complete:
                answer["first"] = first or datetime.now(UTC).isoformat().replace("+00:00", "Z")
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)",
                (self.study, rater, number, json.dumps(answer, ensure_ascii=False), complete),
            )

    def give(
        self, rater: str, tab: str, each: int, undecided: Callable[[dict[str, dict[str, Any]]], list[int]]
    ) -> tuple[int | None, int]:
        """A case for a rater, None if there is none at the moment; and how many wait for somebody.

        What the rater was given before comes first. Then cases that fewer than `each` have, those that some have
        first; then, of those that as many have answered, the ones that are `undecided` (told rater -> case -> answer).
        Raises OtherTab.
        """
        with self._lock, self._db:
            self._check(rater, tab)
            said: dict[str, dict[str, Any]] = defaultdict(dict)
            mine: set[int] = set()
            done: Counter[int] = Counter()
            for who, number, answer, complete in self._db.execute(
                "SELECT rater, number, answer, complete FROM answers ORDER BY rowid"
            ):
                if complete:
                    said[who][str(number)] = json.loads(answer)
                    done[number] += 1
                    if who == rater:
                        mine.add(number)
            since = time.time() - CLAIM_SECONDS
            claimed = [
                (who, number)
                for who, number in self._db.execute("SELECT rater, number FROM claims WHERE at > ?", (since,))
                if str(number) not in said.get(who, {})
            ]
            held = done + Counter(number for who, number in claimed if who != rater)
            open_here = [number for who, number in claimed if who == rater]
            third = set(undecided(said))
            wanted = [
                n
                for n in range(self.cases)
                if n not in mine and (held[n] < each or (n in third and held[n] == done[n]))
            ]
            left = sum(done[n] < each or n in third for n in range(self.cases) if n not in mine)
            wanted.sort(key=lambda n: (n in third, -held[n], _mixed(self.study, rater, n)))
            chosen = next(iter([*(n for n in open_here if n in wanted), *wanted]), None)
            if chosen is not None:
                self._db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (rater, chosen, time.time()))
            return chosen, left

    def _check(self, rater: str, tab: str) -> None:
        found = self._db.execute("SELECT tab FROM tabs WHERE rater = ?", (rater,)).fetchone()
        if found is None or found[0] != tab:
            raise OtherTab


def _mixed(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()
