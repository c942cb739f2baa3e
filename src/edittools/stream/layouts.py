"""Tables that others laid out, as rows of the record: at which place of theirs each column of ours is.

A place is the name of a column and the way to what is inside it: `image[0]`, `image[:-1]`, `data[0].prompt`, and `a|b`
for the first one that is there. Of a column that holds one value here and a list there, `[0]` and `[-1]` are the value.
"""

from __future__ import annotations

import copy
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from edittools.errors import EditError, RowError, UsageError, describe
from edittools.record import COLUMNS, IMAGE
from edittools.stream import columns
from edittools.stream.batch import Reject
from edittools.stream.input_reader import IMAGE_FIELDS, Part, reference
from edittools.stream.roots import Roots

Record = dict[str, Any]
_NAME = re.compile(r"[^.\[\]|]+")
_STEP = re.compile(r"\.([^.\[\]|]+)|\[(-?\d+)\]|\[(-?\d*):(-?\d*)\]")
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_IMAGE_OF_OTHERS = {"bytes", "path"}


class FieldPath:
    """Where in a record of others something is."""

    def __init__(self, written: str) -> None:
        """Raises UsageError for what is no place."""
        self.written = written
        self.ways = [_way(part) for part in written.split("|")]

    @property
    def columns(self) -> set[str]:
        """The columns that it may begin with, or be: names may have dots in them."""
        return {self.written, *(name for name, _ in self.ways)}

    def find(self, record: Record) -> Any:
        """The value at the place; None for nothing."""
        if self.written in record:
            return record[self.written]
        for name, steps in self.ways:
            value = record.get(name)
            for step in steps:
                value = _inside(value, step)
            if not is_nothing(value):
                return value
        return None


def is_nothing(value: Any) -> bool:
    """Whether a place is empty; an image of `datasets` with neither bytes nor a path is no image."""
    if isinstance(value, dict) and value.keys() == _IMAGE_OF_OTHERS:
        return not any(value.values())
    return value in _NOTHING


def _way(written: str) -> tuple[str, list[str | int | slice]]:
    start = _NAME.match(written)
    steps: list[str | int | slice] = []
    at = start.end() if start else 0
    while start and (step := _STEP.match(written, at)):
        name, number, first, last = step.groups()
        bounds = [int(bound) if bound else None for bound in (first, last)]
        steps.append(name if name is not None else int(number) if number is not None else slice(*bounds))
        at = step.end()
    if not start or at < len(written):
        raise UsageError(
            f"`{written}`: no place in a record", hint="such as image, image[0], image[:-1] or data.prompt"
        )
    return start[0], steps


def _inside(value: Any, step: str | int | slice) -> Any:
    """One step into a value; a name in a list is that of all its items."""
    if isinstance(step, str):
        if isinstance(value, list):
            return [_inside(item, step) for item in value]
        return value.get(step) if isinstance(value, dict) else None
    if not isinstance(value, list):
        return value if step in (0, -1) else None
    if isinstance(step, slice):
        return value[step]
    return value[step] if -len(value) <= step < len(value) else None


