"""VCReward-Bench of GEditBench v2 (Jiang et al. 2026): pairs of results whose visual consistency experts compared.

Parquet with the columns as its released loader reads them. The preference is 1 where the first result keeps better what
was not to change, 0 where the second does, 0.5 for a tie; of other words there is none.
"""

from typing import Any

from edittools.ingest.dataset import GEDIT_TASKS, PublishedDataset
from edittools.stream.layouts import Layout

_SAID = {"image a": 1.0, "image b": 0.0, "tie": 0.5}


def preferred(record: dict[str, Any]) -> dict[str, Any]:
    return {"preference": _SAID.get(str(record.get("winner") or "").strip().casefold())}


DATASET = PublishedDataset(
    title="VCReward-Bench",
    home="huggingface.co/datasets/GEditBench-v2/VCReward-Bench",
    license="not verified",
    size="3,506 pairs of results",
    tables=("*.parquet", "*.arrow"),
    layouts=(
        Layout(
            has=("source_image", "edited_images", "winner", "instruction"),
            columns={
                "source": "source_image",
                "result_a": "edited_images[0]",
                "result_b": "edited_images[1]",
                "instruction": "instruction",
                "task": "task",
                "scores.vcreward_preference": "preference",
            },
            derive=preferred,
            reads=("winner",),
            images=("result_a", "result_b"),
            needs=("source", "result_a", "result_b"),
            tasks={
                **GEDIT_TASKS,
                "style_transfer": "style",
                "text_editing": "text",
                "object_extraction": "extract",
                "camera_motion": "viewpoint",
                "enhancement": "lowlevel",
            },
        ),
    ),
    unverified="the license, whether people ever call a pair even, the table was never seen",
)
