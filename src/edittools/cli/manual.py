"""Manual pages, and tables for the documents, printed from the click tree and from what stands beside the code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import click

from edittools import __version__
from edittools.cli.main import COMMANDS, group
from edittools.cli.options import Command, Option, groups_of
from edittools.errors import EditError

_BLOCK = re.compile(r"(<!-- ([\w-]+): printed by `edit man --write` -->\n).*?(<!-- end of \2 -->)", re.S)

_EXITS = (
    ("0", "done, also when the reader of the output closed early"),
    ("1", "failed"),
    ("2", "the command line cannot be carried out"),
    ("3", "done, but more rows failed than --max-errors tolerates"),
    ("4", "the input is incomplete: its writer died, or a shard is missing"),
    ("128+n", "ended by signal n"),
)


def _roff(text: str) -> str:
    """Plain text as roff: backslashes, dots and quotes at the start of a line, and dashes that must stay."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def _marked(text: str) -> str:
    """`code` in bold."""
    return re.sub(r"`([^`]+)`", r"\\fB\1\\fR", _roff(text))


def _paragraphs(text: str) -> str:
    return "\n.PP\n".join(_marked(" ".join(part.split())) for part in re.split(r"\n\s*\n", text.strip()))


def _title(name: str, section: int) -> str:
    # No date: the same sources print the same page. Flush left: names and choices are too long to be spread.
    return f'.TH "{name.upper()}" "{section}" "" "edittools {__version__}" "edittools"\n.ad l\n'


def _option(option: Option, context: click.Context) -> str:
    names, text = option.get_help_record(context) or ("", "")
    heading = _roff(names).replace("|", "|\\:")  # a long list of choices may be broken after each of them
    return f".TP\n.B {heading}\n{_marked(text)}\n"


def _nested() -> dict[str, Command]:
    """Commands below a subcommand, by their words."""
    from edittools.cli.eval_report import OTHERS, other

    found = {f"eval report {name}": other(name) for name in OTHERS}
    for name in COMMANDS:
        found |= _below(name, group.get_command(click.Context(group), name))
    return dict(sorted(found.items()))


def _below(words: str, command: click.Command | None) -> dict[str, Command]:
    """The commands of a group and of the groups in it, by their words."""
    if not isinstance(command, click.Group):
        return {}
    found = {}
    for name in command.list_commands(click.Context(command)):
        made = command.get_command(click.Context(command), name)
        if isinstance(made, Command):
            found[f"{words} {name}"] = made
        found |= _below(f"{words} {name}", made)
    return found


def _group_page(name: str, command: click.Group) -> str:
    """The page of a subcommand that is a group of others (`eval`)."""
    listed = "".join(
        f".TP\n.BR {_roff('edit-' + below.replace(' ', '-'))} (1)\n{_marked(_summary(made))}\n"
        for below, made in _nested().items()
        if below.startswith(f"{name} ")
    )
    return (
        _title(f"edit-{name}", 1)
        + f".SH NAME\n{_roff(f'edit-{name}')} \\- {_roff(COMMANDS[name])}\n"
        + f".SH SYNOPSIS\n.B edit {name}\nCOMMAND [OPTIONS]...\n"
        + f".SH DESCRIPTION\n{_paragraphs(command.help or '')}\n"
        + f".SH COMMANDS\n{listed}"
        + f".SH EXIT STATUS\n{_exits()}"
        + ".SH SEE ALSO\n.BR edit (1),\n.BR edit\\-stream (5),\n.BR edit\\-shards (5)\n"
    )


def _summary(command: click.Command) -> str:
    return (command.help or "").split("\n\n")[0].rstrip(".").replace("\n", " ")


def commands() -> dict[str, Command]:
    """Every command that does something, by its words."""
    found = {name: group.get_command(click.Context(group), name) for name in COMMANDS}
    return {**{name: made for name, made in found.items() if isinstance(made, Command)}, **_nested()}


