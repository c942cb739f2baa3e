"""What a run shows of itself: previews of fixed rows and own prompts, and what TensorBoard gets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from training import MemoryRows, edit_row, pairs, run, tiny

from edittools.errors import UsageError
from edittools.nets import load_edit_model
from edittools.nets.images import resize, to_image
from edittools.nets.sampling import euler
from edittools.train import flow_matching
from edittools.train.copies import Average
from edittools.train.parallel import Parallel
from edittools.train.rejects import Rejects
from edittools.train.samples import SIDE, Previews, choose

ALONE = Parallel("single", 0, 1, torch.device("cpu"))


@pytest.fixture
def system():
    made = load_edit_model("small", tiny().model, seed=0, texts=lambda: ["invert the colors", "leave it alone"])
    with torch.no_grad():
        torch.manual_seed(1)
        for p in made.network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def mixed():
    """Edits of two tasks, one of two sources, and a text-to-image row, in this order: 0-3, 4, 5."""
    image = np.random.default_rng(5).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    two = edit_row("two", [image, 255 - image], image, "invert the colors", task="color")
    return [*pairs(4), two, edit_row("t2i", [], image, "leave it alone", task="t2i")]


def test_rows_of_every_kind_are_shown_or_those_named():
    rows = MemoryRows(mixed())
    assert choose(rows, 4, [], Rejects()) == [0, 1, 4, 5]
    assert choose(rows, 2, [], Rejects()) == [0, 4]
    assert choose(rows, 9, [], Rejects()) == [0, 1, 2, 3, 4, 5]
    assert choose(rows, 1, ["two", "row-3"], Rejects()) == [4, 3]
    with pytest.raises(UsageError, match="`sample_ids`: no row has the id three"):
        choose(rows, 1, ["two", "three"], Rejects())


def by_hand(system, rows, k, text, guidance, steps=3, shift=8.0):
    """The result of a row by Euler's method on its own images."""
    row, images = rows.rows[k]
    sources = [torch.from_numpy(p).permute(2, 0, 1)[None] / 127.5 - 1 for p in images[:-1]]
    wanted = [system.collate([system.conditioning(images[:-1], words)]) for words in (text, "")]
    crops = torch.tensor([[[0.0, 0.0, 1.0, 1.0]] * len(images)])
    conditioning, negative = ({**each, "crops": crops} for each in wanted)
    noise = flow_matching.noise(0, 0, 0, row.id, (3, 16, 16))[None]
    made = euler(system, system.network, noise, sources, conditioning, steps=steps, shift=shift, guidance=guidance,
                 negative=negative if guidance != 1 else None)  # fmt: skip
    return to_image(made[0])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_sheet_shows_references_result_and_target(system, tmp_path, guidance):
    rows = MemoryRows(mixed())
    recipe = tiny(sample_ids=["row-2", "two", "t2i"], sample_prompts=["leave it alone", "invert"], sample_steps=3,
                  sample_guidance=guidance, caption_dropout=0.9)  # fmt: skip
    previews = Previews(recipe, rows, system)
    before = {name: p.detach().clone() for name, p in system.network.named_parameters()}
    trained = dict(system.network.named_parameters())
    previews.save(system.network, Average(trained, 0.0), tmp_path / "s" / "00000001.png", ALONE)
    sheet = np.asarray(Image.open(tmp_path / "s" / "00000001.png"))
    assert sheet.shape == (5 * (SIDE + 4), 4 * SIDE, 3)
    texts = ["invert the colors", "invert the colors", "leave it alone", "leave it alone", "invert"]
    assert b"sRGB" in (tmp_path / "s" / "00000001.png").read_bytes()[:64]
    said = json.loads((tmp_path / "s" / "00000001.json").read_text())
    assert [line["prompt"] for line in said] == texts  # of rows none is left out, whatever training drops
    assert [line["id"] for line in said] == ["row-2", "two", "t2i", "row-2", "two"]
    for line, (k, text) in enumerate(zip([2, 4, 5, 2, 4], texts)):
        images = rows.rows[k][1]
        expected = [*images[:-1], by_hand(system, rows, k, text, guidance), images[-1]]
        for column, image in enumerate(expected):
            shown = sheet[line * (SIDE + 4) :, column * SIDE :][:SIDE, :SIDE]
            assert np.abs(shown.astype(int) - resize(image, SIDE, SIDE)).max() <= 2, (line, column)
    assert all(torch.equal(p, before[name]) for name, p in trained.items()) and system.network.training


def test_previews_are_of_the_average_where_there_is_one(system, tmp_path):
    recipe = tiny(sample_rows=2, sample_steps=2)
    previews = Previews(recipe, MemoryRows(pairs(3)), system)
    trained = {name: p for name, p in system.network.named_parameters() if p.requires_grad}
    average = Average(trained, 0.9)
    for value in average.values.values():
        value.add_(0.05 * torch.randn_like(value))
    previews.save(system.network, average, tmp_path / "a.png", ALONE)
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(average.values[name])
    previews.save(system.network, Average(trained, 0.0), tmp_path / "b.png", ALONE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_run_is_the_same_with_previews_and_trackers_see_everything(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tiny(steps=6, sample_every=3, sample_steps=2, sample_rows=2, heldout_every=3, keep_every=0)
    rows, apart = MemoryRows(pairs(20)), MemoryRows(pairs(26)[20:])

    class Stop(Exception):
        pass

    def crash(report):
        if report.step == 5:
            raise Stop

    with pytest.raises(Stop):
        run(recipe, rows, tmp_path / "with", heldout=apart, trackers=["tensorboard"], on_step=crash)
    run(recipe, rows, tmp_path / "with", heldout=apart, trackers=["tensorboard"])
    run(tiny(steps=6), rows, tmp_path / "without")
    weights = [
        (tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("with", "without")
    ]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "with" / "samples" / "00000003.json").read_text())[0]["id"] == "row-20"  # held out
    events = EventAccumulator(str(tmp_path / "with" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss", "heldout/loss/raw", "heldout/loss/average", "heldout/by_task/raw/tone"} <= set(tags["scalars"])
    assert [e.step for e in events.Scalars("heldout/loss/raw")] == [0, 3, 6]
    assert tags["images"] == ["samples"] and [e.step for e in events.Images("samples")] == [3, 6]
    assert "recipe/text_summary" in tags["tensors"]
    with pytest.raises(UsageError, match="sample_ids"):
        run(tiny(steps=2, sample_every=1, sample_ids=["nobody"]), rows, tmp_path / "no")
