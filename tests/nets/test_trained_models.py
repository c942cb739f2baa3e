"""A trained model is a first-class model: every option of a published folder, its system's defaults, runs upon runs."""

import dataclasses
import importlib.util
import itertools
import json
import math
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_architectures import recipe
from test_sample import apart, direct, image, small_references, stock_kontext, stock_qwen, unrounded
from test_train_command import stored_keys
from tiny_architectures import save_e1, save_firered, save_kontext, save_step1x
from training import MemoryRows, pairs, run, tiny

from edittools.errors import EditError, RowError, UsageError
from edittools.nets import load_edit_model, most_references, sees_references
from edittools.nets.editor import EditRequest
from edittools.nets.flow import shift_factor
from edittools.nets.load import load_editor
from edittools.nets.lora import convert
from edittools.nets.sampling import scheduler_shift
from edittools.train import load_recipe, log
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.origin import check_references, settle
from edittools.train.rows import TrainRow
from edittools.weights import diffusers as diffusers_weights
from edittools.weights.digest import model_digest

__all__ = ["small_references"]


def trained(folder, system, model, **overrides):
    """A run of one step."""
    made = recipe(system, model, steps=1, sample_steps=0, sample_guidance=0.0, **overrides)
    run(made, MemoryRows(pairs(2, side=64)), folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    step1x, dropped = save_step1x(root / "step1x", "1.1")
    return {
        "firered": {"weights": str(save_firered(root / "firered"))},
        "kontext": {"weights": str(save_kontext(root / "kontext"))},
        "step1x": {"weights": str(step1x), "dropped": dropped},
        "imgedit_e1": {"weights": str(save_e1(root / "e1"))},
    }


@pytest.fixture(scope="module")
def runs(bases, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {system: trained(root / system, system, model) for system, model in bases.items()}


# -------------------------------------------------------------------------------------------------------- sampling


def test_a_run_is_what_plain_diffusers_makes_of_its_folder(runs, small_references):
    request = EditRequest([image(1, 40, 60)], "make it red", seed=3, height=32, width=48)
    stock = stock_qwen(runs["firered"])
    diffusers_weights.three_axis_positions(stock)
    call = {"num_inference_steps": 2, "true_cfg_scale": 4.0, "negative_prompt": " ", "height": 32, "width": 48}
    theirs = direct(stock, request, **call)
    editor = load_editor(str(runs["firered"]), steps=2)
    assert apart(unrounded(editor, [request], 1), [theirs]) < 1e-5
    [made] = editor.edit([request])
    assert np.abs(made.transpose(2, 0, 1) / 255 - theirs.numpy()).max() <= 1 / 255
    before = load_editor(
        json.loads((runs["firered"] / "config.json").read_text())["recipe"]["model"]["weights"], steps=2
    )
    assert np.abs(before.edit([request])[0].astype(int) - made).max() > 1  # it has been trained


def test_a_kontext_run_likewise(runs, monkeypatch):
    from diffusers.pipelines.flux import pipeline_flux_kontext as module

    monkeypatch.setattr(module, "PREFERRED_KONTEXT_RESOLUTIONS", [(48, 48), (64, 32)])
    request = EditRequest([image(1, 48, 48)], "make it red", seed=3)
    editor = load_editor(str(runs["kontext"]), steps=2)
    editor.area = 64**2
    call = {"num_inference_steps": 2, "guidance_scale": 3.5, "height": 64, "width": 64, "max_area": 64**2}
    theirs = direct(stock_kontext(runs["kontext"]), request, **call)
    assert apart(unrounded(editor, [request], 1), [theirs]) < 2e-4


DEFAULTS = {"firered": (40, 4.0, " "), "kontext": (28, 1.0, ""), "step1x": (28, 6.0, ""), "imgedit_e1": (28, 1.0, "")}


@pytest.mark.parametrize("system", DEFAULTS)
def test_a_run_has_the_defaults_of_its_system(runs, bases, system):
    ours, published = (
        load_editor(str(runs[system])),
        load_editor(bases[system]["weights"]) if system != "step1x" else None,
    )
    assert (ours.steps, ours.guidance, ours.negative) == DEFAULTS[system]
    assert ours.area == 1024**2
    assert getattr(ours.edit_model.network, "guidance", None) == (3.5 if system in ("kontext", "imgedit_e1") else None)
    if published is not None:
        assert (published.steps, published.guidance, published.negative, published.area) == (
            ours.steps, ours.guidance, ours.negative, ours.area
        )  # fmt: skip


@pytest.mark.parametrize("system", DEFAULTS)
def test_a_run_takes_the_options_of_a_published_folder(runs, system):
    """Guidance, resolution, precision: one image of the wanted size each."""
    options = {"steps": 2, "guidance_scale": 2.0, "negative_prompt": "ugly", "resolution": 64, "batch_size": 2}
    if system in ("kontext", "imgedit_e1"):
        options["distilled_guidance"] = 2.5
    if importlib.util.find_spec("torchao") is None:
        with pytest.raises(EditError, match="--quantize int8 needs the package `torchao`"):
            load_editor(str(runs[system]), quantize="int8")
    else:
        rough = load_editor(str(runs[system]), quantize="int8").edit_model.network.transformer
        assert type(rough.transformer_blocks[0].attn.to_q.weight).__name__ != "Parameter"
    editor = load_editor(str(runs[system]), dtype="bfloat16", **options)
    assert editor.dtype == torch.bfloat16
    [made] = editor.edit([EditRequest([image(0, 64, 64)], "make it red", seed=0)])
    assert made.shape == (64, 64, 3)
    if system not in ("kontext", "imgedit_e1"):
        with pytest.raises(UsageError, match="distilled-guidance"):
            load_editor(str(runs[system]), distilled_guidance=3.0)


def test_a_network_from_scratch_samples_at_the_resolution_it_was_trained_at(bases, tmp_path):
    from tiny_architectures import QWEN

    folder = trained(tmp_path / "run", "firered", {**bases["firered"], "transformer": QWEN})
    editor = load_editor(str(folder))
    assert editor.area == 64**2 and editor.prepare(EditRequest([image(0)], "x", seed=0)).shapes == ((64, 64),) * 2
    assert load_editor(str(folder), resolution=96).area == 96**2


def test_what_a_recipe_says_of_sampling_is_the_runs_default(bases, tmp_path):
    made = recipe("firered", bases["firered"], steps=1, sample_steps=3, sample_guidance=2.5)
    run(made, MemoryRows(pairs(2, side=64)), tmp_path / "run")
    editor = load_editor(str(tmp_path / "run"))
    assert (editor.steps, editor.guidance) == (3, 2.5)
    editor = load_editor(str(tmp_path / "run"), steps=5, guidance_scale=1.0)
    assert (editor.steps, editor.guidance) == (5, 1.0)


@pytest.mark.parametrize("system", DEFAULTS)
def test_a_run_is_the_weights_of_another(runs, bases, system, tmp_path):
    """The second begins where the first ended, and is whole by itself."""
    first = runs[system]
    kept = {k: v for k, v in bases[system].items() if k != "weights"}
    again = load_edit_model(system, {**kept, "weights": str(first)})
    saved = load_file(first / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(again.network.transformer.state_dict()[name], t) for name, t in saved.items())
    second = trained(tmp_path / "second", system, {**kept, "weights": str(first)})
    names = {path.name for path in second.iterdir()} - {"log.jsonl"}
    assert names == {path.name for path in first.iterdir()} - {"log.jsonl"}
    editor = load_editor(str(second), steps=2, resolution=64, guidance_scale=1.0)
    assert editor.edit([EditRequest([image(0, 64, 64)], "x", seed=0)])[0].shape == (64, 64, 3)


def test_a_run_says_which_version_it_is_of(bases, tmp_path):
    """Also where the recipe said it and the weights' folder does not."""
    import shutil

    shutil.copytree(bases["step1x"]["weights"], tmp_path / "unsaid")
    (tmp_path / "unsaid" / "edit.json").unlink()
    model = {**bases["step1x"], "weights": str(tmp_path / "unsaid"), "version": "1.1"}
    folder = trained(tmp_path / "run", "step1x", model)
    assert json.loads((folder / "edit.json").read_text()) == {"system": "step1x", "version": "1.1"}
    assert load_editor(str(folder), steps=1).edit_model.number == "1.1"


# -------------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("system", ["firered", "kontext"])
def test_adapters_of_a_run_go_on_it_and_go_on(runs, system, tmp_path):
    base = runs[system]
    lora = {"rank": 2, "alpha": 4}
    folder = trained(tmp_path / "lora", system, {"weights": str(base), "lora": lora}, lr=0.05)
    request = EditRequest([image(0, 64, 64)], "x", seed=0)
    options = {"steps": 2, "resolution": 64, "guidance_scale": 1.0}
    plain = load_editor(str(base), **options).edit([request])[0].astype(int)
    beside = load_editor(str(base), lora=(str(folder),), **options).edit([request])[0].astype(int)
    alone = load_editor(str(folder), **options).edit([request])[0].astype(int)
    assert np.array_equal(beside, alone) and np.abs(beside - plain).max() > 0
    assert model_digest(str(folder)).endswith(f" on {model_digest(str(base))}")
    # adapters that start from these, and learn nothing, are these, whatever rank the recipe had
    chosen = load_recipe("lora", {"model.weights": str(folder), "model.lora.rank": 7})
    settled = settle(chosen)
    assert settled.model == {"weights": str(base), "lora": {**lora, "start": str(folder)}}
    on = trained(tmp_path / "on", system, settled.model, lr=0.0, weight_decay=0.0)
    first, second = (load_file(f / "pytorch_lora_weights.safetensors") for f in (folder, on))
    assert first.keys() == second.keys() and all(torch.allclose(first[n], second[n], atol=1e-7) for n in first)
    assert any(t.any() for n, t in first.items() if "lora_B" in n)


def test_a_run_of_adapters_whose_base_has_gone_says_so(runs, bases, tmp_path):
    folder = trained(tmp_path / "lora", "firered", {**bases["firered"], "lora": {"rank": 2}})
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["model"]["weights"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EditError, match="no such folder") as caught:
        load_editor(str(folder))
    assert f"--lora {folder}" in caught.value.hint
    whole = dataclasses.replace(recipe("firered", {"weights": str(folder)}))
    with pytest.raises(EditError, match="holds adapters"):
        settle(whole)


@pytest.mark.parametrize("system", DEFAULTS)
def test_adapters_go_on_every_system(runs, system, tmp_path):
    from edittools.nets.lora import save_adapters
    from edittools.nets.lora_files import Adapter

    plain = load_editor(str(runs[system]), steps=1)
    transformer = plain.edit_model.network.transformer
    name = "transformer_blocks.0.attn.to_q"
    out, inner = transformer.get_submodule(name).weight.shape
    adapter = Adapter({"down": torch.randn(2, inner), "up": torch.randn(out, 2)}, 0.5)
    save_adapters({name: adapter}, transformer, tmp_path, "kohya", torch.float32)
    merged = load_editor(str(runs[system]), steps=1, lora=(f"{tmp_path}:2",)).edit_model.network.transformer
    wanted = transformer.get_submodule(name).weight + adapter.tensors["up"] @ adapter.tensors["down"]
    assert torch.allclose(merged.get_submodule(name).weight, wanted, atol=1e-5)


# ------------------------------------------------------------------------------------- what the weights decide


def test_the_shift_of_time_is_the_samplers(bases):
    """At 4096 tokens: FLUX.1's e^1.15, Qwen-Image's 0.5 + 0.4 (4096 - 256) / (8192 - 256)."""
    for system, mu in (("kontext", 1.15), ("firered", 0.5 + 0.4 * 3840 / 7936), ("step1x", 1.15)):
        made = settle(recipe(system, bases[system], shift=0.0, shift_by_tokens=[]))
        found = shift_factor(made.shift, made.shift_by_tokens, 4096)
        if system == "kontext":  # the tiny pipeline's own scheduler, as diffusers makes its times
            from diffusers import FlowMatchEulerDiscreteScheduler

            scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(bases[system]["weights"], subfolder="scheduler")
            scheduler.set_timesteps(sigmas=[0.5], mu=mu)
            assert float(scheduler.sigmas[0]) == pytest.approx(found / (found + 1), rel=1e-6)
        assert found == pytest.approx(math.exp(mu), rel=1e-6)
    asked = settle(recipe("kontext", bases["kontext"], shift=2.0, shift_by_tokens=[]))
    assert shift_factor(asked.shift, asked.shift_by_tokens, 4096) == 2.0


def test_the_shift_of_a_scheduler_without_a_line(tmp_path):
    (tmp_path / "scheduler").mkdir()
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"shift": 3.0, "use_dynamic_shifting": False}))
    assert scheduler_shift(tmp_path) == (3.0, [])
    path.write_text(json.dumps({"use_dynamic_shifting": True, "time_shift_type": "linear"}))
    with pytest.raises(UsageError, match="linear"):
        scheduler_shift(tmp_path)


