"""Local paths and fsspec URLs behind a few functions; every write is a temporary file, flushed, renamed."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob as globbing
import io
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, BinaryIO

from edittools.errors import EditError
from edittools.stream import remote

TEMPORARY = ".tmp-"  # every unfinished file's name starts so; readers never look at such names
NOTHING = "!"  # what an etag starts with that says why there is nothing to read: `!missing file`
MISSING = f"{NOTHING}missing file"
STDOUT = "standard output"
_ABANDONED = 86400.0  # seconds
_BUFFER = 64 << 10


def leads_out(path: str) -> bool:
    """Whether a path that is to be inside a folder is not: absolute, or by way of a parent."""
    return os.path.isabs(path) or ".." in PurePath(path).parts


def is_url(path: str) -> bool:
    return "://" in path


def local(path: str) -> str:
    """A `file://` address as the path it is, so that one place has one name; everything else as it stands."""
    return path.removeprefix("file://localhost" if path.startswith("file://localhost/") else "file://")


def real(path: str) -> str:
    """The one name of a place: without links and `file://`; an address of a store as it stands."""
    path = local(path)
    return path.rstrip("/") if is_url(path) else os.path.realpath(path)


@functools.cache
def _filesystem(protocol: str) -> Any:
    try:
        import fsspec
    except ImportError as error:  # pragma: no cover - fsspec is a dependency
        raise EditError(f"cannot read {protocol}:// addresses: {error}") from error
    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        extra = {"s3": "s3"}.get(protocol)
        hint = f"pip install 'edittools[{extra}]'" if extra else None
        raise EditError(f"cannot open {protocol}:// addresses: {error}", hint) from error


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path inside it."""
    protocol, _, _ = url.partition("://")
    system = _filesystem(protocol)
    return system, system._strip_protocol(url)


def join(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names]) if is_url(folder) else os.path.join(folder, *names)


def _on_the_web(path: str) -> bool:
    """Whether fsspec would fetch the whole of an address in order to learn what is there."""
    return path.startswith(("http://", "https://"))


def exists(path: str) -> bool:
    if is_url(path):
        system, inner = filesystem(path)
        if _on_the_web(path):
            with contextlib.suppress(FileNotFoundError):
                return bool(system.info(inner))
            return False
        return bool(system.exists(inner))
    return os.path.exists(path)


def refuse_existing(path: str, overwrite: bool) -> None:
    """Raises EditError where a file to be written is there already and may not be replaced."""
    if exists(path) and not overwrite:
        raise EditError(f"{path}: exists", hint="replace it with --overwrite")


def is_dir(path: str) -> bool:
    if is_url(path):
        if _on_the_web(path) and not path.endswith("/"):
            return False
        system, inner = filesystem(path)
        return bool(system.isdir(inner))
    return os.path.isdir(path)


def listdir(folder: str) -> list[str]:
    """Names inside a folder, sorted; an absent folder is empty."""
    if is_url(folder):
        system, inner = filesystem(folder)
        system.invalidate_cache()
        if not system.isdir(inner):
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in system.ls(inner, detail=False))
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def expand(pattern: str) -> list[str]:
    """The paths a glob names, sorted; a path without wildcards, or one that exists as written, is itself."""
    if not any(sign in pattern for sign in "*?["):
        return [pattern]
    if is_url(pattern):
        system, inner = filesystem(pattern)
        protocol = pattern.partition("://")[0]
        return sorted(f"{protocol}://{path.lstrip('/')}" for path in system.glob(inner))
    if os.path.exists(pattern):
        return [pattern]
    return sorted(globbing.glob(pattern, recursive=True))


def etag(path: str) -> str:
    """SIZE-MTIME_NS of a local file, the store's own tag of an object."""
    if is_url(path):
        system, inner = filesystem(path)
        return object_tag(system.info(inner))
    found = os.stat(path)
    return f"{found.st_size}-{found.st_mtime_ns}"


def object_tag(found: dict[str, Any]) -> str:
    """The etag of an object, of what its store says of it."""
    tag = found.get("ETag") or found.get("etag") or found.get("created") or found.get("mtime")
    return f"{found['size']}-{tag}"


def facts(path: str) -> tuple[int, str]:
    """Size and etag of a file whose bytes can be read. Raises OSError for anything that is there but is none."""
    if is_url(path):
        return size(path), etag(path)
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # a pipe or a device would block
        kind = "is a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise OSError(errno.EINVAL, kind, path)
    return found.st_size, f"{found.st_size}-{found.st_mtime_ns}"


def size(path: str) -> int:
    if is_url(path):
        system, inner = filesystem(path)
        return int(system.size(inner))
    return os.stat(path).st_size


def open_read(path: str) -> BinaryIO:
    """A seekable binary reader."""
    if is_url(path):
        return io.BufferedReader(remote.ObjectFile(_object(path)), _BUFFER)
    return open(path, "rb")


def _object(path: str) -> remote.Object:
    system, inner = filesystem(path)
    found = system.info(inner)
    return remote.Object(system, inner, path, found, object_tag(found))


