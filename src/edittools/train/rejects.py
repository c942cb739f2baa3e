"""Rows that training cannot use: counted, written down, and an error where they are too many."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from edittools.errors import EditError, RowError, TooManyFailed
from edittools.stream.run import parse_max_errors

HELD_OUT = "held-out"  # a kind of rows


class Unusable(EditError):
    """A row that cannot be used, be it that its image is damaged or that the model does not take it."""

    def __init__(self, identity: str, error: RowError) -> None:
        super().__init__(f"row {identity}: {error}", hint="`edit dedup` and `edit filter` reject such rows")
        self.identity, self.reason = identity, str(error)


class Rejects:
    """Safe to share between threads."""

    def __init__(self, max_errors: str = "0", kind: str = "") -> None:
        """max_errors: N rows, or P% of all `rows`, are tolerated. kind: of the rows. Raises UsageError."""
        parse_max_errors(max_errors)
        self.max_errors, self.rows = max_errors, 0
        self.kind = f" {kind}" if kind else ""
        self.reasons: dict[str, str] = {}  # by the row's id
        self.new: list[tuple[str, str]] = []  # what take() has not taken yet
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def add(self, identity: str, reason: str) -> None:
        with self._lock:
            if identity not in self.reasons:
                self.reasons[identity] = reason
                self.new.append((identity, reason))

    def learn(self, found: dict[str, str]) -> None:
        """Take in what other processes have found, the reasons by id."""
        with self._lock:
            self.reasons |= {identity: reason for identity, reason in found.items() if identity not in self.reasons}

    def take(self) -> list[tuple[str, str]]:
        """The rows that were rejected since the last call, with the reasons."""
        with self._lock:
            taken, self.new = self.new, []
        return taken

    def __contains__(self, identity: str) -> bool:
        return identity in self.reasons

    def __len__(self) -> int:
        return len(self.reasons)

    def check(self) -> None:
        """Raises TooManyFailed where there are more than are tolerated of `rows`."""
        value, share = parse_max_errors(self.max_errors)
        if len(self) > (value * self.rows if share else value):
            identity, reason = next(reversed(self.reasons.items()))
            raise TooManyFailed(
                f"{len(self)} of {self.rows}{self.kind} rows cannot be used, more than --max-errors {self.max_errors}; "
                f"the last: row {identity}: {reason}",
                hint="mend them, or leave them out: `edit shard --verify`; or the same command with more --max-errors",
            )

    def summary(self) -> str:
        """How many rows have which trouble."""
        kinds = Counter(reason.partition(":")[0] for reason in self.reasons.values())
        return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
