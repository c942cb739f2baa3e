"""Objects for processes of their own, in a module that imports fast."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edittools.errors import EditError, RowError, UsageError


class Thing:
    def __init__(self, number: int) -> None:
        if number < 0:
            raise UsageError("below 0", hint="say more")
        self.number = number

    def add(self, more: int) -> tuple[int, int]:
        return self.number + more, os.getpid()

    def fail(self, how: str) -> None:
        if how == "edit":
            raise EditError("not so", hint="but so")
        if how == "odd":
            raise Odd(1, 2)
        raise LookupError("nowhere")

    def rows(self) -> list[Exception]:
        return [RowError("too long", 7)]


class Odd(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


@dataclass
class Told:
    samples: int
    more: bool


class Piecewise:
    """Work that is asked for piece by piece, of `pieces`; at the `dies`-th its process ends."""

    def __init__(self, path: Path, dies: int, pieces: int = 10_000) -> None:
        self.path, self.dies, self.pieces, self.done = path, dies, pieces, 0

    def some(self) -> Told:
        self.done += 1
        if self.done == self.dies:
            os._exit(7)
        return Told(int(self.done <= self.pieces), self.done <= self.pieces)

    def finish(self) -> None:
        self.path.write_text("stored")
