"""Writing that becomes another: on signs drawn here, so that what it should look like is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from edittools.metrics.ocr import Line
from edittools.synth import retext
from edittools.synth.core import Inapplicable
from edittools.synth.fonts import latin_fonts
from edittools.synth.painted import text
from edittools.synth.painting import Scene
from edittools.synth.retext import rewrite

cv2 = pytest.importorskip("cv2")
FONTS = latin_fonts()
if len(FONTS) < 3:
    pytest.skip("no fonts here", allow_module_level=True)
GROUND, INK = (190, 200, 150), (40, 20, 90)
WIDE = FONTS[0]


def sign(word: str, font: str = WIDE, size: int = 40, soft: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """A plate that is a little brighter on the left, with a word on it; and the corners of its line."""
    x = np.arange(320)[None, :, None]
    plate = np.broadcast_to(np.array(GROUND) - x * 0.05, (120, 320, 3))
    plate = (plate + np.random.default_rng(1).normal(0, 1.5, plate.shape)).clip(0, 255).astype(np.uint8)
    layer = Image.new("L", (320, 120))
    face = ImageFont.truetype(font, size)
    x0, y0, x1, y1 = ImageDraw.Draw(layer).textbbox((160, 60), word, font=face, anchor="ms")
    ImageDraw.Draw(layer).text((160, 60), word, font=face, fill=255, anchor="ms")
    alpha = np.asarray(layer.filter(ImageFilter.GaussianBlur(soft)), float)[..., None] / 255
    image = np.rint(plate * (1 - alpha) + np.array(INK) * alpha).astype(np.uint8)
    margin = 0.22 * (y1 - y0)
    box = x0 - 3, y0 - margin, x1 + 3, y1 + margin
    return image, np.array([[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]])


def test_the_new_word_is_what_would_have_been_drawn() -> None:
    for old, new in (("Hanover", "Boulder"), ("SUMMER", "WINTER"), ("14255", "73906")):
        image, corners = sign(old)
        wanted, _ = sign(new)
        made = rewrite(image, corners, old, new, FONTS)
        assert (made.image[~made.mask] == image[~made.mask]).all()
        place = made.mask
        error = ((made.image[place].astype(float) - wanted[place]) ** 2).mean()
        unchanged = ((image[place].astype(float) - wanted[place]) ** 2).mean()
        assert error < 0.45 * unchanged, (old, new, error, unchanged)
        darkest = made.image[place][made.image[place].sum(axis=1).argsort()[:20]].mean(axis=0)
        assert np.abs(darkest - INK).max() < 40, "the old ink's colour"


def test_a_sign_in_perspective() -> None:
    image, corners = sign("RIVER", size=44)
    there = cv2.getPerspectiveTransform(
        np.array([[0, 0], [320, 0], [320, 120], [0, 120]], np.float32),
        np.array([[20, 30], [300, 5], [290, 150], [30, 120]], np.float32),
    )

    def seen(flat: np.ndarray) -> np.ndarray:
        return cv2.warpPerspective(flat, there, (320, 160), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)

    turned = cv2.perspectiveTransform(corners[None].astype(np.float32), there)[0].astype(float)
    made = rewrite(seen(image), turned, "RIVER", "NORTH", FONTS)
    wanted, before = seen(sign("NORTH", size=44)[0]).astype(float), seen(image)
    errors = [((one[made.mask] - wanted[made.mask]) ** 2).mean() for one in (made.image.astype(float), before)]
    assert errors[0] < 0.25 * errors[1], errors
    assert (made.image[~made.mask] == before[~made.mask]).all()


def test_what_would_be_seen_is_refused() -> None:
    image, corners = sign("SUMMER")
    noisy = (image + np.random.default_rng(2).normal(0, 40, image.shape)).clip(0, 255).astype(np.uint8)
    gray = np.full_like(image, 120)
    faint = np.where(image.sum(axis=2, keepdims=True) < 400, gray + 20, gray).astype(np.uint8)
    for shown, place, new, why in (
        (noisy, corners, "WINTER", "the ground is not plain"),
        (faint, corners, "WINTER", "ink and ground are alike"),
        (image, corners, "ILL", "the new word is wider or narrower"),
        (image, corners * 0.1, "WINTER", "the writing is too small"),
        (image, corners - np.array([0, 18]), "WINTER", "something lies about the writing"),
    ):
        with pytest.raises(Inapplicable, match=why):
            rewrite(shown, place, "SUMMER", new, FONTS)
    with pytest.raises(Inapplicable, match="no font is like it"):
        rewrite(image, corners, "IIIIII", "WINTER", FONTS)  # it does not say that


def test_a_word_that_stands_there_twice_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def word(said: str) -> Line:
        return Line(said, 0.99, np.zeros((4, 2)))

    read = [(word("Sale SALE OPEN"), [word("Sale"), word("SALE"), word("OPEN")]), (word("EXIT"), [word("EXIT")])]
    monkeypatch.setattr(text, "read_words", lambda image, use: read)
    found = text.readable(Scene(np.zeros((8, 8, 3), np.uint8)), "test")
    assert [words[k].text for _, words, k in found] == ["OPEN", "EXIT"], "nothing says which one is meant"


def test_new_words_are_of_the_old_ones_kind() -> None:
    rng = np.random.default_rng(0)
    for old in ("SUMMER", "Bakery", "coffee"):
        found = text.alike(old, rng)
        assert len(found) > 5 and old not in found
        assert all(abs(len(new) - len(old)) <= 0.2 * len(old) for new in found)
        assert all((new.isupper(), new.islower()) == (old.isupper(), old.islower()) for new in found)
        assert len(found[0]) == len(old), "the same length first"
    for new in text.alike("$14.05", rng):
        assert len(new) == 6 and new[0] == "$" and new[3] == "." and new[1] != "0"
        assert all(a != b for a, b in zip(new, "$14.05") if b.isdigit())
    assert not text.alike("10:00-18:00", rng), "which ends after it begins"
    for _ in range(20):
        assert all(1 <= int(new.split(":")[0]) <= 12 for new in text.alike("12:45PM", rng))
    for old in ("12:45", "9:05", "08:30", "23:59 "):
        for new in text.alike(old, rng):
            hour, minute = map(int, new.split(":"))
            assert hour < 24 and minute < 60 and len(new) == len(old) and new != old, "a time of day"
    assert text.alike("a-b", rng) == [] == text.alike("x", rng)


@pytest.mark.long
def test_a_word_is_found_written_anew_and_read_again() -> None:
    """With OCR: the edit's own check reads the new line, and damage fails it."""
    pytest.importorskip("rapidocr")
    from dataclasses import replace

    from edittools.synth.checking import Painted
    from edittools.synth.checks.text import TextCheck
    from edittools.synth.painting import Scene

    image, _ = sign("SUMMER", size=44)
    (plan,) = text.plans(Scene(image), np.random.default_rng(3))
    assert plan.made is not None and '"SUMMER"' in plan.instruction and f'"{plan.text}"' in plan.instruction
    edit = Painted(image, plan.made, plan.mask, plan)
    other = replace(edit, plan=replace(plan, text="GARDEN" if plan.text != "GARDEN" else "BASKET"))
    good, bad = TextCheck().measure([edit, other])
    assert good == 1.0 and bad is not None and bad < 1


def test_a_word_that_comes_out_paler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ink of a third of the contrast: as a much bolder font would have it, whose strokes hold the same ink."""
    image, corners = sign("MARKET")
    assert rewrite(image, corners, "MARKET", "BAKERY", FONTS).mask.any()
    whole = retext._colour
    monkeypatch.setattr(retext, "_colour", lambda found, drawn: (whole(found, drawn) + 2 * found.base.mean((0, 1))) / 3)
    with pytest.raises(Inapplicable, match="paler"):
        rewrite(image, corners, "MARKET", "BAKERY", FONTS)
