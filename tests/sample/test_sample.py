"""Editors: results that depend on the seed and not on the batch, and pipelines equal to a direct call."""

import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import training
from PIL import Image
from tiny_architectures import save_firered, save_kontext

from edittools.errors import EditError, RowError, UsageError
from edittools.nets import pipeline_editor
from edittools.nets.editor import EditRequest
from edittools.nets.load import load_editor
from edittools.weights import diffusers as diffusers_weights


def image(seed, height=48, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


# ---------------------------------------------------------------------------------- what `edit train` leaves


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return training.random_run(tmp_path_factory.mktemp("runs") / "run")


def requests(count):
    words = ["invert the colors", "leave it alone", "leave", "把它变红", "invert colors and leave it alone"]
    return [EditRequest([image(k)], words[k % len(words)], seed=100 + k) for k in range(count)]


def test_result_does_not_depend_on_the_batch(run):
    editor = load_editor(str(run))
    together = editor.edit(requests(8))
    alone = [editor.edit([request])[0] for request in requests(8)]
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(together, alone))
    assert np.mean([np.mean(a != b) for a, b in zip(together, alone)]) < 0.001


def test_cached_steps_are_forgotten_between_rows(run):
    """A row after others, of another shape and of the same, is what it is alone."""
    first, second, third = requests(3)
    wide = EditRequest([image(7, 48, 80)], "invert the colors", seed=7)
    options = {"steps": 4, "cache": "first-block", "cache_threshold": 10.0}  # all steps but the first are skipped
    together = load_editor(str(run), **options).edit([first, wide, second, third])
    alone = [load_editor(str(run), **options).edit([each])[0] for each in (first, wide, second, third)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone))
    assert not np.array_equal(alone[0], load_editor(str(run), steps=4).edit([first])[0])


def test_samples_before_rounding_agree_to_float_precision(run):
    editor = load_editor(str(run), steps=2)
    words = ["invert", "leave it alone", "the colors", "x"]
    rows = [EditRequest([image(k, 16, 16)], text, seed=k) for k, text in enumerate(words)]
    prepared = [editor.prepare(row) for row in rows]
    together = editor.sample(prepared)
    alone = [editor.sample([row])[0] for row in prepared]
    assert (together - torch.stack(alone)).abs().max() < 1e-5


def test_seed_words_and_source_matter(run):
    editor = load_editor(str(run))
    base = EditRequest([image(0)], "invert the colors", seed=1)
    result = editor.edit([base])[0]
    assert np.array_equal(result, editor.edit([base])[0])
    for other in (
        EditRequest(base.sources, base.instruction, seed=2),
        EditRequest(base.sources, "leave it alone", seed=1),
        EditRequest([image(1)], base.instruction, seed=1),
    ):
        assert not np.array_equal(result, editor.edit([other])[0])


def test_sizes_and_numbers_of_sources_mix(run):
    editor = load_editor(str(run))
    results = editor.edit(
        [
            EditRequest([image(0, 20, 30)], "x", seed=1),
            EditRequest([image(0), image(1, 16, 16)], "x", seed=1),
            EditRequest([], "x", seed=1),
            EditRequest([image(0)], "x", seed=1, height=24, width=8),
        ]
    )
    assert [r.shape for r in results] == [(20, 30, 3), (48, 48, 3), (16, 16, 3), (24, 8, 3)]
    assert all(r.dtype == np.uint8 for r in results)


