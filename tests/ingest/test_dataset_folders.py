"""Published data sets whose rows name images elsewhere: in folders, in archives, in archives that were cut in parts."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, image, put, rejects_of, rows_of, tar_bytes
from PIL import Image

from edittools.errors import EditError
from edittools.metrics import rle
from edittools.stream.joined import Joined, split_part, whole_files


def read(edit: Runner, *given: Any, out: Path) -> tuple[list[dict], list[dict]]:
    edit("shard", *given, "-o", f"{out}/", "--max-errors", "100%")
    return rows_of(out), rejects_of(out)


def lines(path: Path, *records: Any) -> Path:
    return put(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def cut(path: Path, data: bytes, names: list[str]) -> None:
    """A file in as many parts as there are names, nearly equal ones."""
    size = -(-len(data) // len(names))
    for number, name in enumerate(names):
        put(path / name, data[number * size : (number + 1) * size])


def pair(row: dict) -> tuple[bytes, bytes, str]:
    return row["source"][0], row["target"], row["instruction"]["en"]


# ---------------------------------------------------------------- parts


def test_parts_of_files_are_known_by_their_names() -> None:
    assert split_part("a_part1.tar.split.003") == ("a_part1.tar", "003")
    assert split_part("x.tar.gz.part-ab") == ("x.tar.gz", "ab") and split_part("x.tar.gz.partaa") == ("x.tar.gz", "aa")
    assert split_part("x.zip.001") == ("x.zip", "001") and split_part("x.tar.aa") == ("x.tar", "aa")
    for name in ("x.tar", "x.tar.gz", "x.tar.zst", "part-aa", "x.parquet", "x.tar.md5", "x.jsonl.001"):
        assert split_part(name) is None, name
    found = whole_files(["x.tar.010", "x.tar.009", "x.tar.008", *(f"x.tar.00{k}" for k in range(8)), "y.zip.aa"])
    assert found["x.tar"] == [f"x.tar.{k:03d}" for k in range(11)] and found["y.zip"] == ["y.zip.aa"]
    for missing in (["x.tar.split.000", "x.tar.split.002"], ["x.tar.part-ab"], ["x.tar.002", "x.tar.003"]):
        with pytest.raises(EditError, match="is missing"):
            whole_files(missing)


def test_parts_read_as_the_file_that_they_were(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5
    cut(tmp_path, data, ["a", "b", "c"])
    whole = Joined([str(tmp_path / name) for name in "abc"])
    file = io.BufferedReader(whole)
    assert file.read() == data
    for offset, length in ((0, 10), (420, 20), (0, 1280), (1270, 50), (426, 1)):
        assert whole.at(offset, length) == data[offset : offset + length]
    assert whole.place(10, 20) is not None and whole.place(420, 20) is None
    assert whole.place(500, 5)[:2] == (str(tmp_path / "b"), 500 - 427)  # type: ignore[index]


# ---------------------------------------------------------------- ImgEdit

SINGLE = pa.schema(
    [("input_images", pa.list_(pa.string())), ("output_images", pa.list_(pa.string())), ("prompt", pa.string())]
)


def imgedit(folder: Path, names: list[str], **changes: Any) -> None:
    """Five pairs whose images are in a tar that is cut into parts."""
    paths = [f"results_remove_laion_part5/{k}" for k in range(5)]
    members = [(f"./{path}/original.png", image(k, "PNG")) for k, path in enumerate(paths)]
    members += [(f"./{path}/result.png", image(100 + k, "PNG")) for k, path in enumerate(paths) if k != 3]
    cut(folder / "Singleturn", tar_bytes(members), names)
    rows = [
        {"input_images": [f"{p}/original.png"], "output_images": [f"{p}/result.png"], "prompt": f"Remove thing {k}."}
        for k, p in enumerate(paths)
    ]
    rows[4]["prompt"] = None
    rows = [rows[k] for k in (2, 0, 4, 1, 3)]
    (folder / "Parquet").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SINGLE), folder / "Parquet/remove_part5.parquet")
    put(folder / "README.md", "a card")


@pytest.mark.parametrize("names", [["x.tar"], [f"x.tar.split.{k:03d}" for k in range(7)]])
def test_pairs_of_imgedit_from_a_tar_in_parts(edit: Runner, tmp_path: Path, names: list[str]) -> None:
    """Images that lie across two parts too; one is not in the tar, one row has no prompt."""
    imgedit(tmp_path / "set", names)
    rows, rejects = read(edit, tmp_path / "set", "--from", "imgedit", out=tmp_path / "out")
    assert [row["source"] for row in rows] == [[image(k, "PNG")] for k in (2, 0, 4, 1)]
    assert [row["target"] for row in rows] == [image(100 + k, "PNG") for k in (2, 0, 4, 1)]
    assert [(row["instruction"] or {}).get("en") for row in rows] == [
        f"Remove thing {k}." if k != 4 else None for k in (2, 0, 4, 1)
    ]
    assert {(row["task"], row["provenance"]["native_task"]) for row in rows} == {("remove", "remove")}
    assert [(reject["reason"], reject["path"]) for reject in rejects] == [
        ("missing file", "Parquet/remove_part5.parquet/4")
    ]


def test_a_part_that_is_missing_stops_the_run(edit: Runner, tmp_path: Path) -> None:
    imgedit(tmp_path / "set", [f"x.tar.split.{k:03d}" for k in range(4)])
    (tmp_path / "set/Singleturn/x.tar.split.001").unlink()
    said = edit("shard", tmp_path / "set", "--from", "imgedit", "-o", tmp_path / "out", check=1).stderr
    assert "Singleturn/x.tar: its parts are 000, 002, 003: number 1 is missing" in said


def test_images_that_come_later_are_noticed(edit: Runner, tmp_path: Path) -> None:
    """The table stays as it is and the tar becomes whole: the shard is another one."""
    imgedit(tmp_path / "set", ["x.tar"])
    given = ("shard", tmp_path / "set", "--from", "imgedit", "-o", tmp_path / "out", "--max-errors", "100%")
    edit(*given)
    put(tmp_path / "set/results_remove_laion_part5/3/result.png", image(103, "PNG"))
    assert "other input" in edit(*given, check=1).stderr
    edit(*given, "--overwrite")
    assert len(rows_of(tmp_path / "out")) == 5


def test_dialogues_of_imgedit(edit: Runner, tmp_path: Path) -> None:
    """Three turns, of which the last one edits the first image again."""
    base = "results_version_backtracking_part1/7"
    members = [(f"{base}/{name}.png", image(seed, "PNG")) for seed, name in enumerate(("original", "a", "b", "c"))]
    cut(tmp_path / "set/Multiturn", tar_bytes(members), ["m.tar.split.000", "m.tar.split.001"])
    turn = pa.struct([(field.name, field.type) for field in SINGLE])
    data = [
        {"input_images": [f"{base}/{before}.png"], "output_images": [f"{base}/{after}.png"], "prompt": said}
        for before, after, said in (("original", "a", "One."), ("a", "b", "Two."), ("original", "c", "Back."))
    ]
    (tmp_path / "set/Parquet").mkdir()
    lacking = [[{**one, name: None if k == at else one[name]} for k, one in enumerate(data)]
               for at, name in ((0, "input_images"), (1, "output_images"))]  # fmt: skip
    pq.write_table(
        pa.table({"data": pa.array([data, None, *lacking], pa.list_(turn))}),
        tmp_path / "set/Parquet/multi_part1.parquet",
    )
    rows, rejects = read(edit, tmp_path / "set", "--from", "imgedit", out=tmp_path / "out")
    (row,) = rows
    assert row["source"] == [image(0, "PNG")] and row["target"] == image(3, "PNG") and row["task"] == "hybrid"
    assert [turn["target"] for turn in row["turns"]] == [image(k, "PNG") for k in (1, 2, 3)]
    assert [(turn["parent"], turn["kind"]) for turn in row["turns"]] == [
        (parent, "version_backtracking") for parent in (-1, 0, -1)
    ]
    assert row["instruction"]["en"] == "One. Two. Back." and row["turns"][1]["instruction"]["en"] == "Two."
    assert [reject["reason"] for reject in rejects] == ["no source", "no source", "no target"]


def test_captions_objects_and_masks_of_imgedit(edit: Runner, tmp_path: Path) -> None:
    """A box of 3 x 4 pixels as COCO's API packs it; a mask of another size is a reject."""
    root = tmp_path / "set"
    put(root / "laion-aes/00001.tar", tar_bytes([(f"00001/{k}.jpg", image(k)) for k in range(3)]))

    def said(number: int, mask: str | None) -> tuple[str, bytes]:
        thing = {"class_name": "cat", "bbox": [8, 8, 20, 16], "score": 0.9, "mask": mask, "clip_score": 0.3}
        fields = {
            "path": f"00001/{number}.jpg",
            "cap": ["a cat on a mat", "another caption"],
            "resolution": {"height": 32, "width": 40},
            "aes": 5.5,
            "tags": {"summary": "cat"},
            "segmentation": {"background": [], "object": [thing], "box_format": "xyxy"},
        }
        return f"{number}.json", json.dumps(fields).encode()

    region = np.zeros((32, 40), bool)
    region[8:16, 8:20] = True
    packed = rle.encode(region)
    put(root / "jsons/part0.tar", tar_bytes([said(0, packed), said(1, None), said(2, "0<")]))
    rows, rejects = read(edit, root, "--from", "imgedit_recap", out=tmp_path / "out")
    assert [row["target"] for row in rows] == [image(0), image(1)]
    assert rows[0]["caption"]["en"] == "a cat on a mat" and rows[0]["scores"] == {"imgedit_aesthetic": 5.5}
    (thing,) = rows[0]["objects"]
    assert (thing["name"], thing["box"], thing["score"]) == ("cat", [0.2, 0.25, 0.5, 0.5], 0.9)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(thing["mask"])).convert("L")) == 255, region)
    assert [(reject["reason"], reject["value"]) for reject in rejects] == [
        ("damaged mask", "run lengths of 12 pixels, and the mask is 40x32")
    ]


