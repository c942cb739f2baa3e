"""Rows that others wrote (JSON sidecars, JSON lines, foreign tars) as columns of the record.

The types of such rows are not declared, so they are observed first: whole numbers and decimals meet as
decimals, records field by field, and whatever does not meet, dictionaries keyed by ids among it, becomes JSON text.
Nothing is dropped.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Container
from typing import Any

import pyarrow as pa

from edittools.record import COLUMNS, IMAGE
from edittools.stream.batch import map_type

_MOST_KEYS, _SPARSE = 128, 4  # of a record, and how many times those of one value, see `meet`
_DEEPEST = 24  # lists and records in each other
_EXACT = 1 << 53  # whole numbers up to this are decimals without loss
_LONG = pa.uint64()  # while types are observed: whole numbers that no decimal holds, which meet decimals as text
_IMAGES = pa.list_(IMAGE)
_OF_RARE = b"edit.rare"
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|「[^」]*」|『[^』]*』|《[^》]*》|(?<!\w)'[^']*'(?!\w)|‘[^’]*’")
_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"[A-Za-zÀ-ɏ]+(?:['’][a-z]+)?")
# Words that hold a sentence together, and hardly stand in what a sentence of the other language quotes.
_ENGLISH = frozenset(
    "a an the this that it its of in on at to into from with without by for and or but is are be as so not "
    "make change remove add replace turn put let give please".split()
)
_PARTICLES = re.compile("[把将的了在和与为成是让使给被从到里上下中换改去]")


def language(text: str) -> str:
    """`zh` or `en`: the language of the sentence, whatever it quotes from the other one.

    What stands in quotation marks does not count where anything else is left. English that holds Chinese signs, or the
    reverse, is told by the words that only a sentence has; where both languages have them, by what comes first, and
    where neither has, by whether there are more English words than Chinese signs.
    """
    if not _CHINESE.search(text):
        return "en"
    rest = _QUOTED.sub(" ", text)
    if not _CHINESE.search(rest) and not _WORD.search(rest):
        rest = text
    words = [word.lower() for word in _WORD.findall(rest)]
    signs = len(_CHINESE.findall(rest))
    if not signs or not words:
        return "zh" if signs else "en"
    english, chinese = not _ENGLISH.isdisjoint(words), _PARTICLES.search(rest) is not None
    if english != chinese:
        return "en" if english else "zh"
    if english:
        first, other = _WORD.search(rest), _CHINESE.search(rest)
        assert first is not None and other is not None
        return "en" if first.start() < other.start() else "zh"
    return "en" if len(words) > signs else "zh"


def put(row: dict[str, Any], name: str, value: Any) -> None:
    """Add a value to a row under a name, or where another one stands under it already, under `user_NAME`."""
    while name in row and row[name] is not None and row[name] != value:
        name = f"user_{name}"
    row[name] = value


def normalise(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the record's own columns in the record's shape.

    A plain string for a text is English or Chinese, see `language`; one source image is a list of one. What does not
    fit a column of the record, be it the value, or single keys of its objects or turns, is kept under `user_NAME`.
    """
    result: dict[str, Any] = {}
    left_over: dict[str, Any] = {}
    for name, value in row.items():
        if name in COLUMNS and value is not None:
            value = _shape(name, value)
            if not _SURELY[name](value) and not _fits(value, COLUMNS[name]):
                value, left_over[name] = _split(value, COLUMNS[name])
        result[name] = value
    for name, value in left_over.items():
        if value is not None:
            put(result, f"user_{name}", value)
    return result


def suits(name: str, value: Any) -> bool:
    """Whether a value can stand in a column of the record, all of it."""
    return _fits(_shape(name, value), COLUMNS[name])


def _shape(name: str, value: Any) -> Any:
    """A value for a column of the record from what others write there, where there is one way to read it."""
    if name == "id" and isinstance(value, (int, float)):
        return str(value)
    if name == "source" and _is_image(value):
        return [value]
    if name in ("instruction", "caption"):
        return in_its_language(value)
    if name == "turns" and isinstance(value, list):
        return [_turn(turn) for turn in value]
    return value


