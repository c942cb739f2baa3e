"""Files that were cut into parts for a hub (`x.tar.split.000`, `x.tar.gz.part-aa`), read as the file that they were."""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from edittools.errors import EditError
from edittools.stream import files

_PART = re.compile(
    r"^(?P<stem>.+\.(?:tar|tgz|zip|tar\.(?:gz|zst|bz2|xz)))"
    r"\.(?:(?:split\.|part-?)(?P<named>\d+|[a-z]{2,})|(?P<bare>\d+|[a-c][a-z]))$"
)


def split_part(name: str) -> tuple[str, str] | None:
    """The name of the whole file and the part of one that is a part of it; None for any other file.

    >>> split_part("add_part1.tar.split.003")
    ('add_part1.tar', '003')
    """
    match = _PART.match(name)
    return (match["stem"], match["named"] or match["bare"]) if match is not None else None


def whole_files(names: Iterable[str]) -> dict[str, list[str]]:
    """The parts of every file that was cut, in their order, by its own name. Raises EditError where one is missing."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        if (split := split_part(name)) is not None:
            parts.setdefault(split[0], []).append((split[1], name))
    wholes = {}
    for stem, held in parts.items():
        held.sort(key=lambda item: (int(item[0]) if item[0].isdecimal() else 0, item[0]))
        _refuse_gaps(stem, [part for part, _ in held])
        wholes[stem] = [name for _, name in held]
    return wholes


def parts_of(path: str) -> list[str]:
    """The files of which one is a part, or the file alone. Raises EditError where a part between others is missing."""
    folder, name = os.path.split(path)
    split = split_part(name)
    if split is None or files.is_url(path):
        return [path]
    beside = [other for other in files.listdir(folder or ".") if (split_part(other) or ("",))[0] == split[0]]
    if len(beside) < 2:
        return [path]
    return [os.path.join(folder, part) for part in whole_files(beside)[split[0]]]


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file, or the whole of which it is a part, to read from any place."""
    parts = parts_of(path)
    with files.open_read(path) if len(parts) == 1 else io.BufferedReader(Joined(parts)) as file:
        yield file


def etag(path: str) -> str:
    """The tag of a file, or the tags of all parts of which it is one."""
    return " ".join(map(files.etag, parts_of(path)))


def _refuse_gaps(stem: str, parts: list[str]) -> None:
    """Raises EditError where the parts of a file are not all of those from the first to the last."""
    numbers = [_number(part) for part in parts]
    first = min(numbers[0], 1) if parts[0].isdecimal() else 0  # some count from 1
    wanted = next((n for n, number in enumerate(numbers, first) if number != n), None)
    if wanted is not None:
        raise EditError(
            f"{stem}: its parts are {', '.join(parts[:8])}{', ...' if len(parts) > 8 else ''}: number {wanted} is "
            "missing, or there twice",
            hint="download it again, or join the parts yourself: cat PARTS > FILE",
        )


def _number(part: str) -> int:
    """The number that digits or letters stand for: 3 for `003` and for `ad`."""
    if part.isdecimal():
        return int(part)
    number = 0
    for sign in part:
        number = number * 26 + ord(sign) - ord("a")
    return number


class Joined(io.RawIOBase):
    """The parts of a file as one, which can be read from any place."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.readers = [files.RangeReader(path) for path in paths]
        self.tags = [reader.etag() for reader in self.readers]
        self.ends = list(itertools.accumulate(map(files.size, paths)))
        self.position = 0

    def place(self, offset: int, length: int) -> tuple[str, int, str] | None:
        """The part that holds a whole range, where in it the range begins, and the part's tag; None: it is in two."""
        number = bisect.bisect_right(self.ends, offset)
        if number == len(self.ends) or offset + length > self.ends[number]:
            return None
        return self.paths[number], offset - (self.ends[number - 1] if number else 0), self.tags[number]

    def at(self, offset: int, length: int) -> bytes:
        """Bytes from a place on; fewer where the last part ends."""
        data = b""
        for number in range(bisect.bisect_right(self.ends, offset), len(self.ends)):
            first = self.ends[number - 1] if number else 0
            start = max(offset - first, 0)
            data += self.readers[number].read(start, min(length - len(data), self.ends[number] - first - start))
            if len(data) == length:
                break
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.ends[-1]}[whence]
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        data = self.at(self.position, len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def close(self) -> None:
        for reader in self.readers if not self.closed else ():
            reader.close()
        super().close()