@dataclass(frozen=True)
class Layout:
    """One way in which a table is laid out."""

    columns: Mapping[str, str | tuple[str, ...]]
    """Ours -> the place of it in theirs, or several places, of which a list is made. Fields of `instruction`,
    `caption`, `scores` and `provenance` may be named one by one: `instruction.zh`."""
    has: tuple[str, ...] = ()  # columns by which it is known, all of them; `a|b`: one of them
    derive: Callable[[Record], Record] | None = None  # further fields of a record, which places may name
    reads: tuple[str, ...] = ()  # the columns that `derive` makes them of
    images: tuple[str, ...] = ()  # columns of images beyond the record's own
    tasks: Mapping[str, str] = field(default_factory=dict)  # their names of tasks -> ours
    task: str | None = None  # of rows whose own task is unknown, or that have none
    needs: tuple[str, ...] = ("source", "target")  # a row without one of these has failed

    @cached_property
    def places(self) -> dict[str, tuple[FieldPath, ...]]:
        return {
            name: tuple(map(FieldPath, (said,) if isinstance(said, str) else said))
            for name, said in self.columns.items()
        }

    @cached_property
    def used(self) -> set[str]:
        """The columns of theirs that ours are made of."""
        return {*self.reads, *(name for places in self.places.values() for place in places for name in place.columns)}

    def fits(self, names: Iterable[str]) -> bool:
        """Whether a table with these columns is laid out so."""
        there = {*names}
        return all(there & {*name.split("|")} for name in self.has)

    def made_of(self, names: Iterable[str]) -> dict[str, tuple[FieldPath, ...]]:
        """The columns of ours that a table with these columns has something for, with their places."""
        if self.derive is not None:
            return self.places
        return self._made_of(frozenset(names))

    @cached_property
    def _made_of(self) -> Callable[[frozenset[str]], dict[str, tuple[FieldPath, ...]]]:
        """`made_of`, which is asked of row after row, nearly all with the same columns."""

        def found(there: frozenset[str]) -> dict[str, tuple[FieldPath, ...]]:
            return {name: held for name, held in self.places.items() if any(place.columns & there for place in held)}

        return functools.lru_cache(64)(found)

    def types(self, names: Iterable[str]) -> dict[str, pa.DataType]:
        """The columns of ours that it makes of a table with these columns, with their types."""
        heads: dict[str, list[str]] = {}
        for name in self.made_of(names):
            head, _, inner = name.partition(".")
            heads.setdefault(head, []).append(inner)
        made: dict[str, pa.DataType] = {}
        for head, names_inside in heads.items():
            fields = [(name, pa.float64()) for name in names_inside if name]
            own = pa.struct(fields) if head == "scores" else pa.string()
            made[head] = COLUMNS.get(head, IMAGE if head in self.images else own)
        for name in ("target", "instruction") if "turns" in made else ():
            made.setdefault(name, COLUMNS[name])
        return {"task": COLUMNS["task"], **made, "provenance": COLUMNS["provenance"]}