def test_clean_references_have_time_zero_where_asked(bases):
    from tiny_architectures import QWEN

    model = bases["firered"]

    def zero(**more):
        transformer = load_edit_model("firered", {**model, **more}, encoders=False).network.transformer
        assert (
            transformer.config.zero_cond_t == transformer.zero_cond_t == transformer.transformer_blocks[0].zero_cond_t
        )
        return transformer.zero_cond_t

    assert not zero() and zero(clean_references=True)
    assert zero(transformer=QWEN) and not zero(transformer=QWEN, clean_references=False)
    assert not zero(transformer={**QWEN, "zero_cond_t": False})


def test_clean_references_are_kept_by_a_run(bases, tmp_path):
    folder = trained(tmp_path / "run", "firered", {**bases["firered"], "clean_references": True})
    assert json.loads((folder / "transformer" / "config.json").read_text())["zero_cond_t"] is True
    assert load_editor(str(folder), steps=1).edit_model.network.transformer.zero_cond_t


NEW = {"states_width": 16, "features_width": 16, "hidden": 24, "width": 32, "pooled_width": 24}


def test_new_projectors_take_the_empty_prompt_from_clip(bases, tmp_path):
    import shutil

    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path / "e1"
    shutil.copytree(bases["imgedit_e1"]["weights"], folder)
    kept = load_file(folder / "projectors" / "model.safetensors")["pooled"]
    of_folder = load_edit_model("imgedit_e1", {"weights": str(folder), "projectors": NEW}, encoders=False)
    assert torch.equal(of_folder.network.projectors.pooled, kept) and kept.any()
    source = CLIPTokenizer.from_pretrained(bases["kontext"]["weights"], subfolder="tokenizer")
    source.save_pretrained(folder / "clip")
    torch.manual_seed(0)
    clip = CLIPTextModel(
        CLIPTextConfig(vocab_size=len(source), hidden_size=24, intermediate_size=32, num_hidden_layers=1,
                       num_attention_heads=2, bos_token_id=len(source) - 2, eos_token_id=len(source) - 1)
    )  # fmt: skip
    clip.save_pretrained(folder / "clip")
    made = load_edit_model("imgedit_e1", {"weights": str(folder), "projectors": NEW}, encoders=False)
    ids = torch.tensor([[len(source) - 2, *[len(source) - 1] * 76]])  # begin, end, and end again as padding
    with torch.no_grad():
        wanted = clip.eval()(ids).pooler_output[0]
    assert torch.allclose(made.network.projectors.pooled, wanted, atol=1e-6)
    shutil.rmtree(folder / "clip")
    shutil.rmtree(folder / "projectors")
    with pytest.raises(EditError, match="empty prompt") as caught:
        load_edit_model("imgedit_e1", {"weights": str(folder), "projectors": NEW}, encoders=False)
    assert "clip/" in caught.value.hint


