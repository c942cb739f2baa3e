"""Shapes, names of references, buckets and draws: against brute force, counting and formulas worked by hand."""

import collections
import dataclasses
import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import integrate, stats
from scipy.special import expit
from training import MemoryRows, edit_row, tiny

from edittools.errors import UsageError
from edittools.nets import images, load_edit_model, shapes
from edittools.train import flow_matching
from edittools.train.alignment import align, named, renumber
from edittools.train.bucket_sampler import BucketSampler, choose_text
from edittools.train.data import Loader, lengthened
from edittools.train.features import Encoder
from edittools.train.mixture import row_weights
from edittools.train.rows import TrainRow

RATIOS = ["2:1", "16:9", "3:2", "4:3", "1:1"]

# ------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("multiple", [16, 32])
@pytest.mark.parametrize("side", [512, 1024])
def test_shapes_have_the_ratios_and_never_more_than_the_area(side, multiple):
    found = shapes.shapes(RATIOS, [side, side], multiple)
    wanted = [2, 1 / 2, 16 / 9, 9 / 16, 3 / 2, 2 / 3, 4 / 3, 3 / 4, 1]
    assert len(found) == len(wanted)
    for (h, w), ratio in zip(found, wanted):
        assert h % multiple == w % multiple == 0
        assert 0.94 * side**2 <= h * w <= side**2
        # brute force: no shape of about this area is nearer to the ratio
        off = min(
            abs(math.log(b / a / ratio))
            for a in range(multiple, 2 * side + 1, multiple)
            for b in range(multiple, 2 * side + 1, multiple)
            if 0.94 * side**2 <= a * b <= side**2
        )
        assert abs(math.log(w / h / ratio)) == pytest.approx(off, abs=1e-9)
    assert (side, side) in found


def test_shapes_by_hand():
    # 64² with patches of 16: 16 units. 4:1 is 2 x 8 exactly, 1:1 is 4 x 4.
    assert shapes.shapes(["4:1", "1:1"], [64, 64], 16) == [(32, 128), (128, 32), (64, 64)]


def test_the_range_of_sides_has_both_ends_and_areas_no_further_apart_than_two():
    squares = [h for h, w in shapes.shapes(["1:1"], [384, 512], 16)]
    assert squares == [512, 384]
    areas = [h * w for h, w in shapes.shapes(["1:1"], [512, 1024], 16)]
    assert areas[0] == 1024**2 and areas[-1] == 512**2 and len(areas) == 3
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(areas))


def test_small_images_stay_small_and_large_ones_large():
    known = shapes.shapes(RATIOS, [384, 512], 16)
    sizes = np.array([(384, 384), (300, 380), (200, 200), (512, 512), (4000, 3000), (500, 530)])
    sides = [math.sqrt(h * w) for h, w in (known[k] for k in shapes.choose(sizes, known))]
    assert all(side <= 384 for side in sides[:3])
    assert all(497 < side <= 512 for side in sides[3:])


def really_cropped(h, w, shape):
    """The share of an image's pixels that fit() shows nothing of, by the box that it cuts."""
    left, top, right, bottom = images.fit_box(h, w, *shape)
    # the box has the shape's ratio, lies within the image, in its middle, and touches two opposite sides
    assert (right - left) / (bottom - top) == pytest.approx(shape[1] / shape[0])
    assert left + right == pytest.approx(w) and top + bottom == pytest.approx(h)
    assert min(left, top) == pytest.approx(0, abs=1e-9)
    return 1 - (right - left) * (bottom - top) / (h * w)


@pytest.mark.parametrize("multiple", [16, 32])
def test_choose_crops_least_over_a_grid_of_sizes(multiple):
    known = shapes.shapes(RATIOS, [512, 512], multiple)
    sizes = [(h, w) for h in range(multiple, 1400, 5 * multiple) for w in range(multiple, 1400, 3 * multiple)]
    chosen = shapes.choose(np.array(sizes), known)
    for (h, w), number in zip(sizes, chosen):
        lost = [really_cropped(h, w, shape) for shape in known]
        assert lost[number] == pytest.approx(min(lost), abs=1e-9)
        assert shapes.cropped(np.array([(h, w)]), known)[0] == pytest.approx(lost, abs=1e-9)
        assert images.cropped_share(h, w, *known[number]) == pytest.approx(lost[number], abs=1e-9)


