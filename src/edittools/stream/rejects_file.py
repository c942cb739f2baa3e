"""The one file of rejects that a run writes where nobody keeps them by shards."""

from __future__ import annotations

from edittools.errors import UsageError
from edittools.stream import files
from edittools.stream.batch import Reject


class RejectsFile:
    """`--rejects FILE`: one JSON line per row that fell out, under its name only when the run has ended."""

    def __init__(self, path: str | None, overwrite: bool) -> None:
        self.pending = None
        if path is not None:
            if path == "-":
                raise UsageError("--rejects -: name a file; standard output is for the rows")
            path = files.local(path)
            files.refuse_existing(path, overwrite)
            self.pending = files.AtomicFile(path)

    def write(self, rejects: list[Reject]) -> None:
        if self.pending is not None:
            with files.writing(self.pending.path):
                for reject in rejects:
                    self.pending.file.write(reject.line())

    def commit(self) -> None:
        if self.pending is not None:
            self.pending.commit()

    def abort(self) -> None:
        if self.pending is not None:
            self.pending.discard()
