"""EditReward-Data and EditReward-Bench (Wu et al. 2025): Parquet of pairs of results that people compared.

Columns as its card lists them. The result that was voted for is the target, the other one `rejected`; of a tie the one
with the higher score is, and the preference 0.5; without a vote it is, too, and there is no preference. Of the
benchmark both are results, in their order, and the preference is 1 where people ranked the first above the second, 0
below, 0.5 where they are even; the pairs of one ranking of three or four results are a group.
"""

import re
from typing import Any

from edittools.ingest.dataset import PublishedDataset
from edittools.stream.layouts import Layout

AXES = {
    "overall": "overall_score",
    "instruction": "instruction_following_score",
    "quality": "quality_aesthetic_score",
}


def ordered(record: dict[str, Any]) -> dict[str, Any]:
    """The two results as the better and the worse one."""
    vote = str(record.get("vote_type") or "").casefold()
    scores = [record.get(f"{side}_overall_score") for side in ("left", "right")]
    left = vote.startswith("left") or (
        not vote.startswith("right") and (scores[0] if scores[0] is not None else 0) >= (scores[1] or 0)
    )
    better, worse = ("left", "right") if left else ("right", "left")
    even = vote.startswith(("tie", "both", "equal"))  # as arenas say that both are good, or bad
    said = 1.0 if vote.startswith(("left", "right")) else 0.5 if even else None
    made: dict[str, Any] = {"preference": said}
    for name, side in (("better", better), ("worse", worse)):
        made[name] = record.get(f"{side}_output_image") or record.get(f"{side}_image")
        made[f"{name}_model"] = record.get(f"{side}_model")
        made |= {f"{name}_{axis}": record.get(f"{side}_{column}") for axis, column in AXES.items()}
    return made


def compared(record: dict[str, Any]) -> dict[str, Any]:
    """Of a pair of the benchmark: what people prefer, and which ranking it is from."""
    letters = str(record.get("comparison_type") or "AvsB").split("vs")
    ranking = re.sub(r"\s", "", str(record.get("ranking") or ""))
    places = [ranking.find(letter) for letter in letters]
    made: dict[str, Any] = {"ranked": str(record.get("id") or "").partition("_")[0], "preference": None}
    if len(places) == 2 and min(places) >= 0:
        between = ranking[min(places) : max(places)]  # of "A=B=Good" it is "A="
        if ">" in between or "<" in between:
            made["preference"] = float((places[0] < places[1]) == (">" in between))
        elif "=" in between:
            made["preference"] = 0.5
    return made


BENCH = Layout(
    has=("source_image", "candidate_1", "candidate_2", "ranking"),
    columns={
        "source": "source_image",
        "result_a": "candidate_1",
        "result_b": "candidate_2",
        "instruction": "instruction",
        "group": "ranked",
        "scores.editreward_preference": "preference",
        "scores.editreward_a": "score_1",
        "scores.editreward_b": "score_2",
    },
    derive=compared,
    reads=("comparison_type", "ranking", "id"),
    images=("result_a", "result_b"),
    needs=("source", "result_a", "result_b"),
)


def layout(source: str, side: str, *further: str) -> Layout:
    sides = [f"{which}_{name}" for which in ("left", "right") for name in (side, "model", *AXES.values())]
    return Layout(
        has=(source, f"left_{side}", f"right_{side}", "vote_type", "instruction"),
        columns={
            "source": source,
            "target": "better",
            "rejected": "worse",
            "instruction": "instruction",
            "provenance.model": "better_model",
            "rejected_model": "worse_model",
            "scores.editreward_preference": "preference",
            **{f"scores.editreward_{axis}": f"better_{axis}" for axis in AXES},
            **{f"scores.editreward_rejected_{axis}": f"worse_{axis}" for axis in AXES},
        },
        derive=ordered,
        reads=(*sides, "vote_type"),
        images=("rejected",),
        needs=("source", "target", "rejected"),
    )


DATASET = PublishedDataset(
    title="EditReward-Data",
    home="huggingface.co/datasets/TIGER-Lab/EditReward-Data",
    license="cc-by-nc-4.0",
    size="170,772 pairs of results, 87 GB; the benchmark 1,524",
    tables=("*.parquet", "*.arrow"),
    layouts=(BENCH, layout("source_img", "output_image"), layout("source_image", "image")),
)