class Arrangement:
    """The layouts of a data set, and where its images are: makes rows of the record of its rows."""

    def __init__(
        self,
        title: str,
        layouts: Iterable[Layout],
        tables: tuple[str, ...] = (),
        roots: Roots | None = None,
        listed: Callable[[str], list[tuple[str, str]]] | None = None,
        gather: Callable[[str], Iterator[Record]] | None = None,
        pair: Callable[[Iterable[str]], Iterator[Record]] | None = None,
    ) -> None:
        """`tables` are patterns for the files of a folder that hold rows; `listed` says of a folder which these are and
        where the images of each are, if it says so itself. Without tables `gather` makes the records of a folder, and
        `pair` those of the paths in a folder, and in every archive."""
        self.title, self.layouts, self.tables = title, tuple(layouts), tables
        self.listed, self.gather, self.pair = listed, gather, pair
        self.roots = roots or Roots()
        self.asked: list[tuple[str, str]] = []  # what --map says
        self.seen: set[str] = set()  # columns of the rows that were met
        self.met: Counter[str] = Counter()  # tables and rows: `fitted`, `refused`

    @property
    def gives_ids(self) -> bool:
        return any("id" in layout.columns for layout in self.layouts)

    def under(self, roots: Roots) -> Arrangement:
        """The same with the images somewhere else."""
        made = copy.copy(self)  # what it has met they share
        made.roots = roots
        return made

    def row(self, record: Record, base: str) -> Record:
        """A record whose types are not declared: ours, and what else it has. Raises RowError."""
        self.seen.update(record)
        layout = next((layout for layout in self.layouts if layout.fits(record)), None)
        if layout is None:
            self.met["refused"] += 1
            raise RowError("other columns", f"not a row of {self.title}: {', '.join(record)}"[:200])
        self.met["fitted"] += 1
        row = self._made(layout, record, base)
        for name, value in record.items():
            if name not in layout.used:
                columns.put(row, _free(name, row), value)
        return row

    def schema(self, stored: pa.Schema, name: str) -> pa.Schema:
        """The columns that `part` makes of a table with declared columns. Raises EditError for a table of others."""
        self.seen.update(stored.names)
        layout = self._layout(stored, name)
        self.met["fitted"] += 1
        made = {"id": COLUMNS["id"], **layout.types(stored.names)}
        for column in stored:
            if column.name not in {*layout.used, "id", "provenance"}:
                made[_free(column.name, made)] = column.type
        return pa.schema(list(made.items()))

    def part(self, rows: pa.RecordBatch, base: str, schema: pa.Schema, label: str) -> Part:
        """Rows of a table whose `schema` is known, and those that failed."""
        layout = self._layout(rows.schema, label)
        own = [name for name in rows.schema.names if name in {*layout.used, "id", "provenance"}]
        made, rejects, keep = [], [], []
        for record in rows.select(own).to_pylist():
            identity, path = str(record["id"]), (record.get("provenance") or {}).get("path")
            try:
                row = {"id": record["id"], **self._made(layout, record, base)}
                row["provenance"] = {**(record.get("provenance") or {}), **(row.get("provenance") or {})}
                row = columns.normalise(row)
                if odd := row.keys() - {*schema.names}:
                    name = sorted(odd)[0].removeprefix("user_")
                    raise RowError(f"does not fit `{name}`", str(row[f"user_{name}"])[:80])
                made.append(row)
                keep.append(True)
            except RowError as error:
                rejects.append(Reject(identity, "read", error.reason, error.value, True, path))
                keep.append(False)
        types = {"id": COLUMNS["id"], **layout.types(rows.schema.names)}  # as `schema` has them, before the rest
        fresh = columns.to_batch(made, pa.schema(list(types.items())))
        rest = rows.filter(pa.array(keep, pa.bool_()))
        for name in rest.schema.names:
            if name not in own:
                fresh = fresh.append_column(_free(name, {*fresh.schema.names}), rest.column(name))
        return fresh.cast(schema), rejects

    def named_images(self, rows: pa.RecordBatch, base: str, stored: pa.Schema, name: str) -> Iterator[str]:
        """The states of the files that each row of a table names; `rows` have those of its columns that name some."""
        layout = self._layout(stored, name)
        for record in rows.to_pylist():
            try:
                values = self._values(layout, record).items()
                found = [self._located(value, _type(layout, ours), base) for ours, value in values]
                yield "\n".join(str(image["etag"]) for image in _leaves(found))
            except RowError as error:  # for which it will be rejected
                yield str(error)

    def by_path(self, stored: pa.Schema, name: str) -> list[str]:
        """The columns of a table that name images in other files."""
        layout = self._layout(stored, name)
        texts = {c.name for c in stored if _holds_text(c.type)}
        found = set(layout.reads)
        for ours, places in layout.places.items():
            if _has_images(_type(layout, ours)):
                found.update(name for place in places for name in place.columns)
        return sorted(found & texts)

    def check(self) -> None:
        """Raises EditError where no row of the inputs is laid out as it should be."""
        if self.met["refused"] and not self.met["fitted"]:
            raise self._unlike("the input", self.seen)
        for name, written in self.asked:
            if self.seen and not FieldPath(written).columns & self.seen:
                has = f"it has: {', '.join(sorted(self.seen))}"
                raise UsageError(f"--map {name}={written}: the input has no column `{written}`", hint=has)

    def _layout(self, stored: pa.Schema, name: str) -> Layout:
        found = next((layout for layout in self.layouts if layout.fits(stored.names)), None)
        if found is None:
            raise self._unlike(name, stored.names)
        return found

    def _unlike(self, name: str, has: Iterable[str]) -> EditError:
        expected = " or ".join(", ".join(layout.has) for layout in self.layouts)
        return EditError(
            f"{name}: not laid out as {self.title}: it has {', '.join(sorted(has))[:200]}; expected {expected}",
            hint="--map says of other columns what they are",
        )

    def _values(self, layout: Layout, record: Record) -> Record:
        """Raw values of our columns, taken from the layout's places."""
        if layout.derive is not None:
            try:
                record = {**record, **layout.derive(record)}
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                raise RowError(f"not laid out as {self.title}", describe(error)) from None
        found: Record = {}
        for name, places in layout.made_of(record).items():
            values = [None if is_nothing(value := place.find(record)) else value for place in places]
            if len(places) > 1:
                found[name] = [item for value in values for item in (value if isinstance(value, list) else [value])]
            else:
                found[name] = values[0]
        if isinstance(found.get("source"), list):
            found["source"] = _without_holes(found["source"])
        return found

    def _made(self, layout: Layout, record: Record, base: str) -> Record:
        """The columns of ours. Raises RowError."""
        row: Record = {}
        for name, value in self._values(layout, record).items():
            head, _, inner = name.partition(".")
            if head == "scores":
                value = _number(value)
            if head in ("instruction", "caption"):
                row[head] = _with_text(row.get(head), inner, value)
            elif inner:
                row.setdefault(head, {})[inner] = value
            else:
                row[name] = self._located(value, _type(layout, name), base)
        if not isinstance(row.get("source"), (list, type(None))):
            row["source"] = [row["source"]]
        if "turns" in row:
            _close_dialogue(row)
        for name in layout.needs:
            if is_nothing(row.get(name)):
                raise RowError(f"no {name}", f"nothing at {_places(layout.columns.get(name, name))}")
        if "turns" in layout.needs:
            for number, turn in enumerate(row["turns"], 1):
                if is_nothing(turn.get("target")):  # the next turn edits what nobody has
                    raise RowError("no target", f"nothing at turn {number} of {len(row['turns'])}")
        self._name_tasks(layout, row)
        return row

    @staticmethod
    def _name_tasks(layout: Layout, row: Record) -> None:
        native = row.get("task")
        if isinstance(native, str) and layout.tasks:
            row["provenance"] = {**(row.get("provenance") or {}), "native_task": native}
            row["task"] = layout.tasks.get(task_key(native))
        if layout.task is not None and row.get("task") is None:
            row["task"] = layout.task
        for turn in row.get("turns") or ():
            if layout.tasks and isinstance(turn.get("task"), str):
                turn["task"] = layout.tasks.get(task_key(turn["task"]))

    def _located(self, value: Any, kind: pa.DataType | None, base: str) -> Any:
        """A value with the paths in it, where its type has images, as images."""
        if kind is None or value is None or not _has_images(kind):
            return value
        if isinstance(value, list):
            inner = kind.value_type if pa.types.is_list(kind) else kind
            return [self._located(item, inner, base) for item in value if not is_nothing(item)]
        if pa.types.is_list(kind):
            kind = kind.value_type
        if kind != IMAGE:
            if not isinstance(value, dict):
                raise RowError("no record", str(value)[:80])
            types = {item.name: item.type for item in kind}
            return {name: self._located(item, types.get(name), base) for name, item in value.items()}
        if isinstance(value, dict) and value.keys() == IMAGE_FIELDS:
            return value
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            return reference(bytes=value["bytes"])
        if isinstance(value, bytes):
            return reference(bytes=value)
        path = value.get("path") or value.get("file") if isinstance(value, dict) else value
        if not isinstance(path, str):
            raise RowError("not a path", str(value)[:80])
        return self.roots.find(base, path)


