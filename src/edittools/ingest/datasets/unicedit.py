"""UnicEdit-10M (Ye et al. 2025): Parquet with the images inside and instructions in two languages.

Columns and tasks as a loader of the release lists them; 135 of 681 files were published then.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="UnicEdit-10M",
    home="huggingface.co/datasets/xiaotanhua/UnicEdit-10M",
    license="apache-2.0",
    size="2,025,000 pairs released, 5.2 TB",
    tables=("*.parquet", "*.arrow"),
    layouts=(
        Layout(
            has=("src_image", "edit_image", "prompt_en", "prompt_cn"),
            columns={
                "source": "src_image",
                "target": "edit_image",
                "instruction.en": "prompt_en",
                "instruction.zh": "prompt_cn",
                "task": "edit_subtask",
            },
            tasks={
                "background_change": "background",
                "color_alteration": "color",
                "compound_operation_edits": "hybrid",
                "material_modification": "material",
                "motion_change": "motion",
                "object_extraction": "extract",
                "portrait_editing": "portrait",
                "shape_size_alteration": "adjust",
                "style_transfer": "style",
                "subject_addition": "add",
                "subject_removal": "remove",
                "subject_replacement": "replace",
                "text_modification": "text",
                "texture_editing": "material",
                "tone_transformation": "tone",
                "viewpoint_transformation": "viewpoint",
            },
        ),
    ),
)
