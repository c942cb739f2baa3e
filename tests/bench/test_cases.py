"""A benchmark's list of cases as rows, and results written where its official script looks for them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import Runner, encode, image, make_crawl, pixels, rejects_of, rows_of
from PIL import Image


def shown(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def make_gedit(folder: Path, tasks: Sequence[str] = ("background_change", "subject-add", "ps_human")) -> None:
    rows = [
        {
            "task_type": task, "key": "same" if k else f"key.{k}", "instruction": f"{language} {k}",
            "instruction_language": language, "input_image": {"bytes": image(k, "JPEG"), "path": None},
            "input_image_raw": {"bytes": image(9), "path": None}, "Intersection_exist": k == 1,
        }
        for k, task in enumerate(tasks)
        for language in ("en", "cn")
    ]  # fmt: skip
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet", row_group_size=2)


def test_gedit_rows_and_their_results(edit: Runner, tmp_path: Path) -> None:
    make_gedit(tmp_path / "hub")
    edit("eval", "cases", "gedit", tmp_path / "hub", "-o", tmp_path / "rows")
    rows = rows_of(tmp_path / "rows")
    # `same` is a key of two tasks; the id tells them apart, and holds no dot.
    assert [row["id"] for row in rows][:4] == [
        "background_change_en_key_0", "background_change_cn_key_0", "subject-add_en_same", "subject-add_cn_same",
    ]  # fmt: skip
    assert rows[3]["instruction"] == {"en": None, "zh": "cn 1"} and rows[3]["task"] == "add"
    assert rows[3]["source"] == [image(1, "JPEG")] and rows[3]["case"]["subset"] is True
    chinese = edit("eval", "cases", "gedit", tmp_path / "hub", "--language", "zh", "-f", "jsonl").lines
    assert [row["case"]["language"] for row in chinese] == ["cn"] * 3
    # Results: the target of any row set stands in for a model's images here.
    made = [{"name": "result", "image": encode(pixels(50 + k), "PNG")} for k in range(len(rows))]
    table = pq.read_table(tmp_path / "rows" / "00000.parquet")
    frame = pa.table({
        "id": table["id"],
        "case": table["case"],
        "source": pa.array([[{"bytes": row["source"][0], "path": None}] for row in rows]),
        "result": pa.array([{"bytes": item["image"], "path": None} for item in made]),
    })  # fmt: skip
    pq.write_table(frame, tmp_path / "results.parquet")
    done = edit("eval", "export", tmp_path / "results.parquet", "-o", tmp_path / "out")
    assert "6 results written; 0 rows without" in done.stderr
    place = tmp_path / "out" / "fullset" / "subject-add" / "cn"
    assert (place / "same.png").read_bytes() == made[3]["image"]
    source = (place / "same_SRCIMG.png").read_bytes()
    assert source[:4] == b"\x89PNG" and np.array_equal(shown(source), shown(image(1, "JPEG")))
    edit("eval", "export", tmp_path / "results.parquet", "-o", tmp_path / "out")  # the same again is no conflict
    (place / "same.png").write_bytes(b"other")
    assert "--overwrite" in edit("eval", "export", tmp_path / "results.parquet", "-o", tmp_path / "out",
                                 check=1).stderr  # fmt: skip
    # What was written is what another model's folder looks like: it comes back as rows with results.
    (place / "same.png").write_bytes(made[3]["image"])
    (place.parent / "en" / "same.png").unlink()
    jpeg = encode(pixels(70), "JPEG")
    (tmp_path / "out" / "fullset" / "background_change" / "cn" / "key.0.png").unlink()
    (tmp_path / "out" / "fullset" / "background_change" / "cn" / "key.0.jpg").write_bytes(jpeg)
    words = ["eval", "cases", "gedit", tmp_path / "hub", "--results"]
    edit(*words, tmp_path / "out", "-o", tmp_path / "theirs")
    theirs = rows_of(tmp_path / "theirs")
    wanted = [made[0]["image"], jpeg, None, *(item["image"] for item in made[3:])]
    assert [row["id"] for row in theirs] == [row["id"] for row in rows]
    assert [row["result"] for row in theirs] == wanted
    assert theirs[3]["source"] == rows[3]["source"] and theirs[3]["case"] == rows[3]["case"]
    (place.parent / "en" / "same.png").write_bytes(jpeg)  # other results are not taken for the rows that are there
    assert "--overwrite" in edit(*words, tmp_path / "out", "-o", tmp_path / "theirs", check=1).stderr
    assert "fullset/background_change/en/key.0.png" in edit(*words, tmp_path / "hub", check=1).stderr
    assert "no such folder" in edit(*words, tmp_path / "nothing", check=1).stderr


def test_results_stay_in_their_folder(edit: Runner, tmp_path: Path) -> None:
    """Rows and lists of cases may be anybody's: no place in them leads out of the folder of results."""
    make_gedit(tmp_path / "hub", ["subject-add"])
    rows = edit("eval", "cases", "gedit", tmp_path / "hub", "--limit", "1", "-f", "jsonl").lines
    for place in ("../out.png", str(tmp_path / "out.png"), "fullset/../../out.png", "", "."):
        case = {**rows[0]["case"], "result_path": place}
        frame = pa.Table.from_pylist([{"id": "a", "case": case, "result": {"bytes": image(1), "path": None}}])
        frame = frame.append_column("source", pa.array([[{"bytes": image(2), "path": None}]]))
        pq.write_table(frame, tmp_path / "rows.parquet")
        done = edit("eval", "export", tmp_path / "rows.parquet", "-o", tmp_path / "to", check=1)
        wrong = "leads out of the folder" if place.strip(".") else "is no place"
        assert wrong in done.stderr and not (tmp_path / "out.png").exists()
        (tmp_path / "gedit_edit.json").write_text(
            json.dumps({"k": {"id": place, "prompt": "Add it.", "edit_type": "subject-add"}})
        )
        (tmp_path / "to").mkdir(exist_ok=True)
        words = [tmp_path / "gedit_edit.json", "--results", tmp_path / "to"]
        assert wrong in edit("eval", "cases", "gedit", *words, check=1).stderr


