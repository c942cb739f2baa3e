"""Synthesis against independent truth: formulas worked by hand, boxes counted by hand, laws."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from signs import tools

from edittools.caption.grammar import GrammarError, Literal, expand, parse, sentence
from edittools.caption.wording import instruct
from edittools.seeded import stream
from edittools.synth.compose import split
from edittools.synth.core import Inapplicable, mask_of
from edittools.synth.fonts import covers
from edittools.synth.lettering import sign_box
from edittools.synth.palette import COLORS
from edittools.synth.registry import atomic_names, load
from edittools.synth.shapes import PLACES, SIZES, box, cell, stencil
from edittools.synth.synthesis import (
    Fonts,
    SynthSample,
    Tools,
    choose_templates,
    find_fonts,
    invert,
    synthesize,
    task_of,
    template_names,
)

CANONICAL = set(
    "add remove replace background color material adjust style tone text motion portrait beauty "
    "extract visual hybrid viewpoint lowlevel tryon creative".split()
)
TOOLS = tools()
CJK = re.compile(r"[\u4e00-\u9fff]")


def make_image(seed: int, height: int = 96, width: int = 96) -> np.ndarray:
    """A colourful image with flat patches and fine grain."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(20, 236, (8, 8, 3)).repeat(-(-height // 8), 0).repeat(-(-width // 8), 1)
    grain = rng.integers(-15, 16, (height, width, 3))
    return (patches[:height, :width] + grain).astype(np.uint8)


def apply(name: str, image: np.ndarray, **slots: object) -> np.ndarray:
    return load(name).pair(image, slots, TOOLS).target


def one(name: str, row: str = "row", image: np.ndarray | None = None, seed: int = 0) -> SynthSample:
    image = make_image(0) if image is None else image
    samples, skipped = synthesize(image, row, seed=seed, templates=[name], tools=TOOLS)
    assert not skipped, skipped
    return samples[0]


RAMP = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)


# --- the edits themselves ---------------------------------------------------------------------------


