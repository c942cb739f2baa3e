"""The formats of outputs, one per file here: the file name is the registry, and the name that -f takes.

A format is a file with `open_sink(path, stdout, overwrite, inline)`, which makes a sink (stream/sink.py) that writes to
a path or to the binary file `stdout`, and, as literals, since every help text reads these:

    ENDING  of the files of this format, such as ".tar"; without one it is chosen by -f alone
    TEXT    whether a terminal can show it
    TO      "file" (or standard output) if nothing is said, "folder" or "terminal"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from edittools.errors import UsageError
from edittools.registry import Registry

if TYPE_CHECKING:
    from edittools.stream.sink import Sink

WRITERS = Registry("edittools.stream.writers", "edittools.formats")


def endings() -> dict[str, str]:
    """The format of files by how they end."""
    return {ending: name for name, ending in WRITERS.declared("ENDING").items() if ending}


def make_sink(
    output: str | None,
    format: str | None,
    *,
    overwrite: bool,
    inline: bool,
    stdout_kind: Callable[[], str],
) -> Sink:
    """The sink for `-o` and `-f`; without `-o`, what standard output is decides: `stdout_kind` says it."""
    from edittools.stream import files

    to, path, stdout = WRITERS.declared("TO", "file"), None, None
    if output in (None, "-"):
        kind = stdout_kind()
        chosen = format or {"terminal": "table", "file": "tar", "pipe": "arrows"}[kind]
        if to[chosen] == "folder":
            raise UsageError("a shard set is a folder: name it with -o DIR/")
        if to[chosen] == "file":
            if kind == "terminal" and not WRITERS.declared("TEXT", False)[chosen]:
                raise UsageError(f"{chosen} is binary and would go to the terminal", hint="add -o FILE or a pipe")
            stdout = open(1, "wb", buffering=1 << 20, closefd=False)
    else:
        assert output is not None
        chosen = format or _format_of(output)
        if to[chosen] == "terminal":
            raise UsageError("a table goes to the terminal only")
        path = files.local(output)
    opened: Callable[[str | None, BinaryIO | None, bool, bool], Sink] = WRITERS.load(chosen).open_sink
    return opened(path, stdout, overwrite, inline)


def _format_of(output: str) -> str:
    name = output.rstrip("/").rsplit("/", 1)[-1]
    if output.endswith("/") or "." not in name:
        return "shards"
    for ending, chosen in endings().items():
        if name.endswith(ending):
            return chosen
    *most, last = endings()
    raise UsageError(
        f"{output}: what to write there is not clear from its name",
        hint=f"end it with / for a shard set, or with {', '.join(most)} or {last}; or say -f FORMAT",
    )
