"""Editors: results that depend on the seed and not on the batch, and pipelines equal to a direct call."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
import training
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_systems import save_firered, save_kontext

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


def test_cached_steps_are_forgotten_between_rows(run):
    """A row after others, of another shape and of the same, is what it is alone."""
    first, second, third = requests(3)
    wide = EditRequest([picture(7, 48, 80)], "invert the colors", seed=7)
    options = {"steps": 4, "cache": "first-block", "cache_threshold": 10.0}  # all steps but the first are skipped
    together = load_editor(str(run), **options).edit([first, wide, second, third])
    alone = [load_editor(str(run), **options).edit([each])[0] for each in (first, wide, second, third)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone))
    assert not np.array_equal(alone[0], load_editor(str(run), steps=4).edit([first])[0])


def test_samples_before_rounding_agree_to_float_precision(run):
    editor = load_editor(str(run), steps=2)
    words = ["invert", "leave it alone", "the colors", "x"]
    rows = [EditRequest([picture(k, 16, 16)], text, seed=k) for k, text in enumerate(words)]
    prepared = [editor.prepare(row) for row in rows]
    together = editor.sample(prepared)
    alone = [editor.sample([row])[0] for row in prepared]
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
    row = editor.prepare(EditRequest([picture(0, 16, 16)], "x", seed=0))
    for editor.steps in (1, 7):
        assert torch.allclose(editor.sample([row]), constant, atol=1e-6)


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
    return save_firered(tmp_path_factory.mktemp("pipelines") / "qwen")


@pytest.fixture
def small_references(monkeypatch):
    """The pipeline's constants for references: 48 pixels a side instead of 1024."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 48 * 48)
    monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 56 * 56)


