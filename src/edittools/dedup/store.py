"""What earlier runs kept, for `--against`: a folder with one Parquet file of fingerprints per run.

A file holds the fingerprints of the rows that a run kept, and in its footer the rule, the name of the set, and the
files that the run was decided against. Its name stands for the rows it was made of: the same run again finds its own
file, is decided against the same files as before, and leaves everything as it is. Files are committed by renaming
and never changed; to forget a set, delete its file.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edittools.dedup.decisions import Decisions
from edittools.dedup.fingerprint_table import FingerprintTable
from edittools.dedup.rule import Rule, difference
from edittools.errors import EditError, UsageError
from edittools.stream import files
from edittools.stream.history import canonical_json, digest
from edittools.stream.ipc import arrow_errors

_KEY = b"edit.dedup"
_ROWS_AT_ONCE = 1 << 15


class SignatureStore:
    """The folder. `name` is what this run's rows are called in it.

    `models` is filled by `load` at the latest: the identity of every model's weights.
    """

    def __init__(self, folder: str, rule: Rule, name: str, models: dict[str, str]) -> None:
        self.folder, self.name, self.models = folder, name, models
        self.rule: dict[str, Any] = rule.stated()
        if files.exists(folder) and not files.is_dir(folder):
            raise UsageError(f"--against {folder}: not a folder")
        self.empty = not self._names()
        self._check()

    def _names(self) -> list[str]:
        return [n for n in files.listdir(self.folder) if n.endswith(".parquet") and not n.startswith((".", "_"))]

    def _open(self, name: str) -> pq.ParquetFile:
        path = files.join(self.folder, name)
        with arrow_errors(path):
            return pq.ParquetFile(files.open_read(path))

    def _note(self, name: str) -> dict[str, Any]:
        found = (self._open(name).schema_arrow.metadata or {}).get(_KEY)
        if found is None:
            raise EditError(f"{files.join(self.folder, name)}: not what edit dedup --against writes")
        return json.loads(found)

    def _check(self) -> None:
        """Every file was made by the same rule. Raises UsageError."""
        for name in self._names():
            other = difference(self._note(name)["rule"], self.rule)
            if other is not None:
                raise UsageError(
                    f"--against {self.folder}: made with {other}", hint="use the same options, or another folder"
                )

    def load(self, fingerprints: FingerprintTable) -> None:
        """Put what earlier runs kept behind the fingerprints of this one."""
        self.rule["models"] = self.models  # known by now
        self._check()
        self.own = digest(canonical_json(self.rule), fingerprints.content)[:16] + ".parquet"
        names = self._names()
        self.done = self.own in names
        self.before = self._note(self.own)["against"] if self.done else names
        for name in self.before:
            if name not in names:
                raise EditError(
                    f"--against {self.folder}: {name} is gone, which these rows were decided against",
                    hint=f"to decide about them anew, delete {self.own} too",
                )
            source = self._note(name)["set"]
            file = self._open(name)
            with arrow_errors(name):
                for rows in file.iter_batches(_ROWS_AT_ONCE):
                    rows = rows.replace_schema_metadata(None)
                    if fingerprints.schema is not None and not rows.schema.equals(fingerprints.schema):
                        raise EditError(f"{files.join(self.folder, name)}: its columns are not those of this run")
                    fingerprints.add(rows, pa.array([source] * rows.num_rows, pa.string()))

    def save(self, decisions: Decisions) -> None:
        """Add the rows that this run keeps."""
        if self.done:
            return
        if sorted(self._names()) != sorted(self.before):
            raise EditError(
                f"--against {self.folder}: another run has added to it meanwhile",
                hint="run this one again; runs that share a folder go one after the other",
            )
        fingerprints = decisions.fingerprints
        if fingerprints.schema is None:
            return
        note = {"rule": self.rule, "set": self.name, "against": self.before}
        schema = fingerprints.schema.with_metadata({_KEY: canonical_json(note)})
        kept = decisions.kept(np.arange(fingerprints.new))
        files.make_dirs(self.folder)
        with files.atomic(files.join(self.folder, self.own)) as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for start in range(0, len(kept), _ROWS_AT_ONCE):
                    writer.write_table(fingerprints.take(kept[start : start + _ROWS_AT_ONCE]).cast(schema))