def test_a_version_may_look_like_a_number():
    from edittools.nets.step1x import Settings
    from edittools.settings import read_settings
    from edittools.train.settings import parse_overrides

    values = parse_overrides(("version=1.1", "weights=m"))
    assert read_settings(Settings, values, "x").version == "1.1"
    with pytest.raises(UsageError, match="must be str"):
        read_settings(Settings, {"weights": "m", "version": True}, "x")


# ------------------------------------------------------------------------------------------- rows and batches


def rows_of(count, references=1, side=1024):
    texts = {("instruction", "en"): "x"}
    return MemoryRows([(TrainRow(f"{k}", "edit", "edit", texts, [(side, side)] * references, (side, side)), [])
                       for k in range(count)])  # fmt: skip


@pytest.mark.parametrize("name", ["imgedit-e1-stage1", "imgedit-e1-stage2"])
def test_a_step_of_imgedit_e1_holds_128_edits(name):
    """A.4's batch: 8 forward passes of 16 images of 1024 tokens; sources are no tokens of the network."""
    made = load_recipe(name, {"model.weights": "x"})
    assert not sees_references(made.system, made.model)
    for references in (1, 2):
        step = next(BucketSampler(made, rows_of(400, references), 16, 16).steps(0))
        assert [len(batch) for batch in step] == [16] * 8
    seen = dataclasses.replace(made, model={**made.model, "references": True})
    assert sum(map(len, next(BucketSampler(seen, rows_of(400), 16, 16).steps(0)))) == 64


