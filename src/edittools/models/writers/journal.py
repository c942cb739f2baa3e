"""Notes that outlive a kill, for what a commit brings to disk some milliseconds later.

What a process has written to memory that is mapped to a file belongs to the system, whatever becomes of the process;
and unlike a write it costs no switch to another thread. Only a power cut can take it, or leave half of it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import zlib
from collections.abc import Iterator
from typing import Any

_HALF = 1 << 18  # bytes


class Journal:
    """JSON values in a file of two halves: one is written to while what the other notes is committed.

    A note is a line with its checksum; a zero byte ends a half.
    """

    def __init__(self, path: str) -> None:
        """Begin an empty one, in a new file: another process may have the old one mapped. Raises OSError."""
        self.path = path
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with open(path, "w+b") as file:
            file.write(bytes(2 * _HALF))  # a full disk is to fail here: in mapped memory it would end the process
            file.flush()
            self.memory = mmap.mmap(file.fileno(), 2 * _HALF)
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
        """The file stays where it holds something."""
        empty = not self.memory[0] and not self.memory[_HALF]
        self.memory.close()
        if empty:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)


def read_journal(path: str) -> Iterator[Any]:
    """What the journal of a process that died, or still runs, notes. Raises OSError."""
    with open(path, "rb") as file:
        content = file.read(2 * _HALF)
    for half in (content[:_HALF], content[_HALF:]):
        for line in half.partition(b"\0")[0].splitlines():
            if line[:9] != b"%08x " % zlib.crc32(line[9:]):
                break
            yield json.loads(line[9:])
