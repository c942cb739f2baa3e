"""Painters: the offline one on planted shapes, LaMa's interface, and diffusers' pipelines on tiny random weights."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import torch
from tiny_models import photo

from edittools.errors import EditError, RowError, UsageError
from edittools.painters import PAINTERS, PaintRequest, Sampling, load_painter
from edittools.painters.backends import inpaint, lama, pipeline
from edittools.painters.canvas import Brush, canvas


def arrays(results: list[np.ndarray | RowError]) -> list[np.ndarray]:
    assert all(isinstance(one, np.ndarray) for one in results), results
    return results  # type: ignore[return-value]


# ---------------------------------------------------------------- OpenCV


def test_a_small_thing_on_a_smooth_ground_is_gone() -> None:
    """The truth behind it is known, because it was laid over it here."""
    pytest.importorskip("cv2")
    painter = inpaint.load()
    y, x = np.mgrid[:160, :200]
    for k in range(5):
        truth = np.stack([90 + 0.2 * x, 120 + 0.1 * y + k, 150 - 0.1 * x], axis=-1)
        truth = (truth + np.random.default_rng(k).normal(0, 1, truth.shape)).clip(0, 255).astype(np.uint8)
        disc = (x - 80 - 8 * k) ** 2 + (y - 70) ** 2 < 12**2
        image = np.where(disc[..., None], np.uint8([20, 200, 40]), truth)
        assert painter.refuses(image, disc) is None
        made = canvas(image, disc, Brush(grow=2, feather=2), painter)
        result = made.paste(arrays(painter.paint([made.request()]))[0])
        error = (result[disc].astype(float) - truth[disc]) ** 2
        assert 10 * np.log10(255**2 / error.mean()) > 35
        assert (result[made.mask == 0] == image[made.mask == 0]).all()


def test_what_it_cannot_paint_is_refused() -> None:
    pytest.importorskip("cv2")
    painter = inpaint.load()
    flat, busy = np.full((100, 100, 3), 90, np.uint8), photo(0, 100, 100)
    busy[:, ::2] //= 3
    small, large = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    small[40:50, 40:50] = large[10:60, 10:60] = True
    assert painter.refuses(flat, small) is None
    assert painter.refuses(flat, large) == "too large for this painter"
    assert painter.refuses(busy, small) == "the ground is not plain"


# ---------------------------------------------------------------- LaMa


class Gray(torch.nn.Module):
    """What LaMa's file is asked: colours 0 to 1, a mask of 0 and 1, sides that are multiples of 8."""

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert image.shape[2] % 8 == 0 and image.shape[3] % 8 == 0
        return image * (1 - mask) + 0.2 * mask


def test_lama_paints_where_the_mask_is_white(tmp_path: Path) -> None:
    torch.jit.script(Gray()).save(tmp_path / "lama.pt")
    painter = load_painter(f"lama={tmp_path / 'lama.pt'}")
    image, mask = photo(1, 37, 51), np.zeros((37, 51), bool)
    mask[10:20, 30:51] = True
    (made,) = arrays(painter.paint([PaintRequest(image, mask)]))
    assert (made[mask] == 51).all() and (made[~mask] == image[~mask]).all()


def test_code_is_run_only_where_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no file"):
        load_painter("lama")
    (tmp_path / "x.pt").write_bytes(b"no code")
    with pytest.raises(EditError, match="no TorchScript file"):
        lama.load(str(tmp_path / "x.pt"))
    with pytest.raises(EditError, match="there is no such file"):
        lama.load(str(tmp_path / "y.pt"))
    with pytest.raises(UsageError, match="no such painter"):
        load_painter("brush")


# ---------------------------------------------------------------- diffusers


@pytest.fixture(scope="module")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.save_flux(tmp_path_factory.mktemp("fill"))


def requests() -> list[PaintRequest]:
    mask = np.zeros((48, 64), bool)
    mask[10:40, 20:50] = True
    return [
        PaintRequest(photo(0, 48, 64), mask, "a cat", seed=1),
        PaintRequest(photo(1, 48, 64), mask, "a long red balloon", seed=2),
        PaintRequest(photo(2, 32, 64), mask[:32], "a cat", seed=3),
    ]


