"""Filters with models, regions, presets, and semantic scores: tiny random weights through the real classes."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_models as tiny
import torch
from conftest import EDIT, Runner, encode, rejects_of, rows_of, tree
from PIL import Image

from edittools.encoders.aesthetic import load_aesthetic
from edittools.encoders.classifier import load_classifier
from edittools.encoders.embedders import load_embedder
from edittools.errors import UsageError
from edittools.filter import all_filters, significant
from edittools.filter.config import FilterConfig
from edittools.filter.models import Models
from edittools.filter.regions import RegionStage, cut
from edittools.filter.stage import FilterStage
from edittools.record import IMAGE
from edittools.score import semantic
from edittools.stream import codec
from edittools.stream.batch import Batch, Shard

NAMES = ("clip", "dino", "classifier", "aesthetic")
SETTINGS = {"aesthetic": "aesthetic_head"}  # the settings of a FilterConfig that name them
CLOSE = 5e-5  # of scores: batches of other sizes and a run in another process


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    makers: dict[str, Callable[[Path], Path]] = {
        "clip": tiny.save_clip, "dino": tiny.save_dino, "classifier": tiny.save_classifier,
        "aesthetic": tiny.save_aesthetic,
    }  # fmt: skip
    return {name: maker(root / name) for name, maker in makers.items()}


@pytest.fixture(scope="module")
def edit(model_edit: Runner) -> Runner:
    return model_edit


def named(folders: dict[str, Path]) -> list[Any]:
    return [
        "--clip", folders["clip"], "--dino", folders["dino"], "--aesthetic-head", folders["aesthetic"],
        "--classifier", folders["classifier"], "--label", "fake", "-j", 2,
    ]  # fmt: skip


SOURCE_TEXTS = ["a cat", "two dogs on grass", "the sea"]
TEXTS = ["a red cat", "two dogs in snow", "the sea at night"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pairs of several sizes; a caption of each side. As JSON lines beside the images."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for k in range(9):
        height, width = ((48, 60), (90, 40), (33, 120))[k % 3]
        for side, shift in (("source", 0), ("target", 50)):
            (folder / f"{side}{k}.png").write_bytes(encode(tiny.photo(k + shift, height, width), "PNG"))
        rows.append({
            "id": f"r{k}", "source": [f"source{k}.png"], "target": f"target{k}.png",
            "source_caption": SOURCE_TEXTS[k % 3], "caption": {"en": TEXTS[k % 3], "zh": "猫" * (k + 1)},
            "instruction": {"en": f"edit {k}", "zh": None},
        })  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def images(pairs: Path, side: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(pairs / f"{side}{k}.png").convert("RGB")) for k in range(9)]


MODEL_FILTERS = ["aesthetic", "clip_score", "clip_directional", "pair_clip", "pair_dino", "probability"]
ALL = [part for name in MODEL_FILTERS for part in (all_filters()[name].flag, "..")]

# ---------------------------------------------------------------- what is measured


def test_every_model_filter_is_tested() -> None:
    assert {name for name, item in all_filters().items() if item.score is not None} == set(MODEL_FILTERS)


@pytest.fixture(scope="module")
def measured(edit: Runner, pairs: Path, folders: dict[str, Path]) -> list[dict[str, float]]:
    result = edit("filter", pairs / "rows.jsonl", *ALL, *named(folders), "-f", "jsonl")
    return [row["scores"] for row in result.lines]


def test_scores_by_hand(measured: list[dict[str, float]], pairs: Path, folders: dict[str, Path]) -> None:
    """Each formula once more, on vectors that transformers itself computes."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification, AutoProcessor, CLIPModel, Dinov2Model

    clip, look = CLIPModel.from_pretrained(folders["clip"]).eval(), AutoProcessor.from_pretrained(folders["clip"])
    dino = Dinov2Model.from_pretrained(folders["dino"]).eval()
    judge = AutoModelForImageClassification.from_pretrained(folders["classifier"]).eval()

    def unit(x: torch.Tensor) -> np.ndarray:
        return torch.nn.functional.normalize(x, dim=-1)[0].numpy()

    def seen(image: np.ndarray) -> np.ndarray:
        pixels = look.image_processor(images=Image.fromarray(image), return_tensors="pt")
        return unit(clip.get_image_features(**pixels).pooler_output)

    def said(text: str) -> np.ndarray:
        return unit(clip.get_text_features(**look.tokenizer([text], return_tensors="pt")).pooler_output)

    def shape(image: np.ndarray) -> np.ndarray:
        pixels = AutoImageProcessor.from_pretrained(folders["dino"])(Image.fromarray(image), return_tensors="pt")
        return unit(dino(**pixels).last_hidden_state[:, 0])

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    pixels = AutoImageProcessor.from_pretrained(folders["classifier"])
    head = tiny.released_aesthetic()
    with torch.inference_mode():
        for k, (source, target) in enumerate(zip(images(pairs, "source"), images(pairs, "target"))):
            before, after = seen(source), seen(target)
            value = torch.tensor(after)
            for layer in (0, 2, 4, 6, 7):
                value = head[f"layers.{layer}.weight"] @ value + head[f"layers.{layer}.bias"]
            logits = judge(**pixels(Image.fromarray(target), return_tensors="pt")).logits[0]
            texts = said(SOURCE_TEXTS[k % 3]), said(TEXTS[k % 3])
            expected = {
                "aesthetic_clip_aesthetic": value.item(),
                "clip_score_clip": cosine(after, texts[1]),
                "clip_directional_clip": cosine(after - before, texts[1] - texts[0]),
                "pair_clip_clip": cosine(before, after),
                "pair_dino_dino": cosine(shape(source), shape(target)),
                "probability_fake_classifier": float(torch.softmax(logits, 0)[1]),
            }
            assert measured[k] == pytest.approx(expected, abs=CLOSE)
    for name in measured[0]:
        assert len({row[name] for row in measured}) > 3  # the random weights tell the rows apart