def read_bytes(path: str) -> bytes:
    with open_read(path) as file:
        return file.read()


def remove(path: str) -> None:
    """Delete a file; one that is not there is fine."""
    if is_url(path):
        system, inner = filesystem(path)
        with contextlib.suppress(FileNotFoundError):
            system.rm_file(inner)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_dirs(folder: str) -> None:
    if not is_url(folder):
        os.makedirs(folder, exist_ok=True)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn errors of writing a file into EditError with the name that the user knows."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None and TEMPORARY not in str(error.filename):
            raise  # of another file, which it names
        full = path != STDOUT and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise EditError(
            f"{path}: cannot be written: {error.strerror or error}",
            hint="make room, and run the same command again: what is finished stays" if full else None,
        ) from error


def _lock(file: BinaryIO) -> bool:
    """Lock an open file while it is open, unless another process has. Raises OSError where there are no locks."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def remove_abandoned(folder: str) -> None:
    """Delete the temporary files in a folder whose writers are dead: a living one has its file locked.

    Where files cannot be locked, those that nobody has written to for a day.
    """
    for name in listdir(folder):
        path = join(folder, name)
        if not name.startswith(TEMPORARY) or is_url(path):
            continue
        with contextlib.suppress(OSError), open(path, "rb") as file:
            try:
                abandoned = _lock(file)
            except OSError:
                abandoned = time.time() - os.fstat(file.fileno()).st_mtime > _ABANDONED
            if abandoned:
                os.unlink(path)


class AtomicFile:
    """A file being written. `commit` gives it its final name; until then nobody sees it under that name.

    Local: a temporary file in the same folder, flushed to disk before the rename. Remote: a local temporary
    file that is uploaded whole, because a store shows an object only when its upload is complete.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.finished = False
        if is_url(path):
            descriptor, self.temporary = tempfile.mkstemp(prefix="edittools-")
            self.file: BinaryIO = os.fdopen(descriptor, "w+b", buffering=1 << 20)
            return
        folder = os.path.dirname(path)
        with writing(path):
            if folder:
                os.makedirs(folder, exist_ok=True)
            while not self._begin():
                pass

    def _begin(self) -> bool:
        """Open a temporary file and lock it; False where another process took it for abandoned in between."""
        folder, name = os.path.split(self.path)
        self.temporary = os.path.join(folder, f"{TEMPORARY}{name}-{os.urandom(4).hex()}")
        self.file = open(self.temporary, "w+b", buffering=1 << 20)
        with contextlib.suppress(OSError):  # a file system without locks
            if not _lock(self.file) or not os.path.exists(self.temporary):
                self.file.close()
                return False
        return True

    def finish(self) -> None:
        """Everything is written: put it on disk, still under the temporary name."""
        with writing(self.path):
            self.file.flush()
            if not is_url(self.path):
                os.fsync(self.file.fileno())
        self.finished = True

    def commit(self) -> None:
        if not self.finished:
            self.finish()
        if is_url(self.path):
            self.file.close()
            system, inner = filesystem(self.path)
            parent = inner.rsplit("/", 1)[0]
            with contextlib.suppress(Exception):
                system.makedirs(parent, exist_ok=True)
            system.put_file(self.temporary, inner)
            os.unlink(self.temporary)
        else:
            with writing(self.path):
                os.replace(self.temporary, self.path)
            self.file.close()  # not before: whoever could lock it would take it for abandoned

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.temporary)


@contextlib.contextmanager
def atomic(path: str) -> Iterator[BinaryIO]:
    """Write a whole file: it appears under its name when the block ends well, and not at all otherwise."""
    pending = AtomicFile(path)
    try:
        with writing(path):
            yield pending.file
        pending.commit()
    except BaseException:
        pending.discard()
        raise


def write_bytes(path: str, data: bytes) -> None:
    with atomic(path) as file:
        file.write(data)


def remove_tree(folder: str) -> None:
    if is_url(folder):
        system, inner = filesystem(folder)
        if system.exists(inner):
            system.rm(inner, recursive=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # another process may be at it too


class RangeReader:
    """Reads byte ranges of one file from several threads; `pread` where the file is local."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.remote = _object(path) if is_url(path) else None
        if self.remote is None:
            self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
            if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):  # put there since: a pipe would block
                self.close()
                raise OSError(errno.EINVAL, "not a regular file", path)

    def etag(self) -> str:
        """The tag of what is being read now. A local file that is written in place changes it at once."""
        if self.remote is not None:
            return self.remote.key[1]
        found = os.fstat(self.descriptor)
        return f"{found.st_size}-{found.st_mtime_ns}"

    def read(self, offset: int, length: int) -> bytes:
        if self.remote is not None:
            return self.remote.read(offset, length)
        try:
            data = os.pread(self.descriptor, length, offset)
            while len(data) < length:  # a signal, or a file system that answers in parts
                more = os.pread(self.descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            error.filename = self.path
            raise
        return data

    def close(self) -> None:
        if self.remote is None and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
