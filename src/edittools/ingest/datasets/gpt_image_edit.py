"""GPT-Image-Edit-1.5M (Wang et al. 2025), and what else UniWorld-V1 trains on: JSON of conversations.

Its list of tables, a text file, has a line IMAGE_ROOT,JSON,WEIGHT for each, as its code reads it; paths are below the
image root. `image` holds the sources and the target, the target last; the first turn of the conversation says what to
do, behind an <image> for every source.
"""

import re
from typing import Any

from edittools.ingest.dataset import PublishedDataset
from edittools.stream import files
from edittools.stream.layouts import Layout
from edittools.stream.listing import walk


def listed(root: str) -> list[tuple[str, str]]:
    """The tables that a list names, with the folders of their images."""
    found = []
    for name in walk(root).names():
        if name.endswith(".txt") and "/" not in name:
            for line in files.read_bytes(files.join(root, name)).decode().splitlines():
                parts = [part.strip() for part in line.split(",")]
                if len(parts) == 3 and parts[1].endswith((".json", ".jsonl")):
                    found.append((parts[1], files.join(root, parts[0])))
    return found


def said(record: dict[str, Any]) -> dict[str, Any]:
    """What the first turn asks for, without the places of the images."""
    talk = record.get("conversations") or []
    first = talk[0].get("value") if talk and isinstance(talk[0], dict) else None
    return {"said": re.sub(r"\s*<image>\s*", " ", first).strip() if isinstance(first, str) else None}


DATASET = PublishedDataset(
    title="GPT-Image-Edit-1.5M",
    home="huggingface.co/datasets/UCSC-VLAA/GPT-Image-Edit-1.5M",
    license="cc-by-4.0 (not verified)",
    size="1,553,575 pairs, about 5 TB",
    tables=("*.json", "*.jsonl"),
    listed=listed,
    layouts=(
        Layout(
            has=("image", "conversations"),
            columns={"source": "image[:-1]", "target": "image[-1]", "instruction": "said"},
            derive=said,
            reads=("conversations",),
        ),
    ),
    unverified="the license, and how the archives call their members",
)
