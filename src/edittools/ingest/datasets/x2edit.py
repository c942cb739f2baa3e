"""X2Edit (Ma et al. 2025): tars of webdataset, of ten models that made the edits.

Files as loaders of the release read them: `1.0.jpg` (in its own scripts also `1.jpg`) is the source, `2.jpg` the
result, `1.1.jpg`, of `textflux` alone, the mask of the letters and `3.jpg`, of deletions, the mask; the JSON has
`instruction` and translations of it. Some of its tars are several, one behind the other: a name that comes twice is
two rows.
"""

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="X2Edit",
    home="huggingface.co/datasets/OPPOer/X2Edit-Dataset",
    license="apache-2.0",
    size="6,026,214 pairs",
    tables=("*.tar",),
    layouts=(
        Layout(
            has=("1_0|1", "2", "instruction|instruction_en|instruction_zh|caption"),
            columns={
                "source": "1_0|1",
                "target": "2",
                "mask": "1_1|3",
                "instruction.en": "instruction_en",
                "instruction.zh": "instruction_zh",
                "instruction": "instruction|instruction_en|instruction_zh|caption",
                "caption.en": "caption_en",
                "caption.zh": "caption_zh",
                "task": "task|label",
                "provenance.model": "model",
                "scores.x2edit_aesthetic": "aesthetic_score_v2_5|aesthetic_score",
                "scores.x2edit_aesthetic_edit": "aesthetic_score_v2_5_edit|aesthetic_score_delete",
                "scores.x2edit_liqe": "liqe_score|liqe_score_ori",
                "scores.x2edit_liqe_edit": "liqe_score_edit|liqe_score_delete",
                "scores.x2edit_judge": "score_7b|score",
            },
            tasks={
                "subject_addition": "add",
                "subject_deletion": "remove",
                "object_deletion": "remove",
                "subject_replacement": "replace",
                "background_change": "background",
                "color_change": "color",
                "material_change": "material",
                "style_change": "style",
                "tone_transform": "tone",
                "text_change": "text",
                "action_change": "motion",
                "portrait_editing": "portrait",
                "portrait": "portrait",
                "camera_movement": "viewpoint",
                "personalized_generation": "visual",
            },
        ),
    ),
    unverified="that white is what was edited in `3.jpg`",
)
