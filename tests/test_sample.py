"""Editors: results that depend on the seed and not on the batch, and pipelines equal to a direct call."""

import json
import shutil

import numpy as np
import pytest
import torch
import training
from safetensors.torch import load_file, save_file
from tiny_models import save_kontext, save_qwen_edit

from edittools.errors import EditError, RowError, UsageError
from edittools.models import diffusers_pipeline
from edittools.models.editors import EditRequest, load_editor


def picture(seed, height=48, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


# ---------------------------------------------------------------------------------- what `edit train` leaves


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run whose weights are random, so that noise, words and source all show in the result."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    training.run(training.tiny(steps=2), training.MemoryRows(training.pairs()), folder)
    for file in (folder / "transformer").glob("*.safetensors"):
        generator = torch.Generator().manual_seed(0)
        tensors = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in load_file(file).items()}
        save_file(tensors, file)
    return folder


def requests(count):
    words = ["invert the colors", "leave it alone", "leave", "把它变红", "invert colors and leave it alone"]
    return [EditRequest([picture(k)], words[k % len(words)], seed=100 + k) for k in range(count)]


def test_result_does_not_depend_on_the_batch(run):
    editor = load_editor(str(run))
    together = editor.edit(requests(8))
    alone = [editor.edit([request])[0] for request in requests(8)]
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(together, alone))
    assert np.mean([np.mean(a != b) for a, b in zip(together, alone)]) < 0.001


def test_samples_before_rounding_agree_to_float_precision(run):
    editor = load_editor(str(run), steps=2)
    words = ["invert", "leave it alone", "the colors", "x"]
    rows = [EditRequest([picture(k, 16, 16)], text, seed=k) for k, text in enumerate(words)]
    together = editor.sample(rows, ((16, 16), (16, 16)))
    alone = [editor.sample([row], ((16, 16), (16, 16)))[0] for row in rows]
    assert (together - torch.stack(alone)).abs().max() < 1e-5


def test_seed_words_and_source_matter(run):
    editor = load_editor(str(run))
    base = EditRequest([picture(0)], "invert the colors", seed=1)
    result = editor.edit([base])[0]
    assert np.array_equal(result, editor.edit([base])[0])
    for other in (
        EditRequest(base.sources, base.instruction, seed=2),
        EditRequest(base.sources, "leave it alone", seed=1),
        EditRequest([picture(1)], base.instruction, seed=1),
    ):
        assert not np.array_equal(result, editor.edit([other])[0])


def test_sizes_and_numbers_of_sources_mix(run):
    editor = load_editor(str(run))
    results = editor.edit(
        [
            EditRequest([picture(0, 20, 30)], "x", seed=1),
            EditRequest([picture(0), picture(1, 16, 16)], "x", seed=1),
            EditRequest([], "x", seed=1),
            EditRequest([picture(0)], "x", seed=1, height=24, width=8),
        ]
    )
    assert [r.shape for r in results] == [(20, 30, 3), (48, 48, 3), (16, 16, 3), (24, 8, 3)]
    assert all(r.dtype == np.uint8 for r in results)


def test_euler_walks_straight_to_a_constant_guess(run):
    """With x̂_0 constant the path is a line: any number of steps ends at x̂_0."""
    editor = load_editor(str(run))
    constant = torch.full((1, 3, 16, 16), 0.25)
    editor.system.network.forward = lambda x, t, references, conditions: constant
    request = EditRequest([picture(0, 16, 16)], "x", seed=0)
    for editor.steps in (1, 7):
        assert torch.allclose(editor.sample([request], ((16, 16), (16, 16))), constant, atol=1e-6)


def test_errors_name_what_is_missing(run, tmp_path):
    with pytest.raises(EditError, match="nowhere"):
        load_editor("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EditError, match=r"model_index\.json"):
        load_editor(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="float8"):
        load_editor(str(run), dtype="float8")
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / "_end.json").unlink()
    with pytest.raises(EditError, match="not finished"):
        load_editor(str(tmp_path / "half"))


def test_offline_the_missing_download_is_named(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EditError, match="edittools-tests/no-such-model") as caught:
        load_editor("edittools-tests/no-such-model")
    assert "hf download edittools-tests/no-such-model" in caught.value.hint


# ----------------------------------------------------------------------------------------- diffusers pipelines


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_qwen_edit(tmp_path_factory.mktemp("pipelines") / "qwen")


