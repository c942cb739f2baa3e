"""The judge sets of EditScore (Luo et al. 2025): EditReward-Bench, and the conversations of EditScore-Reward-Data.

Of the benchmark the columns as its evaluation reads them: two results of one source, of which the first is the better
one by the row's `dimension`: the released statistics count where it has the higher score, and nothing else. What else a
row says is kept. Of the training data (97,300 rows) `images` are source and result, and `conversations` is kept as it
is.
"""

from edittools.ingest.dataset import GEDIT_TASKS, PublishedDataset
from edittools.stream.layouts import Layout

DATASET = PublishedDataset(
    title="EditScore",
    home="huggingface.co/datasets/EditScore/EditReward-Bench",
    license="apache-2.0",
    size="2,890 pairs of results; 97,300 judged ones",
    tables=("*.parquet", "*.arrow", "*.json", "*.jsonl"),
    layouts=(
        Layout(
            has=("input_image", "output_images", "instruction", "dimension"),
            columns={
                "source": "input_image",
                "result_a": "output_images[0]",
                "result_b": "output_images[1]",
                "instruction": "instruction",
                "task": "task_type",
                "scores.editscore_preference": "preference",
            },
            derive=lambda record: {"preference": 1.0},
            images=("result_a", "result_b"),
            needs=("source", "result_a", "result_b"),
            tasks={
                **GEDIT_TASKS,
                "style_change": "style",
                "text_change": "text",
                "extract": "extract",
                "compose": "hybrid",
            },
        ),
        Layout(
            has=("images", "conversations"),
            columns={"source": "images[:-1]", "result": "images[-1]"},
            images=("result",),
            needs=("source", "result"),
        ),
    ),
    unverified="how the tasks are spelled, the fields of a conversation",
)