def test_the_log_counts_what_the_network_sees(bases, tmp_path, monkeypatch):
    """By hand: the FLOP of a step of ImgEdit-E1, whose sources are features in the text and no latents."""
    clock = itertools.count()
    monkeypatch.setattr(log, "time", types.SimpleNamespace(perf_counter=lambda: next(clock) * 1e-7))
    folder = trained(tmp_path / "run", "imgedit_e1", bases["imgedit_e1"])
    [line] = [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]
    system = load_edit_model("imgedit_e1", bases["imgedit_e1"])
    assert not system.sees_references and load_edit_model("kontext", bases["kontext"], encoders=False).sees_references
    rows = pairs(2, side=64)
    texts = [
        len(system.conditioning(images[:-1], text)["order"]) for row, images in rows for text in row.texts.values()
    ]
    words = sum(texts) // 2  # the log takes every row's text as long as their mean
    d, image, n = 32, 16, 16 + words  # width; tokens of 16 x 16 pixels; all tokens
    linear = 2 * n * 12 * d * d  # of a block: q, k, v, out and an MLP of 4 d
    double = linear + 4 * n * n * d + 2 * (2 * 6 * d * d)  # and the modulation of both streams
    single = linear + 4 * n * n * d + 2 * (3 * d * d)
    ends = 2 * d * (image * 16 + words * 32 + image * 16)  # latents in, text in, latents out
    times = 2 * (2 * (256 * d + d * d) + (24 * d + d * d) + 2 * d * d)  # time, guidance; pooled text; the last norm
    wanted = 3 * 4 * (double + single + ends + times)  # forwards, and backwards twice that; a batch of four
    seconds = 2e-7  # began; the step; the line
    assert line["samples"] == 4 and line["tflops"] == pytest.approx(wanted / seconds / 1e12, rel=1e-4)
    assert line["tokens_per_s"] == pytest.approx(4 * (image + max(texts)) / seconds, rel=1e-4)


