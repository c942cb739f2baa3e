"""The painter that is shown an image beside the picture, on tiny random FLUX.1 Fill and Redux."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines
import torch
from PIL import Image
from tiny_models import photo

from edittools.errors import EditError, RowError
from edittools.painters import PaintRequest, Sampling, load_painter
from edittools.painters.backends.in_context import beside


@pytest.fixture(scope="module")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.save_flux(tmp_path_factory.mktemp("fill"))


@pytest.fixture(scope="module")
def redux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.save_redux(tmp_path_factory.mktemp("redux"))


def request(seed: int, reference: np.ndarray | None) -> PaintRequest:
    mask = np.zeros((48, 32), bool)
    mask[10:40, 8:24] = True
    shown = () if reference is None else (reference,)
    return PaintRequest(photo(seed, 48, 32), mask, "a cat", seed=seed, references=shown, sampling=Sampling(steps=2))


def by_hand(pipe: Any, one: PaintRequest, **told: Any) -> np.ndarray:
    """The picture to the right of the reference, painted by the stock pipeline, cut off again."""
    both = np.concatenate([one.references[0], one.image], axis=1)
    mask = np.concatenate([np.zeros_like(one.mask), one.mask], axis=1)
    made = pipe(
        image=Image.fromarray(both), mask_image=Image.fromarray(mask.astype(np.uint8) * np.uint8(255)),
        height=48, width=64, num_inference_steps=2, generator=torch.Generator().manual_seed(one.seed), **told,
    ).images[0]  # fmt: skip
    return np.asarray(made)[:, 32:]


def test_it_paints_what_the_stock_pipeline_paints_beside_the_reference(fill: Path) -> None:
    import diffusers

    painter = load_painter(f"in_context={fill}")
    assert painter.wants == {"prompt", "reference"} and painter.area == 2**19
    asked = [request(0, photo(7, 48, 32)), request(1, None), request(2, photo(8, 48, 32))]
    first, none, second = painter.paint(asked)
    assert isinstance(none, RowError) and none.reason == "this painter wants a reference"
    pipe = diffusers.FluxFillPipeline.from_pretrained(fill)
    pipe.set_progress_bar_config(disable=True)
    for one, made in ((asked[0], first), (asked[2], second)):
        assert isinstance(made, np.ndarray) and made.shape == one.image.shape
        assert np.abs(made.astype(int) - by_hand(pipe, one, prompt=one.prompt)).max() <= 1
    (other,) = painter.paint([request(0, photo(9, 48, 32))])
    assert (other != first).any()


def test_redux_puts_the_reference_into_the_prompt(fill: Path, redux: Path) -> None:
    """Of two references each its own: the stock prior adds up what it makes of a list."""
    import diffusers

    painter = load_painter(f"in_context={fill}", redux=str(redux))
    asked = [request(0, photo(7, 48, 32)), request(0, photo(8, 48, 32))]
    made = painter.paint(asked)
    pipe = diffusers.FluxFillPipeline.from_pretrained(fill)
    pipe.set_progress_bar_config(disable=True)
    encoders = {name: getattr(pipe, name) for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    prior = diffusers.FluxPriorReduxPipeline.from_pretrained(redux, **encoders)
    plain = load_painter(f"in_context={fill}").paint(asked)
    for one, result, without in zip(asked, made, plain):
        found = prior(image=Image.fromarray(one.references[0]), prompt=one.prompt)
        assert found.prompt_embeds.shape[1] == 512 + 4  # the text, and the patches of an image of 16 x 16
        wanted = by_hand(pipe, one, prompt_embeds=found.prompt_embeds, pooled_prompt_embeds=found.pooled_prompt_embeds)
        assert isinstance(result, np.ndarray) and np.abs(result.astype(int) - wanted).max() <= 1
        assert (result != without).any()


def test_what_redux_raises_costs_its_rows(fill: Path, redux: Path) -> None:
    painter = load_painter(f"in_context={fill}", redux=str(redux))
    painter.prior = lambda **told: 1 / 0  # type: ignore[attr-defined]
    assert all(isinstance(one, RowError) for one in painter.paint([request(0, photo(7, 48, 32))]))


def test_what_cannot_be_shown_a_reference(fill: Path, redux: Path, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"--redux .*: a FluxFillPipeline, not a FluxPriorReduxPipeline"):
        load_painter(f"in_context={fill}", redux=str(fill))
    control = tiny_pipelines.save_flux(tmp_path / "control", "FluxControlPipeline")
    with pytest.raises(EditError, match="does not paint regions by a prompt alone"):
        load_painter(f"in_context={control}")
    sdxl, _ = tiny_pipelines.save_sdxl(tmp_path)
    with pytest.raises(EditError, match="takes no prompt of it"):
        load_painter(f"in_context={sdxl}", redux=str(redux))


def test_a_reference_of_another_shape_is_shown_whole() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    made = beside(request(0, wide))
    assert made.image.shape == (48, 64, 3) and not made.mask[:, :32].any()
    assert (made.image[20:28, :32] == 0).all() and (made.image[:19, :32] == 255).all()
    assert (made.image[:, 32:] == request(0, None).image).all()
