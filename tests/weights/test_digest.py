"""The digest of a folder's weights is remembered, and never where anything has changed."""

import os
import time

import pytest

from edittools.weights import digest
from edittools.weights.digest import folder_digest


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model of an hour ago, whose digest is worth remembering; and how many bytes are read of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest, "_WORTH", 1000)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(5000))
    for path in folder.iterdir():
        os.utime(path, ns=(0, time.time_ns() - 3600 * 10**9))
    return folder


def hashed(monkeypatch):
    """Counts the bytes that are hashed for contents."""
    seen = []
    real = digest.xxhash.xxh3_128

    class Counting:
        def __init__(self):
            self.state = real()

        def update(self, data):
            if isinstance(data, bytes) and len(data) >= 5000:
                seen.append(len(data))
            self.state.update(data)

        def hexdigest(self):
            return self.state.hexdigest()

    monkeypatch.setattr(digest.xxhash, "xxh3_128", Counting)
    return seen


def test_weights_are_read_once_and_again_when_they_change(model, monkeypatch):
    monkeypatch.setattr(digest, "_WORTH", 1 << 60)
    plain = folder_digest(model)  # nothing remembered
    monkeypatch.setattr(digest, "_WORTH", 1000)
    seen = hashed(monkeypatch)
    assert [folder_digest(model) for _ in range(3)] == [plain] * 3 and len(seen) == 1
    # one byte in place, of the same size: the time of change tells
    file = model / "model.safetensors"
    with file.open("r+b") as opened:
        opened.write(b"x")
    os.utime(file, ns=(0, time.time_ns() - 1800 * 10**9))
    other = folder_digest(model)
    assert other != plain and len(seen) == 2
    # another file of the same size and time under its name: the inode tells
    facts = file.stat()
    replacement = model.parent / "new"
    replacement.write_bytes(bytes(5000))
    os.utime(replacement, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    replacement.replace(file)
    assert folder_digest(model) == plain and len(seen) == 3
    # so does a link that leads elsewhere
    (model.parent / "elsewhere").write_bytes(b"y" * 5000)
    file.unlink()
    file.symlink_to(model.parent / "elsewhere")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert folder_digest(model) not in (plain, other)


def test_what_has_just_been_written_is_not_remembered(model, monkeypatch):
    os.utime(model / "model.safetensors")
    seen = hashed(monkeypatch)
    folder_digest(model)
    folder_digest(model)
    assert len(seen) == 2 and not (model.parent / "cache").exists()


def test_a_cache_that_cannot_be_written_or_is_damaged_is_none(model, monkeypatch):
    plain = folder_digest(model)
    (kept,) = (model.parent / "cache" / "edittools" / "digests").iterdir()
    kept.write_text("damaged")
    assert folder_digest(model) == plain and kept.read_text() == plain
    monkeypatch.setenv("XDG_CACHE_HOME", str(model / "config.json"))  # a file
    assert folder_digest(model) == plain
