"""`edit filter --nearest`: base images for gaps, against brute force on vectors that the model makes itself."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models as tiny
from conftest import Runner, encode, rejects_of, rows_of, tree
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "synth"))

from test_painted_tasks import Stub

import edittools
from edittools.encoders.embedders import load_embedder
from edittools.encoders.nearest_rows import NearestRows
from edittools.errors import UsageError
from edittools.painters import PAINTERS
from edittools.registry import Registry

POOL, BROKEN, MOST = 30, 7, 3
TEXTS = ("add a hat to the cat", "remove the umbrella", "a boat at sea")
SEED = 100  # of the image that one gap has


class Asked(Stub):
    wants = frozenset({"prompt", "instruction"})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_clip(tmp_path_factory.mktemp("weights") / "clip")


@pytest.fixture(scope="module")
def edit(model_edit: Runner) -> Runner:
    return model_edit


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model_edit: Runner) -> Path:
    """pool/: single images, one of them cut off after they were packed; gaps.jsonl: two instructions, a caption that
    goes before its instruction, an image without words, and one with both."""
    folder = tmp_path_factory.mktemp("nearest")
    (folder / "crawl").mkdir()
    for k in range(POOL):
        (folder / "crawl" / f"{k:02}.png").write_bytes(encode(tiny.photo(k), "PNG"))
    (folder / "seed.png").write_bytes(encode(tiny.photo(SEED), "PNG"))
    model_edit("shard", folder / "crawl", "-o", folder / "pool", "--rows", 8)
    broken = rows_of(folder / "pool")[BROKEN]["target"]
    tar = folder / "pool" / "00000.tar"
    tar.write_bytes(tar.read_bytes().replace(broken[:200], b"\0" * 200))
    gaps: list[dict[str, Any]] = [
        {"id": "gap-0", "instruction": {"en": TEXTS[0]}},
        {"id": "gap-1", "instruction": {"en": TEXTS[1], "zh": "去掉雨伞"}},
        {"id": "gap-2", "instruction": {"en": "Turn it into a painting."}, "caption": TEXTS[2]},
        {"id": "seed", "target": "seed.png"},
        {"id": "both", "target": "seed.png", "instruction": {"en": TEXTS[0]}},
    ]
    (folder / "gaps.jsonl").write_text("".join(json.dumps(gap) + "\n" for gap in gaps))
    return folder


def expected(place: Path, clip: Path) -> dict[tuple[str, str], dict[str, float]]:
    """(row, gap) -> the cosines that made the row one of the nearest, by sorting all of them."""
    model = load_embedder(str(clip))
    rows = [row for k, row in enumerate(rows_of(place / "pool")) if k != BROKEN]
    names = [row["provenance"]["path"] for row in rows]
    pool = model.images([np.asarray(Image.open(place / "crawl" / name).convert("RGB")) for name in names])
    seed = model.images([tiny.photo(SEED)])[0]
    asked = {("gap-0", "text"): TEXTS[0], ("gap-1", "text"): TEXTS[1], ("gap-2", "text"): TEXTS[2],
             ("both", "text"): TEXTS[0], ("seed", "image"): None, ("both", "image"): None}  # fmt: skip
    found: dict[tuple[str, str], dict[str, float]] = {}
    for (gap, by), text in asked.items():
        cosines = pool @ (model.texts([text])[0] if text else seed)
        for k in np.argsort(-cosines)[:MOST]:
            found.setdefault((rows[k]["id"], gap), {})[by] = float(cosines[k])
    return found


def words(place: Path, clip: Path) -> list[Any]:
    return ["filter", place / "pool", "--nearest", place / "gaps.jsonl", "--neighbours", MOST, "--clip", clip,
            "--max-errors", "10%"]  # fmt: skip


def test_the_nearest_by_text_and_by_image_are_those_of_brute_force(edit: Runner, place: Path, clip: Path) -> None:
    edit(*words(place, clip), "-j", 2, "--batch-size", 4, "-o", place / "base")
    rows = rows_of(place / "base")
    wanted = expected(place, clip)
    assert {(row["provenance"]["parents"][0], row["gap"]["id"]) for row in rows} == wanted.keys()
    pool = {row["id"]: row["target"] for row in rows_of(place / "pool")}
    for row in rows:
        (parent,), gap = row["provenance"]["parents"], row["gap"]
        known = wanted[parent, gap["id"]]
        assert row["id"] == f"{parent}-{gap['id']}" and row["target"] == pool[parent]
        for by in ("text", "image"):
            assert gap[by] == (pytest.approx(known[by], abs=1e-4) if by in known else None)
    said = {row["gap"]["id"]: row["instruction"] for row in rows}
    assert said["gap-1"] == {"en": TEXTS[1], "zh": "去掉雨伞"} and said["gap-2"]["en"] == "Turn it into a painting."
    assert said["seed"] is None
    lost = {reject["id"]: (reject["reason"], reject["failed"]) for reject in rejects_of(place / "base")}
    near = {parent for parent, _ in wanted}
    assert len(lost) == POOL - len(near) and not near & lost.keys()
    broken = rows_of(place / "pool")[BROKEN]["id"]
    assert lost.pop(broken)[1] is True and set(lost.values()) == {("not among the nearest", False)}


def test_array_tasks_make_the_same_of_one_decision(edit: Runner, place: Path, clip: Path) -> None:
    edit(*words(place, clip), "--phase", "decide", "-o", place / "near.json")
    for task in range(2):
        edit(*words(place, clip), "--decisions", place / "near.json", "--task", f"{task}/2", "-o", place / "tasks")
    edit(*words(place, clip), "-o", place / "whole")
    assert tree(place / "tasks", "*.tar") == tree(place / "whole", "*.tar")
    (place / "other.jsonl").write_text('{"id": "x", "instruction": {"en": "y"}}\n')
    other = ["filter", place / "pool", "--nearest", place / "other.jsonl", "--neighbours", MOST, "--clip", clip]
    refused = edit(*other, "--decisions", place / "near.json", "-o", place / "no", check=1)
    assert "other gaps" in refused.stderr
    shutil.copytree(place / "pool", place / "moved")
    first, second = (place / f"moved/0000{k}.parquet" for k in (0, 1))
    moved = [*words(place, clip)]
    moved[moved.index(place / "pool")] = place / "swapped"
    edit("cat", second, first, "-o", place / "swapped")
    refused = edit(*moved, "--decisions", place / "near.json", "-o", place / "no", check=1)
    assert "made of other rows" in refused.stderr


def test_what_cannot_be_asked_is_refused(place: Path, clip: Path, tmp_path: Path) -> None:
    pool = edittools.read(str(place / "pool"))
    gaps = str(place / "gaps.jsonl")
    for settings, why in (
        ({"nearest": gaps, "sharpness": "q10"}, "two commands|among all rows"),
        ({"nearest": gaps, "mark": "why"}, "among all rows"),
        ({"neighbours": 3, "sharpness": ".."}, "--neighbours is for --nearest"),
    ):
        with pytest.raises(UsageError, match=why):
            pool.filter(clip=str(clip), **settings)
    twice = '{"id": "a", "caption": "x"}\n' * 2
    for lines, why in (('{"id": "a"}\n', "neither a text"), ("", "there is none"), (twice, "comes twice")):
        (tmp_path / "gaps.jsonl").write_text(lines)
        with pytest.raises(UsageError, match=why):
            pool.filter(nearest=str(tmp_path / "gaps.jsonl"), clip=str(clip))
    table = pa.table({"id": ["a"], "caption": ["x"]})
    pq.write_table(table, tmp_path / "texts.parquet")
    with pytest.raises(UsageError, match="no `target` image"):
        edittools.read(str(tmp_path / "texts.parquet")).filter(nearest=gaps, clip=str(clip)).write(str(tmp_path / "no"))


def test_an_edit_pair_is_no_base_image(edit: Runner, place: Path, clip: Path, tmp_path: Path) -> None:
    image = "seed.png"
    (tmp_path / image).write_bytes((place / image).read_bytes())
    rows = [{"id": "pair", "source": [image], "target": image}, {"id": "one", "target": image}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit("shard", tmp_path / "rows.jsonl", "-o", tmp_path / "pool")
    words = ["filter", tmp_path / "pool", "--nearest", place / "gaps.jsonl", "--clip", clip, "-o", tmp_path / "base"]
    edit(*words, "--max-errors", "50%")
    (alone,) = [row["id"] for row in rows_of(tmp_path / "pool") if not row.get("source")]
    assert {row["provenance"]["parents"][0] for row in rows_of(tmp_path / "base")} == {alone}
    assert [reject["reason"] for reject in rejects_of(tmp_path / "base")] == ["not a row of one image"]


def test_from_a_gap_to_pairs(
    edit: Runner, place: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gaps that `edit eval coverage` writes, images of the pool for them, pairs of these that follow the gap."""
    have = [{"id": f"r{k}", "instruction": {"en": f"Make the car {k} times as blue."}} for k in range(5)]
    (tmp_path / "have.jsonl").write_text("".join(json.dumps(row) + "\n" for row in have))
    (tmp_path / "asked.txt").write_text("Make the car 9 times as blue.\nRemove the umbrella.\n")
    edit("eval", "coverage", tmp_path / "have.jsonl", "--queries", tmp_path / "asked.txt", "--gaps",
         tmp_path / "gaps.jsonl", "-f", "json")  # fmt: skip
    edit("filter", place / "pool", "--nearest", tmp_path / "gaps.jsonl", "--neighbours", 2, "--clip", clip, "-o",
         tmp_path / "base", "--max-errors", "10%")  # fmt: skip
    painter, load = Asked(), Registry.load
    monkeypatch.setattr(Registry, "load", lambda self, name: painter if self is PAINTERS else load(self, name))
    edittools.read(str(tmp_path / "base")).synth(painter="inpaint", painted="request").write(str(tmp_path / "pairs"))
    base, pairs = rows_of(tmp_path / "base"), rows_of(tmp_path / "pairs")
    assert len(base) == len(pairs) == 2 and {row["task"] for row in pairs} == {"remove"}
    for before, row in zip(base, pairs):
        assert row["source"] == [before["target"]] and row["target"] != before["target"]
        assert row["instruction"]["en"] == "Remove the umbrella." and row["gap"] == before["gap"]
        assert row["provenance"]["parents"] == [before["id"]]


