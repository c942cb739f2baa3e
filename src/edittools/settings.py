"""Settings: of stages, as frozen dataclasses, and from TOML tables, checked against a dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edittools.errors import UsageError

MAX_PIXELS = 200_000_000  # of an image; larger ones are rejected before they are decoded

S = TypeVar("S")
Conf = TypeVar("Conf", bound="Config")


def read_settings(kind: type[S], values: dict[str, Any], where: str) -> S:
    """Check the names and types of settings against a dataclass. Raises UsageError."""
    types = typing.get_type_hints(kind)
    if unknown := sorted(set(values) - set(types)):
        raise UsageError(f"{where}: no setting `{unknown[0]}`", hint=f"settings: {', '.join(types)}")
    needed = [
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := sorted(set(needed) - set(values)):
        raise UsageError(f"{where}: setting `{missing[0]}` is missing")
    return kind(**{name: read_value(value, types[name], f"{where}: `{name}`") for name, value in values.items()})


def field_comments(path: Path, name: str) -> dict[str, str]:
    """What the comments of a class's fields say, by field; from its file, so that nothing has to be imported."""
    _, found, rest = path.read_text(encoding="utf-8").partition(f"\nclass {name}:\n")
    body = re.split(r"\n(?=\S)", rest, maxsplit=1)[0] if found else ""
    return dict(re.findall(r"^    (\w+): [^#\n]*  # (.+)$", body, re.M))


def literal_comments(path: Path, name: str) -> dict[str, tuple[str, str]]:
    """Of a file's table NAME = {...} with an entry a line: by key, how the value is written, and its comment."""
    _, _, rest = path.read_text(encoding="utf-8").partition(f"\n{name} = {{")
    body = rest.partition("\n}")[0]
    return {key: (value, said) for key, value, said in re.findall(r'^    "(\w+)": (.+?),  # (.+)$', body, re.M)}


def field_defaults(path: Path, name: str) -> dict[str, str]:
    """How the defaults of a class's fields are written, by field, likewise; those without one are left out."""
    _, found, rest = path.read_text(encoding="utf-8").partition(f"\nclass {name}:\n")
    body = re.split(r"\n(?=\S)", rest, maxsplit=1)[0] if found else ""
    factories = {"dict": "{}", "list": "[]"}
    return {
        field: factories.get(factory, factory.removeprefix("lambda: ")) or plain
        for field, factory, plain in re.findall(
            r"^    (\w+): [^=#\n]*= (?:field\(default_factory=(.+)\)|(.+?))  # .+$", body, re.M
        )
    }


