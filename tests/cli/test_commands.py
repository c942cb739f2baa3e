"""`edit synth`, `caption`, `judge`, `train`, `sample`, `eval` and `man`, as commands on small data."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import EDIT, ROOT, Runner, encode, image, pixels, rejects_of, rows_of, tree
from PIL import Image

from edittools.cli.main import COMMANDS
from edittools.cli.manual import commands
from edittools.cli.options import GROUPS, Option
from edittools.dedup.config import DedupConfig
from edittools.errors import TooManyFailed
from edittools.filter import HEADINGS
from edittools.filter.config import FilterConfig
from edittools.filter.stage import FilterStage
from edittools.record import HF_IMAGE
from edittools.stream import codec
from edittools.synth.stage import centre_square
from edittools.synth.synthesis import Tools, find_fonts, synthesize, task_of, template_names


def decoded(data: bytes) -> np.ndarray:
    """By Pillow alone."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def mask_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def lines(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def base(session_edit: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images in three shards."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "crawl").mkdir()
    for k in range(7):
        kind, height = ("JPEG", 64) if k % 2 else ("PNG", 80)
        (folder / f"crawl/p{k}.{'jpg' if k % 2 else 'png'}").write_bytes(image(k, kind, height, 72))
    session_edit("shard", folder / "crawl", "-o", folder / "raw", "--rows", 3)
    return folder


@pytest.fixture(scope="module")
def pairs(session_edit: Runner, base: Path) -> Path:
    session_edit("synth", base / "raw", "--per-row", 5, "--crop", 48, "-o", base / "pairs")
    return base / "pairs"


# ---------------------------------------------------------------- synth


def test_synth_rows(pairs: Path, base: Path) -> None:
    parents = {row["id"]: row for row in rows_of(base / "raw")}
    rows = rows_of(pairs)
    skipped = rejects_of(pairs)
    assert len(rows) + len(skipped) == 5 * len(parents) and len(rows) > 25
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    for row in rows:
        parent, template, number = row["id"].split("-")
        assert row["provenance"]["parents"] == [parent] and parent in parents
        assert row["provenance"]["template"] == template and number == "0"
        assert row["provenance"]["path"] == parents[parent]["provenance"]["path"]
        assert row["provenance"]["sha256"] is None and row["provenance"]["seed"] == 0
        assert row["task"] == task_of(template)
        assert row["instruction"]["en"] and row["instruction"]["zh"]
        json.loads(row["provenance"]["slots"])
        source, target, mask = decoded(row["source"][0]), decoded(row["target"]), mask_of(row["mask"])
        assert source.shape == target.shape == (48, 48, 3)
        assert np.array_equal(mask, np.where((source != target).any(axis=2), 255, 0)) and mask.any()
        if template == "dialogue":
            assert row["turns"][0]["parent"] == -1
            assert np.array_equal(decoded(row["turns"][-1]["target"]), target)
            for turn in row["turns"]:
                before = source if turn["parent"] < 0 else decoded(row["turns"][turn["parent"]]["target"])
                change = (before != decoded(turn["target"])).any(axis=2)
                assert np.array_equal(mask_of(turn["mask"]) > 0, change)
        else:
            assert row["turns"] is None


def test_synth_makes_what_the_library_makes(pairs: Path, base: Path) -> None:
    by_id = {row["id"]: row for row in rows_of(pairs)}
    count = 0
    for parent in rows_of(base / "raw"):
        square = centre_square(codec.decode(parent["target"]), 48)
        samples, _ = synthesize(square, parent["id"], seed=0, per_row=5, tools=Tools(find_fonts()))
        for sample in samples:
            row = by_id[f"{parent['id']}-{sample.template}-0"]
            assert np.array_equal(decoded(row["target"]), sample.target)
            assert np.array_equal(decoded(row["source"][0]), sample.source)
            assert row["instruction"] == sample.instruction
            assert json.loads(row["provenance"]["slots"]) == json.loads(json.dumps(sample.slots))
            count += 1
    assert count == len(by_id)