def _turn(value: Any) -> Any:
    if not isinstance(value, dict) or "instruction" not in value:
        return value
    return {**value, "instruction": in_its_language(value["instruction"])}


def in_its_language(value: Any) -> Any:
    """A plain string as a text of the record: {language: string}."""
    return {language(value): value} if isinstance(value, str) else value


@functools.cache
def _fields(kind: pa.StructType) -> dict[str, pa.DataType]:
    """Names and types of a record: asking Arrow for them at every row costs more than the row."""
    return {field.name: field.type for field in kind}


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether Arrow takes the whole value as this type, of which it does not notice everything itself."""
    if not _known(value, kind):
        return False
    try:
        pa.array([value], type=kind)
        return True
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        return False


def _surely(kind: pa.DataType) -> Callable[[Any], bool]:
    """A check which values Arrow takes as a type without asking it, which costs more than the rest of a row: it says
    yes to most of those that Arrow takes, and to no others."""
    if pa.types.is_string(kind):
        return lambda value: value is None or (type(value) is str and _is_unicode(value))
    if pa.types.is_integer(kind):
        most = 1 << kind.bit_width - 1
        return lambda value: value is None or (type(value) is int and -most <= value < most)
    if pa.types.is_floating(kind):
        return lambda value: value is None or type(value) is float
    if pa.types.is_list(kind):
        inner = _surely(kind.value_type)
        return lambda value: value is None or (type(value) is list and all(map(inner, value)))
    if pa.types.is_struct(kind):
        checks = {name: _surely(field) for name, field in _fields(kind).items()}
        return lambda value: (
            value is None
            or (type(value) is dict and all(name in checks and checks[name](item) for name, item in value.items()))
        )
    return lambda value: value is None


def _is_unicode(value: str) -> bool:
    if value.isascii():
        return True
    try:
        return bool(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


_SURELY = {name: _surely(kind) for name, kind in COLUMNS.items()}


def _known(value: Any, kind: pa.DataType) -> bool:
    """Whether objects stand where the type has them, and it has every name in them, and lists where it has lists."""
    if value is None:
        return True
    if pa.types.is_struct(kind):
        if not isinstance(value, dict):
            return False
        fields = _fields(kind)
        return value.keys() <= fields.keys() and all(_known(item, fields[name]) for name, item in value.items())
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_known(item, kind.value_type) for item in value)
    return not isinstance(value, (dict, list))


def _split(value: Any, kind: pa.DataType) -> tuple[Any, Any]:
    """The part of a value that fits a type, and what is left over; None for nothing."""
    if _fits(value, kind):
        return value, None
    if pa.types.is_struct(kind) and kind != IMAGE and isinstance(value, dict):
        fields = _fields(kind)
        parts = {name: _split(item, fields[name]) if name in fields else (None, item) for name, item in value.items()}
        kept = {name: fitting for name, (fitting, _) in parts.items() if fitting is not None}
        left = {name: rest for name, (_, rest) in parts.items() if rest is not None}
        return (kept, left) if kept else (None, value)
    if pa.types.is_list(kind) and isinstance(value, list):
        pairs = [_split(item, kind.value_type) for item in value]
        if any(fitting is not None for fitting, _ in pairs):
            return [fitting for fitting, _ in pairs], [rest for _, rest in pairs]
    return None, value


def _is_image(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == _fields(IMAGE).keys()


def all_images(value: Any) -> bool:
    """Whether a value is an image, or a list of them."""
    return all(map(all_images, value)) if isinstance(value, list) else value is None or _is_image(value)


def type_of(value: Any, depth: int = 0) -> pa.DataType:
    """The Arrow type of a JSON value; what lies deeper than Arrow's streams may be nested is text (JSON)."""
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            return pa.string()
        return pa.int64() if abs(value) <= _EXACT or float(value) == value else _LONG
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, bytes):
        return pa.binary()
    if depth == _DEEPEST and isinstance(value, (list, dict)):
        return pa.string()
    if isinstance(value, list):
        kind: pa.DataType = pa.null()
        for item in value:
            kind = meet(kind, type_of(item, depth + 1))
        return pa.list_(kind)
    if isinstance(value, dict):
        if _is_image(value):
            return IMAGE
        if not value:
            return pa.null()  # Arrow and Parquet have no record without fields
        return pa.struct([(str(name), type_of(item, depth + 1)) for name, item in value.items()])
    return pa.string()


