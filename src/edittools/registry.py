"""Kinds that grow by one file: the modules of a folder by their names, and those that other packages add.

Another package adds to a kind by an entry point of the kind's group, whose value is a module like those of the folder:

    [project.entry-points."edittools.filters"]
    warmth = "my_package.warmth"
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import sys
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from edittools.errors import EditError


class Registry:
    """The files of one kind. Nothing is imported before `load` asks for it."""

    def __init__(self, package: str, group: str, *, packages_only: bool = False, files_only: bool = False) -> None:
        """package        whose modules they are, such as "edittools.filter.filters"
        group          of the entry points, such as "edittools.filters"
        packages_only  only folders count; modules beside them are what they share
        files_only     only files count; folders beside them are what they share
        """
        self.package, self.group = package, group
        self.packages_only, self.files_only = packages_only, files_only
        self.folder = Path(__file__).parent.joinpath(*package.split(".")[1:])

    @cached_property
    def modules(self) -> dict[str, str]:
        """The full name of every module, in alphabetical order. Raises EditError for a name that is there twice."""
        found = {
            module.name: f"{self.package}.{module.name}"
            for module in pkgutil.iter_modules([str(self.folder)])
            if not (self.files_only if module.ispkg else self.packages_only)
        }
        for name, value in _entry_points(self.group):
            if found.setdefault(name, value) != value:
                raise EditError(f"{self.group}: `{name}` is both {found[name]} and {value}")
        return dict(sorted(found.items()))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.modules)

    def load(self, name: str) -> ModuleType:
        """Import a module by its name here. Raises KeyError where there is none."""
        return importlib.import_module(self.modules[name])

    def each(self, constant: str) -> dict[str, Any]:
        """What every module calls `constant`, by the module's name.

        A module that cannot be imported, or lacks it, is told on standard error and left out: one broken file does not
        stop what has no need of it. `load` raises what is wrong with it.
        """
        found = {}
        for name, module in self.modules.items():
            try:
                found[name] = getattr(self.load(name), constant)
            except Exception as error:  # it is somebody's code: whatever it raises
                print(f"{self.group}: left out `{name}` ({module}): {type(error).__name__}: {error}", file=sys.stderr)
        return found

    def path(self, name: str) -> Path:
        """The source file of a module, which is not imported (of another package's, the packages around it are)."""
        value = self.modules[name]
        if value.startswith(f"{self.package}."):
            module = self.folder / name
            return module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        found = importlib.util.find_spec(value)
        if found is None or found.origin is None:
            raise EditError(f"{self.group}: `{name}` is {value}, and there is no such module")
        return Path(found.origin)

    def declared(self, constant: str, default: Any = None) -> dict[str, Any]:
        """A constant of every module, read from its source: for modules whose libraries take long to import.

        Only literals are found, assigned at the top level; the others have `default`.
        """
        return {name: values.get(constant, default) for name, values in self._constants.items()}

    @cached_property
    def _constants(self) -> dict[str, dict[str, Any]]:
        return {name: _literals(self.path(name)) for name in self.modules}


def _literals(path: Path) -> dict[str, Any]:
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                pass  # something that is computed
    return found


def _entry_points(group: str) -> list[tuple[str, str]]:
    """Names and values. The library that reads them costs a command 50 ms, so it is asked only if there are any."""
    if not _anybody_adds():
        return []
    from importlib.metadata import entry_points

    return [(point.name, point.value) for point in entry_points(group=group)]


def _anybody_adds() -> bool:
    if _adds[:1] != [sys.path]:
        files = (file for place in sys.path for file in Path(place or ".").glob("*-info/entry_points.txt"))
        _adds[:] = [list(sys.path), any(b"[edittools." in file.read_bytes() for file in files)]
    return _adds[1]


_adds: list[Any] = []  # the sys.path that was looked through, and whether some package there adds to edittools