def test_fit_shows_the_pixels_that_the_share_says():
    # an image of 90 x 40 pixels cut to a square keeps 40 of its 90 rows, the middle ones
    rows = np.arange(90, dtype=np.uint8)[:, None, None].repeat(40, 1).repeat(3, 2)
    cut = images.fit(rows, 40, 40)
    assert cut[:, 0, 0].tolist() == list(range(25, 65))
    assert images.cropped_share(90, 40, 40, 40) == pytest.approx(50 / 90)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_fit_is_pillows_bicubic_of_the_middle(h, w, height, width, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-h // 6), -(-w // 6), 3)).astype(np.uint8)
    image = coarse.repeat(6, 0).repeat(6, 1)[:h, :w]
    image.flags.writeable = False
    found = images.fit(image, height, width)
    left, top, right, bottom = images.fit_box(h, w, height, width)
    box = round(left), round(top), max(round(right), round(left) + 1), max(round(bottom), round(top) + 1)
    wanted = Image.fromarray(image).crop(box).resize((width, height), Image.Resampling.BICUBIC)
    if (h, w) == (height, width):
        wanted = image
    apart = np.abs(found.astype(int) - np.asarray(wanted))
    assert apart.max() <= 16 and apart.mean() < 0.75  # another filter, or a pixel beside, is dozens


# ---------------------------------------------------------------------------------------------------- alignment

NEW = {1: 3, 2: 1, 3: 2}
NAMES = [
    ("Put Figure 2 into Figure 1", "Put Figure 1 into Figure 3"),
    ("fig. 2 and Fig.3", "fig. 1 and Fig.2"),
    ("IMAGE 1 over image #2", "IMAGE 3 over image #1"),
    ("<image_1>, <image 2>", "<image_3>, <image 1>"),
    ("Picture 3's dog", "Picture 2's dog"),
    ("the photo 2", "the photo 1"),
    ("Figures 1 and 2", "Figures 3 and 1"),
    ("Figures 1, 2 and 3", "Figures 3, 1 and 2"),
    ("Blend images 1, 2, and 3 softly", "Blend images 3, 1, and 2 softly"),
    ("images 1 & 2", "images 3 & 1"),
    ("image 1 and 2 into one", "image 3 and 1 into one"),
    ("image 1 and image 2 into one", "image 3 and image 1 into one"),
    ("Merge images 1-3.", "Merge images 3, 1, 2."),
    ("from image 1 to image 3", "from image 3 to image 2"),
    ("the second image", "the first image"),
    ("Second image", "First image"),
    ("the first and the third photos", "the third and the second photos"),
    ("the 2nd image", "the 1st image"),
    ("Image 12 and Image 1", "Image 12 and Image 3"),
    ("把图2放到图1中", "把图1放到图3中"),
    ("图二和图三", "图一和图二"),
    ("图片一的背景", "图片三的背景"),
    ("图像 2", "图像 1"),
    ("图1和图2", "图3和图1"),
    ("图1、2和3", "图3、1和2"),
    ("图1至3", "图3、1、2"),
    ("第2张图", "第1张图"),
    ("第二幅图片", "第一幅图片"),
    ("第一张和第二张图", "第三张和第一张图"),
    ("第1、2张照片", "第3、1张照片"),
    ("第三张的猫放到第一张", "第二张的猫放到第三张"),
    ("在Figure 2中,image 1和", "在Figure 1中,image 3和"),
]
NO_NAMES = [
    "the image on the left",
    "rotate the image 90 degrees",
    "scale the image 2 times",
    "an image 2x as large",
    "the image 2.5",
    "configure 2 dogs",
    "figure 1a",
    "保持与图片一致",
    "图片四周加边框",
    "和图像一样",
    "变成图片二次元风格",
    "图片2张",
    "第三张桌子",
    "图123",
]


@pytest.mark.parametrize("text, wanted", NAMES)
def test_names_of_references(text, wanted):
    assert renumber(text, NEW) == wanted
    back = {new: old for old, new in NEW.items()}
    assert {NEW.get(k, k) for k in named(text)} == named(wanted)
    if not {"-", "至"} & set(text):
        assert renumber(wanted, back) == text


@pytest.mark.parametrize("text", NO_NAMES)
def test_words_that_name_no_reference(text):
    assert not named(text) & {1, 2, 3}
    assert renumber(text, NEW) == text


def test_numbers_of_things_are_no_names():
    assert renumber("Image 1, make 2 copies of image 1 and 2 cats", NEW) == (
        "Image 3, make 2 copies of image 3 and 2 cats"
    )
    assert renumber("图1和2只猫", NEW) == "图3和2只猫"


@pytest.mark.parametrize("text", ["the first two images, and image 3", "image 1 and the last image", "图1和最后一张"])
def test_references_stay_where_a_name_cannot_be_rewritten(text):
    random = np.random.default_rng(0)
    for _ in range(20):
        assert align(text, 3, shuffle=True, drop=0.9, random=random) == (text, [0, 1, 2])


TEMPLATES = ["Figure {}", "fig. {}", "image {}", "Image #{}", "图{}", "第{}张图", "图片 {}", "photo {}", "the image"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(TEMPLATES), st.integers(1, 12)), min_size=1, max_size=6),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 0.9]),
    st.integers(0, 2**32),
)
def test_a_name_points_at_the_same_image_before_and_after(parts, count, shuffle, drop, seed):
    text = "; ".join(template.format(number) for template, number in parts)
    said = [number for template, number in parts if "{}" in template]
    new, kept = align(text, count, shuffle=shuffle, drop=drop, random=np.random.default_rng(seed))
    assert len(set(kept)) == len(kept) and set(kept) <= set(range(count))
    pieces = new.split("; ")
    assert len(pieces) == len(parts)
    for (template, number), piece in zip(parts, pieces):
        if "{}" not in template or number > count:  # no name of a reference: as it was
            assert piece == template.format(number)
        else:
            assert number - 1 in kept  # never dropped
            (now,) = [k for k in range(1, 13) if template.format(k) == piece]
            assert kept[now - 1] == number - 1
    if not any(number <= count for number in said):
        assert kept == list(range(count))  # all are meant
    if not shuffle:
        assert kept == sorted(kept)


