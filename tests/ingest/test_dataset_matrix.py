"""Every published data set: five rows, and rows that lack something, in another order, with lists and empty columns.

The imitations are written from what is known of the layouts. What comes of them is read as `edit train` reads it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, image, put, rejects_of, rows_of, tar_bytes

from edittools.ingest import dataset_names, load_dataset
from edittools.stream.opening import open_source
from edittools.train.rows import ShardRows

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # an image inside Parquet, as the hub's library has it
GOOD, NO_SOURCE, NO_TARGET, NO_TEXT, NO_FILE = range(5), 5, 6, 7, 8
ORDER = [4, 7, 0, 2, 5, 1, 6, 3, 8]
Record = dict[str, Any]
Files = dict[str, bytes]


def picture(k: int) -> bytes:
    """Of another size for every row."""
    return image(k, height=32 + 8 * (k % 100))


def text_of(k: int) -> str:
    return f"Make it number {k}"


@dataclass
class Imitation:
    """A set: fields of a row of its source, target and text; further fields, which may be empty; how all is stored."""

    made: Callable[[Any, Any, Any], Record]
    more: Record = field(default_factory=dict)
    store: Callable[[Path, list[Record], Files], Any] = lambda folder, records, files: parquet(folder, records)
    paths: tuple[str, str] = ("", "")  # of source and target; "": inside the table
    why: dict[int, str | None] = field(default_factory=dict)  # reasons of its own; None: that cannot be lacking
    target: str = "target"  # column of ours
    text: str = "instruction"
    options: Callable[[Path], tuple[Any, ...]] = lambda folder: ()


def parquet(folder: Path, records: list[Record], name: str = "data/train-00000-of-00001.parquet") -> None:
    """Columns with images in them have their type, the others what their values say."""

    def column(values: list[Any]) -> pa.Array:
        first = next((value for value in values if value), None)
        inner = first[0] if isinstance(first, list) else first
        images = isinstance(inner, dict) and "bytes" in inner
        return pa.array(values, (pa.list_(HF) if isinstance(first, list) else HF) if images else None)

    put(folder / name, b"")
    table = pa.table({key: column([record[key] for record in records]) for key in records[0]})
    pq.write_table(table, folder / name, row_group_size=4)


def json_lines(records: list[Record]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def parts(path: Path, data: bytes, endings: list[str]) -> None:
    size = -(-len(data) // len(endings))
    for number, ending in enumerate(endings):
        put(path.with_name(path.name + ending), data[number * size : (number + 1) * size])


def loose(table: str, beside: str = "", write: Callable[[list[Record]], str] = json_lines) -> Callable[..., None]:
    def store(folder: Path, records: list[Record], files: Files) -> None:
        put(folder / table, write(records))
        for name, data in files.items():
            put(folder / beside / name, data)

    return store


def imgedit(folder: Path, records: list[Record], files: Files) -> None:
    parquet(folder, records, "Parquet/remove_part5.parquet")
    data = tar_bytes([(f"./{name}", data) for name, data in files.items()])
    parts(folder / "Singleturn/x.tar", data, [f".split.{k:03d}" for k in range(4)])


def seed_openimages(folder: Path, records: list[Record], files: Files) -> None:
    put(folder / "auto_editing/openimages/annotations/split_0001.jsonl", json_lines(records))
    for kind in ("source", "target"):
        members = [(name, data) for name, data in files.items() if name.startswith(kind)]
        path = folder / f"auto_editing/openimages/images/{kind}_images.tar.gz"
        parts(path, gzip.compress(tar_bytes(members)), [".part-aa", ".part-ab", ".part-ac"])


def seed_dialogues(folder: Path, records: list[Record], files: Files) -> None:
    put(folder / "multi_turn_editing/annotations/split_0001.jsonl", json_lines(records))
    data = gzip.compress(tar_bytes([*files.items()]))
    parts(folder / "multi_turn_editing/images/multi_turn.tar.gz", data, [".part-aa", ".part-ab"])


def gpt_image_edit(folder: Path, records: list[Record], files: Files) -> None:
    loose("a.json", "hqedit/edit", json.dumps)(folder, records, files)
    put(folder / "data.txt", "hqedit/edit,a.json,true\n")


def step1x(folder: Path, records: list[Record], files: Files) -> None:
    held = {record.pop("key"): record for record in records}
    loose("meta.json", "images", lambda _: json.dumps(held))(folder, records, files)


def sharegpt(folder: Path, records: list[Record], files: Files) -> None:
    put(folder / "text_and_image_to_image.json", json.dumps(records))
    put(folder / "text_and_image_to_image.tar", tar_bytes([*files.items()]))


def samples(folder: Path, records: list[Record], files: Files) -> None:
    """One tar of webdataset: the images that a row names lie beside its JSON, under the row's number."""
    members = []
    for number, record in enumerate(records):
        for ending in [key for key in record if key.endswith("jpg")]:
            if (name := record.pop(ending)) in files:
                members.append((f"{number:06d}.{ending}", files[name]))
        members.append((f"{number:06d}.json", json.dumps(record).encode()))
    put(folder / "0/00000.tar", tar_bytes(members))


