"""Rubric texts of a benchmark, read from the user's own checkout of it.

Nothing is imported or executed: Python files are parsed and only string constants are taken out of them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edittools.errors import EditError, describe

_RAW_FOLDERS = ("prompts_0shot", "prompts_1shot")


@dataclass(frozen=True)
class PromptLayout:
    """Where a rubric's texts lie in a checkout of a benchmark (or of its suite): what the file, or the folder of raw
    texts, is called there, and names of texts that it must hold to be taken for it."""

    benchmark: str
    files: tuple[str, ...]
    required: tuple[str, ...]


@dataclass(frozen=True)
class PromptFile:
    """The texts of one benchmark by name; `digest` identifies them (SHA-256) and enters the hash of a run."""

    path: str
    texts: dict[str, str]

    @property
    def digest(self) -> str:
        text = json.dumps(self.texts, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_prompts(path: str, layout: PromptLayout) -> PromptFile:
    """Read the texts of a benchmark from its file, its folder of raw texts, or a checkout that holds them.

    A JSON object of texts by name, Python constants, or VIEScore's `prompts_raw/` of text files.
    """
    benchmark, names, required = layout.benchmark, layout.files, layout.required
    given = Path(path)
    if given.is_file():
        candidates = [given]
    elif _is_raw(given):
        candidates = [given]
    elif given.is_dir():
        candidates = sorted(found for name in names for found in given.rglob(name))
    else:
        raise EditError(f"{path}: no such file or folder", hint="--prompts names a file of the benchmark's checkout")
    fitting, unreadable = [], []
    for candidate in candidates:
        try:
            texts = _read(candidate)
        except EditError as error:  # another file of that name may be the one
            unreadable.append(error)
            continue
        if all(name in texts for name in required):
            fitting.append(PromptFile(str(candidate), texts))
    if not fitting:
        if unreadable:
            raise unreadable[0]
        raise EditError(
            f"{path}: holds no prompts of {benchmark}",
            hint=f"expected {' or '.join(names)} with " + ", ".join(f"`{name}`" for name in required),
        )
    if len({found.digest for found in fitting}) > 1:
        raise EditError(
            f"{path}: several files hold prompts of {benchmark}, and they differ",
            hint="name one: " + ", ".join(found.path for found in fitting),
        )
    return fitting[0]


def _is_raw(path: Path) -> bool:
    return any((path / name).is_dir() for name in _RAW_FOLDERS)


def _read(path: Path) -> dict[str, str]:
    reader: Callable[[Path], dict[str, str]]
    if path.is_dir():
        reader = _read_raw
    else:
        reader = _read_json if path.suffix == ".json" else _read_python
    try:
        return reader(path)
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise EditError(f"{path}: cannot be read as prompts: {describe(error)}") from None


def _read_json(path: Path) -> dict[str, str]:
    texts = json.loads(path.read_text("utf-8-sig"))
    if not isinstance(texts, dict):
        raise ValueError("not an object of texts by task")
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read_raw(folder: Path) -> dict[str, str]:
    """VIEScore's raw texts under the names that its generated constants have."""
    return dict(_raw_texts(folder))


def _raw_texts(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.txt")):
        place = path.relative_to(folder).with_suffix("").parts
        if len(place) == 1 or place[0] in _RAW_FOLDERS:
            yield "_" + "_".join(place), path.read_text("utf-8")


def _read_python(path: Path) -> dict[str, str]:
    texts = {}
    for node in ast.parse(path.read_text("utf-8-sig")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        text = _constant(value) if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if text is not None:
            texts.update({target.id: text for target in targets if isinstance(target, ast.Name)})
    return texts


def _constant(node: ast.AST | None) -> str | None:
    """A string constant, or several added up; None for anything that would have to be executed.

    In a sum a formatted string may stand too, whose names become fields: `f"{instruction}"` is `<instruction>`.
    """
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (_formatted(part) or _constant(part) for part in (node.left, node.right))
        return None if left is None or right is None else left + right
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return str(ast.literal_eval(node))
    return None


def _formatted(node: ast.AST) -> str | None:
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            if not isinstance(part.value, ast.Name) or part.conversion != -1 or part.format_spec is not None:
                return None
            parts.append(f"<{part.value.id}>")
        else:
            parts.append(str(ast.literal_eval(part)))
    return "".join(parts)


_REASONING = re.compile(r"reason|explan|rationale|comment", re.IGNORECASE)
_NUMBER = re.compile(r"\bnumber\b|\bscore\b|\d", re.IGNORECASE)


def asked_labels(text: str) -> tuple[str, ...] | None:
    """The labels of the score lines that a rubric asks for, from the response format at its end; None if unclear.

    The last line that speaks of a format opens it; the lines `Label: what number` below it, less the reasoning, are
    the scores.
    """
    lines = text.splitlines()
    opened = [k for k, line in enumerate(lines) if re.search(r"\bformat\b", line, re.IGNORECASE)]
    if not opened:
        return None
    labels = []
    for line in lines[opened[-1] + 1 :]:
        label, _, rest = line.partition(":")
        label = label.strip(" \t*-#•").strip()
        if label and len(label) <= 60 and _NUMBER.search(rest) and not _REASONING.search(label):
            labels.append(label)
    return tuple(labels) if labels else None
