"""What a process needs of every row and cannot hold: in temporary files that are mapped into memory.

The architecture keeps of them what it has room for. They lie in TMPDIR, have no names, and are gone with the last
process that has them open. The processes of a machine share them: one makes a file, the others open it by way of /proc.
Where an architecture has none (macOS), the file has a name as long as its maker holds it.
"""

from __future__ import annotations

import bisect
import itertools
import mmap
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import EditError

if TYPE_CHECKING:
    from edittools.train.parallel import Parallel

T = TypeVar("T")
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1 << 14, 64 << 20  # of columns that are written together


DESCRIPTORS = "/proc/{}/fd"  # of a process, by its number


def temporary() -> Any:
    """A file that is gone with the last process that has it open, or where there is no /proc with its maker's object.

    Raises EditError.
    """
    try:
        if os.path.isdir(DESCRIPTORS.format(os.getpid())):
            return tempfile.TemporaryFile(prefix="edittools-")
        return tempfile.NamedTemporaryFile(prefix="edittools-")
    except OSError as error:
        raise no_room(error) from error


class Unnamed:
    """A temporary file, mapped into memory; pickled it is where other processes of the machine find it as long as this
    one has it open."""

    def __init__(self, file: Any) -> None:
        """file: see temporary(), or what another process has of it."""
        self.file = file
        facts = os.fstat(file.fileno())
        there = f"{DESCRIPTORS.format(os.getpid())}/{file.fileno()}"
        path = there if os.path.exists(there) else str(file.name)
        self.place = path, facts.st_dev, facts.st_ino, facts.st_size
        self.data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if facts.st_size else b""

    @classmethod
    def found(cls, path: str, device: int, inode: int, size: int) -> Unnamed:
        """Raises OSError where it is another file, of another machine's process say, or none."""
        file = open(path, "rb")  # for as long as the process has it
        facts = os.fstat(file.fileno())
        if (facts.st_dev, facts.st_ino, facts.st_size) != (device, inode, size):
            raise FileNotFoundError(path)
        return cls(file)

    def __reduce__(self) -> Any:
        return Unnamed.found, self.place


class Array:
    """A numpy array in a file that nobody else sees."""

    def __init__(self, values: np.ndarray) -> None:
        """Raises EditError where there is no room for it."""
        file = temporary()
        try:
            file.write(np.ascontiguousarray(values).view(np.uint8).data)  # tofile() tells of no full disk
            file.flush()
        except OSError as error:
            raise no_room(error) from error
        self.dtype, self.shape, self.file = values.dtype, values.shape, Unnamed(file)

    @property
    def values(self) -> np.ndarray:
        return np.frombuffer(self.file.data, self.dtype).reshape(self.shape)


class Columns:
    """A table of Arrow columns in such a file, in pieces of some thousand rows."""

    def __init__(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
        """Raises EditError where there is no room for them."""
        file = temporary()
        try:
            with pa.ipc.new_file(pa.PythonFile(file, "w"), schema) as writer:
                for some in _together(batches):
                    for batch in pa.Table.from_batches(some, schema).combine_chunks().to_batches():
                        writer.write_batch(batch)
            file.flush()
        except OSError as error:
            raise no_room(error) from error
        pa.default_memory_pool().release_unused()  # it holds on to what the batches took
        self._open(Unnamed(file))

    def _open(self, file: Unnamed) -> None:
        self.file = file
        reader = pa.ipc.open_file(pa.py_buffer(file.data))
        batches = [reader.get_batch(k) for k in range(reader.num_record_batches)]
        self.pieces = [dict(zip(batch.schema.names, batch.columns)) for batch in batches]
        self.ends = list(itertools.accumulate(batch.num_rows for batch in batches))

    def __getstate__(self) -> Unnamed:
        return self.file

    def __setstate__(self, file: Unnamed) -> None:
        self._open(file)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def find(self, index: int) -> tuple[dict[str, pa.Array], int]:
        """The piece that a row lies in, by the names of its columns, and its place there. Raises IndexError."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = index % len(self)
        number = bisect.bisect_right(self.ends, place)
        return self.pieces[number], place - (self.ends[number - 1] if number else 0)


def _together(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if batch.num_rows:
            held.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _ROWS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield held
            held, rows, size = [], 0, 0
    if held:
        yield held


def once_a_machine(parallel: Parallel | None, make: Callable[[], T]) -> T:
    """What the first process of a machine makes, on all of its processes; what it raises all raise. Every one calls it.

    What is made is pickled. Where the processes of a machine do not see each other, each makes its own.
    """
    here = os.environ.get("LOCAL_RANK", "")
    if parallel is None or parallel.world == 1 or not here.isdigit():
        return make()
    first = parallel.rank - int(here)  # launchers number the processes of a machine in one go
    found: Any = None
    if parallel.rank == first:
        try:
            found = make()
        except Exception as error:
            found = error
    told = parallel.gather(pickle.dumps(found))[first]
    if parallel.rank != first:
        try:
            found = pickle.loads(told)
        except OSError:
            found = _or_error(make)
    parallel.wait()  # the first one has it open until all have it
    if isinstance(found, Exception):
        raise found
    return found  # type: ignore[no-any-return]


def _or_error(make: Callable[[], T]) -> T | Exception:
    try:
        return make()
    except Exception as error:
        return error


def no_room(error: OSError) -> EditError:
    return EditError(f"{tempfile.gettempdir()}: {error.strerror or error}", hint="TMPDIR names a place with more room")


def digest(name: str) -> bytes:
    """The 16 bytes that stand for a name in a Table."""
    return xxhash.xxh3_128_digest(name.encode())


class MappedTable:
    """Records by digests of 16 bytes; several may have one digest."""

    def __init__(self, kind: Any) -> None:
        """kind: the records' numpy dtype."""
        self._digests, self._records = Array(np.empty(0, "S16")), Array(np.empty(0, kind))

    @property
    def digests(self) -> np.ndarray:
        return self._digests.values

    @property
    def records(self) -> np.ndarray:
        return self._records.values

    def __len__(self) -> int:
        return len(self.digests)

    def add(self, digests: np.ndarray, records: np.ndarray) -> None:
        """Take in records and their digests (S16)."""
        digests = np.concatenate([self.digests, digests])
        order = np.argsort(digests, kind="stable")
        self._digests = Array(digests[order])
        self._records = Array(np.concatenate([self.records, records])[order])

    def find(self, digest: bytes) -> np.ndarray:
        """The records of a digest, in the order in which they were added."""
        wanted, digests = np.bytes_(digest), self.digests
        return self.records[digests.searchsorted(wanted) : digests.searchsorted(wanted, "right")]


class Contents(dict[str, str]):
    """Content hashes of images by their place. As a dictionary it holds those that are new; others are found too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = MappedTable("S1")

    def learn(self, places: list[str], contents: list[str]) -> None:
        """Take in what has been stored."""
        digests = np.array([digest(place) for place in places], "S16")
        self.table.add(digests, np.array([content.encode() for content in contents], "S"))

    def __missing__(self, place: str) -> str:
        found = self.table.find(digest(place))
        if not len(found):
            raise KeyError(place)
        return bytes(found[-1]).decode()
