"""Text from outside (captions, JSON, names in tars) as valid Unicode: the one place that decides what bytes mean.

What is valid UTF-8 is UTF-8. Otherwise a byte order mark decides, then the zero bytes of UTF-16; text that is UTF-8 but
for some damage keeps what is whole; then GBK, where the bytes above 127 come in pairs of common Chinese characters;
else Windows-1252, which every byte has a meaning in. The last three are guesses: `Guesses` counts them, so that a
command can say so. Half of a surrogate pair, which a JSON escape may be, is no character: U+FFFD stands for it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from typing import Any

import pyarrow as pa

_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_LETTER = re.compile(r"[A-Za-z]")
_PAIRS = re.compile(rb"(?:[\x81-\xfe][\x40-\xfe])+")

Guesses = Counter[str]


def decode(data: bytes, guesses: Guesses | None = None) -> str:
    """Bytes as text, without a byte order mark, line ends as they are. A guess at the encoding is counted."""
    if data.isascii() and b"\0" not in data:  # most of it, and names in tars are many
        return data.decode()
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    try:
        return data.decode(_sixteen_bits(data) or "utf-8")
    except UnicodeDecodeError:
        pass
    text, name = _guess(data)
    if guesses is not None:
        guesses[name] += 1
    return text


def lines(data: bytes, guesses: Guesses | None = None) -> str:
    """A text file's content: decoded, line ends as line feeds, none at its ends."""
    text = decode(data, guesses)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip("\n")


def _sixteen_bits(data: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of its ASCII characters is zero."""
    zeros = data.count(0)
    if not zeros or len(data) % 2 or zeros * 3 < len(data):
        return None
    even = data[::2].count(0)
    return "utf-16-le" if even * 4 < zeros else "utf-16-be" if even * 4 > 3 * zeros else None


def _guess(data: bytes) -> tuple[str, str]:
    text = data.decode("utf-8", "replace")
    # Characters of three bytes and more: pairs of bytes that are UTF-8 by accident are common in GBK.
    if sum(sign > "\u07ff" and sign != "\ufffd" for sign in text) > text.count("\ufffd"):
        return text, "damaged UTF-8"
    if _looks_chinese(data):
        return data.decode("gb18030"), "GBK"
    return data.decode("cp1252", "cp1252-whole"), "Windows-1252"


def _looks_chinese(data: bytes) -> bool:
    """Whether most of what is not ASCII are characters of GB 2312, whose bytes are both above 160.

    One such pair between letters is two accented letters of a word (`créé`): Chinese stands in longer runs, or apart.
    """
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    common = rare = 0
    for run in _PAIRS.finditer(data):
        pairs = [run[0][k : k + 2] for k in range(0, len(run[0]) - 1, 2)]
        whole = sum(pair[1] > 0xA0 for pair in pairs)
        around = data[max(run.start() - 1, 0) : run.start()] + data[run.end() : run.end() + 1]
        if len(pairs) == 1 and _LETTER.search(around.decode("latin-1")):
            whole = 0
        common += whole
        rare += len(pairs) - whole
    return common > rare


def _as_latin(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("cp1252-whole", _as_latin)  # for the five bytes that Windows-1252 leaves open


def valid(text: str) -> str:
    """A string as valid Unicode: bytes that Python could not decode are decoded, other half pairs are U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return decode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def valid_value(value: Any) -> Any:
    """A value of JSON with every string in it valid, names included."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, list):
        return [valid_value(item) for item in value]
    if isinstance(value, dict):
        return {valid(name): valid_value(item) for name, item in value.items()}
    return value


def valid_array(array: pa.Array) -> pa.Array:
    """A column with every string in it valid, at any depth; files may hold any bytes as text."""
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            array.validate(full=True)
            return array
        except pa.ArrowInvalid:
            held = array.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()).to_pylist()
            return pa.array([None if data is None else decode(data) for data in held], type=kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        values = array.values.slice(first, last - first)
        inner = valid_array(values)
        if inner is values:
            return array
        made = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
        import pyarrow.compute as pc  # 40 ms, which reading a shard set can do without

        starts = pc.subtract(array.offsets, array.offsets[0])
        return made.from_arrays(starts, inner, mask=array.is_null() if array.null_count else None)
    if pa.types.is_struct(kind) and kind.num_fields:
        fields = array.flatten()
        valid_fields = [valid_array(item) for item in fields]
        if all(new is old for new, old in zip(valid_fields, fields)):
            return array
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(valid_fields, fields=list(kind), mask=mask)
    return array


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. One that has a name twice keeps both values, the second as `user_NAME`."""
    made = dict(pairs)
    if len(made) < len(pairs):
        made = {}
        for name, value in pairs:
            while name in made and made[name] != value:
                name = f"user_{name}"
            made[name] = value
    return made


_DEEPEST = 200  # levels of lists and objects in JSON
JSON = json.JSONDecoder(object_pairs_hook=_object)


def load_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, or RecursionError where it is nested too deep."""
    value = JSON.decode(text)
    if text.count("[") + text.count("{") > _DEEPEST:
        refuse_deep(value)
    return valid_value(value) if _HALF_ESCAPE.search(text) else value


def refuse_deep(value: Any) -> None:
    """Raises RecursionError for what is nested deeper than functions that call themselves may look into it."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_DEEPEST):
        level = [item for found in level for item in (found.values() if isinstance(found, dict) else found)]
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return
    raise RecursionError(f"nested deeper than {_DEEPEST} levels")
