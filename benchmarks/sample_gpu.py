"""Sampling on an accelerator: images per second beside the stock pipeline, and how far the images differ.

    python benchmarks/sample_gpu.py [--model firered] [--device cuda] [--size full] [--json FILE] [--steps 40]
                                    [--only NAME ...]

`firered`: a QwenImageEditPlusPipeline with random weights: Qwen-Image's autoencoder, five layers of its transformer's
width (1.7 B parameters) and four of the language model's; one reference of 1024² pixels, 40 steps, guidance 4 by two
passes. `flux2`: FLUX.2 [klein] base 4B's width, two double and eight single blocks (1.6 B), likewise. `qwen21`:
Qwen-Image-2.1's width, six of its layers (1.3 B), no guidance. The last two have tiny language models, and 1, 2, 3, 1,
... references, which rows of a batch have together. The stock pipeline is called once per row, since it takes one;
`edit sample`'s editor has the same weights, noise and schedule. Further rows add one thing each: cached steps, weights
in 8 bits, and whatever else is there. Differences are of the finished images, against the stock pipeline's.

`--size small` is for a CPU, where the script is only tried. All times are wall time, after one image to warm up. One
run takes about five minutes; after `--minutes` no further row begins. What was not measured is listed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from stream import Report

from edittools.errors import UsageError
from edittools.nets.editor import EditRequest
from edittools.nets.load import load_editor
from edittools.sample.several import SeveralEditors
from edittools.train.log import peak_tflops
from edittools.weights.diffusers import open_pipeline
from edittools.weights.quiet import disable_progress_bars

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


@dataclass(frozen=True)
class Size:
    side: int
    steps: int
    images: int
    models: dict[str, dict[str, dict[str, Any]]]  # of each model, see save_firered() of tiny_architectures and others


QWEN_IMAGE = {
    "patch_size": 2, "in_channels": 64, "out_channels": 16, "num_layers": 5, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 3584, "axes_dims_rope": [16, 56, 56],
}  # fmt: skip
QWEN_VL = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 4, "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
}  # fmt: skip
KLEIN = {
    "num_layers": 2, "num_single_layers": 8, "num_attention_heads": 24, "joint_attention_dim": 24,
    "guidance_embeds": False,
}  # fmt: skip
SIZES = {
    "full": Size(
        1024, 40, 4,
        {
            "firered": {"transformer": QWEN_IMAGE, "vae": {}, "text": QWEN_VL},
            "flux2": {"transformer": KLEIN, "vae": {}},
            "qwen21": {"transformer": {"num_layers": 6, "context_in_dim": 16}, "vae": {}},
        },
    ),
    "small": Size(64, 3, 3, {}),
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    save: str  # the function of tiny_architectures
    stock: dict[str, Any]  # what the stock pipeline is told beside images, prompt, steps and size
    references: tuple[int, ...] = (1,)  # of the rows, again and again
    options: dict[str, Any] = field(default_factory=dict)  # of the editor


def models(side: int) -> dict[str, Model]:
    return {
        "firered": Model("save_firered", {"negative_prompt": " ", "true_cfg_scale": 4.0}),
        "flux2": Model("save_flux2", {"guidance_scale": 4.0}, (1, 2, 3)),
        "qwen21": Model("save_qwen21", {"output_resolution": side}, (1, 2, 3), {"resolution": side}),
    }


@dataclass
class Found:
    images_per_s: float
    tflops: float | None
    memory: int
    images: list[np.ndarray]
    note: str = ""


def requests(count: int, side: int, references: tuple[int, ...] = (1,)) -> list[EditRequest]:
    random = np.random.default_rng(0)
    found = []
    for k in range(count):
        coarse = random.integers(0, 256, (references[k % len(references)], 8, 8, 3)).astype(np.uint8)
        sources = [np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in coarse]
        found.append(EditRequest(sources, f"make image {k} look like winter", seed=k, height=side, width=side))
    return found


def measured(device: str, work: Callable[[int], list[np.ndarray]], count: int) -> Found:
    """Images per second of work(count), after it was warmed up with one batch."""
    work(0)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    images = work(count)
    seconds = time.perf_counter() - began
    memory = torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0
    return Found(len(images) / seconds, None, memory, images)


def free() -> None:
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def stock(folder: Path, given: argparse.Namespace, size: Size, dtype: str) -> Found:
    """The pipeline as diffusers has it, but for the positions of image tokens, which it gets wrong."""
    free()
    model = models(size.side)[given.model]
    pipe = open_pipeline(folder, dtype).to(given.device)

    def work(count: int) -> list[np.ndarray]:
        made = []
        for request in requests(max(1, count), size.side, model.references):
            result = pipe(
                image=[Image.fromarray(source) for source in request.sources], prompt=request.instruction,
                num_inference_steps=given.steps, height=size.side, width=size.side,
                generator=torch.Generator().manual_seed(request.seed), **model.stock,
            )  # fmt: skip
            made.append(np.asarray(result.images[0]))
        return made

    return measured(given.device, work, size.images)


def ours(folder: Path, given: argparse.Namespace, size: Size, dtype: str, options: dict[str, Any]) -> Found:
    free()
    note, model = "", models(size.side)[given.model]
    options = {**model.options, **options}
    try:
        editor = load_editor(str(folder), given.device, dtype, steps=given.steps, **options)
    except UsageError as error:
        if options["attention"] == "native":
            raise
        note = f", native attention, as {error}"  # one that is not there takes nothing else with it
        options = {**options, "attention": "native"}
        editor = load_editor(str(folder), given.device, dtype, steps=given.steps, **options)

    def work(count: int) -> list[np.ndarray]:
        found = editor.edit(requests(count or editor.batch_size, size.side, model.references))
        return [image for image in found if isinstance(image, np.ndarray)]

    work(0)
    before = editor.work.flops, editor.work.seconds
    found = measured(given.device, work, size.images)
    found.note = note
    found.tflops = (editor.work.flops - before[0]) / (editor.work.seconds - before[1]) / 1e12 or None
    return found


def difference(images: list[np.ndarray], truth: list[np.ndarray]) -> dict[str, float]:
    apart = [np.abs(a.astype(float) - b.astype(float)) for a, b in zip(images, truth, strict=True)]
    mean = float(np.mean([each.mean() for each in apart]))
    error = float(np.mean([(each**2).mean() for each in apart]))
    return {"mean": mean, "most": float(max(each.max() for each in apart)),
            "psnr": 10 * math.log10(255**2 / error) if error else math.inf}  # fmt: skip


def contenders(cuda: bool) -> dict[str, tuple[dict[str, Any], float | None]]:
    """Options of the editor by name, and the bar for images per second of the stock pipeline's."""
    # attention is named everywhere: what was chosen for a model before holds for all of a process
    fast: dict[str, Any] = {"compile": cuda, "attention": "_native_cudnn" if cuda else "native"}
    found: dict[str, tuple[dict[str, Any], float | None]] = {
        "batch 1, nothing else": ({"batch_size": 1, "attention": "native"}, None),
        "batch 1": ({"batch_size": 1, **fast}, 1.3),
        "batch 4": ({"batch_size": 4, **fast}, 1.5),
        "batch 1, torch's own attention": ({"batch_size": 1, **fast, "attention": "native"}, None),
        "batch 1, cached steps (0.08)": ({"batch_size": 1, **fast, "cache": "first-block"}, None),
        "batch 1, cached steps (0.15)": (
            {"batch_size": 1, **fast, "cache": "first-block", "cache_threshold": 0.15}, None
        ),
    }  # fmt: skip
    for name in ("int8", "fp8") if cuda else ("int8",):
        found[f"batch 1, {name}"] = ({"batch_size": 1, **fast, "quantize": name}, None)
    if cuda:
        found["batch 1, weights wait in main memory"] = (
            {"batch_size": 1, "attention": "native", "offload": True},
            None,
        )
    return found


