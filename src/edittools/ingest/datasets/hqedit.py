"""HQ-Edit (Hui et al. 2024): Parquet with the images inside; every row also says how its edit is undone.

Columns as its card lists them. The way back becomes a row of its own.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="HQ-Edit",
    home="huggingface.co/datasets/UCSC-VLAA/HQ-Edit",
    license="cc-by-nc-4.0",
    size="98,675 rows, with the way back 197,350 pairs",
    tables=("*.parquet", "*.arrow"),
    layouts=(
        Layout(
            has=("input_image", "output_image", "edit", "inverse_edit"),
            columns={
                "source": "input_image",
                "target": "output_image",
                "instruction": "edit",
                "inverse_instruction": "inverse_edit",
                "caption": "output",
            },
        ),
    ),
)
