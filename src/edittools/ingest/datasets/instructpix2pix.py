"""InstructPix2Pix (Brooks et al. 2023): Parquet of the hub, or the folders of its authors.

Columns as the card lists them. A folder of the authors holds for each prompt a `prompt.json` with `edit`, `input` and
`output`, and for each seed SEED_0.jpg and SEED_1.jpg; `seeds.json` lists them: [[folder, [seed, ...]], ...].
"""

import json
import os
from collections.abc import Iterator
from typing import Any

from edittools.errors import EditError
from edittools.ingest.dataset import PublishedDataset
from edittools.stream import files
from edittools.stream.layouts import Layout


def gather(root: str) -> Iterator[dict[str, Any]]:
    """The pairs of the authors' folders, in the order of `seeds.json`."""
    path = files.join(root, "seeds.json")
    if not files.exists(path):
        raise EditError(f"{root}: neither Parquet files nor seeds.json", hint="name the folder that holds seeds.json")
    for folder, seeds in json.loads(files.read_bytes(path)):
        said = files.join(root, folder, "prompt.json")
        prompt = json.loads(files.read_bytes(said)) if os.path.exists(said) else {}
        for seed in seeds:
            images = {f"{name}_image": f"{folder}/{seed}_{k}.jpg" for k, name in enumerate(("original", "edited"))}
            texts = {"original_prompt": "input", "edit_prompt": "edit", "edited_prompt": "output"}
            yield {"seed": str(seed), **images, **{ours: prompt.get(theirs) for ours, theirs in texts.items()}}


DATASET = PublishedDataset(
    title="InstructPix2Pix",
    home="huggingface.co/datasets/timbrooks/instructpix2pix-clip-filtered",
    license="none stated",
    size="313,010 pairs; the authors' folders 436 and 727 GB",
    tables=("*.parquet", "*.arrow"),
    gather=gather,
    layouts=(
        Layout(
            has=("original_image", "edited_image", "edit_prompt", "original_prompt"),
            columns={
                "source": "original_image",
                "target": "edited_image",
                "instruction": "edit_prompt",
                "caption": "edited_prompt",
            },
        ),
    ),
    unverified="the authors' folders, which are from memory of their loader",
)
