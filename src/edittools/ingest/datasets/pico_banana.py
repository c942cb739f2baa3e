"""Pico-Banana-400K (Apple 2025): JSON lines of single edits, of preferences and of dialogues.

Fields as its helper script and others' loaders read them. A source is an address at Flickr, or, where that script has
been at work, `local_input_image`; results are named relative to the folder that its manifest lists, which is in another
order, so that images are found by their names and never by their lines.
"""

from typing import Any

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

TASKS = {
    "add_a_new_object_to_the_scene": "add",
    "remove_an_existing_object": "remove",
    "replace_one_object_category_with_another": "replace",
    "change_an_object's_attribute_(e.g.,_color/material)": "adjust",
    "alter_background_entirely": "background",
    "change_overall_color_tone": "tone",
}
SINGLE = {
    "source": "local_input_image|open_image_input_url",
    "target": "output_image",
    "instruction": "text",
    "instruction_concise": "summarized_text",
    "task": "edit_type",
}


def turns(record: dict[str, Any]) -> dict[str, Any]:
    """The turns in their order: `edit_turn1` ..., and `final_image` last."""
    places = {item.get("id"): item.get("local_path") or item.get("url") for item in record.get("files") or []}
    prompts = record.get("metadata_edit_turn_prompts") or []
    made = []
    for number, prompt in enumerate(prompts, 1):
        last = number == len(prompts)
        target = places.get(f"edit_turn{number}") or (places.get("final_image") if last else None)
        made.append({"instruction": prompt, "target": target})
    first = record.get("local_input_image") or places.get("original_input_image")
    return {"first": first, "turns_made": made}


DATASET = PublishedDataset(
    title="Pico-Banana-400K",
    home="github.com/apple/pico-banana-400k",
    license="cc-by-nc-nd-4.0",
    size="257 k pairs, 56 k preferences, 72 k dialogues",
    tables=("*.jsonl",),
    layouts=(
        Layout(
            has=("files", "metadata_edit_turn_prompts"),
            columns={"source": "first", "turns": "turns_made"},
            derive=turns,
            reads=("files", "metadata_edit_turn_prompts", "local_input_image"),
            needs=("source", "turns"),
        ),
        Layout(
            has=("open_image_input_url|local_input_image", "text", "positive_image|edited_image_positive"),
            columns={
                **SINGLE,
                "target": "positive_image|edited_image_positive",
                "rejected": "negative_image|edited_image_negative",
            },
            images=("rejected",),
            tasks=TASKS,
            needs=("source", "target", "rejected"),
        ),
        Layout(has=("open_image_input_url|local_input_image", "text", "output_image"), columns=SINGLE, tasks=TASKS),
    ),
    unverified="the fields of the preferences, and the tasks beyond those mapped",
)