def test_blocks_of_any_size_find_the_same() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 8)).astype(np.float32)
    queries = rng.normal(size=(5, 8)).astype(np.float32)
    every = queries @ vectors.T
    for sizes in ([500], [1, 499], [3] * 166 + [2], [0, 500]):
        found = NearestRows(queries, 6, 1.0)
        for block in np.split(vectors, np.cumsum(sizes)[:-1]):
            found.add(block)
        assert (found.rows == np.argsort(-every, axis=1)[:, :6]).all() and found.seen == 500
        assert (found.counts == (every >= 1).sum(axis=1)).all()
        assert found.cosines == pytest.approx(np.sort(every, axis=1)[:, ::-1][:, :6])
    few = NearestRows(queries, 6)
    few.add(vectors[:2])
    assert (few.rows[:, 2:] == -1).all() and (few.counts == 0).all() and np.isinf(few.cosines[:, 2:]).all()


def test_a_gap_that_cannot_be_read_is_no_less(edit: Runner, place: Path, clip: Path) -> None:
    (place / "cut.jsonl").write_text('{"id": "a", "instruction": {"en": "y"}}\n{"id": "b", "instruction": \n')
    ran = edit("filter", place / "pool", "--nearest", place / "cut.jsonl", "--clip", clip, "-o", place / "no", check=2)
    assert "cut.jsonl: row" in ran.stderr


def test_a_vector_without_a_length_is_near_nothing() -> None:
    search = NearestRows(np.eye(3), 2)
    search.add(np.vstack([np.eye(3), np.full((1, 3), np.nan)]))
    assert (search.rows[:, 0] == [0, 1, 2]).all() and search.rows.max() == 2
