"""Notes that outlive a kill, for what a commit brings to disk some milliseconds later.

What a process has written to memory that is mapped to a file belongs to the system, whatever becomes of the process;
and unlike a write it costs no switch to another thread. Only a power cut can take it, or leave half of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any

_HALF = 1 << 18  # bytes


class Journal:
    """JSON values in a file of two halves: one is written to while what the other notes is committed.

    A note is a line with its checksum; a zero byte ends a half.
    """

    def __init__(self, folder: str, name: str) -> None:
        """Begin an empty one, in a file of its own: `NAME-????????.journal`. Raises OSError."""
        number, made = tempfile.mkstemp(".new", f"{name}-", folder)
        self.file = open(number, "r+b")
        self.file.write(bytes(2 * _HALF))  # a full disk is to fail here: in mapped memory it would end the process
        self.file.flush()
        self.memory = mmap.mmap(number, 2 * _HALF)
        with contextlib.suppress(OSError):  # a file system without locks: then nobody else takes the notes either
            fcntl.flock(self.file, fcntl.LOCK_EX)  # for as long as this process lives
        self.path = made.removesuffix(".new") + ".journal"
        os.rename(made, self.path)
        self.start = self.used = 0

    def note(self, value: Any) -> bool:
        """False where there is no room for it."""
        text = json.dumps(value).encode()
        line = b"%08x %b\n\0" % (zlib.crc32(text), text)
        if self.used + len(line) > _HALF:
            return False
        end = self.start + self.used
        self.memory[end : end + len(line)] = line
        self.used += len(line) - 1  # the next line replaces the zero
        return True

    def turn(self) -> bool:
        """From now on write to the other half. False where that still holds something: it stays so."""
        if self.memory[_HALF - self.start]:
            return False
        self.start, self.used = _HALF - self.start, 0
        return True

    def clear(self) -> None:
        """Forget the half that is not written to."""
        self.memory[_HALF - self.start] = 0

    def close(self) -> None:
        """Close the journal; delete the file if it is empty."""
        empty = not self.memory[0] and not self.memory[_HALF]
        self.memory.close()
        if empty:
            os.unlink(self.path)
        self.file.close()


@contextlib.contextmanager
def left_journal(path: str) -> Iterator[list[Any]]:
    """What a process that died has noted; the file is removed when the block ends well.

    Nothing where the process still runs, another one reads the journal now, or it is not ours to read.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "r+b"))  # NFS locks only what may be written to
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield []
            return
        yield list(notes(file.read(2 * _HALF)))
        with contextlib.suppress(FileNotFoundError):  # another task has taken them too
            os.unlink(path)


def notes(content: bytes) -> Iterator[Any]:
    """The notes in the bytes of a journal, as far as they are whole."""
    for half in (content[:_HALF], content[_HALF:]):
        for line in half.partition(b"\0")[0].splitlines():
            if line[:9] != b"%08x " % zlib.crc32(line[9:]):
                break
            yield json.loads(line[9:])
