"""Every key of a recipe gets every wrong kind of value: one line that names it, or a run that works."""

from __future__ import annotations

import ast
import dataclasses
import datetime
import importlib
import math
import typing

import pytest
import torch
from tiny_architectures import save_e1, save_firered, save_flux2, save_kontext, save_qwen21, save_step1x
from tiny_vlm import tiny_model
from training import TINY, MemoryRows, pairs, run, tiny

from edittools.errors import EditError, UsageError
from edittools.nets import load_edit_model
from edittools.nets.lora import LoraSettings
from edittools.train import load_recipe
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.config import OBJECTIVES, OPTIMIZERS, Recipe

VALUES = [
    "nonsense", "", "1:1x", True, False, 0, -1, 7, 10**30, 0.5, -0.5, 1.5, math.inf, -math.inf, math.nan, [], [1],
    [1, 2], [0.5, 0.5, 0.5], [-1.0, 2.0], [math.nan, 1.0], ["a"], [""], ["1:1", "0:1"], [[1, 2]], [{}], {}, {"a": 1},
    {"a": -1.0}, {"a": "b"}, {"a": math.inf}, {"a": {"b": 1}}, {"": 1}, datetime.date(2026, 1, 1), datetime.time(1),
]  # fmt: skip


def one_line(error: EditError, key: str) -> None:
    assert "\n" not in str(error) and len(str(error)) < 400, error
    assert key in str(error), f"{key} is not named: {error}"


@pytest.fixture(scope="module")
def rows():
    return MemoryRows(pairs(8))


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(Recipe) if f.name != "model"])
def test_every_key_with_every_kind_of_value(key, rows, tmp_path):
    accepted = None
    for value in VALUES:
        try:
            recipe = load_recipe("demo", {**TINY, "steps": 1, key: value})
        except UsageError as error:
            one_line(error, key)
            continue
        kind = typing.get_type_hints(Recipe)[key]
        assert typing.get_origin(kind) or type(getattr(recipe, key)) is kind
        try:
            BucketSampler(recipe, rows, 8, 8)
        except UsageError as error:
            assert "\n" not in str(error), error
            continue
        accepted = recipe
    if accepted is not None:  # the strangest of those that seem right
        try:
            run(dataclasses.replace(accepted, steps=1), rows, tmp_path)
        except EditError as error:
            assert "\n" not in str(error), error


MODELS = {
    "firered": save_firered, "kontext": save_kontext, "imgedit_e1": save_e1, "step1x": save_step1x,
    "flux2": lambda folder: save_flux2(folder, "base"), "qwen21": save_qwen21,
    "qwen_vl": lambda folder: tiny_model(folder, "Qwen2_5_VL"),
    "editreward": lambda folder: tiny_model(folder, "Qwen2_5_VL"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    for name, save in MODELS.items():
        save(made / name)
    return made


@pytest.mark.parametrize("name", [*MODELS, "small"])
def test_every_key_of_a_system_with_every_kind_of_value(name, folders):
    settings = importlib.import_module(f"edittools.nets.{name}").Settings
    base = tiny().model if name == "small" else {"weights": str(folders / name)}
    for field in dataclasses.fields(settings):
        for value in VALUES:
            try:
                load_edit_model(name, {**base, field.name: value}, encoders=False, texts=lambda: ["a"])
            except EditError as error:
                assert "\n" not in str(error), error
                if field.name != "weights":
                    one_line(error, field.name)


def parts(registry, table):
    """Of every objective or optimizer its own settings."""
    declared = registry.declared("SETTINGS", {})
    return [(table, name, key) for name in registry.names for key in declared[name]]


@pytest.mark.parametrize(("table", "name", "key"), [*parts(OBJECTIVES, "objective"), *parts(OPTIMIZERS, "optimizer")])
def test_every_setting_of_an_objective_or_optimizer_with_every_kind_of_value(table, name, key):
    """Refused in one line that names it, or of the kind of what it has without."""
    usual = {"objective": OBJECTIVES, "optimizer": OPTIMIZERS}[table].declared("SETTINGS")[name][key]
    for value in VALUES:
        try:
            recipe = load_recipe("demo", {**TINY, "steps": 1, table: name, f"{table}_settings": {key: value}})
            kept = (recipe.of_objective() if table == "objective" else recipe.of_optimizer())[key]
        except UsageError as error:
            one_line(error, key)
            continue
        assert type(kept) is type(usual), (value, kept)


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(LoraSettings)])
def test_every_key_of_adapters_with_every_kind_of_value(key, folders):
    for value in VALUES:
        wanted = {"weights": str(folders / "kontext"), "lora": {"rank": 2, key: value}}
        try:
            load_edit_model("kontext", wanted, encoders=False)
        except EditError as error:
            one_line(error, "lora")
            assert key in str(error) or "module" in str(error), error