def table_comments(path: Path) -> dict[str, str]:
    """What the comments behind the values of a TOML file say, by TABLE.KEY."""
    table, found = "", {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\[([\w.]+)\].*", line):
            table = f"{match[1]}."
        elif match := re.fullmatch(r"""([\w.]+) *= *(?:"[^"]*"|[^"#])* *# *(.+)""", line):
            found[table + match[1]] = match[2]
    return found


def read_value(value: Any, kind: Any, where: str) -> Any:
    """A TOML or command-line value as int, float, bool, str, a list of them, or a table. Raises UsageError."""
    if isinstance(value, str) and kind is not str:
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise UsageError(f"{where} is not a number: {value}") from None
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # X | None, whose None is not written
        return read_value(value, inner[0], where)
    if kind is str and type(value) in (int, float):
        return str(value)  # a name that looks like a number: `version = 1.1`, `version=1.1`
    if kind is float and type(value) is int:
        return read_value(float(value), kind, where)
    if origin is list and isinstance(value, list):
        return [read_value(item, inner[0], where) for item in value]
    if origin is dict and isinstance(value, dict):
        return {name: item if inner[1] is Any else read_value(item, inner[1], where) for name, item in value.items()}
    if type(value) is kind:
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{where} must be a finite number, not {value!r}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UsageError(f"{where} must have 64 bits at most, not {value!r}")
        return value
    name = kind.__name__ if isinstance(kind, type) and origin is None else str(kind)
    raise UsageError(f"{where} must be {name}, not {value!r}")


# ---------------------------------------------------------------- what a stage can be told


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a field of a Config says of itself: the options, the manual and the history are printed from it."""

    help: str
    flag: str | None = None  # where the option is not --NAME
    metavar: str | None = None
    group: str = "Selection"  # heading in the help
    recorded: bool = True  # in the history: it changes the result
    choices: Sequence[str] | None = None
    low: float | None = None
    high: float | None = None
    parse: Callable[[Any], Any] | None = None  # what is given -> the value; ValueError, UsageError


def setting(default: Any, help: str, **said: Any) -> Any:
    """A field of a Config with its default (dataclasses.MISSING: it has to be given); the rest is as in Setting."""
    return dataclasses.field(default=default, metadata={"setting": Setting(help, **said)})


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a stage, checked. Subclasses are frozen dataclasses whose fields are made by `setting`.

    From one of them come the options of the command, what its history records, its manual and the Python API.
    Raises UsageError that names the option, for values that it does not take.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            said, value = field.metadata["setting"], getattr(self, field.name)
            if said.parse is not None:
                try:
                    value = said.parse(value)
                except ValueError as error:
                    raise UsageError(f"{flag_of(field)} {value}: {error}") from None
                object.__setattr__(self, field.name, value)
            if value is None:
                continue
            if said.choices is not None and value not in said.choices:
                raise UsageError(f"{flag_of(field)} {value}: one of {', '.join(said.choices)}")
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{flag_of(field)} {value}: not a finite number")
            if (said.low is not None and value < said.low) or (said.high is not None and value > said.high):
                bounds = f"at least {said.low}" if said.high is None else f"{said.low} to {said.high}"
                raise UsageError(f"{flag_of(field)} {value}: {bounds}")

    def recorded(self, **resolved: Any) -> dict[str, Any]:
        """What the history records: every setting that changes the result, or what it was resolved to.

        Settings without a value are left out, so that a new one of a later release does not change the hash of what
        this one made. A 0 is a value, unless it is what stands there anyway.
        """
        chosen = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata["setting"].recorded and (getattr(self, field.name) != 0 or field.default != 0)
        } | resolved
        said = {name: value for name, value in chosen.items() if value is not None and value is not False}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in sorted(said.items()) if v != ()}


def flag_of(field: dataclasses.Field) -> str:
    """`--per-row` of `per_row`."""
    return field.metadata["setting"].flag or "--" + field.name.replace("_", "-")


def configured(kind: type[Conf], settings: dict[str, Any]) -> Conf:
    """A Config of settings by their names, or by the names of their options. Raises UsageError for one it has not."""
    known = {field.name: field.name for field in dataclasses.fields(kind)}
    known |= {flag_of(field).partition("/")[0][2:].replace("-", "_"): field.name for field in dataclasses.fields(kind)}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            raise UsageError(f"no setting `{name}`", hint=f"near it: {', '.join(near)}" if near else None)
    return kind(**{known[name]: value for name, value in settings.items()})


def from_words(kind: type[Conf], words: Sequence[str]) -> Conf:
    """A Config of options as a command line has them. Raises UsageError."""
    fields = {name: field for field in dataclasses.fields(kind) for name in flag_of(field).split("/")[:1]}
    types_ = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    rest = list(words)
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        if flag not in fields:
            near = difflib.get_close_matches(flag, fields, 3)
            raise UsageError(f"no option `{flag}`", hint=f"near it: {', '.join(near)}" if near else None)
        field = fields[flag]
        if types_[field.name] is bool and not equals:
            given[field.name] = True
            continue
        if not equals and not rest:
            raise UsageError(f"{flag} needs a value")
        text = text if equals else rest.pop(0)
        several = field.default == () and field.metadata["setting"].parse is None
        read = text if types_[field.name] is Any else _read_word(text, types_[field.name], flag)
        given[field.name] = (*given.get(field.name, ()), text) if several else read
    try:
        return kind(**given)
    except TypeError as error:  # one that has to be given is missing
        raise UsageError(str(error).partition(") ")[2] or str(error)) from None


def _read_word(text: str, kind: Any, flag: str) -> Any:
    for number in (int, float):
        if kind in (number, number | None):
            return read_value(text, number, flag)
    return text


def names_of(value: Any) -> tuple[str, ...]:
    """`a,b` or a list of names as a tuple without repetitions."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(name.strip() for name in parts if name.strip()))


def seed_setting(meaning: str = "Combined with each row's id: a row's result depends on nothing else.") -> Any:
    """The field `seed`: an integer of 64 bits, which is what provenance has room for."""
    return setting(0, meaning, metavar="N", parse=checked_seed)


def checked_seed(value: int) -> int:
    """Raises UsageError."""
    if not -(1 << 63) <= value < 1 << 63:
        raise UsageError(f"--seed {value}: has more than 64 bits")
    return value


def max_pixels_setting() -> Any:
    """The field `max_pixels`."""
    meaning = "Reject images with more pixels than this before decoding them."
    return setting(MAX_PIXELS, meaning, group="Input", metavar="N", low=1)


def mark_setting() -> Any:
    """The field `mark`: the column that says what a stage that drops rows would have dropped, and keeps all."""
    meaning = "Keep every row but those that fail, which are rejected; the column says null (kept) or the reason."
    return setting(None, meaning, group="Output", metavar="COLUMN", parse=_column)


def _column(name: str | None) -> str | None:
    if name == "":
        raise UsageError("--mark: a column needs a name")
    return name


@dataclasses.dataclass(frozen=True)
class Placed(Config):
    """How the models of a stage are run. A stage that has none records none of this."""

    device: str | None = setting(None, "cpu, cuda, cuda:1, mps. Default: cpu.", group="Model", metavar="NAME")
    dtype: str | None = setting(
        None,
        "Precision of the weights. Default: float32.",
        group="Model",
        choices=("float32", "bfloat16", "float16"),
    )

    @property
    def placed(self) -> dict[str, str]:
        """Where and how a model is loaded."""
        return {"device": self.device or "cpu", "dtype": self.dtype or "float32"}

    def without_models(self) -> dict[str, None]:
        """For `recorded`, where no model was asked."""
        return dict.fromkeys({"device", "dtype", "batch_size"} & {field.name for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True)
class PlacedInBatches(Placed):
    """Likewise, of models that are asked about several rows at once."""

    batch_size: int | None = setting(
        None,
        "Rows that a model is asked about together. Default: 32, or 8 for generative models.",
        group="Model",
        metavar="N",
        low=1,
    )