def recap(folder: Path, records: list[Record], files: Files) -> None:
    put(folder / "laion-aes/00001.tar", tar_bytes([*files.items()]))
    members = [(f"{number}.json", json.dumps(record).encode()) for number, record in enumerate(records)]
    put(folder / "jsons/part0.tar", tar_bytes(members))


SEGMENTATION: Record = {"background": [], "object": [], "box_format": "xyxy"}
WORSE = {"bytes": image(300), "path": None}
SETS = {
    "omniedit": Imitation(
        lambda s, t, x: {"src_img": s, "edited_img": t, "edited_prompt_list": x if x is None else [x, "other words"]},
        {"omni_edit_id": "a", "task": "addition", "width": 40, "height": 32, "sc_score_1": 9, "sc_score_2": 8,
         "sc_reasoning": "good", "pq_score": 7, "pq_reasoning": "good", "o_score": 7.5},
    ),
    "anyedit": Imitation(
        lambda s, t, x: {"edit_instruction": x, "image_file": s, "edited_file": t},
        {"image_id": "a", "edit_type": "add", "visual_input": WORSE, "input": "a dog", "output": "a red dog"},
    ),
    "magicbrush": Imitation(
        lambda s, t, x: {"source_img": s, "instruction": x, "target_img": t},
        {"img_id": "7", "turn_index": 1, "mask_img": WORSE},
    ),
    "ultraedit": Imitation(
        lambda s, t, x: {"edit_prompt": x, "source_image": s, "edited_image": t},
        {"clip_sim_source": 0.1, "clip_sim_target": 0.2, "clip_sim_dir": 0.3, "clip_sim_image": 0.4, "dinov2_sim": 0.5,
         "ssim": 0.6, "source_caption": "a", "target_caption": "b", "idx": 3, "edit_object": "dog"},
    ),
    "hqedit": Imitation(
        lambda s, t, x: {"input_image": s, "edit": x, "output_image": t},
        {"input": "a", "inverse_edit": None, "output": "b"},
    ),
    "instructpix2pix": Imitation(
        lambda s, t, x: {"original_image": s, "edit_prompt": x, "edited_image": t},
        {"original_prompt": "a", "edited_prompt": "b"},
    ),
    "unicedit": Imitation(
        lambda s, t, x: {"src_image": s, "edit_image": t, "prompt_en": x},
        {"key": "0" * 32, "edit_task": "Object Editing", "edit_subtask": "Subject Addition", "prompt_cn": "改成红色"},
    ),
    "editreward": Imitation(
        lambda s, t, x: {"source_img": s, "left_output_image": t, "right_output_image": WORSE, "instruction": x,
                         "vote_type": "leftvote"},
        {"key": "a", "left_model": "L", "right_model": "R", "left_overall_score": 7.0, "right_overall_score": 3.0},
    ),
    "editscore": Imitation(
        lambda s, t, x: {"input_image": s, "output_images": [t, WORSE], "instruction": x},
        {"key": ["a", "b"], "task_type": "style_change", "dimension": "overall"}, target="result_a",
    ),
    "vcreward": Imitation(
        lambda s, t, x: {"source_image": s, "edited_images": [t, WORSE], "instruction": x},
        {"key": "a", "task": "subject_add", "winner": "Image A"}, target="result_a",
    ),
    "imgedit": Imitation(
        lambda s, t, x: {"input_images": [s], "output_images": [t], "prompt": x}, {}, imgedit,
        ("results_remove_laion_part5/{}/original.png", "results_remove_laion_part5/{}/result.png"),
    ),
    "seed_data_edit 1": Imitation(
        lambda s, t, x: {"source_image": s, "target_image": t, "instruction": x}, {}, seed_openimages,
        ("source_images/ab/{}.jpg", "target_images/ab/{}.jpg"),
    ),
    "seed_data_edit 2": Imitation(
        lambda s, t, x: {"source_image": s, "target_image": t, "instruction": x}, {},
        loose("real_editing/annotations/split_0001.jsonl", "real_editing/images"), ("a/{}_s.jpg", "a/{}_t.jpg"),
    ),
    "seed_data_edit 3": Imitation(
        lambda s, t, x: {"source_image": s, "edit_image_1": t, "instruction_1": x}, {"edit_image_2": None},
        seed_dialogues, ("d/{}_0.jpg", "d/{}_1.jpg"), {NO_TARGET: "no turns"},
    ),
    "pico_banana": Imitation(
        lambda s, t, x: {"local_input_image": s, "output_image": t, "text": x},
        {"open_image_input_url": None, "summarized_text": "add hat", "edit_type": "Add a new object to the scene"},
        loose("sft.jsonl"), ("openimages/{}.jpg", "images/positive-edit/{}.png"),
    ),
    "nhr_edit": Imitation(
        lambda s, t, x: {"source_file_name": s, "edited_file_name": t, "edit_instruction": x},
        {"sample_id": "a", "category": "Add"},
        loose("train/metadata.jsonl", "train"), ("images/00/image_{}_original.jpg", "images/00/image_{}_edited_0.jpg"),
    ),
    "gpt_image_edit": Imitation(
        lambda s, t, x: {"image": [s, t], "conversations": x and [{"from": "human", "value": f"<image>\n{x}"},
                                                                  {"from": "gpt", "value": "<image>"}]},
        {}, gpt_image_edit, ("{}_s.png", "{}_t.png"),
    ),
    "step1x_edit": Imitation(
        lambda s, t, x: {"key": t, "ref_image_path": s, "caption": x}, {}, step1x, ("{}_s.png", "{}_t.png"),
        {NO_TARGET: None}, options=lambda folder: ("--root", folder / "images"),
    ),
    "sharegpt4o_image": Imitation(
        lambda s, t, x: {"input_prompt": x, "input_image": [s], "output_image": t}, {}, sharegpt,
        ("text_and_image_to_image/{}_s.png", "text_and_image_to_image/{}_t.png"),
    ),
    "x2edit": Imitation(
        lambda s, t, x: {"1.0.jpg": s, "2.jpg": t, "instruction_en": x}, {"task": "color change", "instruction": None},
        samples, ("{}_s", "{}_t"), dict.fromkeys((NO_SOURCE, NO_TARGET, NO_FILE), "other columns"),
    ),
    "laion": Imitation(
        lambda s, t, x: {"jpg": t, "caption": x, "status": "success" if t else "failed_to_download"},
        {"key": "a", "url": "u", "error_message": None, "similarity": 0.3, "punsafe": 0.1},
        samples, ("", "{}_t"), {NO_SOURCE: None, NO_TARGET: "no target", NO_FILE: "no target"}, text="caption",
    ),
    "imgedit_recap": Imitation(
        lambda s, t, x: {"path": t, "cap": [x, "other words"]},
        {"resolution": {"height": 32, "width": 40}, "aes": 5.5, "border": 0, "tags": {"summary": "cat"},
         "segmentation": SEGMENTATION},
        recap, ("", "00001/{}.jpg"), {NO_SOURCE: None}, text="caption",
    ),
}  # fmt: skip


