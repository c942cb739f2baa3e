"""What runs on an accelerator gives what a CPU gives; skipped without one.

EDITTOOLS_TEST_DEVICE=cpu runs those that a CPU can run there too, to try the tests themselves.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from test_sample import apart, image, small_references, unrounded  # noqa: F401
from tiny_architectures import save_firered, save_kontext
from training import MemoryRows, pairs, run, tiny

from edittools.errors import EditError
from edittools.nets import load_edit_model
from edittools.nets.editor import EditRequest
from edittools.nets.load import load_editor
from edittools.sample.several import SeveralEditors
from edittools.train import load_recipe
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.features import Encoder
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
    return [EditRequest([image(k, 40, 60)], t, seed=k, height=32, width=48) for k, t in enumerate(words)]


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


@pytest.mark.parametrize("settings", [
    {"quantize": "int8"}, {"quantize": "fp8"}, {"quantize": "nf4"}, {"block_swap": 1},
    {"quantize": "int8", "block_swap": 1},
])  # fmt: skip
def test_adapters_beside_small_weights(tmp_path, settings):
    if settings.get("quantize") == "nf4":
        pytest.importorskip("bitsandbytes")
    weights = save_kontext(tmp_path / "model")

    def found(name, **more):
        recipe = load_recipe("lora", {
            "model.weights": str(weights), "model.lora.rank": 2, "resolution": [32, 32], "ratios": ["1:1"], "steps": 4,
            "batch_tokens": 32, "microbatches": 1, "warmup": 0, "compile": False, "log_every": 1, **more,
        })  # fmt: skip
        run(recipe, MemoryRows(pairs(12, side=32)), tmp_path / name,
            parallel=Parallel("single", 0, 1, torch.device(DEVICE)))  # fmt: skip
        return [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]

    assert found("small", **settings) == pytest.approx(found("plain"), rel=0.1 if "quantize" in settings else 1e-3)


def test_encoders_work_beside_the_device_and_make_what_a_cpu_makes(tmp_path):
    """Asked by four threads, in a stream of their own, while the stream of now is busy."""
    rows = MemoryRows(pairs(16, side=32))
    weights = str(save_kontext(tmp_path / "model"))
    here, there = (
        load_edit_model("kontext", {"weights": weights}, network=False, device=device, dtype="float32")
        for device in ("cpu", DEVICE)
    )
    plan = BucketSampler(tiny(resolution=[32, 32], ratios=["1:1"], batch_tokens=32), rows, here.patch, here.multiple)
    wanted = Encoder(here, rows).several(plan.samples)
    encoder = Encoder(there, rows, device=torch.device(DEVICE))
    busy = torch.randn(2000, 2000, device=DEVICE)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(encoder.several, plan.samples[k::4]) for k in range(4)]
        for _ in range(20):
            busy = (busy @ busy).tanh()
        found = {sample: each for part in asked for sample, each in part.result().items()}
    assert busy.isfinite().all() and found.keys() == wanted.keys()
    for sample, each in wanted.items():
        assert torch.allclose(found[sample].target, each.target, atol=1e-3)
        for name, value in each.conditioning.items():
            assert torch.allclose(found[sample].conditioning[name], value, atol=1e-3), name


@only_cuda
def test_out_of_memory_is_one_line_and_the_same_command_goes_on(tmp_path):
    def full(report):
        if report.step == 3:
            torch.empty(1 << 50, device=DEVICE)

    device = Parallel("single", 0, 1, torch.device(DEVICE))
    with pytest.raises(EditError, match="step 4: out of memory"):
        run(tiny(steps=6), MemoryRows(pairs()), tmp_path / "run", parallel=device, on_step=full)
    assert run(tiny(steps=6), MemoryRows(pairs()), tmp_path / "run", parallel=device).resumed_from == 3


@pytest.mark.skipif(CUDA and torch.cuda.device_count() < 2, reason="needs two accelerators")
def test_devices_make_the_same(qwen, rows):
    with contextlib.closing(SeveralEditors(str(qwen), DEVICE, "float32", 2, steps=2)) as editor:
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(editor.edit, [rows, rows]))
    # that one process makes the same is in test_several; here the references are as large as the model has them
    assert all(np.array_equal(a, b) for a, b in zip(*both, strict=True)) and len(both[0]) == len(rows)
    assert editor.work.images == 2 * len(rows)


@pytest.mark.parametrize("save", [save_firered, save_kontext])
def test_sampling_gives_the_images_of_a_cpu(tmp_path, rows, save):
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
@pytest.mark.parametrize("script", ["train_gpu.py", "sample_gpu.py", "preference_gpu.py"])
def test_benchmarks_run(script):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, "--size", "small"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