def test_centre_square() -> None:
    array = pixels(1, 60, 100)
    assert np.array_equal(centre_square(array, 60), array[:, 20:80])
    assert np.array_equal(centre_square(array.transpose(1, 0, 2), 60), array[:, 20:80].transpose(1, 0, 2))
    blocks = array[:, 20:80].reshape(30, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(centre_square(array, 30) - blocks).max() <= 1
    assert centre_square(array, 200).shape == (200, 200, 3)


def test_images_in_a_column_of_another_name(edit: Runner, tmp_path: Path) -> None:
    """Every row was rejected as `no image`, with an image in it."""
    images = pa.array([{"bytes": image(k), "path": None} for k in range(2)], HF_IMAGE)
    pq.write_table(pa.table({"id": ["a", "b"], "image": images}), tmp_path / "in.parquet")
    edit("shard", tmp_path / "in.parquet", "-o", tmp_path / "raw")
    for command in (["dedup"], ["dedup", "--phase", "fingerprint"], ["synth"]):
        message = edit(*command, tmp_path / "raw", "-o", tmp_path / "out", check=2).stderr
        assert "`target`" in message and "--map target=COLUMN" in message and "image" in message
        assert not (tmp_path / "out").exists()
    edit("shard", tmp_path / "in.parquet", "--map", "target=image", "-o", tmp_path / "mapped")
    edit("dedup", tmp_path / "mapped", "-o", tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 2


def test_columns_of_other_kinds_under_the_names_of_the_record(edit: Runner, tmp_path: Path) -> None:
    """Somebody else's Parquet, read without `edit shard`: used where that can be, otherwise one line."""
    count = 2
    rows: dict[str, Any] = {
        "id": ["a", "b"],
        "source": pa.array([[{"bytes": image(k), "path": None}] for k in range(count)], pa.list_(HF_IMAGE)),
        "target": pa.array([{"bytes": image(k + 5), "path": None} for k in range(count)], HF_IMAGE),
        "instruction": [{"en": "turn it"}] * count,
        "task": ["adjust"] * count,
    }
    rubric = ["judge", "--rubric", "dimensions", "--backend", "echo", "--model", "e"]
    dedup, synth, judge = ["dedup"], ["synth", "--templates", "flip"], ["score"]
    for name, values, refused, used in (
        ("source", ["laion"] * count, [dedup, synth, judge, rubric], []),
        ("source", [["laion"]] * count, [dedup, synth, rubric], []),
        ("source", rows["target"], [], [dedup, synth, judge, rubric]),  # one source per row
        ("source", pa.nulls(count), [judge], [dedup, synth]),
        ("target", ["red"] * count, [dedup, synth, judge], []),  # a path would be read
        ("target", [{"offset": 1}] * count, [["dedup", "--level", "pairs"], synth, judge], []),
        ("target", pa.nulls(count), [rubric], [dedup, judge]),
        ("mask", ["red"] * count, [judge], [rubric]),
        ("result", ["good"] * count, [judge], []),
        ("turns", ["one"] * count, [dedup], []),
        ("turns", [["one"]] * count, [dedup], []),
        ("provenance", ["the web"] * count, [synth, ["caption"], rubric], [dedup]),
        ("provenance", [{"path": 1}] * count, [synth], []),
        ("instruction", ["turn it"] * count, [rubric], [dedup]),
    ):
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({**rows, name: values}), path)
        for words in refused:
            assert f"`{name}`" in edit(*words, path, "-o", tmp_path / "no", check=2).stderr, (name, values, words)
        for words in used:
            out = tmp_path / words[0]
            edit(*words, path, "-o", out, "--max-errors", "100%", "--overwrite")


def test_synth_is_the_same_in_any_number_of_threads_and_tasks(edit: Runner, base: Path, tmp_path: Path) -> None:
    options = ("--per-row", 3, "--crop", 32, "--inverse", "--seed", 5)
    edit("synth", base / "raw", *options, "-j", 1, "-o", tmp_path / "one")
    edit("synth", base / "raw", *options, "-j", 4, "-o", tmp_path / "four")
    for task in (2, 0, 1):
        edit("synth", base / "raw", *options, "--task", f"{task}/3", "-o", tmp_path / "tasks")
    edit.pipe(["cat", base / "raw", "--inline"], ["synth", *options, "-o", tmp_path / "pipe"])
    one = tree(tmp_path / "one")
    assert one == tree(tmp_path / "four") == tree(tmp_path / "tasks")
    assert rows_of(tmp_path / "pipe") == rows_of(tmp_path / "one")
    edit("synth", base / "raw", *options[:-1], 6, "-o", tmp_path / "other")
    assert [row["id"] for row in rows_of(tmp_path / "other")] != [row["id"] for row in rows_of(tmp_path / "one")]


def test_the_source_keeps_its_bytes(edit: Runner, base: Path, tmp_path: Path) -> None:
    edit("synth", base / "raw", "--templates", "gray,add", "--per-row", 2, "-o", tmp_path / "out")
    originals = {row["id"]: row["target"] for row in rows_of(base / "raw")}
    rows = rows_of(tmp_path / "out")
    assert {row["provenance"]["template"] for row in rows} == {"gray", "add"}
    for row in rows:
        assert row["source"][0] == originals[row["provenance"]["parents"][0]]


def test_inverse_swaps(edit: Runner, base: Path, tmp_path: Path) -> None:
    edit("synth", base / "raw", "--templates", "add,gray", "--per-row", 2, "--inverse", "-o", tmp_path / "out")
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    forward = [row for row in rows.values() if row["provenance"]["template"] == "add"]
    assert forward
    for row in forward:
        back = rows[row["id"].replace("-add-", "-remove-")]
        assert json.loads(back["provenance"]["slots"])["inverse_of"] == "add" and back["task"] == "remove"
        assert np.array_equal(decoded(back["target"]), codec.decode(row["source"][0]))
        assert np.array_equal(decoded(back["source"][0]), decoded(row["target"]))
        assert back["mask"] == row["mask"]


def test_inverses_and_edits_of_one_kind_have_ids_of_their_own(edit: Runner, base: Path, tmp_path: Path) -> None:
    edit("synth", base / "raw", "--templates", "add,remove", "--per-row", 2, "--inverse", "-o", tmp_path / "out")
    assert {row["id"].partition("-")[2] for row in rows_of(tmp_path / "out")} == {
        "add-0", "add-1", "remove-0", "remove-1"
    }  # fmt: skip


def test_kinds(edit: Runner, base: Path, tmp_path: Path) -> None:
    def listed(*options: str) -> list[str]:
        lines = edit("synth", "--list", *options).stdout.decode().splitlines()
        return [line.split()[0] for line in lines if not line.startswith("--")]

    assert listed() == list(template_names()) == listed("--templates", "all")
    assert listed("--templates", "gray, add,gray") == ["gray", "add"]
    assert listed("--templates", "all,-gray,-add") == [n for n in template_names() if n not in ("gray", "add")]
    assert listed("--templates", "-gray") == [n for n in template_names() if n != "gray"]
    for bad in ("grey", "-grey", "gray,-gray", "add,,x", "", " , "):  # a shell variable without a value is not `all`
        assert "--templates" in edit("synth", base / "raw", "--templates", bad, check=2).stderr
    for seed in (1 << 63, -(1 << 63) - 1):  # provenance holds it in 64 bits
        assert "--seed" in edit("synth", base / "raw", "--seed", seed, check=2).stderr
    edit("synth", base / "raw", "--templates", "-dialogue,-hybrid", "--per-row", 4, "--crop", 32, "-o", tmp_path / "o")
    assert not {row["provenance"]["template"] for row in rows_of(tmp_path / "o")} & {"dialogue", "hybrid"}


def test_scores_of_the_image_become_those_of_the_source(edit: Runner, base: Path, tmp_path: Path) -> None:
    edit.pipe(
        ["filter", base / "raw", "--brightness", ".."],
        ["synth", "--templates", "gray", "-o", tmp_path / "pairs"],
    )
    rows = rows_of(tmp_path / "pairs")
    assert len(rows) == 7
    for row in rows:
        y = decoded(row["source"][0]).astype(float) @ [0.299, 0.587, 0.114]
        assert row["source_scores"] == {"brightness": pytest.approx(y.mean(), rel=1e-4)}
        assert "scores" not in row
    # A pair that was judged and is edited again: each column once, about the image that was edited.
    edit.pipe(["score", tmp_path / "pairs"], ["synth", "--templates", "flip", "-o", tmp_path / "again"])
    again = rows_of(tmp_path / "again")
    assert len(again) == 7 and list(again[0]).count("source_scores") == 1
    assert "copy_psnr" in again[0]["source_scores"] and "brightness" not in again[0]["source_scores"]


def test_without_fonts_text_is_counted(edit: Runner, base: Path, tmp_path: Path) -> None:
    options = ("--templates", "text_add,text_add_chinese,gray", "--per-row", 3)
    found = find_fonts()
    if found.latin is None:
        pytest.skip("no font with Latin letters here")
    edit("synth", base / "raw", *options, "--fonts", found.latin, "-o", tmp_path / "latin")
    if find_fonts(found.latin).chinese is not None:
        pytest.skip("no font with Latin letters alone here")
    assert {row["provenance"]["template"] for row in rows_of(tmp_path / "latin")} == {"gray", "text_add"}
    rejects = rejects_of(tmp_path / "latin")
    assert len(rejects) == 7 and not any(reject["failed"] for reject in rejects)
    assert all(reject["value"] == "text_add_chinese" and "font" in reject["reason"] for reject in rejects)


def test_a_folder_without_fonts_is_refused(edit: Runner, base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    for name in ("empty", "absent", "broken.ttf"):
        result = edit("synth", base / "raw", "--fonts", tmp_path / name, "-o", tmp_path / "out", check=2)
        assert f"{name}: no font there" in result.stderr and not (tmp_path / "out").exists()


def test_synth_of_bad_rows(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(image(1, "PNG", 40, 40))
    (tmp_path / "tiny.png").write_bytes(image(1, "PNG", 8, 40))
    (tmp_path / "long.png").write_bytes(image(1, "PNG", 16, 700))
    (tmp_path / "bad.png").write_bytes(image(1, "PNG")[:300])
    (tmp_path / "grey.png").write_bytes(encode(pixels(1)[..., 0], "PNG"))
    rows = [{"id": name, "target": f"{name}.png"} for name in ("good", "tiny", "long", "bad", "grey")]
    rows.append({"id": "none", "task": "t2i"})
    table = lines(tmp_path, rows)
    kinds = len(template_names())
    edit("synth", table, "--per-row", kinds, "-o", tmp_path / "out", "--max-errors", "100%")
    made = {row["id"].partition("-")[0] for row in rows_of(tmp_path / "out")}
    assert made == {"good", "long", "grey"}
    rejects = rejects_of(tmp_path / "out")
    failed = {reject["id"]: reject["reason"] for reject in rejects if reject["failed"]}
    assert failed == {"bad": "damaged image", "none": "no picture"}
    assert sum(reject["id"].startswith("tiny-") for reject in rejects) == kinds


# ---------------------------------------------------------------- caption


def test_captions_of_every_style(edit: Runner, pairs: Path, tmp_path: Path) -> None:
    from edittools.caption.captions import caption

    edit("caption", pairs, "-o", tmp_path / "out")
    before, after = rows_of(pairs), rows_of(tmp_path / "out")
    styles = ("detailed", "concise", "user_like")
    assert [{k: v for k, v in row.items() if not k.startswith("instruction_")} for row in after] == before
    for row in after:
        origin = row["provenance"]
        expected = caption(origin["template"], json.loads(origin["slots"]), row["id"], seed=0)
        assert {style: row[f"instruction_{style}"] for style in styles} == expected
        assert all(text for style in expected.values() for text in style.values())
    one = edit("caption", pairs, "--styles", " concise ,concise", "-f", "jsonl")
    assert all(("instruction_concise" in row) and ("instruction_detailed" not in row) for row in one.lines)
    for bad in ("concise,x", ",", ""):
        assert "--styles" in edit("caption", pairs, "--styles", bad, check=2).stderr
    assert "already" in edit("caption", tmp_path / "out", "--styles", "concise", check=2).stderr


def test_captions_of_foreign_rows_are_null(edit: Runner, tmp_path: Path) -> None:
    table = lines(
        tmp_path,
        [
            {"id": "a", "instruction": "make it red"},
            {"id": "b", "provenance": {"template": "gray", "slots": "{}"}},
            {"id": "c", "provenance": {"template": "gray", "slots": None}},
            {"id": "d", "provenance": {"template": "no_such", "slots": "{}"}},
            {"id": "e", "provenance": {"template": "add", "slots": "{}"}},
            {"id": "f", "provenance": {"template": "add", "slots": "not json"}},
            {"id": "g", "provenance": {"template": "add", "slots": "[1]"}},
            {"id": "h", "provenance": {"template": "add", "slots": '{"turns": [5]}'}},
            {"id": "i", "provenance": {"template": "../x", "slots": "5"}},
            {"id": "j", "provenance": "somewhere"},
            {"id": "k", "provenance": {"template": "add", "slots": '{"shape": {}, "color": [], "place": 5}'}},
        ],
    )
    result = edit("caption", table, "-f", "jsonl", "--rejects", tmp_path / "r", "--max-errors", "100%")
    found = {row["id"]: row["instruction_concise"] for row in result.lines}
    assert found["a"] is None and found["c"] is None and found["j"] is None
    assert found["b"]["en"] and found["b"]["zh"]
    rejected = {r["id"]: r for r in map(json.loads, (tmp_path / "r").read_text().splitlines())}
    assert rejected.keys() == set("defghik")
    assert {r["reason"] for r in rejected.values()} == {"unknown template"}


# ---------------------------------------------------------------- judge


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


def test_judged_pairs_agree_with_scikit_image(edit: Runner, pairs: Path, tmp_path: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    edit("score", pairs, "-o", tmp_path / "out")
    for row in rows_of(tmp_path / "out"):
        source, target = decoded(row["source"][0]), decoded(row["target"])
        scores = row["scores"]
        change = np.abs(source.astype(int) - target).max(axis=2) > 8
        mask = mask_of(row["mask"]) > 0
        psnr = min(100, peak_signal_noise_ratio(source, target))
        assert scores["copy_psnr"] == pytest.approx(psnr, rel=1e-5)
        similarity = structural_similarity(source, target, channel_axis=2, data_range=255)
        assert scores["copy_ssim"] == pytest.approx(similarity, abs=2e-6)
        assert scores["copy_l1"] == pytest.approx(np.abs(source.astype(int) - target).mean() / 255, rel=1e-5)
        assert scores["edit_ratio"] == rounded(change.mean())
        assert scores["visible"] == float(change.mean() >= 0.001)
        if change.any():
            assert scores["mask_share"] == rounded((change & mask).sum() / change.sum()) == 1
            assert scores["mask_iou"] == rounded((change & mask).sum() / (change | mask).sum())
            y, x = np.nonzero(change)
            box = [x.min() / 48, y.min() / 48, (x.max() + 1) / 48, (y.max() + 1) / 48]
            assert row["edit_box"] == pytest.approx(box, abs=1e-5)
        else:
            assert row["edit_box"] is None and scores["mask_share"] is None
    edit("score", pairs, "-j", 1, "-o", tmp_path / "one")
    assert tree(tmp_path / "one") == tree(tmp_path / "out")
    # Judging again replaces the scores, and keeps those of others.
    again = edit.pipe(["score", tmp_path / "out"], ["cat", "-o", tmp_path / "again"])
    assert again[-1].code == 0 and rows_of(tmp_path / "again") == rows_of(tmp_path / "out")


def test_options_that_would_do_nothing_are_refused(edit: Runner, pairs: Path, tmp_path: Path) -> None:
    for given, says in (
        (["--column", "target"], "--column needs --ocr"),
        (["--targets", tmp_path / "x"], "--targets needs --ocr"),
        (["--ocr", "--clip", "tiny"], "--clip changes nothing beside --ocr"),
    ):
        assert says in edit("score", pairs, *given, "-o", tmp_path / "out", check=2).stderr
    for given in ([], ["--soft"], ["--repeats", 1], ["--cache-dir", tmp_path / "x"]):
        result = edit("judge", pairs, *given, "-o", tmp_path / "out", check=2)
        assert "--rubric NAME" in result.stderr and "edit score" in result.stderr
    (tmp_path / "edit.toml").write_text("[score]\nmax-pixels = 2000000\n")
    edit("score", pairs, "--config", tmp_path / "edit.toml", "-o", tmp_path / "out")


def test_score_of_odd_rows(edit: Runner, tmp_path: Path, base: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1, "PNG", 40, 40))
    (tmp_path / "b.png").write_bytes(image(2, "PNG", 20, 60))
    (tmp_path / "bad.png").write_bytes(image(2, "PNG")[:200])
    table = lines(
        tmp_path,
        [
            {"id": "sizes", "source": ["a.png"], "target": "b.png", "scores": {"mine": 1}},
            {"id": "same", "source": ["a.png"], "target": "a.png"},
            {"id": "no-source", "source": [], "target": "a.png"},
            {"id": "no-target", "source": ["a.png"]},
            {"id": "bad", "source": ["bad.png"], "target": "a.png"},
        ],
    )
    result = edit("score", table, "-f", "jsonl", "--rejects", tmp_path / "r", "--max-errors", "100%")
    found = {row["id"]: row for row in result.lines}
    assert found.keys() == {"sizes", "same"}
    assert found["sizes"]["scores"]["mine"] == 1 and found["sizes"]["scores"]["visible"] == 1
    assert found["same"]["scores"]["copy_psnr"] == 100 and found["same"]["scores"]["visible"] == 0
    assert found["same"]["edit_box"] is None
    rejected = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert {r["id"]: r["reason"] for r in rejected} == {
        "no-source": "no source picture", "no-target": "no target picture", "bad": "damaged image"
    }  # fmt: skip
    assert "no `source`" in edit("score", base / "raw", check=2).stderr
    table = lines(tmp_path, [{"id": "x", "source": ["a.png"], "target": "a.png", "scores": 7}])
    assert "scores" in edit("score", table, check=2).stderr


# ---------------------------------------------------------------- train, sample, eval

TINY = {
    "resolution": [16, 16], "ratios": ["1:1"], "batch_tokens": 32, "microbatches": 1, "steps": 3, "checkpoint_every": 2,
    "log_every": 1, "sample_steps": 2, "model.patch": 8, "model.layers": 1, "model.heads": 2, "model.head_dim": 16,
    "model.rope": [4, 6, 6], "model.text_width": 16, "model.text_heads": 2, "model.text_layers": 1,
    "model.max_words": 12,
}  # fmt: skip
SETTINGS = [part for name, value in TINY.items() for part in ("--set", f"{name}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def learned(model_edit: Runner, base: Path) -> Path:
    """Rows without dialogues, a run of three steps on them, and results of it that are judged."""
    model_edit("synth", base / "raw", "--templates", "gray,invert,flip,add", "--per-row", 3, "--crop", 24, "-o",
                 base / "rows")  # fmt: skip
    model_edit("train", base / "rows", *SETTINGS, "-o", base / "run", "-q", "-j", 1)
    model_edit("sample", base / "rows", "--model", base / "run", "-o", base / "results")
    model_edit.pipe(
        ["sample", base / "results", "--model", base / "run", "--shuffle", "--column", "result_shuffled"],
        ["score", "-o", base / "judged"],
    )
    return base


def test_images_that_commands_make_say_that_they_are_srgb(model_edit: Runner, learned: Path, tmp_path: Path) -> None:
    """PNG is all that `synth` and `sample` write; in shards and in a tar."""
    model_edit("cat", learned / "judged", "-o", tmp_path / "rows.tar")
    made: list[bytes] = []
    for folder, name in (("rows", "target"), ("results", "result"), ("judged", "result_shuffled")):
        rows = rows_of(learned / folder)
        made += [row[name] for row in rows if row.get(name)]
    with tarfile.open(tmp_path / "rows.tar") as tar:
        members = [member for member in tar.getmembers() if "result" in member.name]
        made += [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    assert len(made) > 20 and members
    for data in made:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.info["srgb"], "icc_profile" in image.info) == ("PNG", 0, False)


def test_train_again_does_nothing_and_other_settings_are_refused(model_edit: Runner, learned: Path) -> None:
    before = tree(learned / "run")
    result = model_edit("train", learned / "rows", *SETTINGS, "-o", learned / "run", "-j", 1)
    assert tree(learned / "run") == before
    assert "finished before" in result.stderr and "3 steps" in result.stderr
    words = [*SETTINGS, "--set", "model.layers=3"]
    other = model_edit("train", learned / "rows", *words, "-o", learned / "run", check=None)
    assert other.code in (1, 2) and "--overwrite" in other.stderr
    other = model_edit("train", learned / "rows", "--limit", 9, *SETTINGS, "-o", learned / "run", check=None)
    assert other.code in (1, 2)
    assert tree(learned / "run") == before


def test_train_shows_its_recipe_and_names_bad_settings(model_edit: Runner, learned: Path, tmp_path: Path) -> None:
    shown = model_edit("train", "--recipe", "demo", "--set", "steps=7", "--seed", 9, "-n").stdout.decode().splitlines()
    assert {"steps = 7", "seed = 9"} <= {line.split("  #")[0] for line in shown}
    for bad in ("steps", "=3", "no_such=1", "steps=many"):
        model_edit("train", learned / "rows", "--set", bad, "-o", tmp_path / "run", check=2)
    model_edit("train", learned / "rows", "--recipe", "no-such", "-o", tmp_path / "run", check=2)
    model_edit("train", learned / "rows", check=2)
    for device in ("nosuch", "meta:x"):
        result = model_edit("train", learned / "rows", *SETTINGS, "--device", device, "-o", tmp_path / "run", check=1)
        assert f"--device {device}: " in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_train_wants_whole_rows(model_edit: Runner, base: Path, tmp_path: Path) -> None:
    assert "nothing to learn" in model_edit("train", base / "raw", *SETTINGS, "-o", tmp_path / "run", check=2).stderr
    (tmp_path / "a.png").write_bytes(image(1, "PNG"))
    (tmp_path / "bad.png").write_bytes(image(1, "PNG")[:300])
    empty = {"id": "e", "source": ["a.png"], "instruction": "x"}
    table = lines(tmp_path, [empty, {"id": "f", "source": ["a.png"], "target": "a.png", "instruction": "变红"}])
    result = model_edit("train", table, *SETTINGS, "-o", tmp_path / "run", check=1)
    assert "no row has" in result.stderr
    whole = {"source": ["a.png"], "target": "a.png", "instruction": "x"}
    table = lines(tmp_path, [{"id": "one", **whole}, {"id": "two", **whole, "target": "bad.png"}, empty])
    result = model_edit("train", table, *SETTINGS, "-o", tmp_path / "run", check=3)
    assert "row two: damaged image" in result.stderr and "hint:" in result.stderr


def results(folder: Path, column: str = "result") -> dict[str, np.ndarray]:
    return {row["id"]: decoded(row[column]) for row in rows_of(folder)}


def test_samples_do_not_depend_on_the_batch_nor_on_their_neighbours(
    model_edit: Runner, learned: Path, tmp_path: Path
) -> None:
    together = results(learned / "results")
    assert all(array.shape == (24, 24, 3) for array in together.values())
    model_edit("sample", learned / "rows", "--model", learned / "run", "--batch-size", 1, "-o", tmp_path / "alone")
    model_edit("sample", learned / "rows", "--model", learned / "run", "--limit", 3, "-o", tmp_path / "few")
    few = results(tmp_path / "few")
    assert len(few) == 3
    for other in (results(tmp_path / "alone"), few):
        for identity, array in other.items():
            # A matrix product may sum in another order for another batch: never more than one level.
            difference = np.abs(array.astype(int) - together[identity])
            assert difference.max() <= 1 and (difference > 0).mean() < 0.001
    # The same batches give the same bytes.
    model_edit("sample", learned / "rows", "--model", learned / "run", "-o", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(learned / "results")
    model_edit("sample", learned / "rows", "--model", learned / "run", "--seed", 1, "-o", tmp_path / "other")
    assert results(tmp_path / "other").keys() == together.keys()


def test_sample_keeps_rows_and_refuses_what_it_cannot_do(model_edit: Runner, learned: Path, tmp_path: Path) -> None:
    before, after = rows_of(learned / "rows"), rows_of(learned / "results")
    assert [{k: v for k, v in row.items() if k not in ("result", "result_turns")} for row in after] == before
    assert all(row["result_turns"] is None for row in after)  # none is a dialogue
    model = ("--model", learned / "run")
    assert "already" in model_edit("sample", learned / "results", *model, check=2).stderr
    assert "--column" in model_edit("sample", learned / "rows", *model, "--column", "made", check=2).stderr
    assert "no `source`" in model_edit("sample", learned / "raw", *model, check=2).stderr
    model_edit("sample", learned / "rows", "--model", tmp_path / "absent", check=1)
    model_edit("sample", learned / "rows", "--model", learned / "rows", check=1)
    model_edit("sample", learned / "rows", check=2)
    (tmp_path / "a.png").write_bytes(image(1, "PNG"))
    table = lines(tmp_path, [{"id": "a", "source": ["a.png"], "instruction": "变红"}, {"id": "b", "source": []}])
    for language in ("--language=en", ""):
        rejects = ("--rejects", tmp_path / f"r{language}", "--max-errors", "100%")
        result = model_edit("sample", table, *model, *filter(None, [language]), "-f", "jsonl", *rejects)
        reasons = {r["id"]: r["reason"] for r in map(json.loads, Path(rejects[1]).read_text().splitlines())}
        # Without a language the one that a row has will do.
        missing = {"a": "no instruction in en"} if language else {}
        assert reasons == missing | {"b": "no source picture"}
        assert [row["id"] for row in result.lines] == ([] if language else ["a"])


def test_shuffled_instructions_are_those_of_other_rows() -> None:
    from edittools.sample.stage import _exchanged

    texts = ["a", "b", "a", "c", None, "a"]
    moved = _exchanged(texts)
    assert all(new != old and new is not None for new, old in zip(moved, texts))
    assert _exchanged(["a", "a"]) == ["a", "a"] and _exchanged([]) == [] and _exchanged([None]) == [None]
    assert moved == _exchanged(list(texts))


def test_judge_scores_results_against_the_truth(learned: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    for row in rows_of(learned / "judged"):
        source, target, result = decoded(row["source"][0]), decoded(row["target"]), decoded(row["result"])
        mask, scores = mask_of(row["mask"]) > 0, row["scores"]
        assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(target, result), rel=1e-5)
        similarity = structural_similarity(target, result, channel_axis=2, data_range=255)
        assert scores["ssim"] == pytest.approx(similarity, abs=2e-6)
        assert scores["copy_psnr"] == pytest.approx(peak_signal_noise_ratio(target, source), rel=1e-5)
        for side, where in (("inside", mask), ("outside", ~mask)):
            if not where.any():
                assert scores[f"psnr_{side}"] is None
                continue
            error = target[where].astype(float) - result[where]
            assert scores[f"l1_{side}"] == pytest.approx(np.abs(error).mean() / 255, rel=1e-5)
            if error.any():
                expected = 20 * np.log10(255 / np.sqrt((error**2).mean()))
                assert scores[f"psnr_{side}"] == pytest.approx(expected, rel=1e-5)
        shuffled = decoded(row["result_shuffled"])
        assert scores["shuffled_psnr"] == pytest.approx(peak_signal_noise_ratio(target, shuffled), rel=1e-5)


def test_eval_reports(model_edit: Runner, learned: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "report.html"
    options = ("--run", learned / "run", "-o", report, "--title", "<T>")
    printed = model_edit("eval", "report", "heldout", learned / "judged", *options)
    summary = json.loads(printed.stdout)
    assert summary == json.loads(report.with_suffix(".json").read_text())
    rows = rows_of(learned / "judged")
    assert set(summary["kinds"]) == {row["provenance"]["template"] for row in rows}
    for kind, entry in summary["kinds"].items():
        own = [row["scores"] for row in rows if row["provenance"]["template"] == kind]
        assert entry["n"] == len(own)
        assert entry["edit"] == pytest.approx(np.mean([s["psnr"] for s in own]), rel=1e-4)
        assert entry["copy"] == pytest.approx(np.mean([s["copy_psnr"] for s in own]), rel=1e-4)
    page = report.read_text()
    assert "&lt;T&gt;" in page and "<T>" not in page and "data:image/" in page
    # Self-contained: nothing is fetched when it is opened.
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'> ]*[/.]""", page)
    assert not re.search(r"@import|url\((?!['\"]?(?:data:|#))", page)
    again = model_edit("eval", "report", "heldout", learned / "judged", "-o", report, check=1)
    assert "--overwrite" in again.stderr
    report.unlink()
    assert "report.json" in model_edit("eval", "report", "heldout", learned / "judged", "-o", report, check=1).stderr
    model_edit("eval", "report", "heldout", learned / "judged", "-o", report, "--overwrite", "-f", "markdown")
    assert b"\\begin{tabular}" in model_edit("eval", "report", "heldout", learned / "judged", "-f", "latex").stdout
    table = model_edit("eval", "report", "heldout", learned / "judged", "-f", "table").stdout.decode()
    assert all(kind in table for kind in summary["kinds"])


def test_eval_of_the_wrong_thing(model_edit: Runner, learned: Path, tmp_path: Path) -> None:
    assert "edit sample" in model_edit("eval", "report", "heldout", learned / "rows", check=2).stderr
    assert "`scores`" in model_edit("eval", "report", "heldout", learned / "results", check=2).stderr
    model_edit("eval", "report", "heldout", learned / "judged", "-o", tmp_path / "report.pdf", check=2)
    model_edit("eval", "elsewhere", learned / "judged", check=2)
    model_edit("eval", "report", "heldout", learned / "judged", "--run", tmp_path, "-o", tmp_path / "r.html", check=1)
    shutil.copytree(learned / "judged", tmp_path / "partial")
    (tmp_path / "partial/_end.json").unlink()
    model_edit("eval", "report", "heldout", tmp_path / "partial", check=4)


# ---------------------------------------------------------------- help and manual


FURTHER = ("Addresses", "Groups", "De-identification", "Retrieval", "Rows")  # headings of one command's own


@pytest.mark.parametrize("name", commands())
def test_help(edit: Runner, name: str) -> None:
    text = edit(*name.split(), "--help").stdout.decode()
    command = commands()[name]
    assert f"Usage: edit {name} " in text and "Cost" in text and text.count("# ") >= 1 + (" " not in name)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert isinstance(parameter, Option) and parameter.group in (*GROUPS, *HEADINGS, *FURTHER)
            assert parameter.help and len(parameter.help) > 5, parameter.name
            assert all(spelling in text for spelling in parameter.opts)
    # What the examples show exists.
    known = {spelling for p in command.params for spelling in (*p.opts, *p.secondary_opts)}
    for example, meaning in command.examples:
        assert meaning
        for call in " ".join(map(shlex.quote, shlex.split(example))).split(" '|' "):
            words = shlex.split(call)
            meant = [other for other in commands() if words[1 : len(other.split()) + 1] == other.split()]
            if words[0] == "edit" and max(meant, key=len) == name:
                assert {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)} <= known, example


def test_manual_is_what_the_commands_say(edit: Runner, tmp_path: Path) -> None:
    edit("man", "--check", ROOT / "man", "--readme", ROOT / "README.md")
    edit("man", "--write", tmp_path / "man")
    edit("man", "--check", tmp_path / "man")
    assert {path.name for path in (tmp_path / "man").iterdir()} == {
        "edit.1", "edit-stream.5", "edit-shards.5", "edit-datasets.5", "edit-eval.1",
        *(f"edit-{name.replace(' ', '-')}.1" for name in commands()),
    }  # fmt: skip
    assert "\\-\\-design" in (tmp_path / "man/edit-eval-study-build.1").read_text()
    overview = (tmp_path / "man/edit-eval.1").read_text().replace("\\-", "-")
    assert all(f"edit-{name.replace(' ', '-')} (1)" in overview for name in commands() if name.startswith("eval "))
    for name, command in commands().items():
        page = (tmp_path / "man" / f"edit-{name.replace(' ', '-')}.1").read_bytes()
        assert edit("man", name.replace(" ", "-")).stdout == page
        text = page.decode().replace("\\-", "-")
        for parameter in command.params:
            assert all(spelling in text for spelling in parameter.opts if spelling.startswith("-"))
    assert edit("man").stdout == (tmp_path / "man/edit.1").read_bytes()
    (tmp_path / "man/edit-cat.1").write_text("no\n")
    assert "edit-cat.1" in edit("man", "--check", tmp_path / "man", check=1).stderr
    edit("man", "--write", tmp_path / "man")
    (tmp_path / "man/edit-old.1").write_text("of a command that is gone\n")
    assert "edit-old.1" in edit("man", "--check", tmp_path / "man", check=1).stderr
    assert "no page" in edit("man", "nothing", check=1).stderr
    (tmp_path / "README.md").write_text("no marks\n")
    edit("man", "--write", tmp_path / "man", "--readme", tmp_path / "README.md", check=1)


def test_pages_are_roff_that_man_accepts(edit: Runner) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("needs groff")
    for name in (*(name.replace(" ", "-") for name in commands()), "eval", "stream", "shards", "datasets"):
        page = edit("man", name).stdout
        made = subprocess.run([groff, "-man", "-ww", "-z", "-Tutf8", "-K", "utf8"], input=page, capture_output=True,
                              check=True)  # fmt: skip
        assert not made.stderr, (name, made.stderr)


def test_help_is_cheap() -> None:
    code = (
        "import os, sys\n"
        "from edittools.cli.main import main\n"
        "def leave(status): print(status, sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
        "os._exit = leave\n"
        "main(['--help'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert result.stderr.startswith("0 ")
    for heavy in ("torch", "pyarrow", "numpy", "PIL", "duckdb", "diffusers", "rich"):
        assert f"'{heavy}'" not in result.stderr
    assert all(name in result.stdout for name in COMMANDS)


def test_both_names_and_the_version() -> None:
    for name in ("edit", "edittools"):
        program = Path(EDIT).with_name(name)
        result = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=300, check=True)
        assert re.fullmatch(r"edit, version \d+\.\d+\.\d+\n", result.stdout)
    close = subprocess.run([EDIT, "filtr"], capture_output=True, text=True, timeout=300, check=False)
    assert close.returncode == 2 and "filter" in close.stderr


# ---------------------------------------------------------------- the same from Python


def test_python_api_is_the_commands(edit: Runner, shards: Path, tmp_path: Path) -> None:
    import edittools
    from edittools.dedup.stage import DedupStage

    # Copies behind rows that the filter drops, so that the places of rows move between the two stages.
    (tmp_path / "in").mkdir()
    for name, seed in {"a": 1, "b": 2, "c": 3, "d": 3, "e": 4, "f": 2}.items():
        side = 20 if name in "ab" else 64
        (tmp_path / f"in/{name}.png").write_bytes(image(seed, "PNG", side, side))
    edit("shard", tmp_path / "in", "-o", tmp_path / "raw")
    edit.pipe(["filter", tmp_path / "raw", "--min-side", "32"], ["dedup", "-o", tmp_path / "expected"])
    expected = rows_of(tmp_path / "expected")
    assert len(expected) == 3

    def made() -> Any:
        small = FilterStage(FilterConfig(short_side="32"))
        copies = DedupStage(DedupConfig())
        return edittools.read(str(tmp_path / "raw")).pipe(small).pipe(copies)

    assert [row["id"] for row in made().rows()] == [row["id"] for row in expected]
    made().write(str(tmp_path / "written"))
    assert rows_of(tmp_path / "written") == expected

    # The second run finds its shards finished, and the row that failed counted in them.
    (tmp_path / "in/cut.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:20])
    for _ in range(2):
        with pytest.raises(TooManyFailed, match="1 of 7 rows failed"):
            edittools.read(str(tmp_path / "in")).pipe(_sharpness()).write(str(tmp_path / "sharp"))
        assert len(rows_of(tmp_path / "sharp")) == 6
    counts = edittools.read(str(tmp_path / "in")).pipe(_sharpness()).write(str(tmp_path / "again"), max_errors="15%")
    assert (counts.rows, counts.kept, counts.failed) == (7, 6, 1)


def _sharpness() -> FilterStage:
    return FilterStage(FilterConfig(sharpness=".."))
