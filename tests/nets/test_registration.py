"""What a model that changes nothing gives back lies where its source does: measured on ramps, to a tenth of a pixel."""

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import training
from PIL import Image
from test_architectures import recipe as training_recipe
from tiny_architectures import save_e1, save_firered, save_flux2, save_kontext, save_qwen21, save_step1x
from training import MemoryRows, edit_row, tiny

from edittools.errors import UsageError
from edittools.nets import images, load_edit_model
from edittools.nets.editor import EditRequest
from edittools.nets.load import load_editor
from edittools.nets.shapes import choose
from edittools.nets.small.edit_dit import placed, positions
from edittools.stream import codec
from edittools.train.bucket_sampler import BucketSampler, TrainSample, crops
from edittools.train.data import Loader
from edittools.train.features import Encoder, Keys, shows
from edittools.train.rows import TARGET, TrainRow

RATIOS = ["1:1", "4:3", "3:2", "2:1"]
IDENTITY = {
    "lr": 0.0, "muon_lr": 0.0, "weight_decay": 0.0, "model_residual": "copy", "ratios": RATIOS, "resolution": [48, 48],
    "batch_tokens": 72,
}  # fmt: skip


def ramp(height, width):
    """Red rises from left to right, green from top to bottom, by 200 over the whole image."""
    made = np.full((height, width, 3), 60.0)
    made[..., 0] = 20 + 200 * (np.arange(width) + 0.5) / width
    made[..., 1] = 20 + 200 * ((np.arange(height) + 0.5) / height)[:, None]
    # dithered: rounded the same way in all rows, 8 bits would bend the line that is fitted
    noise = np.random.default_rng(0).random((height, width, 1))
    return np.floor(made + noise).astype(np.uint8)


def displaced(made):
    """How far from its place in the ramp any corner of an image lies, in its pixels: a line fitted to each axis."""
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
    # the model works on images of 48 x 48 pixels, in 8 bits: of a hundred times larger ones nobody can tell 0.1
    coarse = max(size[0] / 32, size[1] / 32, 1)
    assert displaced(made) < max(0.1, 0.02 * coarse)


def test_a_result_of_a_wanted_size_is_the_whole_source(identity):
    [made] = identity.edit([EditRequest([ramp(80, 240)], "keep", seed=0, height=100, width=120)])
    assert made.shape == (100, 120, 3) and displaced(made) < 0.1


def waves(height, width):
    """Six from left to right in red, six from top to bottom in green: steep enough for a hundredth of a pixel."""
    made = np.full((height, width, 3), 127.5)
    made[..., 0] += 100 * np.sin(12 * np.pi * (np.arange(width) + 0.5) / width)
    made[..., 1] += 100 * np.sin(12 * np.pi * (np.arange(height) + 0.5) / height)[:, None]
    return made.round().astype(np.uint8)


def moved(made):
    """How many pixels, at most, a sixth of the waves lies beside its place, to first order of the difference."""
    wanted, worst = waves(*made.shape[:2]), 0.0
    for axis, channel in ((1, 0), (0, 1)):
        there, here = (image[..., channel].astype(float).mean(1 - axis) for image in (wanted, made))
        slope = np.gradient(there)
        for part in np.array_split(np.arange(len(there)), 6):
            worst = max(worst, abs(((here - there) * slope)[part].sum() / (slope**2)[part].sum()))
    return worst


def test_the_waves_find_a_twentieth_of_a_pixel():
    beside = np.asarray(Image.fromarray(waves(480, 6400)).resize((640, 480), box=(0, 0, 6399, 480)))
    assert moved(waves(480, 640)) == 0 and moved(beside) == pytest.approx(0.1 * 11 / 12, abs=0.02)