def test_neither_batch_nor_threads_nor_company_matter(
    edit: Runner, measured: list[dict[str, float]], pairs: Path, folders: dict[str, Path]
) -> None:
    for options in (("--batch-size", 1), ("--batch-size", 4), ("-j", 1), ("--batch-size", 2, "--brightness", "..")):
        found = edit("filter", pairs / "rows.jsonl", *ALL, *named(folders), *options, "-f", "jsonl").lines
        for row, scores in zip(found, measured):
            alone = {name: value for name, value in row["scores"].items() if name != "brightness"}
            assert alone == pytest.approx(scores, abs=CLOSE)
    one = edit("filter", pairs / "rows.jsonl", "--pair-clip", "..", *named(folders), "-f", "jsonl").lines
    assert [row["scores"] for row in one] == [
        {"pair_clip_clip": pytest.approx(scores["pair_clip_clip"], abs=CLOSE)} for scores in measured
    ]


def test_a_pipe_of_two_is_one_call(edit: Runner, pairs: Path, folders: dict[str, Path]) -> None:
    rows, models = pairs / "rows.jsonl", named(folders)
    piped = edit.pipe(["filter", rows, "--aesthetic", "..", *models], ["filter", "--pair-dino", "..", *models,
                       "-f", "jsonl"])[-1].lines  # fmt: skip
    joined = edit("filter", rows, "--aesthetic", "..", "--pair-dino", "..", *models, "-f", "jsonl").lines
    assert piped == joined


