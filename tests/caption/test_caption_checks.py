"""Tests of captions: the order test, the mirror test, questions about claims, counting, OCR; alone and after a kind."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from conftest import encode
from PIL import Image, ImageDraw, ImageFont
from scripted import Talk, batch_of, row, text_of

from edittools.caption.checks import CHECKS, load_check
from edittools.caption.checks.mirror import mirrored
from edittools.caption.config import CaptionConfig
from edittools.caption.kinds.detailed import CHANGE
from edittools.caption.model_stage import ModelCaptionStage
from edittools.errors import UsageError
from edittools.record import TEXT
from edittools.vlm import EncodedImage

CAR = {"action": "change", "object": "the car", "before": "blue", "after": "red", "where": "middle left"}
HAT = {"action": "add", "object": "a hat", "before": "", "after": "a straw hat", "where": "top right"}
TOLD = {"en": "Make the car red.", "zh": "把汽车变成红色。"}


def told(*changes):
    return batch_of([row(changes=list(changes))], changes=pa.list_(CHANGE))


def answered(*changes):
    return lambda request: {"changes": list(changes), "task": "color", "instruction": TOLD}


@pytest.mark.parametrize(
    ("back", "score"),
    [
        ([{**CAR, "before": "red", "after": "blue"}, {**HAT, "action": "remove", "before": "hat", "after": ""}], 1.0),
        ([{**HAT, "action": "remove", "before": "hat", "after": ""}], 0.5),
        ([HAT], 0.0),  # an addition again: the captioner says what it expects and not what it sees
    ],
)
def test_the_order_test_wants_the_inverse(tmp_path, back, score) -> None:
    talk = Talk(tmp_path, answered(*back), told(CAR, HAT), kinds="", check="order")
    assert talk.rows[0]["scores"]["caption_order"] == score
    images = [part.sha256 for part in talk.requests[0].parts if isinstance(part, EncodedImage)]
    straight = Talk(tmp_path / "s", answered(CAR), [row()], kinds="detailed")
    assert images == [part.sha256 for part in straight.requests[0].parts if isinstance(part, EncodedImage)][::-1]


@pytest.mark.parametrize(
    ("seen", "score"),
    [
        ([{**CAR, "where": "middle right"}, {**HAT, "where": "top left"}], 1.0),
        ([CAR, HAT], 0.0),  # sides as before: it does not look
        ([{**CAR, "where": "middle right"}, HAT], 1 / 3),
    ],
)
def test_the_mirror_test_wants_sides_swapped(tmp_path, seen, score) -> None:
    talk = Talk(tmp_path, answered(*seen), told(CAR, HAT), kinds="", check="mirror")
    assert talk.rows[0]["scores"]["caption_mirror"] == pytest.approx(score, abs=1e-6)


def test_mirrored_places() -> None:
    assert mirrored({"where": "top left"})["where"] == "top right"
    assert mirrored({"where": "center"})["where"] == "center"


def test_claims_are_verified_on_both_images_by_the_other_model(tmp_path) -> None:
    def answer(request):
        assert request.model == "second"
        assert "claim_1: the car (at: middle left) is like this: red." in text_of(request)
        assert "claim_2: There is a straw hat (at: top right)." in text_of(request)
        answer.asked += 1
        # On the second question both claims hold: the hat was there before.
        return {"claim_1": answer.asked == 1, "claim_2": True}

    answer.asked = 0
    talk = Talk(tmp_path, answer, told(CAR, HAT), kinds="", check="verify", model=("first", "second"))
    assert talk.rows[0]["scores"]["caption_verified"] == 0.5 and len(talk.requests) == 2


def alone(batch, check):
    stage = ModelCaptionStage(CaptionConfig(kinds="", check=check), None)
    [made] = list(stage(iter([batch])))
    return made.rows.to_pylist()


def test_counting_needs_no_model() -> None:
    rows = [
        row(0, instruction_concise={"en": "Turn the car red.", "zh": "车变红色。"}),
        row(1, instruction_concise={"en": "Turn the car green.", "zh": "Make it red."}),
    ]
    good, bad = alone(batch_of(rows, instruction_concise=TEXT), "facts,language")
    assert good["scores"] == {
        "caption_quotes": 1, "caption_numbers": 1, "caption_sides": 1, "caption_colours": 1, "caption_negated": 1,
        "caption_language": 1,
    }  # fmt: skip
    assert bad["scores"]["caption_colours"] == 0 and bad["scores"]["caption_sides"] == 1
    assert bad["scores"]["caption_language"] == 0.75


def test_quotes_are_looked_for_by_ocr() -> None:
    pytest.importorskip("rapidocr")
    image = Image.new("RGB", (320, 280), "white")  # nearly square: the detector enlarges the short side
    ImageDraw.Draw(image).text((40, 100), "GARDEN", "black", font=ImageFont.load_default(48))
    shown = {"bytes": encode(np.asarray(image), "PNG"), "width": 320, "height": 280, "format": "png"}
    rows = [
        row(0, target=shown, instruction={"en": 'Write "GARDEN".'}),
        row(1, target=shown, instruction={"en": 'Write "MUSIC" and "GARDEN".'}),
        row(2, target=shown, instruction={"en": "Write something."}),
        row(3, target=shown, instruction={"en": "Write."}, caption_structured={"visible_text": ["Garden", "CLOSED"]}),
    ]
    visible = pa.struct([("visible_text", pa.list_(pa.string()))])
    scores = [one["scores"]["caption_ocr"] for one in alone(batch_of(rows, caption_structured=visible), "ocr")]
    assert scores == [1.0, 0.5, None, 0.5]


def test_a_check_waits_for_the_kinds_it_reads(tmp_path) -> None:
    def answer(request):
        if "claims about this image" in text_of(request):
            answer.asked += 1
            return {"claim_1": answer.asked == 1}
        return answered(CAR)(request)

    answer.asked = 0
    talk = Talk(tmp_path, answer, [row()], kinds="detailed", check="verify,facts")
    assert talk.rows[0]["scores"]["caption_verified"] == 1.0
    assert talk.rows[0]["scores"]["caption_colours"] == 1.0
    kinds = [a["kind"] for a in talk.rows[0]["annotations"]]
    assert kinds[0] == "detailed" and set(kinds) == {"detailed", "check verify", "check facts"}


def test_a_check_without_what_it_reads_says_so() -> None:
    batch = batch_of([row()])
    with pytest.raises(UsageError, match="no `changes` column"):
        ModelCaptionStage(CaptionConfig(kinds="", check="order", model="m"), lambda *a: iter(())).schema(
            batch.rows.schema
        )
    with pytest.raises(UsageError, match="no test of that name"):
        load_check("taste")
    assert {name for name in CHECKS.names} == {"facts", "language", "mirror", "ocr", "order", "verify"}