def gives_back(editor, factor):
    """Have the network of an editor know that the result is the first reference, and its autoencoder be exact."""
    model = editor.edit_model
    model.latents = lambda images: F.pixel_unshuffle(images[:, :3].float(), factor)
    model.images = model.results = lambda latents: F.pixel_shuffle(latents.float(), factor)
    model.latent_shape = lambda height, width: (3 * factor**2, height // factor, width // factor)

    def network(x, t, references, conditioning, *more):
        known = model.images(references[0])
        wanted = model.images(x).shape[-2:]
        if known.shape[-2:] != wanted:
            known = F.interpolate(known, size=wanted, mode="bicubic", antialias=True)
        return (x.float() - model.latents(known)) / t[:, None, None, None]

    editor.network = network
    return editor


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("published"), {}
    for name, save in (("kontext", save_kontext), ("firered", save_firered), ("flux2", save_flux2),
                       ("qwen21", save_qwen21), ("step1x", save_step1x)):  # fmt: skip
        save(root / name)
        made[name] = str(root / name)
    return made


@pytest.mark.parametrize("size", [(667, 1000), (500, 333), (125, 700), (323, 325)])
@pytest.mark.parametrize(
    ("name", "factor"), [("kontext", 8), ("firered", 8), ("flux2", 16), ("qwen21", 16), ("step1x", 8)]
)
def test_every_architecture_gives_back_its_source_where_it_lies(published, name, factor, size, monkeypatch):
    """Whatever it does to its source, at two sizes that the model works at, with a network that would change nothing.
    (That of ImgEdit-E1 sees no latents of the source.)"""
    if name == "step1x":  # the tiny tokenizer's request is longer
        from edittools.nets.step1x import versions

        _, dropped = save_step1x(Path(published["step1x"]))
        monkeypatch.setitem(versions.VERSIONS, "1.0", dataclasses.replace(versions.VERSIONS["1.0"], dropped=dropped))
    for side in (256, 400):
        editor = load_editor(published[name], resolution=side, steps=2, guidance_scale=1.0)
        [made] = gives_back(editor, factor).edit([EditRequest([waves(*size)], "keep", seed=0, whole=True)])
        assert moved(images.resize(made[..., :3], *size)) < 0.1, (side, made.shape)


# ------------------------------------------------------------------------------------------------------ training


def planned(rows, **more):
    recipe = tiny(**{**IDENTITY, "batch_tokens": 144, **more})
    system = training.load_edit_model("small", recipe.model, seed=0, texts=lambda: ["keep"])
    return BucketSampler(recipe, rows, system.patch, system.multiple), system


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((80, 240), (80, 240)),
        ((100, 150), (100, 150)),
        ((101, 151), (300, 450)),  # twice the same image in other sizes, neither of which is a multiple of anything
        ((667, 1000), (688, 1024)),  # a generator's result, its sides rounded to 16 pixels
        ((331, 500), (97, 149)),
    ],
)
def test_what_a_batch_shows_of_source_and_target_is_the_same(source, target):
    rows = MemoryRows([edit_row("a", [ramp(*source)], ramp(*target), "keep")])
    sampler, system = planned(rows)
    [sample] = sampler.samples
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
    """The network starts from the source at its place in the whole image, whatever was cut off from either."""
    rows = MemoryRows([edit_row("a", [ramp(100, 250)], ramp(*target), "keep")])
    sampler, system = planned(rows)
    [sample] = sampler.samples
    boxes = crops(rows[0], sample)
    found = Encoder(system, rows)(sample)
    assert boxes[0] != boxes[1] and np.allclose(found.conditioning["crops"], boxes)
    x, y = found.target[None], found.references[0][None]
    t, words = torch.tensor([0.5]), {k: v[None] for k, v in found.conditioning.items()}
    made = system.network(torch.zeros_like(x), t, [y], words)  # its output layer is zero: the source alone
    for axis, channel in ((0, 1), (1, 0)):  # down by green, across by red
        a, b = (v[0, channel].mean(1 - axis).detach().numpy() * 127.5 for v in (x, made))
        first, last, low, high = (box[k] for box in boxes for k in (1 - axis, 3 - axis))
        places = first + (np.arange(len(a)) + 0.5) / len(a) * (last - first)
        # where the source shows nothing there is nothing to compare
        inside = (places > low + 0.1 * (high - low)) & (places < high - 0.1 * (high - low))
        slope = 200 * (last - first) / len(a)
        assert inside.sum() > len(a) / 3 and abs((b - a)[inside].mean()) / slope < 0.1


