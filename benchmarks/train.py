"""Training's data path: how well batches are filled, how fast they are planned and read. One table against its bars.

    python benchmarks/train.py [--json FILE] [--only NAME ...] [--repeats N] [--photos DIR] [--rows N ...]

`buckets` plans a log-normal mix of sizes and ratios with one to three references; `memory` is what a process takes for
each row of a set whose plan it makes and draws from (eight variants; ids and texts lie on disk); `loader` reads images
and stored features; `overfit` lets tiny models of the three architectures learn eight pairs by heart. Times are CPU
seconds (see stream.py); everything is made in a temporary folder and removed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from stream import Report, make_batch, make_facts, make_images, rates, take_turns, write_set

from edittools.nets.images import fit, fit_box, to_tensor
from edittools.record import COLUMNS
from edittools.stream.codec import MAX_PIXELS
from edittools.stream.opening import open_source
from edittools.train import load_recipe
from edittools.train.bucket_sampler import BucketSampler, TrainSample
from edittools.train.features import FeatureStore, FeatureWriter, Keys, Stored
from edittools.train.rows import TARGET, ShardRows, TrainRow

RATIOS = ["2:1", "16:9", "3:2", "4:3", "1:1"]  # FireRed 3.2
SIDE, MULTIPLE, BUDGET = 512, 16, 12288


# ---------------------------------------------------------------- buckets


class SizedRows:
    """Rows of which only the sizes are known."""

    data_id = "sizes"

    def __init__(self, rows: list[TrainRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TrainRow:
        return self.rows[index]


def log_normal_mix(count: int) -> SizedRows:
    """Sides about 1024 (deviation of the logarithm 0.5), ratios about 1 (0.35); the first reference like the target."""
    random = np.random.default_rng(0)
    side = np.exp(random.normal(np.log(1024), 0.5, (count, 3)))
    ratio = np.exp(random.normal(0, 0.35, (count, 3)))
    h = np.maximum(64, np.rint(side * np.sqrt(ratio))).astype(int).tolist()
    w = np.maximum(64, np.rint(side / np.sqrt(ratio))).astype(int).tolist()
    texts = {("instruction", "en"): "change it"}
    references = random.integers(1, 4, count).tolist()
    return SizedRows(
        [
            TrainRow(
                f"{k:08d}",
                "edit",
                "edit",
                texts,
                [(h[k][j], w[k][j]) for j in range(references[k])],
                (h[k][0], w[k][0]),
            )
            for k in range(count)
        ]
    )


def buckets(report: Report, folder: Path) -> None:
    overrides = {"resolution": [SIDE, SIDE], "ratios": RATIOS, "batch_tokens": BUDGET}
    recipe = load_recipe("demo", overrides)
    for count in (20_000, 100_000, 1_000_000):
        rows = log_normal_mix(count)
        cpu, wall = time.process_time(), time.perf_counter()
        sampler = BucketSampler(recipe, rows, MULTIPLE, MULTIPLE)  # type: ignore[arg-type]  # no images
        planned, waited = time.process_time() - cpu, time.perf_counter() - wall
        cpu = time.process_time()
        use = sampler.use()
        numbers = {
            **dataclasses.asdict(use),
            "plan_cpu_s": planned,
            "plan_wall_s": waited,
            "epoch_cpu_s": time.process_time() - cpu,
        }
        report.numbers[f"buckets {count}"] = numbers
        report.add(f"{count:,} rows: tokens of the budget not used", 100 * use.unused, 5, "%", least=False)
        report.add(f"{count:,} rows: pixels cropped", 100 * use.cropped, 6, "%", least=False)
        report.add(f"{count:,} rows: rows that wait for the next epoch", 100 * use.waiting, 1, "%", least=False)
        report.add(f"{count:,} rows: CPU of planning", planned, 30, "s", least=False)
        report.add(f"{count:,} rows: CPU of drawing an epoch", numbers["epoch_cpu_s"], 5, "s", least=False)


# ---------------------------------------------------------------- memory


def memory(report: Report, folder: Path, counts: list[int]) -> None:
    """Bytes for each row more, between sets of two sizes: what a process has anyway is in neither."""
    before = measured(folder, 10_000)
    for count in counts:
        now = measured(folder, count)
        report.numbers[f"memory {count}"] = now
        for name in ("kept", "peak"):
            each = (now[name] - before[name]) / (count - 10_000)
            report.add(f"{count:,} rows: {name}, for each", each, 400, "bytes", least=False)
        report.add(f"{count:,} rows: CPU of reading and planning", now["cpu_s"], None, "s")


def measured(folder: Path, count: int) -> dict[str, float]:
    """What a process of its own takes for the plan of so many rows, in bytes and CPU seconds."""
    path = folder / "rows.parquet"
    (image,) = make_images(None, 20_000, 1)
    (folder / "one.jpg").write_bytes(image.data)
    block = make_batch(make_facts(1000), [image], [str(folder / "one.jpg")])
    sources = pa.ListArray.from_arrays(pa.array(range(1001), pa.int32()), block.column("target"))
    block = block.append_column("source", sources)
    schema = block.schema.append(pa.field("instruction", COLUMNS["instruction"]))
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, count, len(block)):
            numbers = pa.array(np.arange(start, start + len(block))).cast(pa.string())
            said = pc.binary_join_element_wise("please change the colour of thing", numbers, " ")
            texts = pa.StructArray.from_arrays([said, pa.nulls(len(block), pa.string())], ["en", "zh"])
            rows = block.set_column(0, "id", pc.utf8_lpad(numbers, 20, "0"))
            file.write_batch(rows.append_column("instruction", texts.cast(COLUMNS["instruction"])))
    ran = subprocess.run([sys.executable, __file__, "--plan-of", str(path)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def plan_of(path: str) -> None:
    """Say what planning a set took in this process."""
    recipe = load_recipe("demo", {"resolution": [SIDE, SIDE], "ratios": RATIOS, "batch_tokens": BUDGET, "variants": 8})
    BucketSampler(recipe, log_normal_mix(100), MULTIPLE, MULTIPLE)  # type: ignore[arg-type]  # what is loaded once
    base, cpu = resident("RssAnon"), time.process_time()
    rows = ShardRows(open_source([path]), {"instruction": "instruction"}, ("en",), "", MAX_PIXELS)
    sampler = BucketSampler(recipe, rows, MULTIPLE, MULTIPLE)
    for _ in zip(range(20), sampler.steps(0)):
        pass
    spent = time.process_time() - cpu
    print(json.dumps({"kept": resident("RssAnon") - base, "peak": resident("VmHWM") - base, "cpu_s": spent}))


def resident(what: str) -> int:
    """Bytes, by the kernel's own count: RssAnon now, without pages of files; VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{what}:")).split()[1])


