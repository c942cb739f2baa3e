"""NHR-Edit (Kuprashevich et al. 2025): `train/metadata.jsonl` and folders of images.

The folders as its card shows them, fields as loaders of it read them.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="NHR-Edit",
    home="huggingface.co/datasets/iitolstykh/NHR-Edit",
    license="apache-2.0",
    size="about 720 k pairs",
    tables=("metadata.jsonl",),
    layouts=(
        Layout(
            has=("source_file_name", "edited_file_name", "edit_instruction"),
            columns={
                "source": "source_file_name",
                "target": "edited_file_name",
                "instruction": "edit_instruction",
                "task": "category",
            },
            tasks={
                "add": "add",
                "remove": "remove",
                "replace": "replace",
                "background": "background",
                "color": "color",
                "material": "material",
                "style": "style",
                "text": "text",
            },
        ),
    ),
    unverified="how the tasks are spelled",
)
