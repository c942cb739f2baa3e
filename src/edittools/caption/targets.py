"""The lexicon of what instructions may ask for where the image itself does not say: by task and kind."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path

from edittools.caption.grammar import with_article
from edittools.errors import UsageError

Words = Mapping[str, Mapping[str, list[str]]]
"""Words or phrases by task and kind, such as replace, animals: "a dog"."""
SHIPPED = Path(__file__).with_name("targets.toml")
INVENTORY = Path(__file__).with_name("inventory.toml")


@functools.cache
def read_targets(path: str | Path = SHIPPED) -> Words:
    """The lexicon of a file: a table per task, and in it a list per kind. Raises UsageError."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--targets {path}: {getattr(error, 'strerror', None) or error}") from error
    for task, kinds in table.items():
        if not isinstance(kinds, dict) or not all(_are_words(words) for words in kinds.values()):
            raise UsageError(f"--targets {path}: [{task}] is no table of lists of words")
    return table


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word.strip() for word in value)


@functools.cache
def read_things() -> Mapping[str, list[str]]:
    """The inventory: nouns in the singular, without an article, by category."""
    found: Mapping[str, list[str]] = tomllib.loads(INVENTORY.read_text(encoding="utf-8"))
    return found


def proposals(task: str, name: str | None = None) -> list[str]:
    """What may be asked for in a task: the lexicon's words, of `add` the inventory's things too, and of `replace`, by a
    thing called `name`, the others of its category where the inventory has it.
    """
    words = targets().get(task, [])
    if task not in ("add", "replace"):
        return words
    last = (name or "").casefold().split()[-1:]
    categories = [names for names in read_things().values() if any(one.split()[-1:] == last for one in names)]
    chosen = [one for names in categories or read_things().values() for one in names if one.split()[-1:] != last]
    return [*([] if categories else words), *map(with_article, chosen)]


def targets() -> dict[str, list[str]]:
    """What the shipped lexicon has of every task."""
    return {task: [word for words in kinds.values() for word in words] for task, kinds in read_targets().items()}
