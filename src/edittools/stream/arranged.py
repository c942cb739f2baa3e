"""Folders of data sets whose layout is known: which files are tables, and in which archives the images are."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from edittools.errors import DamagedError, EditError, IncompleteError, UsageError
from edittools.stream import files
from edittools.stream.input_reader import IMG2DATASET, DamagedReader, InputReader
from edittools.stream.ipc import arrow_errors
from edittools.stream.joined import split_part, whole_files
from edittools.stream.layouts import Arrangement
from edittools.stream.listing import walk
from edittools.stream.mapping import Mapping
from edittools.stream.readers import archive, reader_for_file
from edittools.stream.readers.lines import LinesReader
from edittools.stream.readers.tar import TarFileReader
from edittools.stream.roots import Roots


def arranged_units(root: str, place: str, arrangement: Arrangement) -> list[InputReader]:
    """The tables of a folder, each knowing where its images are. Raises UsageError where there is none."""
    names = list(walk(root).names())
    if arrangement.pair is not None and not _tables(names, arrangement.tables):
        return _paired_units(root, place, names, arrangement)
    if arrangement.gather is not None and not _tables(names, arrangement.tables):
        lines = "".join(json.dumps(record) + "\n" for record in arrangement.gather(root))
        mapping = Mapping(arrangement=arrangement.under(arrangement.roots.beside([root], [])))
        return [LinesReader(root, lines.encode(), place or os.path.basename(root), mapping)]
    if arrangement.listed is not None and (listed := arrangement.listed(root)):
        made = [(table, arrangement.roots.beside([images], _archives(images))) for table, images in listed]
    else:
        tables = _tables(names, arrangement.tables)
        archives = archives_of(root, (name for name in names if name not in tables))
        roots = arrangement.roots.beside([], archives, [root])
        made = [(name, roots) for name in tables]
    if not made:
        raise UsageError(
            f"{root}: no table of {arrangement.title}: no file is called {' or '.join(arrangement.tables)}"
        )
    return _units(root, place, arrangement, made)


def _paired_units(root: str, place: str, names: list[str], arrangement: Arrangement) -> list[InputReader]:
    """The pairs that the names of a folder's files tell of, and those of each archive in it; one that cannot be read
    costs its rows."""
    loose = _paired(root, place, names, arrangement.under(arrangement.roots.beside([root], [])))
    found: list[InputReader] = [loose] if loose.rows else []
    for parts in archives_of(root, names):
        inside = os.path.relpath(parts[0], root)
        label = f"{place}/{inside}" if place else inside
        try:
            reader = paired_archive(parts, label, arrangement)
            found += [reader] if reader.rows else []
        except (DamagedError, IncompleteError) as error:
            found.append(DamagedReader(parts[0], label, str(error)))
    if not found:
        raise UsageError(f"{root}: no images", hint="`edit man datasets` says by which names they make pairs")
    return found


def paired_archive(parts: list[str], place: str, arrangement: Arrangement) -> LinesReader:
    """The pairs that the names in an archive tell of; `parts` are its files. Raises DamagedError, IncompleteError."""
    roots = Roots(archives=[parts])
    return _paired(parts[0], place, roots.names(), arrangement.under(roots))


def _paired(path: str, place: str, names: Iterable[str], arrangement: Arrangement) -> LinesReader:
    assert arrangement.pair is not None
    records = [
        {
            name: f"./{value}" if value is not None and name in ("before", "after", "whole") else value
            for name, value in one.items()
        }
        | {"path": f"{place}/{one['path']}" if place else one["path"]}
        for one in arrangement.pair(names)
    ]  # `./` so that no name is taken for an address
    lines = "".join(json.dumps(record) + "\n" for record in records)
    return LinesReader(path, lines.encode(), place or os.path.basename(path), Mapping(arrangement=arrangement))


def _units(root: str, place: str, arrangement: Arrangement, tables: list[tuple[str, Roots]]) -> list[InputReader]:
    """A unit for every table; one of several that cannot be read costs its rows."""
    units: list[InputReader] = []
    failed: list[EditError] = []
    for name, roots in tables:
        path, label = files.join(root, name), f"{place}/{name}" if place else name
        try:
            units.append(_unit(path, label, Mapping(arrangement=arrangement.under(roots))))
        except (DamagedError, FileNotFoundError) as error:
            failed.append(error if isinstance(error, DamagedError) else DamagedError(f"{path}: no such file"))
            if len(failed) == len(tables):
                raise failed[0] from None
            units.append(DamagedReader(path, label, str(failed[-1])))
    return units


def _unit(path: str, label: str, mapping: Mapping) -> InputReader:
    """A table; a tar of img2dataset takes the Parquet file of the same number along."""
    table = f"{path.removesuffix('.tar')}.parquet"
    if path.endswith(".tar") and files.exists(table) and describes_tar(table):
        return TarFileReader(path, label, mapping, table)
    return reader_for_file(path, label, mapping)


def describes_tar(path: str) -> bool:
    """Whether a Parquet file is what img2dataset writes beside a tar: a line for every image, fetched or not."""
    import pyarrow.parquet as pq

    with arrow_errors(path), files.open_read(path) as file:
        return IMG2DATASET <= set(pq.read_schema(file).names)


def _tables(names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    """The files whose path in the folder, or whose name, is one of the patterns."""
    return [
        name
        for name in names
        if any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(os.path.basename(name), p) for p in patterns)
    ]


def archives_of(root: str, names: Iterable[str]) -> list[list[str]]:
    """The archives among the files of a folder, each with its parts."""
    held = list(names)
    plain = [name for name in held if name.lower().endswith((".tar", *archive.ENDINGS))]
    split = whole_files(name for name in held if split_part(name) is not None)
    whole = [[files.join(root, name)] for name in plain]
    return whole + [[files.join(root, part) for part in parts] for stem, parts in split.items() if stem not in plain]


def _archives(folder: str) -> list[list[str]]:
    return archives_of(folder, walk(folder).names()) if files.is_dir(folder) else []


def roots_of(paths: Iterable[str], addresses: Callable[[str], dict[str, Any]] | None = None) -> Roots:
    """What --root names: folders, and archives or parts of one. Raises EditError for what is not there."""
    folders, archives = [], []
    for path in map(os.path.abspath, paths):
        if files.is_dir(path):
            folders.append(path)
            archives += _archives(path)
        elif not files.exists(path):
            raise EditError(f"--root {path}: no such file or folder")
        elif (part := split_part(os.path.basename(path))) is not None:
            folder = os.path.dirname(path)
            beside = (name for name in files.listdir(folder) if (split_part(name) or ("",))[0] == part[0])
            archives += [[files.join(folder, name) for name in parts] for parts in whole_files(beside).values()]
        else:
            archives.append([path])
    return Roots(folders, archives, addresses=addresses)
