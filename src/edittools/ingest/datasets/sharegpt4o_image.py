"""ShareGPT-4o-Image (Chen et al. 2025): a JSON array for edits, one for text to image, and archives of images.

Fields as loaders of its edits read them; `input_image` is a list.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="ShareGPT-4o-Image",
    home="huggingface.co/datasets/FreedomIntelligence/ShareGPT-4o-Image",
    license="not verified",
    size="46,539 edits, 45,717 images with texts",
    tables=("text_and_image_to_image.json", "text_to_image.json"),
    layouts=(
        Layout(
            has=("input_prompt", "input_image", "output_image"),
            columns={"source": "input_image", "target": "output_image", "instruction": "input_prompt"},
        ),
        Layout(
            has=("input_prompt", "output_image"),
            columns={"target": "output_image", "caption": "input_prompt"},
            task="t2i",
            needs=("target",),
        ),
    ),
    unverified="the license, the number of images with texts, and their fields",
)
