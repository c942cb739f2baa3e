"""Rain, seasons and anchors of interfaces, against formulas worked by hand and boxes counted by hand."""

import numpy as np
import pytest
from test_synth import TOOLS, apply, make_image, one

from edittools.synth.core import Inapplicable, mask_of
from edittools.synth.foliage import greenness
from edittools.synth.interface import button_box, card_box, panel
from edittools.synth.palette import COLORS
from edittools.synth.registry import load
from edittools.synth.shapes import PLACES
from edittools.synth.synthesis import synthesize
from edittools.synth.templates import rain

# ---------------------------------------------------------------- rain


def test_between_the_streaks_rain_is_a_thin_veil() -> None:
    image = np.full((200, 240, 3), 60, np.uint8)
    slots = {"strength": "medium", "rain_seed": 3}
    covered, result = rain.streaks(200, 240, slots), apply("rain", image, **slots)
    veil = [0.9 * 60 + 0.1 * air for air in (165, 170, 176)]
    assert np.abs(result[covered == 0].astype(float) - veil).max() <= 0.5
    y, x = np.unravel_index(covered.argmax(), covered.shape)
    share = covered[y, x] / 255
    expected = [(1 - share) * round(v) + share * water for v, water in zip(veil, (232, 236, 240))]
    assert np.abs(result[y, x] - expected).max() <= 1 and result[y, x].min() > 90


def test_harder_rain_has_more_streaks_that_all_slant_alike() -> None:
    shares = [
        (rain.streaks(300, 300, {"strength": name, "rain_seed": 1}) > 0).mean()
        for name in ("slight", "medium", "strong")
    ]
    assert shares[0] < shares[1] < shares[2]
    # the stated shares, less what falls outside the image and where streaks cross
    assert all(0.6 * wanted < share <= wanted for share, wanted in zip(shares, (0.025, 0.05, 0.1)))
    for seed in range(4):
        covered = rain.streaks(300, 300, {"strength": "slight", "rain_seed": seed}).astype(float)
        best = [
            (covered[:-16] * np.roll(covered[16:], -shift, axis=1)).sum() for shift in range(-8, 9)
        ]  # 16 rows further down a streak has gone 2 columns for each eighth
        slant = int(np.argmax(best)) - 8
        assert slant % 2 == 0 and -6 <= slant <= 6 and max(best) > 3 * np.median(best)


def test_rain_is_taken_away_exactly() -> None:
    image = make_image(3)
    sample = one("derain", image=image)
    assert np.array_equal(sample.target, image)
    assert np.array_equal(sample.source, apply("rain", image, **sample.slots))


# ---------------------------------------------------------------- seasons


def test_green_is_what_plants_have() -> None:
    colours = {
        "leaf": (60, 120, 40), "grass": (110, 150, 60), "moss": (50, 64, 36),
        "sea": (40, 110, 100), "sky": (120, 160, 230), "wall": (230, 225, 180), "skin": (220, 170, 140),
        "stone": (128, 128, 128), "night": (4, 5, 4), "lemon": (240, 230, 40),
    }  # fmt: skip
    found = {name: int(greenness(np.array([[rgb]], np.uint8))[0, 0]) for name, rgb in colours.items()}
    assert {name for name, value in found.items() if value} == {"leaf", "grass", "moss"}, found
    assert found["leaf"] == found["grass"] == 255


