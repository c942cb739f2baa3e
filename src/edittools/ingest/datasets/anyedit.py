"""AnyEdit (Yu et al. 2024): Parquet with the images inside, or the JSON of its code with paths.

Columns as its card lists them; the fields of the JSON as its code reads them, where one that has no visual input says
"None". A visual input (a sketch, a depth map, a reference) is a second source. Tasks are spelled as the authors'
training code has them (AnySD), the tone in two ways; of those that it names too, `movement`, `resize`, `outpaint`,
`counting` and `relation` are none of ours.
"""

from typing import Any

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

TASKS = {
    "add": "add",
    "remove": "remove",
    "replace": "replace",
    "color_alter": "color",
    "appearance_alter": "adjust",
    "material_change": "material",
    "action_change": "motion",
    "textual_change": "text",
    "background_change": "background",
    "tone_transfer": "tone",
    "tune_transfer": "tone",
    "style_change": "style",
    "style_transfer": "style",
    "rotation_change": "viewpoint",
    "visual_sketch": "visual",
    "visual_scribble": "visual",
    "visual_segment": "visual",
    "visual_depth": "visual",
    "visual_layout": "visual",
    "visual_bbox": "visual",
    "visual_material_transfer": "visual",
    "visual_reference": "visual",
}


def inputs(record: dict[str, Any]) -> dict[str, Any]:
    visual = record.get("visual_input")
    return {"visual": None if visual == "None" else visual}


def layout(instruction: str) -> Layout:
    return Layout(
        has=("image_file", "edited_file", instruction, "edit_type"),
        columns={
            "source": ("image_file", "visual"),
            "target": "edited_file",
            "instruction": instruction,
            "caption": "output",
            "task": "edit_type",
        },
        derive=inputs,
        reads=("visual_input",),
        tasks=TASKS,
    )


DATASET = PublishedDataset(
    title="AnyEdit",
    home="huggingface.co/datasets/Bin1117/AnyEdit",
    license="cc-by-4.0",
    size="2,504,683 pairs, 218 GB",
    tables=("*.parquet", "*.arrow", "*.json", "*.jsonl"),
    layouts=(layout("edit_instruction"), layout("edit")),
    unverified="the paths of the JSON are taken as beside it or below --root",
)
