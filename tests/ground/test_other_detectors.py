"""Detectors of fixed labels, by a VLM, and Florence-2; masks as run lengths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import encode, rejects_of, rows_of
from PIL import Image
from tiny_models import photo, stir

import edittools
from edittools.errors import UsageError
from edittools.ground.detectors import closed, vlm
from edittools.metrics import rle
from edittools.vlm import Request
from edittools.vlm.asker import Asker
from edittools.vlm.backends.echo import EchoClient


def test_fixed_labels_are_the_librarys(tmp_path: Path) -> None:
    from transformers import DetrImageProcessorPil, YolosConfig, YolosForObjectDetection

    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[64, 80],
        patch_size=16, num_detection_tokens=6, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )  # fmt: skip
    stir(YolosForObjectDetection(config), 1, 1.0).save_pretrained(tmp_path)
    DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(tmp_path)
    detector = closed.load(str(tmp_path))
    images = [photo(0), photo(1, 40, 90)]
    together = detector.detect(images, [(), ()])
    processor = DetrImageProcessorPil.from_pretrained(tmp_path)
    network = YolosForObjectDetection.from_pretrained(tmp_path).eval()
    for image, found in zip(images, together):
        given = processor(Image.fromarray(image), return_tensors="pt")
        with torch.inference_mode():
            said = network(pixel_values=given["pixel_values"])
        sizes = torch.tensor([image.shape[:2]])
        (wanted,) = processor.post_process_object_detection(said, 0.01, target_sizes=sizes)
        scale = np.array([image.shape[1], image.shape[0]] * 2)
        assert len(found) == len(wanted["scores"]) > 0
        assert [one.name for one in found] == [config.id2label[k] for k in wanted["labels"].tolist()]
        assert np.allclose([one.box for one in found] * scale, wanted["boxes"].numpy(), atol=1e-2)


def test_a_vlms_boxes_are_read_by_its_familys_convention() -> None:
    asked: list[Request] = []
    box = {"name": "Red Ball", "x0": 100, "y0": 200, "x1": 300, "y1": 400}

    def answer(request: Request) -> str:
        asked.append(request)
        others = [{**box, "name": "cow"}, {**box, "x1": 50}, {**box, "x0": 2500, "x1": 3000}]
        return "Here: " + json.dumps({"objects": [box, *others]})

    image = photo(3, 500, 800)
    for model, unit in (("qwen3-vl", (1000, 1000)), ("Qwen2.5-VL-7B", (800, 500))):
        detector = vlm.VlmDetector(Asker(EchoClient(answer), model, "--detector vlm"))
        first, second = detector.detect([image, image], [["red ball"], []])
        assert [one.name for one in first] == ["red ball"] and not second, "what was asked for, in the image"
        assert first[0].box == pytest.approx((100 / unit[0], 200 / unit[1], 300 / unit[0], 400 / unit[1]))
    assert len(asked) == 2 and "800 pixels wide and 500 high" in str(asked[1].parts[1])
    silent = vlm.VlmDetector(Asker(EchoClient("I see a ball."), "m", "--detector vlm"))
    assert silent.detect([image], [["ball"]]) == [[]]
    with pytest.raises(UsageError, match="names no model"):
        vlm.load("")


def test_masks_go_out_and_come_in_as_run_lengths(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:20, 8:25] = mask[22:25, 30:38] = True
    kind = pa.list_(pa.struct([("name", pa.string()), ("rle", pa.string())]))
    objects = [[{"name": "ball", "rle": rle.encode(mask)}], [{"name": "ball", "rle": rle.encode(mask[:20])}]]
    image = {"bytes": encode(photo(4, 30, 40), "PNG"), "path": "x.png"}
    table = pa.table({"id": ["a", "b"], "target": [image] * 2, "objects": pa.array(objects, kind)})
    pq.write_table(table, tmp_path / "in.parquet")
    edittools.read(str(tmp_path / "in.parquet")).ground(rle=True).write(str(tmp_path / "out"), max_errors="9")
    ((row,), (reject,)) = rows_of(tmp_path / "out"), rejects_of(tmp_path / "out")
    (one,) = row["objects"]
    assert one["rle"] == rle.encode(mask) and one["box"] == pytest.approx([8 / 40, 5 / 30, 38 / 40, 25 / 30], abs=1e-6)
    import io

    assert ((np.asarray(Image.open(io.BytesIO(one["mask"]))) > 0) == mask).all()
    assert reject["id"] == "b" and "run lengths" in reject["reason"]