# ---------------------------------------------------------------- Pico-Banana, SEED-Data-Edit, NHR-Edit


def test_pico_banana_by_names_and_not_by_lines(edit: Runner, tmp_path: Path) -> None:
    """The manifest lists the results in another order; a preference and a dialogue are among the lines."""
    root = tmp_path / "set"
    for k in range(3):
        put(root / f"openimages/{k}.jpg", image(k))
        put(root / f"images/positive-edit/{k}.png", image(100 + k, "PNG"))
    put(root / "images/negative/0.png", image(200, "PNG"))
    for k in range(1, 4):
        put(root / f"images/multi-turn/5_turn{k}.png", image(300 + k, "PNG"))
    put(root / "manifest.txt", "\n".join(f"https://cdn.example/images/positive-edit/{k}.png" for k in (2, 0, 1)))
    lines(
        root / "sft.jsonl",
        *(
            {
                "open_image_input_url": f"https://example.org/{k}_o.jpg",
                "local_input_image": f"openimages/{k}.jpg",
                "text": f"Put hat number {k} on the dog, in soft light",
                "summarized_text": "add hat",
                "output_image": f"images/positive-edit/{k}.png",
                "edit_type": ["Add a new object to the scene", "Remove an existing object", None][k],
            }
            for k in range(3)
        ),
    )
    lines(
        root / "preference.jsonl",
        {
            "local_input_image": "openimages/0.jpg",
            "text": "better",
            "positive_image": "images/positive-edit/1.png",
            "negative_image": "images/negative/0.png",
            "edit_type": "Alter background entirely",
        },
    )
    files = [{"id": f"edit_turn{k}", "url": f"images/multi-turn/5_turn{k}.png"} for k in (2, 1)]
    files += [{"id": "final_image", "url": "images/multi-turn/5_turn3.png"}]
    files += [{"id": "original_input_image", "url": "https://example.org/0_o.jpg"}]
    lines(
        root / "multi_turn.jsonl",
        {"files": files, "metadata_edit_turn_prompts": ["a", "b", "c"], "local_input_image": "openimages/0.jpg"},
        {"files": files[1:], "metadata_edit_turn_prompts": ["a", "b", "c"], "local_input_image": "openimages/0.jpg"},
    )
    rows, rejects = read(edit, root, "--from", "pico_banana", out=tmp_path / "out")
    assert [(reject["reason"], reject["value"]) for reject in rejects] == [("no target", "nothing at turn 2 of 3")]
    dialogue, better, *singles = rows
    assert [pair(row)[:2] for row in singles] == [(image(k), image(100 + k, "PNG")) for k in range(3)]
    assert [row["task"] for row in singles] == ["add", "remove", None]
    assert (better["target"], better["rejected"]) == (image(101, "PNG"), image(200, "PNG"))
    assert [turn["target"] for turn in dialogue["turns"]] == [image(300 + k, "PNG") for k in (1, 2, 3)]
    assert dialogue["source"] == [image(0)] and dialogue["target"] == image(303, "PNG")


