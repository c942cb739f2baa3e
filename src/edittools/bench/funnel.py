"""The retention funnel: what every command of a data set's history read, dropped and wrote, and why.

The history names the commands; how many rows came through stands in the sets that they wrote, which know their own
run only: a pipe of several commands, or one. So the sets before are needed for the commands before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edittools.bench.rejects import stored_rejects
from edittools.errors import UsageError
from edittools.stream.batch import Reject
from edittools.stream.history import History
from edittools.stream.readers.shard import ShardReader
from edittools.stream.shards import read_footer
from edittools.stream.source import FileSource, Source

READ, WRITE = "read", "write"  # what rejects are called that the reader and the writer of a run make
MAKERS = ("shard", "synth", "sample", "pair")
"""Commands that may make several rows of one, or one of several: what they wrote is not what they read and kept."""


Why = tuple[str, str, bool]  # stage, reason, whether it failed


@dataclass(frozen=True)
class WrittenSet:
    """What one run wrote: its history, the rows that it read and wrote, how many fell out where and why. `read` is None
    where no file says it."""

    name: str
    history: History
    read: int | None
    written: int
    rejects: Counter[Why]


def why(reject: Reject) -> Why:
    return reject.stage, reject.reason, reject.failed


def written_sets(source: Source, read: int, written: int, rejects: Counter[Why]) -> list[WrittenSet]:
    """The sets of a source, a folder each; a pipe or another file is one, of which `read`, `written` and `rejects` are
    what was met while reading it."""
    shards = source.readers if isinstance(source, FileSource) else []
    folders = [reader.folder for reader in shards if isinstance(reader, ShardReader)]
    if not folders or len(folders) < len(shards):
        told = not isinstance(source, FileSource)  # a pipe brings what fell out on its way
        return [WrittenSet("the input", source.history, read if told else None, written, rejects)]
    return [_folder_set(folder, [r for r in shards if isinstance(r, ShardReader) and r.folder == folder])
            for folder in dict.fromkeys(folders)]  # fmt: skip


def _folder_set(folder: str, readers: list[ShardReader]) -> WrittenSet:
    history, known = History(), [read_footer(f"{reader.name}.parquet").counts for reader in readers]
    for reader in readers:
        history = history.merge(reader.history)
    rejects = Counter(map(why, stored_rejects(FileSource([*readers]))))
    return WrittenSet(folder, history, sum(one.rows for one in known), sum(one.kept for one in known), rejects)


def retention(sets: list[WrittenSet], earlier: Iterable[Source] = ()) -> dict[str, Any]:
    """{"steps": [{"command", "set", "read", "dropped", "failed", "written", "reasons"}], "warnings"}, in the order of
    the history; null where nothing says how many rows there were. `earlier` are sets before those in their history.

    Raises UsageError for an earlier set that is none of the history.
    """
    made = {node["hash"] for one in sets for node in one.history.nodes}
    every = list(sets)
    for source in earlier:
        for one in written_sets(source, 0, source.rows or 0, Counter()):
            if not one.history.heads or not set(one.history.heads) <= made:
                raise UsageError(f"--earlier {one.name}: not a set that the input was made of, by its history")
            if any(one.name == other.name for other in every[len(sets) :]):
                continue  # it was named twice
            if any(one.history.heads == other.history.heads for other in sets):
                raise UsageError(f"--earlier {one.name}: made by the same commands as the input, not before it")
            every.append(one)
    every.sort(key=lambda one: len(one.history.nodes))
    steps: list[dict[str, Any]] = []
    warnings: list[str] = []
    for place, one in enumerate(every):
        before = [other for other in every[:place] if set(other.history.heads) < {n["hash"] for n in one.history.nodes}]
        known = {node["hash"] for other in before for node in other.history.nodes}
        parents = _latest(before)
        written = sum(other.written for other in parents)
        if parents and one.read is not None and one.read != written:
            names = ", ".join(other.name for other in parents)
            warnings.append(
                f"{one.name} was made of {one.read:,} rows, and {names} has {written:,}: --limit, --task, another set?"
            )
        commands = [str(node["command"]) for node in one.history.nodes if node["hash"] not in known]
        # Where other sets went into it as well, their commands are in its history, too.
        steps += _steps(one, commands, first=bool(before) and one.read in (None, written))
    return {"steps": steps, "warnings": warnings}


def _latest(sets: list[WrittenSet]) -> list[WrittenSet]:
    """Those that no other of them was made of."""
    return [
        one for one in sets
        if not any(set(one.history.heads) < {node["hash"] for node in other.history.nodes}
                   for other in sets if other is not one)
    ]  # fmt: skip


def _steps(one: WrittenSet, commands: list[str], first: bool) -> list[dict[str, Any]]:
    """The commands of one run. Unless `first` says that the set before is known, those in front that dropped nothing
    may be another run's: the run had at least the last command, and where rows were made, one that makes some."""
    reasons: dict[str, Counter[str]] = {}
    failed: Counter[str] = Counter()
    for (stage, reason, fell), count in one.rejects.items():
        reasons.setdefault(stage, Counter())[reason] += count
        failed[stage] += count * fell
    names = list(dict.fromkeys(commands))
    made = one.read is not None and one.read - one.rejects.total() != one.written
    while not first and len(names) > 1 and names[0] not in reasons and (not made or {*names[1:]} & {*MAKERS}):
        names.pop(0)
    strange = [stage for stage in reasons if stage not in names]  # the reader's, and of a history that was lost
    names = [*(s for s in strange if s != WRITE), *names, *(s for s in strange if s == WRITE)] or [READ]
    steps = [
        {
            "command": name,
            "set": one.name,
            "read": None,
            "dropped": (found := reasons.get(name, Counter())).total() - failed[name],
            "failed": failed[name],
            "written": None,
            "reasons": dict(found.most_common()),
        }
        for name in names
    ]
    _count(steps, one, again=len(commands) > len(set(commands)))
    return steps


def _count(steps: list[dict[str, Any]], one: WrittenSet, again: bool) -> None:
    """Fill in what each step read and wrote, as far as it follows from what the run read, dropped and wrote: from the
    front up to the command that made other rows, and from the end back to it. A command that was there twice (`again`)
    has its rejects in one place."""
    steps[0]["read"], steps[-1]["written"] = one.read, one.written
    lost = [step["dropped"] + step["failed"] for step in steps]
    if len(steps) == 1 or again or one.read is None:
        return
    makers = [k for k, step in enumerate(steps) if step["command"] in MAKERS]
    if one.read - sum(lost) == one.written:
        makers = []
    elif not makers:
        return  # some filter made one row of several: which, nothing says
    left = one.read
    for k in range(makers[0] if makers else len(steps) - 1):
        left -= lost[k]
        steps[k]["written"] = steps[k + 1]["read"] = left
    left = one.written
    for k in range(len(steps) - 1, makers[-1] if makers else len(steps), -1):
        left += lost[k]
        steps[k]["read"] = steps[k - 1]["written"] = left