def imitate(one: Imitation, folder: Path, emptied: bool) -> list[int]:
    """Write the set; the numbers of its rows, in their order. `emptied`: texts are lists, further columns all null."""
    files: Files = {}

    def stored(k: int, which: int, lacking: int) -> Any:
        data = picture(100 * which + k)
        if k == lacking:
            return None
        gone = k == NO_FILE and which == 1
        if not one.paths[1]:
            return {"bytes": None, "path": "gone.jpg"} if gone else {"bytes": data, "path": None}
        path = one.paths[which].format(k)
        files.update({} if gone or not path else {path: data})
        return path

    order = [k for k in ORDER if one.why.get(k, "") is not None]
    records = []
    for k in order:
        text = None if k == NO_TEXT else text_of(k)
        made = one.made(stored(k, 0, NO_SOURCE), stored(k, 1, NO_TARGET), text)
        if emptied:
            made = {name: [text, "other words"] if text and value == text else value for name, value in made.items()}
        records.append({**made, **(dict.fromkeys(one.more) if emptied else one.more)})
    one.store(folder, records, files)
    return order


def test_every_set_is_imitated() -> None:
    apart = {"before_after", "laion_list"}  # names of files, and lists of addresses: test_before_after, test_fetching
    assert {name.split()[0] for name in SETS} == {*dataset_names()} - apart