def stock_qwen(folder):
    from diffusers import QwenImageEditPlusPipeline

    processor = diffusers_pipeline.qwen_processor(folder / "processor")
    pipe = QwenImageEditPlusPipeline.from_pretrained(folder, processor=processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock_kontext(folder):
    from diffusers import FluxKontextPipeline

    pipe = FluxKontextPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def direct(pipe, request, **call):
    """The stock pipeline's picture (3, H, W) in [0, 1], before it is rounded."""
    pictures = [Image.fromarray(source) for source in request.sources]
    several = type(pipe).__name__ == "QwenImageEditPlusPipeline"
    generator = torch.Generator().manual_seed(request.seed)
    return pipe(
        image=pictures if several else pictures[0], prompt=request.instruction, generator=generator, output_type="pt",
        **call,
    ).images[0]  # fmt: skip


def unrounded(editor, requests, batch_size):
    """Our pictures likewise, by `batch_size`; the shapes of the requests are equal."""
    editor.batch_size = batch_size
    rows = dict(enumerate(editor.prepare(request) for request in requests))
    made = {}
    for few in editor.batches(rows):
        made |= dict(zip(few, editor.sample([rows[k] for k in few])))
    assert len(list(editor.batches(rows))) == -(-len(rows) // batch_size)
    return [((made[k] + 1) / 2).clamp(0, 1) for k in range(len(rows))]


def apart(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs))


WORDS = ["make it red", "turn the sky into a painting of the sea", "x", "把它变红"]


@pytest.mark.parametrize("references", [1, 2])
@pytest.mark.parametrize("legacy", [True, False])
def test_qwen_edit_plus_equals_the_stock_pipeline_row_by_row(qwen, small_references, references, legacy):
    """In one batch: instructions of different lengths, two steps, guidance with its norm rescaled."""
    rows = [
        EditRequest([picture(10 * k + n, 40, 60) for n in range(references)], text, seed=k, height=32, width=48)
        for k, text in enumerate(WORDS)
    ]
    editor = load_editor(str(qwen), steps=2, guidance=3.0, negative="ugly", legacy_positions=legacy)
    stock = stock_qwen(qwen)
    if not legacy:
        diffusers_pipeline.three_axis_positions(stock)
    call = {"num_inference_steps": 2, "true_cfg_scale": 3.0, "negative_prompt": "ugly", "height": 32, "width": 48}
    theirs = [direct(stock, row, **call) for row in rows]
    alone, together = unrounded(editor, rows, 1), unrounded(editor, rows, 4)
    assert apart(alone, theirs) < 1e-5
    assert apart(together, theirs) < 1e-5
    assert apart(together, alone) < 1e-5
    assert min((a - b).abs().max() for a, b in itertools.pairwise(theirs)) > 0.05  # the rows are not all alike
    rounded = editor.edit(rows)
    assert max(np.abs(a.transpose(2, 0, 1) / 255 - b.numpy()).max() for a, b in zip(rounded, theirs)) < 0.51 / 255


def test_qwen_edit_plus_without_guidance(qwen, small_references):
    row = EditRequest([picture(1)], "make it red", seed=4, height=32, width=32)
    editor = load_editor(str(qwen), steps=2, guidance=1.0, legacy_positions=True)
    theirs = direct(stock_qwen(qwen), row, num_inference_steps=2, true_cfg_scale=1.0, height=32, width=32)
    assert apart(unrounded(editor, [row], 1), [theirs]) < 1e-5


class Seen(Exception):
    pass


def first_call(pipe, request, name, **call):
    """What a stock pipeline hands to its transformer, by name, in its first step."""

    def stop(*_, **given):
        raise Seen(given[name])

    pipe.transformer.forward = stop
    with pytest.raises(Seen) as caught:
        direct(pipe, request, **call)
    return caught.value.args[0]


SHAPES = [(40, 60), (70, 41), (48, 48)]


def test_qwen_edit_plus_chooses_the_pipelines_sizes(qwen, monkeypatch):
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 56 * 56)
    stock, editor = stock_qwen(qwen), load_editor(str(qwen), guidance=1.0)
    request = EditRequest([picture(0, *SHAPES[0]), picture(1, *SHAPES[1])], "x", seed=0)
    ((target, *references),) = first_call(stock, request, "img_shapes", num_inference_steps=1)
    row = editor.prepare(request)
    assert [(h // 16, w // 16) for h, w in row.shapes] == [shape[1:] for shape in (target, *references)]
    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 56 * 56)
    small = load_editor(str(qwen), guidance=1.0, side=64)
    assert small.prepare(EditRequest([picture(0, 40, 80)], "x", seed=0)).shapes == ((32, 96), (32, 96))


def test_picture_tokens_get_three_axis_positions(qwen, small_references):
    """By default the text encoder is told which tokens are pictures, which the stock call omits."""
    editor = load_editor(str(qwen), steps=2)
    seen = []
    rope = editor.system.pipe.text_encoder.model.get_rope_index

    def watch(*args, **kwargs):
        positions = rope(*args, **kwargs)
        seen.append(positions[0])
        return positions

    editor.system.pipe.text_encoder.model.get_rope_index = watch
    editor.edit([EditRequest([picture(0)], "make it red", seed=3, height=32, width=32)])
    assert seen and not torch.equal(seen[0][1], seen[0][2])  # rows and columns differ inside the picture


@pytest.fixture(scope="module")
def kontext(tmp_path_factory):
    return save_kontext(tmp_path_factory.mktemp("pipelines") / "kontext")


@pytest.fixture(scope="module")
def undistilled(tmp_path_factory):
    return save_kontext(tmp_path_factory.mktemp("pipelines") / "undistilled", guidance=False)


@pytest.fixture
def small_resolutions(monkeypatch):
    from diffusers.pipelines.flux import pipeline_flux_kontext as module

    monkeypatch.setattr(module, "PREFERRED_KONTEXT_RESOLUTIONS", [(32, 64), (48, 40), (64, 32)])


@pytest.mark.parametrize("distilled", [True, False])
def test_flux_kontext_equals_the_stock_pipeline_row_by_row(request, small_resolutions, distilled):
    folder = request.getfixturevalue("kontext" if distilled else "undistilled")
    rows = [EditRequest([picture(k, 30, 50)], text, seed=k) for k, text in enumerate(WORDS)]
    scale = {"distilled_guidance": 2.5} if distilled else {}
    editor = load_editor(str(folder), steps=2, guidance=2.0, negative="ugly", side=40, **scale)
    editor.preferred = True
    stock = stock_kontext(folder)
    call = {"num_inference_steps": 2, "true_cfg_scale": 2.0, "negative_prompt": "ugly", "guidance_scale": 2.5}
    theirs = [direct(stock, row, max_area=40 * 40, height=30, width=50, **call) for row in rows]
    assert theirs[0].shape == (3, 16, 48)
    alone, together = unrounded(editor, rows, 1), unrounded(editor, rows, 4)
    assert apart(alone, theirs) < 1e-5
    assert apart(together, theirs) < 1e-5
    assert apart(together, alone) < 1e-5
    assert min((a - b).abs().max() for a, b in itertools.pairwise(theirs)) > 0.05


def test_flux_kontext_defaults(kontext, small_resolutions):
    """Guidance-distilled, no second pass; the scale counts."""
    row = EditRequest([picture(3, 40, 40)], "make it red", seed=3)
    stock = stock_kontext(kontext)
    theirs = direct(stock, row, num_inference_steps=2, max_area=32 * 32)
    editor = load_editor(str(kontext), steps=2, side=32)
    editor.preferred = True
    assert apart(unrounded(editor, [row], 1), [theirs]) < 1e-5
    other = load_editor(str(kontext), steps=2, side=32, distilled_guidance=1.0)
    other.preferred = True
    assert apart(unrounded(other, [row], 1), [theirs]) > 1e-3


def test_flux_kontext_chooses_the_pipelines_sizes(kontext):
    stock, editor = stock_kontext(kontext), load_editor(str(kontext))
    for height, width in SHAPES:
        request = EditRequest([picture(0, height, width)], "x", seed=0)
        ids = first_call(stock, request, "img_ids", num_inference_steps=1, height=height, width=width)
        row = editor.prepare(request)
        for frame, shape in enumerate(row.shapes):
            last = ids[ids[:, 0] == frame].amax(0)
            assert (shape[0] // 16 - 1, shape[1] // 16 - 1) == (last[1], last[2])


def test_bfloat16_is_near_and_batches_nearly_agree(kontext, small_resolutions):
    """The stated tolerance: kernels for other batch sizes round otherwise; 8 bits of mantissa are 0.004 of 1."""
    rows = [EditRequest([picture(k, 40, 40)], text, seed=k) for k, text in enumerate(WORDS)]
    exact, editor = (load_editor(str(kontext), "cpu", dtype, steps=4, side=32) for dtype in ("float32", "bfloat16"))
    alone = unrounded(editor, rows, 1)
    together = unrounded(editor, rows, 4)
    assert apart(together, alone) < 0.02
    assert (torch.stack(together) - torch.stack(unrounded(exact, rows, 4))).abs().mean() < 0.01


def test_rows_that_a_model_cannot_edit_are_rejected_alone(kontext, small_resolutions):
    editor = load_editor(str(kontext), steps=1, side=32)
    good = EditRequest([picture(0, 40, 40)], "x", seed=0)
    two, none = EditRequest([picture(0), picture(1)], "x", seed=0), EditRequest([], "x", seed=0)
    first, second, third, fourth = editor.edit([good, two, none, good])
    assert np.array_equal(first, fourth)
    assert isinstance(second, RowError) and "one source" in str(second)
    assert isinstance(third, RowError) and "no source" in str(third)
    assert editor.work.pictures == 2 and editor.work.flops > 0


def test_another_pipeline_goes_row_by_row(tmp_path, small_references):
    """A pipeline without a system: the options under its own names."""
    save_firered(tmp_path / "plain")
    index = json.loads((tmp_path / "plain" / "model_index.json").read_text())
    (tmp_path / "plain" / "model_index.json").write_text(json.dumps({**index, "_class_name": "QwenImageEditPipeline"}))
    row = EditRequest([picture(0)], "make it red", seed=3, height=32, width=32)
    editor = load_editor(str(tmp_path / "plain"), steps=2, guidance=2.0, negative="ugly", legacy_positions=True)
    assert isinstance(editor, diffusers_pipeline.DiffusersEditor)
    seen = {}
    editor.pipe.__class__ = type(
        "Watched", (type(editor.pipe),), {"__call__": lambda self, **given: seen.update(given)}
    )
    with pytest.raises(AttributeError):
        editor.edit([row])
    assert (seen["true_cfg_scale"], seen["negative_prompt"], seen["num_inference_steps"]) == (2.0, "ugly", 2)
    two, none = EditRequest([picture(0), picture(1)], "x", seed=0), EditRequest([], "x", seed=0)
    assert [type(result) for result in editor.edit([two, none])] == [RowError, RowError]
    with pytest.raises(UsageError, match="--side"):
        load_editor(str(tmp_path / "plain"), side=512)


def test_pipeline_folders_that_cannot_be_used_say_why(kontext, tmp_path):
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
