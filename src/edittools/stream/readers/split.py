"""Tars, compressed tars and zip archives that were cut into parts: named by any of these, read as what they were."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from edittools.errors import EditError
from edittools.stream import files
from edittools.stream.input_reader import reference
from edittools.stream.joined import Joined, parts_of, split_part
from edittools.stream.mapping import Mapping
from edittools.stream.readers import archive
from edittools.stream.readers.tar import TarFileReader
from edittools.stream.samples import Read
from edittools.stream.tar import Member


def claim(path: str, head: bytes) -> int:
    return 5 if len(parts_of(path)) > 1 else 0


def open_file(path: str, label: str | None, mapping: Mapping) -> TarFileReader:
    parts = parts_of(path)
    label = label or os.path.basename(path)
    split = split_part(label)
    label = split[0] if split is not None else label
    with files.open_read(parts[0]) as file:
        packed = archive.is_packed(file.read(8))
    return archive.ArchiveReader(parts[0], label, mapping) if packed else SplitTarReader(parts, label, mapping)


class SplitTarReader(TarFileReader):
    """A plain tar in parts. An image that lies in two of them comes as its bytes."""

    def __init__(self, parts: list[str], label: str | None, mapping: Mapping) -> None:
        self.parts = parts
        self.tags = [files.etag(part) for part in parts]
        super().__init__(parts[0], label, mapping)
        self.tag = " ".join(self.tags)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Read]:
        with contextlib.closing(Joined(self.parts)) as whole:
            if whole.tags != self.tags:
                raise EditError(
                    f"{self.name}: a part changed while it was read",
                    hint="run the command again when nothing writes to it",
                )
            self.joined = whole
            yield whole.at

    def image(self, member: Member, facts: dict[str, Any]) -> dict[str, Any]:
        known = {name: facts.get(name) for name in ("width", "height", "format")}
        found = self.joined.place(member.offset, member.size)
        if found is None:
            return reference(bytes=self.joined.at(member.offset, member.size), **known)
        path, offset, tag = found
        return reference(file=path, offset=offset, length=member.size, etag=tag, **known)