def asked_for(pairs: list[tuple[str, str]], images: Iterable[str], roots: Roots) -> Arrangement:
    """What --map, --image and --root ask for: columns that nobody names are what they are called. Raises UsageError."""
    said: dict[str, tuple[str, ...]] = {}
    for new, old in pairs:
        if new in said and new != "source":
            raise UsageError(f"--map {new}={old}: both would be called `{new}`")
        said[new] = (*said.get(new, ()), old)
    heads = {name.partition(".")[0] for name in said}
    taken = {name for places in said.values() for written in places for name in FieldPath(written).columns}
    alone = {"source": "source", "target": "target|image|file_name"}
    own = {name: alone.get(name, name) for name in COLUMNS if name not in ("id", "provenance")}
    own |= {name: name for name in images}
    free = {name: place for name, place in own.items() if name not in heads | taken}
    columns = {**free, **{name: places if len(places) > 1 else places[0] for name, places in said.items()}}
    made = Arrangement("--map", [Layout(columns, images=tuple(images), needs=())], roots=roots)
    made.asked = pairs
    return made


def _places(written: str | tuple[str, ...]) -> str:
    return written if isinstance(written, str) else " or ".join(written)


def task_key(name: str) -> str:
    """What a task of others is known by, however it is spelled: `Subject-Add`, `subject add`."""
    return re.sub(r"[\s\-_]+", "_", name.strip().casefold())