def test_autumn_colours_what_is_green_and_nothing_else() -> None:
    image = np.full((40, 40, 3), (120, 160, 230), np.uint8)
    image[20:] = (60, 120, 40)
    result = apply("autumn", image)
    assert np.array_equal(result[:20], image[:20])
    assert result[30, 30].tolist() == [120 * 5 // 4, 60 * 5 // 4 - 8, 20]  # rusty: red, then green, then blue
    sample = one("autumn", image=image)
    assert sample.mask[20:].all() and not sample.mask[:20].any()
    back = one("summer", image=image)
    assert np.array_equal(back.target, image) and np.array_equal(back.source, result)


def test_winter_lays_snow_on_what_is_green() -> None:
    image = np.full((40, 40, 3), (200, 120, 40), np.uint8)
    image[20:] = (60, 120, 40)
    image[30:] = (40, 90, 30)
    result = apply("winter", image)
    snow, shade = result[25, 25].astype(int), result[35, 35].astype(int)
    assert snow.min() > 230 and snow[2] >= snow[0] and 170 < shade.min() < snow.min()  # shaded where it was dark
    # elsewhere half the saturation (luma 135), a little less red and more blue
    assert result[5, 5].tolist() == pytest.approx([135 + 65 / 2 - 6, 135 - 15 / 2, 135 - 95 / 2 + 8], abs=1)
    assert np.array_equal(one("spring", image=image).source, result)


@pytest.mark.parametrize("name", ["autumn", "summer", "winter", "spring"])
def test_without_green_there_is_no_season(name: str) -> None:
    image = np.full((64, 64, 3), (120, 160, 230), np.uint8)
    image[:6] = (60, 120, 40)  # 9%
    with pytest.raises(Inapplicable, match="green"):
        load(name).slots(image, np.random.default_rng(0), TOOLS)
    image[:7] = (60, 120, 40)  # 11%
    assert load(name).slots(image, np.random.default_rng(0), TOOLS) == {}


# ---------------------------------------------------------------- buttons and cards


def test_a_panel_has_round_corners() -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    drawn = (panel(image, (10, 20, 90, 52), "white") == 255).all(axis=2)
    radius = 8
    for y in range(60):
        for x in range(100):
            # distance of the pixel's centre from the rectangle that lies a radius inside
            dx = max(10 + radius - (x + 0.5), x + 0.5 - (90 - radius), 0)
            dy = max(20 + radius - (y + 0.5), y + 0.5 - (52 - radius), 0)
            assert drawn[y, x] == (dx * dx + dy * dy <= radius * radius), (x, y)


@pytest.mark.parametrize("height, width", [(96, 96), (60, 97), (300, 200)])
def test_buttons_at_two_places_do_not_touch(height: int, width: int) -> None:
    covered = np.zeros((height, width), int)
    for place in PLACES:
        x0, y0, x1, y1 = button_box(place, height, width)
        covered[y0:y1, x0:x1] += 1
    assert covered.max() == 1 and covered.sum() == 9 * (min(height, width) * 3 // 10) * (min(height, width) // 9)


@pytest.mark.parametrize(
    "name", ["button", "button_remove", "button_move", "button_text", "card", "card_remove", "logo_remove"]
)
def test_anchors_touch_only_their_boxes(name: str) -> None:
    for i in range(4):
        image = make_image(i, 200, 240)
        (sample,), _ = synthesize(image, f"row-{i}", templates=[name], tools=TOOLS)
        allowed = np.zeros(image.shape[:2], bool)
        for place in {sample.slots["place"], sample.slots.get("to_place", sample.slots["place"])}:
            side = 200 // 5
            box = {"b": button_box, "c": card_box}[name[0]](place, 200, 240) if name[0] != "l" else None
            if box is None:
                margin = 200 // 24
                left = margin if "left" in place else 240 - margin - side
                top = margin if "top" in place else 200 - margin - side
                box = (left, top, left + side, top + side)
            allowed[box[1] : box[3], box[0] : box[2]] = True
        assert not sample.mask[~allowed].any() and sample.mask.any()
        assert np.array_equal(sample.mask, mask_of(sample.source, sample.target))
        if name.endswith("_remove"):
            assert np.array_equal(sample.target, image)
            assert np.array_equal(sample.source, apply(name.removesuffix("_remove"), image, **sample.slots))


@pytest.mark.parametrize("name", ["button", "button_remove", "button_move", "button_text", "card", "card_remove"])
def test_where_letters_cannot_be_read_there_is_no_panel(name: str) -> None:
    assert synthesize(make_image(0, 96, 99), "r", templates=[name], tools=TOOLS)[0]
    made, skipped = synthesize(make_image(0, 95, 200), "r", templates=[name], tools=TOOLS)
    assert not made and "smaller than 96 px" in skipped[0][1]


def test_a_button_is_a_plate_with_letters_in_its_colours() -> None:
    image = make_image(5, 200, 200)
    slots = {"place": "center", "plate_color": "blue", "color": "white", "text": "PLAY"}
    area = apply("button", image, **slots)[90:110, 72:128].reshape(-1, 3).tolist()
    assert (apply("button", image, **slots)[100, 72] == COLORS["blue"]).all()
    assert sum(min(pixel) > 150 for pixel in area) > 60 and area.count(list(COLORS["blue"])) > 400
    moved = load("button_move").pair(image, slots | {"to_place": "top_left"}, TOOLS)
    x0, y0, x1, y1 = button_box("center", 200, 200)
    dx, dy = (a - b for a, b in zip((x0, y0), button_box("top_left", 200, 200)[:2]))
    plate = np.any(moved.source[y0:y1, x0:x1] != image[y0:y1, x0:x1], axis=2)
    assert np.array_equal(moved.target[y0 - dy : y1 - dy, x0 - dx : x1 - dx][plate], moved.source[y0:y1, x0:x1][plate])
    assert np.array_equal(moved.target[y0:y1, x0:x1], image[y0:y1, x0:x1])