# ---------------------------------------------------------------- loader


def with_pillow(image: Image.Image) -> np.ndarray:
    """Scaled and cut as fit() does it, by Pillow."""
    box = fit_box(image.height, image.width, SIDE, SIDE)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))


def pixels(report: Report, folder: Path, photos: Path | None, repeats: int) -> None:
    """Rows of one image, cut to 512 x 512, from one shard set; of two sizes."""
    import webdataset

    count = 200
    for size in (150_000, 400_000):  # bytes of a JPEG: about 650 x 650 and 1300 x 1300
        made = make_images(photos, size, 50)
        name = f"set-{size}"
        write_set(str(folder / name), [make_batch(make_facts(count), made * (count // 50), None)])

        def ours(name: str = name) -> None:
            rows = ShardRows(open_source([str(folder / name)]), {"original": "caption"}, ("en",), "", MAX_PIXELS)
            assert len(rows) == count
            for k in range(count):
                to_tensor(fit(rows.image(k, TARGET, (SIDE, SIDE)), SIDE, SIDE))

        def theirs(name: str = name) -> None:
            tar, found = str(folder / name / "00000.tar"), 0
            for sample in webdataset.WebDataset(tar, shardshuffle=False).decode("pil"):
                to_tensor(with_pillow(sample["target.jpg"]))
                found += 1
            assert found == count

        times = take_turns({"ours": ours, "webdataset": theirs}, repeats)
        found = rates(times, count)
        sizes = [(p.width, p.height, len(p.data)) for p in made]
        side = int(np.mean([(w * h) ** 0.5 for w, h, _ in sizes]))
        report.numbers[f"pixels {size}"] = {"rows_per_cpu_s": found, "times": times, "images": sizes}
        ratio = found["ours"] / found["webdataset"]
        report.add(f"images of {side}² cut to 512²: x webdataset with Pillow", ratio, 2, "x")


def cached(report: Report, folder: Path, repeats: int) -> None:
    """Stored features of 512 x 512 pairs with 300 tokens of a language model's states, against a bare read."""
    count, batch = 400, 6
    random = torch.Generator().manual_seed(0)
    target, reference = torch.randn(2, 16, 64, 64, generator=random)
    states = torch.randn(300, 3584, generator=random)
    texts = {("instruction", "en"): "change it"}
    rows = SizedRows([TrainRow(f"{k:08d}", "edit", "edit", texts, [(SIDE, SIDE)], (SIDE, SIDE)) for k in range(count)])
    rows.place = lambda index, which: f"{index} {which}"  # type: ignore[attr-defined]
    rows.content = rows.place  # type: ignore[attr-defined]
    keys = Keys({"latents": "vae", "conditions": "vlm"}, rows, {})  # type: ignore[arg-type]
    samples = [TrainSample(k, "change it", (0,), ((SIDE, SIDE), (SIDE, SIDE))) for k in range(count)]
    writer = FeatureWriter(folder / "features", torch.bfloat16)
    for sample in samples:
        made, source, goal = keys.all(sample)[0], *keys.all(sample)[:0:-1]
        writer.add(made, {"states": states})
        writer.add(source, {"latents": reference})
        writer.add(goal, {"latents": target})
    writer.flush()
    store = FeatureStore(folder / "features")
    stored = Stored(store, keys)
    paths = sorted((folder / "features").glob("*.safetensors"))
    total = sum(path.stat().st_size for path in paths)
    order = np.random.default_rng(0).permutation(count)

    def read() -> None:
        for start in range(0, count, batch):
            found = [stored(samples[k]) for k in order[start : start + batch]]
            torch.stack([each.target for each in found])
            torch.stack([each.references[0] for each in found])
            torch.stack([each.conditioning["states"] for each in found])

    buffer = bytearray(total // count * batch)

    def raw() -> None:
        # as large pieces, and into memory that is there already: the limit
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    read(), raw()
    times = take_turns({"ours": read, "raw": raw}, 3 * repeats)
    found = {name: total / 1e9 * rate for name, rate in rates(times, 1).items()}
    report.numbers["cached"] = {"bytes": total, "gb_per_cpu_s": found, "times": times}
    report.add("stored features into batches: share of a bare read", 100 * found["ours"] / found["raw"], 70, "%")


def loader(report: Report, folder: Path, photos: Path | None, repeats: int) -> None:
    pixels(report, folder, photos, repeats)
    cached(report, folder, repeats)


# ---------------------------------------------------------------- overfit


def overfit(report: Report, folder: Path, steps: int) -> None:
    """Tiny models of the three architectures learn eight pairs by heart: results against decode(encode(target)).

    The autoencoders have learnt the images first: a random one decodes everything to nearly the same, and any result
    would look right. What another row's target scores stands beside, to show that they do not.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from tiny_architectures import E1_NEW, FIRERED_NEW, STEP1X_NEW, save_e1, save_firered, save_step1x
    from tiny_autoencoders import save_taught
    from training import MemoryRows, pairs, run

    from edittools.nets.editor import EditRequest
    from edittools.nets.run_folder import load as load_run

    rows = MemoryRows(pairs(8, side=32))
    images = [image for _, each in rows.rows for image in each]
    save_firered(folder / "firered")
    save_e1(folder / "imgedit_e1")
    _, dropped = save_step1x(folder / "step1x", "1.1")
    for name in ("firered", "step1x", "imgedit_e1"):
        save_taught(folder / name / "vae", images)
    models = {
        "firered": {"weights": str(folder / "firered"), "transformer": FIRERED_NEW},
        "step1x": {"weights": str(folder / "step1x"), "dropped": dropped, **STEP1X_NEW},
        "imgedit_e1": {"weights": str(folder / "imgedit_e1"), **E1_NEW},
    }
    for name, model in models.items():
        tokens = 4 if name == "imgedit_e1" else 8  # it sees the source through its encoders only
        # each of its steps has hundreds of tokens of text, and takes five times as long
        taken = steps // 3 if name == "step1x" else steps
        recipe = dataclasses.replace(
            load_recipe(
                "firered-small",
                {
                    "system": name,
                    "resolution": [32, 32],
                    "ratios": ["1:1"],
                    "batch_tokens": 8 * tokens,
                    "microbatches": 1,
                    "caption_dropout": 0.0,
                    "variants": 1,
                    "steps": taken,
                    "lr": 1.5e-3,
                    "warmup": 20,
                    "decay_from": 0.1,
                    "dtype": "float32",
                    "compile": False,
                    "checkpoint_every": 10**6,
                    "sample_every": 0,
                    "sample_steps": 20,
                    "sample_guidance": 1.0,
                    "ema": 0.99,
                    "shift_by_tokens": [],
                    "shift": 2.0,
                    "loss_spike_factor": 0.0,
                    "log_every": 50,
                },
            ),
            model=model,
        )
        began = time.process_time()
        run(recipe, rows, folder / f"run-{name}")
        seconds = time.process_time() - began
        editor = load_run(folder / f"run-{name}", "cpu", "float32")
        results = editor.edit(
            [
                EditRequest(images[:-1], row.texts["instruction", "en"], seed=k)
                for k, (row, images) in enumerate(rows.rows)
            ]
        )
        with torch.no_grad():
            targets = torch.stack([to_tensor(each[-1]) for _, each in rows.rows])
            truths = editor.edit_model.images(editor.edit_model.latents(targets)).cpu()
        scores = [psnr(to_tensor(a), b) for a, b in zip(results, truths)]
        others = [psnr(a, b) for a, b in zip(truths.roll(1, 0), truths)]
        report.numbers[f"overfit {name}"] = {"psnr": scores, "another target": others, "cpu_s": seconds}
        note = f"another row's target {sum(others) / len(others):.1f} dB; {taken} steps, {seconds:.0f} s of CPU"
        report.add(f"{name}: eight pairs by heart, least PSNR", min(scores), 30, "dB", note=note)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of images in [-1, 1], in dB."""
    return -10 * math.log10((a - b).square().mean().item() / 4)


# ---------------------------------------------------------------- the run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of real photographs to make the images from")
    parser.add_argument("--json", type=Path, help="write every measured number there")
    parser.add_argument("--steps", type=int, default=1400, help="of `overfit` (default 1400); step1x takes a third")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument(
        "--only", nargs="*", choices=["buckets", "memory", "loader", "overfit"], help="a part of the benchmark"
    )
    parser.add_argument("--rows", nargs="*", type=int, default=[1_000_000], help="of `memory` (default a million)")
    parser.add_argument("--plan-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plan_of:
        plan_of(given.plan_of)
        return
    report = Report()
    parts: dict[str, Callable[[Path], None]] = {
        "buckets": functools.partial(buckets, report),
        "memory": functools.partial(memory, report, counts=given.rows),
        "loader": functools.partial(loader, report, photos=given.photos, repeats=given.repeats),
        "overfit": functools.partial(overfit, report, steps=given.steps),
    }
    torch.set_num_threads(1)
    for name, part in parts.items():
        if not given.only or name in given.only:
            with tempfile.TemporaryDirectory(prefix="edittools-benchmark-") as folder:
                part(Path(folder))
    sys.exit(report.end(given.json))


if __name__ == "__main__":
    main()