def test_gray_is_rec601_per_pixel() -> None:
    image = make_image(1)
    result = apply("gray", image)
    for y, x in ((0, 0), (17, 50), (95, 3)):
        r, g, b = (int(v) for v in image[y, x])
        assert result[y, x].tolist() == [(299 * r + 587 * g + 114 * b + 500) // 1000] * 3


def test_invert_twice_is_identity() -> None:
    image = make_image(2)
    assert np.array_equal(apply("invert", apply("invert", image)), image)
    assert apply("invert", image)[5, 5].tolist() == [255 - int(v) for v in image[5, 5]]


@pytest.mark.parametrize(
    "name, strength, gamma",
    [
        ("brighten", "slight", 0.75),
        ("brighten", "medium", 0.5),
        ("brighten", "strong", 1 / 3),
        ("darken", "slight", 4 / 3),
        ("darken", "medium", 2.0),
        ("darken", "strong", 3.0),
    ],
)
def test_gamma_on_a_ramp(name: str, strength: str, gamma: float) -> None:
    result = apply(name, RAMP, strength=strength)[0, :, 0]
    for value in range(256):
        assert abs(int(result[value]) - 255 * (value / 255) ** gamma) <= 0.5 + 1e-9


def test_warm_and_cool_scale_red_and_blue() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    assert apply("warm", image, strength="medium")[0, 0].tolist() == [125, 100, 80]
    assert apply("cool", image, strength="medium")[0, 0].tolist() == [80, 100, 125]
    assert apply("warm", image, strength="strong")[0, 0].tolist() == [167, 100, 60]
    bright = np.full((16, 16, 3), 250, np.uint8)
    assert apply("warm", bright, strength="strong")[0, 0].tolist() == [255, 250, 150]


def test_contrast_moves_away_from_128() -> None:
    result = apply("contrast", RAMP, strength="medium")[0, :, 0]
    assert [int(result[v]) for v in (0, 100, 128, 148, 255)] == [0, 83, 128, 160, 255]
    result = apply("flatten", RAMP, strength="medium")[0, :, 0]
    assert [int(result[v]) for v in (0, 128, 255)] == [48, 128, 207]


def test_saturation_keeps_grays_and_scales_the_distance_from_luma() -> None:
    assert np.array_equal(apply("saturate", RAMP, strength="strong"), RAMP)
    image = np.full((16, 16, 3), (120, 100, 80), np.uint8)  # luma 103.7 -> 104
    # 104 + 1.8 * (16, -4, -24)
    assert apply("saturate", image, strength="medium")[0, 0].tolist() == [133, 97, 61]


def test_sepia_matrix() -> None:
    image = np.full((16, 16, 3), (100, 150, 200), np.uint8)
    expected = [39.3 + 115.35 + 37.8, 34.9 + 102.9 + 33.6, 27.2 + 80.1 + 26.2]
    assert apply("sepia", image)[0, 0].tolist() == [int(v + 0.5) for v in expected]


def test_recolor_swaps_channels() -> None:
    image = make_image(3)
    assert np.array_equal(apply("recolor", image, channels="red_blue"), image[..., ::-1])


def test_tint_runs_from_black_through_the_color_to_white() -> None:
    result = apply("tint", RAMP, color="blue")[0]
    assert [result[v].tolist() for v in (0, 64, 128, 255)] == [
        [0, 0, 0],
        [10, 30, 110],
        [20, 60, 220],
        [255] * 3,
    ]


def test_viewpoints_equal_numpy() -> None:
    image = make_image(4)
    assert np.array_equal(apply("flip", image), np.fliplr(image))
    assert np.array_equal(apply("rotate", image, turn="left"), np.rot90(image))
    assert np.array_equal(apply("rotate", image, turn="right"), np.rot90(image, -1))
    assert np.array_equal(apply("rotate", image, turn="half"), image[::-1, ::-1])


def test_oblong_images_only_turn_by_half() -> None:
    image = make_image(4, 60, 96)
    assert {one("rotate", f"r{i}", image).slots["turn"] for i in range(20)} == {"half"}


def test_zoom_of_a_flat_image_with_a_mark() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48, 16:48] = 200  # exactly what a twofold zoom shows
    assert (apply("zoom", image, strength="strong") == 200).all()


def test_haze_is_the_scattering_formula() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    expected = [0.5 * 100 + 0.5 * air for air in (225, 228, 232)]
    result = apply("haze", image, strength="medium")[0, 0]
    assert all(abs(int(v) - e) <= 0.5 for v, e in zip(result, expected))


def test_posterize_levels() -> None:
    result = apply("posterize", RAMP, levels="3")[0, :, 0]
    assert sorted(set(result.tolist())) == [0, 128, 255]
    assert [int(result[v]) for v in (63, 64, 191, 192)] == [0, 128, 128, 255]


def test_pixelate_takes_block_means() -> None:
    image = make_image(5)
    result = apply("pixelate", image, strength="strong")  # 96 / 12 = blocks of 8 pixels
    mean = image[8:16, 16:24].reshape(-1, 3).mean(axis=0)
    assert np.abs(result[8:16, 16:24] - mean).max() <= 0.5
    assert len(np.unique(result[8:16, 16:24].reshape(-1, 3), axis=0)) == 1


def test_oil_leaves_flat_images_alone() -> None:
    flat = np.full((40, 50, 3), (10, 200, 90), np.uint8)
    assert np.array_equal(apply("oil", flat), flat)


def test_mirror_and_tile() -> None:
    image = make_image(6)
    result = apply("mirror", image, half="left_half")
    assert np.array_equal(result, result[:, ::-1]) and np.array_equal(result[:, :48], image[:, :48])
    result = apply("mirror", image, half="bottom_half")
    assert np.array_equal(result, result[::-1]) and np.array_equal(result[48:], image[48:])
    result = apply("tile", image, count="3")
    assert np.array_equal(result[:32, :32], result[64:, 32:64])