def several(folder: Path, given: argparse.Namespace, size: Size, dtype: str, report: Report) -> None:
    """Images per second by a process per GPU, of one process's in the same way: what is started is not counted."""
    count = torch.cuda.device_count() if given.device.startswith("cuda") else 2
    name = f"edit sample, {count} processes"
    if count < 2:
        report.owe("edit sample, several GPUs", "there is one GPU")
        return
    if report.late(name):
        return
    free()
    with report.attempt(name):
        options = {**models(size.side)[given.model].options, "steps": given.steps, "batch_size": 1}
        kind = given.device.partition(":")[0]
        with (
            contextlib.closing(SeveralEditors(str(folder), kind, dtype, count, **options)) as editor,
            ThreadPoolExecutor(count) as pool,
        ):
            list(pool.map(editor.edit, [requests(1, size.side)] * count))
            began = time.perf_counter()
            made = list(pool.map(editor.edit, [requests(size.images, size.side)] * count))
        rate = sum(map(len, made)) / (time.perf_counter() - began)
        report.numbers[name] = {"images_per_s": rate}
        report.add(name, rate, None, "img/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=models(0), default="firered", help="default: firered")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, help="default: full on a GPU, small elsewhere")
    parser.add_argument("--steps", type=int, help="default: 40, small 3")
    parser.add_argument("--only", nargs="*", help="words that a row's name holds")
    parser.add_argument("--minutes", type=float, default=8, help="after which no further row begins (default 8)")
    parser.add_argument("--json", type=Path, help="write every measured number there")
    given = parser.parse_args()
    disable_progress_bars("transformers", "diffusers")
    import tiny_architectures
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    cuda = given.device.startswith("cuda")
    size = SIZES[given.size or ("full" if cuda else "small")]
    given.steps = given.steps or size.steps
    plus.VAE_IMAGE_SIZE = size.side**2  # of the references; 1024² as it is
    dtype = "bfloat16" if cuda else "float32"
    report = Report(deadline=time.monotonic() + 60 * given.minutes)
    report.numbers["device"] = torch.cuda.get_device_name() if cuda else "cpu"
    report.numbers["torch"] = torch.__version__
    print(f"{report.numbers['device']}, torch {torch.__version__}, {given.steps} steps at {size.side}², {dtype}")
    peak = peak_tflops(torch.device(given.device))
    with tempfile.TemporaryDirectory(prefix="edittools-benchmark-") as name:
        save = getattr(tiny_architectures, models(size.side)[given.model].save)
        folder = save(Path(name) / "pipeline", **size.models.get(given.model, {}))
        base = None
        with report.attempt("stock pipeline, batch 1"):  # what all others are compared with, so it comes first
            base = stock(folder, given, size, dtype)
            report.numbers["stock"] = {"images_per_s": base.images_per_s, "memory": base.memory}
            note = f"{base.memory / 2**30:.1f} GiB"
            report.add("stock pipeline, batch 1", base.images_per_s, None, "img/s", note=note)
        for what, (options, bar) in contenders(cuda).items():
            if given.only and not any(word in what for word in given.only):
                continue
            if options.get("quantize") and importlib.util.find_spec("torchao") is None:
                report.owe(f"edit sample, {what}", "torchao is not installed")
                continue
            if options.get("cache") and given.model != "firered":
                report.owe(f"edit sample, {what}", "diffusers caches no steps of this model")
                continue
            if report.late(f"edit sample, {what}"):
                continue
            found = None
            with report.attempt(f"edit sample, {what}"):  # an option that is not there ends no other
                found = ours(folder, given, size, dtype, options)
            if found is None:
                continue
            if base is None:
                report.add(f"edit sample, {what}", found.images_per_s, None, "img/s")
                report.write(given.json)
                continue
            apart = difference(found.images, base.images)
            ratio = found.images_per_s / base.images_per_s
            work = f"{found.tflops:.3g} TFLOP/s" if found.tflops else "some steps skipped"
            work += f", MFU {found.tflops / peak:.1%}" if peak and found.tflops else ""
            report.numbers[what] = {
                "images_per_s": found.images_per_s, "ratio": ratio, "tflops": found.tflops, "memory": found.memory,
                "difference": apart,
            }  # fmt: skip
            note = (
                f"{found.images_per_s:.3g} img/s, {work}, {found.memory / 2**30:.1f} GiB; "
                f"of 255 apart: mean {apart['mean']:.3g}, most {apart['most']:.0f}, {apart['psnr']:.1f} dB{found.note}"
            )
            report.add(f"edit sample, {what}: stock's images/s", ratio, bar if cuda else None, "×", note=note)
            report.write(given.json)
        if not given.only or any(word in "several GPUs" for word in given.only):
            several(folder, given, size, dtype, report)
    sys.exit(report.end(given.json))


if __name__ == "__main__":
    main()