def test_seed_data_edit_from_parts_of_compressed_tars(edit: Runner, tmp_path: Path) -> None:
    """Part 1 in compressed archives that are cut into parts, the tables in the folder beside; part 3 with turns."""
    one = tmp_path / "set/auto_editing/openimages"
    for kind, first in (("source", 0), ("target", 100)):
        members = [(f"{kind}_images/ab/{k}.jpg", image(first + k)) for k in range(3)]
        cut(one / "images", gzip.compress(tar_bytes(members)), [f"{kind}_images.tar.gz.part-a{x}" for x in "abc"])
    texts = [["first wording", "second"], "remove the dog", None]
    records = [
        {"source_image": f"ab/{k}.jpg", "target_image": f"target_images/ab/{k}.jpg", "instruction": texts[k]}
        for k in range(3)
    ]
    records[0]["source_image"] = "source_images/ab/0.jpg"
    lines(one / "annotations/split_0001.jsonl", *records)
    three = tmp_path / "set/multi_turn_editing"
    for k in range(3):
        put(three / f"images/d/{k}.jpg", image(200 + k))
    lines(
        three / "annotations/split_0001.jsonl",
        {
            "source_image": "d/0.jpg",
            "edit_image_1": "d/1.jpg",
            "instruction_1": "one",
            "edit_image_2": "d/2.jpg",
            "instruction_2": "two",
            "edit_image_3": None,
        },
        {
            "source_image": "d/0.jpg",
            "edit_image_1": "d/1.jpg",
            "instruction_1": "one",
            "edit_image_2": None,
            "instruction_2": "two",
            "edit_image_3": "d/2.jpg",
            "instruction_3": "of an image that nobody has",
        },
    )
    rows, rejects = read(edit, tmp_path / "set", "--from", "seed_data_edit", out=tmp_path / "out")
    # `ab/1.jpg` is below the folder of the sources and of the targets: nobody knows which one is meant
    twice = ["several files in the archives have this name"] * 2
    assert [reject["reason"] for reject in rejects] == [*twice, "no target"]
    assert rejects[-1]["value"] == "nothing at turn 2 of 3"
    first, dialogue = rows
    assert pair(first) == (image(0), image(100), "first wording")
    assert [turn["target"] for turn in dialogue["turns"]] == [image(201), image(202)]
    assert dialogue["source"] == [image(200)] and dialogue["instruction"]["en"] == "one two"