def test_noise_has_the_stated_spread() -> None:
    image = np.full((96, 96, 3), 128, np.uint8)
    grain = apply("noise", image, strength="medium", grain_seed=1).astype(int) - 128
    # four uniform integers in [-18, 18] have variance 4 * 18 * 19 / 3 = 456
    assert abs(grain.mean()) < 0.5 and abs(grain.std() - 456**0.5) < 0.5


def test_stencils() -> None:
    assert stencil("square", 12).all()
    assert abs(stencil("circle", 60).mean() - np.pi / 4) < 0.02
    assert abs(stencil("triangle", 60).mean() - 0.5) < 0.02
    assert abs(stencil("diamond", 60).mean() - 0.5) < 0.03
    for shape in ("square", "circle", "triangle", "star", "diamond", "cross"):
        inside = stencil(shape, 30)
        assert np.abs(inside.astype(int) - inside[:, ::-1]).mean() < 0.01  # left and right alike
        assert inside.any(axis=0).all() and inside.any(axis=1).all()  # fills its box


def test_add_draws_at_the_box_counted_by_hand() -> None:
    image = make_image(7)  # 96 x 96: cells of 32, a medium side is 24
    result = apply("add", image, color="red", shape="square", size="medium", place="top_right")
    expected = image.copy()
    expected[4:28, 68:92] = (220, 20, 20)
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("height, width", [(16, 16), (17, 41), (96, 64), (101, 100)])
def test_shapes_stay_inside_their_cells(height: int, width: int) -> None:
    covered = np.zeros((height, width), int)
    for place in PLACES:
        c = cell(place, height, width)
        covered[c[1] : c[3], c[0] : c[2]] += 1
        for size in SIZES:
            b = box(place, size, height, width)
            assert c[0] <= b[0] and c[1] <= b[1] and b[2] <= c[2] and b[3] <= c[3]
    assert (covered == 1).all()


@pytest.mark.parametrize("name", ["add", "remove", "replace", "shape_color", "move", "resize", "material"])
def test_local_edits_touch_only_their_boxes(name: str) -> None:
    for i in range(6):
        sample = one(name, f"row-{i}")
        outside = np.ones(sample.mask.shape, bool)
        for place in (sample.slots["place"], sample.slots.get("to_place", sample.slots["place"])):
            for size in (sample.slots["size"], sample.slots.get("new_size", sample.slots["size"])):
                x0, y0, x1, y1 = box(place, size, *sample.mask.shape)
                outside[y0:y1, x0:x1] = False
        assert np.array_equal(sample.source[outside], sample.target[outside])
        assert not sample.mask[outside].any()


def test_remove_is_exactly_the_inverse_of_add() -> None:
    image = make_image(8)
    sample = one("remove", image=image)
    assert np.array_equal(sample.target, image)
    assert np.array_equal(sample.source, apply("add", image, **sample.slots))


def test_background_keeps_the_object() -> None:
    image = make_image(9)
    sample = one("background", image=image)
    kept = sample.mask == 0
    middle = (slice(40, 56), slice(40, 56))
    assert kept[middle].all() and np.array_equal(sample.target[middle], image[middle])


def test_extract_shows_the_shape_on_white() -> None:
    sample = one("extract")
    colors = {tuple(c) for c in sample.target.reshape(-1, 3).tolist()}
    assert colors == {(255, 255, 255), COLORS[sample.slots["color"]]}


# --- laws that hold for every kind ------------------------------------------------------------------


def test_names_and_tasks() -> None:
    names = template_names()
    required = """gray invert warm cool sepia brighten darken contrast saturate recolor blur sharpen noise
        denoise jpeg haze dehaze flip rotate zoom add remove replace background extract visual text_add
        text_change text_remove logo posterize sketch pixelate oil material hybrid dialogue"""
    assert set(required.split()) <= set(names) and names == sorted(names)
    tasks = {task_of(name) for name in names}
    assert tasks <= CANONICAL and len(tasks) >= 11