def test_positions_are_those_of_the_whole_image():
    whole = positions(4, 8, torch.tensor([[0.0, 0, 1, 1]]))[0].view(4, 8, -1)
    middle = positions(2, 4, torch.tensor([[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1]]))
    assert torch.allclose(middle[0].view(2, 4, -1), whole[1:3, 2:6], atol=1e-6)
    assert not torch.allclose(middle[0], middle[1])


def test_placed_is_the_shares_worked_by_hand():
    image = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 3, 4, 8)
    whole, half = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.5, 0, 1, 1]])
    # the right half of the image, under a target that shows all of it: 0 where nothing is known
    under = placed(image, half, whole, 4, 8)
    assert under[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0, 0.5, 2.5, 4.5, 6.5])
    # the whole image under a target that shows its right half: every pixel of it twice as wide
    assert placed(image, whole, half, 4, 8)[0, 0, 0].tolist() == pytest.approx([3.75 + 0.5 * k for k in range(7)] + [7])


def test_images_of_one_size_are_never_cut_differently():
    """Also where samples move to other buckets so that batches are full."""
    random, rows = np.random.default_rng(5), []
    for k in range(300):
        ratio = math.exp(random.normal(0, 0.35))
        source = target = (round((1.2e6 / ratio) ** 0.5), round((1.2e6 * ratio) ** 0.5))
        if k % 6:
            other = ratio * math.exp(random.normal(0, 0.12))
            target = (round((1.2e6 / other) ** 0.5), round((1.2e6 * other) ** 0.5))
        second = (round(source[0] / 3), round(source[1] / 3))
        rows.append(TrainRow(f"{k:03d}", "edit", "edit", {("instruction", "en"): "x"}, [source, second], target))
    listed = MemoryRows([(row, []) for row in rows])
    sampler = BucketSampler(tiny(resolution=[512, 512], ratios=RATIOS, batch_tokens=16384), listed, 16, 16)
    moved = 0
    for sample in sampler.samples:
        row = rows[sample.row]
        boxes, shown = crops(row, sample), [row.target, *(row.sources[r] for r in sample.references)]
        moved += sample.shapes[0] != sampler.shapes[choose(np.array([row.target]), sampler.shapes)[0]]
        for size, shape, box in zip(shown, sample.shapes, boxes):
            if abs(math.log(size[0] / size[1] * row.target[1] / row.target[0])) < 0.05:
                assert (shape, box) == (sample.shapes[0], boxes[0])
    assert moved


def test_a_image_decoded_at_a_half_lies_where_it_would():
    """libjpeg rounds sizes up: 1001 pixels are 501 at a half, of which the last is half outside."""
    flat = ramp(667, 1001)
    buffer = io.BytesIO()
    Image.fromarray(flat).save(buffer, "JPEG", quality=100, subsampling=0)
    part = codec.decode(buffer.getvalue(), codec.Raster(cover=(200, 300)))
    assert part.shape == (334, 501, 3)
    whole = images.fit(flat, 200, 300, box=(0.1, 0.1, 0.9, 0.9))
    scaled = images.fit(part, 200, 300, box=(0.1, 0.1, 0.9, 0.9), size=(667, 1001))
    for channel, axis in ((0, 1), (1, 0)):
        apart = (scaled[..., channel].astype(float) - whole[..., channel]).mean(1 - axis)[3:-3]
        slope = 160 / whole.shape[axis]
        line = np.polyval(np.polyfit(np.arange(len(apart)), apart, 1), [0, len(apart)])
        assert np.abs(line).max() / slope < 0.1