@pytest.mark.parametrize(("system", "most"), [("kontext", 1), ("step1x", 1), ("firered", None), ("imgedit_e1", None)])
def test_more_references_than_a_model_takes_are_refused_before_it_is_loaded(bases, system, most):
    assert most_references(system, bases[system]) == most
    made = recipe(system, bases[system])
    check_references(made, rows_of(3, 1))
    if most is None:
        return check_references(made, rows_of(3, 3))
    with pytest.raises(EditError, match="3 of 3 rows have more than 1 source image") as caught:
        check_references(made, rows_of(3, 2))
    assert "leave these rows out" in caught.value.hint


def test_auto_knows_how_many_references_there_may_be(bases):
    assert most_references("auto", bases["kontext"]) == 1 and most_references("auto", bases["firered"]) is None


@pytest.mark.parametrize("system", DEFAULTS)
def test_a_very_long_image_stops_no_other(runs, system):
    """250 : 1 is more than Qwen2.5-VL takes; Step1X-Edit's is scaled before, Kontext's encoders see no image."""
    editor = load_editor(str(runs[system]), steps=2, guidance_scale=1.0, resolution=64)
    sizes = ((12, 3000), (64, 64), (3000, 12))
    wide, usual, tall = editor.edit([EditRequest([image(0, *s)], "x", seed=0) for s in sizes])
    assert isinstance(usual, np.ndarray)
    for long in (wide, tall):
        if system in ("kontext", "step1x"):
            assert isinstance(long, np.ndarray)
        else:
            assert isinstance(long, RowError) and "200 times" in str(long)


