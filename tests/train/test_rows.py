"""The rows that training reads, against what plain Python makes of the same records, one after the other."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encode, pixels
from training import MemoryRows, tiny

from edittools.errors import UsageError
from edittools.record import COLUMNS
from edittools.stream.run import RunOptions, open_input
from edittools.train.mixture import categories, row_weights
from edittools.train.rejects import Rejects
from edittools.train.rows import REJECTED, TARGET, ShardRows, TrainRow, facts, image_sizes

KINDS = {"instruction": "instruction", "concise": "instruction_concise", "original": "caption"}
NAMES = ("id", "task", "source", "target", "mask", "instruction", "caption", "objects", "provenance")
TYPES = {name: COLUMNS[name] for name in NAMES} | {"instruction_concise": pa.string(), "cluster": pa.int64()}


def records(count: int, seed: int) -> list[dict]:
    """Records with all that may be missing missing now and then."""
    draw = random.Random(seed)

    def maybe(value, share=0.7):
        return value if draw.random() < share else None

    def image(k):
        inline = bytes([k % 256]) * draw.randrange(1, 9) if draw.random() < 0.2 else None
        return {"bytes": inline, "file": maybe(f"/nowhere/{k % 7}.tar", 0.9), "offset": maybe(512 * k), "length": 10,
                "width": draw.randrange(8, 99), "height": draw.randrange(8, 99), "format": "jpeg"}  # fmt: skip

    def text(k):
        return maybe({"en": draw.choice(["", " \n", f"text {k}", None]), "zh": maybe(f"\u6587 {k}")})

    def row(k):
        sources = [image(k) if draw.random() < 0.95 else None for _ in range(draw.choice([0, 1, 1, 2, 3]))]
        boxes = [{"name": "a", "box": maybe([0.1, 0.2, 0.3, draw.random()])} for _ in range(draw.randrange(3))]
        about = {"origin": maybe("crawl"), "template": maybe(draw.choice(["blur", ""]), 0.4), "model": maybe("m", 0.3)}
        return {"id": f"row {k}", "task": draw.choice(["add", "t2i", None]), "source": maybe(sources, 0.95),
                "target": maybe(image(k + 1), 0.9), "mask": maybe(image(k), 0.3), "instruction": text(k),
                "caption": text(k), "instruction_concise": maybe(f"short {k}", 0.3), "objects": maybe(boxes),
                "provenance": maybe(about), "cluster": maybe(draw.randrange(4))}  # fmt: skip

    return [row(k) for k in range(count)]


def plain(every, languages, cluster):
    """Rows, their images, those left out and those rejected, one by one."""
    rows, images, left, bad = [], [], {}, {}
    for each in every:
        said = {}
        for kind, name in KINDS.items():
            value = each[name]
            for language, text in (value if isinstance(value, dict) else {"en": value}).items() if value else ():
                if text and text.strip() and language in languages:
                    said[kind, language] = text
        if each["target"] is None or not said:
            why = "without a target" if each["target"] is None else "without a text"
            left[why] = left.get(why, 0) + 1
            continue
        sources = each["source"] or []
        if None in sources:
            bad[each["id"]] = f"source {sources.index(None) + 1} of {len(sources)} is missing"
            continue
        if not sources and each["task"] != "t2i" and all(kind == "instruction" for kind, _ in said):
            bad[each["id"]] = "an instruction without a source: the task of a caption is t2i"
            continue
        about, task = each["provenance"] or {}, each["task"] or ""
        of = task if cluster == "task" else each[cluster] if cluster else None
        boxes = [tuple(item["box"]) for item in each["objects"] or [] if item["box"]]
        shapes = [(p["height"], p["width"]) for p in (*sources, each["target"])]
        rows.append(TrainRow(each["id"], task, about.get("template") or task, said, shapes[:-1], shapes[-1],
                        None if of is None else str(of), about.get("origin") or "",
                        bool(about.get("template") or about.get("model")), boxes, []))  # fmt: skip
        images.append(([*sources, each["target"]], each["mask"]))
    return rows, images, left, bad


CASES = [(0, ("en",), "cluster"), (1, ("en", "zh"), "task"), (2, ("zh",), "")]


@pytest.mark.parametrize("seed, languages, cluster", CASES)
def test_rows_are_those_of_plain_python(tmp_path, seed, languages, cluster):
    every = records(500, seed)
    table = pa.Table.from_pylist(every, pa.schema(list(TYPES.items())))
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=60)
    source = open_input([str(tmp_path / "rows.parquet")], RunOptions())
    rows = ShardRows(source, KINDS, languages, cluster, 10**9, masks=True, rejects=Rejects("100%"))
    truth, images, left, bad = plain(every, languages, cluster)
    assert len(rows) == len(truth) > 50 and dict(rows.left_out) == left and rows.rejects.reasons == bad
    assert rows.rejects.rows == 500
    captioned = [row for row in truth if row.sources and {kind for kind, _ in row.texts} == {"original"}]
    assert rows.captioned == len(captioned) > 0
    for found in (rows, pickle.loads(pickle.dumps(rows))):  # as another process has them
        assert [found[k] for k in range(len(rows))] == truth
        for k, (mine, mask) in enumerate(images):
            for which, image in [*enumerate(mine), (TARGET, mine[-1])]:
                reference = found.reference(k, which if which != len(mine) - 1 else TARGET)
                assert {name: reference[name] for name in image} == image
            assert (found.table.find(k)[0]["mask"][found.table.find(k)[1]].as_py() is None) == (mask is None)
    assert {*rows.texts()} == {text for row in truth for text in row.texts.values()}
    assert rows.files() == {p["file"] for mine, _ in images for p in mine if p["file"]}
    listed = MemoryRows([(row, []) for row in truth])
    names = ("id", "task", "cluster", "origin", "synthetic")
    assert list(facts(rows, *names)) == list(facts(listed, *names))
    for mine, theirs in zip(image_sizes(rows), image_sizes(listed)):
        assert np.array_equal(mine, theirs)


def test_weights_of_rows_in_columns_are_those_of_rows_in_a_list(tmp_path):
    every = records(400, 5)
    pq.write_table(pa.Table.from_pylist(every, pa.schema(list(TYPES.items()))), tmp_path / "rows.parquet")
    source = open_input([str(tmp_path / "rows.parquet")], RunOptions())
    rows = ShardRows(source, KINDS, ("en",), "cluster", 10**9, rejects=Rejects("100%"))
    listed = MemoryRows([(rows[k], []) for k in range(len(rows))])
    known: dict = {}
    clusters = [k if row.cluster is None else (row.cluster,) for k, (row, _) in enumerate(listed.rows)]
    by_hand = [known.setdefault(cluster, len(known)) for cluster in clusters]
    assert categories(rows).tolist() == categories(listed).tolist() == by_hand
    mixed = {"task_weights": {"add": 2.0}, "balance": "cluster", "kinds": {"t2i": 1, "one": 2, "several": 1},
             "origins": {"crawl": 1, "synthetic": 1, "internet": 2}}  # fmt: skip
    for settings in ({}, mixed):
        recipe = tiny(**settings)
        assert np.array_equal(row_weights(recipe, rows), row_weights(recipe, listed))


def test_a_image_column_of_another_kind_is_one_line(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "target": [1.5], "instruction": ["x"]}), tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match="`target` holds no images"):
        ShardRows(open_input([str(tmp_path / "rows.parquet")], RunOptions()), KINDS, ("en",), "", 10**9)


def test_preference_pairs_have_a_worse_image_of_their_targets_shape(tmp_path):
    """Sizes that nothing says are read from the files; what is no pair is left out or rejected, and said."""
    shapes = {"good": (30, 60), "smaller": (15, 30), "upright": (60, 30), "damaged": (30, 60)}
    lines = []
    for k, (name, (height, width)) in enumerate(shapes.items()):
        (tmp_path / f"{name}.png").write_bytes(encode(pixels(k, 30, 60), "PNG"))
        (tmp_path / f"{name}-worse.png").write_bytes(encode(pixels(k + 9, height, width), "PNG"))
        lines.append({"id": name, "source": [f"{name}.png"], "target": f"{name}.png", "rejected": f"{name}-worse.png",
                      "instruction": "warm"})  # fmt: skip
    (tmp_path / "damaged-worse.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    lines.append({**lines[0], "id": "alone", "rejected": None})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = open_input([str(tmp_path / "rows.jsonl")], RunOptions())
    rows = ShardRows(source, KINDS, ("en",), "", 10**9, pairs=True, rejects=Rejects("100%"))
    assert [(row.id, row.target, row.rejected) for row in map(rows.__getitem__, range(len(rows)))] == [
        ("good", (30, 60), (30, 60)), ("smaller", (30, 60), (15, 30))
    ]  # fmt: skip
    assert dict(rows.left_out) == {"without a rejected image": 1}
    assert rows.rejects.reasons.keys() == {"upright", "damaged"}
    assert rows.rejects.reasons["upright"] == "`rejected` has another shape than `target`: 30x60 beside 60x30"
    for found in (rows, pickle.loads(pickle.dumps(rows))):
        assert np.array_equal(found.image(0, REJECTED, (30, 60)), pixels(9, 30, 60))
        assert np.array_equal(found.image(0, TARGET, (30, 60)), pixels(0, 30, 60))
        assert found.content(0, REJECTED) != found.content(0, TARGET)
    assert {Path(name).name for name in rows.files()} >= {"good-worse.png", "smaller-worse.png"}
    plainly = ShardRows(source, KINDS, ("en",), "", 10**9)
    assert len(plainly) == 5 and plainly[0].rejected is None
    bare = [{name: value for name, value in line.items() if name != "rejected"} for line in lines]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(line) + "\n" for line in bare))
    with pytest.raises(UsageError, match="no `rejected` column"):
        ShardRows(open_input([str(tmp_path / "bare.jsonl")], RunOptions()), KINDS, ("en",), "", 10**9, pairs=True)