def test_a_cut_that_is_not_the_middle_has_a_key_of_its_own():
    rows = MemoryRows([edit_row("a", [ramp(101, 152)], ramp(300, 450), "keep")])
    sampler, system = planned(rows)
    keys = Keys(system.encoding(), rows, {})
    [sample] = sampler.samples
    other = TrainSample(0, sample.text, sample.references, sample.shapes)
    assert keys.all(sample) == keys.all(other)
    alone = MemoryRows([edit_row("a", [ramp(101, 152)], ramp(101, 152), "keep")])
    assert keys.all(sample)[2] != Keys(system.encoding(), alone, {}).all(sample)[2]


def test_crops_reach_the_network_through_the_loader():
    rows = MemoryRows([edit_row(f"{k}", [ramp(40, 120)], ramp(40, 120), "keep") for k in range(4)])
    sampler, system = planned(rows, steps=1)
    with Loader(sampler.recipe, sampler, system, Encoder(system, rows), first=0) as loader:
        [work] = list(loader)
    crop = work.batches[0].conditioning["crops"]
    # an image of 40 x 120 pixels cut to the shape 32 x 72 keeps the middle 90 of its columns
    assert crop.shape[1:] == (2, 4) and np.allclose(crop[0], [[15 / 120, 0, 105 / 120, 1]] * 2)
    assert rows[0].sources[0] == (40, 120) and TARGET == -1


# ------------------------------------------------------------------------------- positions of published networks


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    root = tmp_path_factory.mktemp("flux")
    step1x, dropped = save_step1x(root / "step1x", "1.1")
    return {
        "kontext": {"weights": str(save_kontext(root / "kontext"))},
        "step1x": {"weights": str(step1x), "dropped": dropped},
        "imgedit_e1": {"weights": str(save_e1(root / "e1")), "references": True},
    }