def test_unnamed_references_are_dropped_as_often_as_said():
    random = np.random.default_rng(3)
    lost = collections.Counter()
    for _ in range(4000):
        _, kept = align("use Figure 2", 3, shuffle=False, drop=0.25, random=random)
        lost.update({0, 1, 2} - set(kept))
    assert lost[1] == 0
    for k in (0, 2):
        assert abs(lost[k] / 4000 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_every_order_of_references_is_as_likely():
    random = np.random.default_rng(4)
    orders = collections.Counter(
        tuple(align("Figure 1, Figure 2, Figure 3", 3, shuffle=True, drop=0, random=random)[1]) for _ in range(6000)
    )
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > 1e-4


# --------------------------------------------------------------------------------------------------------- plan


class Sized:
    """Rows of which only sizes and texts are known."""

    data_id = "sizes"

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def sized(sizes, text="change it", **more):
    """Rows of (target, sources...) sizes."""
    texts = more.pop("texts", None) or {("instruction", "en"): text}
    return Sized(
        [
            TrainRow(f"row-{k}", more.get("task", "tone"), "t", texts, list(each[1:]), each[0])
            for k, each in enumerate(sizes)
        ]
    )


def log_normal_mix(count, seed=0):
    """Sizes about 1024² and ratios about 1:1, both log-normal, with 1 to 3 references; the first has the target's."""
    random = np.random.default_rng(seed)
    side = np.exp(random.normal(np.log(1024), 0.5, (count, 3)))
    ratio = np.exp(random.normal(0, 0.35, (count, 3)))
    h = np.maximum(64, np.rint(side * np.sqrt(ratio))).astype(int)
    w = np.maximum(64, np.rint(side / np.sqrt(ratio))).astype(int)
    references = random.integers(1, 4, count)
    return [((h[k, 0], w[k, 0]), *((h[k, j], w[k, j]) for j in range(references[k]))) for k in range(count)]


def small_mix(count=300, seed=0):
    random = np.random.default_rng(seed)
    known = [(64, 64), (48, 80), (80, 48), (70, 60), (120, 60)]
    return [tuple(known[k] for k in random.integers(0, 5, random.integers(1, 4))) for _ in range(count)]


def sampler_of(rows, **settings):
    settings = {"resolution": [64, 64], "ratios": RATIOS, "batch_tokens": 192, "microbatches": 2} | settings
    return BucketSampler(tiny(**settings), rows, 8, 8)


def test_a_batch_holds_one_bucket_and_is_full():
    sampler = sampler_of(sized(small_mix()))
    assert len({sample.shapes for sample in sampler.samples}) > 5
    for batches, _ in itertools.islice(sampler.epochs(), 4):
        for batch in batches:
            found = [sampler.samples[draw.sample] for draw in batch]
            assert len({sample.shapes for sample in found}) == 1
            assert all(len(sample.references) + 1 == len(sample.shapes) for sample in found)
            tokens = sum(h * w // 64 for h, w in found[0].shapes)
            assert len(batch) * tokens <= 192 < (len(batch) + 1) * tokens


@pytest.mark.parametrize("variants", [1, 3])
def test_every_row_is_drawn_once_an_epoch_and_none_is_lost(variants):
    texts = {("instruction", "en"): "Figure 1 and the others"}
    sampler = sampler_of(
        sized(small_mix(), texts=texts), variants=variants, shuffle_references=True, drop_references=0.3
    )
    seen, epochs = collections.Counter(), 12
    for epoch, (batches, waiting) in enumerate(itertools.islice(sampler.epochs(), epochs)):
        seen.update((sampler.samples[draw.sample].row, draw.epoch) for batch in batches for draw in batch)
        assert all(turn == 1 for turn in seen.values())
        assert all(draw.turn == 0 for batch in batches for draw in batch)
        assert len(seen) + waiting == 300 * (epoch + 1)
        assert waiting <= 0.1 * 300
    rows = collections.Counter(row for row, _ in seen)
    assert set(rows) == set(range(300))
    # a row that waits is first in its bucket: the draws that are out at the end are new
    late = [epoch for row in range(300) for epoch in range(epochs) if (row, epoch) not in seen]
    assert min(late, default=epochs) >= epochs - 6


@pytest.mark.fleet
@pytest.mark.parametrize("weighted", [False, True])
def test_a_plan_keeps_little_of_a_row(weighted):
    """Bytes that building and drawing from a plan takes, at most, per row of eight variants."""

    class Many(Sized):
        """Rows that take no memory: each is made when it is asked for."""

        def __len__(self):
            return 2_000

        def __getitem__(self, k):
            side = 900 + 37 * (k % 31)
            size = (side, 1500 - side // 3)
            return TrainRow(f"row-{k}", ("tone", "add")[k % 2], "t", {("instruction", "en"): "change it"}, [size], size)

    settings = {"variants": 8, "resolution": [512, 1024], "ratios": RATIOS, "batch_tokens": 65536, "microbatches": 8}
    settings |= {"task_weights": {"tone": 3.0}} if weighted else {}
    recipe = tiny(**settings)
    BucketSampler(recipe, sized([((64, 64), (64, 64))]), 8, 8)  # what is loaded once
    tracemalloc.start()
    sampler = BucketSampler(recipe, Many([]), 8, 8)
    next(sampler.steps(0))
    kept, most = (size / 2_000 for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert kept < 120 and most < 400 + 4e6 / 2_000  # 4 MB, however many rows there are
    assert len(sampler.samples) == 8 * 2_000


def test_the_largest_batch_has_most_tokens_and_the_longest_texts():
    sampler = sampler_of(sized(small_mix()))
    sampler.lengths = np.arange(300) % 17
    found = [sampler.samples[draw.sample] for draw in sampler.largest()]
    tokens = [sum(h * w for h, w in sample.shapes) // 64 for sample in found]
    assert len({sample.shapes for sample in found}) == 1 and sampler.tokens() == tokens[0]
    batches = [batch for epoch, _ in itertools.islice(sampler.epochs(), 3) for batch in epoch]
    most = max(sum(sum(h * w for h, w in sampler.samples[d.sample].shapes) // 64 for d in batch) for batch in batches)
    assert sum(tokens) == most
    same = [k for k, sample in enumerate(sampler.samples) if sample.shapes == found[0].shapes]
    longest = sorted((k % 17 for k in same), reverse=True)[: len(found)]
    assert sorted((sampler.lengths[d.sample] for d in sampler.largest()), reverse=True) == longest


@pytest.mark.parametrize("text, image", [(64, 100), (192, 1), (40, 24), (63, 1), (40, 1000), (10, 8182)])
def test_no_mask_is_64_places_beyond_a_multiple_of_128(text, image):
    """cuDNN's attention gives NaN there, in the backward pass on Hopper (pytorch #196678)."""
    states = torch.randn(2, text, 4)
    mask = torch.arange(text)[None] < torch.tensor([[text], [text - 3]])
    plain = lengthened({"states": states, "pooled": states[:, 0]}, image)
    assert plain["states"] is states  # without a mask there is nothing to avoid
    made = lengthened({"states": states, "mask": mask, "pooled": states[:, 0]}, image)
    length = made["states"].shape[1]
    assert length % 128 != 64 and (length + image) % 128 != 64 and length - text <= 2
    assert torch.equal(made["states"][:, :text], states) and torch.equal(made["mask"][:, :text], mask)
    assert not made["mask"][:, text:].any() and made["mask"].shape[1] == length


def test_samples_are_the_same_however_they_are_asked_for():
    texts = {("instruction", "en"): "Figure 2 to Figure 1", ("instruction", "zh"): "图2放到图1中"}
    sampler = sampler_of(sized(small_mix(), texts=texts), variants=3, shuffle_references=True, language="both")
    every = list(sampler.samples)
    assert len(every) == len(sampler.samples) == 900
    assert sampler.samples[5:900:31] == every[5::31] and sampler.samples[-1] == every[-1] == sampler.samples[899]
    with pytest.raises(IndexError):
        sampler.samples[900]
    for k, sample in enumerate(every):
        assert sample.row == k % 300
        assert (sample.text, sample.references) == choose_text(sampler.recipe, sampler.rows[sample.row], k // 300)


def test_variants_take_turns():
    texts = {("instruction", "en"): "Figure 2 to Figure 1, Figure 3"}
    sampler = sampler_of(
        sized([((64, 64),) * 4] * 40, texts=texts), variants=4, shuffle_references=True, batch_tokens=256
    )
    assert len(sampler.samples) == 160
    for row in range(40):
        mine = [sample for sample in sampler.samples if sample.row == row]
        assert len(mine) == 4 and len({sample.references for sample in mine}) > 1
    drawn = collections.defaultdict(list)
    for batches, _ in itertools.islice(sampler.epochs(), 8):
        for draw in itertools.chain(*batches):
            drawn[sampler.samples[draw.sample].row].append(draw.sample)
    assert all(set(collections.Counter(samples).values()) == {2} for samples in drawn.values())


def test_a_steps_batches_are_a_function_of_seed_and_step():
    rows = sized(small_mix())
    settings = {"shuffle_references": True, "variants": 2, "caption_dropout": 0.1}
    whole = list(itertools.islice(sampler_of(rows, **settings).steps(0), 300))
    assert {draw.epoch for draw in itertools.chain(*whole[-1])} - {0, 1}  # it spans epochs
    for first in (1, 7, 150, 299):
        assert list(itertools.islice(sampler_of(rows, **settings).steps(first), 300 - first)) == whole[first:]
    assert list(itertools.islice(sampler_of(rows, seed=1, **settings).steps(0), 10)) != whole[:10]
    assert all(len(step) == 2 for step in whole)
    epochs = [batch for batches, _ in itertools.islice(sampler_of(rows, **settings).epochs(), 30) for batch in batches]
    assert [batch for step in whole for batch in step] == epochs[:600]


def test_texts_of_a_batch_are_equally_long_where_lengths_are_known():
    rows = sized([((64, 64), (64, 64))] * 400)
    random = np.random.default_rng(0)
    plain, known = sampler_of(rows, batch_tokens=512), sampler_of(rows, batch_tokens=512)  # four rows
    known.lengths = random.choice([9, 12, 20, 31, 40], 400)
    drawn = {name: collections.Counter() for name in ("plain", "known")}
    mixed = 0
    for (plain_batches, waiting), (batches, too) in itertools.islice(zip(plain.epochs(), known.epochs()), 5):
        assert waiting == too
        drawn["plain"].update(itertools.chain(*plain_batches))
        drawn["known"].update(itertools.chain(*batches))
        lengths = [{known.lengths[draw.sample] for draw in batch} for batch in batches]
        # five lengths in one bucket: at most four batches of an epoch have two of them
        assert sum(len(each) > 1 for each in lengths) <= 4
        mixed += sum(len({known.lengths[draw.sample] for draw in batch}) > 1 for batch in plain_batches)
        # neither are the short ones first
        means = [np.mean([known.lengths[draw.sample] for draw in batch]) for batch in batches]
        assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.4
    assert drawn["plain"] == drawn["known"] and mixed > 400  # of 500


def frequencies(sampler, of, epochs):
    """How often rows were drawn, by a property of the row."""
    found = collections.Counter()
    for batches, _ in itertools.islice(sampler.epochs(), epochs):
        found.update(of(sampler.rows[sampler.samples[draw.sample].row]) for draw in itertools.chain(*batches))
    return found


def row(k, task="tone", sources=1, cluster=None, texts=None, **more):
    texts = texts or {("instruction" if sources else "original", "en"): "change it"}
    return TrainRow(f"row-{k}", task, "t", texts, [(64, 64)] * sources, (64, 64), cluster, **more)


def test_task_weights_are_what_an_epoch_draws():
    rows = Sized([row(k, ["a", "b", "c"][k % 3]) for k in range(90)])
    sampler = sampler_of(rows, task_weights={"a": 3, "b": 0.5, "c": 0}, batch_tokens=128)
    # 30 rows each: weights 3, 0.5, 0 scaled to a mean of 1
    assert sampler.weights[:3] == pytest.approx([3 / 3.5 * 3, 0.5 / 3.5 * 3, 0])
    found = frequencies(sampler, lambda row: row.task, 100)
    assert found["c"] == 0 and found.total() == 9000
    assert abs(found["a"] - 9000 * 6 / 7) < 25
    # and so in every epoch, though the tasks alternate in the data
    for batches, _ in itertools.islice(sampler.epochs(), 20):
        drawn = [rows[sampler.samples[draw.sample].row].task for draw in itertools.chain(*batches)]
        assert abs(drawn.count("a") - 90 * 6 / 7) <= 1
    one = frequencies(sampler, lambda row: row.id, 200)
    counts = [one[f"row-{k}"] for k in range(0, 90, 3)]  # 18 / 7 times an epoch each
    assert max(abs(count / 200 - 18 / 7) for count in counts) < 0.2


def test_t2i_share_is_what_an_epoch_draws():
    rows = Sized([row(k, sources=0 if k % 5 == 0 else 1) for k in range(200)])
    sampler = sampler_of(rows, t2i_share=0.5, batch_tokens=128)
    found = frequencies(sampler, lambda row: not row.sources, 60)
    assert found[True] / found.total() == pytest.approx(0.5, abs=0.005)
    with pytest.raises(UsageError, match="asks for edit rows"):
        sampler_of(Sized([row(k, sources=0) for k in range(4)]), t2i_share=0.5)
    with pytest.raises(UsageError, match="asks for text-to-image rows"):
        sampler_of(Sized([row(k) for k in range(4)]), t2i_share=0.5)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_clusters_are_balanced(power):
    sizes = {"large": 100, "middle": 25, "small": 4}
    rows = Sized([row(f"{name}-{k}", cluster=name) for name, size in sizes.items() for k in range(size)])
    sampler = sampler_of(rows, balance="cluster", balance_power=power, batch_tokens=128)
    found = frequencies(sampler, lambda row: row.cluster, 200)
    total = sum(size ** (1 - power) for size in sizes.values())  # n rows of weight n^-p each
    for name, size in sizes.items():
        assert found[name] / found.total() == pytest.approx(size ** (1 - power) / total, rel=0.01)


def test_kinds_and_origins_have_their_shares_at_once():
    """Ten edits of one source for each of several, all synthetic rows among the former: both marginals are met."""
    rows = Sized(
        [row(k, sources=0) for k in range(30)]
        + [row(100 + k, synthetic=k % 2 == 0) for k in range(100)]
        + [row(300 + k, sources=2) for k in range(10)]
    )
    sampler = sampler_of(rows, kinds={"t2i": 2, "one": 1, "several": 1}, origins={"internet": 9, "synthetic": 1})
    found = frequencies(sampler, lambda row: (len(row.sources), row.synthetic), 100)
    total = found.total()
    by_kind = [sum(n for (sources, _), n in found.items() if sources == k) / total for k in range(3)]
    assert by_kind == pytest.approx([0.5, 0.25, 0.25], abs=0.005)
    assert sum(n for (_, made), n in found.items() if made) / total == pytest.approx(0.1, abs=0.005)
    # a kind that no row is of leaves its share to the others
    sampler = sampler_of(Sized(rows.rows[:130]), kinds={"t2i": 2, "one": 1, "several": 1}, batch_tokens=128)
    assert frequencies(sampler, lambda row: bool(row.sources), 60)[False] / (60 * 130) == pytest.approx(2 / 3, abs=0.01)
    with pytest.raises(UsageError, match="t2i_share"):
        sampler_of(rows, kinds={"one": 1, "several": 3}, t2i_share=0.2)


def test_shares_that_exclude_each_other_are_one_error():
    """No weights of these rows have them: found by linear programming too, over mixes of kinds and origins."""
    rows = [row(k, sources=0) for k in range(8)] + [row(10 + k, synthetic=True) for k in range(8)]
    shares = {"origins": {"internet": 0.3, "synthetic": 0.7}}
    with pytest.raises(UsageError, match=r"70% of what is drawn shall be t2i rows.* internet, which shall be 30%"):
        sampler_of(Sized(rows), kinds={"t2i": 0.7, "one": 0.3}, **shares)  # 0.7 + 0.7 > 1
    with pytest.raises(UsageError, match=r"exclude each other: 50% .* text-to-image rows"):
        sampler_of(Sized(rows), t2i_share=0.5, **shares)
    sampler_of(Sized(rows), t2i_share=0.3, **shares)
    # one row that is both is enough
    sampler = sampler_of(Sized([*rows, row(99, sources=0, synthetic=True)]), t2i_share=0.5, batch_tokens=128, **shares)
    found = frequencies(sampler, lambda row: (bool(row.sources), row.synthetic), 100)
    assert sum(n for (edit, _), n in found.items() if edit) / found.total() == pytest.approx(0.5, abs=0.01)
    assert sum(n for (_, made), n in found.items() if made) / found.total() == pytest.approx(0.7, abs=0.01)


def test_which_shares_are_possible_is_what_linear_programming_says():
    from scipy.optimize import linprog

    random, refused = np.random.default_rng(0), 0
    for _ in range(150):
        there = random.random((3, 2)) < 0.6  # is there a row of this kind and this origin?
        there[0] |= ~there.any(0)  # every origin has one, and so has every kind
        there[:, 0] |= ~there.any(1)
        rows = [row(f"{k}{o}", sources=k, synthetic=bool(o)) for k, o in zip(*np.nonzero(there))]
        kinds, origins = random.multinomial(10, [1 / 3] * 3), random.multinomial(10, [0.5, 0.5])
        cells = list(zip(*np.nonzero(there)))
        sums = [[float(cell[0] == k) for cell in cells] for k in range(3)]
        sums += [[float(cell[1] == o) for cell in cells] for o in range(2)]
        possible = linprog(np.zeros(len(cells)), A_eq=sums, b_eq=[*kinds, *origins]).status == 0
        settings = {"kinds": dict(zip(("t2i", "one", "several"), map(float, kinds)))}
        settings["origins"] = dict(zip(("internet", "synthetic"), map(float, origins)))
        try:
            row_weights(tiny(**settings), Sized(rows))
            assert possible, (settings, cells)
        except UsageError:
            assert not possible, (settings, cells)
            refused += 1
    assert 20 < refused < 130


def test_origins_may_be_what_rows_are_from():
    rows = Sized([row(k, origin="mine" if k % 4 == 0 else "theirs", synthetic=True) for k in range(80)])
    sampler = sampler_of(rows, origins={"mine": 3, "theirs": 1}, batch_tokens=128)
    found = frequencies(sampler, lambda row: row.origin, 60)
    assert found["mine"] / found.total() == pytest.approx(0.75, abs=0.005)
    sampler = sampler_of(rows, origins={"mine": 3, "synthetic": 1}, batch_tokens=128)
    assert frequencies(sampler, lambda row: row.origin, 60)["mine"] / (60 * 80) == pytest.approx(0.75, abs=0.005)
    with pytest.raises(UsageError, match="no row is of thiers"):
        sampler_of(rows, origins={"mine": 3, "thiers": 1})
    with pytest.raises(UsageError, match="no share for synthetic rows"):
        sampler_of(rows, origins={"mine": 3, "internet": 1})
    with pytest.raises(UsageError, match="kinds"):
        tiny(kinds={"two": 1})
    with pytest.raises(UsageError, match="balance"):
        tiny(resample=True)


TABLE_1 = {
    # FireRed-Image-Edit, table 1: internet : synthetic, captions in per cent, pixels, steps, warm-up
    "firered-pretrain": ((100, 5), (55, 40, 5), [384, 512], 300_000, 0),
    "firered-ct": ((5, 10), (20, 60, 20), [512, 1024], 65_000, 0),
    "firered-sft": ((50, 50), (10, 45, 45), [1024, 1024], 5_000, 500),
    "firered-dpo": ((10, 50), (10, 30, 60), [1024, 1024], 5_000, 500),
    "firered-nft": ((10, 10), (10, 30, 60), [1024, 1024], 500, 0),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_presets_are_those_of_the_report(name):
    from edittools.train import load_recipe

    made = load_recipe(name)
    origins, captions, sides, steps, warmup = TABLE_1[name]
    shares = [made.origins[k] / sum(made.origins.values()) for k in ("internet", "synthetic")]
    assert shares == pytest.approx([n / sum(origins) for n in origins])
    assert tuple(made.captions[k] for k in ("original", "structured", "instructive")) == captions
    assert (made.resolution, made.steps, made.warmup) == (sides, steps, warmup)
    assert (made.optimizer, made.betas, made.max_grad_norm, made.weight_decay) == ("adamw", [0.9, 0.999], 1.0, 0.01)
    # 3.4: the ratios, inverses are meant too; 3.3: text to image and edits 1 : 1; 3.4 and 3.5: clusters in balance;
    # preferences are of whatever tasks their rows have
    both = {r for ratio in made.ratios for r in (ratio, ":".join(reversed(ratio.split(":"))))}
    assert both == {"2:1", "16:9", "3:2", "4:3", "1:1", "3:4", "2:3", "9:16", "1:2"}
    t2i = made.kinds["t2i"] / sum(made.kinds.values()) if made.kinds else made.t2i_share
    assert t2i == (-1 if made.objective in ("dpo", "nft") else 0.5)
    assert made.kinds.keys() == ({"t2i", "one", "several"} if name == "firered-ct" else set())
    balanced = {"firered-pretrain": ("", False), "firered-ct": ("cluster", False), "firered-sft": ("task", True)}
    assert (made.balance, made.resample) == balanced.get(name, ("", False)) and made.balance_power == 1.0
    # 3.3: the curriculum is the first stage's; 3.5: the mean of the converging steps is the last one's
    assert bool(made.curriculum) == (name == "firered-pretrain") and (made.ema == 1.0) == (name == "firered-sft")


def test_what_the_stages_draw_by_hand():
    """Of 60 captions, 30 edits of one task and 10 of another: halves, and the tasks equally; a row's share follows."""
    rows = [row(k, "t2i", sources=0) for k in range(60)]
    rows += [row(100 + k, "add", synthetic=True) for k in range(30)]
    rows += [row(200 + k, "remove", synthetic=True) for k in range(10)]
    shares = {"origins": {"internet": 50, "synthetic": 50}, "t2i_share": 0.5, "balance": "task", "resample": True}
    sampler = sampler_of(Sized([dataclasses.replace(r, cluster=r.task) for r in rows]), batch_tokens=128, **shares)
    # 1/2 to the 60 captions; 1/4 to each of the two tasks; times 100 rows
    assert sampler.weights[:60] == pytest.approx(50 / 60) and sampler.weights[60:90] == pytest.approx(25 / 30)
    assert sampler.weights[90:] == pytest.approx(25 / 10)
    found = frequencies(sampler, lambda row: row.task, 40)
    for task, share in (("t2i", 0.5), ("add", 0.25), ("remove", 0.25)):
        assert found[task] / found.total() == pytest.approx(share, abs=0.01)
    # continued training: 5 : 10 million, and 2 : 1 : 1 kinds, of which only the edits of one source are of both origins
    rows = [row(k, sources=0) for k in range(10)]
    rows += [row(100 + k, synthetic=k < 5) for k in range(20)]
    rows += [row(200 + k, sources=3, synthetic=True) for k in range(10)]
    kinds, origins = {"t2i": 30, "one": 50, "several": 20}, {"internet": 5, "synthetic": 10}
    weights = row_weights(tiny(kinds=kinds, origins=origins), Sized(rows))
    # t2i 0.3, all internet; several 0.2, all synthetic; so of one source 1/3 - 0.3 internet and 2/3 - 0.2 synthetic
    assert weights[:10] == pytest.approx(40 * 0.3 / 10) and weights[30:] == pytest.approx(40 * 0.2 / 10)
    assert weights[10:15] == pytest.approx(40 * (2 / 3 - 0.2) / 5, rel=1e-4)
    assert weights[15:30] == pytest.approx(40 * (1 / 3 - 0.3) / 15, rel=1e-4)


def test_resampling_keeps_clusters_even_at_every_step():
    """How far what clusters had is from their shares: at 95% of all times a few rows at most, not dozens."""
    sizes = {"large": 3000, "middle": 300, "small": 10}
    rows = Sized([row(f"{name}-{k}", cluster=name) for name, size in sizes.items() for k in range(size)])

    def worst(**settings):
        sampler = sampler_of(rows, balance="cluster", batch_tokens=128, **settings)
        names = [
            [rows[sampler.samples[draw.sample].row].cluster for draw in batch]
            for batches, _ in itertools.islice(sampler.epochs(), 2)
            for batch in batches
        ]
        assert abs(sum(map(len, names)) - 2 * len(rows)) < 8
        had, far = collections.Counter(), []
        for batch in names:
            had.update(batch)
            far.append(max(abs(had[name] - had.total() / 3) for name in sizes))
        return float(np.quantile(far, 0.95)), collections.Counter(map(tuple, map(sorted, names)))

    (plainly, before), (evenly, after) = worst(), worst(resample=True)
    assert before == after  # the same batches in another order
    assert evenly <= 3 and plainly > 5 * evenly, (evenly, plainly)


def test_captions_and_wordings_have_their_shares():
    texts = {(kind, "en"): kind for kind in ("original", "structured", "instructive")}
    recipe = tiny(captions={"original": 55, "structured": 40, "instructive": 5})
    count = 20_000
    found = collections.Counter(choose_text(recipe, row(k, sources=0, texts=texts), 0)[0] for k in range(count))
    for kind, share in (("original", 0.55), ("structured", 0.40), ("instructive", 0.05)):
        assert abs(found[kind] / count - share) < 4 * math.sqrt(share * (1 - share) / count)
    # a row without one of the kinds: the others keep their proportion
    texts = {(kind, "en"): kind for kind in ("structured", "instructive")}
    found = collections.Counter(choose_text(recipe, row(k, sources=0, texts=texts), 0)[0] for k in range(count))
    assert abs(found["structured"] / count - 40 / 45) < 0.01
    recipe = tiny(instruction_styles={"instruction": 1, "concise": 3})
    texts = {("instruction", "en"): "long", ("concise", "en"): "short", ("detailed", "en"): "never"}
    found = collections.Counter(choose_text(recipe, row(k, texts=texts), 0)[0] for k in range(count))
    assert set(found) == {"long", "short"} and abs(found["short"] / count - 0.75) < 0.015
    # the same kinds of an edit: what it came with, its detailed style, its concise and its user-like one
    recipe = tiny(captions={"original": 20, "structured": 60, "instructive": 20})
    texts = {(kind, "en"): kind for kind in ("instruction", "detailed", "concise", "user_like")}
    found = collections.Counter(choose_text(recipe, row(k, texts=texts), 0)[0] for k in range(count))
    for kind, share in (("instruction", 0.2), ("detailed", 0.6), ("concise", 0.1), ("user_like", 0.1)):
        assert abs(found[kind] / count - share) < 4 * math.sqrt(share * (1 - share) / count)
    # and an edit that has none but its own
    assert choose_text(recipe, row(0), 0)[0] == "change it"


def test_languages_and_dropped_texts_have_their_shares():
    texts = {("instruction", "en"): "english", ("instruction", "zh"): "中文"}
    count = 20_000
    recipe = tiny(language="both", caption_dropout=0.1)
    found = collections.Counter(choose_text(recipe, row(k, texts=texts), 0)[0] for k in range(count))
    for text, share in (("english", 0.45), ("中文", 0.45), ("", 0.1)):
        assert abs(found[text] / count - share) < 4 * math.sqrt(share * (1 - share) / count)
    # which texts are left empty does not depend on the rest of the recipe
    other = tiny(language="en", caption_dropout=0.1)
    empty = [choose_text(recipe, row(k, texts=texts), 0)[0] == "" for k in range(2000)]
    assert empty == [choose_text(other, row(k, texts=texts), 0)[0] == "" for k in range(2000)]
    assert empty != [choose_text(recipe, row(k, texts=texts), 1)[0] == "" for k in range(2000)]


def test_a_row_too_long_for_the_budget_is_one_clear_error():
    with pytest.raises(UsageError, match=r"a row of 3 references has 256 image tokens, and `batch_tokens` is 192"):
        sampler_of(sized([((64, 64),) * 4]))


def waste(sizes, sampler):
    """Use, worked out from the batches of the first epoch."""
    batches, waiting = next(sampler.epochs())
    tokens = lost = pixels = 0
    for draw in itertools.chain(*batches):
        sample = sampler.samples[draw.sample]
        tokens += sum(h * w for h, w in sample.shapes) // 256
        for size, shape in zip(
            (sizes[sample.row][0], *(sizes[sample.row][1 + r] for r in sample.references)), sample.shapes
        ):
            share = images.cropped_share(*map(int, size), *shape)
            lost, pixels = lost + share * size[0] * size[1], pixels + size[0] * size[1]
    drawn = sum(map(len, batches))
    return 1 - tokens / (12288 * len(batches)), lost / pixels, waiting / (waiting + drawn)


def test_buckets_waste_little_on_a_log_normal_mix():
    sizes = log_normal_mix(20_000)
    recipe = tiny(resolution=[512, 512], ratios=RATIOS, batch_tokens=12288)
    sampler = BucketSampler(recipe, sized(sizes), 16, 16)
    unused, cropped, waiting = waste(sizes, sampler)
    assert unused <= 0.05 and cropped <= 0.06 and waiting <= 0.01
    use = sampler.use()
    assert (use.unused, use.cropped, use.waiting) == pytest.approx((unused, cropped, waiting), rel=1e-6)
    assert use.buckets == len({sample.shapes for sample in sampler.samples})


def test_no_image_loses_much_more_than_by_its_best_shape():
    sizes = log_normal_mix(3000, seed=1)
    sampler = BucketSampler(tiny(resolution=[384, 512], ratios=RATIOS, batch_tokens=12288), sized(sizes), 16, 16)
    moved = 0
    for sample in sampler.samples:
        own = np.array(sizes[sample.row])
        best = shapes.choose(own, sampler.shapes)
        ratios = np.log(own[:, 0] / own[:, 1])
        best = np.where(np.abs(ratios - ratios[0]) < 0.06, best[0], best)  # of its scene
        for (h, w), shape, number in zip(own.tolist(), sample.shapes, best):
            more = images.cropped_share(h, w, *shape) - images.cropped_share(h, w, *sampler.shapes[number])
            assert more <= 0.1 + 0.06  # what follows the target may be so much longer
            moved += shape != sampler.shapes[number]
            # nor does it become another size
            assert abs(math.log(shape[0] * shape[1] / math.prod(sampler.shapes[number]))) <= 0.15
    assert moved


# ------------------------------------------------------------------------------------------- plan through loader


def made_rows(count=24):
    random = np.random.default_rng(0)

    def image(h, w):
        return random.integers(0, 256, (h, w, 3), dtype=np.uint8)

    rows = []
    for k in range(count):
        shape = (16, 16) if k % 3 else (8, 32)
        rows.append(edit_row(f"row-{k}", [image(*shape) for _ in range(1 + k % 2)], image(*shape), "change it"))
    return MemoryRows(rows)


def loaded(rank, world, rows, first=0):
    recipe = tiny(microbatches=4, steps=9, ratios=["1:1", "4:1"], timesteps="uniform", shift=3.0)
    system = load_edit_model("small", recipe.model, seed=0, texts=lambda: ["change it"])
    sampler = BucketSampler(recipe, rows, system.patch, system.multiple)
    with Loader(
        recipe, sampler, system, Encoder(system, rows), first=first, rank=rank, world=world, threads=2
    ) as loader:
        return list(loader)


def facts(steps):
    """(step, row, noise, time, target) of every row, in an order of its own."""
    return sorted(
        (work.step, row.id, noise.numpy().tobytes(), t.item(), target.numpy().tobytes())
        for work in steps
        for batch in work.batches
        for row, noise, t, target in zip(batch.rows, batch.noise, batch.t, batch.target)
    )


def test_the_number_of_devices_changes_nothing():
    rows = made_rows()
    one = loaded(0, 1, rows)
    assert [work.step for work in one] == list(range(9))
    for world in (2, 4):
        parts = [loaded(rank, world, rows) for rank in range(world)]
        assert all(len(work.batches) == 4 // world for part in parts for work in part)
        assert facts(itertools.chain(*parts)) == facts(one)
        whole = [sorted(tuple(row.id for row in batch.rows) for batch in work.batches) for work in one]
        union = [
            sorted(tuple(row.id for row in batch.rows) for work in works for batch in work.batches)
            for works in zip(*parts)
        ]
        assert union == whole
        assert [work.rows for work in parts[0]] == [work.rows for work in one]
    assert facts(loaded(0, 1, rows, first=5)) == [fact for fact in facts(one) if fact[0] >= 5]


def test_the_times_of_a_step_are_one_in_every_interval_over_all_its_batches():
    for work in loaded(0, 1, made_rows()):
        t = torch.cat([batch.t for batch in work.batches]).double()
        u = t / (3 - 2 * t)  # the shift by 3 undone
        assert sorted((u * work.rows).long().tolist()) == list(range(work.rows))


def test_noise_is_new_in_every_epoch_and_turn():
    drawn = {
        flow_matching.noise(seed, epoch, turn, name, (4,)).numpy().tobytes()
        for seed in (0, 1) for epoch in (0, 1) for turn in (0, 1) for name in ("a", "b")
    }  # fmt: skip
    assert len(drawn) == 16
    many = flow_matching.noise(0, 0, 0, "a", (100_000,))
    assert stats.kstest(many.numpy(), "norm").pvalue > 1e-3


# ---------------------------------------------------------------------------------------------------- objective


@pytest.mark.parametrize("mean, deviation", [(0.0, 1.0), (-0.5, 0.7), (0.8, 1.3)])
def test_logit_normal_weights_are_the_density(mean, deviation):
    recipe = tiny(timesteps="uniform", weighting="logit-normal", weighting_mean=mean, weighting_deviation=deviation)
    t = np.linspace(0.005, 0.995, 397)
    # the density of sigmoid(z), z normal: that of z times dz/dt
    wanted = stats.norm.pdf(np.log(t / (1 - t)), mean, deviation) / (t * (1 - t))
    found = flow_matching.time_weights(recipe, torch.tensor(t)).double().numpy()
    assert found == pytest.approx(wanted, rel=1e-5)

    def weight(u):
        return flow_matching.time_weights(recipe, torch.tensor([u], dtype=torch.float64)).item()

    assert integrate.quad(weight, 0, 1, limit=200)[0] == pytest.approx(1, abs=1e-4)
    # a loss that is weighted under uniform times has the mean of the same loss under logit-normal times
    loss = lambda u: u**3 + math.sin(5 * u)  # noqa: E731
    weighted = integrate.quad(lambda u: weight(u) * loss(u), 0, 1, limit=200)[0]
    sampled = stats.norm(mean, deviation).expect(lambda z: loss(expit(z)))
    assert weighted == pytest.approx(sampled, abs=1e-4)


def test_weights_at_the_ends_are_finite_and_there_are_none_unless_asked_for():
    recipe = tiny(timesteps="uniform", weighting="logit-normal")
    assert flow_matching.time_weights(recipe, torch.tensor([0.0, 1.0])).isfinite().all()
    assert flow_matching.time_weights(tiny(), torch.tensor([0.1, 0.9])).tolist() == [1, 1]


def test_logit_normal_times_are_distributed_so():
    recipe = tiny(timesteps="logit-normal", shift=1.0)
    t = flow_matching.times(recipe, flow_matching.stratified_uniform(0, 0, 20_000), 0, 4).double().numpy()
    assert stats.kstest(np.log(t / (1 - t)), "norm").statistic < 1e-3


def test_intervals_rotate_and_are_filled_uniformly():
    many = torch.stack([flow_matching.stratified_uniform(0, step, 8) for step in range(4000)])
    assert (many > 0).all() and (many < 1).all()
    intervals = (many * 8).long()
    assert torch.equal(intervals.sort(1).values, torch.arange(8).expand(4000, 8))
    for place in range(8):  # each place of a step has been in each interval
        assert stats.chisquare(np.bincount(intervals[:, place], minlength=8)).pvalue > 1e-4
    inside = (many * 8 - intervals).flatten().numpy()
    assert stats.kstest(inside, "uniform").pvalue > 1e-3


def test_curriculum_begins_at_noise_and_ends_uniform():
    recipe = tiny(timesteps="uniform", shift=1.0, curriculum=[1.5, 0.5], steps=100)
    factors = [flow_matching.curriculum_factor(recipe, step) for step in range(100)]
    assert factors[0] == pytest.approx(math.exp(1.5))
    assert all(a > b for a, b in itertools.pairwise(factors[:50]))
    assert factors[25] == pytest.approx(math.exp(0.75)) and set(factors[50:]) == {1.0}
    u = flow_matching.stratified_uniform(0, 0, 1000)
    means = [flow_matching.times(recipe, u, step, 4).mean().item() for step in range(0, 60, 10)]
    assert all(a > b for a, b in itertools.pairwise(means[:6]))
    assert torch.equal(flow_matching.times(recipe, u, 50, 4), u.float())
    # the mean of s t / (1 + (s - 1) t) over uniform t, by integration
    s = math.exp(1.5)
    assert means[0] == pytest.approx(integrate.quad(lambda t: s * t / (1 + (s - 1) * t), 0, 1)[0], abs=1e-3)


@pytest.mark.parametrize("line", [[256, 0.5, 4096, 1.15], [256, 0.5, 8192, 0.9]])
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_shift_by_tokens_is_that_of_diffusers(line, tokens):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    recipe = tiny(timesteps="uniform", shift_by_tokens=line)
    u = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    mu = calculate_shift(tokens, line[0], line[2], line[1], line[3])
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential")
    wanted = scheduler.time_shift(mu, 1.0, u)
    assert flow_matching.times(recipe, u, 0, tokens).numpy() == pytest.approx(wanted.numpy(), rel=1e-6)
