"""SEED-Data-Edit (Ge et al. 2024), parts 1 to 3: JSON lines and archives in parts, which need not be joined.

A part is a folder with `annotations*/*.jsonl` and the images, or archives of them, in `images/` beside it, as its
cards say. `source_image` and `instruction` are fields as loaders of part 2 read them, `edit_image_N` and
`instruction_N` those of the dialogues of part 3.
"""

import os
import re
from typing import Any

from edittools.ingest.dataset import PublishedDataset
from edittools.stream import files
from edittools.stream.layouts import Layout
from edittools.stream.listing import walk


def listed(root: str) -> list[tuple[str, str]]:
    """Every table with the folder of its images: `images` beside the folder of annotations, or that folder's own."""
    found = []
    for name in walk(root).names():
        folder, part = os.path.split(os.path.dirname(name))
        if name.endswith(".jsonl") and part.startswith("annotations"):
            images = files.join(root, *filter(None, [folder]), "images")
            found.append((name, images if files.is_dir(images) else files.join(root, *filter(None, [folder]))))
    return found


def turns(record: dict[str, Any]) -> dict[str, Any]:
    """Turns by their numbers, up to the last that has an image; one with several wordings has the first."""
    numbers = [int(name[11:]) for name in record if re.fullmatch(r"edit_image_\d{1,3}", name) and record[name]]
    made = []
    for number in range(1, max(numbers, default=0) + 1):
        said = record.get(f"instruction_{number}") or record.get(f"instruction{number}")
        made.append(
            {"instruction": said[0] if isinstance(said, list) else said, "target": record.get(f"edit_image_{number}")}
        )
    return {"turns_made": made}


DATASET = PublishedDataset(
    title="SEED-Data-Edit",
    home="huggingface.co/datasets/AILab-CVC/SEED-Data-Edit-Part1-Openimages",
    license="cc-by-nc-4.0",
    size="3.7 M pairs, 21 k dialogues",
    tables=("annotations*/*.jsonl", "*/annotations*/*.jsonl", "*.jsonl"),
    listed=listed,
    layouts=(
        Layout(
            has=("source_image", "edit_image_1", "instruction_1"),
            columns={"source": "source_image", "turns": "turns_made"},
            derive=turns,
            needs=("source", "turns"),
        ),
        Layout(
            has=("source_image", "target_image|edit_image|edited_image", "instruction|instructions"),
            columns={
                "source": "source_image",
                "target": "target_image|edit_image|edited_image",
                "instruction": "instruction[0]|instructions[0]",
            },
        ),
    ),
    unverified="what parts 1 and 2 call the target",
)
