"""UltraEdit (Zhao et al. 2024): Parquet with the images inside; of the free-form splits the mask has no type.

Columns as its card lists them. In its masks white is what may be edited: its own example passes a white one for an edit
of everything.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="UltraEdit",
    home="huggingface.co/datasets/BleachNick/UltraEdit",
    license="cc-by-4.0",
    size="about 4 M pairs",
    tables=("*.parquet", "*.arrow"),
    layouts=(
        Layout(
            has=("source_image", "edited_image", "edit_prompt", "source_caption"),
            columns={
                "source": "source_image",
                "target": "edited_image",
                "mask": "mask_image",
                "instruction": "edit_prompt",
                "caption": "target_caption",
                "scores.ultraedit_clip_source": "clip_sim_source",
                "scores.ultraedit_clip_target": "clip_sim_target",
                "scores.ultraedit_clip_directional": "clip_sim_dir",
                "scores.ultraedit_clip_image": "clip_sim_image",
                "scores.ultraedit_dino": "dinov2_sim",
                "scores.ultraedit_ssim": "ssim",
            },
        ),
    ),
)
