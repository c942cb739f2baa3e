"""What was made of images once, kept by their content: vectors of embedding models, signatures.

A store is a folder of Arrow files that are mapped into memory. The name of a file begins with a digest of all that its
values depend on besides the image, which also stands inside: the model's weights, how it is run, how pixels are made.
Files are committed by renaming and never changed, so several runs may add to one store at a time.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import EditError, UsageError
from edittools.stream import codec, files
from edittools.stream.history import canonical_json, digest
from edittools.stream.ipc import arrow_errors

_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.arrow")
_FACTS = b"edit.vectors"
_FILE_ROWS = 4096  # a run that is stopped has lost no more


class VectorStore:
    """Rows of `length` numbers of one kind, each by the 32 bytes of an image file's SHA-256."""

    def __init__(self, folder: str, facts: dict[str, Any], length: int, dtype: type[np.generic] = np.float32) -> None:
        """`facts` name all that decides a row besides the image. Raises UsageError for a folder of something else, and
        EditError for a damaged file."""
        if files.is_url(folder):
            raise UsageError(f"{folder}: vectors are kept in a local folder")
        self.folder, self.length, self.dtype = folder, length, np.dtype(dtype)
        self.facts = canonical_json({**facts, "length": length, "dtype": self.dtype.name})
        self.key = digest(self.facts)[:16]
        self._places: dict[bytes, tuple[int, int]] = {}  # file and row
        self._files: list[np.ndarray] = []
        self._digests: list[bytes] = []
        self._values: list[np.ndarray] = []
        if files.exists(folder) and not files.is_dir(folder):
            raise UsageError(f"{folder}: not a folder")
        for name in files.listdir(folder):
            if not name.startswith(".") and not _NAME.fullmatch(name):
                raise UsageError(f"{folder}: not a folder of vectors: it has {name}", hint="name another one")
            if name.startswith(f"{self.key}-"):
                self._open(os.path.join(folder, name))

    def _open(self, path: str) -> None:
        hint = "delete the file: what was in it is made again"
        try:
            with arrow_errors(path), pa.memory_map(path) as data:
                table = pa.ipc.open_file(data).read_all().combine_chunks()
        except EditError as error:
            raise EditError(str(error), hint=hint) from error
        if (table.schema.metadata or {}).get(_FACTS) != self.facts.encode():
            raise EditError(f"{path}: not what it is called", hint=hint)
        wanted = pa.schema([("sha256", pa.binary(32)), ("value", pa.binary(self.length * self.dtype.itemsize))])
        if not table.schema.remove_metadata().equals(wanted):
            raise EditError(f"{path}: not what it is called", hint=hint)
        for row, one in enumerate(table["sha256"].to_pylist()):
            self._places[one] = len(self._files), row
        self._files.append(self._array(table["value"]))

    def _array(self, values: pa.ChunkedArray) -> np.ndarray:
        """The rows (n, length), as a view of the mapped file."""
        if not len(values):
            return np.zeros((0, self.length), self.dtype)
        one = values.chunk(0)
        start = one.offset * self.length
        whole = np.frombuffer(one.buffers()[1], self.dtype)
        return whole[start : start + len(one) * self.length].reshape(len(one), self.length)

    def __contains__(self, content: bytes) -> bool:
        return content in self._places

    def __getitem__(self, content: bytes) -> np.ndarray:
        file, row = self._places[content]
        return self._files[file][row]

    def add(self, contents: Iterable[bytes], values: np.ndarray) -> None:
        """Rows (n, length) of images by the digests of their files."""
        self._digests += contents
        self._values += list(np.ascontiguousarray(values, self.dtype))
        if len(self._digests) >= _FILE_ROWS:
            self.flush()

    def flush(self) -> None:
        """Commit what was added; from then on it is found."""
        new = {one: value for one, value in zip(self._digests, self._values) if one not in self._places}
        self._digests, self._values = [], []
        if not new:
            return
        contents = sorted(new)
        table = pa.table(
            {
                "sha256": pa.array(contents, pa.binary(32)),
                "value": pa.array(
                    [new[one].tobytes() for one in contents], pa.binary(self.length * self.dtype.itemsize)
                ),
            }
        ).replace_schema_metadata({_FACTS: self.facts})
        files.make_dirs(self.folder)
        path = os.path.join(self.folder, f"{self.key}-{digest(*contents)[:16]}.arrow")
        with files.atomic(path) as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        self._open(path)


def of_pixels(raster: codec.Raster, **more: Any) -> dict[str, Any]:
    """The facts of what is made of an image's pixels by this program."""
    decoders = {name: _version(name) for name in ("pillow", "pillow-heif", "pillow-avif-plugin", "pillow-jxl-plugin")}
    return {"raster": repr(raster), "codec": codec.VERSION, **decoders, **more}


def of_embedder(model: Any, device: str, dtype: str, raster: codec.Raster) -> dict[str, Any]:
    """The facts of a model's vectors of images that are decoded to `raster`."""
    libraries = {name: _version(name) for name in ("torch", "transformers")}
    placed = {"device": device.partition(":")[0], "dtype": dtype}  # one card is as good as the next
    own = {"model": type(model).__name__, "version": getattr(model, "VERSION", 1), "weights": model.revision}
    return of_pixels(raster, **own, **placed, **libraries)


@functools.cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
