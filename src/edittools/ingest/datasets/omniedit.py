"""OmniEdit-Filtered-1.2M (Wei et al. 2024): Parquet with the images inside. Columns as its card lists them."""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="OmniEdit-Filtered-1.2M",
    home="huggingface.co/datasets/TIGER-Lab/OmniEdit-Filtered-1.2M",
    license="mit",
    size="1,202,797 pairs, 2.98 TB",
    tables=("*.parquet", "*.arrow"),
    layouts=(
        Layout(
            has=("src_img", "edited_img", "edited_prompt_list"),
            columns={
                "source": "src_img",
                "target": "edited_img",
                "instruction": "edited_prompt_list[0]",
                "task": "task",
                "scores.omniedit_sc_1": "sc_score_1",
                "scores.omniedit_sc_2": "sc_score_2",
                "scores.omniedit_pq": "pq_score",
                "scores.omniedit_overall": "o_score",
            },
            tasks={
                "addition": "add",
                "removal": "remove",
                "swap": "replace",
                "object_swap": "replace",
                "background_swap": "background",
                "env": "background",
                "environment": "background",
                "attribute_modification": "adjust",
                "style": "style",
                "style_transfer": "style",
            },
        ),
    ),
    unverified="how the tasks are spelled",
)
