"""A benchmark's list of cases as rows, and results written where its official script looks for them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import Runner, encode, picture, pixels, rejects_of, rows_of
from PIL import Image


def shown(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def make_gedit(folder: Path) -> None:
    tasks = ["background_change", "subject-add", "ps_human"]
    rows = [
        {
            "task_type": task, "key": "same" if k else f"key.{k}", "instruction": f"{language} {k}",
            "instruction_language": language, "input_image": {"bytes": picture(k, "JPEG"), "path": None},
            "input_image_raw": {"bytes": picture(9), "path": None}, "Intersection_exist": k == 1,
        }
        for k, task in enumerate(tasks)
        for language in ("en", "cn")
    ]  # fmt: skip
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet", row_group_size=2)


def test_gedit_rows_and_their_results(edit: Runner, tmp_path: Path) -> None:
    make_gedit(tmp_path / "hub")
    edit("eval", "gedit", "--cases", tmp_path / "hub", "-o", tmp_path / "rows")
    rows = rows_of(tmp_path / "rows")
    # `same` is a key of two tasks; the id tells them apart, and holds no dot.
    assert [row["id"] for row in rows][:4] == [
        "background_change_en_key_0", "background_change_cn_key_0", "subject-add_en_same", "subject-add_cn_same",
    ]  # fmt: skip
    assert rows[3]["instruction"] == {"en": None, "zh": "cn 1"} and rows[3]["task"] == "add"
    assert rows[3]["source"] == [picture(1, "JPEG")] and rows[3]["case"]["subset"] is True
    chinese = edit("eval", "gedit", "--cases", tmp_path / "hub", "--language", "zh", "-f", "jsonl").lines
    assert [row["case"]["language"] for row in chinese] == ["cn"] * 3
    # Results: the target of any row set stands in for a model's pictures here.
    made = [{"name": "result", "image": encode(pixels(50 + k), "PNG")} for k in range(len(rows))]
    table = pq.read_table(tmp_path / "rows" / "00000.parquet")
    frame = pa.table({
        "id": table["id"],
        "case": table["case"],
        "source": pa.array([[{"bytes": row["source"][0], "path": None}] for row in rows]),
        "result": pa.array([{"bytes": item["image"], "path": None} for item in made]),
    })  # fmt: skip
    pq.write_table(frame, tmp_path / "results.parquet")
    done = edit("eval", "gedit", tmp_path / "results.parquet", "--export", tmp_path / "out")
    assert "6 results written; 0 rows without" in done.stderr
    place = tmp_path / "out" / "fullset" / "subject-add" / "cn"
    assert (place / "same.png").read_bytes() == made[3]["image"]
    source = (place / "same_SRCIMG.png").read_bytes()
    assert source[:4] == b"\x89PNG" and np.array_equal(shown(source), shown(picture(1, "JPEG")))
    edit("eval", "gedit", tmp_path / "results.parquet", "--export", tmp_path / "out")  # the same again is no conflict
    (place / "same.png").write_bytes(b"other")
    assert "--overwrite" in edit("eval", "gedit", tmp_path / "results.parquet", "--export", tmp_path / "out",
                                 check=1).stderr  # fmt: skip


def test_imgedit_lists_and_a_missing_picture(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "Benchmark" / "singleturn"
    (folder / "daily object").mkdir(parents=True)
    (folder / "daily object" / "1.jpg").write_bytes(picture(1))
    listed = {
        "1082": {"id": "daily object/1.jpg", "prompt": "Add a cup.", "edit_type": "add"},
        "7": {"id": "animal/2.jpg", "prompt": "Make it red.", "edit_type": "alter"},
    }
    (folder / "singleturn.json").write_text(json.dumps(listed))
    done = edit("eval", "imgedit", "--cases", tmp_path, "-o", tmp_path / "rows", check=3)
    assert "missing file" in done.stderr
    (row,) = rows_of(tmp_path / "rows")
    assert row["id"] == "add_en_1082" and row["case"]["result_path"] == "1082.png"
    assert [reject["id"] for reject in rejects_of(tmp_path / "rows")] == ["adjust_en_7"]
    uge = tmp_path / "hard"
    uge.mkdir()
    (uge / "3.jpg").write_bytes(picture(3))
    (uge / "UGE_edit.json").write_text(json.dumps({"1": {"id": "3.jpg", "prompt": "The third from the left."}}))
    (row,) = edit("eval", "imgedit", "--cases", uge, "--suite", "uge", "-f", "jsonl").lines
    assert row["case"]["suite"] == "uge" and row["case"]["task"] == "uge"
    assert "--suite" in edit("eval", "imgedit", "--cases", uge, "--suite", "x", check=2).stderr


def test_dialogues_go_to_people(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "multiturn"
    folder.mkdir()
    (folder / "5.jpg").write_bytes(picture(5))
    turns = {"1": {"id": "5.jpg", "turn1": "Only green from now on.", "turn2": "Replace the tomato."}}
    (folder / "content_memory.json").write_text(json.dumps(turns))
    listed = tmp_path / "cases.jsonl"
    listed.write_bytes(edit("eval", "imgedit", "--cases", folder, "--suite", "multiturn", "-f", "jsonl").stdout)
    (row,) = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(turn["parent"], turn["instruction"]["en"]) for turn in row["turns"]] == [
        (-1, "Only green from now on."), (0, "Replace the tomato."),
    ]  # fmt: skip
    words = []
    for model in ("first", "second"):
        (tmp_path / model).mkdir()
        for turn in (1, 2):
            (tmp_path / model / f"{row['id']}.turn.{turn}.png").write_bytes(picture(turn, "PNG"))
        words += ["--model", f"{model}={tmp_path / model}"]
    edit("eval", "study", "build", listed, *words, "--design", "turns", "-o", tmp_path / "study")
    assert "Replace the tomato." in (tmp_path / "study" / "study.html").read_text()


def test_rededit_in_both_languages(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "redbench" / "text").mkdir(parents=True)
    (tmp_path / "redbench" / "text" / "text-8.png").write_bytes(picture(8, "PNG"))
    line = {"id": "8", "source": "redbench/text/text-8.png", "a_to_b_instructions": "改成“春”", "task": "text",
            "a_to_b_instructions_eng": "Change it to 'spring'"}  # fmt: skip
    (tmp_path / "redbench.jsonl").write_text("\n" + json.dumps(line, ensure_ascii=False) + "\n")
    (row,) = edit("eval", "rededit", "--cases", tmp_path, "-f", "jsonl").lines
    assert row["instruction"]["zh"] == "改成“春”" and row["case"]["result_path"] == "text/text-8.png"
    assert json.loads(row["case"]["facts"]) == {"line": 0}
    (row,) = edit("eval", "rededit", "--cases", tmp_path, "--language", "eng", "-f", "jsonl").lines
    assert row["instruction"]["en"] == "Change it to 'spring'" and row["case"]["language"] == "en"


def test_risebench_and_kris(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "rise" / "temporal_reasoning_images").mkdir(parents=True)
    (tmp_path / "rise" / "temporal_reasoning_images" / "1.png").write_bytes(picture(1, "PNG"))
    case = {"index": "temporal_reasoning_1", "category": "temporal_reasoning", "instruction": "In a year?",
            "image": "temporal_reasoning_images/1.png", "reference": "Rotten."}  # fmt: skip
    (tmp_path / "rise" / "data_total.json").write_text(json.dumps([case]))
    (row,) = edit("eval", "risebench", "--cases", tmp_path / "rise", "-f", "jsonl").lines
    assert row["case"]["result_path"] == "images/temporal_reasoning/temporal_reasoning_1.png"
    assert json.loads(row["case"]["facts"]) == {"reference": "Rotten."}
    (tmp_path / "kris" / "multi-element_composition").mkdir(parents=True)
    for k in (1, 2):
        (tmp_path / "kris" / "multi-element_composition" / f"{k}.jpg").write_bytes(picture(k))
    entry = {"1": {"ori_img": ["1.jpg", "2.jpg"], "gt_img": "3.jpg", "ins_en": "Join them.", "explain_en": "So."}}
    (tmp_path / "kris" / "multi-element_composition" / "annotation.json").write_text(json.dumps(entry))
    (row,) = edit("eval", "kris", "--cases", tmp_path / "kris", "-f", "jsonl").lines
    assert len(row["source"]) == 2 and row["case"]["result_path"] == "multi-element_composition/1.png"


def test_what_is_no_benchmark(edit: Runner, tmp_path: Path) -> None:
    for name in ("gedit", "imgedit", "rededit", "risebench", "kris"):
        assert "holds no" in (said := edit("eval", name, "--cases", tmp_path, check=1).stderr) or "no Parquet" in said
        edit("eval", name, "--cases", tmp_path / "absent", check=1)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    assert "has no column" in edit("eval", "gedit", "--cases", tmp_path / "x.parquet", check=1).stderr
    for name, file, text in (
        ("imgedit", "basic_edit.json", '{"1": 5}'),
        ("imgedit", "basic_edit.json", "{"),
        ("rededit", "redbench.jsonl", '{"id": 1}'),
        ("risebench", "data.json", "[1]"),
    ):
        (tmp_path / file).write_text(text)
        edit("eval", name, "--cases", tmp_path / file, check=1)
    edit("eval", "heldout", "--cases", tmp_path, check=2)


def test_a_data_set_in_numbers(edit: Runner, shards: Path, tmp_path: Path) -> None:
    found = json.loads(edit("eval", "dataset", shards, "-o", tmp_path / "d.html", "-f", "json").stdout)
    assert found["rows"] == found["images"] == 24 and found["formats"] == {"jpeg": 18, "png": 6}
    assert found["detected"] == {} and json.loads((tmp_path / "d.json").read_text()) == found
    page = (tmp_path / "d.html").read_text()
    assert "<h2>The data set</h2>" in page and "edit shard" not in page and "<code>shard</code>" in page
    # Probabilities that a classifier left: two of three are at least one half.
    table = pa.table({"id": ["a", "b", "c"], "scores": [{"probability": p} for p in (0.9, 0.5, 0.1)]})
    pq.write_table(table, tmp_path / "p.parquet")
    found = json.loads(edit("eval", "dataset", tmp_path / "p.parquet", "-f", "json").stdout)
    assert found["detected"] == {"probability": 2 / 3}