def test_a_batch_of_fill_is_as_single_runs_and_as_the_pipeline(fill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers
    from PIL import Image

    painter = load_painter(f"pipeline={fill}")
    assert painter.wants == {"prompt"} and painter.multiple == 16
    monkeypatch.setitem(painter.call, "num_inference_steps", 2)  # type: ignore[attr-defined]
    together = arrays(painter.paint(requests()))
    pipe = diffusers.FluxFillPipeline.from_pretrained(fill)
    pipe.set_progress_bar_config(disable=True)
    for one, made in zip(requests(), together):
        (alone,) = arrays(painter.paint([one]))
        wanted = pipe(
            image=Image.fromarray(one.image), mask_image=Image.fromarray(one.mask.astype(np.uint8) * np.uint8(255)),
            prompt=one.prompt, height=one.image.shape[0], width=one.image.shape[1], num_inference_steps=2,
            generator=torch.Generator().manual_seed(one.seed),
        ).images[0]  # fmt: skip
        assert made.shape == one.image.shape
        assert np.abs(made.astype(int) - alone).max() <= 1 and np.abs(made.astype(int) - np.asarray(wanted)).max() <= 1


def test_the_seed_and_the_mask_decide_what_is_painted(fill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painter = load_painter(f"pipeline={fill}")
    monkeypatch.setitem(painter.call, "num_inference_steps", 2)  # type: ignore[attr-defined]
    one = requests()[0]
    seeds = [PaintRequest(one.image, one.mask, one.prompt, seed=seed) for seed in (5, 6, 5)]
    first, second, third = arrays(painter.paint(seeds))
    assert (first == third).all() and (first != second).any()
    (turned,) = arrays(painter.paint([PaintRequest(one.image, ~one.mask, one.prompt, seed=5)]))
    assert (turned != first).any()


def test_an_inpainting_pipeline_paints_anew(tmp_path: Path) -> None:
    """Its usual strength begins with what is there: the result would know the pixels under the mask."""
    painter = load_painter(f"pipeline={tiny_pipelines.save_flux(tmp_path, 'FluxInpaintPipeline')}")
    painter.call["num_inference_steps"] = 2  # type: ignore[attr-defined]
    one = requests()[0]
    other = one.image.copy()
    other[one.mask] = 255 - other[one.mask]
    known = []
    for strength in (painter.call["strength"], 0.6):  # type: ignore[attr-defined]
        painter.call |= {"strength": strength, "num_inference_steps": 4}  # type: ignore[attr-defined]
        first, second = arrays(painter.paint([one, PaintRequest(other, one.mask, one.prompt, seed=1)]))
        known.append(np.abs(first[one.mask].astype(int) - second[one.mask]).mean())
    assert known[0] < 0.8 * known[1], known


def test_plain_checkpoints_paint_regions(tmp_path: Path) -> None:
    """The hub's FLUX.1 names a pipeline that takes no mask: its parts are those of one that does."""
    folder = tiny_pipelines.save_flux(tmp_path, "FluxPipeline")
    painter = load_painter(f"pipeline={folder}")
    assert type(painter.pipe).__name__ == "FluxInpaintPipeline" and painter.wants == {"prompt"}  # type: ignore[attr-defined]
    one = requests()[0]
    few, more = (PaintRequest(one.image, one.mask, one.prompt, sampling=Sampling(steps=n, guidance=2)) for n in (1, 2))
    made = arrays(painter.paint([few, more]))
    alone = arrays(painter.paint([more]))[0]
    assert (made[0] != made[1]).any() and np.abs(made[1].astype(int) - alone).max() <= 1
    with pytest.raises(EditError, match="--lora"):
        load_painter(f"pipeline={folder}", lora=("nowhere.safetensors",))
    with pytest.raises(UsageError, match="--painter inpaint has no such option"):
        load_painter("inpaint", controlnet="x")


@pytest.mark.parametrize("name", ["kontext", "klein", "qwen"])
def test_editing_models_paint_regions(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLUX.1 Kontext, FLUX.2 klein, Qwen-Image-Edit: batches as single runs and as the stock in-painting pipeline, and
    guidance is the one that each is guided by: a second pass of Qwen-Image alone."""
    import json

    import tiny_architectures as tiny
    from PIL import Image

    save = {
        "kontext": tiny.save_kontext,
        "klein": lambda folder: tiny.save_flux2(folder, "base"),
        "qwen": tiny.save_firered,
    }
    folder = save[name](tmp_path / name)  # type: ignore[operator]
    if name == "qwen":
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "QwenImageEditPipeline"}))
        # It works at a megapixel whatever it is asked for.
        monkeypatch.setattr("diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_inpaint.calculate_dimensions",
                            lambda area, ratio: (64, 48, None))  # fmt: skip
    painter = load_painter(f"pipeline={folder}")
    seen: dict[str, object] = {}
    kind, stock = type(painter.pipe), type(painter.pipe).__call__  # type: ignore[attr-defined]
    assert "Inpaint" in kind.__name__

    def watched(self: object, **given: object) -> object:
        seen.update(given)
        return stock(self, **given)

    watched.__signature__ = inspect.signature(stock)  # type: ignore[attr-defined]
    monkeypatch.setattr(kind, "__call__", watched)
    more = {"_auto_resize": False, "max_area": 48 * 64} if name == "kontext" else {}
    painter.call |= {key: value for key, value in more.items() if key == "max_area"}  # type: ignore[attr-defined]
    asked = [replace(one, sampling=Sampling(steps=2, guidance=3.0)) for one in requests()[:2]]
    together = arrays(painter.paint(asked))
    told = {"true_cfg_scale": 3.0, "negative_prompt": " "} if name == "qwen" else {"guidance_scale": 3.0}
    assert ("true_cfg_scale" in seen) == (name == "qwen") == ("guidance_scale" not in seen)
    for one, made in zip(asked, together):
        (alone,) = arrays(painter.paint([one]))
        wanted = stock(
            painter.pipe, image=Image.fromarray(one.image),  # type: ignore[attr-defined]
            mask_image=Image.fromarray(one.mask.astype(np.uint8) * np.uint8(255)), prompt=one.prompt, strength=1.0,
            height=48, width=64, num_inference_steps=2, generator=torch.Generator().manual_seed(one.seed),
            **told, **more,
        ).images[0]  # fmt: skip
        assert np.abs(made.astype(int) - alone).max() <= 1
        assert np.abs(made.astype(int) - np.asarray(wanted.resize((64, 48)))).max() <= 1


def test_a_whole_picture_along_its_edges(tmp_path: Path) -> None:
    """A pipeline that has a control and no mask: it paints whole pictures only, and the map decides."""
    painter = load_painter(f"pipeline={tiny_pipelines.save_flux(tmp_path, 'FluxControlPipeline')}")
    one = requests()[0]
    assert painter.wants == {"prompt", "control"}
    assert painter.refuses(one.image, one.mask) == "this painter paints whole pictures only"
    assert painter.refuses(one.image, np.ones_like(one.mask)) is None
    told = {"prompt": "x", "sampling": Sampling(steps=1)}
    maps = [np.full_like(one.image, level) for level in (0, 200)]
    dark, bright, none = painter.paint([PaintRequest(one.image, one.mask, control=m, **told) for m in (*maps, None)])
    assert isinstance(none, RowError) and isinstance(dark, RowError), "of one batch"
    dark, bright = arrays(painter.paint([PaintRequest(one.image, one.mask, control=m, **told) for m in maps]))
    assert dark.shape == one.image.shape and (dark != bright).any()


def test_a_controlnet_beside_a_pipeline(tmp_path: Path) -> None:
    folder, control = tiny_pipelines.save_sdxl(tmp_path)
    painter = load_painter(f"pipeline={folder}", controlnet=str(control))
    assert type(painter.pipe).__name__ == "StableDiffusionXLControlNetInpaintPipeline"  # type: ignore[attr-defined]
    one = requests()[0]
    maps = [np.full_like(one.image, level) for level in (0, 255)]

    def painted(scale: float) -> list[np.ndarray]:
        told = {"prompt": "x", "negative": "y", "seed": 3, "sampling": Sampling(steps=1, control_scale=scale)}
        return arrays(painter.paint([PaintRequest(one.image, one.mask, control=m, **told) for m in maps]))  # type: ignore[arg-type]

    (dark, bright), unled = painted(1.0), painted(0.0)
    assert (dark != bright).any() and np.abs(unled[0].astype(int) - unled[1]).max() <= 1
    told = {"prompt": "x", "seed": 3, "control": maps[0], "sampling": Sampling(steps=1)}
    plain, other = (PaintRequest(one.image, one.mask, negative=said, **told) for said in ("", "a cat"))  # type: ignore[arg-type]
    beside, alone = arrays(painter.paint([plain, other]))[0], arrays(painter.paint([plain]))[0]
    assert np.abs(beside.astype(int) - alone).max() <= 1, "another's negative prompt is not its own"
    with pytest.raises(EditError, match="takes a ControlNetModel"):
        load_painter(f"pipeline={folder}", controlnet=str(folder / "unet"))


def test_a_pipeline_without_a_mask_is_no_painter(tmp_path: Path) -> None:
    import json

    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableCascadeDecoderPipeline"}))
    with pytest.raises(EditError, match="a StableCascadeDecoderPipeline does not paint regions"):
        pipeline.load(str(tmp_path))


def test_what_a_pipeline_raises_costs_its_rows(fill: Path) -> None:
    painter = load_painter(f"pipeline={fill}")
    painter.call["num_inference_steps"] = 0  # type: ignore[attr-defined]
    assert all(isinstance(one, RowError) for one in painter.paint(requests()))


def test_every_painter_declares_what_is_read_of_it() -> None:
    assert all(PAINTERS.declared("HELP").values()) and None not in PAINTERS.declared("WEIGHTS").values()


def test_a_backdrop_is_a_wall_of_its_colour() -> None:
    painter = load_painter("backdrop")
    mask = np.ones((60, 80), bool)
    asked = [PaintRequest(photo(0, 60, 80), mask, f"a plain {colour} wall", seed=3) for colour in ("blue", "red")]
    blue, red = arrays(painter.paint(asked))
    assert blue[..., 2].mean() > blue[..., 0].mean() + 40 and red[..., 0].mean() > red[..., 2].mean() + 40
    assert blue[:5, :, 2].mean() > blue[-5:, :, 2].mean() + 10, "lit from above"
    (again, other) = arrays(painter.paint([asked[0], PaintRequest(asked[0].image, mask, "a plain blue wall", seed=4)]))
    assert (again == blue).all() and (other != blue).any()
    (refused,) = painter.paint([PaintRequest(asked[0].image, mask, "a beach")])
    assert isinstance(refused, RowError) and "plain walls" in refused.reason


def test_a_clone_stamp_lays_a_like_piece_over_the_region() -> None:
    """On a ground with a pattern the truth is known: in-painting would blur it, and there is nothing like noise."""
    cv2 = pytest.importorskip("cv2")
    painter = load_painter("clone")
    y, x = np.mgrid[:200, :260]
    waves = 110 + 25 * np.sin(x / 5) + 15 * np.sin(y / 7) + x * 0.1
    truth = np.stack([waves, waves + 20, 200 - waves], axis=-1).clip(0, 255).astype(np.uint8)
    disc = (x - 150) ** 2 + (y - 90) ** 2 < 13**2
    image = np.where(disc[..., None], np.uint8([250, 20, 40]), truth)
    assert painter.refuses(image, disc) is None
    made = canvas(image, disc, Brush(grow=2, feather=2), painter)
    assert made.box[2] - made.box[0] >= 6 * 26, "it sees more than the border"
    result = made.paste(arrays(painter.paint([made.request()]))[0])
    blurred = cv2.inpaint(np.ascontiguousarray(image), disc.astype(np.uint8), 5, cv2.INPAINT_TELEA)
    errors = [((one[disc].astype(float) - truth[disc]) ** 2).mean() for one in (result, blurred)]
    assert errors[0] < 0.25 * errors[1] and (result[made.mask == 0] == image[made.mask == 0]).all(), errors
    noise = np.random.default_rng(0).integers(0, 255, image.shape, dtype=np.uint8)
    assert painter.refuses(noise, disc) == "nothing like its surroundings is there"
    assert painter.refuses(image, (x - 150) ** 2 + (y - 90) ** 2 < 45**2) == "too large for this painter"
    line = (abs(y - 90) < 3) & (x > 20) & (x < 240)
    assert inpaint.load().refuses(np.full_like(image, 90), line) is None, "long and thin, however much it is"
