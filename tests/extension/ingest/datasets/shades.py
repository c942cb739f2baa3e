"""Shades: JSON lines with the paths of two images, and the wishes that lead from one to the other, the best first."""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="Shades",
    home="example.org/shades",
    license="cc0-1.0",
    size="2 pairs",
    tables=("shades*.jsonl",),
    layouts=(
        Layout(
            has=("before", "after", "wishes"),
            columns={"source": "before", "target": "after", "instruction": "wishes[0]", "task": "what"},
            tasks={"recolour": "color"},
        ),
    ),
)
