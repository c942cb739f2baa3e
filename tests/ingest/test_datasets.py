"""Published data sets by name: imitations of their tables, made from what is known of the layouts, become our rows."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, image, pixels, rejects_of, rows_of, tar_bytes
from PIL import Image

from edittools.errors import RowError
from edittools.ingest import dataset_names, load_dataset
from edittools.record import COLUMNS, TASKS
from edittools.stream.columns import normalise, to_batch
from edittools.stream.roots import Roots

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hf(*seeds: int | None) -> pa.Array:
    """Images inside a Parquet file, as the hub's library stores them."""
    return pa.array([None if seed is None else {"bytes": image(seed), "path": None} for seed in seeds], HF)


def read(edit: Runner, name: str, *inputs: Path, out: Path, options: tuple = ()) -> tuple[list[dict], list[dict]]:
    edit("shard", *inputs, "--from", name, "-o", f"{out}/", "--max-errors", "100%", *options)
    return rows_of(out), rejects_of(out)


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def shown(mask: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(mask)).convert("L")) >= 128


FIVE = range(5)
NEW = range(100, 105)
TEXTS = [f"Make it number {k}" for k in FIVE]
# Of each set: its columns, and what the rows have to say: (column, value of every row).
TABLES: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "omniedit": (
        {
            "omni_edit_id": [f"task_{k}" for k in FIVE],
            "task": ["addition", "removal", "object_swap", "style", "attribute_modification"],
            "src_img": hf(*FIVE),
            "edited_img": hf(*NEW),
            "edited_prompt_list": [[text, "another wording"] for text in TEXTS],
            "sc_score_1": [9, 8, 7, 9, 9],
            "sc_score_2": [9, 8, 7, 9, 9],
            "sc_reasoning": ["good"] * 5,
            "pq_score": [7, 7, 7, 7, 6],
            "o_score": [7.9, 7.5, 7.0, 7.9, 7.3],
        },
        {
            "task": ["add", "remove", "replace", "style", "adjust"],
            "omni_edit_id": [f"task_{k}" for k in FIVE],
            "sc_reasoning": ["good"] * 5,
            "scores": [
                {"omniedit_sc_1": a, "omniedit_sc_2": a, "omniedit_pq": p, "omniedit_overall": o}
                for a, p, o in zip([9, 8, 7, 9, 9], [7, 7, 7, 7, 6], [7.9, 7.5, 7.0, 7.9, 7.3])
            ],
        },
    ),
    "anyedit": (
        {
            "image_id": ["a", "b", "c", "d", "e"],
            "edit_instruction": TEXTS,
            "edit_type": ["add", "color_alter", "visual_depth", "background_change", "textual_change"],
            "image_file": hf(*FIVE),
            "edited_file": hf(*NEW),
            "visual_input": hf(None, None, 50, None, None),
            "input": ["a dog"] * 5,
            "output": ["a red dog"] * 5,
        },
        {
            "task": ["add", "color", "visual", "background", "text"],
            "caption": [{"en": "a red dog", "zh": None}] * 5,
            "source": [[image(k)] + ([image(50)] if k == 2 else []) for k in FIVE],
            "input": ["a dog"] * 5,
        },
    ),
    "hqedit": (
        {
            "input": ["before"] * 5,
            "input_image": hf(*FIVE),
            "edit": TEXTS,
            "inverse_edit": [None] * 5,
            "output": ["after"] * 5,
            "output_image": hf(*NEW),
        },
        {"caption": [{"en": "after", "zh": None}] * 5, "input": ["before"] * 5},
    ),
    "instructpix2pix": (
        {
            "original_prompt": ["before"] * 5,
            "original_image": hf(*FIVE),
            "edit_prompt": TEXTS,
            "edited_prompt": ["after"] * 5,
            "edited_image": hf(*NEW),
        },
        {"caption": [{"en": "after", "zh": None}] * 5, "original_prompt": ["before"] * 5},
    ),
    "ultraedit": (
        {
            "clip_sim_source": [0.1] * 5,
            "clip_sim_target": [0.2] * 5,
            "clip_sim_dir": [0.3] * 5,
            "clip_sim_image": [0.4] * 5,
            "dinov2_sim": [0.5] * 5,
            "ssim": [0.6] * 5,
            "source_caption": ["before"] * 5,
            "target_caption": ["after"] * 5,
            "idx": list(FIVE),
            "edit_prompt": TEXTS,
            "source_image": hf(*FIVE),
            "edited_image": hf(*NEW),
            "edit_object": pa.nulls(5),
            "mask_image": pa.nulls(5),
        },
        {
            "mask": [None] * 5,
            "idx": list(FIVE),
            "scores": [
                {
                    "ultraedit_clip_source": 0.1,
                    "ultraedit_clip_target": 0.2,
                    "ultraedit_clip_directional": 0.3,
                    "ultraedit_clip_image": 0.4,
                    "ultraedit_dino": 0.5,
                    "ultraedit_ssim": 0.6,
                }
            ]
            * 5,
        },
    ),
    "unicedit": (
        {
            "key": ["0" * 32, "1" * 32, "0" * 32, "2" * 32, "3" * 32],  # a key of theirs comes twice
            "edit_task": ["Object Editing"] * 5,
            "edit_subtask": ["Subject Addition", "Texture Editing", "Tone Transformation", "一句话", "Motion Change"],
            "src_image": hf(*FIVE),
            "edit_image": hf(*NEW),
            "prompt_cn": ["改成红色"] * 5,
            "prompt_en": TEXTS,
        },
        {
            "task": ["add", "material", "tone", None, "motion"],
            "instruction": [{"en": text, "zh": "改成红色"} for text in TEXTS],
            "key": ["0" * 32, "1" * 32, "0" * 32, "2" * 32, "3" * 32],
        },
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_of_a_parquet_set_are_ours(edit: Runner, tmp_path: Path, name: str) -> None:
    columns, wanted = TABLES[name]
    parquet(tmp_path / "set/data/train-00000-of-00002.parquet", **columns)
    (tmp_path / "set/README.md").write_text("a card")
    rows, rejects = read(edit, name, tmp_path / "set", out=tmp_path / "out")
    assert not rejects and len(rows) == 5 and len({row["id"] for row in rows}) == 5
    texts = {"source": [[image(k)] for k in FIVE], "target": [image(k) for k in NEW]}
    texts["instruction"] = [{"en": text, "zh": None} for text in TEXTS]
    for column, values in {**texts, **wanted}.items():
        assert [row[column] for row in rows] == values, column
    dataset = load_dataset(name)
    for row in rows:
        assert (row["provenance"]["origin"], row["provenance"]["license"]) == (dataset.title, dataset.license)
        assert row["provenance"]["path"].startswith("data/train-00000-of-00002.parquet/")
    if "task" in wanted:
        native = columns[next(name for name in ("edit_subtask", "edit_type", "task") if name in columns)]
        assert [row["provenance"]["native_task"] for row in rows] == native


@pytest.mark.parametrize("name", TABLES)
def test_nulls_and_another_order_cost_only_the_rows_that_lack_images(edit: Runner, tmp_path: Path, name: str) -> None:
    """Rows shuffled; of row 1 the target is null, of row 2 the source, of 3 the text, of 4 every other column."""
    columns, _ = TABLES[name]
    layout = load_dataset(name).layouts[0]
    source, target = (layout.columns[key] for key in ("source", "target"))
    source = source if isinstance(source, str) else source[0]  # of anyedit's row 2, which has a sketch too
    text = layout.columns.get("instruction", layout.columns.get("instruction.en"))
    order = [4, 2, 0, 3, 1]
    table = pa.table(columns).take(order)
    for at, name_of in enumerate(table.schema.names):
        kept = table.column(name_of).to_pylist()
        for place, row in enumerate(order):
            lost = (
                (row == 1 and name_of == target)
                or (row == 2 and name_of == source)
                or (row == 3 and name_of in (str(text).partition("[")[0], "prompt_cn"))
                or (row == 4 and name_of not in (source, target, str(text).partition("[")[0]))
            )
            kept[place] = None if lost else kept[place]
        table = table.set_column(at, name_of, pa.array(kept, table.schema.field(name_of).type))
    pq.write_table(table, tmp_path / "x.parquet")
    rows, rejects = read(edit, name, tmp_path / "x.parquet", out=tmp_path / "out")
    assert [row["source"][0] for row in rows] == [image(k) for k in order if k not in (1, 2)]
    assert [row["target"] for row in rows] == [image(100 + k) for k in order if k not in (1, 2)]
    assert [row["instruction"] is None for row in rows] == [k == 3 for k in order if k not in (1, 2)]
    assert [(reject["reason"], reject["path"]) for reject in rejects] == [
        ("no source", "x.parquet/1"),
        ("no target", "x.parquet/4"),
    ]


def test_every_set_maps_to_columns_and_tasks_that_there_are() -> None:
    assert len(dataset_names()) >= 17
    for name in dataset_names():
        dataset = load_dataset(name)
        assert dataset.title and dataset.home and dataset.license and dataset.size and dataset.tables, name
        for layout in dataset.layouts:
            assert {*layout.tasks.values()} <= {*TASKS} and (layout.task is None or layout.task in TASKS), name
            for column in layout.columns:
                head = column.partition(".")[0]
                assert head in COLUMNS or head == "scores" or not column.startswith(("source", "target")), (
                    name,
                    column,
                )


JUNK = [
    None,
    "",
    "x",
    "a/b.png",
    7,
    -1.5,
    True,
    [],
    {},
    [None],
    [[1]],
    ["x", 3],
    {"a": 1},
    [{"b": ["x"]}],
    "None",
    [{}],
]


@pytest.mark.parametrize("name", dataset_names())
def test_whatever_stands_in_a_row_costs_that_row_alone(name: str) -> None:
    """Values of any kind in the columns of a layout: a row that the record takes, or a RowError."""
    rng, dataset, made = random.Random(name), load_dataset(name), 0
    arrangement = dataset.arrangement(Roots())
    for layout in dataset.layouts:
        known = sorted({*layout.used, *(column.split("|")[0] for column in layout.has)})
        for _ in range(300):
            record = {column.split("|")[0]: rng.choice([*JUNK, *["a/b.png"] * 20]) for column in known}
            try:
                row = normalise(arrangement.row(record, "/nowhere"))
            except RowError:
                continue
            own = {column: value for column, value in row.items() if column in COLUMNS}
            to_batch([own], pa.schema([(column, COLUMNS[column]) for column in own]))
            made += 1
    assert made or name in ("imgedit", "seed_data_edit"), "nothing came through"


def test_turns_and_masks_of_magicbrush(edit: Runner, tmp_path: Path) -> None:
    """The edited region is cut out of the source; of one mask nothing is cut out, and white is what was edited."""
    region = np.zeros((32, 40), bool)
    region[4:20, 8:30] = True
    cut = encode(np.dstack([pixels(1), np.where(region, 0, 255).astype(np.uint8)]), "PNG")
    plain = encode(np.repeat(np.where(region, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2), "PNG")
    masks = [{"bytes": data, "path": None} for data in (cut, cut, plain, cut)]
    parquet(
        tmp_path / "x.parquet",
        img_id=["7", "7", "8", "8"],
        turn_index=pa.array([1, 2, 1, 2], pa.int32()),
        source_img=hf(1, 101, 2, 102),
        mask_img=pa.array([*masks[:3], None], HF),
        instruction=["one", "two", "three", "four"],
        target_img=hf(101, 201, 102, 202),
    )
    rows, rejects = read(edit, "magicbrush", tmp_path / "x.parquet", out=tmp_path / "out")
    assert not rejects and [(row["img_id"], row["turn_index"]) for row in rows] == [
        ("7", 1),
        ("7", 2),
        ("8", 1),
        ("8", 2),
    ]
    assert rows[1]["source"] == [rows[0]["target"]] == [image(101)]
    assert all(np.array_equal(shown(row["mask"]), region) for row in rows[:3]) and rows[3]["mask"] is None


def test_dialogues_of_magicbrush_are_rows_with_turns(edit: Runner, tmp_path: Path) -> None:
    """A turn edits what the turn before made, or an earlier image again; a turn that is alone stays a pair."""
    parquet(
        tmp_path / "x.parquet",
        img_id=["7", "7", "7", "8", "9", "9"],
        turn_index=pa.array([1, 2, 3, 1, 2, 1], pa.int32()),
        source_img=hf(1, 101, 101, 2, 103, 3),
        mask_img=hf(11, 12, 13, 14, 15, 16),
        instruction=["one", "two", "three", "four", "six", "five"],
        target_img=hf(101, 201, 301, 102, 203, 103),
    )
    rows, rejects = read(
        edit, "magicbrush", tmp_path / "x.parquet", out=tmp_path / "out", options=("--dialogues", "set")
    )
    assert not rejects and [row["img_id"] for row in rows] == ["7", "8", "9"]
    first, alone, last = rows
    assert (first["source"], first["target"], first["mask"]) == ([image(1)], image(301), None)
    assert first["instruction"]["en"] == "one two three"
    assert [(turn["parent"], turn["instruction"]["en"], turn["target"]) for turn in first["turns"]] == [
        (-1, "one", image(101)),
        (0, "two", image(201)),
        (0, "three", image(301)),  # goes back to the first turn's image
    ]
    assert all(turn["mask"] is not None for turn in first["turns"])
    assert not alone["turns"] and alone["target"] == image(102) and alone["mask"] is not None
    assert [turn["instruction"]["en"] for turn in last["turns"]] == ["five", "six"] and "turn_index" not in last
    named = ("shard", tmp_path / "x.parquet", "--map", "source=source_img", "--map", "target=target_img")
    edit(*named, "--dialogues", "img_id,turn_index", "-o", f"{tmp_path}/named/")
    assert [len(row["turns"] or []) for row in rows_of(tmp_path / "named")] == [3, 0, 2]
    assert "expected GROUP,TURN" in edit(*named, "--dialogues", "img_id", "-o", f"{tmp_path}/no/", check=2).stderr


def test_a_dialogue_from_which_a_turn_is_missing_is_two(edit: Runner, tmp_path: Path) -> None:
    """Turn 2 has no target, so nobody has what turn 3 edits; turn 5 of the other one edits an image that is there."""
    parquet(
        tmp_path / "x.parquet",
        img_id=["7", "7", "7", "7", "8", "8", "8"],
        turn_index=pa.array([1, 2, 3, 4, 3, 2, 5], pa.int32()),
        source_img=hf(1, 101, 201, 301, 12, 2, 12),
        mask_img=hf(*[None] * 7),
        instruction=["one", "two", "three", "four", "six", "five", "seven"],
        target_img=hf(101, None, 301, 401, 22, 12, 32),
    )
    rows, rejects = read(
        edit, "magicbrush", tmp_path / "x.parquet", out=tmp_path / "out", options=("--dialogues", "set")
    )
    assert [reject["reason"] for reject in rejects] == ["no target"]
    assert [row["source"] for row in rows] == [[image(1)], [image(201)], [image(2)]]
    assert [[(t["parent"], t["instruction"]["en"]) for t in row["turns"] or []] for row in rows] == [
        [],
        [(-1, "three"), (0, "four")],
        [(-1, "five"), (0, "six"), (0, "seven")],
    ]


def test_the_way_back_is_a_row_of_its_own(edit: Runner, tmp_path: Path) -> None:
    parquet(
        tmp_path / "x.parquet",
        input=["a", "b", "c"],
        input_image=hf(1, 2, 3),
        edit=["turn it red", "turn it blue", "give it a hat"],
        inverse_edit=["turn it green", None, "take the hat off"],
        output=["A", "B", "C"],
        output_image=hf(101, 102, 103),
    )
    rows, rejects = read(edit, "hqedit", tmp_path / "x.parquet", out=tmp_path / "out")
    told = [(row["source"][0], row["instruction"]["en"], row["target"]) for row in rows]
    assert not rejects and told == [
        (image(1), "turn it red", image(101)),
        (image(101), "turn it green", image(1)),
        (image(2), "turn it blue", image(102)),
        (image(3), "give it a hat", image(103)),
        (image(103), "take the hat off", image(3)),
    ]
    assert len({row["id"] for row in rows}) == 5 and rows[1]["caption"] is None  # which says what was the target
    assert rows[1]["provenance"]["path"] == "x.parquet/0#inverse"


def test_votes_make_a_winner_and_a_loser(edit: Runner, tmp_path: Path) -> None:
    votes = ["leftvote", "rightvote", "tie", None, "unclear"]  # what is no vote is no tie
    axes = {
        f"{side}_{axis}_score": pa.array(values, pa.float32())
        for side, values in (("left", [7, 3, 4, 6, 2]), ("right", [2, 8, 5, 1, 3]))
        for axis in ("overall", "instruction_following", "quality_aesthetic")
    }
    parquet(
        tmp_path / "x.parquet",
        key=["a", "b", "c", "d", "e"],
        instruction=["one", "two", "three", "four", "five"],
        source_img=hf(1, 2, 3, 4, 5),
        left_output_image=hf(11, 12, 13, 14, 15),
        right_output_image=hf(21, 22, 23, 24, 25),
        left_model=["L"] * 5,
        right_model=["R"] * 5,
        vote_type=votes,
        **axes,
    )
    rows, _ = read(edit, "editreward", tmp_path / "x.parquet", out=tmp_path / "out")
    assert [(row["target"], row["rejected"]) for row in rows] == [
        (image(11), image(21)),
        (image(22), image(12)),
        (image(23), image(13)),
        (image(14), image(24)),
        (image(25), image(15)),
    ]
    assert [row["scores"]["editreward_preference"] for row in rows] == [1, 1, 0.5, None, None]
    assert [row["scores"]["editreward_overall"] for row in rows] == [7, 8, 5, 6, 3]
    assert [row["scores"]["editreward_rejected_quality"] for row in rows] == [2, 3, 4, 1, 2]
    models = [(row["provenance"]["model"], row["rejected_model"]) for row in rows]
    assert models == [("L", "R"), ("R", "L"), ("R", "L"), ("L", "R"), ("R", "L")]


def test_another_table_under_the_name_of_a_set_is_one_line(edit: Runner, tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", src_img=hf(1), edited=hf(2), prompt=["a"])
    said = edit("shard", tmp_path / "x.parquet", "--from", "omniedit", "-o", tmp_path / "out", check=1).stderr
    assert "not laid out as OmniEdit" in said and "edited, " in said and "edited_prompt_list" in said
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    said = edit("shard", tmp_path / "x.jsonl", "--from", "pico_banana", "-o", tmp_path / "out2", check=1).stderr
    assert "not laid out as Pico-Banana" in said and "it has a, b" in said
    (tmp_path / "empty").mkdir()
    said = edit("shard", tmp_path / "empty", "--from", "omniedit", "-o", tmp_path / "out3", check=2).stderr
    assert "no table of OmniEdit" in said and "*.parquet" in said


@pytest.mark.parametrize("name", ["omniedit", "ultraedit", "unicedit"])
def test_a_set_that_nobody_named_is_named_in_a_hint(edit: Runner, tmp_path: Path, name: str) -> None:
    parquet(tmp_path / "x.parquet", **TABLES[name][0])
    assert f"--from {name}" in edit("shard", tmp_path / "x.parquet", "-o", tmp_path / "out").stderr
    said = edit("shard", tmp_path / "x.parquet", "--map", "a=nothing", "-o", tmp_path / "out2", check=2).stderr
    assert "--from" not in said  # who maps columns knows the input


def test_a_hint_does_not_look_through_a_whole_crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edittools.ingest import reading

    parquet(tmp_path / "set/a/b/x.parquet", **TABLES["omniedit"][0])
    assert reading.hint_for([str(tmp_path / "set")]) == "laid out as OmniEdit-Filtered-1.2M: --from omniedit reads it"
    for k in range(50):
        (tmp_path / f"set/{k}.jpg").touch()
    monkeypatch.setattr(reading, "_ENTRIES", 20)
    assert reading.hint_for([str(tmp_path / "set")]) is None
    assert reading.hint_for(["-", "s3://nowhere/x", str(tmp_path / "gone")]) is None


def test_what_is_asked_for_twice_is_refused(edit: Runner, tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", **TABLES["omniedit"][0])
    given = ("shard", tmp_path / "x.parquet", "--from", "omniedit", "-o", tmp_path / "out")
    assert "--from and --map" in edit(*given, "--map", "source=src_img", check=2).stderr
    assert "--license" not in edit(*given, "--license", "mine", "--origin", "here").stderr
    known = rows_of(tmp_path / "out")[0]["provenance"]
    assert (known["license"], known["origin"]) == ("mine", "here")


def test_a_set_that_is_read_again_is_skipped_and_a_grown_one_grows(edit: Runner, tmp_path: Path) -> None:
    columns = pa.table(TABLES["omniedit"][0])
    (tmp_path / "set").mkdir()
    pq.write_table(columns, tmp_path / "set/a.parquet")
    given = ("shard", tmp_path / "set", "--from", "omniedit", "--rows", 5, "-o", f"{tmp_path}/out/")
    edit(*given)
    before = (tmp_path / "out/00000.tar").stat().st_mtime_ns
    edit(*given)
    pq.write_table(columns.slice(0, 2), tmp_path / "set/b.parquet")
    edit(*given)
    assert (tmp_path / "out/00000.tar").stat().st_mtime_ns == before and len(rows_of(tmp_path / "out")) == 7


def test_judged_results_of_editscore(edit: Runner, tmp_path: Path) -> None:
    images = [[{"bytes": image(seed), "path": None} for seed in pair] for pair in ((11, 12), (13, 14))]
    parquet(
        tmp_path / "x.parquet",
        key=[["a", "b"], ["c", "d"]],
        instruction=["one", "two"],
        input_image=hf(1, 2),
        output_images=pa.array(images, pa.list_(HF)),
        task_type=["subject-add", "style_change"],
        dimension=["prompt_following", "overall"],
    )
    rows, rejects = read(edit, "editscore", tmp_path / "x.parquet", out=tmp_path / "out")
    assert not rejects and [(row["source"], row["result_a"], row["result_b"]) for row in rows] == [
        ([image(1)], image(11), image(12)),
        ([image(2)], image(13), image(14)),
    ]
    assert [row["task"] for row in rows] == ["add", "style"] and rows[1]["dimension"] == "overall"
    assert [row["scores"]["editscore_preference"] for row in rows] == [1, 1]


def test_preferences_of_vcreward_bench(edit: Runner, tmp_path: Path) -> None:
    """Also in another order of columns, and with a word that is no choice, and one result alone."""
    told = [("Image A", "subject_add"), ("Image B", "camera_motion"), ("Tie", "oref"), ("Failed", "ps_human")]
    results = [[{"bytes": image(11 + 2 * n + side), "path": None} for side in (0, 1)] for n in range(4)]
    columns = {
        "winner": [winner for winner, _ in told] + ["Image A"],
        "key": [f"k{n}" for n in range(5)],
        "edited_images": pa.array([*results, results[0][:1]], pa.list_(HF)),
        "task": [task for _, task in told] + ["subject_add"],
        "instruction": ["one", "two", "three", "four", "five"],
        "source_image": hf(1, 2, 3, 4, 5),
    }
    parquet(tmp_path / "x.parquet", **columns)
    rows, rejects = read(edit, "vcreward", tmp_path / "x.parquet", out=tmp_path / "out")
    assert [(row["source"], row["result_a"], row["result_b"]) for row in rows] == [
        ([image(n + 1)], image(11 + 2 * n), image(12 + 2 * n)) for n in range(4)
    ]
    assert [row["scores"]["vcreward_preference"] for row in rows] == [1, 0, 0.5, None]
    assert [row["task"] for row in rows] == ["add", "viewpoint", None, "portrait"]
    assert [row["instruction"]["en"] for row in rows] == ["one", "two", "three", "four"]
    assert len(rejects) == 1 and rejects[0]["failed"]


def test_rankings_of_editreward_bench(edit: Runner, tmp_path: Path) -> None:
    """The columns as its evaluation reads them: 2pair, 3pair and 4pair in one table."""
    told = [
        ("p1_AvsB", "AvsB", "B>A", 0), ("p2_AvsB", "AvsB", "A=B=Good", 0.5), ("p3_AvsB", "AvsB", "A<B", 0),
        ("t1_AvsB", "AvsB", "A>B", 1), ("t1_AvsC", "AvsC", "C>A", 0), ("t1_BvsC", "BvsC", "C>B", 0),
        ("q1_BvsD", "BvsD", "C>B>A>D", 1), ("q2_AvsC", "AvsC", "A=B>C", 1), ("q3_AvsB", "AvsB", "?", None),
    ]  # fmt: skip
    count = len(told)
    parquet(
        tmp_path / "x.parquet", id=[each[0] for each in told], comparison_type=[each[1] for each in told],
        ranking=[each[2] for each in told], instruction=["paint it"] * count, dataset=["3pair"] * count,
        source_image=hf(*range(count)), candidate_1=hf(*range(20, 20 + count)), candidate_2=hf(*range(40, 40 + count)),
        score_1=[3.0] * count, score_2=[5.0] * count, model_1=["M"] * count, model_2=["N"] * count,
    )  # fmt: skip
    rows, rejects = read(edit, "editreward", tmp_path / "x.parquet", out=tmp_path / "out")
    assert not rejects
    assert [row["scores"]["editreward_preference"] for row in rows] == [each[3] for each in told]
    assert [row["group"] for row in rows] == [each[0][:2] for each in told]
    assert (rows[0]["result_a"], rows[0]["result_b"], rows[0]["source"]) == (image(20), image(40), [image(0)])
    assert rows[0]["scores"]["editreward_b"] == 5 and rows[0]["dataset"] == "3pair" and rows[0]["model_2"] == "N"


def test_tars_of_x2edit(edit: Runner, tmp_path: Path) -> None:
    """Two spellings of the source, a mask, an empty text, and a second tar behind the first, with the same names."""

    def sample(key: str, seed: int, source: str = "1.0.jpg", **said: Any) -> list[tuple[str, bytes]]:
        fields = {
            "instruction": "把花变成红色",
            "instruction_en": "turn the flower red",
            "task": "color change",
            **said,
        }
        return [
            (f"{key}.{source}", image(seed)),
            (f"{key}.2.jpg", image(100 + seed)),
            (f"{key}.json", json.dumps(fields).encode()),
            (f"{key}.txt", fields["instruction"].encode()),
        ]

    mask = encode(np.full((32, 40, 3), 255, np.uint8), "PNG")
    first = tar_bytes([*sample("0", 0), *sample("1", 1, "1.jpg", task="subject_deletion"), ("1.3.png", mask)])
    second = tar_bytes(
        [*sample("0", 2, instruction="", instruction_en=None), *sample("2", 3, score_7b=8.5, model="lama")]
    )
    (tmp_path / "set/X2Edit_data/lama/0").mkdir(parents=True)
    (tmp_path / "set/X2Edit_data/lama/0/00000.tar").write_bytes(first + second)
    rows, rejects = read(edit, "x2edit", tmp_path / "set", out=tmp_path / "out")
    assert not rejects and [row["source"] for row in rows] == [[image(k)] for k in (0, 1, 2, 3)]
    assert [row["target"] for row in rows] == [image(100 + k) for k in (0, 1, 2, 3)]
    assert (
        rows[0]["instruction"] == {"en": "turn the flower red", "zh": "把花变成红色"} and rows[2]["instruction"] is None
    )
    assert [row["task"] for row in rows] == ["color", "remove", "color", "color"]
    assert rows[1]["mask"] == mask and rows[3]["scores"]["x2edit_judge"] == 8.5
    assert rows[3]["provenance"]["model"] == "lama"


def test_rows_of_a_set_are_learned_from(tmp_path: Path, edit: Runner) -> None:
    """The reader of `edit train` takes every pair, its sizes, texts, tasks and masks."""
    from edittools.stream.opening import open_source
    from edittools.train.rows import ShardRows

    columns = dict(TABLES["ultraedit"][0])
    columns["mask_image"] = pa.array([{"bytes": image(7, "PNG"), "path": None}] * 5, HF)
    order = random.Random(0).sample(range(5), 5)
    pq.write_table(pa.table(columns).take(order), tmp_path / "x.parquet")
    read(edit, "ultraedit", tmp_path / "x.parquet", out=tmp_path / "out")
    rows = ShardRows(
        open_source([str(tmp_path / "out")]), {"instruction": "instruction"}, ("en",), "", 1 << 20, masks=True
    )
    assert len(rows) == 5 and [row.texts["instruction", "en"] for row in rows] == [TEXTS[k] for k in order]
    assert all(row.sources == [(32, 40)] and row.target == (32, 40) for row in rows)
    assert {row.origin for row in rows} == {"UltraEdit"} and rows.mask(0) is not None


def test_the_help_of_shard_needs_no_library() -> None:
    code = "import sys; import edittools.cli.shard; print(sorted({'pyarrow', 'numpy', 'PIL'} & {*sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert ran.stdout.strip() == "[]"
