"""How many rows the files have that an array's tasks cut into shards: each is counted once, and the others are told.

What is known stands in the names of small files, `_counts/KEY.ROWS` in the output folder. KEY names a file of the input
as it is now: where it stands among the inputs, its size and mtime or the store's etag. So a file that changes is
counted anew, and two tasks that count the same one write the same name. The content is the file's history, if any, and
before it, where shards are cut by bytes, how many bytes of images each row has, eight bytes for each. The task that
completes the set removes the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from edittools.errors import DamagedError, EditError
from edittools.stream import files
from edittools.stream.history import History, digest
from edittools.stream.input_reader import DamagedReader, InputReader, Part
from edittools.stream.readers.tar import TarFileReader

COUNTS = "_counts"
_VERSION = 1  # of how rows are counted
_LOOK_AGAIN = 1.0  # seconds after which others may have counted more
_WITH_HISTORY = ".history"


@dataclass(frozen=True)
class _Known:
    """Rows, history and image sizes of a file, counted once."""

    rows: int
    history: History
    sizes: np.ndarray | None = None  # bytes of images per row


class Counted:
    """A file that is opened only by the tasks that read rows of it, or to count its rows."""

    renamed = True
    rows: int
    history: History

    def __init__(
        self, name: str, label: str, tags: tuple[str, ...], open_reader: Callable[[], InputReader | None]
    ) -> None:
        """`tags` say which version of the file it is; `open_reader` makes None of what is part of another file."""
        self.name, self.label, self.tags, self.open_reader = name, label, tags, open_reader
        self.several = self.by_size = False
        self.sizes: np.ndarray | None = None
        self.damage: DamagedError | None = None

    def key(self) -> str:
        kind = "sizes" if self.by_size else "rows"
        return digest(kind, str(_VERSION), str(self.several), self.label, *self.tags)

    @cached_property
    def opened(self) -> InputReader | None:
        try:
            reader = self.open_reader()
        except DamagedError as error:
            self.damage = error
            return DamagedReader(self.name, self.label, str(error))
        if self.several and isinstance(reader, TarFileReader):
            reader.beside_others()
        return reader

    @property
    def reader(self) -> InputReader:
        """The file's reader. Raises EditError where its rows are not the ones that were counted."""
        reader = self.opened
        if reader is None or reader.rows != self.rows:
            raise EditError(f"{self.name}: the file changed while it was read", hint="run the command again")
        return reader

    @property
    def schema(self) -> pa.Schema:
        return self.reader.schema

    @property
    def digest(self) -> str:
        return self.reader.digest

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        return self.reader.read(start, stop, batch_rows)

    def row_sizes(self) -> np.ndarray:
        return self.sizes if self.sizes is not None else self.reader.row_sizes()


class RowCounts:
    """Counts that the tasks of an array share."""

    def __init__(self, output: str, task: tuple[int, int], by_size: bool = False) -> None:
        """`output` is the folder of the set that they make together; `by_size`, whether it is cut by bytes."""
        self.folder, self.task, self.by_size = files.join(output, COUNTS), task, by_size
        self._known: dict[str, str] = {}
        self._looked = float("-inf")

    def count(self, readers: list[Counted]) -> None:
        """Let every input know its rows and its history. Tasks that begin together begin with different files.

        Raises DamagedError where all of them are damaged.
        """
        first = len(readers) * self.task[0] // self.task[1]
        for reader in readers[first:] + readers[:first]:
            reader.by_size = self.by_size
            known = self._get(reader.key())
            if known is None:
                known = self._counted(reader.opened)
                if reader.damage is None:  # of which every task has to say why
                    self._put(reader.key(), known)
            reader.rows, reader.history, reader.sizes = known.rows, known.history, known.sizes
        damaged = [reader.damage for reader in readers if reader.damage is not None]
        if damaged and len(damaged) == len(readers):
            raise damaged[0]

    def _counted(self, reader: InputReader | None) -> _Known:
        if reader is None:
            return _Known(0, History(), np.zeros(0, np.int64) if self.by_size else None)
        return _Known(reader.rows, reader.history, reader.row_sizes() if self.by_size else None)

    def _get(self, key: str) -> _Known | None:
        if time.monotonic() - self._looked > _LOOK_AGAIN:
            found = (name.partition(".") for name in files.listdir(self.folder))
            self._known = {known: rest for known, _, rest in found}
            self._looked = time.monotonic()
        said = self._known.get(key)
        if said is None:
            return None
        rows = int(said.removesuffix(_WITH_HISTORY))
        content = b""
        if self.by_size or said.endswith(_WITH_HISTORY):
            content = files.read_bytes(files.join(self.folder, f"{key}.{said}"))
        sizes = np.frombuffer(content[: 8 * rows], "<i8") if self.by_size else None
        noted = content[8 * rows if self.by_size else 0 :]
        return _Known(rows, History.from_json(noted) if noted else History(), sizes)

    def _put(self, key: str, known: _Known) -> None:
        sizes = known.sizes.astype("<i8").tobytes() if known.sizes is not None else b""
        noted, ending = (known.history.to_json().encode(), _WITH_HISTORY) if known.history.nodes else (b"", "")
        files.write_bytes(files.join(self.folder, f"{key}.{known.rows}{ending}"), sizes + noted)
