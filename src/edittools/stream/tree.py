"""What a folder is: images with their sidecars, tables, or both where the tables name the images.

Tables are tars, Parquet files, and the JSON and CSV files whose records name images of the folder; where a folder
holds no images, every file of JSON lines, or where it has none of all these, every JSON array and CSV. Everything
else beside tables (README.md, statistics) is passed over, and counted. Images beside tables that do not name them can
be read in two ways, which is an error.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import numpy as np

from edittools.errors import DamagedError, UsageError
from edittools.stream import codec, files, records
from edittools.stream.arranged import arranged_units, describes_tar
from edittools.stream.counted import Counted
from edittools.stream.input_reader import IMAGE_ENDINGS, DamagedReader, InputReader
from edittools.stream.joined import split_part, whole_files
from edittools.stream.layouts import Arrangement
from edittools.stream.listing import Listing, LooseFile, ending, walk
from edittools.stream.mapping import Mapping
from edittools.stream.packed import NameSet
from edittools.stream.readers import archive, reader_for_file, table_endings
from edittools.stream.readers.folder import FolderReader, Groups, folder_groups, folder_schema
from edittools.stream.readers.lines import LISTS, LinesReader
from edittools.stream.readers.parquet import ParquetReader
from edittools.stream.readers.tar import TarFileReader
from edittools.stream.shards import END, REJECTS


def folder_readers(root: str, place: str, mapping: Mapping, lazily: bool = False) -> list[InputReader]:
    """The inputs of a folder that is no shard set. `place` stands before the paths of its files. Tars and Parquet files
    are opened later where it is to be done `lazily`."""
    if isinstance(mapping.arrangement, Arrangement) and mapping.arrangement.tables:
        return arranged_units(root, place, mapping.arrangement)
    found = walk(root)
    _refuse_sets(root, found)
    images = _Images(found)
    if not images.first:
        tables = _tables(found)
        tables = tables or [file for file in found.of_kinds(LISTS) if _reads_as_list(file)]
        if not tables:
            return _loose_readers(root, folder_groups(found), place, mapping)
        readers = list(_table_readers(tables, place, mapping, lazily))
        parts = _cut(found)
        read = {name for file in tables for name in parts.get(file.inside, [file.inside])}
        others = Groups(found)
        for number, file in enumerate(found):
            if file.inside not in read:
                others.add([number])
                if file.readable:
                    others.pass_over(len(others) - 1)
        return [*readers, *(_loose_readers(root, others, place, mapping) if len(others) else [])]
    places = found.places()
    readers, read = _naming_readers(found, places, images, place, mapping)
    statistics = _of_fetched_folders(found, images)
    for file in found.of_kinds(("tar", "parquet")):
        if file.readable and file.inside not in read | statistics:
            raise UsageError(
                f"{root}: holds images ({images.first}), and {file.inside}: which are the input?",
                hint=f"name the files ({_pattern(root, file)}), or move one kind elsewhere",
            )
    groups = _unnamed_groups(found, places, readers, read, statistics, images)
    return [*readers, *(_loose_readers(root, groups, place, mapping) if len(groups) or not readers else [])]


def _tables(found: Listing) -> list[LooseFile]:
    """Tars, Parquet files and JSON lines; archives too where no list may be about what is in them."""
    kinds, cut = {*table_endings(), *(name.rpartition(".")[2] for name in archive.ENDINGS)}, _cut(found)
    readable = [
        file
        for number, name in enumerate(found.names())
        if name in cut or ending(name) in kinds
        for file in (found[number],)
        if file.readable and (file.ending() in table_endings() or _is_archive(file))
    ]
    if all(file.ending() == "tar" or _is_archive(file) for file in readable):
        return readable
    return [file for file in readable if not _is_archive(file)]


def _is_archive(file: LooseFile) -> bool:
    return file.inside.lower().endswith(archive.ENDINGS) or split_part(file.inside) is not None


def _cut(found: Listing) -> dict[str, list[str]]:
    """By the first part of every archive that was cut its parts. Raises EditError where one of several is missing."""
    wholes = whole_files(name for name in found.names() if split_part(name) is not None)
    return {parts[0]: parts for parts in wholes.values() if len(parts) > 1}


class _Images:
    """The images of a folder: the first one's path in it, which files they are, and their stems and folders."""

    def __init__(self, found: Listing) -> None:
        # Without a table it does not matter whether what has no ending is an image.
        tables = {*table_endings(), *LISTS}.intersection(map(ending, found.names()))
        listed = bool(tables)
        self.first = ""
        self.stems, self.folders = NameSet(), set[str]()
        self.there = np.zeros(len(found), np.bool_)  # by their numbers in the listing
        for number, name in enumerate(found.names()):
            nameless = listed and "." not in name.rpartition("/")[2]
            if ending(name) in IMAGE_ENDINGS or (nameless and _is_nameless_image(found[number])):
                self.first = self.first or name
                self.there[number] = True
                if listed:
                    if "json" in tables:  # which may be of an image
                        self.stems.add(name.rpartition(".")[0])
                    self.folders.add(name.rpartition("/")[0])