def seen_positions(system, sample, rows):
    """Of every image of a sample: the positions (h, w, 3) that the transformer is given, and the cut ramp."""
    made, given = Encoder(system, rows), {}
    found = made(sample)
    images = [made._cut(sample.row, shown) for shown in shows(rows[sample.row], sample)]
    transformer = system.network.transformer

    def watch(**kwargs):
        given["ids"] = kwargs["img_ids"]
        return (torch.zeros_like(kwargs["hidden_states"]),)

    transformer.forward = watch
    x = found.target[None].float()
    with torch.no_grad():
        system.network(x, torch.tensor([0.5]), [r[None].float() for r in found.references],
                       system.collate([found.conditioning]))  # fmt: skip
    del transformer.forward
    grids = [(p.shape[0] // 16, p.shape[1] // 16) for p in images]
    return zip(given["ids"].split([h * w for h, w in grids]), grids, images)


@pytest.mark.parametrize("name", ["kontext", "step1x", "imgedit_e1"])
@pytest.mark.parametrize("crop_positions", [True, False])
def test_positions_of_flux_are_those_of_the_whole_ramp_where_asked(flux, name, crop_positions):
    """A ramp says where each token lies in its whole image; the positions, counted in tokens, say the same."""
    system = load_edit_model(name, {**flux[name], "crop_positions": crop_positions}, dtype="float32")
    assert system.one_row is crop_positions
    rows = MemoryRows([edit_row("a", [ramp(400, 640)], ramp(480, 640), "keep")])
    sampler = BucketSampler(
        tiny(resolution=[160, 160], ratios=["1:1", "2:1"], batch_tokens=1000), rows, 16, 16, system.one_row
    )
    [sample] = sampler.samples
    boxes = crops(rows[0], sample)
    assert boxes[0] != boxes[1] and (0, 0, 1, 1) not in boxes
    offset = {"step1x": 1}.get(name, 0)  # v1.1's references lie one row and one column on
    for number, (ids, grid, image) in enumerate(seen_positions(system, sample, rows)):
        left, top, right, bottom = boxes[number] if crop_positions else (0.0, 0.0, 1.0, 1.0)
        ids = ids[:, 1:].view(*grid, 2).numpy() - (offset if number else 0)
        assert np.allclose(np.diff(ids[..., 0], axis=0), 1) and np.allclose(np.diff(ids[..., 1], axis=1), 1)
        for axis, channel, share in ((0, 1, bottom - top), (1, 0, right - left)):
            lies = image[..., channel].reshape(grid[0], 16, grid[1], 16).mean((1, 3))
            lies = (lies.mean(1 - axis) - 20) / 200 * grid[axis] / share  # in tokens of the whole image
            said = ids[..., axis].mean(1 - axis) + 0.5
            apart = np.abs(lies - said)[1:-1].max() * 16  # pixels
            uncut = boxes[number][1 - axis] == 0
            assert apart < 0.1 if crop_positions or uncut else apart > 4, (axis, apart)


def test_flux_counts_whole_images_alike_with_and_without_crop_positions(flux):
    """In sampling nothing is cut: the setting changes no image."""
    made = []
    for crop_positions in (False, True):
        system = load_edit_model("kontext", {**flux["kontext"], "crop_positions": crop_positions}, dtype="float32")
        torch.manual_seed(0)
        x, y = torch.randn(2, 1, 4, 8, 12)
        conditioning = system.collate([system.conditioning([], "keep")])
        whole = {**conditioning, "crops": torch.tensor([[[0.0, 0, 1, 1]] * 2])}
        with torch.no_grad():
            made += [system.network(x, torch.tensor([0.5]), [y], each) for each in (conditioning, whole)]
    assert all(torch.equal(made[0], each) for each in made[1:])


def test_crop_positions_train_in_batches_of_one_row(flux, tmp_path):
    made = training_recipe(
        "kontext", {**flux["kontext"], "crop_positions": True}, ratios=["1:1", "2:1"], microbatches=2
    )
    training.run(
        made, MemoryRows([edit_row(f"{k}", [ramp(64, 96)], ramp(64, 96), "keep") for k in range(4)]), tmp_path / "run"
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["samples"] == 2 * lines[-1]["step"]
    assert load_editor(str(tmp_path / "run"), steps=1).edit_model.network.transformer is not None
    with pytest.raises(UsageError, match="crop_positions"):
        load_edit_model("step1x", {**flux["step1x"], "version": "1.2", "crop_positions": True}, encoders=False)


@pytest.mark.parametrize("whole, cut", [((64, 96), (64, 64)), ((60, 90), (60, 60)), ((45, 64), (32, 64))])
def test_qwen_counts_from_the_middle_so_that_cut_images_keep_their_places(whole, cut):
    """The rotary embedding of a cut image's tokens is that of the same tokens of the whole one, to half a token."""
    from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope

    rope = QwenEmbedRope(10000, [16, 56, 56], scale_rope=True)
    middle = [(a - b) / 2 for a, b in zip(whole, cut)]  # tokens cut off at the top and on the left
    turns, kept_turns = (rope._compute_video_freqs(1, *size, 0, None).view(*size, 64) for size in (whole, cut))
    for axis, first in ((0, 8), (1, 36)):  # of a token's 64 angles, the first of its row's and its column's
        # the fastest wave: a radian a token
        places, kept = (each[..., first].angle().select(1 - axis, 0) for each in (turns, kept_turns))
        low, high = math.floor(middle[axis]), math.ceil(middle[axis])
        near = [(places[k : k + cut[axis]] - kept).remainder(2 * math.pi) for k in (low, high)]
        apart = [torch.minimum(each, 2 * math.pi - each).max().item() for each in near]
        assert min(apart) < 1e-4 and low + high == 2 * middle[axis], apart