def command_page(name: str) -> str:
    """The page of one subcommand, or of one below it (`eval study build`)."""
    command = _nested().get(name) or group.get_command(click.Context(group), name)
    if isinstance(command, click.Group):
        return _group_page(name, command)
    assert isinstance(command, Command)
    page = name.replace(" ", "-")
    summary = COMMANDS.get(name) or _summary(command)
    context = click.Context(command, info_name=f"edit {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        "'\\\" t\n" if name == "filter" else "",  # man(1) shall run tbl
        _title(f"edit-{page}", 1),
        f".SH NAME\n{_roff(f'edit-{page}')} \\- {_roff(summary)}\n",
        f".SH SYNOPSIS\n.B edit {name}\n{_roff(usage)}\n",
        f".SH DESCRIPTION\n{_paragraphs(command.help or '')}\n",
    ]
    if name == "filter":
        parts.append(_filter_table())
    if name == "cat":
        parts.append(_image_table())
    for heading in groups_of(command):
        options = [p for p in command.params if isinstance(p, Option) and p.group == heading]
        if options:
            parts.append(f".SH {heading.upper()} OPTIONS\n" + "".join(_option(o, context) for o in options))
    parts.append(f".SH COST\n{_paragraphs(command.cost)}\n")
    names = {parameter.name for parameter in command.params}
    possible = {"3": "max_errors" in names, "4": "input" in names}
    parts.append(".SH EXIT STATUS\n" + _exits(possible))
    examples = "".join(
        f".PP\n{_marked(meaning)}:\n.PP\n.nf\n    {_roff(line)}\n.fi\n" for line, meaning in command.examples
    )
    parts.append(".SH EXAMPLES\n" + examples)
    parts.append(".SH SEE ALSO\n.BR edit (1),\n.BR edit\\-stream (5),\n.BR edit\\-shards (5)\n")
    return "".join(parts)


def _exits(possible: Mapping[str, bool] | None = None) -> str:
    """The exit statuses, without those that a command cannot have."""
    listed = ((code, meaning) for code, meaning in _EXITS if (possible or {}).get(code, True))
    return "".join(f".TP\n.B {_roff(code)}\n{_roff(meaning)}\n" for code, meaning in listed)


def _filter_table() -> str:
    """What every filter says of itself, as a table for tbl."""
    from edittools.filter import all_filters

    rows = [("option", "what it measures", "unit, range", "cost", "source")]
    for item in all_filters().values():
        cost = item.cost_class
        if item.raster is not None:
            cost += f" ({item.raster.short_side})"
        rows.append((item.flag, item.help, item.unit, cost, item.source))
    # T{ and T} stand around a cell whose text is filled.
    table = "\n_\n".join("\t".join(f"T{{\n{_marked(cell)}\nT}}" for cell in row) for row in rows)
    return f""".SH MEASURES
{_paragraphs(_COSTS)}
.PP
.nh
.TS
lB2 lB2 lB2 lB2 lB
lBw(18n)2 lw(20n)2 lw(9n)2 lw(7n)2 lw(11n).
{table}
.TE
.hy
"""


_COSTS = """
The cost is CPU time on one core for a JPEG of 1.5 megapixels (for --motion and --camera-motion: two of them), decoding
included, as `benchmarks/cost.py` measured it. In brackets is the shorter side, in pixels, that is decoded to: filters
of one size and colour share the decode, 5 to 9 ms. What reads the header only decodes nothing.
"""


def _image_table() -> str:
    """What happens to unusual images: the table of stream/codec.py."""
    from edittools.stream import codec

    rows = [line.strip("|").split("|") for line in (codec.__doc__ or "").splitlines() if line.startswith("| ")]
    cases = [(case.strip().replace("`", ""), what.strip()) for case, what in rows[1:]]
    body = "".join(f".TP\n.B {_roff(case)}\n{_marked(what)}\n" for case, what in cases)
    return ".SH UNUSUAL IMAGES\n" + body


def _format_page(name: str, doc: str, summary: str) -> str:
    """A section 5 page out of a module's docstring: `FORMAT` and other words in capitals are headings."""
    lead, *rest = re.split(r"\n\n([A-Z][A-Z ]+)\n\n", doc)
    parts = [_title(f"edit-{name}", 5), f".SH NAME\nedit\\-{name} \\- {_roff(summary)}\n"]
    parts.append(f".SH DESCRIPTION\n{_paragraphs(lead)}\n")
    for heading, body in zip(rest[::2], rest[1::2]):
        parts.append(f".SH {heading}\n{_paragraphs(body)}\n")
    return "".join(parts)