@pytest.fixture
def small_references(monkeypatch):
    """The pipeline's constants for references: 32 pixels a side instead of 1024."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 32 * 32)
    monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 56 * 56)


def stock_qwen(folder):
    from diffusers import QwenImageEditPlusPipeline

    processor = diffusers_pipeline.qwen_processor(folder / "processor")
    pipe = QwenImageEditPlusPipeline.from_pretrained(folder, processor=processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def direct(pipe, request, **call):
    from PIL import Image

    pictures = [Image.fromarray(source) for source in request.sources]
    several = type(pipe).__name__ == "QwenImageEditPlusPipeline"
    generator = torch.Generator().manual_seed(request.seed)
    result = pipe(image=pictures if several else pictures[0], prompt=request.instruction, generator=generator, **call)
    return np.asarray(result.images[0])


QWEN_CALL = {"true_cfg_scale": 2.0, "negative_prompt": " ", "height": 32, "width": 32}


def test_qwen_edit_plus_equals_the_stock_pipeline(qwen, small_references):
    rows = [
        EditRequest([picture(0)], "make it red", seed=3, height=32, width=32),
        EditRequest([picture(1), picture(2)], "put Figure 1 into Figure 2", seed=4, height=32, width=32),
    ]
    call = {"true_cfg_scale": 2.0, "negative_prompt": " "}
    editor = load_editor(str(qwen), steps=2, legacy_positions=True, **call)
    ours, stock = editor.edit(rows), stock_qwen(qwen)
    for result, row in zip(ours, rows):
        assert np.array_equal(result, direct(stock, row, num_inference_steps=2, **QWEN_CALL))
    assert np.array_equal(ours[1], editor.edit(rows[1:])[0])


def test_picture_tokens_get_three_axis_positions(qwen, small_references):
    """By default the text encoder is told which tokens are pictures, which the stock call omits."""
    editor = load_editor(str(qwen), steps=2)
    seen = []
    rope = editor.pipe.text_encoder.model.get_rope_index

    def watch(*args, **kwargs):
        positions = rope(*args, **kwargs)
        seen.append(positions[0])
        return positions

    editor.pipe.text_encoder.model.get_rope_index = watch
    editor.edit([EditRequest([picture(0)], "make it red", seed=3, height=32, width=32)])
    assert seen and not torch.equal(seen[0][1], seen[0][2])  # rows and columns differ inside the picture


@pytest.fixture(scope="module")
def kontext(tmp_path_factory):
    return save_kontext(tmp_path_factory.mktemp("pipelines") / "kontext")


def test_flux_kontext_equals_the_stock_pipeline(kontext):
    from diffusers import FluxKontextPipeline

    rows = [EditRequest([picture(k, 32, 32)], "make it red", seed=k, height=32, width=32) for k in range(2)]
    small = {"_auto_resize": False, "max_area": 32 * 32, "max_sequence_length": 32}
    editor = load_editor(str(kontext), steps=2, **small)
    ours = editor.edit(rows)
    stock = FluxKontextPipeline.from_pretrained(kontext)
    stock.set_progress_bar_config(disable=True)
    for result, row in zip(ours, rows):
        assert result.shape == (32, 32, 3)
        assert np.array_equal(result, direct(stock, row, num_inference_steps=2, height=32, width=32, **small))
    with pytest.raises(RowError, match="one source"):
        editor.edit([EditRequest([picture(0), picture(1)], "x", seed=0)])
    with pytest.raises(RowError, match="no source"):
        editor.edit([EditRequest([], "x", seed=0)])


def test_pipeline_folders_that_cannot_be_used_say_why(kontext, tmp_path):
    with pytest.raises(EditError, match="true_cfg"):
        load_editor(str(kontext), true_cfg=3)
    half = tmp_path / "half"
    shutil.copytree(kontext, half)
    shutil.rmtree(half / "vae")
    with pytest.raises(EditError, match="`vae` is missing"):
        load_editor(str(half))
    shutil.copytree(kontext / "vae", half / "vae")
    (half / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(EditError, match="safetensors"):
        load_editor(str(half))
    index = json.loads((half / "model_index.json").read_text())
    (half / "model_index.json").write_text(json.dumps({**index, "_class_name": ["theirs", "Pipeline"]}))
    with pytest.raises(EditError, match="own pipeline code"):
        load_editor(str(half))
