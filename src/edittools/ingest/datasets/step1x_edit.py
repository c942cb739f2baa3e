"""The JSON that Step1X-Edit is trained from (Liu et al. 2025): the path of every result, with its source and the text.

As its training script reads it; the data themselves are not published.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="Step1X-Edit training metadata",
    home="github.com/stepfun-ai/Step1X-Edit",
    license="of the data that it names",
    size="your own",
    tables=("*.json",),
    layouts=(
        Layout(
            has=("key", "ref_image_path", "caption"),
            columns={"source": "ref_image_path", "target": "key", "instruction": "caption"},
        ),
    ),
)