@pytest.mark.parametrize("name", template_names())
def test_every_kind_on_several_images(name: str) -> None:
    for i, shape in enumerate(((96, 96), (64, 97), (130, 80))):
        grown = 2 if name.startswith(("button", "card")) else 1  # their letters need room
        image = make_image(i, grown * shape[0], grown * shape[1])
        before = image.copy()
        sample = one(name, f"row-{i}", image)
        assert np.array_equal(image, before), "the picture was written to"
        assert sample.source.shape == sample.target.shape == image.shape
        assert sample.source.dtype == sample.target.dtype == sample.mask.dtype == np.uint8
        changed = np.any(sample.source != sample.target, axis=-1)
        assert changed.any() and np.array_equal(sample.mask, changed.astype(np.uint8) * 255)
        assert not re.search(r"[<>{}\[\]|]", sample.instruction["en"]), sample.instruction["en"]
        assert "  " not in sample.instruction["en"] and sample.instruction["en"][0].isupper()
        assert CJK.search(sample.instruction["zh"]) and sample.instruction["zh"].endswith(("。", "？"))
        assert json.loads(json.dumps(sample.slots)) == sample.slots


@pytest.mark.parametrize("name", atomic_names())
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_twenty_wordings_for_the_very_same_edit(name: str, lang: str) -> None:
    slots = one(name).slots
    texts = {instruct(name, slots, {k: stream(i, k) for k in ("en", "zh")})[lang] for i in range(300)}
    assert len(texts) >= 20


@pytest.mark.parametrize("name", template_names())
def test_pure_function_of_seed_row_and_kind(name: str) -> None:
    first, again, other = one(name, "a"), one(name, "a"), one(name, "a", seed=1)
    assert first.slots == again.slots and first.instruction == again.instruction
    assert np.array_equal(first.source, again.source) and np.array_equal(first.target, again.target)
    assert first.slots != other.slots or first.instruction != other.instruction


def test_other_kinds_and_their_order_change_nothing() -> None:
    image, templates = make_image(0), ["add", "flip", "gray", "zoom"]
    forth, _ = synthesize(image, "r", templates=templates, per_row=4, tools=TOOLS)
    back, _ = synthesize(image, "r", templates=templates[::-1], per_row=4, tools=TOOLS)
    assert [s.template for s in forth] == [s.template for s in back]
    for sample in forth:
        alone = one(sample.template, "r", image)
        assert alone.instruction == sample.instruction and np.array_equal(alone.target, sample.target)


def test_cycling_gives_different_edits() -> None:
    samples, _ = synthesize(make_image(0), "r", templates=["add"], per_row=4, tools=TOOLS)
    assert len(samples) == 4 and len({json.dumps(s.slots) for s in samples}) == 4


def test_kinds_are_balanced() -> None:
    templates = ["add", "remove", "gray", "flip", "blur", "warm", "invert", "brighten"]
    counts = Counter(choose_templates(templates, f"id{i}", 0, 1)[0][0] for i in range(1000))
    # binomial(1000, 1/8): mean 125, standard deviation 10.5; four of them either side
    assert set(counts) == set(templates) and all(83 <= n <= 167 for n in counts.values())
    row = [kind for kind, _ in choose_templates(templates, "id", 0, 8)]
    assert sorted(row) == sorted(templates), "a kind came twice before another came once"


def test_unknown_kinds_and_wrong_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown templates: sharpness"):
        synthesize(make_image(0), "r", templates=["sharpness"], tools=TOOLS)
    with pytest.raises(ValueError, match="uint8 HxWx3"):
        synthesize(np.zeros((64, 64), np.uint8), "r", tools=TOOLS)


def test_what_does_not_fit_is_counted_with_its_reason() -> None:
    tiny, small, gray = (np.full((side, side, 3), 90, np.uint8) for side in (15, 40, 64))
    assert synthesize(tiny, "r", templates=["add"], tools=TOOLS)[1] == [("add", "picture is smaller than 16 px")]
    assert "too small for text" in synthesize(small, "r", templates=["text_add"], tools=TOOLS)[1][0][1]
    assert synthesize(gray, "r", templates=["gray"], tools=TOOLS) == ([], [("gray", "no visible change")])
    with pytest.raises(Inapplicable, match="no visible change"):
        mask_of(gray, gray.copy())


