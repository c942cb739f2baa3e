"""FLUX.2 and Qwen-Image-2.1 on two processes train what one does, rows of 0 to 3 references, whole and by adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from test_parallel import launch  # noqa: F401
from tiny_architectures import save_flux2, save_qwen21

WORKER = """
import contextlib, json, sys
sys.path.insert(0, {tests!r})
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training import MemoryRows, edit_row, run
from edittools.nets import flux2
from edittools.train import load_recipe
from edittools.train.parallel import Parallel, start

flux2.TEXT_TOKENS = 24
mode, out, root = sys.argv[1], sys.argv[2], {optimizer!r}
parallel = start(mode, "cpu", replicas=2 if mode == "hsdp" else None)
random = np.random.default_rng(0)
def drawn(width):
    return random.integers(0, 256, (64, width, 3)).astype(np.uint8)
rows = MemoryRows([edit_row(f"{{k}}", [drawn(64 + 128 * (k % 2)) for _ in range(k % 4)], drawn(64), f"make {{k}}")
                   for k in range(8)])
common = {{"resolution": [32, 64], "ratios": ["1:1", "3:1"], "batch_tokens": 64, "microbatches": 3, "variants": 1,
          "caption_dropout": 0.0, "drop_references": 0.0, "steps": 2, "warmup": 0, "lr": 1e-2, "compile": False,
          "attention": "", "dtype": "float32", "checkpointing": "none"}}
small = {{"model.lora.rank": 2, "model.lora.alpha": 2, "quantize": "int8", "checkpointing": "full"}}
jobs = [(name, recipe, more) for name in ("flux2", "qwen21") for recipe, more in ((name, {{}}), ("lora", small))]
if mode in ("single", "fsdp"):
    jobs.append(("qwen21", "qwen21", {{"dtype": "bfloat16"}}))

class Casts(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        made = op(*args, **(kwargs or {{}}))
        if op is torch.ops.aten._to_copy.default and made.dtype == torch.bfloat16 and list(made.shape) == [96, 32]:
            casts.append(made.shape)  # whole weights of a first layer of an MLP, made less exact
        return made

plain = Parallel.arithmetic
@contextlib.contextmanager
def counted(self, dtype):
    with plain(self, dtype), Casts():
        yield
Parallel.arithmetic = counted
told = {{}}
for number, (name, recipe, more) in enumerate(jobs):
    losses, casts = [], []
    made = load_recipe(recipe, {{**common, "model.weights": f"{{root}}/{{name}}", **more}})
    run(made, rows, f"{{out}}-{{number}}", parallel=parallel, on_step=lambda report: losses.append(report.loss))
    told[f"{{name}} {{recipe}} {{made.dtype}}"] = losses
told["casts"] = [len(casts)]
if parallel.is_main:
    print(json.dumps(told))
parallel.close()
"""


@pytest.fixture(scope="module")
def alone(launch, tmp_path_factory):  # noqa: F811
    root = tmp_path_factory.mktemp("mixed")
    save_flux2(root / "flux2")
    save_qwen21(root / "qwen21")
    return root, launch("single", 1, root / "single", str(root), worker=WORKER)


def trained(run: Path) -> dict[str, np.ndarray]:
    files = [*run.glob("transformer/*.safetensors"), *run.glob("*.safetensors")]
    return {name: value.float().numpy() for file in files for name, value in load_file(file).items()}


@pytest.mark.parametrize("mode", ["ddp", "fsdp", "hsdp"])
def test_two_processes_train_what_one_does(launch, alone, mode, tmp_path):  # noqa: F811
    """Losses and weights; adapters beside weights in 8 bits, activations recomputed. Sharded weights are gathered in
    the arithmetic's precision: autocast makes no other copy of them, as it does of whole ones."""
    root, losses = alone
    got = launch(mode, 2, tmp_path / "two", str(root), worker=WORKER)
    casts, [of_one] = got.pop("casts"), losses["casts"]
    assert of_one >= 2 * 3 * 4 and (mode != "fsdp" or casts == [0])
    assert len(got) == (5 if mode == "fsdp" else 4)
    for name, found in got.items():
        assert found == pytest.approx(losses[name], rel=2e-3 if "bfloat16" in name else 2e-4), name
    for number in range(4):
        one, two = trained(root / f"single-{number}"), trained(tmp_path / f"two-{number}")
        assert one and one.keys() == two.keys()
        for name, value in one.items():
            assert np.allclose(value, two[name], atol=2e-4, rtol=2**-7 if number % 2 else 0), (number, name)