def test_imgedit_lists_and_a_missing_image(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "Benchmark" / "singleturn"
    (folder / "daily object").mkdir(parents=True)
    (folder / "daily object" / "1.jpg").write_bytes(image(1))
    listed = {
        "1082": {"id": "daily object/1.jpg", "prompt": "Add a cup.", "edit_type": "add"},
        "7": {"id": "animal/2.jpg", "prompt": "Make it red.", "edit_type": "alter"},
    }
    (folder / "singleturn.json").write_text(json.dumps(listed))
    done = edit("eval", "cases", "imgedit", tmp_path, "-o", tmp_path / "rows", check=3)
    assert "missing file" in done.stderr
    (row,) = rows_of(tmp_path / "rows")
    assert row["id"] == "add_en_1082" and row["case"]["result_path"] == "1082.png"
    assert [reject["id"] for reject in rejects_of(tmp_path / "rows")] == ["adjust_en_7"]
    uge = tmp_path / "hard"
    uge.mkdir()
    (uge / "3.jpg").write_bytes(image(3))
    (uge / "UGE_edit.json").write_text(json.dumps({"1": {"id": "3.jpg", "prompt": "The third from the left."}}))
    (row,) = edit("eval", "cases", "imgedit", uge, "--suite", "uge", "-f", "jsonl").lines
    assert row["case"]["suite"] == "uge" and row["case"]["task"] == "uge"
    assert "--suite" in edit("eval", "cases", "imgedit", uge, "--suite", "x", check=2).stderr


def test_dialogues_go_to_people(edit: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "multiturn"
    folder.mkdir()
    (folder / "5.jpg").write_bytes(image(5))
    turns = {"1": {"id": "5.jpg", "turn1": "Only green from now on.", "turn2": "Replace the tomato."}}
    (folder / "content_memory.json").write_text(json.dumps(turns))
    listed = tmp_path / "cases.jsonl"
    listed.write_bytes(edit("eval", "cases", "imgedit", folder, "--suite", "multiturn", "-f", "jsonl").stdout)
    (row,) = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(turn["parent"], turn["instruction"]["en"]) for turn in row["turns"]] == [
        (-1, "Only green from now on."), (0, "Replace the tomato."),
    ]  # fmt: skip
    words = []
    for model in ("first", "second"):
        (tmp_path / model).mkdir()
        for turn in (1, 2):
            (tmp_path / model / f"{row['id']}.turn.{turn}.png").write_bytes(image(turn, "PNG"))
        words += ["--model", f"{model}={tmp_path / model}"]
    edit("eval", "study", "build", listed, *words, "--design", "turns", "-o", tmp_path / "study")
    assert "Replace the tomato." in (tmp_path / "study" / "study.html").read_text()


def test_rededit_in_both_languages(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "redbench" / "text").mkdir(parents=True)
    (tmp_path / "redbench" / "text" / "text-8.png").write_bytes(image(8, "PNG"))
    line = {"id": "8", "source": "redbench/text/text-8.png", "a_to_b_instructions": "改成“春”", "task": "text",
            "a_to_b_instructions_eng": "Change it to 'spring'"}  # fmt: skip
    (tmp_path / "redbench.jsonl").write_text("\n" + json.dumps(line, ensure_ascii=False) + "\n")
    (row,) = edit("eval", "cases", "rededit", tmp_path, "-f", "jsonl").lines
    assert row["instruction"]["zh"] == "改成“春”" and row["case"]["result_path"] == "text/text-8.png"
    assert json.loads(row["case"]["facts"]) == {"line": 0}
    (row,) = edit("eval", "cases", "rededit", tmp_path, "--language", "eng", "-f", "jsonl").lines
    assert row["instruction"]["en"] == "Change it to 'spring'" and row["case"]["language"] == "en"


def test_risebench_and_kris(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "rise" / "temporal_reasoning_images").mkdir(parents=True)
    (tmp_path / "rise" / "temporal_reasoning_images" / "1.png").write_bytes(image(1, "PNG"))
    case = {"index": "temporal_reasoning_1", "category": "temporal_reasoning", "instruction": "In a year?",
            "image": "temporal_reasoning_images/1.png", "reference": "Rotten."}  # fmt: skip
    (tmp_path / "rise" / "data_total.json").write_text(json.dumps([case]))
    (row,) = edit("eval", "cases", "risebench", tmp_path / "rise", "-f", "jsonl").lines
    assert row["case"]["result_path"] == "images/temporal_reasoning/temporal_reasoning_1.png"
    assert json.loads(row["case"]["facts"]) == {"reference": "Rotten."}
    (tmp_path / "kris" / "multi-element_composition").mkdir(parents=True)
    for k in (1, 2):
        (tmp_path / "kris" / "multi-element_composition" / f"{k}.jpg").write_bytes(image(k))
    entry = {"1": {"ori_img": ["1.jpg", "2.jpg"], "gt_img": "3.jpg", "ins_en": "Join them.", "explain_en": "So."}}
    (tmp_path / "kris" / "multi-element_composition" / "annotation.json").write_text(json.dumps(entry))
    (row,) = edit("eval", "cases", "kris", tmp_path / "kris", "-f", "jsonl").lines
    assert len(row["source"]) == 2 and row["case"]["result_path"] == "multi-element_composition/1.png"
    assert json.loads(row["case"]["facts"]) == {"explain": "So.", "frames": []}  # its script reads no `gt_img`


def test_lists_and_layouts_of_bagel(edit: Runner, tmp_path: Path) -> None:
    """One list of all of KRIS-Bench; RISEBench's results without `images/`, GEdit-Bench's in `gen_image/`."""
    for place in ("count_change/1.jpg", "temporal_prediction/1-2.jpg", "temporal_prediction/1-3.jpg"):
        (tmp_path / "KRIS_Bench" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "KRIS_Bench" / place).write_bytes(image(len(place)))
    listed = [
        {"id": "1", "type": "count_change", "ori_img": "1.jpg", "gt_img": "", "ins_en": "Two.", "explain_en": ""},
        {"id": 1, "type": "temporal_prediction", "ori_img": ["1-2.jpg", "1-3.jpg"], "gt_img": "1-1.jpg",
         "ins_en": "Frame 1.", "explain_en": ""},
    ]  # fmt: skip
    (tmp_path / "final_data.json").write_text(json.dumps(listed))
    for words in ([tmp_path / "final_data.json"], [tmp_path],
                  [tmp_path / "final_data.json", "--images", tmp_path / "KRIS_Bench"]):  # fmt: skip
        one, two = edit("eval", "cases", "kris", *words, "-f", "jsonl").lines
        assert (one["case"]["task"], two["case"]["task"]) == ("count_change", "temporal_prediction")
        assert one["case"]["result_path"] == "count_change/1.png" and len(two["source"]) == 2
        assert [Path(shown["file"]).name for shown in two["source"]] == ["1-2.jpg", "1-3.jpg"]
        assert all(Path(shown["file"]).is_file() for shown in (*one["source"], *two["source"]))
    scores = {"1": {"consistency_score": 5, "quality_score": 5, "instruction_score": 5}}
    (tmp_path / "m" / "count_change").mkdir(parents=True)
    (tmp_path / "m" / "count_change" / "metrics.json").write_text(json.dumps(scores))
    words = ["eval", "rescore", "kris", tmp_path / "m", "--meta", tmp_path / "final_data.json", "-f", "json"]
    total = json.loads(edit(*words).stdout)["coverage"]["total"]
    assert (total["expected"], total["judged"], total["missing"]) == (2, 1, 1)
    for wrong in ([{"id": "1"}], [5], {"1": {"ins_en": "x"}}):
        (tmp_path / "final_data.json").write_text(json.dumps(wrong))
        edit("eval", "cases", "kris", tmp_path / "final_data.json", "-f", "jsonl", check=1)

    case = {"index": "t_1", "category": "temporal_reasoning", "instruction": "In a year?", "image": "1.png"}
    (tmp_path / "rise" / "data").mkdir(parents=True)
    (tmp_path / "rise" / "data" / "datav2_total_w_subtask.json").write_text(json.dumps([case]))
    (tmp_path / "rise" / "data" / "1.png").write_bytes(image(1, "PNG"))
    for place in ("bagel/temporal_reasoning", "images/temporal_reasoning"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "t_1.png").write_bytes(image(2, "PNG"))
    for results in ("bagel", "images", "."):
        words = [tmp_path / "rise", "--results", tmp_path / results]
        (row,) = edit("eval", "cases", "risebench", *words, "-f", "jsonl").lines
        assert Path(row["result"]["file"]).name == "t_1.png"

    place = "fullset/color_alter/en/k.png"
    entry = {"k": {"id": place, "prompt": "p", "edit_type": "color_alter"}}
    (tmp_path / "gedit_edit.json").write_text(json.dumps(entry))
    for folder in (tmp_path, tmp_path / "out" / "gen_image"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(image(3, "PNG"))
    words = [tmp_path / "gedit_edit.json", "--results", tmp_path / "out"]
    (row,) = edit("eval", "cases", "gedit", *words, "-f", "jsonl").lines
    assert "gen_image" in row["result"]["file"]


def test_one_case_of_risebench_without_its_question_decides_for_all(edit: Runner, tmp_path: Path) -> None:
    """eval_vanilla of gpt_eval.py, run on such a list, asks about both with prompt_logical_img_wo_q."""
    (tmp_path / "1.png").write_bytes(image(1, "PNG"))
    case = {"category": "logical_reasoning", "instruction": "Solve it.", "image": "1.png", "reference_img": "1.png"}
    listed = [case | {"index": "1"}, case | {"index": "2", "reasoning_wo_ins": True}]
    (tmp_path / "data.json").write_text(json.dumps(listed))
    rows = edit("eval", "cases", "risebench", tmp_path, "-f", "jsonl").lines
    assert ["reasoning_wo_ins" in json.loads(row["case"]["facts"]) for row in rows] == [True, True]


def test_what_is_no_benchmark(edit: Runner, tmp_path: Path) -> None:
    for name in ("gedit", "imgedit", "rededit", "risebench", "kris"):
        assert "holds no" in (said := edit("eval", "cases", name, tmp_path, check=1).stderr) or "no Parquet" in said
        edit("eval", "cases", name, tmp_path / "absent", check=1)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    assert "has no column" in edit("eval", "cases", "gedit", tmp_path / "x.parquet", check=1).stderr
    for name, file, text in (
        ("imgedit", "basic_edit.json", '{"1": 5}'),
        ("imgedit", "basic_edit.json", "{"),
        ("rededit", "redbench.jsonl", '{"id": 1}'),
        ("risebench", "data.json", "[1]"),
    ):
        (tmp_path / file).write_text(text)
        edit("eval", "cases", name, tmp_path / file, check=1)
    edit("eval", "cases", "heldout", tmp_path, check=2)


def test_a_task_that_the_benchmark_has_not(edit: Runner, tmp_path: Path) -> None:
    """An underscore for a hyphen used to be judged first and to end in a KeyError then."""
    asked = {"prompt": "p", "id": "1.png"}
    (tmp_path / "biolgy").mkdir()
    for name, file, listed, known in (
        ("gedit", "gedit_edit.json", {"k7": asked | {"edit_type": "subject_add"}}, "subject-add"),
        ("imgedit", "basic_edit.json", {"k7": asked | {"edit_type": "subject_add"}}, "compose"),
        ("rededit", "redbench.jsonl", {"id": "k7", "task": "subject_add", "source": "1.png",
                                       "a_to_b_instructions": "i"}, "viewpoint"),
        ("risebench", "data.json", [{"index": "k7", "category": "subject_add", "instruction": "i", "image": "1.png"}],
         "causal_reasoning"),
        ("kris", "biolgy/annotation.json", {"k7": {"ori_img": "1.png", "ins_en": "i"}}, "biology"),
    ):  # fmt: skip
        (tmp_path / file).write_text(json.dumps(listed))
        said = edit("eval", "cases", name, tmp_path, "-f", "jsonl", check=1).stderr
        wrong, case = ("biolgy", "") if name == "kris" else ("subject_add", "line 1" if name == "rededit" else "k7")
        assert file in said and case in said and f"'{wrong}'" in said and known in said
    make_gedit(tmp_path / "hub", ["background_change", "subject_add", "ps_human"])
    assert "'subject_add'" in edit("eval", "cases", "gedit", tmp_path / "hub", "-f", "jsonl", check=1).stderr


def test_categories_under_their_earlier_names(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "object_count").mkdir()
    (tmp_path / "object_count" / "1.jpg").write_bytes(image(1))
    entry = {"1": {"ori_img": "1.jpg", "instruction": "Three of them.", "explain": "So."}}
    (tmp_path / "object_count" / "annotation.json").write_text(json.dumps(entry))
    (row,) = edit("eval", "cases", "kris", tmp_path, "-f", "jsonl").lines
    assert row["case"]["task"] == "count_change" and row["case"]["result_path"] == "object_count/1.png"


def test_images_in_another_folder_than_the_list(edit: Runner, tmp_path: Path) -> None:
    lists, images = tmp_path / "lists", tmp_path / "images"
    for file in ("1.png", "biology/1.png", "redbench/1.png"):
        (images / file).parent.mkdir(parents=True, exist_ok=True)
        (images / file).write_bytes(image(1, "PNG"))
    asked = {"prompt": "p", "id": "1.png"}
    for name, suite, file, listed in (
        ("gedit", [], "gedit_edit.json", {"1": asked | {"edit_type": "subject-add"}}),
        ("imgedit", [], "basic_edit.json", {"1": asked | {"edit_type": "add"}}),
        ("imgedit", ["--suite", "uge"], "UGE_edit.json", {"1": asked}),
        ("imgedit", ["--suite", "multiturn"], "content_memory.json", {"1": {"id": "1.png", "turn1": "t"}}),
        ("rededit", [], "redbench.jsonl", {"id": "1", "task": "add", "source": "redbench/1.png",
                                           "a_to_b_instructions": "i"}),
        ("risebench", [], "data.json", [{"index": "1", "category": "causal_reasoning", "instruction": "i",
                                         "image": "1.png"}]),
        ("kris", [], "biology/annotation.json", {"1": {"ori_img": "1.png", "ins_en": "i"}}),
    ):  # fmt: skip
        (lists / name / file).parent.mkdir(parents=True, exist_ok=True)
        (lists / name / file).write_text(json.dumps(listed))
        words = ["eval", "cases", name, lists / name, *suite]
        rows = tmp_path / "rows" / file.replace("/", "-")
        edit(*words, "-o", rows / "without", check=3)
        (lost,) = rejects_of(rows / "without")
        assert lost["reason"] == "missing file" and lost["value"].startswith(str(lists))
        edit(*words, "--images", images, "-o", rows / "with")
        assert rows_of(rows / "with")[0]["source"] == [image(1, "PNG")]
    make_gedit(tmp_path / "hub")
    assert "--images" in edit("eval", "cases", "gedit", tmp_path / "hub", "--images", images, check=2).stderr
    edit("eval", "cases", "kris", lists / "kris", "--images", tmp_path / "absent", "-f", "jsonl", check=1)


def test_a_command_line_without_a_verb_says_which_is_meant(edit: Runner) -> None:
    for words, meant in (
        (["gedit", "--cases", "x"], "cases gedit PATH"),
        (["kris", "--rescore", "x"], "rescore kris PATH"),
        (["imgedit", "x", "--export", "y"], "export ROWS -o DIR/"),
        (["gedit", "x", "--versus", "b=y"], "compare gedit NAME=ROWS NAME=ROWS"),
        (["rededit", "x"], "report rededit ROWS"),
        (["heldout", "x"], "report heldout ROWS"),
    ):
        said = edit("eval", *words, check=2).stderr
        assert f"{words[0]}: expected a verb" in said and f"hint: edit eval {meant}" in said
    assert "No such command" in edit("eval", "nothing", check=2).stderr


def test_options_that_would_do_nothing(edit: Runner, tmp_path: Path) -> None:
    make_gedit(tmp_path / "hub")
    for words, named in (
        (["report", "heldout", tmp_path, "--humans", "x.csv"], "--humans"),
        (["report", "heldout", tmp_path, "--calibrated"], "--calibrated"),
        (["report", "heldout", tmp_path, "--outputs", tmp_path / "o"], "--outputs"),
        (["report", "heldout", tmp_path, "--suite", "uge"], "--suite"),
        (["report", "heldout", tmp_path, "--language", "en"], "--language"),
        (["report", "heldout", tmp_path, "--scoring", "official"], "--scoring"),
        (["report", "heldout", tmp_path, "--name", "m"], "--name"),
        (["report", "heldout", tmp_path, "--run", tmp_path], "--run has no meaning without --output"),
        (["dataset", tmp_path, "--meta", tmp_path], "--meta"),
        (["dataset", tmp_path, "--run", tmp_path], "--run"),
        (["dataset", tmp_path, "--title", "t"], "--title has no meaning without --output"),
        (["report", "gedit", tmp_path, "--run", tmp_path], "--run"),
        (["report", "gedit", tmp_path, "--images", tmp_path], "--images"),
        (["report", "gedit", tmp_path, "--humans-level", "nominal"], "--humans-level has no meaning without --humans"),
        (["report", "kris", tmp_path, "--language", "en"], "--language has no meaning with kris"),
        (["report", "imgedit", tmp_path, "--suite", "uge"], "--suite has no meaning without --meta"),
        (["rescore", "rededit", tmp_path, "--language", "en"], "--language has no meaning with rededit"),
        (["rescore", "gedit", tmp_path, "--suite", "uge"], "--suite has no meaning with gedit"),
        (["compare", "gedit", "a=x", "--outputs", tmp_path / "o"], "--outputs"),
        (["compare", "gedit", "a=x"], "two models or more"),
        (["cases", "gedit", tmp_path / "hub", tmp_path], "unexpected extra argument"),
        (["cases", "gedit", tmp_path / "hub", "--seed", "3"], "--seed"),
        (["export", tmp_path, "-o", tmp_path / "o", "--results", tmp_path], "--results"),
    ):
        assert named in edit("eval", *words, check=2).stderr


def test_a_data_set_in_numbers(edit: Runner, shards: Path, tmp_path: Path) -> None:
    found = json.loads(edit("eval", "dataset", shards, "-o", tmp_path / "d.html", "-f", "json").stdout)
    assert found["rows"] == found["images"] == 24 and found["formats"] == {"jpeg": 18, "png": 6}
    assert found["detected"] == {} and json.loads((tmp_path / "d.json").read_text()) == found
    page = (tmp_path / "d.html").read_text()
    assert "<h2>The data set</h2>" in page and "edit shard" not in page and "<code>shard</code>" in page
    for shown, cells in (("table", ["jpeg", "18", "75.0%"]), ("markdown", ["| jpeg | 18 | 75.0% |"]),
                         ("latex", [r"jpeg & 18 & 75.0\% \\"])):  # fmt: skip
        printed = edit("eval", "dataset", shards, "-f", shown).stdout.decode()
        assert all(cell in printed for cell in cells) and printed[0] != "{"
    # Probabilities that a classifier left: two of three are at least one half.
    table = pa.table({"id": ["a", "b", "c"], "scores": [{"probability": p} for p in (0.9, 0.5, 0.1)]})
    pq.write_table(table, tmp_path / "p.parquet")
    found = json.loads(edit("eval", "dataset", tmp_path / "p.parquet", "-f", "json").stdout)
    assert found["detected"] == {"probability": 2 / 3}


def test_eval_and_train_take_their_options_from_a_file(edit: Runner, tmp_path: Path) -> None:
    make_crawl(tmp_path / "crawl", 3)
    edit("shard", tmp_path / "crawl", "-o", tmp_path / "raw")
    table = '[eval.dataset]\nformat = "markdown"\ntitle = "of a report"\n[train]\nset = ["steps=7"]\n'
    (tmp_path / "c.toml").write_text(table)
    found = edit("eval", "dataset", tmp_path / "raw", "--config", tmp_path / "c.toml").stdout
    assert found == edit("eval", "dataset", tmp_path / "raw", "-f", "markdown").stdout
    assert found != edit("eval", "dataset", tmp_path / "raw", "--config", tmp_path / "c.toml", "-f", "json").stdout
    shown = edit("train", tmp_path / "raw", "--config", tmp_path / "c.toml", "-n").stdout.decode()
    assert "steps = 7" in shown
