"""INI files: a section per image, named by its id, whose `image` lies beside the file."""

import configparser
import json
import os

from edittools.stream import files
from edittools.stream.mapping import Mapping
from edittools.stream.readers.lines import LinesReader


def claim(path: str, head: bytes) -> int:
    """How sure it is that this file is its own; the surest reader reads it."""
    return 3 if path.endswith(".ini") and head.startswith(b"[") else 0


def open_file(path: str, label: str | None, mapping: Mapping) -> LinesReader:
    parser = configparser.ConfigParser()
    parser.read_string(files.read_bytes(path).decode("utf-8"))
    folder = os.path.dirname(os.path.abspath(path))
    rows = [{"id": id, **parser[id], "image": os.path.join(folder, parser[id]["image"])} for id in parser.sections()]
    return LinesReader(path, "".join(json.dumps(row) + "\n" for row in rows).encode(), label, mapping)
