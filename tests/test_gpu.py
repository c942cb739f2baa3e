"""What runs on an accelerator gives what a CPU gives; skipped without one.

EDITTOOLS_TEST_DEVICE=cpu runs those that a CPU can run there too, to try the tests themselves.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_sample import apart, picture, small_references, unrounded  # noqa: F401
from tiny_systems import save_firered, save_kontext
from training import MemoryRows, pairs, run, tiny

from edittools.models.editors import EditRequest, load_editor
from edittools.train.parallel import Parallel

DEVICE = os.environ.get("EDITTOOLS_TEST_DEVICE", "cuda")
CUDA = DEVICE == "cuda"
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUDA and not torch.cuda.is_available(), reason="no accelerator"),
]
only_cuda = pytest.mark.skipif(not CUDA, reason="needs CUDA")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_firered(tmp_path_factory.mktemp("pipelines") / "qwen")


@pytest.fixture
def rows():
    words = ["make it red", "turn the sky into a painting of the sea", "x", "blue"]
    return [EditRequest([picture(k, 40, 60)], t, seed=k, height=32, width=48) for k, t in enumerate(words)]


@pytest.fixture(autouse=True)
def small(small_references):  # noqa: F811
    pass


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-9, np.mean((np.stack(a).astype(float) - np.stack(b)) ** 2)))


def losses(folder, **settings):
    out = folder / "-".join(map(str, [*settings.values(), "run"]))
    device = settings.pop("device")
    run(tiny(steps=6, log_every=1, **settings), MemoryRows(pairs()), out,
        parallel=Parallel("single", 0, 1, torch.device(device)))  # fmt: skip
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_training_gives_the_losses_of_a_cpu(tmp_path):
    there = losses(tmp_path, device="cpu")
    assert losses(tmp_path, device=DEVICE, seed=0) == pytest.approx(there, rel=1e-3)
    assert losses(tmp_path, device=DEVICE, dtype="bfloat16") == pytest.approx(there, rel=0.03)


@only_cuda
@pytest.mark.parametrize("settings", [
    {"compile": True}, {"attention": "_native_cudnn"}, {"checkpointing": "selective"}, {"checkpointing": "full"},
    {"compile": True, "checkpointing": "selective"}, {"optimizer": "adamw8bit"}, {"optimizer": "muon"},
])  # fmt: skip
def test_options_of_training_change_little(tmp_path, settings):
    if settings.get("optimizer") == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    plain = {name: value for name, value in settings.items() if name == "optimizer" and value == "muon"}
    there = losses(tmp_path, device=DEVICE, dtype="bfloat16", **plain)
    assert losses(tmp_path, device=DEVICE, dtype="bfloat16", **settings) == pytest.approx(there, rel=0.03)


@pytest.mark.parametrize("save", [save_firered, save_kontext])
def test_sampling_gives_the_pictures_of_a_cpu(tmp_path, rows, save):
    folder = str(save(tmp_path / "pipeline"))
    there = load_editor(folder, "cpu", steps=3).edit(rows)
    assert psnr(load_editor(folder, DEVICE, steps=3).edit(rows), there) > 60
    assert psnr(load_editor(folder, DEVICE, "bfloat16", steps=3).edit(rows), there) > 25


def test_a_row_in_bfloat16_hardly_depends_on_its_batch(qwen, rows):
    editor = load_editor(str(qwen), DEVICE, "bfloat16", steps=3)
    assert apart(unrounded(editor, rows, 4), unrounded(editor, rows, 1)) < 0.05  # of a range of 2
    editor = load_editor(str(qwen), DEVICE, steps=3)
    assert apart(unrounded(editor, rows, 4), unrounded(editor, rows, 1)) < 1e-5


@only_cuda
@pytest.mark.parametrize("options", [
    {"attention": "_native_cudnn"}, {"compile": True}, {"offload": True}, {"quantize": "int8"}, {"quantize": "fp8"},
    {"cache": "first-block"}, {"compile": True, "quantize": "fp8"},
])  # fmt: skip
def test_options_of_sampling_change_little(qwen, rows, options):
    if "quantize" in options and importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    if options.get("quantize") == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("the card has no fp8")
    plain = load_editor(str(qwen), DEVICE, "bfloat16", steps=3).edit(rows)
    assert psnr(load_editor(str(qwen), DEVICE, "bfloat16", steps=3, **options).edit(rows), plain) > 20


@only_cuda
@pytest.mark.parametrize("script", ["train_gpu.py", "sample_gpu.py"])
def test_benchmarks_run(script):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, "--size", "small"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