@pytest.mark.parametrize("side", [32, 16])
def test_small_images_take_every_kind_but_text(side: int) -> None:
    lettered = {n for n in atomic_names() if re.match("text_|logo|watermark|button|card", n)}
    for row in "abcdef":
        image, names = make_image(11, side, side), template_names()
        _, skipped = synthesize(image, row, templates=names, per_row=len(names), tools=TOOLS)
        # a shape may have no other shape or size to change into: a star needs 9 pixels
        room = {name for name, reason in skipped if "too small for another" in reason}
        assert {name for name, _ in skipped} == lettered | room
        assert room <= {"replace", "resize", "hybrid", "dialogue"}


# --- inverses, hybrids, dialogues -------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in atomic_names() if load(n).inverse])
def test_inverse_swaps_and_is_worded(name: str) -> None:
    sample = one(name)
    inverse = invert(sample, "row")
    assert inverse is not None and inverse.template == load(name).inverse
    assert inverse.source is sample.target and inverse.target is sample.source
    assert np.array_equal(inverse.mask, sample.mask)
    assert inverse.slots["inverse_of"] == name
    # nothing but flip and invert is said the same way in both directions
    assert inverse.instruction["en"] != sample.instruction["en"] or name in ("flip", "invert")
    # an inverse's inverse is of the first kind again, except extract, which loses the background
    assert load(inverse.template).inverse == name or inverse.template == "extract"


def test_inverse_of_a_replacement_says_the_way_back() -> None:
    sample = one("replace")
    back = invert(sample, "row")
    assert back is not None
    assert (back.slots["color"], back.slots["new_color"]) == (
        sample.slots["new_color"],
        sample.slots["color"],
    )
    again = load("replace").pair(make_image(0), back.slots, TOOLS)
    assert np.array_equal(again.source, sample.target) and np.array_equal(again.target, sample.source)


@pytest.mark.parametrize("row", ["a", "b", "c", "d", "e", "f"])
def test_hybrid_is_its_parts_in_order(row: str) -> None:
    image = make_image(12)
    sample = one("hybrid", row, image)
    first, second = sample.slots["parts"]
    assert first["slots"]["place"] != second["slots"]["place"]
    source = target = image
    for part in (first, second):
        template = load(part["template"])
        source = template.pair(source, part["slots"], TOOLS).source
        target = template.pair(target, part["slots"], TOOLS).target
    assert np.array_equal(sample.source, source) and np.array_equal(sample.target, target)
    # split: a chain from the same source to the same target, each link one atomic edit in its own cell
    chain = split(image, sample.slots, TOOLS)
    assert np.array_equal(chain[0].source, source) and np.array_equal(chain[1].target, target)
    assert np.array_equal(chain[0].target, chain[1].source)
    for pair, part in zip(chain, (first, second)):
        x0, y0, x1, y1 = cell(part["slots"]["place"], *image.shape[:2])
        changed = mask_of(pair.source, pair.target)
        assert changed[y0:y1, x0:x1].sum() == changed.sum()


def dialogues(count: int = 40) -> list[SynthSample]:
    return [one("dialogue", f"d{i}") for i in range(count)]


def test_dialogues_have_three_turns_of_every_kind() -> None:
    samples = dialogues()
    templates = Counter(sample.slots["kind"] for sample in samples)
    assert set(templates) == {"content_memory", "content_understanding", "version_backtracking"}
    for sample in samples:
        assert sample.turns is not None and len(sample.turns) == 3
        for index, turn in enumerate(sample.turns):
            assert -1 <= turn.parent < index and turn.kind == sample.slots["kind"]
            before = sample.turns[turn.parent].target if turn.parent >= 0 else sample.source
            assert np.array_equal(turn.mask, mask_of(before, turn.target))
            assert CJK.search(turn.instruction["zh"]) and "<" not in turn.instruction["en"]
            assert turn.task in CANONICAL
        assert np.array_equal(sample.target, sample.turns[-1].target)


