"""Vision-language models on two processes learn what they learn on one, by DDP, FSDP2 and HSDP, in float32 and
bfloat16, and go on at another number of processes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_judge import brighter, judge, learn
from test_parallel import launch  # noqa: F401
from test_ranking import TEXTS, pairs
from tiny_vlm import tiny_model

WORKER = """
import contextlib, dataclasses, json, shutil, sys, torch
sys.path[:0] = [{tests!r}, {tests!r} + "/train"]
from pathlib import Path
from torch.distributed.device_mesh import init_device_mesh
import test_ranking
from test_judge import learn
from edittools.nets import editreward
from edittools.train import console
from edittools.train.parallel import Parallel, start

@contextlib.contextmanager
def heads_watched(file):
    # (type, whether it has digits that bfloat16 has not) of every weight that a head is computed with
    seen, plain = set(), editreward.RankingNetwork.rewards
    def see(layer, _):
        weight = layer.weight.detach()
        seen.add((str(weight.dtype), bool((weight.float().view(torch.int32) & 0xFFFF).any())))
    def rewards(self, conditioning):
        hooks = [layer.register_forward_pre_hook(see) for head in self.rm_heads.values() for layer in head[::2]]
        made = plain(self, conditioning)
        [hook.remove() for hook in hooks]
        return made
    editreward.RankingNetwork.rewards = rewards
    yield
    editreward.RankingNetwork.rewards = plain
    file.write_text(json.dumps(sorted(seen)))

root, out = Path({optimizer!r}), Path(sys.argv[2])
one = start(sys.argv[1], "cpu")
two = one.world == 2
meshes = {{"single": None}} if not two else {{
    "ddp": None, "fsdp": init_device_mesh("cpu", (2,), mesh_dim_names=("shard",)),
    "hsdp": init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard")),
}}
close, Parallel.close = Parallel.close, lambda self: None  # the processes of a launch train several times
for mode, mesh in meshes.items():
    console.start = lambda *_: dataclasses.replace(one, mode=mode, mesh=mesh)
    def run(name, kind, **settings):
        more = {{"steps": 4, "checkpoint_every": 100, "heldout_every": 2, "microbatches": 3, "lr": 1e-2, **settings}}
        learn(root / "rows/set", out / f"{{mode}}-{{name}}", root / kind, heldout=root / "held/set", **more)
    run("float32", "Qwen2_5_VL")
    if mode != "hsdp":
        run("bfloat16", "Qwen3VL", dtype="bfloat16", checkpointing="full", lr=1e-3)
    if mode in ("single", "ddp"):
        lora = {{"model__lora__rank": 2, "model__lora__targets": ["q_proj"], "model__vision_rate": 0.0}}
        run("adapters", "Qwen3VL", recipe="judge-lora", **lora)
    if mode in ("single", "fsdp"):
        editreward.PIXELS = 4 * 28 * 28
        told = {{"lr": 1e-3, "steps": 2, "batch_tokens": 128, "microbatches": 3, "heldout_every": 2}}
        test_ranking.rank(root, out / f"{{mode}}-ranking", **told)
        with heads_watched(out / f"{{mode}}-heads.json"):
            test_ranking.rank(root, out / f"{{mode}}-ranking-bfloat16", dtype="bfloat16", **told)
        run("half", "Qwen2_5_VL", steps=2)
    if mode == "fsdp":
        for half, whole in (("fsdp-half", "goes-on"), ("single-half", "of-one")):
            if one.is_main:
                shutil.copytree(out / half, out / f"fsdp-{{whole}}")
            one.wait()
            run(whole, "Qwen2_5_VL")
close(one)
print(json.dumps([]))
"""


def lines(run: Path, name: str = "log.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def numbers(run: Path) -> list[float]:
    """Of every step the loss, the gradient's norm and the share of right tokens; the held-out losses."""
    logged = [(each["loss"], each["grad_norm"], each["objective"]["right_tokens"]) for each in lines(run)]
    return [*np.ravel(logged), *(each["loss"]["raw"] for each in lines(run, "heldout.jsonl"))]


def trained(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "vlm" / "model.safetensors")


