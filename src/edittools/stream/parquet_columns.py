"""Which columns of a foreign Parquet file hold images, and which name some: by their types and first values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from edittools.record import is_hf_image
from edittools.stream import codec, files
from edittools.stream.input_reader import named_as_image
from edittools.stream.mapping import IMAGES, Mapping
from edittools.stream.rowjson import plain_type

_LOOK_ROWS = 16  # of a column that are read to learn what is in it


class ParquetColumns:
    """The columns of an open Parquet file."""

    def __init__(self, path: str, file: Any, stored: pa.Schema, mapping: Mapping) -> None:
        """`stored` are its columns, `mapping` what the command line says of them."""
        self.path, self.file, self.stored, self.mapping = path, file, stored, mapping

    def images(self) -> set[str]:
        """The columns that hold images."""
        return {column.name for column in self.stored if is_hf_image(column.type) or self._holds_images(column)}

    def by_path(self) -> set[str]:
        """The columns that name images in other files, in some rows at least; they may hold some, too."""
        return {column.name for column in self.stored if self._holds_paths(column)}

    def _first_values(self, name: str) -> list[Any]:
        """Some values of a column that are there, by row groups: those that only hold nulls are passed by."""
        leaf = self.stored.names.index(name)
        plain = self.file.metadata.num_columns == len(self.stored)
        found: list[Any] = []
        for group in range(self.file.num_row_groups):
            about = self.file.metadata.row_group(group)
            facts = about.column(leaf).statistics if plain else None
            if facts is not None and facts.has_null_count and facts.null_count == about.num_rows:
                continue
            try:
                for rows in self.file.iter_batches(batch_size=_LOOK_ROWS, row_groups=[group], columns=[name]):
                    found += [value for value in rows.column(0).to_pylist() if value not in (None, b"", "", [])]
                    if found:
                        return found
            except (pa.ArrowException, OSError):  # another group says what is in the column
                if group == self.file.num_row_groups - 1 or files.is_url(self.path):
                    raise
        return found

    def _holds_images(self, column: pa.Field) -> bool:
        """Whether a binary column holds images: by its first values, if nobody says so."""
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            return False
        if column.name in self.mapping.images:
            return True
        return any(codec.sniff(value) is not None for value in self._first_values(column.name))

    def _holds_paths(self, column: pa.Field) -> bool:
        """Whether a column names images in other files, in some of its rows at least."""
        if is_hf_image(column.type):
            return self._lacks_bytes(column.name)
        plain = self.mapping.arrangement is None
        if not plain or not _is_text(column.type.value_type if is_list(column.type) else column.type):
            return False
        if column.name in self.mapping.images:
            return True
        if column.name in self.mapping.renames or column.name not in (*IMAGES, "image", "file_name", "result"):
            return False
        values = self._first_values(column.name)
        flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
        return any(isinstance(item, str) and named_as_image(item) for item in flat)

    def _lacks_bytes(self, name: str) -> bool:
        """Whether a Hugging Face image somewhere has a path and no bytes: there are more paths than images."""
        for group in range(self.file.num_row_groups):
            about = self.file.metadata.row_group(group)
            leaves = {leaf.path_in_schema: leaf.statistics for leaf in map(about.column, range(about.num_columns))}
            facts = [leaves.get(f"{name}.{field}") for field in ("bytes", "path")]
            nulls = [known.null_count for known in facts if known is not None and known.has_null_count]
            if len(nulls) < 2:
                try:
                    column = self.file.read_row_group(group, columns=[name]).column(0).combine_chunks()
                except (pa.ArrowException, OSError):  # its rows will have failed
                    if files.is_url(self.path):
                        raise
                    continue
                nulls = [column.field(field).null_count for field in ("bytes", "path")]
            if nulls[0] > nulls[1]:
                return True
        return False


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
