"""LAION-5B and other lists of addresses (Schuhmann et al. 2022), as img2dataset fetches them.

Tars or folders with an image, its text and a JSON each, the Parquet file of the same number beside them, or Parquet
files with the images inside; columns as img2dataset writes them and LAION names them. What could not be fetched is a
reject with the status that img2dataset gave it.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

# Columns of either case, and the scores that they are.
SCORES = {
    "scores.laion_similarity": "similarity|SIMILARITY",
    "scores.laion_aesthetic": "AESTHETIC_SCORE|aesthetic",
    "scores.laion_watermark": "pwatermark",
    "scores.laion_unsafe": "punsafe",
}

DATASET = PublishedDataset(
    title="LAION (img2dataset)",
    home="laion.ai",
    license="of each image; the list cc-by-4.0",
    size="as fetched",
    tables=("*.tar",),
    layouts=(
        Layout(
            has=("key", "status", "error_message", "url"),
            columns={
                "target": "target|jpg|webp|png",
                "caption": "caption",
                **SCORES,
            },
            task="t2i",
            needs=("target",),
        ),
    ),
)
