"""What a model that changes nothing gives back lies where its source does: measured on ramps, to a tenth of a pixel."""

import io
import math

import numpy as np
import pytest
import torch
import training
from PIL import Image
from training import MemoryRows, edit_row, tiny

from edittools.models import pictures
from edittools.models.edit_dit import placed, positions
from edittools.models.editors import EditRequest, load_editor
from edittools.models.shapes import choose
from edittools.stream import images
from edittools.train.data import Loader
from edittools.train.features import Encoder, Keys
from edittools.train.plan import Plan, Sample, crops
from edittools.train.rows import TARGET, Row

RATIOS = ["1:1", "4:3", "3:2", "2:1"]
IDENTITY = {
    "lr": 0.0, "muon_lr": 0.0, "weight_decay": 0.0, "model_residual": "copy", "ratios": RATIOS, "sides": [48, 48],
    "batch_tokens": 72,
}  # fmt: skip


def ramp(height, width):
    """Red rises from left to right, green from top to bottom, by 200 over the whole picture."""
    made = np.full((height, width, 3), 60.0)
    made[..., 0] = 20 + 200 * (np.arange(width) + 0.5) / width
    made[..., 1] = 20 + 200 * ((np.arange(height) + 0.5) / height)[:, None]
    # dithered: rounded the same way in all rows, 8 bits would bend the line that is fitted
    noise = np.random.default_rng(0).random((height, width, 1))
    return np.floor(made + noise).astype(np.uint8)


def displaced(made):
    """How far from its place in the ramp any corner of a picture lies, in its pixels: a line fitted to each axis."""
    worst = 0.0
    for axis, channel in ((1, 0), (0, 1)):
        count = made.shape[axis]
        inner = slice(math.ceil(0.15 * count), math.floor(0.85 * count) or 1)  # scaling bends a ramp at its ends
        values = made[..., channel].astype(float).mean(1 - axis)[inner]
        places = (np.arange(count) + 0.5)[inner]
        if len(places) < 2:
            continue
        slope, start = np.polyfit(places, values, 1)
        for end in (0, count):
            worst = max(worst, abs((start + slope * end - 20) / (200 / count) - end))
    return worst


def test_the_measure_finds_a_tenth_of_a_pixel():
    moved = np.full((40, 60, 3), 60.0)
    moved[..., 0] = 20 + 200 * (np.arange(60) + 0.6) / 60
    moved[..., 1] = ramp(40, 60)[..., 1]
    assert displaced(moved) == pytest.approx(0.1, abs=0.02) and displaced(ramp(40, 60)) < 0.02
    cut = np.asarray(Image.fromarray(ramp(80, 240)).resize((240, 80), box=(30, 0, 210, 80)))
    assert displaced(cut) > 25


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "identity"
    rows = [edit_row(f"{k}", [ramp(48, 48)], ramp(48, 48), "keep") for k in range(3)]
    training.run(tiny(steps=1, **IDENTITY), MemoryRows(rows), folder)
    return load_editor(str(folder))


@pytest.mark.parametrize(
    "size", [(80, 240), (120, 150), (64, 64), (33, 57), (12, 3000), (1800, 9), (27, 21), (1333, 1001), (1, 400)]
)
def test_an_identity_run_gives_back_a_source_of_any_shape(identity, size):
    [made] = identity.edit([EditRequest([ramp(*size)], "keep", seed=0)])
    assert made.shape == (*size, 3)
    # the model works on pictures of 48 x 48 pixels, in 8 bits: of a hundred times larger ones nobody can tell 0.1
    coarse = max(size[0] / 32, size[1] / 32, 1)
    assert displaced(made) < max(0.1, 0.02 * coarse)


def test_a_result_of_a_wanted_size_is_the_whole_source(identity):
    [made] = identity.edit([EditRequest([ramp(80, 240)], "keep", seed=0, height=100, width=120)])
    assert made.shape == (100, 120, 3) and displaced(made) < 0.1


