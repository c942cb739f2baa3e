"""What users see: every command, option, and public name of the API, in one file. A changed name shows in its diff.

`python tests/cli/test_surface.py` writes the file anew.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path

import click

import edittools
from edittools.cli.main import COMMANDS, group

FILE = Path(__file__).with_name("surface.txt")


def commands(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in sorted(command.list_commands(context)):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, f"{words} {name}")


def surface() -> str:
    lines = []
    for name in COMMANDS:
        top = group.get_command(click.Context(group), name)
        assert top is not None
        for words, command in commands(top, f"edit {name}"):
            lines.append(words)
            for parameter in command.params:
                spelled = "/".join((*parameter.opts, *parameter.secondary_opts))
                is_flag = getattr(parameter, "is_flag", False)
                kind = "" if is_flag else parameter.make_metavar(click.Context(command))
                default = parameter.default if isinstance(parameter.default, (str, int, float)) else None
                lines.append(f"  {spelled} {kind}".rstrip() + (f" = {default}" if default not in (None, False) else ""))
    for name in edittools.__all__:
        lines.append(f"edittools.{name}")
        found = getattr(edittools, name)
        if inspect.isclass(found):
            members = inspect.getmembers(found, inspect.isfunction)
            lines += [f"  .{member}{inspect.signature(f)}" for member, f in members if not member.startswith("_")]
        if dataclasses.is_dataclass(found):
            lines += [f"  .{field.name}" for field in dataclasses.fields(found)]
        if inspect.isfunction(found):
            lines[-1] += str(inspect.signature(found))
    return "\n".join(lines) + "\n"


def test_the_surface_is_the_one_written_down() -> None:
    assert surface() == FILE.read_text(encoding="utf-8"), f"if the change is meant: python {Path(__file__).name}"


if __name__ == "__main__":
    FILE.write_text(surface(), encoding="utf-8")
