"""The models of `edit filter --motion`: RAFT against the paper's formulas, and a segmentation checkpoint."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny
import torch
from conftest import EDIT, Runner, encode, image, rejects_of, rows_of
from PIL import Image

from edittools.convert import convert
from edittools.encoders import raft
from edittools.encoders.segmenter import load_segmenter
from edittools.errors import EditError, RowError, UsageError
from edittools.rounding import significant


@pytest.fixture(scope="module")
def edit(model_edit: Runner) -> Runner:
    return model_edit


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    torch.save(tiny.released_raft(), root / "raft-things.pth")
    assert convert(root / "raft-things.pth", root / "raft") == "raft"
    return {"raft": root / "raft", "segmenter": tiny.save_segmenter(root / "segmenter")}


# ---------------------------------------------------------------- RAFT by its formulas


def test_correlations_are_products_and_their_means() -> None:
    first, second = torch.randn(2, 5, 16, 17), torch.randn(2, 5, 16, 17)
    levels = raft.correlations(first, second)
    assert [tuple(level.shape[1:]) for level in levels] == [(1, 16, 17), (1, 8, 8), (1, 4, 4), (1, 2, 2)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        b, i, j, k, level = (int(rng.integers(n)) for n in (2, 16, 17, 2, 4))
        x, y = int(rng.integers(levels[level].shape[-1])), int(rng.integers(levels[level].shape[-2]))
        side = 2**level
        block = second[b, :, y * side : (y + 1) * side, x * side : (x + 1) * side].reshape(5, -1)
        expected = (first[b, :, i, j] @ block).mean() / math.sqrt(5)
        assert float(levels[level][(b * 16 + i) * 17 + j, 0, y, x]) == pytest.approx(float(expected), abs=1e-5), k


def test_look_up_is_bilinear_and_zero_outside() -> None:
    from scipy.ndimage import map_coordinates

    height, width = 16, 18
    levels = [torch.randn(height * width, 1, height >> k, width >> k) for k in range(4)]
    places = torch.rand(1, 2, height, width) * 24 - 4
    found = raft.look_up(levels, places)
    assert found.shape == (1, 4 * 81, height, width)
    for i, j, number in ((0, 0, 0), (7, 3, 1), (15, 17, 2), (9, 12, 3), (4, 4, 0)):
        x, y = (places[0, :, i, j] / 2**number).tolist()
        level = levels[number][i * width + j, 0].numpy()
        around = [(y + dy, x + dx) for dx in range(-4, 5) for dy in range(-4, 5)]
        expected = map_coordinates(np.pad(level, 8), np.array(around).T + 8, order=1, mode="constant")
        assert np.allclose(found[0, 81 * number : 81 * (number + 1), i, j], expected, atol=1e-4)


def test_enlarged_flow_is_a_convex_combination() -> None:
    flow, weights = torch.randn(1, 2, 3, 4), torch.randn(1, 9 * 64, 3, 4)
    made = raft.enlarged(flow, weights)
    shares = weights.reshape(9, 8, 8, 3, 4).softmax(0).numpy()
    padded = np.pad(8 * flow[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    for row, column in ((0, 0), (5, 31), (23, 9), (16, 16)):
        y, x = row // 8, column // 8
        around = padded[:, y : y + 3, x : x + 3].reshape(2, 9)
        expected = around @ shares[:, row % 8, column % 8, y, x]
        assert np.allclose(made[0, :, row, column], expected, atol=1e-5)
    even = raft.enlarged(torch.full((1, 2, 5, 5), 0.5), torch.zeros(1, 576, 5, 5))
    assert torch.allclose(even[..., 8:-8, 8:-8], torch.tensor(4.0)), "8 times the flow, in pixels of the large image"


def test_the_network_is_the_published_size() -> None:
    assert sum(weight.numel() for weight in raft.Raft().parameters()) == 5_257_536  # RAFT, table 1: 5.3M


def test_flow_of_any_size_is_that_of_the_continued_image(folders: dict[str, Path]) -> None:
    model = raft.load_raft(str(folders["raft"]))
    first, second = tiny.photo(1, 100, 150), tiny.photo(2, 100, 150)
    found = model.flow(first, second)
    assert found.shape == (100, 150, 2) and found.dtype == np.float32
    wide = [np.pad(item, ((14, 14), (1, 1), (0, 0)), mode="edge") for item in (first, second)]
    ready = [torch.from_numpy(item).permute(2, 0, 1)[None].float() / 127.5 - 1 for item in wide]
    with torch.inference_mode():
        expected = model.network(*ready)[0].permute(1, 2, 0).numpy()[14:-14, 1:-1]
    assert np.allclose(found, expected, atol=1e-3) and np.abs(found).mean() > 0.05
    assert not np.allclose(found, model.flow(second, first), atol=1e-2)
    for shape in ((1, 1), (2, 300)):
        assert np.isfinite(model.flow(np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 255, np.uint8))).all()
    with pytest.raises(RowError, match="too long a picture for RAFT"):
        model.flow(np.zeros((384, 30000, 3), np.uint8), np.zeros((384, 30000, 3), np.uint8))


def test_conversion_refuses_what_is_not_raft(tmp_path: Path, folders: dict[str, Path]) -> None:
    lacking = tiny.released_raft()
    del lacking["module.fnet.conv1.weight"]
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(EditError, match="not those of this model"):
        convert(tmp_path / "lacking.pth", tmp_path / "out")
    with pytest.raises(EditError, match="not RAFT"):
        raft.load_raft(str(folders["segmenter"]))


# ---------------------------------------------------------------- the foreground


def test_foreground_is_what_transformers_says(folders: dict[str, Path]) -> None:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    network = AutoModelForSemanticSegmentation.from_pretrained(folders["segmenter"]).eval()
    processor = AutoImageProcessor.from_pretrained(folders["segmenter"], backend="pil")
    seen = set()
    for seed, (height, width) in enumerate([(90, 60), (40, 130), (64, 64), (1, 1), (2, 500)]):
        shown = tiny.photo(seed, height, width)
        with torch.inference_mode():
            made = network(**processor(Image.fromarray(shown), return_tensors="pt"))
        labels = processor.post_process_semantic_segmentation(made, [(height, width)])[0].numpy()
        for wanted, expected in (([], labels != 0), (["Tree"], labels == 2), (["person", "tree"], labels != 0)):
            model = load_segmenter(str(folders["segmenter"]), wanted)
            found = model.foreground(shown)
            assert found.shape == (height, width) and found.dtype == bool
            assert (found == expected).mean() > 0.999
        seen |= set(np.unique(labels).tolist())
    assert len(seen) > 1


def test_code_of_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    folder = tiny.save_segmenter(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "birefnet", "auto_map": {
        "AutoConfig": "code.Config", "AutoModelForSemanticSegmentation": "code.Network"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nConfig = Network = None\n")
    with pytest.raises(EditError, match="cannot be loaded"):
        load_segmenter(str(folder), [])
    assert not (tmp_path / "ran").exists()


def test_one_label_is_a_probability(tmp_path: Path) -> None:
    folder = tiny.save_segmenter(tmp_path / "matte", labels=("foreground",))
    model = load_segmenter(str(folder), [])
    shown = tiny.photo(3, 70, 50)
    pixels = model.prepare(shown)[None]
    with torch.inference_mode():
        logits = model.network(pixel_values=pixels).logits
    likely = torch.nn.functional.interpolate(logits, (70, 50), mode="bilinear").sigmoid()[0, 0].numpy()
    assert np.array_equal(model.foreground(shown), likely >= 0.5)


def test_labels_that_do_not_exist(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="no such label"):
        load_segmenter(str(folders["segmenter"]), ["cat"])
    plain = tiny.save_segmenter(tmp_path / "plain", labels=("wall", "sky"))
    with pytest.raises(UsageError, match="no label `background`"):
        load_segmenter(str(plain), [])
    assert load_segmenter(str(plain), ["sky"]).chosen == [1]


# ---------------------------------------------------------------- on the command line


def make_pairs(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir()
    made = {}
    for key, seed in (("bare", 1), ("masked", 2)):
        made[key] = tiny.photo(seed, 96, 128), tiny.photo(seed + 10, 96, 128)
        for side, pixels in zip(("source", "target"), made[key]):
            (folder / f"{key}.{side}.png").write_bytes(encode(pixels, "PNG"))
        (folder / f"{key}.json").write_text(json.dumps({"instruction": "move"}))
    mask = np.zeros((96, 128), np.uint8)
    mask[20:60, 30:90] = 255
    (folder / "masked.mask.png").write_bytes(encode(mask, "PNG"))
    (folder / "page.source.png").write_bytes(b"<html>")
    (folder / "page.target.png").write_bytes(image(1))
    return made


def test_both_criteria_with_both_models(edit: Runner, folders: dict[str, Path], tmp_path: Path) -> None:
    made = make_pairs(tmp_path / "in")
    edit("filter", tmp_path / "in", "--motion", "..", "--camera-motion", "..", "--raft", folders["raft"],
         "--foreground", folders["segmenter"], "--foreground-label", "person",
         "--max-errors", 1, "-o", tmp_path / "out")  # fmt: skip
    rows = {Path(row["provenance"]["path"]).name.split(".")[0]: row for row in rows_of(tmp_path / "out")}
    assert rows.keys() == {"bare", "masked"}
    assert [reject["reason"] for reject in rejects_of(tmp_path / "out")] == ["not an image"]
    network = raft.load_raft(str(folders["raft"]))
    segmenter = load_segmenter(str(folders["segmenter"]), ["person"])
    for key, (source, target) in made.items():
        field = network.flow(source, target).astype(np.float64) / 1.6  # a diagonal of 160 pixels
        inside = segmenter.foreground(source)
        if key == "masked":
            inside[:] = False
            inside[20:60, 30:90] = True
        assert 0 < inside.mean() < 1
        expected = {
            "motion_raft_segmenter_person": np.hypot(*field[inside].T).mean(),
            "camera_motion_raft_segmenter_person": np.hypot(*field[~inside].mean(axis=0)),
        }
        assert rows[key]["scores"] == pytest.approx(expected, rel=1e-3)
        assert all(value == significant(value) for value in rows[key]["scores"].values())


def test_without_a_model_only_masks_count(edit: Runner, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    make_pairs(tmp_path / "in")
    edit("filter", tmp_path / "in", "--motion", "..", "--max-errors", 2, "-o", tmp_path / "out")
    assert [row["scores"].keys() for row in rows_of(tmp_path / "out")] == [{"motion"}]
    assert {reject["reason"] for reject in rejects_of(tmp_path / "out")} == {"no mask picture", "not an image"}


@pytest.mark.parametrize(
    ("options", "expected", "hint"),
    [
        (["--raft", "raft-things"], "fetch https://dl.dropboxusercontent.com/", "edittools.convert"),
        (["--foreground", "someone/segformer"], "fetch https://huggingface.co/someone/segformer", "hf download"),
    ],
)
def test_missing_weights_are_said_in_one_line(options: list[str], expected: str, hint: str, tmp_path: Path) -> None:
    make_pairs(tmp_path / "in")
    offline: dict[str, Any] = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "EDITTOOLS_WEIGHTS": "/w"}
    result = subprocess.run(
        [EDIT, "filter", tmp_path / "in", "--motion", "1", *options, "-o", tmp_path / "out"],
        capture_output=True, text=True, env=offline, timeout=120,
    )  # fmt: skip
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 1 and len(lines) == 2, result.stderr
    assert expected in lines[0] and hint in lines[1] and f"/w/{options[1]}" in lines[0]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.parquet"))


def test_the_converter_as_a_command(tmp_path: Path) -> None:
    torch.save(tiny.released_raft(1), tmp_path / "raft-sintel.pth")
    done = subprocess.run(
        [sys.executable, "-m", "edittools.convert", tmp_path / "raft-sintel.pth", tmp_path / "sintel"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert raft.load_raft(str(tmp_path / "sintel")).network.training is False
