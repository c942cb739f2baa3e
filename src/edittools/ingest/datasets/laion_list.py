"""Lists of addresses as LAION publishes them (Schuhmann et al. 2022), whose images --fetch fetches.

Columns as LAION names them, in upper or lower case.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.ingest.datasets.laion import SCORES
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="LAION",
    home="laion.ai",
    license="of each image; the list cc-by-4.0",
    size="up to 5.8 G addresses",
    tables=("*.parquet", "*.csv", "*.tsv", "*.jsonl"),
    layouts=(
        Layout(
            has=("URL|url", "TEXT|text|caption"),
            columns={
                "target": "URL|url",
                "caption": "TEXT|text|caption",
                **SCORES,
            },
            task="t2i",
            needs=("target",),
        ),
    ),
)