def test_backtracking_edits_the_version_it_names() -> None:
    wordings = set()
    for sample in dialogues():
        if sample.slots["kind"] != "version_backtracking":
            continue
        assert sample.turns is not None
        last = sample.turns[2]
        wordings.add(last.slots["wording"])
        assert last.parent == (-1 if last.slots["wording"] == "back_to_original" else 0)
        before = sample.turns[last.parent].target if last.parent >= 0 else sample.source
        assert np.array_equal(last.target, load(last.template).pair(before, last.slots, TOOLS).target)
        # nothing of the second turn is left
        undone = sample.turns[1].mask > 0
        assert np.array_equal(last.target[undone], before[undone])
    assert wordings == {"undo", "back_to_first", "back_to_original"}


def test_memory_does_not_say_again_what_was_said() -> None:
    for sample in dialogues():
        if sample.slots["kind"] != "content_memory":
            continue
        assert sample.turns is not None
        first, last = sample.turns[0], sample.turns[2]
        text = last.instruction["en"].lower()
        if last.slots["wording"] == "same_shape":
            assert last.slots["shape"] == first.slots["shape"] and first.slots["shape"] not in text
        else:
            assert last.slots["color"] == first.slots["color"]
            assert not re.search(rf"\b{first.slots['color']}\b", text)
        color = np.array(COLORS[last.slots["color"]])
        assert (last.target[last.mask > 0] == color).all()


def test_understanding_says_it() -> None:
    found = [s for s in dialogues() if s.slots["kind"] == "content_understanding"]
    assert found
    for sample in found:
        assert sample.turns is not None
        for turn in sample.turns[1:]:
            assert re.search(r"\bits?\b", turn.instruction["en"].lower())
            assert "它" in turn.instruction["zh"]


# --- fonts and the grammar --------------------------------------------------------------------------


def test_text_is_skipped_and_counted_without_fonts() -> None:
    bare = Tools(Fonts())
    names = [n for n in template_names() if n.startswith("text_")]
    samples, skipped = synthesize(make_image(0), "r", templates=names, per_row=len(names), tools=bare)
    assert not samples
    assert dict(skipped) == {n: "no font covers Chinese" if n.endswith("chinese") else "no font found" for n in names}


def test_a_font_must_draw_what_it_is_asked_for(tmp_path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"this is no font")
    assert find_fonts(str(tmp_path)) == Fonts(None, None)
    if TOOLS.fonts.latin:
        assert covers(TOOLS.fonts.latin, "AgZ")
        assert not covers(TOOLS.fonts.latin, "A\U0010fffd")
        assert find_fonts(TOOLS.fonts.latin).latin == TOOLS.fonts.latin


def test_text_keeps_inside_the_sign() -> None:
    sample = one("text_change")
    x0, y0, x1, y1 = sign_box(sample.slots["place"], *sample.mask.shape)
    assert sample.mask[y0:y1, x0:x1].sum() == sample.mask.sum() > 0


def test_grammar_by_hand() -> None:
    def lookup(name: str, kind: str) -> str:
        return {"color": "{red|scarlet}", "text": Literal("a|{b}")}[kind]

    texts = {expand("{add|draw} [one ]<color> x", lookup, np.random.default_rng(i)) for i in range(200)}
    assert texts == {f"{v} {o}{c} x" for v in ("add", "draw") for o in ("", "one ") for c in ("red", "scarlet")}
    rng = np.random.default_rng(0)
    assert expand("say <new_text>", lookup, rng) == "say a|{b}"
    assert expand("<hue:color>", lambda n, k: f"{n}-{k}", rng) == "hue-color"
    assert sentence("paint a orange star", "en") == "Paint an orange star."
    assert sentence("a uniformly colored star", "en") == "A uniformly colored star."
    for broken in ("{a", "a}", "[a}", "a<B>", "a < b", "{a|b]"):
        with pytest.raises(GrammarError):
            parse(broken)