def meet(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """A type that holds values of both; text (JSON) where nothing narrower does, bytes where one of them is bytes.

    A record that has met more than 128 keys, and meets a value with keys of its own and less than a quarter of them, is
    a dictionary, keyed by ids as it were: as a record every row would have the keys of all rows.
    """
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if pa.types.is_binary(a) or pa.types.is_binary(b):
        return pa.binary()
    if {a, b} == {pa.int64(), _LONG}:
        return _LONG
    numeric = [pa.int64(), pa.float64()]
    if a in numeric and b in numeric:
        return pa.float64()
    if pa.types.is_list(a) and pa.types.is_list(b):
        return pa.list_(meet(a.value_type, b.value_type))
    if pa.types.is_struct(a) and pa.types.is_struct(b) and IMAGE not in (a, b):
        new = [field.name for field in b if a.get_field_index(field.name) < 0]
        names = [field.name for field in a] + new
        if new and is_dictionary(len(names), b.num_fields):
            return pa.string()
        none = pa.null()
        fields = []
        for name in names:
            left = a.field(name).type if a.get_field_index(name) >= 0 else none
            right = b.field(name).type if b.get_field_index(name) >= 0 else none
            fields.append((name, meet(left, right)))
        return pa.struct(fields)
    return pa.string()


def fit(value: Any, kind: pa.DataType) -> Any:
    """The value as `kind` takes it: JSON text where the type had to become text."""
    return None if value is None else _fitting(kind)(value)


@functools.cache
def _fitting(kind: pa.DataType) -> Callable[[Any], Any]:
    """`fit` for values of one type, None aside: asking Arrow for the type at every value costs more than the value."""
    if kind == IMAGE:
        return lambda value: value
    if pa.types.is_null(kind):
        return lambda value: None  # of empty records only
    if pa.types.is_binary(kind):
        as_text = _fitting(pa.string())
        return lambda value: value if isinstance(value, bytes) else as_text(value).encode()
    if pa.types.is_string(kind):
        return lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if pa.types.is_list(kind):
        inside = _fitting(kind.value_type)
        return lambda value: (
            [None if item is None else inside(item) for item in value] if isinstance(value, list) else None
        )
    if pa.types.is_struct(kind):
        fields = {field.name: _fitting(field.type) for field in kind}

        def record(value: Any) -> Any:
            if not isinstance(value, dict) or (not value and fields):
                return None
            found = ((name, value.get(name), fitting) for name, fitting in fields.items())
            return {name: None if item is None else fitting(item) for name, item, fitting in found}

        return record
    floating = pa.types.is_floating(kind)
    # An empty record fits anywhere.
    return lambda value: float(value) if floating and isinstance(value, int) else None if value == {} else value


class ObservedSchema:
    """Gathers the columns of rows and their types. Of a column that holds images in some rows and something else in
    others, the something else goes to `user_NAME`.

    Where there are many names that hardly any row has, as of dictionaries keyed by ids, what stands under them becomes
    one column of JSON text, `user_keys`: every row would have the columns of all others.
    """

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}
        self.others: dict[str, pa.DataType] = {}  # of user columns, what is not an image
        self.times: Counter[str] = Counter()  # rows that have something there
        self.rows = 0

    def observe(self, row: dict[str, Any]) -> None:
        self.rows += 1
        for name, value in row.items():
            if name in COLUMNS:
                self.types[name] = COLUMNS[name]
            elif _is_image(value):
                self.types[name] = IMAGE
            else:
                self.times[name] += 1
                self.others[name] = meet(self.others.get(name, pa.null()), type_of(value))

    def schema(self) -> pa.Schema:
        """The record's columns first, in its order, then the user's, by name."""
        types = dict(self.types)
        rare = rare_names(self.times, self.rows) - types.keys()
        for name, observed in self.others.items():
            kind = map_type(observed, _LONG, pa.int64())
            if name in rare:
                continue
            if name not in types:
                types[name] = meet(types.get(name, pa.null()), kind)
            elif not pa.types.is_null(kind):
                beside = f"user_{name}"
                types[beside] = meet(map_type(self.others.get(beside, pa.null()), _LONG, pa.int64()), kind)
        own = [pa.field(name, kind) for name, kind in COLUMNS.items() if name in types]
        theirs = [pa.field(name, types[name]) for name in sorted(types) if name not in COLUMNS]
        return pa.schema(own + theirs + ([of_rare(free_name(types))] if rare else []))