def test_bounds_drop_rows_and_say_why(
    edit: Runner, measured: list[dict[str, float]], pairs: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    median = sorted(row["pair_clip_clip"] for row in measured)[4]
    middle = (median + sorted(row["pair_clip_clip"] for row in measured)[5]) / 2
    edit("filter", pairs / "rows.jsonl", "--pair-clip", middle, *named(folders), "-o", tmp_path / "out")
    kept = {row["id"] for row in rows_of(tmp_path / "out")}
    assert kept == {f"r{k}" for k, row in enumerate(measured) if row["pair_clip_clip"] <= middle} and len(kept) == 5
    for reject in rejects_of(tmp_path / "out"):
        assert reject["reason"] == "pair_clip_clip" and not reject["failed"]
        assert reject["value"] == pytest.approx(measured[int(reject["id"][1:])]["pair_clip_clip"], abs=CLOSE)


def test_quantiles_and_reruns(edit: Runner, pairs: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    command = ["filter", pairs / "rows.jsonl", "--aesthetic", "q25..q75", *named(folders), "-o", tmp_path / "out"]
    edit(*command)
    assert len(rows_of(tmp_path / "out")) == 5
    state = tree(tmp_path / "out")
    edit(*command)
    assert tree(tmp_path / "out") == state


def test_other_weights_are_another_stage(edit: Runner, pairs: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    """The history holds the content of the weights, not their path: moved is the same, changed is refused."""
    command = ["filter", pairs / "rows.jsonl", "--pair-clip", "..", "-o", tmp_path / "out"]
    other = tmp_path / "elsewhere/clip"
    other.parent.mkdir()
    other.symlink_to(folders["clip"])
    edit(*command, "--clip", folders["clip"])
    state = tree(tmp_path / "out")
    edit(*command, "--clip", other)
    assert tree(tmp_path / "out") == state
    changed = tiny.save_clip(tmp_path / "changed/clip", seed=9)
    assert "--overwrite" in edit(*command, "--clip", changed, check=1).stderr
    assert "--overwrite" in edit(*command, "--clip", folders["clip"], "--dtype", "bfloat16", check=1).stderr
    # What is the default anyway is the same said or not; anything else is another stage.
    said = ["--device", "cpu", "--dtype", "float32"]
    judging = ["score", pairs / "rows.jsonl", "--clip", folders["clip"], "-o", tmp_path / "judged"]
    copies = ["dedup", pairs / "rows.jsonl", "--method", folders["clip"], "-o", tmp_path / "unique"]
    for words, more in ((judging, []), (copies, ["--batch-size", 32])):
        edit(*words)
        edit(*words, *said, *more)
        assert "--overwrite" in edit(*words, "--dtype", "bfloat16", check=1).stderr
    settings = edit("filter", "-n", pairs / "rows.jsonl", "--brightness", "..").stdout.decode()
    assert "models" not in settings and "device" not in settings and "batch_size" not in settings


def test_stored_scores_need_no_weights(edit: Runner, pairs: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    edit("filter", pairs / "rows.jsonl", "--aesthetic", "..", *named(folders), "-o", tmp_path / "scored")
    median = sorted(row["scores"]["aesthetic_clip_aesthetic"] for row in rows_of(tmp_path / "scored"))[4]
    gone = ("--clip", "/gone/clip", "--aesthetic-head", "/gone/aesthetic")
    edit("filter", tmp_path / "scored", "--aesthetic", median, *gone, "-o", tmp_path / "kept")
    assert len(rows_of(tmp_path / "kept")) == 5
    missing = edit("filter", tmp_path / "scored", "--pair-clip", "..", *gone, "-o", tmp_path / "no", check=1)
    assert "/gone/clip" in missing.stderr and not (tmp_path / "no").exists()


def test_names_of_scores(folders: dict[str, Path]) -> None:
    usual, item = Models(), all_filters()
    assert usual.key(item["clip_score"]) == "clip_score" and usual.key(item["aesthetic"]) == "aesthetic"
    assert usual.key(item["pair_dino"]) == "pair_dino"
    assert Models(FilterConfig(clip="/w/clip-vit-large-patch14")).key(item["pair_clip"]) == "pair_clip"  # the default
    other = Models(FilterConfig(clip="openai/clip-vit-base-patch32", text="instruction", language="zh"))
    assert other.key(item["clip_score"]) == "clip_score_clip_vit_base_patch32_instruction_zh"
    assert other.key(item["pair_clip"]) == "pair_clip_clip_vit_base_patch32"
    named = Models(FilterConfig(classifier="a/real-fake", label="AI made"))
    assert named.key(item["probability"]) == "probability_AI_made_real_fake"
    with pytest.raises(UsageError, match="--classifier"):
        usual.key(item["probability"])


def test_source_and_target_have_scores_of_their_own(
    edit: Runner, measured: list[dict[str, float]], pairs: Path, folders: dict[str, Path]
) -> None:
    found = edit("filter", pairs / "rows.jsonl", "--image", "source", "--aesthetic", "..", "--pair-clip", "..",
                 *named(folders), "-f", "jsonl").lines  # fmt: skip
    clip, head = load_embedder(str(folders["clip"])), load_aesthetic(str(folders["aesthetic"]))
    expected = head(clip.images(images(pairs, "source")))
    assert [row["scores"]["source_aesthetic_clip_aesthetic"] for row in found] == pytest.approx(expected, abs=CLOSE)
    assert [row["scores"]["pair_clip_clip"] for row in found] == pytest.approx(
        [row["pair_clip_clip"] for row in measured], abs=CLOSE
    )


def test_texts_of_any_column(edit: Runner, pairs: Path, folders: dict[str, Path]) -> None:
    clip = load_embedder(str(folders["clip"]))
    seen = clip.images(images(pairs, "target"))
    for options, texts, name in (
        (("--text", "instruction"), [f"edit {k}" for k in range(9)], "clip_score_clip_instruction"),
        (("--language", "zh"), ["猫" * (k + 1) for k in range(9)], "clip_score_clip_zh"),
        (("--text", "source_caption"), [SOURCE_TEXTS[k % 3] for k in range(9)], "clip_score_clip_source_caption"),
    ):
        found = edit("filter", pairs / "rows.jsonl", "--clip-score", "..", *options, *named(folders), "-f", "jsonl")
        expected = (seen * clip.texts(texts)).sum(axis=1)
        assert [row["scores"][name] for row in found.lines] == pytest.approx(expected, abs=CLOSE)


def test_rows_without_a_text_or_a_image_fail_alone(
    edit: Runner, pairs: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    result = edit("filter", pairs / "rows.jsonl", "--clip-score", "..", "--text", "instruction", "--language", "zh",
                  *named(folders), "-o", tmp_path / "out", check=3)  # fmt: skip
    assert "Loading" not in result.stderr and not rows_of(tmp_path / "out")
    rejects = rejects_of(tmp_path / "out")
    assert len(rejects) == 9
    assert {(r["reason"], r["failed"]) for r in rejects} == {("no text in `instruction`", True)}
    missing = edit("filter", pairs / "rows.jsonl", "--clip-score", "..", "--text", "absent", *named(folders), check=2)
    assert "no text in a column `absent`" in missing.stderr and "--text" in missing.stderr
    numbers = pairs / "rows.jsonl"
    assert "no text" in edit("filter", numbers, "--clip-score", "..", "--text", "source", *named(folders),
                             check=2).stderr  # fmt: skip


def test_hostile_images(edit: Runner, folders: dict[str, Path], tmp_path: Path) -> None:
    good = tiny.photo(1, 64, 64)
    (tmp_path / "in").mkdir()
    gray16 = Image.fromarray((np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64))
    buffer = io.BytesIO()
    gray16.save(buffer, "PNG")
    fine = {
        "good.png": encode(good, "PNG"),
        "sliver.png": encode(np.zeros((2, 20000, 3), np.uint8), "PNG"),
        "dot.png": encode(good[:1, :1], "PNG"),
        "three_rows.png": encode(good[:3], "PNG"),
        "alpha.png": encode(np.dstack([good, good[..., 0]]), "PNG"),
        "sixteen.png": buffer.getvalue(),
        "cmyk.jpg": encode(np.dstack([good, good[..., 0]])[..., :3], "JPEG"),
    }
    bad = {
        "truncated.jpg": encode(good)[:600], "truncated.png": encode(good, "PNG")[:3000], "empty.png": b"",
        "page.jpg": b"<html>", "bomb.png": encode(np.zeros((600, 600, 3), np.uint8), "PNG"),
    }  # fmt: skip
    for name, data in {**fine, **bad}.items():
        (tmp_path / "in" / name).write_bytes(data)
    edit("filter", tmp_path / "in", "--aesthetic", "..", "--max-prob", "..", *named(folders), "--batch-size", 3,
         "--max-pixels", 100_000, "--max-errors", "100%", "-o", tmp_path / "out")  # fmt: skip
    rows = {row["provenance"]["path"]: row["scores"] for row in rows_of(tmp_path / "out")}
    assert rows.keys() == fine.keys()
    assert all(np.isfinite(list(scores.values())).all() for scores in rows.values())
    assert {r["path"] for r in rejects_of(tmp_path / "out")} == bad.keys()
    # Each gets the score that it gets alone: no row sees the bad ones beside it.
    clip, head = load_embedder(str(folders["clip"])), load_aesthetic(str(folders["aesthetic"]))
    for name, scores in rows.items():
        vector = clip.images([codec.decode(fine[name])])
        assert scores["aesthetic_clip_aesthetic"] == pytest.approx(head(vector)[0], abs=CLOSE)


def test_one_decode_for_all(
    monkeypatch: pytest.MonkeyPatch, pairs: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    """All model filters together decode source and target once each."""
    import edittools

    decoded: list[Any] = []
    decode = codec.decode

    def counting(data: Any, *rest: Any) -> np.ndarray:
        decoded.append(rest)
        return decode(data, *rest)

    monkeypatch.setattr(codec, "decode", counting)
    named = {SETTINGS.get(name, name): str(folders[name]) for name in NAMES}
    stage = FilterStage(FilterConfig(**named, label="fake", **dict.fromkeys(MODEL_FILTERS, "..")))
    rows = list(edittools.read(str(pairs / "rows.jsonl")).pipe(stage).rows())
    assert len(rows) == 9 and len(decoded) == 18


def test_missing_weights_are_said_in_one_line(shards: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "EDITTOOLS_WEIGHTS": ""}

    def run(*arguments: str, **more: str) -> list[str]:
        done = subprocess.run(
            [EDIT, "filter", str(shards), *arguments, "-o", str(tmp_path / "out")], env={**environment, **more},
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 1 and not done.stdout
        return done.stderr.splitlines()

    first, hint = run("--aesthetic", "4.75")
    assert "no weights `openai/clip-vit-large-patch14`: fetch https://huggingface.co/openai/" in first
    assert "EDITTOOLS_WEIGHTS=DIR" in first and "hf download openai/clip-vit-large-patch14 --local-dir" in hint
    # With CLIP there, the predictor is what is missing.
    tiny.save_clip(tmp_path / "w/openai/clip-vit-large-patch14")
    first, hint = run("--aesthetic", "4.75", EDITTOOLS_WEIGHTS=str(tmp_path / "w"))
    assert "fetch https://github.com/christophschuhmann/improved-aesthetic-predictor/" in first
    assert f"into {tmp_path / 'w'}/sac+logos+ava1-l14-linearMSE" in first
    assert hint.startswith("hint: python -m edittools.convert FILE ")
    assert not (tmp_path / "out").exists()


def test_usage(edit: Runner, pairs: Path, folders: dict[str, Path]) -> None:
    rows = pairs / "rows.jsonl"
    assert "--classifier" in edit("filter", rows, "--max-prob", "0.5", check=2).stderr
    assert "--label" in edit("filter", rows, "--max-prob", "0.5", "--classifier", folders["classifier"], check=2).stderr
    wrong = edit("filter", rows, "--max-prob", ".5", "--classifier", folders["classifier"], "--label", "odd", check=2)
    assert "no such label" in wrong.stderr and "real, fake" in wrong.stderr
    texts = edit("filter", rows, "--clip-score", "..", "--clip", folders["dino"], check=2)
    assert "no texts" in texts.stderr
    wide = edit("filter", rows, "--aesthetic", "..", "--clip", folders["clip"], "--aesthetic-head", folders["dino"],
                check=1)  # fmt: skip
    assert "not an aesthetic predictor" in wide.stderr


# ---------------------------------------------------------------- regions


def image(data: bytes) -> dict[str, Any]:
    return {field.name: data if field.name == "bytes" else None for field in IMAGE}


OBJECT = pa.struct([("name", pa.string()), ("box", pa.list_(pa.float64())), ("score", pa.float64()), ("mask", IMAGE)])


def batch(rows: list[tuple[np.ndarray, list[dict[str, Any]] | None]]) -> Batch:
    """One-image rows with objects; masks are bool arrays."""
    made = []
    for _, objects in rows:
        for one in objects or []:
            if isinstance(one.get("mask"), np.ndarray):
                one["mask"] = image(encode((one["mask"] * 255).astype(np.uint8), "PNG"))
        made.append(objects)
    record = pa.record_batch({
        "id": pa.array([f"r{k}" for k in range(len(rows))]),
        "target": pa.array([image(encode(pixels, "PNG")) for pixels, _ in rows], IMAGE),
        "objects": pa.array(made, pa.list_(OBJECT)),
        "after": pa.array(range(len(rows))),
    })  # fmt: skip
    return Batch(record, Shard(0, 1, ""), True, len(rows))


def judge(stage: RegionStage, given: Batch) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    parts = list(stage(iter([given])))
    assert all(part.rows.schema.equals(stage.schema(given.rows.schema)) for part in parts)
    rejects = {reject.id: reject for part in parts for reject in part.rejects}
    return [row for part in parts for row in part.rows.to_pylist()], rejects


def test_areas_and_expression_without_a_model() -> None:
    pixels = tiny.photo(1, 40, 80)
    mask = np.zeros((20, 40), bool)  # of another size than the image
    mask[5:10, 10:20] = True
    given = batch([
        (pixels, [{"name": "a", "box": [0.0, 0.0, 0.5, 0.5]}, {"name": "b", "box": [0.1, 0.1, 0.2, 0.2]}]),
        (pixels, [{"name": "c", "mask": mask, "score": 0.1}, {"name": "d", "box": [0.2, 0.2, 0.7, 0.9], "mask": mask}]),
        (pixels, [{"name": "e", "box": [0.5, 0.5, 0.4, 0.6]}, {"name": "f"}, {"name": "g", "box": [0.0, 0.0, 1.0]}]),
        (pixels, []),
        (pixels, None),
    ])  # fmt: skip
    stage = RegionStage(FilterConfig(region="area > 0.05 OR box_area > 0.3"))
    assert stage.roles == []
    rows, rejects = judge(stage, given)
    found = {one["name"]: (one["area"], one["box_area"]) for row in rows for one in row["objects"]}
    assert found == {"a": (0.25, 0.25), "c": (0.0625, 0.0625), "d": (0.0625, 0.35)}
    assert [(row["id"], row["after"]) for row in rows] == [("r0", 0), ("r1", 1)]
    assert {k: (r.reason, r.failed) for k, r in rejects.items()} == {k: ("region", False) for k in ("r2", "r3", "r4")}
    assert rejects["r2"].value[0] == {"name": "e", "score": None, "area": None, "box_area": None}
    assert rejects["r3"].value == [] and rejects["r4"].value == []


def test_crops_by_hand() -> None:
    pixels = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)
    assert np.array_equal(cut(pixels, [0.1, 0.2, 0.5, 0.6], None), pixels[2:6, 2:10])
    assert np.array_equal(cut(pixels, [0.11, 0.21, 0.49, 0.59], None), pixels[2:6, 2:10])  # out to whole pixels
    assert np.array_equal(cut(pixels, [0.0, 0.0, 1.0, 1.0], None), pixels)
    mask = np.zeros((10, 20), bool)
    mask[3, 4:7] = mask[5, 5] = True
    crop = cut(pixels, [0, 0, 1, 1], mask)
    assert crop is not None and crop.shape == (3, 3, 3)
    assert np.array_equal(crop[0], pixels[3, 4:7]) and np.array_equal(crop[2, 1], pixels[5, 5])
    assert (crop[1] == 255).all() and (crop[2, [0, 2]] == 255).all()
    assert cut(pixels, None, np.zeros((10, 20), bool)) is None and cut(pixels, None, None) is None
    doubled = np.kron(mask, np.ones((2, 2), bool)).astype(bool)
    assert np.array_equal(cut(pixels, None, doubled), crop)


def test_measures_of_crops_by_hand(folders: dict[str, Path]) -> None:
    clip, head = load_embedder(str(folders["clip"])), load_aesthetic(str(folders["aesthetic"]))
    shown = [tiny.photo(k, 60, 80) for k in range(3)]
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:60] = True
    mask[20:30, 30:40] = False
    given = batch([
        (shown[0], [{"name": "cat", "box": [0.25, 0.5, 0.75, 1.0]}, {"name": "dog", "mask": mask}]),
        (shown[1], [{"name": "sky", "box": [0.0, 0.0, 1.0, 0.25], "score": 0.5}]),
        (shown[2], [{"name": "none", "mask": np.zeros((60, 80), bool)}, {"name": None, "box": [0.0, 0.0, 1.0, 1.0]}]),
    ])  # fmt: skip
    white = np.where(mask[..., None], shown[0], 255).astype(np.uint8)
    crops = [shown[0][30:60, 20:60], white[10:40, 20:60], shown[1][:15]]
    seen, names = clip.images(crops), ["cat", "dog", "sky"]
    cosine = (seen * clip.texts(names)).sum(axis=1)
    other = (seen * clip.texts([f"not {name}" for name in names])).sum(axis=1)
    share = torch.softmax(100 * torch.tensor(np.stack([cosine, other], 1)).double(), 1)[:, 0].numpy()
    named = {"clip": str(folders["clip"]), "aesthetic_head": str(folders["aesthetic"]), "batch_size": 2}
    stage = RegionStage(FilterConfig(region="clip > -2 AND match >= 0 AND aesthetic > -99 AND area > 0", **named))
    assert stage.roles == ["clip", "aesthetic"]
    rows, rejects = judge(stage, given)
    found = [one for row in rows for one in row["objects"]]
    assert [one["name"] for one in found] == names
    assert [one["clip"] for one in found] == pytest.approx(cosine, abs=CLOSE)
    assert [one["match"] for one in found] == pytest.approx(share, abs=1e-3)
    assert [one["aesthetic"] for one in found] == pytest.approx(head(seen), abs=CLOSE)
    assert [one["area"] for one in found] == [0.25, significant(1100 / 4800), 0.25]
    assert rejects.keys() == {"r2"}


def test_damaged_masks_and_images_fail_their_row(folders: dict[str, Path]) -> None:
    given = batch([(tiny.photo(k), [{"name": "cat", "box": [0.0, 0.0, 1.0, 1.0]}]) for k in range(3)])
    values = given.rows.to_pylist()
    values[0]["objects"][0]["mask"] = image(b"junk")
    values[1]["target"] = image(b"")
    given.rows = pa.RecordBatch.from_pylist(values, given.rows.schema)
    rows, rejects = judge(RegionStage(FilterConfig(region="clip > -2", clip=str(folders["clip"]))), given)
    assert [row["id"] for row in rows] == ["r2"]
    assert {k: (r.reason, r.failed) for k, r in rejects.items()} == {
        "r0": ("not an image", True), "r1": ("empty file", True),
    }  # fmt: skip


def test_regions_from_the_command_line(edit: Runner, folders: dict[str, Path], tmp_path: Path) -> None:
    """Boxes of JSON lines, through shards, in threads; --mark keeps every object."""
    rows = []
    for k in range(40):
        (tmp_path / f"{k}.png").write_bytes(encode(tiny.photo(k), "PNG"))
        boxes = [[0.0, 0.0, 0.1 * (1 + (k + j) % 10), 0.5] for j in range(k % 4)]
        objects = [{"name": f"thing {j}", "box": box, "score": 0.5} for j, box in enumerate(boxes)]
        rows.append({"id": f"r{k:02}", "target": f"{k}.png", "objects": objects})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = {
        row["id"]: [o["name"] for o in row["objects"] if o["box"][2] > 0.45 and o["name"] != "thing 2"]
        for row in rows
    }  # fmt: skip
    command = ["filter", tmp_path / "rows.jsonl", "--region", "box_area > 0.225 AND name <> 'thing 2'"]
    edit(*command, "-j", 3, "-o", tmp_path / "out")
    found = {row["id"]: [one["name"] for one in row["objects"]] for row in rows_of(tmp_path / "out")}
    assert found == {name: kept for name, kept in expected.items() if kept}
    assert {r["id"]: r["reason"] for r in rejects_of(tmp_path / "out")} == {
        name: "region" for name, kept in expected.items() if not kept
    }
    marked = edit(*command, "--mark", "why", "-f", "jsonl").lines
    assert {row["id"]: row["why"] for row in marked} == {n: None if kept else "region" for n, kept in expected.items()}
    assert all(len(row["objects"]) == len(one["objects"]) for row, one in zip(marked, rows))
    seen = edit(*command[:2], "--region", "clip > -2", "--clip", folders["clip"], "-f", "jsonl").lines
    assert len(seen) == 30 and all(-1 <= one["clip"] <= 1 for row in seen for one in row["objects"])
    # Again on what is left, and beside bounds on quantiles, which read the rows twice.
    piped = edit.pipe(["filter", tmp_path / "rows.jsonl", "--region", "name <> 'thing 2'"],
                      ["filter", "--region", "box_area > 0.225", "-f", "jsonl"])[-1].lines  # fmt: skip
    assert {row["id"]: [one["name"] for one in row["objects"]] for row in piped} == found
    edit(*command, "--brightness", "q25", "-o", tmp_path / "both")
    edit("filter", tmp_path / "rows.jsonl", "--brightness", "q25", "-o", tmp_path / "first")
    bright = {row["id"] for row in rows_of(tmp_path / "first")}
    assert {row["id"] for row in rows_of(tmp_path / "both")} == bright & found.keys() and len(bright) == 30
    assert "no `objects`" in edit("filter", "--region", "area > 0", stdin=b'{"id": "a", "n": 1}\n', check=2).stderr
    for wrong in ("absent > 1", "count(*) > 0", "area >", "(select 1)"):
        assert "--region" in edit(*command[:2], "--region", wrong, check=2).stderr


# ---------------------------------------------------------------- presets


def test_presets_are_the_published_numbers(edit: Runner, pairs: Path, folders: dict[str, Path]) -> None:
    plan = edit("filter", "-n", pairs / "rows.jsonl", "--preset", "imgedit", *named(folders)).stdout.decode()
    assert '"short_side": "1281"' in plan and '"aesthetic": "4.75001"' in plan
    plan = edit("filter", "-n", pairs / "rows.jsonl", "--preset", "imgedit", "--min-side", "512", *named(folders))
    assert '"short_side": "512"' in plan.stdout.decode()
    plan = edit("filter", "-n", pairs / "rows.jsonl", "--preset", "firered").stdout.decode()
    assert all(f'"{name}": "q01..q99"' in plan for name in ("brightness", "saturation", "entropy", "texture"))
    assert "models" not in plan
    assert "imgedit-region" in edit("filter", pairs / "rows.jsonl", "--preset", "nonsense", check=2).stderr


def valid_object(area: float, score: float, match: float) -> bool:
    """ImgEdit's valid_obj_candidate with its thresholds (0.08, 0.8, 0.8)."""
    return 0.01 < area <= 0.6 and (match >= 0.8 or (area >= 0.08 and score >= 0.8))


def valid_background(area: float, score: float, match: float) -> bool:
    return 0.4 < area <= 0.7 and (match >= 0.7 or (area >= 0.4 and score >= 0.75))


RULES = [("imgedit-region", valid_object), ("imgedit-background", valid_background)]


@pytest.mark.parametrize(("preset", "rule"), RULES)
def test_region_presets_are_imgedits_rules(preset: str, rule: Callable[..., bool]) -> None:
    import tomllib

    from edittools.filter.expression import Expression

    path = Path(codec.__file__).parents[1] / "filter/presets" / f"{preset}.toml"
    expression = Expression(tomllib.loads(path.read_text())["filter"]["region"], "--region")
    assert expression.columns() == {"box_area", "match", "score"}
    areas = [0.0, 0.01, 0.0100001, 0.079, 0.08, 0.4, 0.41, 0.6, 0.61, 0.7, 0.71, 1.0]
    cases = list(itertools.product(areas, [0.0, 0.749, 0.75, 0.8, 0.9], [0.0, 0.69, 0.7, 0.8, 1.0]))
    table = pa.record_batch(dict(zip(("box_area", "score", "match"), map(pa.array, zip(*cases)))))
    assert expression.true_for(table).tolist() == [rule(*case) for case in cases]


# ---------------------------------------------------------------- semantic scores of results


def test_semantic_similarity(folders: dict[str, Path]) -> None:
    clip = load_embedder(str(folders["clip"]))
    truth, result, source = (tiny.photo(k, 60, 80) for k in (1, 2, 3))
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:60] = True
    found = semantic.similarity(clip, result, truth, mask)
    vectors = clip.images([result, truth])
    assert found["whole"] == pytest.approx(vectors[0] @ vectors[1], abs=CLOSE)
    inside = clip.images([result[10:40, 20:60], truth[10:40, 20:60]])  # a full rectangle has nothing painted
    assert found["inside"] == pytest.approx(inside[0] @ inside[1], abs=CLOSE)
    painted = [np.where(mask[..., None], semantic.GRAY, image) for image in (result, truth)]
    outside = clip.images(painted)
    assert found["outside"] == pytest.approx(outside[0] @ outside[1], abs=CLOSE)
    # What differs inside only is invisible outside, and the other way round.
    edited = np.where(mask[..., None], result, truth)
    assert semantic.similarity(clip, edited, truth, mask)["outside"] == pytest.approx(1)
    kept = np.where(mask[..., None], truth, result)
    assert semantic.similarity(clip, kept, truth, mask)["inside"] == pytest.approx(1)
    assert semantic.similarity(clip, result, truth) == {**found, "inside": None, "outside": None}
    everywhere = semantic.similarity(clip, result, truth, np.ones((60, 80), bool))
    assert everywhere["outside"] is None and everywhere["inside"] == pytest.approx(found["whole"], abs=CLOSE)
    assert semantic.similarity(clip, result, truth, np.zeros((60, 80), bool))["inside"] is None
    assert semantic.similarity(clip, tiny.photo(1, 120, 160), truth)["whole"] is not None  # another size
    both = {"clip": clip, "dino": load_embedder(str(folders["dino"]))}
    scores = semantic.semantic_scores(both, result, truth, source)
    assert scores["clip"] == found["whole"] and scores["copy_clip"] != scores["clip"]
    assert {"dino", "dino_inside", "dino_directional", "copy_dino_outside"} <= scores.keys()


def test_semantic_directions(folders: dict[str, Path]) -> None:
    clip = load_embedder(str(folders["clip"]))
    source, truth, result = (tiny.photo(k) for k in (1, 2, 3))
    a, b, c = clip.images([source, truth, result])
    expected = (c - a) @ (b - a) / np.linalg.norm(c - a) / np.linalg.norm(b - a)
    assert semantic.directional(clip, source, result, truth) == pytest.approx(expected, abs=CLOSE)
    assert semantic.directional(clip, source, truth, truth) == pytest.approx(1)
    assert semantic.directional(clip, source, source, truth) is None


def test_directional_filter_of_nothing() -> None:
    score = all_filters()["clip_directional"].score
    assert score is not None
    same, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert score(None, same, same, same, other)[0] == 0
    assert score(None, same, other, same, other)[0] == pytest.approx(1)


def test_classifier_that_sees_no_number(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An overflow in half precision is a failed row, not a score."""
    import dataclasses

    named = {SETTINGS.get(name, name): str(folders[name]) for name in NAMES}
    item = dataclasses.replace(all_filters()["probability"], score=lambda models, x: np.array([np.nan, 0.5]))
    monkeypatch.setitem(all_filters(), "probability", item)
    stage = FilterStage(FilterConfig(**named, label="fake", probability=".."))
    given = batch([(tiny.photo(1), None), (tiny.photo(2), None)])
    (made,) = list(stage(iter([given])))
    assert made.rows.column("id").to_pylist() == ["r1"]
    assert made.rejects[0].failed and "not a number" in made.rejects[0].reason
    assert load_classifier(str(folders["classifier"])).labels == ["real", "fake"]