# ------------------------------------------------------------------------------------------------------ training


def planned(rows, **more):
    recipe = tiny(**{**IDENTITY, "batch_tokens": 144, **more})
    system = training.load_system("small", recipe.model, seed=0, texts=lambda: ["keep"])
    return Plan(recipe, rows, system.patch, system.multiple), system


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((80, 240), (80, 240)),
        ((100, 150), (100, 150)),
        ((101, 151), (300, 450)),  # twice the same picture in other sizes, neither of which is a multiple of anything
        ((667, 1000), (688, 1024)),  # a generator's result, its sides rounded to 16 pixels
        ((331, 500), (97, 149)),
    ],
)
def test_what_a_batch_shows_of_source_and_target_is_the_same(source, target):
    rows = MemoryRows([edit_row("a", [ramp(*source)], ramp(*target), "keep")])
    plan, system = planned(rows)
    [sample] = plan.samples
    assert sample.shapes[0] == sample.shapes[1]
    found = Encoder(system, rows)(sample)
    for channel in (0, 1):
        values = [x[channel].mean(channel) * 127.5 for x in (found.target, found.references[0])]
        slope = float((values[0][-3] - values[0][2]) / (len(values[0]) - 5))
        apart = (values[1] - values[0])[2:-2].numpy()
        line = np.polyval(np.polyfit(np.arange(len(apart)), apart, 1), [0, len(apart)])
        assert np.abs(line).max() / slope < 0.1


@pytest.mark.parametrize("target", [(120, 120), (60, 240), (240, 80)])
def test_a_source_of_another_shape_lies_under_its_target(target):
    """The network starts from the source at its place in the whole picture, whatever was cut off from either."""
    rows = MemoryRows([edit_row("a", [ramp(100, 250)], ramp(*target), "keep")])
    plan, system = planned(rows)
    [sample] = plan.samples
    boxes = crops(rows[0], sample)
    found = Encoder(system, rows)(sample)
    assert boxes[0] != boxes[1] and np.allclose(found.conditions["crops"], boxes)
    x, y = found.target[None], found.references[0][None]
    t, words = torch.tensor([0.5]), {k: v[None] for k, v in found.conditions.items()}
    made = system.network(torch.zeros_like(x), t, [y], words)  # its output layer is zero: the source alone
    for axis, channel in ((0, 1), (1, 0)):  # down by green, across by red
        a, b = (v[0, channel].mean(1 - axis).detach().numpy() * 127.5 for v in (x, made))
        first, last, low, high = (box[k] for box in boxes for k in (1 - axis, 3 - axis))
        places = first + (np.arange(len(a)) + 0.5) / len(a) * (last - first)
        # where the source shows nothing there is nothing to compare
        inside = (places > low + 0.1 * (high - low)) & (places < high - 0.1 * (high - low))
        slope = 200 * (last - first) / len(a)
        assert inside.sum() > len(a) / 3 and abs((b - a)[inside].mean()) / slope < 0.1


def test_positions_are_those_of_the_whole_picture():
    whole = positions(4, 8, torch.tensor([[0.0, 0, 1, 1]]))[0].view(4, 8, -1)
    middle = positions(2, 4, torch.tensor([[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1]]))
    assert torch.allclose(middle[0].view(2, 4, -1), whole[1:3, 2:6], atol=1e-6)
    assert not torch.allclose(middle[0], middle[1])


def test_placed_is_the_shares_worked_by_hand():
    picture = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 3, 4, 8)
    whole, half = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.5, 0, 1, 1]])
    # the right half of the picture, under a target that shows all of it: 0 where nothing is known
    under = placed(picture, half, whole, 4, 8)
    assert under[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0, 0.5, 2.5, 4.5, 6.5])
    # the whole picture under a target that shows its right half: every pixel of it twice as wide
    assert placed(picture, whole, half, 4, 8)[0, 0, 0].tolist() == pytest.approx(
        [3.75 + 0.5 * k for k in range(7)] + [7]
    )


