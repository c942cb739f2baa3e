"""One progress bar per pipeline, drawn by the command whose output is not a pipe."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from edittools.stream.batch import Batch
from edittools.stream.ipc import Counts

_LINE_EVERY = 60.0  # seconds between lines where standard error is not a terminal
_NOTE_EVERY = 0.25  # seconds between two looks of the note behind a bar


class Progress:
    """Counts what comes out. A bar on a terminal; elsewhere a line a minute; a summary at the end."""

    def __init__(
        self,
        command: str,
        total: int | None,
        *,
        shown: bool,
        unit: str = "row",
        note: Callable[[], str] | None = None,
    ) -> None:
        """`note` says what else there is: behind the bar (`refresh` renews it), in every line and the summary."""
        self.command, self.total, self.shown, self.unit = command, total, shown, unit
        self.note = note or (lambda: "")
        self.counts = Counts()
        self.seen = 0  # units of the total, those of a pass without counts too
        self.reasons: Counter[str] = Counter()
        self.finished_before = 0  # rows of shards that an earlier run finished
        self.started = self.lined = self.noted = time.monotonic()
        self.bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=unit, desc=command, file=sys.stderr, smoothing=0.1, leave=False)

    def add(self, batch: Batch) -> None:
        self.counts.add(batch)
        for reject in batch.rejects:
            self.reasons[reject.reason] += 1
        self.step(batch.seen)

    def step(self, count: int) -> None:
        self.seen += count
        if self.bar is not None:
            self.bar.update(count)
            return
        now = time.monotonic()
        if self.shown and now - self.lined >= _LINE_EVERY:
            self.lined = now
            of = f" of {self.total}" if self.total else ""
            parts = [f"{self.seen}{of} {self.unit}s", self.note()]
            print(f"{self.command}: " + "; ".join(filter(None, parts)), file=sys.stderr, flush=True)

    def refresh(self) -> None:
        """Something that `note` tells has changed."""
        if self.bar is not None and time.monotonic() - self.noted >= _NOTE_EVERY:
            self.noted = time.monotonic()
            self.bar.set_postfix_str(self.note())
        else:
            self.step(0)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def summary(self) -> None:
        """One line: rows in and out, what fell out and why, and the speed."""
        self.close()
        if not self.shown:
            return
        seconds = max(time.monotonic() - self.started, 1e-9)
        parts = [f"{self.counts.rows} rows in", f"{self.counts.kept} out"]
        if self.reasons:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
            parts.append(f"rejected: {reasons}")
        rate = self.counts.rows / seconds
        parts.append(f"{rate:.3g} rows/s" if rate < 1000 else f"{rate:,.0f} rows/s")
        if self.finished_before:
            parts.append(f"{self.finished_before} rows in shards finished before")
        parts += filter(None, [self.note()])
        print(f"{self.command}: " + "; ".join(parts), file=sys.stderr, flush=True)
