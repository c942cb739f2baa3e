"""What a folder is: pictures with their sidecars, tables, or both where the tables name the pictures.

Tables are tars, Parquet files, and the JSON and CSV files whose records name pictures of the folder; where a folder
holds no pictures, every file of JSON lines, or where it has none of all these, every JSON array and CSV. Everything
else beside tables (README.md, statistics) is passed over, and counted. Pictures beside tables that do not name them can
be read in two ways, which is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from edittools.errors import UsageError
from edittools.stream import files, images, records
from edittools.stream.mapping import Mapping
from edittools.stream.shards import END, REJECTS
from edittools.stream.units import (
    IMG2DATASET,
    FileGroup,
    FolderUnit,
    LinesUnit,
    LooseFile,
    ParquetUnit,
    TarUnit,
    Unit,
    folder_groups,
    folder_schema,
    unit_for_file,
    walk,
)

_TABLES = ("tar", "parquet", "jsonl", "ndjson")
_LISTS = ("jsonl", "ndjson", "json", "csv", "tsv")  # what may name pictures beside it


def folder_units(root: str, place: str, mapping: Mapping) -> list[Unit]:
    """The units of a folder that is no shard set. `place` stands before the paths of its files."""
    found = list(walk(root))
    _refuse_sets(root, found)
    listed = any(file.ending() in {*_TABLES, *_LISTS} for file in found)  # else it does not matter what is a picture
    pictures = {file.inside: file for file in found if file.is_picture() or (listed and _is_nameless_picture(file))}
    if not pictures:
        tables = [file for file in found if file.readable and file.ending() in _TABLES]
        tables = tables or [file for file in found if file.ending() in _LISTS and _reads_as_list(file)]
        units = list(_table_units(tables, place, mapping))
        if tables:
            others = _passed_over(found, tables)
            return [*units, *(_loose_units(root, others, place, mapping) if others else [])]
        return _loose_units(root, folder_groups(found), place, mapping)
    units, read = _naming_units(found, pictures, place, mapping)
    statistics = _of_fetched_folders(found, pictures)
    for file in found:
        if file.readable and file.ending() in ("tar", "parquet") and file.inside not in read | statistics:
            raise UsageError(
                f"{root}: holds pictures ({next(iter(pictures))}), and {file.inside}: which are the input?",
                hint=f"name the files ({_pattern(root, file)}), or move one kind elsewhere",
            )
    named = {os.path.normpath(path) for unit in units for path in getattr(unit, "named_pictures", ())}
    rest = [file for file in found if file.inside not in read and os.path.normpath(file.path) not in named]
    groups = folder_groups(rest)
    for group in groups:
        group.passed_over = group.key in statistics
    if units:
        stems = {file.inside.rpartition(".")[0] for file in pictures.values() if os.path.normpath(file.path) in named}
        for group in groups:  # a sidecar of a picture that a table speaks of
            group.passed_over |= group.key.rpartition(".")[0] in stems and not group.has_picture()
    return [*units, *(_loose_units(root, groups, place, mapping) if groups or not units else [])]


def _is_nameless_picture(file: LooseFile) -> bool:
    """Whether a file whose name says nothing is a picture, as in crawls that name files by their content."""
    if "." in file.inside.rpartition("/")[2] or not file.readable:
        return False
    try:
        with files.open_read(file.path) as opened:
            return images.sniff(opened.read(64)) is not None
    except OSError:  # gone since: a row that says so
        return False


def _refuse_sets(root: str, found: list[LooseFile]) -> None:
    """Raises UsageError where shard sets lie in the folder: are their files meant, or their rows?"""
    for file in found:
        folder, _, name = file.inside.rpartition("/")
        if name == END or os.path.basename(folder) == REJECTS:
            inner = files.join(root, folder if name == END else os.path.dirname(folder))
            raise UsageError(f"{root}: holds the shard set {inner}", hint="name the shard sets that are the input")


def _pattern(root: str, file: LooseFile) -> str:
    """A glob for the files of a kind in one folder."""
    return files.join(root, *filter(None, [os.path.dirname(file.inside)]), f"*.{file.ending()}")


def _label(file: LooseFile, place: str) -> str:
    return f"{place}/{file.inside}" if place else file.inside


def _table_units(tables: list[LooseFile], place: str, mapping: Mapping) -> Iterator[Unit]:
    """A unit per table; a tar of img2dataset takes the Parquet file of the same name along."""
    there = {file.inside: file for file in tables}
    for file in tables:
        stem, _, ending = file.inside.rpartition(".")
        beside = there.get(f"{stem}.parquet")
        if ending == "parquet" and f"{stem}.tar" in there and _describes_tar(file.path):
            continue
        if ending == "tar" and beside is not None and _describes_tar(beside.path):
            yield TarUnit(file.path, _label(file, place), mapping, beside.path)
        else:
            yield unit_for_file(file.path, _label(file, place), mapping)


def _describes_tar(path: str) -> bool:
    """Whether a Parquet file is what img2dataset writes beside a tar: a line for every picture, fetched or not."""
    import pyarrow.parquet as pq

    from edittools.stream.wire import arrow_errors

    with arrow_errors(path), files.open_read(path) as file:
        return IMG2DATASET <= set(pq.read_schema(file).names)


def _of_fetched_folders(found: list[LooseFile], pictures: dict[str, LooseFile]) -> set[str]:
    """What img2dataset writes beside a folder of pictures, each of which has a sidecar that says the same."""
    folders = {inside.rpartition("/")[0] for inside in pictures}
    made = set()
    for file in found:
        stem, _, ending = file.inside.rpartition(".")
        if ending == "parquet" and stem in folders and file.readable and _describes_tar(file.path):
            made |= {file.inside, f"{stem}_stats.json"}
    return made


def _passed_over(found: list[LooseFile], tables: list[LooseFile]) -> list[FileGroup]:
    read = {file.inside for file in tables}
    return [FileGroup(file.inside, [([], file)], file.readable) for file in found if file.inside not in read]


def _naming_units(
    found: list[LooseFile], pictures: dict[str, LooseFile], place: str, mapping: Mapping
) -> tuple[list[Unit], set[str]]:
    """The tables of a folder that name pictures in it, and which files they are."""
    stems = {inside.rpartition(".")[0] for inside in pictures}
    paths = {os.path.normpath(file.path) for file in pictures.values()}
    units: list[Unit] = []
    read: set[str] = set()
    for file in found:
        name = file.inside.rpartition("/")[2].rpartition(".")[0]
        if not file.readable or (file.ending() == "json" and file.inside.rpartition(".")[0] in stems):
            continue
        unit: LinesUnit | ParquetUnit | None = None
        if file.ending() in _LISTS and _reads_as_list(file):
            unit = LinesUnit(file.path, label=_label(file, place), mapping=mapping)
        elif file.ending() == "parquet":
            unit = ParquetUnit(file.path, _label(file, place), mapping=mapping)
        if unit is not None and (name == "metadata" or not paths.isdisjoint(unit.named_pictures)):
            units.append(unit)
            read.add(file.inside)
    return units, read


def _reads_as_list(file: LooseFile) -> bool:
    if not file.readable:
        return False
    with files.open_read(file.path) as opened:
        head = opened.read(1024)
    read = records.reader_for(file.path, head)
    return read is not None and (file.ending() != "json" or read is records.array_records)


def _loose_units(root: str, groups: list[FileGroup], place: str, mapping: Mapping) -> list[Unit]:
    return [FolderUnit(root, groups, folder_schema(groups, mapping), place, mapping)]