@pytest.mark.parametrize("key, value, word", [
    ("model.lora.rank", 0, "rank"), ("model.lora.rank", -4, "rank"), ("model.lora.targets", [], "targets"),
    ("model.lora.rnak", 4, "rnak"), ("model.transformer", {"nosuch": 1}, "transformer"),
    ("model.transformer", {"num_layers": "two"}, "transformer"), ("captions", {"orignal": 9}, "orignal"),
])  # fmt: skip
def test_settings_that_went_wrong_before(key, value, word, folders):
    with pytest.raises(UsageError, match=word):
        recipe = load_recipe("lora", {"model.weights": str(folders / "kontext"), key: value})
        load_edit_model(recipe.system, recipe.model, encoders=False)
        if key == "captions":
            from edittools.train.rows import check_kinds

            check_kinds(recipe.captions, ["id", "target", "caption", "caption_structured"])


def test_the_dry_run_explains_every_value(model_edit, tmp_path):
    """What it is, and where the value comes from: the command line, a comment of the recipe, or nowhere."""
    own = """
system = "small"  # mine
resolution = [8, 8]
ratios = ["1:1"]
batch_tokens = 4 # few
microbatches = 1
steps = 3
[model] # its own
patch = 8 # of "eight" # pixels
"""
    (tmp_path / "own.toml").write_text(own)
    lines = model_edit("train", "--recipe", "own.toml", "--set", "lr=1e-3", "--set", "model.layers=2", "-n",
                       cwd=tmp_path).stdout.decode().splitlines()  # fmt: skip
    said = dict(line.split(" = ", 1) for line in lines)
    assert said["lr"].startswith("0.001  # learning rate") and said["lr"].endswith("[set here]")
    assert said["model.layers"].endswith("[set here]") and said["batch_tokens"].endswith("[own: few]")
    assert said["model.patch"] == '8  # side of a token, in pixels [own: of "eight" # pixels]'
    assert said["max_grad_norm"].endswith("[default]") and said["steps"].endswith("[own]")
    assert {f.name for f in dataclasses.fields(Recipe)} - {"model"} <= said.keys()
    assert all(line.partition("  # ")[2].partition(" [")[0] for line in lines), lines
    from edittools.train import recipe_names
    from edittools.train.config import explained

    for name in recipe_names():
        made = load_recipe(name)
        told = explained(made, name, {})
        for line in told:
            assert line.partition("  # ")[2].partition(" [")[0].strip(), line
        names = [line.partition(" = ")[0] for line in told]
        assert len(set(names)) == len(names)
        tables = {"model.lora": LoraSettings} if made.model.get("lora") else {}
        if made.system != "auto":  # of which nobody knows the settings before the weights are there
            tables["model"] = importlib.import_module(f"edittools.nets.{made.system}").Settings
        for table, kind in tables.items():  # what the recipe leaves out has its default
            given = made.model["lora"] if table == "model.lora" else made.model
            for f in dataclasses.fields(kind):
                full = f"{table}.{f.name}"
                assert any(each == full or each.startswith(f"{full}.") for each in names), full
                if f.default is not dataclasses.MISSING and f.name not in given:
                    line = next(line for line in told if line.startswith(f"{full} = "))
                    assert ast.literal_eval(line.partition(" = ")[2].partition("  # ")[0]) == f.default


def test_copies_of_a_model_where_there_are_none_are_refused():
    from edittools.train.parallel import start

    for mode in ("auto", "single", "ddp", "fsdp"):
        with pytest.raises(UsageError, match="--replicas: the mode"):
            start(mode, "cpu", replicas=3)


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf", "much", ""])
def test_a_scale_of_adapters_is_a_number(scale):
    from edittools.nets.lora import split_scale

    with pytest.raises(UsageError, match="is no scale"):
        split_scale(f"adapters.safetensors:{scale}")
    assert split_scale("adapters.safetensors:-0.5") == ("adapters.safetensors", -0.5)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "nonsense"])
def test_a_launcher_without_its_device_is_one_line(device, monkeypatch):
    from edittools.train.parallel import start

    assert not torch.cuda.is_available()
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(EditError, match="--device") as caught:
        start("auto", device)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 100
