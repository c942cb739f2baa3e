"""How long a function may be (how complex: the linter's C901), and what files of tests are called."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import edittools

ROOT = Path(edittools.__file__).parent
LINES = 60


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_no_function_is_longer_than_a_screen() -> None:
    longer = {
        f"{path.relative_to(ROOT)}:{function.name}": lines(function)
        for path in ROOT.rglob("*.py")
        for function in functions(path)
        if lines(function) > LINES
    }
    assert not longer


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by their names alone, and collects nothing where two are one."""
    files = [path.name for path in Path(__file__).parent.rglob("*.py") if "extension" not in path.parts]
    assert sorted(set(files)) == sorted(files)


def test_one_name_is_one_class() -> None:
    """`Settings` apart, which every architecture calls its table of a recipe."""
    homes: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name != "Settings":
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: files for name, files in homes.items() if len(files) > 1}
