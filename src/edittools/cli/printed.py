"""What the documents of docs/ print from the code: tables in Markdown, by the name of the block that they fill."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from edittools.settings import field_comments, field_defaults, literal_comments

PACKAGE = Path(__file__).parents[1]


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    heads = list(titles)
    lines = [heads, ["---"] * len(heads), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def columns() -> str:
    """The columns of a row, with their types and what the comments in record.py say of them."""
    from edittools.record import COLUMNS

    body = _record().partition("COLUMNS: ")[2].partition("\n}\n")[0]
    said = dict(re.findall(r'^    "(\w+)": .+?,  # (.+)$', body, re.M))
    kinds = dict(re.findall(r'^    "(\w+)": (.+?),  # ', body, re.M))
    return table(("column", "type", "meaning"), ((f"`{name}`", _type(kinds[name]), said[name]) for name in COLUMNS))


def structs() -> str:
    """The structs that columns consist of, likewise."""
    names = ("IMAGE", "STORED_IMAGE", "TEXT", "TURN", "OBJECT", "PROVENANCE")
    return "\n\n".join(_struct(PACKAGE / "record.py", name) for name in names)


def command_structs() -> str:
    """Those of columns that commands add."""
    found = {
        "judge/stage.py": "JUDGEMENT",
        "caption/model_stage.py": "ANNOTATION",
        "bench/case_list.py": "CASE",
    }
    return "\n\n".join(_struct(PACKAGE / file, name) for file, name in found.items())


def _struct(path: Path, name: str) -> str:
    body = path.read_text(encoding="utf-8").partition(f"\n{name} = pa.struct(\n")[2].partition("\n)\n")[0]
    rows = re.findall(r'^        \("(\w+)", (.+)\),  # (.+)$', body, re.M)
    return f"### {name}\n\n" + table(
        ("field", "type", "meaning"), ((f"`{field}`", _type(kind), said) for field, kind, said in rows)
    )


def _record() -> str:
    return (PACKAGE / "record.py").read_text(encoding="utf-8")


def _type(written: str) -> str:
    """`pa.list_(IMAGE)` as `list of IMAGE`."""
    inner = re.fullmatch(r"pa\.list_\((.+)\)", written)
    return f"list of {_type(inner[1])}" if inner else re.sub(r"pa\.(\w+?)_?\(\)", r"\1", written)


def tasks() -> str:
    """Every canonical task, and what the benchmarks call it; those of reasoning have tasks of one kind only."""
    from edittools.record import TASKS
    from edittools.suites import benchmarks

    shown = [one for one in benchmarks().values() if len(set(one.canonical.values())) > 1]
    rows = (
        [f"`{task}`", *(", ".join(name for name, ours in one.canonical.items() if ours == task) for one in shown)]
        for task in TASKS
    )
    return table(("task", *(one.name for one in shown)), rows)


def filter_scores() -> str:
    """The scores that `edit filter` stores, one per filter."""
    from edittools.filter import all_filters

    stored = (item for item in all_filters().values() if item.stored)
    rows = ((f"`{item.name}`", f"`{item.flag}`", item.help, item.unit) for item in stored)
    return table(("score", "option", "meaning", "unit"), rows)


def rubric_scores() -> str:
    """The scores that `edit judge` stores, one per dimension of a rubric."""
    from edittools.judge.judgements import score_name
    from edittools.judge.rubrics import load_rubric, rubric_names

    rows = []
    for rubric in map(load_rubric, rubric_names()):
        names = ", ".join(f"`{score_name(rubric.name, d.name)}` ({d.low:g}–{d.high:g})" for d in rubric.dimensions)
        rows.append((f"`{rubric.name}`", rubric.summary, names))
    return table(("rubric", "what it is", "scores (range)"), rows)


def datasets() -> str:
    """The published data sets that `edit shard --from` reads."""
    from edittools.ingest import dataset_names, load_dataset

    rows = []
    for name in dataset_names():
        one = load_dataset(name)
        mapped = ", ".join(f"`{column}`" if " " not in column else column for column in one.mapped())
        rows.append((f"`{name}`", one.title, one.size, one.license, mapped, one.unverified))
    return table(("--from", "data set", "size", "license", "what is mapped", "not verified"), rows)


def recipes() -> str:
    """The recipes that ship, with the first line of each."""
    from edittools.train.config import recipe_names, recipe_path

    first = {name: recipe_path(name).read_text(encoding="utf-8").partition("\n")[0] for name in recipe_names()}
    return table(("recipe", "what it trains"), ((f"`{name}`", line.lstrip("# ")) for name, line in first.items()))


def recipe_keys() -> str:
    """Every key of a recipe, with its default and meaning."""
    return _keys(PACKAGE / "train/config.py", "Recipe")


def objectives() -> str:
    """What there is to learn by, and the settings of each."""
    from edittools.train.config import OBJECTIVES

    rows = []
    for name, said in OBJECTIVES.declared("HELP").items():
        own = literal_comments(OBJECTIVES.path(name), "SETTINGS")
        settings = "; ".join(f"`{key} = {value}` {meaning}" for key, (value, meaning) in own.items())
        rows.append((f"`{name}`", said, settings))
    return table(("`objective`", "what it is", "`objective_settings`"), rows)


def model_keys() -> str:
    """The keys of a recipe's table `model`, architecture by architecture, and of `model.lora`."""
    from edittools.nets import ARCHITECTURES

    parts = []
    for name in ARCHITECTURES.names:
        parts.append(f'### `system = "{name}"`\n\n' + _keys(ARCHITECTURES.path(name), "Settings"))
    parts.append("### `[model.lora]`\n\n" + _keys(PACKAGE / "nets/lora.py", "LoraSettings"))
    return "\n\n".join(parts)


def _keys(path: Path, name: str) -> str:
    toml = {"True": "true", "False": "false", "None": "unset"}
    defaults = {key: toml.get(value, value) for key, value in field_defaults(path, name).items()}
    rows = (
        (f"`{key}`", f"`{defaults[key]}`" if key in defaults else "needed", said)
        for key, said in field_comments(path, name).items()
    )
    return table(("key", "default", "meaning"), rows)


BLOCKS = {
    "columns": columns,
    "structs": structs,
    "command-structs": command_structs,
    "tasks": tasks,
    "filter-scores": filter_scores,
    "rubric-scores": rubric_scores,
    "datasets": datasets,
    "recipes": recipes,
    "recipe-keys": recipe_keys,
    "objectives": objectives,
    "model-keys": model_keys,
}
