"""`edit man COMMAND NAME`: all that the file of one filter, rubric, benchmark or template declares, as plain text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping

import click

from edittools.errors import EditError

Sections = list[tuple[str, str]]
"""Headings and their texts. Blank lines part paragraphs; lines that begin with blanks stay as they are."""


def entry(command: str, name: str) -> str:
    """The text about one of them. Raises EditError where there is none."""
    if command not in KINDS:
        raise EditError(f"{command} {name}: no such page", hint=f"pages with a name are of {', '.join(KINDS)}")
    names, sections = KINDS[command]
    known = names()
    if name not in known:
        hint = f"there are: {', '.join(sorted(set(known.values())))}"
        raise EditError(f"{command} {name}: no such page", hint=hint)
    formatter = click.HelpFormatter(width=100)
    for heading, text in sections(known[name]):
        if text.strip():
            with formatter.section(heading):
                _write(formatter, text.strip("\n"))
    return formatter.getvalue().lstrip("\n")


def _write(formatter: click.HelpFormatter, text: str) -> None:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
        if number:
            formatter.write_paragraph()
        if paragraph.startswith(" "):
            formatter.write("".join(f"{' ' * formatter.current_indent}{line[2:]}\n" for line in paragraph.split("\n")))
        else:
            formatter.write_text(" ".join(paragraph.split()))


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _said(*things: object) -> str:
    """The docstrings, one after the other."""
    return "\n\n".join(text for thing in things if (text := inspect.getdoc(thing)))


# ---------------------------------------------------------------- edit filter


def _filter_names() -> dict[str, str]:
    """A filter goes by its file, by its score and by its option."""
    from edittools.filter import FILTERS

    found: dict[str, str] = {}
    for file, item in FILTERS.each("FILTER").items():
        found |= dict.fromkeys((item.flag.removeprefix("--"), item.name, file), file)
    return found


def _filter(file: str) -> Sections:
    from edittools.cli.filter_ import presets
    from edittools.filter import FILTERS, Model

    module = FILTERS.load(file)
    item = module.FILTER
    measures = (item.measure, item.from_size, item.from_header, item.measure_flow, item.measure_pair)
    least = "the least" if item.bare == "min" else "the most"
    bounds = [f"A single number is {least} that passes; A..B, q05.. and .. as `edit filter --help` says."]
    key = item.flag.removeprefix("--")
    bounds += [_listed(f"--preset {name}: {table[key]}" for name, table in presets().items() if key in table)]
    cost = item.cost_class
    if item.cost is not None and item.raster is not None and item.raster.short_side:
        cost += f", of which most is the decoding to a short side of {item.raster.short_side} pixels, shared by filters"

    def told(model: Model) -> str:
        weights = f"--{model.setting.replace('_', '-')}: {model.help}"
        further = [f"--{name.replace('_', '-')}: {said.metadata['setting'].help}" for name, said in model.told.items()]
        source = model.release(model.default) if model.default else None
        return "\n\n".join([weights, *further, *([f"Published at {source}"] if source else [])])

    where = f"A row has the measure of each image that --image names: of the source it is source_{item.name}."
    stored = f"scores.{item.name}" if item.stored else "no score: width and height are columns of the image itself"
    return [
        (f"edit filter {item.flag}", _said(module) + f"\n\n{item.help}"),
        ("How it is measured", _said(*filter(inspect.isfunction, measures))),
        ("Unit", item.unit),
        ("Bounds", "\n\n".join(bounds)),
        ("Cost", cost),
        ("Models", "\n\n".join(map(told, (*item.models, *item.optional)))),
        ("Columns", f"{stored}. {where if item.raster is not None else ''}"),
        ("Rejects", f"`{item.name}`, with the measured value; where it cannot be measured, the reason why."),
        ("Source", item.source),
    ]


# ---------------------------------------------------------------- edit judge, edit eval


def _rubric(name: str) -> Sections:
    from edittools.judge.rubrics import RUBRICS, load_rubric
    from edittools.suites import SUITES

    rubric = load_rubric(name)
    owner = RUBRICS.load(name) if name in RUBRICS.names else SUITES.load(name) if name in SUITES.names else None
    calls = sorted({call for one in rubric.dimensions for call in one.calls})
    texts = "The words are ours, in the rubric's file."
    if rubric.layout is not None:
        texts = (
            f"The words are the benchmark's: --prompts names {' or '.join(rubric.layout.files)}, or a folder with it."
        )
    return [
        (f"edit judge --rubric {name}", f"{rubric.summary}\n\n{_said(owner) if owner else ''}"),
        (
            "Columns",
            _listed(f"scores.judge_{name}_{one.name}: {one.low:g} to {one.high:g}" for one in rubric.dimensions),
        ),
        ("Calls", f"{len(calls)} for each row: {', '.join(calls)}. {texts}"),
        ("Images", ", ".join(rubric.images)),
        ("Tasks", "any" if rubric.tasks is None else ", ".join(rubric.tasks)),
        ("Expected score", f"Over the ratings {', '.join(map(str, rubric.ratings))}."),
    ]


def _benchmark(name: str) -> Sections:
    from edittools.bench import published
    from edittools.suites import SUITES, load_benchmark

    one = load_benchmark(name)
    tables = [table for table in map(published.load, published.names()) if table.benchmark == name]
    examples = [f"{line}   # {what}" for lines in one.examples.values() for line, what in lines]
    return [
        (f"edit eval ... {name}", f"{one.title}: {one.source}.\n\n{_said(SUITES.load(name), one.cases)}"),
        ("Tasks", _listed(f"{task}: {one.canonical[task]}" for suite in one.suites for task in suite)),
        ("Metrics", _listed(f"{metric}: {low:g} to {high:g}" for metric, (low, high) in one.metrics.items())),
        ("Rubrics", _listed(f"{rubric.name}: {rubric.summary}" for rubric in one.rubrics)),
        ("Options", _listed(f"edit eval {'|'.join(c.verbs)} --{c.name}: {c.help}" for c in one.choices)),
        ("Rescored files", one.outputs),
        ("Published", _listed(f"{table.name}: {table.paper}, {table.table}" for table in tables)),
        ("Examples", _listed(examples)),
    ]


# ---------------------------------------------------------------- edit synth


def _template(name: str) -> Sections:
    from edittools.synth.registry import TEMPLATES, load

    one = load(name)

    def words(said: Mapping[str, list[str]]) -> str:
        return _listed(f"{language}: {text}" for language, texts in said.items() for text in texts)

    return [
        (f"edit synth --templates {name}", _said(TEMPLATES.load(name), one.apply)),
        ("Task", f"{one.task}, {'a region' if one.local else 'the whole image'}"),
        ("Instruction", words(one.instruction)),
        ("What the target shows", words(one.detail)),
        ("Inverse", one.inverse or "none"),
    ]


def _named(names: Callable[[], Iterable[str]]) -> Callable[[], dict[str, str]]:
    return lambda: {name: name for name in names()}


def _rubric_names() -> Iterable[str]:
    from edittools.judge.rubrics import rubric_names

    return rubric_names()


def _benchmark_names() -> Iterable[str]:
    from edittools.suites import benchmark_names

    return benchmark_names()


def _template_names() -> Iterable[str]:
    from edittools.synth.registry import TEMPLATES

    return TEMPLATES.names


KINDS: dict[str, tuple[Callable[[], dict[str, str]], Callable[[str], Sections]]] = {
    "filter": (_filter_names, _filter),
    "judge": (_named(_rubric_names), _rubric),
    "eval": (_named(_benchmark_names), _benchmark),
    "synth": (_named(_template_names), _template),
}
"""Command -> the names that it takes (-> what they stand for), and the sections about one."""