def test_euler_walks_straight_to_a_constant_guess(run):
    """With x̂_0 constant the path is a line: any number of steps ends at x̂_0."""
    editor = load_editor(str(run))
    constant = torch.full((1, 3, 16, 16), 0.25)
    editor.edit_model.network.forward = lambda x, t, references, conditioning: constant
    row = editor.prepare(EditRequest([image(0, 16, 16)], "x", seed=0))
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

    processor = diffusers_weights.qwen_processor(folder / "processor")
    pipe = QwenImageEditPlusPipeline.from_pretrained(folder, processor=processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock_kontext(folder):
    from diffusers import FluxKontextPipeline

    pipe = FluxKontextPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def direct(pipe, request, **call):
    """The stock pipeline's image (3, H, W) in [0, 1], before it is rounded."""
    images = [Image.fromarray(source) for source in request.sources]
    several = type(pipe).__name__ == "QwenImageEditPlusPipeline"
    generator = torch.Generator().manual_seed(request.seed)
    return pipe(
        image=images if several else images[0], prompt=request.instruction, generator=generator, output_type="pt",
        **call,
    ).images[0]  # fmt: skip


def unrounded(editor, requests, batch_size):
    """Our images likewise, by `batch_size`; the shapes of the requests are equal."""
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
        EditRequest([image(10 * k + n, 40, 60) for n in range(references)], text, seed=k, height=32, width=48)
        for k, text in enumerate(WORDS)
    ]
    editor = load_editor(str(qwen), steps=2, guidance_scale=3.0, negative_prompt="ugly", legacy_positions=legacy)
    stock = stock_qwen(qwen)
    if not legacy:
        diffusers_weights.three_axis_positions(stock)
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
    row = EditRequest([image(1)], "make it red", seed=4, height=32, width=32)
    editor = load_editor(str(qwen), steps=2, guidance_scale=1.0, legacy_positions=True)
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
    stock, editor = stock_qwen(qwen), load_editor(str(qwen), guidance_scale=1.0)
    channels, scale = stock.vae.config.z_dim, stock.vae_scale_factor
    # only the shapes count here, and a megapixel takes the autoencoder seconds
    stock._encode_vae_image = lambda image, generator: torch.zeros(
        len(image), channels, 1, image.shape[-2] // scale, image.shape[-1] // scale
    )
    request = EditRequest([image(0, *SHAPES[0]), image(1, *SHAPES[1])], "x", seed=0)
    ((target, *references),) = first_call(stock, request, "img_shapes", num_inference_steps=1)
    row = editor.prepare(request)
    assert [(h // 16, w // 16) for h, w in row.shapes] == [shape[1:] for shape in (target, *references)]
    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 56 * 56)
    small = load_editor(str(qwen), guidance_scale=1.0, resolution=64)
    assert small.prepare(EditRequest([image(0, 40, 80)], "x", seed=0)).shapes == ((32, 96), (32, 96))


def test_image_tokens_get_three_axis_positions(qwen, small_references):
    """By default the text encoder is told which tokens are images, which the stock call omits."""
    editor = load_editor(str(qwen), steps=2)
    seen = []
    rope = editor.edit_model.pipe.text_encoder.model.get_rope_index

    def watch(*args, **kwargs):
        positions = rope(*args, **kwargs)
        seen.append(positions[0])
        return positions

    editor.edit_model.pipe.text_encoder.model.get_rope_index = watch
    editor.edit([EditRequest([image(0)], "make it red", seed=3, height=32, width=32)])
    assert seen and not torch.equal(seen[0][1], seen[0][2])  # rows and columns differ inside the image


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
    rows = [EditRequest([image(k, 30, 50)], text, seed=k) for k, text in enumerate(WORDS)]
    scale = {"distilled_guidance": 2.5} if distilled else {}
    editor = load_editor(str(folder), steps=2, guidance_scale=2.0, negative_prompt="ugly", resolution=40, **scale)
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
    row = EditRequest([image(3, 40, 40)], "make it red", seed=3)
    stock = stock_kontext(kontext)
    theirs = direct(stock, row, num_inference_steps=2, max_area=32 * 32)
    editor = load_editor(str(kontext), steps=2, resolution=32)
    editor.preferred = True
    assert apart(unrounded(editor, [row], 1), [theirs]) < 1e-5
    other = load_editor(str(kontext), steps=2, resolution=32, distilled_guidance=1.0)
    other.preferred = True
    assert apart(unrounded(other, [row], 1), [theirs]) > 1e-3


def test_flux_kontext_chooses_the_pipelines_sizes(kontext):
    stock, editor = stock_kontext(kontext), load_editor(str(kontext))
    for height, width in SHAPES:
        request = EditRequest([image(0, height, width)], "x", seed=0)
        ids = first_call(stock, request, "img_ids", num_inference_steps=1, height=height, width=width)
        row = editor.prepare(request)
        for frame, shape in enumerate(row.shapes):
            last = ids[ids[:, 0] == frame].amax(0)
            assert (shape[0] // 16 - 1, shape[1] // 16 - 1) == (last[1], last[2])


def test_bfloat16_is_near_and_batches_nearly_agree(kontext, small_resolutions):
    """The stated tolerance: kernels for other batch sizes round otherwise; 8 bits of mantissa are 0.004 of 1."""
    rows = [EditRequest([image(k, 40, 40)], text, seed=k) for k, text in enumerate(WORDS)]
    exact, editor = (
        load_editor(str(kontext), "cpu", dtype, steps=4, resolution=32) for dtype in ("float32", "bfloat16")
    )
    alone = unrounded(editor, rows, 1)
    together = unrounded(editor, rows, 4)
    assert apart(together, alone) < 0.02
    assert (torch.stack(together) - torch.stack(unrounded(exact, rows, 4))).abs().mean() < 0.01


def test_rows_that_a_model_cannot_edit_are_rejected_alone(kontext, small_resolutions):
    editor = load_editor(str(kontext), steps=1, resolution=32)
    good = EditRequest([image(0, 40, 40)], "x", seed=0)
    two, none = EditRequest([image(0), image(1)], "x", seed=0), EditRequest([], "x", seed=0)
    first, second, third, fourth = editor.edit([good, two, none, good])
    assert np.array_equal(first, fourth)
    assert isinstance(second, RowError) and "one source" in str(second)
    assert isinstance(third, RowError) and "no source" in str(third)
    assert editor.work.images == 2 and editor.work.flops > 0


def test_another_pipeline_goes_row_by_row(tmp_path, small_references):
    """A pipeline without an architecture: the options under its own names."""
    save_firered(tmp_path / "plain")
    index = json.loads((tmp_path / "plain" / "model_index.json").read_text())
    (tmp_path / "plain" / "model_index.json").write_text(json.dumps({**index, "_class_name": "QwenImageEditPipeline"}))
    row = EditRequest([image(0)], "make it red", seed=3, height=32, width=32)
    editor = load_editor(
        str(tmp_path / "plain"), steps=2, guidance_scale=2.0, negative_prompt="ugly", legacy_positions=True
    )
    assert isinstance(editor, pipeline_editor.DiffusersEditor)
    seen = {}
    editor.pipe.__class__ = type(
        "Watched", (type(editor.pipe),), {"__call__": lambda self, **given: seen.update(given)}
    )
    (failed,) = editor.edit([row])
    assert isinstance(failed, RowError) and "Watched cannot edit it: AttributeError" in str(failed)
    assert (seen["true_cfg_scale"], seen["negative_prompt"], seen["num_inference_steps"]) == (2.0, "ugly", 2)
    two, none = EditRequest([image(0), image(1)], "x", seed=0), EditRequest([], "x", seed=0)
    assert [type(result) for result in editor.edit([two, none])] == [RowError, RowError]
    with pytest.raises(UsageError, match="--resolution"):
        load_editor(str(tmp_path / "plain"), resolution=512)
    with pytest.raises(UsageError, match="--batch-size"):  # it takes one row at a time, and said nothing
        load_editor(str(tmp_path / "plain"), batch_size=8)
    assert load_editor(str(tmp_path / "plain"), batch_size=1).batch_size == 1


class Moody:
    """A pipeline that raises what a row's prompt says."""

    device = "cpu"

    def __call__(self, image, prompt, generator):
        if prompt != "fine":
            kinds = {"memory": torch.OutOfMemoryError, "index": IndexError, "value": ValueError}
            raise kinds.get(prompt, RuntimeError)(f"{prompt}: no")
        return SimpleNamespace(images=[image])


def moody(*prompts, editor=None):
    editor = editor or pipeline_editor.DiffusersEditor(Moody(), {})
    found = editor.edit([EditRequest([image(0)], prompt, seed=k) for k, prompt in enumerate(prompts)])
    return [str(each) if isinstance(each, RowError) else "fine" for each in found]


def test_whatever_a_pipeline_raises_costs_one_row():
    assert moody("fine", "shape", "fine", "index", *["shape"] * 9, "fine") == [
        "fine", "Moody cannot edit it: RuntimeError: shape: no", "fine", "Moody cannot edit it: IndexError: index: no",
        *["Moody cannot edit it: RuntimeError: shape: no"] * 9, "fine",
    ]  # fmt: skip
    assert moody(*["value"] * 9, "fine")[-1] == "fine"
    assert moody("a", "a", "fine", "a")[2] == "fine" and moody("a", "b", "a", "a", "fine")[4] == "fine"


def test_what_befalls_all_of_the_first_rows_ends_the_run_in_one_line():
    with pytest.raises(EditError, match="Moody cannot edit any of the first rows: RuntimeError: shape 7: no"):
        moody("shape 12", "shape 40", "shape 7", "fine")
    editor = pipeline_editor.DiffusersEditor(Moody(), {})
    for _ in range(2):
        moody("shape", editor=editor)  # one row a call, as they come
    with pytest.raises(EditError, match="first rows"):
        moody("shape", editor=editor)
    with pytest.raises(EditError, match="more than the memory of cpu holds"):
        moody("fine", "memory")


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


def test_numbers_that_are_not_finite_make_no_image(run):
    """They made a black one: a row in half precision that overflows, say. The others of its batch are whole."""
    editor = load_editor(str(run), steps=1)
    sample = editor.sample

    def spoilt(rows):
        images = sample(rows)
        for k, row in enumerate(rows):
            if row.request.seed == 101:
                images[k, 0, 0, 0] = float("nan")
        return images

    wanted = editor.edit(requests(3))
    editor.sample = spoilt
    found = editor.edit(requests(3))
    assert isinstance(found[1], RowError) and str(found[1]) == "the model's numbers are not finite: float32"
    assert np.array_equal(found[0], wanted[0]) and np.array_equal(found[2], wanted[2])


@pytest.mark.parametrize("where", ["prepare", "sample", "load"])
def test_a_device_that_is_too_small_is_one_line(run, monkeypatch, where):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    if where == "load":
        monkeypatch.setattr("edittools.nets.run_folder.load", full)
        with pytest.raises(EditError, match="more than the memory of cpu holds"):
            load_editor(str(run))
        return
    editor = load_editor(str(run), steps=1)
    monkeypatch.setattr(editor, where, full)
    with pytest.raises(EditError, match="more than the memory of cpu holds") as told:
        editor.edit(requests(2))
    assert "--batch-size" in told.value.hint
