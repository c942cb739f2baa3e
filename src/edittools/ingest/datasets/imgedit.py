"""ImgEdit (Ye et al. 2025): single edits and dialogues in Parquet files, the images in tars that were cut into parts.

Columns as its code reads them; paths are those in the tars, whose parts need not be joined. The task stands in the
first folder of a path (`results_remove_laion_part5/...`). A turn edits the image that its input names: an earlier one
where a version is gone back to.
"""

import re
from typing import Any

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

TASKS = {
    "add": "add",
    "remove": "remove",
    "replace": "replace",
    "adjust": "adjust",
    "alter": "adjust",
    "background": "background",
    "style": "style",
    "action": "motion",
    "extract": "extract",
    "visual": "visual",
    "visual_edit": "visual",
    "compose": "hybrid",
    "hybrid": "hybrid",
    "content_memory": "hybrid",
    "content_understanding": "hybrid",
    "version_backtracking": "hybrid",
}
KINDS = {"content_memory", "content_understanding", "version_backtracking"}


def native_task(path: Any) -> str | None:
    """`remove` of `results_remove_laion_part5/0/original.png`."""
    found = re.match(r"(?:\./)?(?:results?_)?([a-z_]+?)_(?:laion_)?part\d", path) if isinstance(path, str) else None
    return found[1] if found else None


def single(record: dict[str, Any]) -> dict[str, Any]:
    paths = record.get("input_images") or [None]
    return {"native": native_task(paths[0])}


def dialogue(record: dict[str, Any]) -> dict[str, Any]:
    """Its turns, each with the number of the one whose image it edits."""
    made: list[dict[str, Any]] = []
    results: dict[str, int] = {}
    first: list[str] = []
    for number, turn in enumerate(record.get("data") or []):
        inputs, outputs = turn.get("input_images") or [], turn.get("output_images") or []
        first = first if number else inputs
        native = native_task(inputs[0]) if inputs else None
        target = outputs[-1] if outputs else None
        parent = -1 if inputs and inputs[0] in first else results.get(inputs[0] if inputs else "", number - 1)
        made.append(
            {
                "parent": parent,
                "kind": native if native in KINDS else None,
                "task": native,
                "instruction": turn.get("prompt"),
                "target": target,
            }
        )
        results[target or ""] = number
    native = native_task(first[0]) if first else None
    return {"first": first, "turns_made": made, "native": native}


DATASET = PublishedDataset(
    title="ImgEdit",
    home="huggingface.co/datasets/sysuyy/ImgEdit",
    license="not verified",
    size="1.2 M pairs, 110 k dialogues",
    tables=("*.parquet", "*.arrow"),
    layouts=(
        Layout(
            has=("input_images", "output_images", "prompt"),
            columns={
                "source": "input_images",
                "target": "output_images[-1]",
                "instruction": "prompt",
                "task": "native",
            },
            derive=single,
            reads=("input_images",),
            tasks=TASKS,
        ),
        Layout(
            has=("data",),
            columns={"source": "first", "turns": "turns_made", "task": "native"},
            derive=dialogue,
            reads=("data",),
            tasks=TASKS,
            needs=("source", "turns"),
        ),
    ),
    unverified="the license, and the folders of other tasks than removal",
)