def test_nhr_edit_beside_its_metadata(edit: Runner, tmp_path: Path) -> None:
    records = []
    for k in range(5):
        put(tmp_path / f"set/train/images/0{k % 2}/image_{k}_original.jpg", image(k))
        if k != 2:
            put(tmp_path / f"set/train/images/0{k % 2}/image_{k}_edited_0.jpg", image(100 + k))
        folder = f"images/0{k % 2}"
        records.append(
            {
                "sample_id": f"s{k}",
                "source_file_name": f"{folder}/image_{k}_original.jpg",
                "edited_file_name": f"{folder}/image_{k}_edited_0.jpg",
                "edit_instruction": f"edit {k}",
                "augmented_instructions": ["x"] if k else [],
                "category": ["Add", "Remove", "Style", None, "Motion"][k],
            }
        )
    lines(tmp_path / "set/train/metadata.jsonl", *(records[k] for k in (3, 1, 0, 2, 4)))
    rows, rejects = read(edit, tmp_path / "set", "--from", "nhr_edit", out=tmp_path / "out")
    assert [pair(row) for row in rows] == [(image(k), image(100 + k), f"edit {k}") for k in (3, 1, 0, 4)]
    assert [row["task"] for row in rows] == [None, "remove", "add", None]
    assert [row["provenance"]["native_task"] for row in rows] == [None, "Remove", "Add", "Motion"]
    assert [reject["reason"] for reject in rejects] == ["missing file"]