def _main_page() -> str:
    listed = "".join(f".TP\n.BR edit\\-{name} (1)\n{_roff(what)}\n" for name, what in COMMANDS.items())
    text = group.help or ""
    return (
        _title("edit", 1)
        + ".SH NAME\nedit \\- from a crawl of images to a trained image\\-editing model and its report\n"
        + ".SH SYNOPSIS\n.B edit\nCOMMAND [OPTIONS] [INPUT]...\n"
        + f".SH DESCRIPTION\n{_paragraphs(text)}\n"
        + f".SH COMMANDS\n{listed}"
        + f".SH EXIT STATUS\n{_exits()}"
        + ".SH SEE ALSO\n.BR edit\\-stream (5),\n.BR edit\\-shards (5)\n"
    )


def pages() -> dict[str, str]:
    """Every page by file name."""
    from edittools.ingest import dataset
    from edittools.stream import ipc, shards

    found = {"edit.1": _main_page()}
    for name in (*COMMANDS, *_nested()):
        found[f"edit-{name.replace(' ', '-')}.1"] = command_page(name)
    found["edit-stream.5"] = _format_page("stream", ipc.__doc__ or "", "the Arrow stream between edittools commands")
    found["edit-shards.5"] = _format_page("shards", shards.__doc__ or "", "a shard set of edittools on disk")
    found["edit-datasets.5"] = _format_page("datasets", dataset.__doc__ or "", "data sets by name") + _datasets()
    return found


def _datasets() -> str:
    """What every data set says of itself."""
    from edittools.ingest import dataset_names, load_dataset

    lines = []
    for name in dataset_names():
        one = load_dataset(name)
        unsure = f" Not verified: {one.unverified}." if one.unverified else ""
        said = (
            f"{one.title}, {one.size}; license: {one.license}; {one.home}. Mapped: {', '.join(one.mapped())}.{unsure}"
        )
        said = _marked(said).replace("/", "/\\:")  # addresses may be broken
        lines.append(f".TP\n.B {_roff(name)}\n{said}\n")
    return "".join(lines)


def readme_table() -> str:
    """The subcommands as a Markdown table."""
    lines = ["| command | what it does |", "|---|---|"]
    lines += [f"| [`edit {name}`](man/edit-{name}.1) | {what} |" for name, what in COMMANDS.items()]
    return "\n".join(lines)


def _documents(readme: str) -> list[Path]:
    """The README and the documents of the folder docs/ beside it."""
    return [Path(readme), *sorted((Path(readme).parent / "docs").glob("*.md"))]


def _filled(document: Path) -> tuple[str, str]:
    """A document as it is, and with its printed tables as they should be. Raises EditError for an unknown table."""
    from edittools.cli.printed import BLOCKS

    known = {"subcommands": readme_table, **BLOCKS}

    def printed(match: re.Match[str]) -> str:
        if match[2] not in known:
            raise EditError(f"{document}: no table `{match[2]}` is printed", hint=f"there are: {', '.join(known)}")
        return f"{match[1]}{known[match[2]]()}\n{match[3]}"

    text = document.read_text(encoding="utf-8")
    return text, _BLOCK.sub(printed, text)


def _check_readme(readme: str) -> None:
    if "subcommands" not in [match[2] for match in _BLOCK.finditer(Path(readme).read_text(encoding="utf-8"))]:
        begin, end = "<!-- subcommands: printed by `edit man --write` -->", "<!-- end of subcommands -->"
        raise EditError(f"{readme}: no place for the table of subcommands", hint=f"put the lines `{begin}` and `{end}`")


def write_pages(folder: str, readme: str | None) -> None:
    """Write every page into a folder, and the tables into the README and the documents beside it."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (target / name).write_text(text)
    if readme:
        _check_readme(readme)
        for document in _documents(readme):
            document.write_text(_filled(document)[1], encoding="utf-8")


def check_pages(folder: str, readme: str | None) -> None:
    """Raises EditError at the first page that is not what would be printed now."""
    target = Path(folder)
    expected = pages()
    hint = f"edit man --write {folder}" + (f" --readme {readme}" if readme else "")
    for name, text in expected.items():
        if not (target / name).exists() or (target / name).read_text() != text:
            raise EditError(f"{target / name}: not what the commands say now", hint=hint)
    for path in target.glob("edit*.[15]"):
        if path.name not in expected:
            raise EditError(f"{path}: a page of nothing", hint=hint)
    if readme:
        _check_readme(readme)
        for document in _documents(readme):
            old, new = _filled(document)
            if old != new:
                raise EditError(f"{document}: its tables are not what the code says now", hint=hint)
