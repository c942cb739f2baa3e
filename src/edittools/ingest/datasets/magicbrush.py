"""MagicBrush (Zhang et al. 2023): Parquet with the images inside, one row a turn.

Columns as its card lists them. From the second turn on the source is the target of the turn before, so that every row
is a pair; `img_id` and `turn_index` say which dialogue it is of, and `--dialogues set` makes one row of each dialogue.
Its masks are the source with the edited region cut out: loaders of it take what is transparent; where nothing is, white
is what was edited, as its card has it.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="MagicBrush",
    home="huggingface.co/datasets/osunlp/MagicBrush",
    license="cc-by-4.0",
    size="9,335 turns, 22 GB",
    tables=("*.parquet", "*.arrow"),
    mask="transparent",
    dialogue=("img_id", "turn_index"),
    layouts=(
        Layout(
            has=("img_id", "turn_index", "source_img", "target_img", "instruction"),
            columns={
                "source": "source_img",
                "target": "target_img",
                "mask": "mask_img",
                "instruction": "instruction",
            },
        ),
    ),
    unverified="that every mask has the edited region cut out",
)