# ---------------------------------------------------------------- JSON with paths


def test_conversations_with_the_target_last_and_roots_of_their_own(edit: Runner, tmp_path: Path) -> None:
    """Two tables whose paths are the same below other roots, one of which is a folder with a tar."""
    root = tmp_path / "set"
    for k in range(3):
        put(root / f"hqedit/edit/{k}.png", image(k, "PNG"))
    put(root / "omniedit/x.tar", tar_bytes([(f"{k}.png", image(10 + k, "PNG")) for k in range(3)]))

    def talk(said: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": said}, {"from": "gpt", "value": "<image>"}]

    put(
        root / "a.json",
        json.dumps(
            [
                {"image": ["0.png", "1.png"], "conversations": talk("<image>\nturn it red")},
                {"image": ["0.png", "1.png", "2.png"], "conversations": talk("<image>\n<image>\nput both together")},
                {"image": ["0.png"], "conversations": talk("no source")},
            ]
        ),
    )
    put(root / "b.json", json.dumps([{"image": ["0.png", "1.png"], "conversations": talk("<image> blue")}]))
    put(root / "data.txt", "hqedit/edit,a.json,true\nomniedit,b.json,false\n")
    rows, rejects = read(edit, root, "--from", "gpt_image_edit", out=tmp_path / "out")
    assert [(row["source"], row["target"], row["instruction"]["en"]) for row in rows] == [
        ([image(0, "PNG")], image(1, "PNG"), "turn it red"),
        ([image(0, "PNG"), image(1, "PNG")], image(2, "PNG"), "put both together"),
        ([image(10, "PNG")], image(11, "PNG"), "blue"),
    ]
    assert [reject["reason"] for reject in rejects] == ["no source"]


def test_the_training_json_of_step1x_edit(edit: Runner, tmp_path: Path) -> None:
    for k in range(4):
        put(tmp_path / f"images/{k}.png", image(k, "PNG"))
    held = {f"{k + 1}.png": {"ref_image_path": f"{k}.png", "caption": f"edit {k}"} for k in range(3)}
    put(tmp_path / "meta.json", json.dumps({**held, "gone.png": {"ref_image_path": "0.png", "caption": "x"}}))
    given = (tmp_path / "meta.json", "--from", "step1x_edit", "--root", tmp_path / "images")
    rows, rejects = read(edit, *given, out=tmp_path / "out")
    assert [pair(row) for row in rows] == [(image(k, "PNG"), image(k + 1, "PNG"), f"edit {k}") for k in range(3)]
    assert [(reject["reason"], Path(reject["value"]).name) for reject in rejects] == [("missing file", "gone.png")]


def test_sharegpt_4o_image_from_its_archives(edit: Runner, tmp_path: Path) -> None:
    members = [(f"text_and_image_to_image/{k}.png", image(k, "PNG")) for k in range(4)]
    put(tmp_path / "set/text_and_image_to_image.tar", tar_bytes(members))
    put(tmp_path / "set/text_to_image.tar", tar_bytes([("text_to_image/9.png", image(9, "PNG"))]))
    inside = "text_and_image_to_image"
    put(
        tmp_path / "set/text_and_image_to_image.json",
        json.dumps(
            [
                {"input_prompt": "a", "input_image": [f"{inside}/0.png"], "output_image": f"{inside}/1.png"},
                {"input_prompt": "b", "input_image": f"{inside}/2.png", "output_image": f"{inside}/3.png"},
            ]
        ),
    )
    put(
        tmp_path / "set/text_to_image.json",
        json.dumps([{"input_prompt": "a house", "output_image": "text_to_image/9.png"}]),
    )
    rows, rejects = read(edit, tmp_path / "set", "--from", "sharegpt4o_image", out=tmp_path / "out")
    assert not rejects and [pair(row) for row in rows[:2]] == [
        (image(0, "PNG"), image(1, "PNG"), "a"),
        (image(2, "PNG"), image(3, "PNG"), "b"),
    ]
    assert (rows[2]["task"], rows[2]["caption"]["en"], rows[2]["source"]) == ("t2i", "a house", None)


def test_folders_of_instructpix2pix(edit: Runner, tmp_path: Path) -> None:
    seeds = []
    for name, numbers in (("0001", [11, 12]), ("0002", [13])):
        put(
            tmp_path / f"set/{name}/prompt.json", json.dumps({"input": "a cat", "edit": "make it red", "output": "red"})
        )
        for number in numbers:
            put(tmp_path / f"set/{name}/{number}_0.jpg", image(number))
            if number != 12:
                put(tmp_path / f"set/{name}/{number}_1.jpg", image(100 + number))
        seeds.append([name, numbers])
    put(tmp_path / "set/seeds.json", json.dumps(seeds[::-1]))
    rows, rejects = read(edit, tmp_path / "set", "--from", "instructpix2pix", out=tmp_path / "out")
    assert [pair(row) for row in rows] == [(image(k), image(100 + k), "make it red") for k in (13, 11)]
    assert [reject["reason"] for reject in rejects] == ["missing file"]


def test_what_img2dataset_fetched(edit: Runner, tmp_path: Path) -> None:
    members = []
    for k in range(2):
        members += [(f"00000000{k}.jpg", image(k)), (f"00000000{k}.txt", f"caption {k}".encode())]
        members.append((f"00000000{k}.json", json.dumps({"key": f"00000000{k}", "status": "success"}).encode()))
    put(tmp_path / "set/00000.tar", tar_bytes(members))
    pq.write_table(
        pa.table(
            {
                "key": [f"00000000{k}" for k in range(3)],
                "url": ["u"] * 3,
                "caption": [f"caption {k}" for k in range(3)],
                "status": ["success", "success", "failed_to_download"],
                "error_message": pa.array([None, None, "404"]),
                "similarity": [0.3, 0.4, 0.5],
                "punsafe": [0.0, None, 0.1],
            }
        ),
        tmp_path / "set/00000.parquet",
    )
    rows, rejects = read(edit, tmp_path / "set", "--from", "laion", out=tmp_path / "out")
    assert [(row["target"], row["caption"]["en"], row["task"]) for row in rows] == [
        (image(k), f"caption {k}", "t2i") for k in range(2)
    ]
    assert [row["scores"]["laion_similarity"] for row in rows] == [0.3, 0.4]
    assert [(reject["reason"], reject["value"], reject["failed"]) for reject in rejects] == [
        ("failed_to_download", "404", False)
    ]


# ---------------------------------------------------------------- what users say themselves


def test_places_in_records_that_nobody_declared(edit: Runner, tmp_path: Path) -> None:
    """Several sources, two languages, the last of a list, a field inside another; paths in a zip archive."""
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for k in range(5):
            archive.writestr(f"all/{k}.jpg", image(k))
    lines(
        tmp_path / "x.jsonl",
        {"a": "0.jpg", "b": "1.jpg", "out": ["2.jpg", "3.jpg"], "text": {"said": "paint it", "zh": "涂色"}, "note": 1},
        {"a": "4.jpg", "b": None, "out": "3.jpg", "text": {"said": "again"}, "note": 2},
        {"a": None, "b": "1.jpg", "out": "3.jpg", "text": {"said": "b is no source of its own"}, "note": 3},
    )
    maps = ("source=a", "source=b", "target=out[-1]", "instruction.en=text.said", "instruction.zh=text.zh")
    given = [word for said in maps for word in ("--map", said)]
    rows, rejects = read(edit, tmp_path / "x.jsonl", *given, "--root", tmp_path / "images.zip", out=tmp_path / "out")
    assert [(reject["reason"], reject["value"]) for reject in rejects] == [("no source", "nothing at number 1 of 2")]
    assert [row["source"] for row in rows] == [[image(0), image(1)], [image(4)]]
    assert [row["target"] for row in rows] == [image(3)] * 2 and [row["note"] for row in rows] == [1, 2]
    assert [row["instruction"] for row in rows] == [{"en": "paint it", "zh": "涂色"}, {"en": "again", "zh": None}]
    said = edit("shard", tmp_path / "x.jsonl", "--map", "source=nothing[0]", "-o", tmp_path / "no", check=2).stderr
    assert "no column `nothing[0]`" in said and "it has: a, b, note, out, text" in said
    for wrong in ("source=a[", "source=[0]", "source=a..b"):
        assert (
            "no place in a record"
            in edit(
                "shard", tmp_path / "x.jsonl", "--map", wrong, "--root", tmp_path, "-o", tmp_path / "no", check=2
            ).stderr
        )


def test_masks_with_a_black_region_and_ways_back_of_ones_own(edit: Runner, tmp_path: Path) -> None:
    black = np.full((32, 40, 3), 255, np.uint8)
    black[5:10, 5:10] = 0
    put(tmp_path / "m.png", encode(black, "PNG"))
    for k in range(2):
        put(tmp_path / f"{k}.jpg", image(k))
    lines(
        tmp_path / "x.jsonl",
        {"source": "0.jpg", "target": "1.jpg", "mask": "m.png", "instruction": "add it", "undo": "take it away",
         "task": "add"},
    )  # fmt: skip
    given = (tmp_path / "x.jsonl", "--edited", "black", "--inverse", "undo")
    rows, rejects = read(edit, *given, out=tmp_path / "out")
    assert not rejects and [(pair(row), row["task"]) for row in rows] == [
        ((image(0), image(1), "add it"), "add"),
        ((image(1), image(0), "take it away"), "remove"),
    ]
    for row in rows:
        region = np.asarray(Image.open(io.BytesIO(row["mask"])).convert("L"))
        assert region[7, 7] == 255 and region[20, 20] == 0 and (region == 255).sum() == 25
    assert "undo" not in rows[0]
    wrong = ("shard", tmp_path / "x.jsonl", "-o", tmp_path / "no", "--inverse")
    assert "no column `gone`" in edit(*wrong, "gone", check=2).stderr


# ---------------------------------------------------------------- what `datasets` saves


def test_what_the_hubs_library_saves_to_disk(edit: Runner, tmp_path: Path) -> None:
    """`Dataset.save_to_disk`: Arrow streams beside JSON of their own, with and without the name of a set."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "source_img": datasets.Image(),
            "target_img": datasets.Image(),
            "mask_img": datasets.Image(),
            "instruction": datasets.Value("string"),
            "img_id": datasets.Value("string"),
            "turn_index": datasets.Value("int32"),
        }
    )
    made = {
        "source_img": [{"bytes": image(k), "path": None} for k in range(5)],
        "target_img": [{"bytes": image(100 + k), "path": None} for k in range(5)],
        "mask_img": [None] * 5,
        "instruction": ["a", "b", None, "d", "e"],
        "img_id": ["1"] * 5,
        "turn_index": [1, 2, 3, 4, 5],
    }
    datasets.Dataset.from_dict(made, features).save_to_disk(tmp_path / "set/train", num_shards=2)
    rows, rejects = read(edit, tmp_path / "set", "--from", "magicbrush", out=tmp_path / "out")
    assert not rejects and [row["source"] for row in rows] == [[image(k)] for k in range(5)]
    assert [row["target"] for row in rows] == [image(100 + k) for k in range(5)]
    assert [(row["instruction"] or {}).get("en") for row in rows] == made["instruction"]
    first = next((tmp_path / "set/train").glob("*.arrow"))
    done = edit("shard", first, "--map", "target=target_img", "-o", tmp_path / "mapped")
    assert "--from" not in done.stderr and rows_of(tmp_path / "mapped")[0]["source_img"] == image(0)
    assert "--from magicbrush" in edit("shard", tmp_path / "set/train", "-o", tmp_path / "plain").stderr
    put(tmp_path / "cut.arrow", first.read_bytes()[:-3000])
    assert "cut.arrow: " in edit("shard", tmp_path / "cut.arrow", "-o", tmp_path / "no", check=1).stderr


# ---------------------------------------------------------------- archives from a pipe, lists of paths


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_archives_of_others_come_through_a_pipe(edit: Runner, tmp_path: Path, kind: str) -> None:
    """Under the name of a set too."""
    members = []
    for k in range(3):
        members += [(f"{k}.1.0.jpg", image(k)), (f"{k}.2.jpg", image(100 + k))]
        members.append((f"{k}.json", json.dumps({"instruction": f"edit {k}", "task": "subject_addition"}).encode()))
    data = tar_bytes(members)
    if kind == "tar.gz":
        data = gzip.compress(data)
    if kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members:
                archive.writestr(name, content)
        data = buffer.getvalue()
    edit("shard", "-", "--from", "x2edit", "-o", f"{tmp_path}/out/", stdin=data)
    rows = rows_of(tmp_path / "out")
    assert [pair(row) for row in rows] == [(image(k), image(100 + k), f"edit {k}") for k in range(3)]
    assert {row["task"] for row in rows} == {"add"} and rows[0]["provenance"]["path"] == "standard input/0"


def test_the_json_of_anyedit(edit: Runner, tmp_path: Path) -> None:
    for k in range(4):
        put(tmp_path / f"images/{k}.jpg", image(k))
    records = [
        {"edit": "make it red", "edited object": "dog", "input": "a dog", "output": "a red dog",
         "edit_type": "color_alter", "visual_input": "None", "image_file": "0.jpg", "edited_file": "1.jpg"},
        {"edit": "follow the sketch", "edit object": "cat", "input": "a cat", "output": "a thin cat",
         "edit_type": "visual_sketch", "visual_input": "3.jpg", "image_file": "0.jpg", "edited_file": "2.jpg"},
    ]  # fmt: skip
    records.append({**records[1], "image_file": None})  # the sketch is not the image to edit
    put(tmp_path / "all.json", json.dumps(records))
    given = (tmp_path / "all.json", "--from", "anyedit", "--root", tmp_path / "images")
    rows, rejects = read(edit, *given, out=tmp_path / "out")
    assert [(reject["reason"], reject["value"]) for reject in rejects] == [("no source", "nothing at number 1 of 2")]
    assert [row["source"] for row in rows] == [[image(0)], [image(0), image(3)]]
    assert [row["task"] for row in rows] == ["color", "visual"] and rows[1]["edit object"] == "cat"


def test_conversations_of_editscore(edit: Runner, tmp_path: Path) -> None:
    put(tmp_path / "i.tar", tar_bytes([(f"images/{k}.png", image(k, "PNG")) for k in range(2)]))
    record = {
        "images": ["images/0.png", "images/1.png"],
        "conversations": [{"from": "human", "value": "<image><image> judge"}, {"from": "gpt", "value": '{"score": 7}'}],
    }
    alone = [
        {**record, "images": images} for images in (["images/0.png"], [None, "images/0.png"], ["images/0.png", None])
    ]
    put(tmp_path / "reward.json", json.dumps([record, *alone]))
    given = (tmp_path / "reward.json", "--from", "editscore", "--root", tmp_path / "i.tar")
    (row,), rejects = read(edit, *given, out=tmp_path / "out")
    assert [reject["reason"] for reject in rejects] == ["no source", "no source", "no result"]
    assert (row["source"], row["result"]) == ([image(0, "PNG")], image(1, "PNG"))
    assert row["conversations"][1]["value"] == '{"score": 7}'
