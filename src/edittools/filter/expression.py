"""SQL expressions about one row, evaluated by DuckDB."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import UsageError, missing_extra


class Expression:
    """An expression of the option `flag`. Raises UsageError where it is none, or is not about one row."""

    def __init__(self, text: str, flag: str) -> None:
        self.text, self.flag = text, flag
        self.connection: Any = None
        self._columns: set[str] = set()
        self._lock = threading.Lock()  # a connection has one query at a time

    def true_for(self, rows: pa.RecordBatch) -> np.ndarray:
        """Mask of the rows it is true for; null counts as false."""
        with self._lock:
            duckdb = self._open()
            try:
                self.connection.register("edit_rows", pa.Table.from_batches([rows]))
                result = self.connection.sql(f"SELECT coalesce(({self.text})::BOOLEAN, false) AS keep FROM edit_rows")
                keep = result.to_arrow_table().column("keep").to_numpy()
            except duckdb.Error as error:
                raise UsageError(f"{self.flag} {self.text}: {str(error).splitlines()[0]}") from error
        return keep.astype(bool)

    def columns(self) -> set[str]:
        """The columns it names."""
        self._open()
        return self._columns

    def _open(self) -> Any:
        try:
            import duckdb
        except ImportError:
            raise missing_extra("duckdb", "sql", self.flag) from None
        if self.connection is None:
            try:
                # The expression may not reach outside its row: no files, no network, no other tables.
                self.connection = duckdb.connect(config={"enable_external_access": "false", "threads": "1"})
                self._check()
            except duckdb.Error as error:
                raise UsageError(f"{self.flag} {self.text}: {str(error).splitlines()[0]}") from error
        return duckdb

    def _check(self) -> None:
        """Raises UsageError for what is not an expression about one row.

        What depends on other rows (queries, windows, aggregates) or on chance and the clock would depend on how the
        rows are cut into batches, or be different each time.
        """
        chosen, rest = self._parse(self.text)
        unsteady = self.connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE function_type = 'aggregate' OR stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
        ).fetchall()
        refused = {name for (name,) in unsteady}
        # The rest of the statement, such as FROM and ORDER BY, has to be that of a bare expression.
        whole = rest == self._parse("true")[1] and len(chosen[0]) == 1
        parts = list(_walk(chosen))
        if not whole or any(
            part.get("class") in ("SUBQUERY", "WINDOW") or part.get("function_name") in refused for part in parts
        ):
            raise UsageError(f"{self.flag} {self.text}: not an expression about one row")
        self._columns = {part["column_names"][0] for part in parts if part.get("class") == "COLUMN_REF"}

    def _parse(self, text: str) -> tuple[list[Any], Any]:
        found = self.connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT ({text})"]).fetchall()
        tree = json.loads(found[0][0])
        if tree["error"]:
            raise UsageError(f"{self.flag} {self.text}: {tree['error_message']}")
        nodes = [statement["node"] for statement in tree["statements"]]
        return [node.pop("select_list", None) for node in nodes], nodes


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _walk(item)
