"""Florence-2 through transformers' class, on tiny random weights, and the boxes that it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_grounding as tiny
import torch
from tiny_models import photo

from edittools.errors import EditError
from edittools.ground.detectors import florence2

IMAGES = [photo(0), photo(2, 40, 90)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_florence2(tmp_path_factory.mktemp("weights"))


def test_boxes_are_those_of_the_library() -> None:
    """Its post-processing rounds down to pixels: compared at a size where a bin is two of them."""
    from transformers.models.florence2.processing_florence2 import Florence2PostProcessor

    text = "</s><s>cat<loc_10><loc_20><loc_30><loc_40><loc_500><loc_0><loc_999><loc_999></s><pad>"

    class Tokenizer:
        all_special_tokens = ("<s>", "</s>", "<pad>")

    library = Florence2PostProcessor({"parse_tasks": []}, Tokenizer())
    wanted = library.parse_description_with_bboxes_from_text_and_spans(text, (2000, 2000))
    found = np.array(florence2.boxes_of(text))
    assert [one["bbox"] for one in wanted] == [[21, 41, 61, 81], [1001, 1, 1999, 1999]]
    assert found * 2000 == pytest.approx(np.array([one["bbox"] for one in wanted]))


def test_what_is_no_box() -> None:
    said = florence2.boxes_of
    assert said("nothing") == said("cat<loc_1><loc_2><loc_3>") == said("<loc_5><loc_5><loc_5><loc_9>") == []
    assert said("<loc_30><loc_40><loc_10><loc_20>") == [pytest.approx((0.0105, 0.0205, 0.0305, 0.0405))]
    twice = "<loc_1><loc_1><loc_9><loc_9>"
    assert len(said(twice + twice)) == 1
    # A triangle is its box; the point that is left over is none.
    assert said("cat<poly><loc_0><loc_10><loc_20><loc_10><loc_10><loc_30></poly>") == [
        pytest.approx((0.0005, 0.0105, 0.0205, 0.0305))
    ]


def test_it_says_what_the_stock_path_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BartTokenizer, CLIPImageProcessorPil, Florence2ForConditionalGeneration, Florence2Processor

    monkeypatch.setattr(florence2, "_MOST_TOKENS", 24)
    processor = Florence2Processor(CLIPImageProcessorPil.from_pretrained(folder), BartTokenizer.from_pretrained(folder))
    network = Florence2ForConditionalGeneration.from_pretrained(folder).eval()
    detector = florence2.load(str(folder))
    counts = []
    for image in IMAGES:
        names = ["cat", "a red ball"]
        found = detector.detect([image], [names])[0]
        for name in names:
            given = processor(images=[image], text=[f"<OPEN_VOCABULARY_DETECTION>{name}"], return_tensors="pt")
            with torch.inference_mode():
                made = network.generate(**given, max_new_tokens=24, num_beams=3, do_sample=False)
            text = processor.batch_decode(made, skip_special_tokens=False)[0]
            assert [one.box for one in found if one.name == name] == florence2.boxes_of(text)
        assert {one.score for one in found} <= {1.0}
        counts.append(len(found))
    assert sum(counts) > 0, "random weights that write no box show nothing"
    assert detector.detect(IMAGES, [[], []]) == [[], []]


def test_another_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(EditError):
        florence2.load(str(tiny.save_owlv2(tmp_path)))
