"""What painted tasks are told: the lexicon of a run, and what is known of an image in words."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from edittools.caption.targets import Words, read_targets
from edittools.errors import UsageError
from edittools.record import likely_tags
from edittools.seeded import digest
from edittools.stream.rows import column_values
from edittools.synth.config import PaintConfig
from edittools.synth.experts import FOLDER, Expert, experts


def lexicon(config: PaintConfig) -> Words:
    """The lexicon, with --things and --scenes in the place of what it has of these."""
    words = read_targets(config.targets) if config.targets else read_targets()
    own = {"replace": config.things, "background": config.scenes}
    return {**words, **{task: {"told": list(said)} for task, said in own.items() if said}}


def library(config: PaintConfig) -> dict[str, Expert]:
    """The experts that are asked. Raises UsageError."""
    known = experts(config.library or FOLDER)
    for task in config.experts:
        if task not in known:
            raise UsageError(f"--experts {task}: there is no such expert", hint=f"there are: {', '.join(known)}")
    return {task: known[task] for task in config.experts or known}


def known_by(words: Any) -> str:
    """What the history records of a lexicon or a library."""
    return f"{digest(json.dumps(words, sort_keys=True, default=vars)):032x}"[:16]


def facts_of(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """What is known of every image in words: fields of a Scene."""
    columns = ("caption", "caption_structured", "instruction", "task", "objects", "atomic_edits", "tags")
    found = []
    for caption, structured, instruction, task, objects, edits, tags in zip(
        *(column_values(rows, name) for name in columns)
    ):
        style = (structured.get("style") if isinstance(structured, dict) else None) or ""
        texts = [one["text"] for one in objects or [] if one and one.get("text")]
        found.append({
            "caption": _english(caption).rstrip("."),
            "style": "" if "photo" in style.casefold() else style.strip(),
            "texts": tuple(dict.fromkeys(texts)),
            "instruction": _english(instruction),
            "task": task,
            "edits": tuple(_said(one) for one in edits or [] if one),
            "tags": {one["name"]: one.get("category") for one in likely_tags(tags)},
        })  # fmt: skip
    return found


_SAID = {"add": "add {object}", "remove": "remove the {object}", "replace": "replace the {object} with {change}"}


def _said(edit: dict[str, Any]) -> str:
    """An atomic edit (`edit caption`, kind `evolve`) as an instruction."""
    return _SAID.get(edit["action"], "change the {object}: {change}").format(**edit)


def _english(text: Any) -> str:
    return ((text.get("en") if isinstance(text, dict) else text) or "").strip()
