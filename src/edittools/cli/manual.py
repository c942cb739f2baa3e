"""Manual pages, printed from the click tree and from the format descriptions beside the code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import click

from edittools import __version__
from edittools.cli.main import COMMANDS, group
from edittools.cli.options import GROUPS, Command, Option
from edittools.errors import EditError

BEGIN, END = "<!-- subcommands: printed by `edit man --write` -->", "<!-- end of subcommands -->"

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
    # No date: the same sources print the same page.
    return f'.TH "{name.upper()}" "{section}" "" "edittools {__version__}" "edittools"\n'


def _option(option: Option, context: click.Context) -> str:
    names, text = option.get_help_record(context) or ("", "")
    return f".TP\n.B {_roff(names)}\n{_marked(text)}\n"


def _nested() -> dict[str, Command]:
    """Commands below a subcommand, by their words."""
    from edittools.cli.eval_checkpoints import command as checkpoints
    from edittools.cli.eval_study import command as study

    found: dict[str, click.Command] = {"eval checkpoints": checkpoints}
    found |= {f"eval study {name}": made for name, made in study.commands.items()}
    return {name: made for name, made in found.items() if isinstance(made, Command)}


def command_page(name: str) -> str:
    """The page of one subcommand, or of one below it (`eval study build`)."""
    command = _nested().get(name) or group.get_command(click.Context(group), name)
    assert isinstance(command, Command)
    page = name.replace(" ", "-")
    summary = COMMANDS.get(name) or (command.help or "").split("\n\n")[0].rstrip(".").replace("\n", " ")
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
    for heading in GROUPS:
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
    from edittools.filters import filters

    rows = [("option", "what it measures", "unit, range", "cost", "source")]
    for item in filters().values():
        cost = f"{item.cost:g} ms" if item.cost is not None else "the model" if item.roles else "header only"
        if item.raster is not None:
            cost += f" ({item.raster.short_side})"
        rows.append((item.flag, item.help, item.unit, cost, item.source))
    # T{ and T} stand around a cell whose text is filled.
    table = "\n_\n".join("\t".join(f"T{{\n{_marked(cell)}\nT}}" for cell in row) for row in rows)
    return f""".SH MEASURES
{_paragraphs(_COSTS)}
.PP
.ad l
.nh
.TS
lB2 lB2 lB2 lB2 lB
lBw(18n)2 lw(20n)2 lw(9n)2 lw(7n)2 lw(11n).
{table}
.TE
.hy
.ad b
"""


_COSTS = """
The cost is CPU time on one core for a JPEG of 1.5 megapixels (for --motion and --camera-motion: two of them), decoding
included, as `benchmarks/cost.py` measured it. In brackets is the shorter side, in pixels, that is decoded to: filters
of one size and colour share the decode, 5 to 9 ms. What reads the header only decodes nothing.
"""


def _image_table() -> str:
    """What happens to unusual pictures: the table of stream/images.py."""
    from edittools.stream import images

    rows = [line.strip("|").split("|") for line in (images.__doc__ or "").splitlines() if line.startswith("| ")]
    cases = [(case.strip().replace("`", ""), what.strip()) for case, what in rows[1:]]
    body = "".join(f".TP\n.B {_roff(case)}\n{_marked(what)}\n" for case, what in cases)
    return ".SH UNUSUAL PICTURES\n" + body


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
    from edittools.stream import shards, wire

    found = {"edit.1": _main_page()}
    for name in (*COMMANDS, *_nested()):
        found[f"edit-{name.replace(' ', '-')}.1"] = command_page(name)
    found["edit-stream.5"] = _format_page("stream", wire.__doc__ or "", "the Arrow stream between edittools commands")
    found["edit-shards.5"] = _format_page("shards", shards.__doc__ or "", "a shard set of edittools on disk")
    return found


def readme_table() -> str:
    """The subcommands as a Markdown table."""
    lines = ["| command | what it does |", "|---|---|"]
    lines += [f"| [`edit {name}`](man/edit-{name}.1) | {what} |" for name, what in COMMANDS.items()]
    return "\n".join(lines)


def _with_table(readme: Path) -> tuple[str, str]:
    """A README as it is, and as it should be."""
    text = readme.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise EditError(f"{readme}: no place for the table of subcommands", hint=f"put the lines `{BEGIN}` and `{END}`")
    return text, f"{head}{BEGIN}\n{readme_table()}\n{END}{tail}"


def write_pages(folder: str, readme: str | None) -> None:
    """Write every page into a folder, and the table into the README."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (target / name).write_text(text)
    if readme:
        Path(readme).write_text(_with_table(Path(readme))[1])


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
        old, new = _with_table(Path(readme))
        if old != new:
            raise EditError(f"{readme}: its table of subcommands is not what the commands say now", hint=hint)