def test_pictures_of_one_size_are_never_cut_differently():
    """Also where samples move to other buckets so that batches are full."""
    random, rows = np.random.default_rng(5), []
    for k in range(300):
        ratio = math.exp(random.normal(0, 0.35))
        source = target = (round((1.2e6 / ratio) ** 0.5), round((1.2e6 * ratio) ** 0.5))
        if k % 6:
            other = ratio * math.exp(random.normal(0, 0.12))
            target = (round((1.2e6 / other) ** 0.5), round((1.2e6 * other) ** 0.5))
        second = (round(source[0] / 3), round(source[1] / 3))
        rows.append(Row(f"{k:03d}", "edit", "edit", {("instruction", "en"): "x"}, [source, second], target))
    listed = MemoryRows([(row, []) for row in rows])
    plan = Plan(tiny(sides=[512, 512], ratios=RATIOS, batch_tokens=16384), listed, 16, 16)
    moved = 0
    for sample in plan.samples:
        row = rows[sample.row]
        boxes, shown = crops(row, sample), [row.target, *(row.sources[r] for r in sample.references)]
        moved += sample.shapes[0] != plan.shapes[choose(np.array([row.target]), plan.shapes)[0]]
        for size, shape, box in zip(shown, sample.shapes, boxes):
            if abs(math.log(size[0] / size[1] * row.target[1] / row.target[0])) < 0.05:
                assert (shape, box) == (sample.shapes[0], boxes[0])
    assert moved


def test_a_picture_decoded_at_a_half_lies_where_it_would():
    """libjpeg rounds sizes up: 1001 pixels are 501 at a half, of which the last is half outside."""
    flat = ramp(667, 1001)
    buffer = io.BytesIO()
    Image.fromarray(flat).save(buffer, "JPEG", quality=100, subsampling=0)
    part = images.decode(buffer.getvalue(), images.Raster(cover=(200, 300)))
    assert part.shape == (334, 501, 3)
    whole = pictures.fit(flat, 200, 300, box=(0.1, 0.1, 0.9, 0.9))
    scaled = pictures.fit(part, 200, 300, box=(0.1, 0.1, 0.9, 0.9), size=(667, 1001))
    for channel, axis in ((0, 1), (1, 0)):
        apart = (scaled[..., channel].astype(float) - whole[..., channel]).mean(1 - axis)[3:-3]
        slope = 160 / whole.shape[axis]
        line = np.polyval(np.polyfit(np.arange(len(apart)), apart, 1), [0, len(apart)])
        assert np.abs(line).max() / slope < 0.1


def test_a_cut_that_is_not_the_middle_has_a_key_of_its_own():
    rows = MemoryRows([edit_row("a", [ramp(101, 152)], ramp(300, 450), "keep")])
    plan, system = planned(rows)
    keys = Keys(system.encoding(), rows, {})
    [sample] = plan.samples
    other = Sample(0, sample.text, sample.references, sample.shapes)
    assert keys.all(sample) == keys.all(other)
    alone = MemoryRows([edit_row("a", [ramp(101, 152)], ramp(101, 152), "keep")])
    assert keys.all(sample)[2] != Keys(system.encoding(), alone, {}).all(sample)[2]


def test_crops_reach_the_network_through_the_loader():
    rows = MemoryRows([edit_row(f"{k}", [ramp(40, 120)], ramp(40, 120), "keep") for k in range(4)])
    plan, system = planned(rows, steps=1)
    with Loader(plan.recipe, plan, system, Encoder(system, rows), first=0) as loader:
        [work] = list(loader)
    crop = work.batches[0].conditions["crops"]
    # a picture of 40 x 120 pixels cut to the shape 32 x 72 keeps the middle 90 of its columns
    assert crop.shape[1:] == (2, 4) and np.allclose(crop[0], [[15 / 120, 0, 105 / 120, 1]] * 2)
    assert rows[0].sources[0] == (40, 120) and TARGET == -1