@pytest.fixture(scope="module")
def runs(launch, tmp_path_factory):  # noqa: F811
    root = tmp_path_factory.mktemp("replies")
    for kind in ("Qwen2_5_VL", "Qwen3VL"):
        tiny_model(root / kind, kind)
    brighter(root / "rows", 25)
    brighter(root / "held", 7, seed=1)
    pairs(root / "pairs", 13)
    (root / "texts.json").write_text(json.dumps(TEXTS))
    out = root / "out"
    launch("single", 1, out, str(root), worker=WORKER)
    launch("ddp", 2, out, str(root), worker=WORKER)
    return out


@pytest.mark.parametrize("run", ["ddp-float32", "fsdp-float32", "hsdp-float32", "ddp-adapters"])
def test_two_processes_learn_what_one_does(runs, run) -> None:
    """Three batches a step, so that one process repeats a batch which counts nothing; rows of other lengths."""
    alone, found = runs / f"single-{run.partition('-')[2]}", runs / run
    assert numbers(found) == pytest.approx(numbers(alone), rel=2e-4, abs=1e-6) and len(numbers(found)) == 4 * 3 + 3
    one, two = trained(alone), trained(found)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert np.allclose(value, two[name], atol=2e-4), name


def test_heads_are_sharded_too(runs) -> None:
    alone, found = ([(each["loss"], each["grad_norm"]) for each in lines(runs / f"{mode}-ranking")]
                    for mode in ("single", "fsdp"))  # fmt: skip
    assert len(alone) == 2 and np.allclose(found, alone, rtol=2e-4)
    half, whole = (lines(runs / f"{mode}-ranking-bfloat16") for mode in ("fsdp", "single"))
    assert [each["loss"] for each in half] == pytest.approx([each["loss"] for each in whole], rel=5e-3)
    for mode in ("single", "fsdp"):
        assert json.loads((runs / f"{mode}-heads.json").read_text()) == [["torch.float32", True]], mode
    one, two = trained(runs / "single-ranking"), trained(runs / "fsdp-ranking")
    assert one.keys() == two.keys() and any(name.startswith("rm_heads.head_1") for name in one)
    for name, value in one.items():
        assert np.allclose(value, two[name], atol=2e-4), name


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_bfloat16_arithmetic_of_float32_weights(runs, mode) -> None:
    """Activations recomputed; the first loss is that of one process but for rounding, and losses fall alike."""
    alone, found = lines(runs / "single-bfloat16"), lines(runs / f"{mode}-bfloat16")
    assert [each["loss"] for each in found] == pytest.approx([each["loss"] for each in alone], rel=5e-3)
    assert [each["grad_norm"] for each in found] == pytest.approx([each["grad_norm"] for each in alone], rel=0.05)
    assert found[-1]["loss"] < 0.9 * found[0]["loss"]
    left = trained(runs / f"{mode}-bfloat16")
    assert all(value.dtype == np.float32 for value in left.values())
    assert any((value.view(np.uint32) & 0xFFFF).any() for value in left.values()), "not rounded to bfloat16"


def test_a_run_goes_on_at_another_number_of_processes(runs) -> None:
    """Interrupted after half of its steps: on two processes, from one to two, from two to one."""
    whole = runs / "single-float32"
    assert numbers(runs / "fsdp-goes-on")[:12] == pytest.approx(numbers(whole)[:12], rel=2e-4, abs=1e-6)
    assert numbers(runs / "fsdp-of-one")[:12] == pytest.approx(numbers(whole)[:12], rel=2e-4, abs=1e-6)
    root = runs.parent
    settings = {"steps": 4, "checkpoint_every": 100, "heldout_every": 2, "microbatches": 3, "lr": 1e-2}
    one = learn(root / "rows/set", runs / "fsdp-half", root / "Qwen2_5_VL", heldout=root / "held/set", **settings)
    assert numbers(one)[:12] == pytest.approx(numbers(whole)[:12], rel=2e-4, abs=1e-6)
    for name, value in trained(whole).items():
        assert np.allclose(value, trained(one)[name], atol=2e-4), name
    assert len(judge(root / "held/set", one)) == 7
