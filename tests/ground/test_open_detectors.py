"""Detectors of any names, against the paths that transformers itself has, on tiny random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_grounding as tiny
import torch
from tiny_models import photo

from edittools.errors import EditError
from edittools.ground import Found
from edittools.ground.detectors import groundingdino, owlv2, sam3

NAMES = ["cat", "red ball", "dogs"]
IMAGES = [photo(0), photo(1), photo(2, 40, 90)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    return {
        name: getattr(tiny, f"save_{name}")(root / name)
        for name in ("groundingdino", "owlv2", "sam3")
    }  # fmt: skip


def boxes(found: list[Found], height: int, width: int) -> np.ndarray:
    return np.array([one.box for one in found]).reshape(-1, 4) * np.array([width, height, width, height])


def assert_batches_are_single_runs(detector: object) -> None:
    names = [["cat"], ["dog", "red ball"], ["car"]]
    together = detector.detect(IMAGES, names)  # type: ignore[attr-defined]
    for k, image in enumerate(IMAGES):
        alone = detector.detect([image], [names[k]])[0]  # type: ignore[attr-defined]
        assert [one.name for one in together[k]] == [one.name for one in alone]
        assert np.allclose([one.box for one in together[k]], [one.box for one in alone], atol=1e-4)
        assert np.allclose([one.score or 0 for one in together[k]], [one.score or 0 for one in alone], atol=1e-4)
    assert detector.detect(IMAGES[:1], [[]]) == [[]]  # type: ignore[attr-defined]


# ---------------------------------------------------------------- GroundingDINO


def test_groundingdino_sees_what_the_library_sees(folders: dict[str, Path]) -> None:
    from transformers import (
        BertTokenizer,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        GroundingDinoProcessor,
    )

    folder = folders["groundingdino"]
    processor = GroundingDinoProcessor(
        GroundingDinoImageProcessorPil.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
    )
    network = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    detector = groundingdino.load(str(folder))
    for image in IMAGES:
        given = processor(images=[image], text=[NAMES], return_tensors="pt", padding=True)
        with torch.inference_mode():
            said = network(**given)
        shape = image.shape[:2]
        wanted = processor.post_process_grounded_object_detection(
            said, given.input_ids, threshold=0.0, target_sizes=[shape]
        )[0]
        found = detector.detect([image], [NAMES])[0]
        assert len(found) == len(wanted["boxes"]) == 12
        assert np.allclose(boxes(found, *shape), wanted["boxes"].numpy(), atol=1e-3)
        # The library's score is the best of all tokens, full stops and ends too; ours that of the names' tokens.
        tokens = given.input_ids[0].tolist()
        words = [tiny.WORDS[token] for token in tokens]
        assert words == ["[CLS]", "cat", ".", "red", "ball", ".", "dog", "##s", ".", "[SEP]"]
        probabilities = said.logits[0].sigmoid().numpy()
        by_hand = np.stack([probabilities[:, span].max(axis=1) for span in ([1], [3, 4], [6, 7])], axis=1)
        assert [one.name for one in found] == [NAMES[k] for k in by_hand.argmax(axis=1)]
        assert np.allclose([one.score or 0 for one in found], by_hand.max(axis=1), atol=1e-5)


def test_groundingdino_reads_long_lists_in_several_looks(folders: dict[str, Path]) -> None:
    detector = groundingdino.load(str(folders["groundingdino"]))
    many = ["cat", "dog", "red ball", "sign", "car", "man"] * 3
    assert [len(some) for some in detector.chunks(many)] == [10, 8], "24 tokens: 2 about all names, 2 or 3 for each"
    assert [name for some in detector.chunks(many) for name in some] == many
    with pytest.raises(EditError, match="more than 21 tokens"):
        list(detector.chunks(["a " * 22]))


def test_groundingdino_takes_a_full_stop_in_a_name_for_no_end(folders: dict[str, Path]) -> None:
    detector = groundingdino.load(str(folders["groundingdino"]))
    strange, plain = detector.detect([IMAGES[0]] * 2, [["Red. Ball?"], ["red ball"]])
    assert [one.score for one in strange] == pytest.approx([one.score for one in plain])
    assert {one.name for one in strange} == {"Red. Ball?"}, "but it keeps its spelling"


# ---------------------------------------------------------------- OWLv2


def test_owlv2_sees_what_the_library_sees(folders: dict[str, Path]) -> None:
    from transformers import CLIPTokenizer, Owlv2ForObjectDetection, Owlv2ImageProcessorPil, Owlv2Processor

    folder = folders["owlv2"]
    processor = Owlv2Processor(Owlv2ImageProcessorPil.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder))
    network = Owlv2ForObjectDetection.from_pretrained(folder).eval()
    detector = owlv2.load(str(folder))
    for image in IMAGES:
        given = processor(images=[image], text=[NAMES], return_tensors="pt")
        with torch.inference_mode():
            said = network(**given)
        shape = image.shape[:2]
        wanted = processor.post_process_grounded_object_detection(
            said, threshold=0.0, target_sizes=[shape], text_labels=[NAMES]
        )[0]
        found = detector.detect([image], [NAMES])[0]
        assert np.allclose(boxes(found, *shape), wanted["boxes"].numpy(), atol=1e-3)
        assert [one.name for one in found] == wanted["text_labels"]
        assert np.allclose([one.score or 0 for one in found], wanted["scores"].numpy(), atol=1e-5)


def test_owlv2_cuts_names_that_are_too_long(folders: dict[str, Path]) -> None:
    found = owlv2.load(str(folders["owlv2"])).detect(IMAGES[:1], [["a very long name of a thing " * 5, "cat"]])[0]
    assert len(found) == 16


# ---------------------------------------------------------------- SAM 3


def test_sam3_sees_what_the_network_says(folders: dict[str, Path]) -> None:
    from transformers import CLIPTokenizer, Sam3Model

    folder = folders["sam3"]
    network, tokenizer = Sam3Model.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    image, shape = IMAGES[2], IMAGES[2].shape[:2]
    found = sam3.load(str(folder)).detect([image], [["cat", "red ball"]])[0]
    from PIL import Image

    shown = np.asarray(Image.fromarray(image).resize((56, 56), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
    wanted = []
    for name in ("cat", "red ball"):
        given = tokenizer([name], padding="max_length", max_length=32, return_tensors="pt")
        with torch.inference_mode():
            said = network(
                pixel_values=torch.from_numpy(shown.transpose(2, 0, 1))[None], input_ids=given.input_ids,
                attention_mask=given.attention_mask,
            )  # fmt: skip
        scores = (said.pred_logits.sigmoid() * said.presence_logits.sigmoid())[0]
        masks = torch.nn.functional.interpolate(said.pred_masks.sigmoid(), shape, mode="bilinear")[0] > 0.5
        wanted += [(name, float(scores[k]), said.pred_boxes[0, k].numpy(), masks[k].numpy()) for k in range(6)]
    assert [one.name for one in found] == [name for name, *_ in wanted]
    for one, (_, score, box, mask) in zip(found, wanted):
        assert one.score == pytest.approx(score, abs=1e-5)
        assert np.allclose(one.box, box, atol=1e-5) and one.mask is not None
        assert (one.mask != mask).mean() < 0.01


@pytest.mark.parametrize("module", [groundingdino, owlv2, sam3])
def test_a_batch_is_as_single_runs(module: object, folders: dict[str, Path]) -> None:
    name = module.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    assert_batches_are_single_runs(module.load(str(folders[name])))  # type: ignore[attr-defined]
