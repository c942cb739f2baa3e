"""Whether a failure is one request's or the run's: what fails for all must not be asked, and paid, a thousand times."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from edittools.errors import EditError
from edittools.vlm import Reply

ALIKE = 10  # requests that fail for one reason, with no answer to any other, before a run is given up
_REASONS = 200  # that are told apart

Item = tuple[Any, Reply]
"""Tag and reply."""


def alike(error: str) -> str:
    """A reason without what is peculiar to one call: numbers and identifiers."""
    return re.sub(r"\b(?=\w*\d)[\w-]{4,}\b|\d+", "#", error)


@dataclass
class Reasons:
    """How often there was no answer, by state and reason."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, reply: Reply) -> None:
        if reply.state == "ok":
            return
        error = reply.error or reply.text or ""
        key = reply.state, alike(error)
        if key not in self.counts and len(self.counts) >= _REASONS:
            key, error = (reply.state, ""), "other reasons"
        self.counts[key] += 1
        self.examples.setdefault(key, error)

    def most_frequent(self, count: int) -> list[tuple[int, str, str]]:
        """(how often, state, an example)."""
        return [(times, key[0], self.examples[key]) for key, times in self.counts.most_common(count)]


class HeldBack:
    """Holds failures back until another request is answered: then they are their requests' own.

    With no answer yet, `ALIKE` requests that fail for one reason end the run. So does, where there are fewer in all, a
    reason that is probably none of the requests' (`Reply.everywhere`), and `ALIKE` in a row for such a one later on.
    """

    def __init__(self, name: str) -> None:
        """`name` of the backend, for the message."""
        self.name = name
        self.works = False  # some request was answered, in this run or in an earlier one
        self.reason = ""
        self.held: dict[str, list[Item]] = {}  # by the request's key: one that is asked for twice failed once
        self.alike: set[str] = set()  # keys of what failed for this reason since the last answer

    def take(self, key: str, tag: Any, reply: Reply) -> list[Item]:
        """Replies that can be handed on now. Raises EditError where the run is to stop."""
        if reply.state != "failed":
            self.works = True
            self.alike.clear()
            return [*self._release(), (tag, reply)]
        if self.works and reply.everywhere is None:
            return [(tag, reply)]
        reason = alike(reply.error or "")
        free: list[Item] = []
        if reason != self.reason:
            free = self._release()
            self.alike.clear()
        self.reason = reason
        self.held.setdefault(key, []).append((tag, reply))
        self.alike.add(key)
        if len(self.alike) >= ALIKE:
            raise self._given_up([reply], len(self.alike))
        return free

    def finish(self) -> list[Item]:
        """Replies held back until the end, or until whoever asks waits for them. Raises EditError where none of them
        failed by its own request.
        """
        held = self._release()
        replies = [reply for _, reply in held]
        if held and not self.works and all(reply.everywhere is not None for reply in replies):
            raise self._given_up(replies, len(held))
        return held

    def _release(self) -> list[Item]:
        held, self.held = self.held, {}
        return [item for items in held.values() for item in items]

    def _given_up(self, replies: list[Reply], count: int) -> EditError:
        which = "last" if self.works else "first"
        many = f"the {which} {count} requests failed alike: " if count > 1 else ""
        return EditError(f"{self.name}: {many}{replies[0].error}", hint=replies[0].everywhere)