def test_a_long_image_is_edited_as_a_whole(runs):
    editor = load_editor(str(runs["firered"]), steps=2, guidance_scale=1.0, resolution=64)
    [made] = editor.edit([EditRequest([image(0, 15, 2900)], "x", seed=0)])
    assert made.shape == (32, 896, 3)


# --------------------------------------------------------------------------------------------------------- previews


def test_previews_have_the_guidance_of_the_recipe(bases, tmp_path):
    sheets = []
    for guidance in (1.0, 4.0):
        folder = tmp_path / f"run{guidance}"
        made = recipe("firered", bases["firered"], steps=1, sample_every=1, sample_steps=2, sample_guidance=guidance)
        run(made, MemoryRows(pairs(2, side=64)), folder)
        sheets.append((folder / "samples" / "00000001.png").read_bytes())
    assert sheets[0] != sheets[1]


# ------------------------------------------------------------------------------------------------ the small network


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of the small network from scratch."""
    folder = tmp_path_factory.mktemp("small") / "run"
    run(tiny(steps=40, model_residual="copy"), MemoryRows(pairs(8)), folder)
    return folder


def adapted(small, **overrides):
    made = tiny(steps=6, lr=0.05, optimizer="adamw", ema=0.0, model_residual="copy", **overrides)
    lora = {"rank": 2, "alpha": 4, "targets": ["attn.to_q", "attn.to_out.0", "img_mlp.net.2"]}
    return dataclasses.replace(made, model={**made.model, "weights": str(small), "lora": lora})


@pytest.mark.parametrize("spelling", ["diffusers", "kohya", "peft"])
def test_adapters_of_the_small_network_train_export_sample_and_merge(small, spelling, tmp_path):
    made = adapted(small)
    made.model["lora"]["format"] = spelling
    run(made, MemoryRows(pairs(8)), tmp_path / "lora")
    assert {path.suffix for path in (tmp_path / "lora").iterdir()} == {".safetensors", ".json", ".jsonl", ""}
    assert not (tmp_path / "lora" / "transformer").exists() and not (tmp_path / "lora" / "text_encoder").exists()
    request = EditRequest([image(0, 16, 16)], "invert the colors", seed=0)
    plain = load_editor(str(small), steps=2)
    before = plain.edit([request])[0].astype(int)
    alone = load_editor(str(tmp_path / "lora"), steps=2)
    beside = load_editor(str(small), steps=2, lora=(str(tmp_path / "lora"),))
    assert np.array_equal(alone.edit([request])[0], beside.edit([request])[0])
    assert np.abs(alone.edit([request])[0].astype(int) - before).max() > 0
    # merged by hand: W + (4 / 2) B A, of the file as diffusers spells it
    if spelling == "diffusers":
        kept = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
        name = "transformer_blocks.0.attn.to_q"
        down, up = (kept[f"transformer.{name}.lora_{end}.weight"] for end in "AB")
        old, new = (editor.edit_model.network.transformer.get_submodule(name).weight for editor in (plain, alone))
        assert torch.allclose(new, old + up @ down, atol=1e-6) and up.any()
    # in another spelling, which is told by the run's configuration
    for target, again in (("kohya", "k.safetensors"), ("diffusers", "d.safetensors")):
        (tmp_path / target).mkdir()
        convert(str(tmp_path / "lora"), tmp_path / target, target, model=str(small))
        [file] = (tmp_path / target).glob("*.safetensors")
        file.rename(tmp_path / again)
        made = load_editor(str(small), steps=2, lora=(str(tmp_path / again),)).edit([request])[0].astype(int)
        assert np.abs(made - alone.edit([request])[0]).max() <= 1
    # everything else is as it was
    for a, b in zip(plain.edit_model.network.text.parameters(), alone.edit_model.network.text.parameters()):
        assert torch.equal(a, b)


def test_adapters_of_the_small_network_go_on_from_a_run_and_by_the_recipe_lora(small, tmp_path):
    run(adapted(small), MemoryRows(pairs(8)), tmp_path / "lora")
    chosen = load_recipe("lora", {"model.weights": str(small), "model.lora.rank": 2, "resolution": [16, 16]})
    settled = settle(chosen)
    of_run = json.loads((small / "config.json").read_text())["recipe"]
    assert settled.system == "small" and settled.model["patch"] == of_run["model"]["patch"]
    assert (settled.shift, settled.shift_by_tokens) == (of_run["shift"], of_run["shift_by_tokens"])
    assert load_edit_model(settled.system, settled.model).adapters.rank == 2
    on = settle(load_recipe("lora", {"model.weights": str(tmp_path / "lora"), "resolution": [16, 16]}))
    assert on.system == "small" and on.model["weights"] == str(small)
    begun = load_edit_model(on.system, on.model).network.transformer.state_dict()
    kept = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    name = "transformer_blocks.0.attn.to_q"
    assert torch.allclose(begun[f"{name}.lora_A.default.weight"], kept[f"transformer.{name}.lora_A.weight"])
    with pytest.raises(UsageError, match=r"adapters are of trained `model\.weights`"):
        load_edit_model("small", {**tiny().model, "lora": {"rank": 2}}, texts=lambda: ["a"])
    with pytest.raises(UsageError, match="residual"):
        load_edit_model("small", {**tiny().model, "weights": str(small), "residual": "none", "patch": 4})


# ---------------------------------------------------------------------------------------------------- ImgEdit-E1


def test_a_run_of_imgedit_e1_says_what_its_network_sees(bases, tmp_path):
    """Where its configuration is gone, too: what a folder is copied with is its edit.json."""
    model = {**bases["imgedit_e1"], "insert": "append", "references": True}
    folder = trained(tmp_path / "run", "imgedit_e1", model)
    said = json.loads((folder / "edit.json").read_text())
    assert said == {"system": "imgedit_e1", "insert": "append", "references": True}
    (folder / "config.json").unlink()
    again = load_edit_model("imgedit_e1", {"weights": str(folder)})
    assert again.settings.insert == "append" and again.network.references and again.sees_references
    assert sees_references("imgedit_e1", {"weights": str(folder)})
    assert not sees_references("imgedit_e1", {"weights": str(folder), "references": False})
    assert load_editor(str(folder), steps=1).edit_model.network.references
    plain = load_edit_model("imgedit_e1", bases["imgedit_e1"])
    assert plain.settings.insert == "after_vision_end" and not plain.sees_references


def test_latents_that_the_network_does_not_see_are_not_made(bases, tmp_path):
    from edittools.train.console import wants_references
    from edittools.train.features import Encoder, FeatureStore, FeatureWriter, Keys, precompute

    rows = MemoryRows(pairs(2, side=64))
    made = recipe("imgedit_e1", bases["imgedit_e1"])
    for changes, expected in (({}, 1), ({"references": True}, 2)):
        system = load_edit_model("imgedit_e1", {**bases["imgedit_e1"], **changes}, dtype="float32")
        encoded = []

        def watch(images, plain=system.latents, encoded=encoded):
            encoded.append(len(images))
            return plain(images)

        system.latents = watch
        latents = wants_references(made, system)
        sample = BucketSampler(made, rows, 16, 16).samples[0]
        features = Encoder(system, rows, latents)(sample)
        assert sum(encoded) == 1 + len(features.references) == expected
        assert features.conditioning["features"].any() and len(features.conditioning["crops"]) == 2
        keys = Keys(system.encoding(), rows, {}, "float32", latents)
        assert len(keys.all(sample)) == expected + 1
        store = tmp_path / str(expected)
        added = precompute(
            Encoder(system, rows), keys, [sample], FeatureStore(store), FeatureWriter(store, torch.float32)
        )
        assert sum(added) == expected + 1 and stored_keys(store) == set(keys.all(sample))
        x, t = features.target[None], torch.tensor([0.5])
        y = [each[None] for each in features.references]
        assert system.network(x, t, y, system.collate([features.conditioning])).shape == x.shape
    system = load_edit_model("imgedit_e1", bases["imgedit_e1"], encoders=False)
    assert wants_references(dataclasses.replace(made, region_weight=True), system)