@pytest.mark.parametrize("emptied", [False, True], ids=["full", "emptied"])
@pytest.mark.parametrize("name", SETS)
def test_rows_are_learned_from_and_what_lacks_something_is_a_reject(
    edit: Runner, tmp_path: Path, name: str, emptied: bool
) -> None:
    one, dataset = SETS[name], load_dataset(name.split()[0])
    order = imitate(one, tmp_path / "set", emptied)
    given = (tmp_path / "set", "--from", name.split()[0], *one.options(tmp_path / "set"))
    edit("shard", *given, "-o", f"{tmp_path}/out/", "--max-errors", "100%")
    rows, rejects = rows_of(tmp_path / "out"), rejects_of(tmp_path / "out")
    kept = [k for k in order if k not in (NO_SOURCE, NO_TARGET, NO_FILE)]
    usual = {NO_SOURCE: "no source", NO_TARGET: f"no {one.target}", NO_FILE: "missing file"}
    assert [reject["reason"] for reject in rejects] == [{**usual, **one.why}[k] for k in order if k not in kept]
    edits = one.text == "instruction"
    assert [(row.get("source") or [None])[0] for row in rows] == [picture(k) if edits else None for k in kept]
    assert [row[one.target] for row in rows] == [picture(100 + k) for k in kept]
    told = [text_of(k) if k != NO_TEXT else None for k in kept]
    assert [(row[one.text] or {}).get("en") for row in rows] == told
    known = {(row["provenance"]["origin"], row["provenance"]["license"]) for row in rows}
    assert known == {(dataset.title, dataset.license)}
    if one.target != "target":
        return  # results that people or judges compared: nothing to learn an edit from
    learned = ShardRows(open_source([str(tmp_path / "out")]), {one.text: one.text}, ("en",), "", 1 << 20)
    good = [k for k in kept if k in GOOD]
    assert len(good) == len(learned) == 5 and dict(learned.left_out) == {"without a text": 1}
    assert [row.texts[one.text, "en"] for row in learned] == [text_of(k) for k in good]
    assert [row.target for row in learned] == [(32 + 8 * k, 40) for k in good]
    assert [row.sources[:1] for row in learned] == [[(32 + 8 * k, 40)] if edits else [] for k in good]
    assert {row.origin for row in learned} == {dataset.title} and not learned.rejects.summary()