def rare_names(times: Counter[str], of: int) -> set[str]:
    """Names that fewer than one in 128 `of` rows (or inputs) has, or one alone, where there are more than 128 of them
    and more than four times as many as a row has names."""
    rare = {name for name, n in times.items() if n * _MOST_KEYS < of}
    unique = {name for name, n in times.items() if n == 1}
    found = max(rare, unique, key=len)
    return found if is_dictionary(len(found), times.total() / max(of, 1)) else set()


def is_dictionary(names: int, of_one: float) -> bool:
    """Whether so many names of a record, of which one value has `of_one`, are keys of a dictionary."""
    return names > max(_MOST_KEYS, _SPARSE * of_one)


def free_name(taken: Container[str]) -> str:
    """Name of the column for rare names."""
    name = "user_keys"
    while name in taken:
        name = f"user_{name}"
    return name


def of_rare(name: str) -> pa.Field:
    """The column for what stands under rare names, by which `rare_column` knows it."""
    return pa.field(name, pa.string(), metadata={_OF_RARE: "1"})


def unmarked(schema: pa.Schema) -> pa.Schema:
    """The columns without that mark, which is not for others."""
    return pa.schema([(column.name, column.type) for column in schema])


def rare_column(schema: pa.Schema) -> str | None:
    """The column that holds, as JSON, what stands under names that hardly any row has."""
    return next((column.name for column in schema if column.metadata and _OF_RARE in column.metadata), None)


def to_batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Normalised rows as a batch of a schema that observed them. Raises what Arrow does where a value does not fit."""
    rest = rare_column(schema)
    columns = []
    for column in schema:
        name = column.name
        if name == rest:
            values: list[Any] = [_rest(row, schema) for row in rows]
        else:
            values = [row.get(name) for row in rows]
        if column.type == IMAGE and name not in COLUMNS:
            values = [value if _is_image(value) else None for value in values]
        elif name.startswith("user_") and _of_images(schema, name[5:]):
            values = [row.get(name[5:]) if value is None else value for value, row in zip(values, rows)]
            values = [None if _is_image(value) else value for value in values]
        if column.type not in (IMAGE, _IMAGES):  # which are references already
            fitting = _fitting(column.type)
            values = [None if value is None else fitting(value) for value in values]
        columns.append(pa.array(values, type=column.type))
    return pa.record_batch(columns, schema=schema if rest is None else unmarked(schema))


def _rest(row: dict[str, Any], schema: pa.Schema) -> str | None:
    """The fields of a row that the schema has no column for, as JSON."""
    beyond = {name: value for name, value in row.items() if schema.get_field_index(name) < 0 and value is not None}
    return json.dumps(beyond, ensure_ascii=False, default=_as_base64) if beyond else None


def _as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _of_images(schema: pa.Schema, name: str) -> bool:
    return name not in COLUMNS and name in schema.names and schema.field(name).type == IMAGE
