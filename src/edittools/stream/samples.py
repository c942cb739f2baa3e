"""The rows of a tar: which of its entries make one, kept in few bytes."""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from edittools.stream.packed import Packed
from edittools.stream.tar import Member

_PLACE = struct.Struct("<QQ")  # of a file in the tar: offset and size
_COUNT = struct.Struct("<I")

Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Sample:
    """The files of a tar that make one row, by their endings; or why there is none."""

    key: str
    files: tuple[tuple[str, Member], ...]
    reason: str | None = None
    value: Any = None
    failed: bool = True

    def pack(self) -> bytes:
        """As bytes: where its files lie, then their endings and the key, joined by slashes, which no ending holds."""
        if self.reason is not None:
            return _COUNT.pack(0) + json.dumps([self.key, self.reason, self.value, self.failed]).encode()
        places = b"".join(_PLACE.pack(member.offset, member.size) for _, member in self.files)
        names = "/".join([*(ending for ending, _ in self.files), self.key])
        return _COUNT.pack(len(self.files)) + places + names.encode("utf-8", "surrogatepass")

    @classmethod
    def unpack(cls, data: bytes) -> Sample:
        (count,) = _COUNT.unpack_from(data)
        if not count:
            key, reason, value, failed = json.loads(data[_COUNT.size :])
            return cls(key, (), reason, value, failed)
        end = _COUNT.size + count * _PLACE.size
        *endings, key = data[end:].decode("utf-8", "surrogatepass").split("/", count)
        places = _PLACE.iter_unpack(data[_COUNT.size : end])
        return cls(key, tuple((e, Member(f"{key}.{e}", at, size)) for e, (at, size) in zip(endings, places)))


class Samples:
    """The samples of a tar in the order in which they begin: 16 bytes of memory each, the rest packed.

    Files of one key make a sample, wherever they stand; a second file of the same ending begins another one.
    """

    def __init__(self) -> None:
        self._packed = Packed()
        self._order: np.ndarray | None = None  # which of the packed there are; None: all as they come
        self._keys = array("Q")  # while they are gathered: what tells files of one key that do not stand together
        self._marks = array("Q")
        self._key, self._files, self._mark = "", dict[str, Member](), xxhash.xxh3_64()

    def __len__(self) -> int:
        return len(self._packed) if self._order is None else len(self._order)

    def __getitem__(self, number: int) -> Sample:
        return Sample.unpack(self._packed[number if self._order is None else int(self._order[number])])

    def __iter__(self) -> Iterator[Sample]:
        return (self[k] for k in range(len(self)))

    def marks(self, start: int, stop: int) -> np.ndarray:
        """64 bits per sample that are others where its entries are."""
        marks = np.frombuffer(self._marks, np.uint64)
        return marks[start:stop] if self._order is None else marks[self._order[start:stop]]

    def add(self, key: str, ending: str, member: Member, mark: bytes = b"") -> None:
        """One file. `mark` is what tells its entry from others of the same name."""
        if key != self._key or ending in self._files:
            self.close()
            self._key = key
        self._files[ending] = member
        self._mark.update(mark)

    def add_whole(self, sample: Sample, mark: bytes = b"") -> None:
        """One that others do not belong to."""
        self.close()
        key = xxhash.xxh3_64_intdigest(f"\0{len(self._packed)}".encode())  # no other sample's
        self._append(sample, key, xxhash.xxh3_64_intdigest(_PLACE.pack(len(self._packed), 0) + sample.pack() + mark))

    def _append(self, sample: Sample, key: int, mark: int) -> None:
        self._packed.append(sample.pack())
        self._keys.append(key)
        self._marks.append(mark)

    def close(self) -> None:
        """End the sample that came last: what follows is another one's."""
        if self._files:
            key = xxhash.xxh3_64_intdigest(self._key.encode("utf-8", "surrogatepass"))
            self._append(Sample(self._key, tuple(self._files.items())), key, self._mark.intdigest())
        self._files, self._mark = {}, xxhash.xxh3_64()

    def break_off(self, name: str, why: str, read: Read) -> None:
        """The tar `name` ends too early, which is a sample that failed. The last one stays where it is whole as far as
        can be told: its files are there, and those that the one before it has."""
        before = {ending for ending, _ in self[len(self) - 1].files} if len(self) else set[str]()
        ends = (read(member.offset + member.size - 1, 1) for member in self._files.values() if member.size)
        if self._files and not (before <= self._files.keys() and all(ends)):
            why, self._files = f"{why}, inside {self._key}", {}
        self.add_whole(Sample(name, (), "tar cut off", why))

    def finish(self) -> Samples:
        """No more come: those that did not stand together are joined."""
        self.close()
        keys = np.frombuffer(self._keys, np.uint64)
        self._keys = array("Q")
        order = np.argsort(keys, kind="stable")
        again = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        if not len(again):
            return self
        place = np.arange(len(keys))
        several = order[np.union1d(again, again + 1)]  # by key, each key's in the order of the tar
        for run in np.split(several, np.flatnonzero(np.diff(keys[several])) + 1):
            self._join([int(number) for number in run], place)
        self._order = place[place >= 0]
        return self

    def _join(self, numbers: list[int], place: np.ndarray) -> None:
        """Make samples anew of those of one key; `place` says then where what begins at each now is, -1: nowhere."""
        begun: list[tuple[int, dict[str, Member], int]] = []
        for number in numbers:
            place[number] = -1
            sample, mark = Sample.unpack(self._packed[number]), self._marks[number]
            for ending, member in sample.files:
                if not begun or ending in begun[-1][1]:
                    begun.append((number, {}, len(begun)))  # equal ones are told apart
                first, held, marks = begun[-1]
                held[ending] = member
                begun[-1] = first, held, marks
            first, held, marks = begun[-1]
            begun[-1] = first, held, xxhash.xxh3_64_intdigest(_PLACE.pack(marks, mark))
        key = sample.key
        for times, (first, held, marks) in enumerate(begun, 1):
            place[first] = len(self._packed)
            named = key if times == 1 else f"{key}#{times}"
            self._packed.append(Sample(named, tuple(held.items())).pack())
            self._marks.append(marks)