def _without_holes(sources: list[Any]) -> list[Any] | None:
    """Sources without those that are missing at the end. Raises RowError where one before another is missing: the next
    would stand in its place, a sketch in that of the image to edit."""
    there = [not is_nothing(item) for item in sources]
    count = sum(there)
    if not all(there[:count]):
        raise RowError("no source", f"nothing at number {there.index(False) + 1} of {len(sources)}")
    return sources[:count] or None


def _close_dialogue(row: Record) -> None:
    """What is known of a dialogue as a whole: its last image, and all its texts in a row."""
    turns = row["turns"] or []
    for number, turn in enumerate(turns):
        turn.setdefault("parent", number - 1)
        turn["instruction"] = _with_text(None, "", turn.get("instruction"))
    if turns and row.get("target") is None:
        row["target"] = turns[-1].get("target")
    if turns and row.get("instruction") is None:
        texts = [turn["instruction"] or {} for turn in turns]
        said = {name: [text[name] for text in texts if isinstance(text.get(name), str)] for name in ("en", "zh")}
        row["instruction"] = {language: " ".join(words) for language, words in said.items() if words} or None


def _with_text(known: Record | None, language: str, value: Any) -> Record | None:
    """A text of the record with one more wording, of a language or of the one that it is in; the first one stays."""
    value = value[0] if isinstance(value, list) and value else value
    if not isinstance(value, (str, dict)) or not value:
        return known
    said = {language: value} if language else columns.in_its_language(value)
    return {**said, **(known or {})}


def _number(value: Any) -> float | None:
    """A score as a number, which some keep as text; None for none."""
    try:
        return None if isinstance(value, (bool, list, dict)) or value is None else float(value)
    except ValueError:
        return None


def _free(name: str, taken: Iterable[str]) -> str:
    """Name of a foreign column beside ours."""
    there = {*taken}
    while name in there or (name in COLUMNS and name != "id" and name != "provenance"):
        name = f"user_{name}"
    return name


def _type(layout: Layout, name: str) -> pa.DataType | None:
    return COLUMNS.get(name, IMAGE if name in layout.images else None)


def _has_images(kind: pa.DataType | None) -> bool:
    if kind is None or kind == IMAGE:
        return kind is not None
    if pa.types.is_list(kind):
        return _has_images(kind.value_type)
    return pa.types.is_struct(kind) and any(_has_images(item.type) for item in kind)


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_struct(kind):
        return kind != IMAGE and any(_holds_text(item.type) for item in kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _leaves(value: Any) -> Iterator[Record]:
    if isinstance(value, dict):
        if value.keys() == IMAGE_FIELDS:
            yield value
        else:
            yield from _leaves(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