def _unnamed_groups(
    found: Listing,
    places: np.ndarray,
    readers: list[InputReader],
    read: set[str],
    statistics: set[str],
    images: _Images,
) -> Groups:
    """The rows of the files that no table of the folder is, or names; what only belongs to these is passed over."""
    if not readers and not statistics:
        return folder_groups(found)
    named = NameSet()
    for reader in readers:
        if isinstance(reader, (LinesReader, ParquetReader)):
            named.update(reader.named_images.hashes())
    among = named.among(places)
    numbers = [number for number in np.flatnonzero(~among).tolist() if found[number].inside not in read]
    groups = folder_groups(found, numbers)
    of_named = NameSet()  # a sidecar of an image that a table speaks of
    for number in map(int, np.flatnonzero(among & images.there)) if len(groups) else ():
        of_named.add(found[number].inside.rpartition(".")[0])
    for place, group in enumerate(groups):
        if group.key in statistics or (group.key.rpartition(".")[0] in of_named and not group.has_image()):
            groups.pass_over(place)
    return groups


def _is_nameless_image(file: LooseFile) -> bool:
    """Whether a file whose name says nothing is an image, as in crawls that name files by their content."""
    if not file.readable:
        return False
    try:
        with files.open_read(file.path) as opened:
            return codec.sniff(opened.read(64)) is not None
    except OSError:  # gone since: a row that says so
        return False


def _refuse_sets(root: str, found: Listing) -> None:
    """Raises UsageError where shard sets lie in the folder: are their files meant, or their rows?"""
    for path in found.names():
        folder, _, name = path.rpartition("/")
        if name == END or os.path.basename(folder) == REJECTS:
            inner = files.join(root, folder if name == END else os.path.dirname(folder))
            raise UsageError(f"{root}: holds the shard set {inner}", hint="name the shard sets that are the input")


def _pattern(root: str, file: LooseFile) -> str:
    """A glob for the files of a kind in one folder."""
    return files.join(root, *filter(None, [os.path.dirname(file.inside)]), f"*.{file.ending()}")


def _label(file: LooseFile, place: str) -> str:
    return f"{place}/{file.inside}" if place else file.inside


def _table_readers(tables: list[LooseFile], place: str, mapping: Mapping, lazily: bool) -> Iterator[InputReader]:
    """An input per table; a tar of img2dataset takes the Parquet file of the same name along.

    One of several that is damaged costs its rows; where all are, the first one's error is raised.
    """
    there = {file.inside: file for file in tables}
    damaged: list[DamagedError] = []
    for file in tables:
        if lazily and file.ending() in ("tar", "parquet"):
            stem = file.inside.rpartition(".")[0]
            both = (there.get(f"{stem}.{kind}") for kind in ("tar", "parquet"))
            tags = [known.etag if known is not None else "" for known in both]
            opening = functools.partial(_table_reader, file, there, place, mapping)
            yield Counted(file.path, _label(file, place) or file.inside, (file.ending(), *tags), opening)
            continue
        try:
            reader = _table_reader(file, there, place, mapping)
        except DamagedError as error:
            damaged.append(error)
            if len(damaged) == len(tables):
                raise damaged[0] from None
            reader = DamagedReader(file.path, _label(file, place) or file.inside, str(error))
        if reader is not None:
            yield reader


def _table_reader(file: LooseFile, there: dict[str, LooseFile], place: str, mapping: Mapping) -> InputReader | None:
    stem, _, kind = file.inside.rpartition(".")
    beside = there.get(f"{stem}.parquet")
    if kind == "parquet" and f"{stem}.tar" in there and describes_tar(file.path):
        return None
    if kind == "tar" and beside is not None and describes_tar(beside.path):
        return TarFileReader(file.path, _label(file, place), mapping, beside.path)
    return reader_for_file(file.path, _label(file, place), mapping)


def _of_fetched_folders(found: Listing, images: _Images) -> set[str]:
    """Files that img2dataset writes beside a folder of images, each of which has a sidecar that says the same."""
    made = set()
    for file in found.of_kinds(("parquet",)):
        stem = file.inside.rpartition(".")[0]
        if stem in images.folders and file.readable and describes_tar(file.path):
            made |= {file.inside, f"{stem}_stats.json"}
    return made


def _naming_readers(
    found: Listing, places: np.ndarray, images: _Images, place: str, mapping: Mapping
) -> tuple[list[InputReader], set[str]]:
    """The tables of a folder that name images in it, and which files they are."""
    readers: list[InputReader] = []
    read: set[str] = set()
    for file in found.of_kinds({*LISTS, "parquet"}):
        name = file.inside.rpartition("/")[2].rpartition(".")[0]
        if not file.readable:
            continue
        if file.ending() == "json" and file.inside.rpartition(".")[0] in images.stems:
            continue
        reader: LinesReader | ParquetReader | None = None
        if file.ending() in LISTS and _reads_as_list(file):
            reader = LinesReader(file.path, label=_label(file, place), mapping=mapping)
        elif file.ending() == "parquet":
            try:
                reader = ParquetReader(file.path, _label(file, place), mapping=mapping)
            except DamagedError as error:  # beside images, which can be read
                readers.append(DamagedReader(file.path, _label(file, place), str(error)))
                read.add(file.inside)
        if reader is not None and (name == "metadata" or reader.named_images.among(places[images.there]).any()):
            readers.append(reader)
            read.add(file.inside)
    return readers, read


def _reads_as_list(file: LooseFile) -> bool:
    if not file.readable:
        return False
    with files.open_read(file.path) as opened:
        head = opened.read(1024)
    read = records.reader_for(file.path, head)
    return read is not None and (file.ending() != "json" or read is records.array_records)


def _loose_readers(root: str, groups: Groups, place: str, mapping: Mapping) -> list[InputReader]:
    return [FolderReader(root, groups, folder_schema(groups, mapping), place, mapping)]
